//! The trace of a run: a hash of everything that happened, and text for a person on demand.

use base::time::Instant;

/// Folds a run into one number; the same seed gives the same one.
pub(super) struct Trace {
    hash: u64,
    /// Print lines, too.
    pub(super) print: bool,
}

impl Trace {
    pub(super) fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// Adds numbers to the hash.
    pub(super) fn fold(&mut self, words: &[u64]) {
        for word in words {
            let mixed = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash = mixed ^ (mixed >> 29);
        }
    }

    /// Prints a line if anybody reads.
    pub(super) fn line(&self, now: Instant, text: impl FnOnce() -> String) {
        if self.print {
            println!("{:>13?}  {}", now, text());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}
