//! What a checker says.

/// What kind of checker noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FindingKind {
    /// What hosts were told contradicts itself, or acknowledged data is gone.
    History,
    /// The bytes of the two copies are not what they must be.
    Bytes,
    /// Something happened in an order that is forbidden.
    Order,
    /// A queue is longer than it may be.
    Queue,
    /// It did not become active again, or somebody waits for ever.
    Liveness,
    /// An assertion of a core.
    Panic,
}

/// A finding ends a run.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which kind of checker.
    pub kind: FindingKind,
    /// What it saw.
    pub text: String,
}

impl Finding {
    /// Whether a checker saw it, and not only an assertion or the end of all patience.
    pub fn is_seen_by_checkers(&self) -> bool {
        matches!(self.kind, FindingKind::History | FindingKind::Bytes | FindingKind::Order)
    }

    pub(super) fn history(text: String) -> Self {
        Self { kind: FindingKind::History, text }
    }

    pub(super) fn bytes(text: String) -> Self {
        Self { kind: FindingKind::Bytes, text }
    }

    pub(super) fn order(text: String) -> Self {
        Self { kind: FindingKind::Order, text }
    }

    pub(super) fn queue(text: String) -> Self {
        Self { kind: FindingKind::Queue, text }
    }

    pub(super) fn liveness(text: String) -> Self {
        Self { kind: FindingKind::Liveness, text }
    }
}
