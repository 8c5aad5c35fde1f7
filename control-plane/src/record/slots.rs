//! Two slots in each of two places: which record counts at the start, and where the next one goes.

use super::NodeRecord;

/// What stands in one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotRead {
    /// A record that passes every check.
    Valid(Box<NodeRecord>),
    /// Anything else.
    Bad,
}

/// What one place holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlaceRead {
    /// The file is not there.
    Absent,
    /// The file could not be read.
    Unreadable {
        /// What the system said.
        why: String,
    },
    /// Its two slots.
    Slots([SlotRead; 2]),
}
