//! Virtual time: what happens next, in a fixed order.
//!
//! Invariants: two events of the same instant happen in the order in which they were scheduled, so
//! that a seed has one history.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use base::time::Instant;

use super::event::Event;

struct Entry {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap keeps the largest on top.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Everything that is still to happen.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    next: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.heap.push(Entry { at, number: self.next, event });
        self.next += 1;
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
