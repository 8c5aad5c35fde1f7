//! Writes one copy over itself, before it becomes the source of a join although its disk has failed.
//!
//! After a failed flush the system may show blocks that never reached the disk, and a later flush
//! says that all is well. What is read is what hosts were shown: written once more, it reaches the
//! disk with the flush that follows (F6).
//! Owns: how far it is. In: completions. Out: one I/O at a time.
//! Invariants: D10. Nobody is served meanwhile, and nothing else is under way.
//! Not here: a target whose disk has failed (`compare`: every block is sent).

use base::range::ByteRange;
use bytes::Bytes;

use crate::compare::PIECE_BYTES;
use crate::outbox::{IoUse, Outbox};
use crate::port::Progress;
use crate::storage::IoOperation;

/// One copy being written over itself.
#[derive(Debug)]
pub(crate) struct Rewrite {
    size: u64,
    done_bytes: u64,
}

impl Rewrite {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, done_bytes: 0 }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            done_bytes: self.done_bytes,
            todo_bytes: self.size - self.done_bytes,
            copied_bytes: self.done_bytes,
        }
    }

    /// Asks for the next piece; `false` if there is none.
    pub(crate) fn advance(&self, out: &mut Outbox) -> bool {
        if self.done_bytes == self.size {
            return false;
        }
        let end = self.size.min(self.done_bytes + PIECE_BYTES);
        let range = ByteRange::between(self.done_bytes, end);
        out.submit(IoUse::RewriteRead { range }, IoOperation::Read { range });
        true
    }

    pub(crate) fn piece_read(&self, range: ByteRange, data: Bytes, out: &mut Outbox) {
        let operation = if data.iter().any(|byte| *byte != 0) {
            IoOperation::Write { range, data, durable: false }
        } else {
            IoOperation::Zero { range, allocate: false, durable: false }
        };
        out.submit(IoUse::RewriteWrite { range }, operation);
    }

    pub(crate) fn piece_written(&mut self, range: ByteRange) {
        assert_eq!(
            range.offset(),
            self.done_bytes,
            "D10: one piece after the other, none left out"
        );
        self.done_bytes = range.end();
    }
}
