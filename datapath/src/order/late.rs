//! What has waited too long in a session, and for which of the two copies.
//!
//! Not here: what is done about it (the group).

use base::time::Instant;

use super::live::Owner;
use super::mirror::Mirror;

/// A copy that has not done its half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// This node's: its backing store has not completed something.
    Here,
    /// The peer's, or its word of it.
    There,
}

/// The oldest of what waits.
#[derive(Clone, Copy)]
enum Oldest {
    Write(usize),
    Flush,
}

impl Mirror {
    /// Since when the oldest write or flush has waited for a copy.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.oldest().map(|(since, _)| since)
    }

    /// Which copy the oldest write or flush waits for.
    pub(crate) fn late_half(&self) -> Option<Half> {
        let half = match self.oldest()?.1 {
            Oldest::Write(slot) => self.half_of(slot),
            Oldest::Flush if self.flushes.waits_here() => Half::Here,
            Oldest::Flush => Half::There,
        };
        Some(half)
    }

    fn oldest(&self) -> Option<(Instant, Oldest)> {
        let own = self.told.oldest_open().map(|seq| self.own[&seq]);
        let unordered = self.unordered.first_key_value().map(|(_, slot)| *slot);
        let peers = self.peers.first_key_value().map(|(_, slot)| *slot);
        let writes = [own, unordered, peers].into_iter().flatten();
        let flush = self.flushes.waiting_since().map(|since| (since, Oldest::Flush));
        writes
            .map(|slot| (self.writes[slot].since, Oldest::Write(slot)))
            .chain(flush)
            .min_by_key(|(since, _)| *since)
    }

    /// Which copy a write waits for: one that waits for its range waits for what the oldest
    /// before it waits for.
    fn half_of(&self, slot: usize) -> Half {
        let mut owner = Owner::Write(slot);
        while let Some(before) = self.oldest_before(owner) {
            owner = before;
        }
        match owner {
            Owner::Write(slot) if self.writes[slot].submitted && !self.writes[slot].here => {
                Half::Here
            }
            Owner::Write(_) => Half::There,
            Owner::Read(_) => Half::Here,
        }
    }

    fn oldest_before(&self, owner: Owner) -> Option<Owner> {
        let lock = match owner {
            Owner::Write(slot) if self.writes[slot].submitted => None,
            Owner::Write(slot) => self.writes[slot].lock,
            Owner::Read(slot) if self.reads[slot].submitted => None,
            Owner::Read(slot) => Some(self.reads[slot].lock),
        };
        self.locks.oldest_before(lock?)
    }
}
