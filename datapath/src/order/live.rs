//! What is under way in a session at one node.

use base::range::ByteRange;
use base::request::{RequestId, Write};
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};

use super::ranges::LockId;
use crate::outbox::Stages;
use crate::storage::{IoDone, IoFault};

/// Whose an entry of the lock queue is, by its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Write(usize),
    Read(usize),
    /// The copy of a region for a target, by its number.
    Copy(u64),
    /// A read of the time before, which nobody waits for.
    Late,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Of a host attached here.
    Own { request: RequestId, arrival: u64 },
    /// Of a host attached at the peer.
    Peer,
}

#[derive(Debug)]
pub(super) struct LiveWrite {
    pub(super) origin: Origin,
    /// The follower's number for its own write.
    pub(super) fid: Option<u64>,
    pub(super) seq: Option<u64>,
    pub(super) write: Write,
    pub(super) lock: Option<LockId>,
    pub(super) submitted: bool,
    /// Its apply has not completed.
    pub(super) in_flight: bool,
    /// This node's copy has it.
    pub(super) here: bool,
    /// The peer said that its copy has it, or nothing of it goes there.
    pub(super) there: bool,
    /// Places from `seq` on under which it goes to the peer: one in a session, none alone, some
    /// while the peer's copy is being made.
    pub(super) parts: u32,
    /// It was answered before the peer had what of it was sent there: while the peer's copy is
    /// being made, else only if a rule is broken.
    pub(super) replied: bool,
    /// Since when it has waited for what it waits for, and how much longer than T_io it may.
    pub(super) since: Instant,
    pub(super) patience: Duration,
    pub(super) stages: Stages,
}

#[derive(Debug)]
pub(super) struct LiveRead {
    pub(super) request: RequestId,
    pub(super) arrival: u64,
    pub(super) range: ByteRange,
    pub(super) lock: LockId,
    /// The gate's generation at admission.
    pub(super) serve_gen: u64,
    pub(super) submitted: bool,
    pub(super) patience: Duration,
    pub(super) result: Option<Result<IoDone, IoFault>>,
    pub(super) stages: Stages,
}

impl LiveWrite {
    pub(super) fn lock_was_ignored(&self, rules: Rules) -> bool {
        self.submitted && !rules.hold(Rule::RangeLocked)
    }
}
