//! All that the group (who may serve) and a volume (how bytes reach both copies) say to each other.
//!
//! The group sends [`VolumeCommand`]s and publishes the gate; a volume answers with
//! [`VolumeReport`]s. The threads only carry them.

use base::ids::{ConnNonce, Session};
use base::range::ByteRange;

use crate::storage::IoFault;

/// Which part a node plays in a session (PROTOCOL 2.6); constant for the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Created the session; gives every write its place.
    Orderer,
    /// The other one.
    Follower,
}

/// Which part a node plays while the copies are made equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SyncRole {
    /// Its copy is the one that counts.
    Source,
    /// Is overwritten where it differs.
    Target,
}

/// What a join compares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Nothing: both records say clean in the same session, or both files are new and empty.
    Nothing,
    /// Every block, by digest.
    Everything,
    /// Every block is sent, whatever the target reads: its disk failed, and what it shows may not
    /// be what it has (D10).
    Rewrite,
}

/// From the group to one volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum VolumeCommand {
    /// A join begins and this node has this role. The source applies its own un-acknowledged
    /// writes (answered after the next `Enter`); the target drops those of its own that the peer
    /// may have and closes their clients. Answered by `Prepared`.
    Prepare {
        /// The session being made.
        session: Session,
        /// Source or target.
        role: SyncRole,
        /// At the source: its own disk failed, so it writes its copy over itself first (D10).
        rewrite: bool,
    },
    /// Make the copies equal. Sent after `Prepared`, at the source after its data is flushed (F6),
    /// at the target after its record says Target (F5). The source answers `Compared`.
    Compare {
        /// The session being made.
        session: Session,
        /// Of the control connection; every data frame carries it.
        conn_nonce: ConnNonce,
        /// Source or target.
        role: SyncRole,
        /// How much.
        scope: Scope,
        /// Seed of the digests, fresh for each join.
        seed: u64,
    },
    /// The session is active. Answered by `Entered`. Hosts are served when the gate opens; by a
    /// node with a target they are served all the time, and from here on the target counts: it is
    /// lost by `Leave`.
    Enter {
        /// The session.
        session: Session,
        /// Of the control connection.
        conn_nonce: ConnNonce,
        /// Who orders.
        role: Role,
        /// Unit of range locks: the larger of both nodes' units of direct I/O, in bytes (W9).
        granule_bytes: u32,
    },
    /// Serve alone: the record says so and everything of the session that was left is quiet. Own
    /// writes of it that were not answered are applied and answered, then what is held is admitted
    /// while the gate of this session is open. Answered by `Entered`.
    EnterSolo {
        /// The session whose votes this node holds.
        session: Session,
        /// Unit of this node's direct I/O, in bytes (W9).
        granule_bytes: u32,
    },
    /// A node that serves alone gets a target, which is made equal while hosts are served
    /// (PROTOCOL 2.8.2 steps 4 and 5). Sent after this node's data is flushed (F6), the target's
    /// record says Target (F5) and its volume has its `Compare`, whatever the scope: writes of hosts
    /// go there from now on. The gate
    /// is the new session's from here on. Answered by `Compared`, after which nothing is answered
    /// that the target does not have.
    Attach {
        /// The session being made, higher than the one that this node serves in.
        session: Session,
        /// Of the control connection; every data frame carries it.
        conn_nonce: ConnNonce,
        /// How much.
        scope: Scope,
        /// Seed of the digests, fresh for each target.
        seed: u64,
        /// Unit of range locks: the larger of both nodes' units of direct I/O, in bytes (W9).
        granule_bytes: u32,
    },
    /// The target is lost before this node's record said Active, and before that was asked for:
    /// alone again, in the same session. Nothing of a host is lost or fails. `Attach` with a higher
    /// session may follow.
    Detach {
        /// The session of `Attach`.
        session: Session,
    },
    /// Leave the session: no further ACK, APPLIED, COMMIT and no reply to a write or flush of it.
    /// Answered at once by `Left` and by `Quiet` when everything submitted has completed, but for
    /// reads (W7). Requests are held; reads of what is committed go on for as long as the gate of
    /// this session is open in the same generation, and no longer than the next `Prepare` or
    /// `EnterSolo`.
    Leave {
        /// The session being left.
        session: Session,
    },
    /// Nobody came back in time: discard what is held, then close its clients (L5), and refuse
    /// new clients until the next `Enter`.
    DiscardHeld,
    /// A clean stop: admit no further write; answer `Drained` when every write taken has been
    /// committed on both nodes. New requests are held.
    Drain {
        /// The session.
        session: Session,
    },
    /// This node's failed disk is in its record; the peer may be told now (W8).
    FailureRecorded,
    /// The process ends: answer everything held with ESHUTDOWN and close every client.
    Shutdown,
}

/// From one volume to the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeReport {
    /// The data connection of this control connection is attached.
    LinkUp {
        /// Which control connection.
        conn_nonce: ConnNonce,
    },
    /// The data connection is gone or broke a rule (W6: the session is left).
    LinkLost {
        /// Which control connection it belonged to.
        conn_nonce: ConnNonce,
        /// For the log.
        why: String,
    },
    /// `Prepare` is done.
    Prepared {
        /// The session being made.
        session: Session,
    },
    /// How far the comparison is; both roles, at most ten a second.
    Progress(Progress),
    /// At the source: every block is equal on both nodes, but for writes of hosts under way, none of
    /// which is answered before both have it.
    Compared {
        /// The session being made.
        session: Session,
        /// What differed and was copied.
        copied_bytes: u64,
    },
    /// A source that serves could not read its copy, so that the target does not get all of it. Hosts
    /// are served as before; nothing more is copied until the next `Attach`.
    CopyFailed {
        /// The session being made.
        session: Session,
        /// Why.
        fault: IoFault,
    },
    /// The volume is in the session.
    Entered {
        /// The session.
        session: Session,
    },
    /// First step of leaving (W7).
    Left {
        /// The session left.
        session: Session,
        /// Ranges that may differ between the copies: applied or submitted here, not known to be
        /// committed.
        uncommitted: Vec<ByteRange>,
    },
    /// Second step of leaving: no I/O of the session is under way.
    Quiet {
        /// The session left.
        session: Session,
    },
    /// Everything taken before `Drain` is committed on both nodes.
    Drained {
        /// The session.
        session: Session,
    },
    /// A mirrored write or flush has waited for the peer longer than T_io.
    PeerStuck {
        /// The session.
        session: Session,
        /// How long, in milliseconds.
        waited_ms: u64,
    },
    /// A mirrored write or flush has waited for this node's own disk longer than T_io.
    DiskStuck {
        /// The session.
        session: Session,
        /// How long, in milliseconds.
        waited_ms: u64,
    },
    /// The peer says that its disk failed (NAK).
    PeerDiskFailed {
        /// The session.
        session: Session,
    },
    /// A write or flush of this node's own disk failed. Nothing is acknowledged from here on.
    DiskFailed {
        /// What failed.
        fault: IoFault,
        /// Which operation, in words.
        operation: &'static str,
    },
}

/// How far a comparison is, in bytes of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Compared (and copied where needed).
    pub done_bytes: u64,
    /// Still to compare.
    pub todo_bytes: u64,
    /// Differed and was copied.
    pub copied_bytes: u64,
}
