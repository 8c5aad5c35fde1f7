//! Two volume cores and nothing else: one serves alone, gets a target, loses it, gets it again,
//! while hosts read and write over it; the group is a story that chance tells.
//!
//! What is looked at: D1 every history is linearizable, and still is if the target's copy takes
//! over the moment it counts as equal; nothing of a host fails or is forgotten; both copies are
//! equal in the end; I7, who has left a session says nothing of it and answers reads only; D5 and D14, per range at most one mirrored write is not acknowledged; W9, of
//! two operations on a disk that overlap neither writes.
//! Faults assumed: the connection ends at any moment, the target's process too. Everything else is
//! the simulator's.

mod disk;
mod hosts;
mod story;
mod world;

use base::rules::Rules;

/// Of what kind a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// What hosts were told, or what a copy holds.
    Seen,
    /// The order of things.
    Order,
    /// Something did not come to its end.
    Stuck,
}

/// What a checker has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Of what kind.
    pub kind: FindingKind,
    /// For people.
    pub text: String,
}

impl Finding {
    fn new(kind: FindingKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// What happened in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests that were answered.
    pub answered: u64,
    /// Of these, writes that a source answered before the target had them.
    pub answered_alone: u64,
    /// Targets that came.
    pub attached: u64,
    /// Targets lost before they were equal.
    pub lost_early: u64,
    /// Targets lost when they were equal and did not count yet.
    pub lost_late: u64,
    /// Sessions with both copies.
    pub sessions: u64,
    /// Reads that a node answered after it had left its session.
    pub reads_after: u64,
    /// The longest that a request waited at a node that served all the while, with a target, without
    /// one or in a session, in virtual microseconds.
    pub longest_us: u64,
    /// Sum over everything: the same for the same seed.
    pub hash: u64,
}

/// Runs one seed. With `order` the order of things is looked at, too.
///
/// # Errors
/// The first finding.
pub fn run(seed: u64, rules: Rules, order: bool) -> Result<Counts, Finding> {
    story::Story::new(seed, rules, order).tell()
}
