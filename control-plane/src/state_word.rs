//! The states of a node by their names in CONTRACT: one list for status, metrics, logs, the command
//! line and the wire.
//!
//! Not here: which states this version has and how they follow each other (`polarization`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a node does, as it says to people, to scripts and to its peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateWord {
    /// Not yet connected to the peer since the process began.
    Starting,
    /// Serves, and the peer's last report, not older than T_sus, says that it serves.
    ActiveActive,
    /// Left the session; who goes on is not known yet.
    Deciding,
    /// Serves alone.
    Solo,
    /// Serves, and makes the peer's copy equal.
    ResyncSource,
    /// Its copy is being made equal.
    ResyncTarget,
    /// Its copy is equal; the session has not begun.
    Ready,
    /// Does not serve, because the other node does or may.
    Fenced,
    /// Does not serve, and does not know who might.
    Limbo,
    /// Needs a person.
    Broken,
    /// Is ending, or was stopped cleanly.
    Stopped,
}

impl StateWord {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::ActiveActive,
        Self::Deciding,
        Self::Solo,
        Self::ResyncSource,
        Self::ResyncTarget,
        Self::Ready,
        Self::Fenced,
        Self::Limbo,
        Self::Broken,
        Self::Stopped,
    ];

    /// The word in JSON, metrics, logs and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::ActiveActive => "active-active",
            Self::Deciding => "deciding",
            Self::Solo => "solo",
            Self::ResyncSource => "resync-source",
            Self::ResyncTarget => "resync-target",
            Self::Ready => "ready",
            Self::Fenced => "fenced",
            Self::Limbo => "limbo",
            Self::Broken => "broken",
            Self::Stopped => "stopped",
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Starting => 1,
            Self::ActiveActive => 2,
            Self::Deciding => 3,
            Self::Solo => 4,
            Self::ResyncSource => 5,
            Self::ResyncTarget => 6,
            Self::Ready => 7,
            Self::Fenced => 8,
            Self::Limbo => 9,
            Self::Broken => 10,
            Self::Stopped => 11,
        }
    }

    /// The state with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A text is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {}", StateWord::ALL.map(StateWord::word).join(", "))]
pub struct StateWordError;

impl FromStr for StateWord {
    type Err = StateWordError;

    fn from_str(text: &str) -> Result<Self, StateWordError> {
        Self::ALL.into_iter().find(|state| state.word() == text).ok_or(StateWordError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_read_back() {
        for state in StateWord::ALL {
            assert_eq!(state.word().parse(), Ok(state));
            assert_eq!(state.to_string(), state.word());
            assert_eq!(serde_json::to_value(state).expect("a word"), state.word());
            assert_eq!(StateWord::from_number(state.number()), Some(state));
        }
        assert!("active".parse::<StateWord>().is_err());
        assert_eq!(StateWord::from_number(0), None);
        assert_eq!(StateWord::from_number(12), None);
    }
}
