//! What two nodes say to each other on the control connection (PROTOCOL 2.13).

use base::ids::{Generation, Incarnation, MachineId, NodeName, PairId, Session, WitnessToken};
use datapath::port::Scope;

use crate::record::{Continuity, RecordState, Vote, WitnessVote};
use crate::wire::VolumeHello;

/// What bears on who should serve; rides on GRANT_REQ and HELLO (PROTOCOL 2.9.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Health {
    /// Its disk failed, is full, hangs or is slow.
    pub unhealthy: bool,
    /// A host is attached.
    pub has_host: bool,
    /// The witness answers it.
    pub sees_witness: bool,
}

/// What a node says about itself outside a session: on every new connection, and again after each
/// change (PROTOCOL 2.8.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hello {
    /// The pair.
    pub pair_id: PairId,
    /// The sender.
    pub node: NodeName,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// Counts the starts of the node: of two processes the one with the higher number is newer.
    pub start_seq: u64,
    /// The sender's machine.
    pub machine_id: MachineId,
    /// The session in its record.
    pub session: Session,
    /// The highest session that it has seen, also an unfinished one.
    pub session_seen: Session,
    /// The votes of its session.
    pub votes: [Vote; 2],
    /// What its record says.
    pub state: RecordState,
    /// How much it kept.
    pub continuity: Continuity,
    /// Unclean because of a machine reset.
    pub by_reset: bool,
    /// Stopped cleanly.
    pub clean: bool,
    /// Its disk failed and is not mended.
    pub io_failed: bool,
    /// See [`Health`].
    pub health: Health,
    /// `stretch init --source`.
    pub source: bool,
    /// Promoted by force.
    pub forced: bool,
    /// It is being stopped.
    pub stopping: bool,
    /// Host operations completed alone.
    pub solo_io_count: u64,
    /// Generation of its data.
    pub generation: Generation,
    /// Earlier generations.
    pub ancestors: Vec<Generation>,
    /// Its volumes, in the order of the pair configuration.
    pub volumes: Vec<VolumeHello>,
}

/// Asks for a grant; also the sign of life outside a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GrantRequest {
    /// The sender's session; a grant is given in this one only.
    pub session: Session,
    /// Counts from 1 on each connection.
    pub id: u64,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// Age of the newest message that the sender had from the receiver, in milliseconds.
    pub heard_ms: u32,
    /// Whether the sender serves hosts.
    pub serving: bool,
    /// See [`Health`].
    pub health: Health,
}

/// In which durable state the giver of a vote served last in the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GiveFrom {
    /// Active, or Stopped after Active.
    Active,
    /// Before the first session.
    Virgin,
    /// The vote was not wanted and comes back.
    Returned,
}

/// Moves votes (PROTOCOL 2.3).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Give {
    /// Whose votes.
    pub session: Session,
    /// The new number of transfers of each vote that is moved.
    pub votes: [Option<u64>; 2],
    /// See [`GiveFrom`].
    pub from: GiveFrom,
    /// The giver serves nothing any more in this session.
    pub stopped: bool,
    /// The token that may be claimed from now on.
    pub token: Option<WitnessVote>,
    /// How much the giver kept.
    pub continuity: Continuity,
    /// Unclean because of a machine reset.
    pub by_reset: bool,
}

/// Everything that one node says to the other on the control connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`GrantRequest`].
    GrantReq(GrantRequest),
    /// The receiver may answer reads until grant_ttl after it sent that request.
    Grant {
        /// The session.
        session: Session,
        /// Of the request.
        id: u64,
    },
    /// See [`Give`].
    Give(Give),
    /// The votes are held.
    GiveAck {
        /// Whose votes.
        session: Session,
        /// As the sender holds them now.
        votes: [Vote; 2],
    },
    /// The sender left the session; which node goes on is not decided by this.
    Left {
        /// Which session.
        session: Session,
        /// Its disk failed.
        io_failed: bool,
        /// For the log.
        why: String,
    },
    /// The sender serves nothing any more in this session. Brings no votes.
    Stopped {
        /// Which session.
        session: Session,
        /// The process that served in it.
        incarnation: Incarnation,
        /// Its record says so.
        durable: bool,
        /// How much it kept.
        continuity: Continuity,
        /// Unclean because of a machine reset.
        by_reset: bool,
    },
    /// T1: does the receiver reach the witness, and does that know the token?
    TokenPropose {
        /// The session.
        session: Session,
        /// The token.
        token: WitnessVote,
    },
    /// T1: it does.
    TokenOk {
        /// The session.
        session: Session,
        /// The token.
        token: WitnessToken,
    },
    /// Asks the receiver to lend its vote (T2).
    LendReq {
        /// The session.
        session: Session,
    },
    /// May the sender give all its votes?
    HandoffReq {
        /// The session.
        session: Session,
    },
    /// The sender is up, complete, and will take them.
    HandoffOk {
        /// The session.
        session: Session,
    },
    /// Source to target: the join begins.
    SyncStart {
        /// The session being made.
        session: Session,
        /// What is compared.
        scope: Scope,
        /// Seed of the digests.
        seed: u64,
    },
    /// Target to source: its record says Target, its volumes wait for digests.
    SyncReady {
        /// The session being made.
        session: Session,
    },
    /// Source to target: every block is equal; make it durable and become Ready (F7).
    SyncDone {
        /// The session being made.
        session: Session,
        /// Rounds of the session start, in the order of the volumes.
        rounds: Vec<u64>,
    },
    /// Target to source: F7 is durable.
    SyncDoneAck {
        /// The session being made.
        session: Session,
    },
    /// Source to target: F8 is durable; serve.
    AaGo {
        /// The session.
        session: Session,
    },
    /// Target to source: F8b is durable.
    AaGoAck {
        /// The session.
        session: Session,
    },
    /// The sender will not make a session with the receiver.
    Refuse {
        /// Why and what to do.
        reason: String,
    },
}

impl Message {
    /// Its name in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::GrantReq(_) => "GRANT_REQ",
            Self::Grant { .. } => "GRANT",
            Self::Give(_) => "GIVE",
            Self::GiveAck { .. } => "GIVE_ACK",
            Self::Left { .. } => "LEFT",
            Self::Stopped { .. } => "STOPPED",
            Self::TokenPropose { .. } => "TOKEN_PROPOSE",
            Self::TokenOk { .. } => "TOKEN_OK",
            Self::LendReq { .. } => "LEND_REQ",
            Self::HandoffReq { .. } => "HANDOFF_REQ",
            Self::HandoffOk { .. } => "HANDOFF_OK",
            Self::SyncStart { .. } => "SYNC_START",
            Self::SyncReady { .. } => "SYNC_READY",
            Self::SyncDone { .. } => "SYNC_DONE",
            Self::SyncDoneAck { .. } => "SYNC_DONE_ACK",
            Self::AaGo { .. } => "AA_GO",
            Self::AaGoAck { .. } => "AA_GO_ACK",
            Self::Refuse { .. } => "REFUSE",
        }
    }
}
