//! The requests of one client that have no reply yet: a slab whose index is the tag.

use base::limits::CLIENT_REQUESTS_MAX;
use base::time::Instant;

use crate::proto::request::{Command, Request};

/// What is remembered of a request until its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) cookie: u64,
    pub(super) command: Command,
    pub(super) offset: u64,
    /// Payload bytes it occupies, in either direction.
    pub(super) charge: u64,
    pub(super) begun: Instant,
}

impl Entry {
    pub(super) fn new(request: &Request, charge: u64, begun: Instant) -> Self {
        let Request { cookie, command, offset, .. } = *request;
        Self { cookie, command, offset, charge, begun }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    /// The volume was not asked yet.
    Waiting(Entry),
    /// The volume will complete it.
    HandedOut(Entry),
}

/// The slab.
#[derive(Default, Debug)]
pub(super) struct Requests {
    slots: Vec<Slot>,
    free: Vec<u32>,
    bytes: u64,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < CLIENT_REQUESTS_MAX
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn find(&self, tag: u32) -> Option<&Entry> {
        match self.slots.get(tag as usize)? {
            Slot::Free => None,
            Slot::Waiting(entry) | Slot::HandedOut(entry) => Some(entry),
        }
    }

    /// A new request. A change that has come is begun also above the limit (G2a).
    pub(super) fn begin(&mut self, entry: Entry) -> u32 {
        self.bytes += entry.charge;
        let tag = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            u32::try_from(self.slots.len() - 1).expect("the number of slots is bounded")
        });
        assert_eq!(self.slots[tag as usize], Slot::Free, "a free tag is free");
        self.slots[tag as usize] = Slot::Waiting(entry);
        tag
    }

    /// The volume is asked.
    pub(super) fn hand_out(&mut self, tag: u32) {
        match self.slots[tag as usize] {
            Slot::Waiting(entry) => self.slots[tag as usize] = Slot::HandedOut(entry),
            slot @ (Slot::Free | Slot::HandedOut(_)) => {
                panic!("request {tag} is asked for once, found {slot:?}")
            }
        }
    }

    /// The volume will not be asked.
    pub(super) fn withdraw(&mut self, tag: u32) -> Entry {
        match self.slots[tag as usize] {
            Slot::Waiting(entry) => self.release(tag, entry),
            slot @ (Slot::Free | Slot::HandedOut(_)) => {
                panic!("only a waiting request is withdrawn, found {slot:?} at {tag}")
            }
        }
    }

    /// The volume has completed it. Panics if it was not asked.
    pub(super) fn finish(&mut self, tag: u32) -> Entry {
        match self.slots.get(tag as usize) {
            Some(&Slot::HandedOut(entry)) => self.release(tag, entry),
            slot @ (None | Some(Slot::Free | Slot::Waiting(_))) => {
                panic!("request {tag} is completed without having been asked for: {slot:?}")
            }
        }
    }

    fn release(&mut self, tag: u32, entry: Entry) -> Entry {
        self.slots[tag as usize] = Slot::Free;
        self.free.push(tag);
        self.bytes -= entry.charge;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::request::CommandFlags;

    fn entry(cookie: u64) -> Entry {
        let request = Request {
            flags: CommandFlags::default(),
            command: Command::Read,
            cookie,
            offset: 0,
            length: 512,
        };
        Entry::new(&request, 512, Instant::ZERO)
    }

    #[test]
    fn tags_are_used_again_after_their_completion_only() {
        let mut requests = Requests::default();
        let first = requests.begin(entry(1));
        requests.hand_out(first);
        let second = requests.begin(entry(2));
        assert_ne!(first, second);
        assert_eq!((requests.len(), requests.bytes()), (2, 1024));
        assert_eq!(requests.finish(first).cookie, 1);
        assert_eq!(requests.begin(entry(3)), first);
        assert_eq!(requests.withdraw(second).cookie, 2);
        assert_eq!((requests.len(), requests.bytes()), (1, 512));
    }

    #[test]
    fn there_is_room_for_the_limit() {
        let mut requests = Requests::default();
        for cookie in 0..CLIENT_REQUESTS_MAX as u64 {
            assert!(requests.has_room());
            requests.begin(entry(cookie));
        }
        assert!(!requests.has_room());
    }

    #[test]
    #[should_panic(expected = "without having been asked for")]
    fn a_completion_of_nothing_is_a_bug() {
        Requests::default().finish(3);
    }

    #[test]
    #[should_panic(expected = "without having been asked for")]
    fn a_completion_before_the_request_is_a_bug() {
        let mut requests = Requests::default();
        let tag = requests.begin(entry(1));
        requests.finish(tag);
    }
}
