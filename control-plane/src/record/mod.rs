//! The durable record of a node and what belongs to it: its contents, its bytes, and the rules by
//! which a starting node decides how far it may trust what it finds (PROTOCOL 2.2).
//!
//! Invariants: I8 record_seq and session never go back; I5 a node in amnesia is never a source.
//! Faults assumed: a crash tears at most the block being written; a whole place may be lost,
//! unreadable or restored from an older copy, and so may a header, a stamp or the data itself.
//! Not here: reading and writing (`io::record_writer`), deciding what to write (`polarization`).

pub mod assess;
pub mod header;
pub mod layout;
pub mod slots;
pub mod stamp;

use base::ids::{
    BootId, Generation, Incarnation, MachineId, NodeName, PairId, Session, WitnessToken,
};

pub use assess::{Amnesia, Finding, StartInput, StartState, VolumeFound, VolumeStart, assess};
pub use header::VolumeHeader;
pub use slots::{PlaceRead, SlotRead};
pub use stamp::Stamp;

/// One node's vote of one session (PROTOCOL 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Vote {
    /// Whether this node holds it.
    pub held: bool,
    /// Transfers of this vote in this session that this node knows of.
    pub transfers: u64,
}

/// A witness vote by its token.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WitnessVote {
    /// Who made the token.
    pub witness: NodeName,
    /// Which run of it, unguessable.
    pub token: WitnessToken,
}

/// What a node was when its record was written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordState {
    /// Made by `stretch init`, never in a session.
    Virgin,
    /// Served together with the peer.
    Active,
    /// Served alone.
    Solo,
    /// Is being overwritten by a resync: no copy of anything until it is done.
    Target {
        /// Generation of the source.
        source_generation: Generation,
        /// Session of the join.
        source_session: Session,
    },
    /// Has everything of the session but was not told to serve yet.
    Ready,
    /// Left its session; `NodeRecord::clean` says that both copies were equal then.
    Stopped,
    /// Split-brain was found.
    Broken,
}

/// How much of what it once had in memory a node still has (PROTOCOL 2.4 `cont`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Continuity {
    /// Never restarted since the session began.
    #[default]
    Continuous,
    /// Only the process restarted, or it was stopped cleanly: nothing is lost.
    ProcessRestart,
    /// The machine restarted, or its disk failed: acknowledged, unflushed writes may be gone.
    Unclean,
    /// Record, disk or data were lost, replaced or rolled back.
    Amnesia,
}

impl Continuity {
    /// The number on disk, on the wire and in messages.
    pub const fn number(self) -> u8 {
        match self {
            Self::Continuous => 0,
            Self::ProcessRestart => 1,
            Self::Unclean => 2,
            Self::Amnesia => 3,
        }
    }

    /// The continuity with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Continuous),
            1 => Some(Self::ProcessRestart),
            2 => Some(Self::Unclean),
            3 => Some(Self::Amnesia),
            _ => None,
        }
    }
}

/// The record: one per group, 4096 bytes on disk (`docs/ONDISK.md`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeRecord {
    /// The pair.
    pub pair_id: PairId,
    /// The node whose record it is.
    pub node: NodeName,
    /// Digest of all (volume id, disk id), so that a foreign header is noticed.
    pub volumes_digest: [u8; 16],
    /// Raised by every write.
    pub record_seq: u64,
    /// The number of the last start, also in every header.
    pub start_seq: u64,
    /// The last session that this node was a full member of.
    pub session: Session,
    /// The two node votes of the session: of the node with the smaller name, of the other.
    pub votes: [Vote; 2],
    /// The witness granted its vote for `witness_token`.
    pub witness_won: bool,
    /// The only witness token that may be claimed or counted in this session.
    pub witness_token: Option<WitnessVote>,
    /// What the node was.
    pub state: RecordState,
    /// See [`Continuity`]. Raised at each start before anything is sent (F0).
    pub continuity: Continuity,
    /// `continuity` is Unclean because of a machine reset, not only because of a failed disk.
    pub by_reset: bool,
    /// Boot under which the session was entered.
    pub session_boot_id: BootId,
    /// Generation of the data.
    pub generation: Generation,
    /// Earlier generations, newest first, at most `limits::ANCESTORS_MAX`.
    pub ancestors: Vec<Generation>,
    /// Boot under which the record was written.
    pub boot_id: BootId,
    /// Machine that wrote it.
    pub machine_id: MachineId,
    /// VM generation id where the platform shows one, else zero.
    pub vm_generation_id: [u8; 16],
    /// Process that wrote it.
    pub incarnation: Incarnation,
    /// Stopped cleanly: both copies are equal and durable.
    pub clean: bool,
    /// A write or flush of this node's disk failed and the copy was not mended since.
    pub io_failed: bool,
    /// Only one place could be written.
    pub single: bool,
    /// `stretch init --source`.
    pub source: bool,
    /// Promoted by force.
    pub forced: bool,
    /// Host operations completed alone, as far as it is known: zero or not.
    pub solo_io_count: u64,
    /// Longest grant ever used in this session, in milliseconds.
    pub grant_ttl_max_ms: u32,
    /// Largest clock-rate bound ever used in this session, in parts per million.
    pub drift_ppm: u32,
    /// The preferred node of the pair configuration.
    pub preferred: Option<NodeName>,
    /// Version of the pair configuration.
    pub config_seq: u64,
}

impl NodeRecord {
    /// Whether the copy is whole: everything but a target of an unfinished resync.
    pub fn is_whole(&self) -> bool {
        !matches!(self.state, RecordState::Target { .. })
    }

    /// Whether `generation` is this record's own or one of its ancestors.
    pub fn knows(&self, generation: Generation) -> bool {
        self.generation == generation || self.ancestors.contains(&generation)
    }
}

#[cfg(test)]
mod tests;
