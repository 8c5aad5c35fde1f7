//! Control frames between the two nodes: what they say and how it looks on the wire.
//!
//! The envelope is `base::frame`; kinds count from 1. Layout and meaning are in `docs/WIRE.md`.
//! Faults assumed: the peer is authenticated but may be any version, broken or hostile; every
//! length is checked before it is used.
//! Not here: when a message is sent and what follows (`polarization`); data frames (`datapath`).

mod codec;

use base::ids::{
    ConnNonce, DiskId, Generation, Incarnation, MachineId, NodeName, PairId, Session, VolumeId,
    VolumeIndex,
};
use datapath::port::Scope;

use crate::record::{Continuity, RecordState};
use crate::state_word::StateWord;

/// Longest text in a message, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;

/// One volume in a HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeHello {
    /// The volume.
    pub volume_id: VolumeId,
    /// The sender's copy.
    pub disk_id: DiskId,
    /// The receiver's copy as the sender knows it; none until the first session.
    pub peer_disk_id: DiskId,
    /// Generation of the sender's bitmap.
    pub bitmap_base: Generation,
    /// The sender's round.
    pub round: u64,
    /// The receiver's round as far as the sender knows.
    pub peer_round: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Unit of the sender's direct I/O, in bytes; range locks are rounded to the larger of both.
    pub granule_bytes: u32,
    /// TRIM makes the range read as zeros at the sender; it means so only if both say so.
    pub trim_zeroes: bool,
    /// A regular file without a single data extent.
    pub empty: bool,
}

/// The first thing that a node says about itself on a connection (PROTOCOL 2.8.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hello {
    /// The pair.
    pub pair_id: PairId,
    /// The sender.
    pub node: NodeName,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// The sender's machine.
    pub machine_id: MachineId,
    /// The session in its record.
    pub session: Session,
    /// The highest session that it has seen, also an unfinished one.
    pub session_seen: Session,
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

/// Every `Timers::grant_interval`, and at once when something in it changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Heartbeat {
    /// Counts from 1 on each connection.
    pub id: u64,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// Age of the newest message that the sender had from the receiver, in milliseconds.
    pub heard_ms: u32,
    /// The sender's state.
    pub state: StateWord,
    /// Whether the sender serves hosts.
    pub serving: bool,
    /// Whether the sender's disk failed.
    pub io_failed: bool,
}

/// Everything that one node says to the other on the control connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ControlMessage {
    /// See [`Hello`].
    Hello(Box<Hello>),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// The sender left the session or gave the join up; the connection ends.
    Left {
        /// Which session.
        session: Session,
        /// Its disk failed.
        io_failed: bool,
        /// For the log.
        why: String,
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
    /// Target to source: F8b is durable, the sender serves.
    AaGoAck {
        /// The session.
        session: Session,
    },
    /// A clean stop begins: take no more writes.
    Freeze {
        /// The session.
        session: Session,
    },
    /// Every write that the sender took is committed on both nodes.
    FreezeAck {
        /// The session.
        session: Session,
    },
    /// The sender left the frozen session, flushed, and made its new rounds durable.
    RoundDone {
        /// The session.
        session: Session,
        /// Its rounds, in the order of the volumes.
        rounds: Vec<u64>,
    },
    /// The sender will not make a session with the receiver.
    Refuse {
        /// Why and what to do.
        reason: String,
    },
    /// First frame of a data connection.
    DataBind {
        /// Position of the volume.
        volume: VolumeIndex,
        /// Its id.
        volume_id: VolumeId,
        /// The control connection that it belongs to; also in the envelope.
        conn_nonce: ConnNonce,
    },
}

#[cfg(test)]
mod tests;
