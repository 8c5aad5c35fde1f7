//! What nodes have told of having gone on alone, for people and for WHO. Nothing is decided from it.
//!
//! Owns: the newest notes of each group.   In: notes.   Out: the newest first.
//! Invariants: groups and notes are bounded; the oldest go.
//! Not here: the file that outlives a run (`io`).

use std::collections::BTreeMap;

use base::limits::WITNESS_GROUPS_MAX;

use crate::arbiter::GroupId;
use crate::wire::{NOTES_MAX, Note};

/// The notes of all groups.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Journal {
    groups: BTreeMap<GroupId, Notes>,
    /// Counts notes, to know which group's are the oldest.
    written: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Notes {
    /// The newest last.
    notes: Vec<Note>,
    written: u64,
}

impl Journal {
    /// Adds a note; whether it is news.
    pub fn add(&mut self, group: &GroupId, note: Note) -> bool {
        if self.groups.get(group).is_some_and(|notes| notes.notes.contains(&note)) {
            return false;
        }
        self.make_room(group);
        self.written += 1;
        let notes = self.groups.entry(group.clone()).or_default();
        if notes.notes.len() >= NOTES_MAX {
            notes.notes.remove(0);
        }
        notes.notes.push(note);
        notes.written = self.written;
        assert!(self.groups.len() <= WITNESS_GROUPS_MAX, "the journal is bounded");
        true
    }

    /// The notes of a group, the newest first.
    pub fn newest(&self, group: &GroupId) -> Vec<Note> {
        self.groups.get(group).map_or(Vec::new(), |of| of.notes.iter().rev().cloned().collect())
    }

    fn make_room(&mut self, group: &GroupId) {
        if self.groups.contains_key(group) || self.groups.len() < WITNESS_GROUPS_MAX {
            return;
        }
        let oldest = self.groups.iter().min_by_key(|(_, notes)| notes.written);
        let oldest = oldest.map(|(group, _)| group.clone()).expect("there are some");
        self.groups.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use base::ids::{Generation, NodeName, PairId, Session};

    use super::*;

    fn group(number: usize) -> GroupId {
        let mut pair_id = PairId::NONE;
        pair_id.0[..8].copy_from_slice(&number.to_le_bytes());
        let [a, b]: [NodeName; 2] = ["a", "b"].map(|name| name.parse().expect("a name"));
        GroupId::new(pair_id, a, b).expect("two names")
    }

    fn note(session: u64) -> Note {
        let winner = "a".parse().expect("a name");
        let (session, generation) = (Session(session), Generation([1; 16]));
        Note { session, generation, winner, forced: false }
    }

    #[test]
    fn the_newest_notes_come_first_and_a_repeated_one_is_no_news() {
        let mut journal = Journal::default();
        assert_eq!(journal.newest(&group(1)), Vec::new());
        for session in 1..=10 {
            assert!(journal.add(&group(1), note(session)));
            assert!(!journal.add(&group(1), note(session)));
        }
        let sessions = journal.newest(&group(1)).into_iter().map(|note| note.session.0);
        assert_eq!(sessions.collect::<Vec<_>>(), [10, 9, 8, 7, 6, 5, 4, 3]);
        assert_eq!(journal.newest(&group(2)), Vec::new());
    }

    #[test]
    fn the_group_with_the_oldest_note_makes_room() {
        let mut journal = Journal::default();
        for number in 0..WITNESS_GROUPS_MAX {
            journal.add(&group(number), note(1));
        }
        journal.add(&group(0), note(2));
        journal.add(&group(WITNESS_GROUPS_MAX), note(1));
        assert_eq!(journal.newest(&group(0)).len(), 2);
        assert_eq!(journal.newest(&group(1)), Vec::new());
    }
}
