//! The node's states and the one gate through which they change.

use base::ids::Session;

use crate::state_word::StateWord;

/// What a node is (PROTOCOL 2.4), as far as this version knows: nobody serves alone yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum State {
    /// No session yet in this process, and not long ago.
    Starting,
    /// Its copy is the one that counts in the join under way.
    Source,
    /// Is being made equal.
    Target,
    /// Has everything, waits for the word to serve.
    Ready,
    /// In a session.
    Active,
    /// Left a session; requests are held.
    Deciding,
    /// Serves nobody; requests are refused.
    Limbo,
    /// The two nodes will not make a session with each other.
    Broken,
    /// Stopped.
    Stopped,
}

impl State {
    /// The word for people and the peer.
    pub(super) const fn word(self) -> StateWord {
        match self {
            Self::Starting => StateWord::Starting,
            Self::Source => StateWord::ResyncSource,
            Self::Target => StateWord::ResyncTarget,
            Self::Ready => StateWord::Ready,
            Self::Active => StateWord::ActiveActive,
            Self::Deciding => StateWord::Deciding,
            Self::Limbo => StateWord::Limbo,
            Self::Broken => StateWord::Broken,
            Self::Stopped => StateWord::Stopped,
        }
    }

    /// Whether a node may go from here to `to`.
    const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Starting | Self::Deciding | Self::Limbo => match to {
                Self::Source | Self::Target | Self::Limbo | Self::Broken | Self::Stopped => true,
                Self::Starting | Self::Ready | Self::Active | Self::Deciding => false,
            },
            Self::Source | Self::Ready => match to {
                Self::Active | Self::Deciding | Self::Limbo | Self::Stopped => true,
                Self::Starting | Self::Source | Self::Target | Self::Ready | Self::Broken => false,
            },
            Self::Target => match to {
                Self::Ready | Self::Deciding | Self::Limbo | Self::Stopped => true,
                Self::Starting | Self::Source | Self::Target | Self::Active | Self::Broken => false,
            },
            // I7: leaving is final; the way back is a new session.
            Self::Active => match to {
                Self::Deciding | Self::Stopped => true,
                Self::Starting
                | Self::Source
                | Self::Target
                | Self::Ready
                | Self::Active
                | Self::Limbo
                | Self::Broken => false,
            },
            Self::Broken => match to {
                Self::Source | Self::Target | Self::Deciding | Self::Limbo | Self::Stopped => true,
                Self::Starting | Self::Ready | Self::Active | Self::Broken => false,
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
