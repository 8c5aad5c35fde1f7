//! The memory of all clients of one volume, as one sum.
//!
//! Owns: the sum; each client sets its share, and gives it back when it is dropped.
//! Not here: what counts and who has to wait (`client`), whose turn it is (control-plane's volume
//! thread). All clients of a volume live on one thread.

use std::cell::Cell;
use std::rc::Rc;

use base::limits::VOLUME_BYTES_MAX;

/// What the clients of one volume hold together. Clones are the same budget.
#[derive(Clone, Default, Debug)]
pub struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// Payload bytes of requests and of replies not yet sent, and what waits for room.
    pub fn used_bytes(&self) -> u64 {
        self.0.get()
    }

    /// Whether whatever would need room has to wait.
    pub fn is_spent(&self) -> bool {
        self.used_bytes() >= VOLUME_BYTES_MAX
    }

    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// One client's part.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: u64,
}

impl Share {
    /// The client holds so many bytes now.
    pub(crate) fn set(&mut self, bytes: u64) {
        let sum = &self.budget.0;
        sum.set(sum.get() - self.bytes + bytes);
        self.bytes = bytes;
    }

    /// Whether the volume has room for one request more if the client holds `bytes`.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.budget.used_bytes() - self.bytes + bytes < VOLUME_BYTES_MAX
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let budget = Budget::default();
        let (mut first, mut second) = (budget.share(), budget.share());
        first.set(VOLUME_BYTES_MAX - 1);
        second.set(3);
        first.set(VOLUME_BYTES_MAX - 3);
        assert_eq!(budget.used_bytes(), VOLUME_BYTES_MAX);
        assert!(budget.is_spent() && !second.has_room(3) && second.has_room(2));
        drop(first);
        assert_eq!(budget.used_bytes(), 3);
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
    }
}
