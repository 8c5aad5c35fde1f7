//! The node's states and the one gate through which they change (PROTOCOL 2.4).

use base::ids::Session;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Its record is being made durable (F0), or it has never been in a session, or it was alone
    /// and looks for a successor.
    Starting,
    /// In a session with its peer.
    Active,
    /// Left the session; writes are held.
    Deciding,
    /// Serves alone.
    Solo,
    /// Serves alone while a target is attached.
    Source,
    /// Is being made equal.
    Target,
    /// Has everything, waits for the word to serve, or for votes.
    Ready,
    /// Does not serve: it has lost, or gave up.
    Fenced,
    /// Does not serve, and knows of no winner.
    Limbo,
    /// The two nodes refuse each other.
    Broken,
    /// Stopped.
    Stopped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Active,
        Self::Deciding,
        Self::Solo,
        Self::Source,
        Self::Target,
        Self::Ready,
        Self::Fenced,
        Self::Limbo,
        Self::Broken,
        Self::Stopped,
    ];

    /// Whether a node may go from here to `to`.
    const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Starting => match to {
                Self::Deciding
                | Self::Solo
                | Self::Target
                | Self::Ready
                | Self::Fenced
                | Self::Limbo
                | Self::Broken
                | Self::Stopped => true,
                Self::Starting | Self::Active | Self::Source => false,
            },
            // I7: leaving is final; the way back is a new session.
            Self::Active => match to {
                Self::Deciding | Self::Stopped => true,
                Self::Starting
                | Self::Active
                | Self::Solo
                | Self::Source
                | Self::Target
                | Self::Ready
                | Self::Fenced
                | Self::Limbo
                | Self::Broken => false,
            },
            Self::Deciding => match to {
                Self::Solo
                | Self::Target
                | Self::Fenced
                | Self::Limbo
                | Self::Broken
                | Self::Stopped => true,
                Self::Starting | Self::Active | Self::Deciding | Self::Source | Self::Ready => {
                    false
                }
            },
            Self::Solo => match to {
                Self::Source | Self::Broken | Self::Stopped => true,
                Self::Starting
                | Self::Active
                | Self::Deciding
                | Self::Solo
                | Self::Target
                | Self::Ready
                | Self::Fenced
                | Self::Limbo => false,
            },
            Self::Source => match to {
                Self::Solo | Self::Active | Self::Deciding | Self::Stopped => true,
                Self::Starting
                | Self::Source
                | Self::Target
                | Self::Ready
                | Self::Fenced
                | Self::Limbo
                | Self::Broken => false,
            },
            Self::Target => match to {
                Self::Ready | Self::Fenced | Self::Limbo | Self::Stopped => true,
                Self::Starting
                | Self::Active
                | Self::Deciding
                | Self::Solo
                | Self::Source
                | Self::Target
                | Self::Broken => false,
            },
            Self::Ready => match to {
                Self::Active | Self::Solo | Self::Target | Self::Deciding | Self::Stopped => true,
                Self::Starting
                | Self::Source
                | Self::Ready
                | Self::Fenced
                | Self::Limbo
                | Self::Broken => false,
            },
            Self::Fenced | Self::Limbo => match to {
                Self::Deciding
                | Self::Target
                | Self::Fenced
                | Self::Limbo
                | Self::Broken
                | Self::Stopped => true,
                Self::Starting | Self::Active | Self::Solo | Self::Source | Self::Ready => false,
            },
            Self::Broken => match to {
                Self::Deciding | Self::Target | Self::Fenced | Self::Limbo | Self::Stopped => true,
                Self::Starting
                | Self::Active
                | Self::Solo
                | Self::Source
                | Self::Ready
                | Self::Broken => false,
            },
            Self::Stopped => false,
        }
    }

    /// Panics if the edge does not exist: an illegal one is a bug, never input.
    pub(super) fn check_edge(self, to: Self, session: Session, why: &str) {
        assert!(
            self.may_become(to),
            "illegal transition {self:?} -> {to:?} in session {session}: {why}"
        );
    }
}
