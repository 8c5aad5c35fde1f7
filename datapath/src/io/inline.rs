//! The engine for tmpfs: reads and writes are made where they are submitted.
//!
//! On tmpfs a pwrite is a copy (1.5 us), while io_uring would send it through a kernel thread
//! (45 us, PEERS). Anywhere else a throttled or hung disk would stop the loop.
//! Invariants: a turn makes the copies of what was submitted in it, and zeroes a bounded number of
//! bytes, however much zeroing waits: the loop comes back for the rest.
//! A flush is answered at once and without a call: fdatasync(2) does nothing on tmpfs, whose
//! contents end with the machine's power whatever one calls. So no fsync is ever made inline.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::blocking::{run, run_call};
use super::buffer::BufferPool;
use super::job::{Job, ZERO_TMPFS_BYTES_MAX};
use super::store::Store;
use crate::storage::{IoCompletion, IoDone, IoId, IoOperation};

/// Bytes zeroed in one turn, above which the rest waits for the next one: a few milliseconds.
pub(super) const TURN_ZEROES_MAX: u64 = ZERO_TMPFS_BYTES_MAX;

/// Makes calls in place.
#[derive(Debug)]
pub(super) struct Inline {
    store: Arc<Store>,
    pool: Arc<BufferPool>,
    ready: Vec<IoCompletion>,
    /// Zeroings, each a row of calls; they take turns.
    unfinished: VecDeque<Job>,
    /// Bytes zeroed in this turn.
    zeroed: u64,
    event: OwnedFd,
}

impl Inline {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        assert!(store.tmpfs, "only tmpfs never waits");
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let pool = BufferPool::new();
        let unfinished = VecDeque::new();
        Ok(Self { store, pool, ready: Vec::new(), unfinished, zeroed: 0, event })
    }

    pub(super) fn begin_turn(&mut self) {
        self.zeroed = 0;
    }

    pub(super) fn submit(&mut self, id: IoId, operation: IoOperation) {
        let operation = match operation {
            IoOperation::Flush => {
                self.ready.push(IoCompletion { id, result: Ok(IoDone::Done) });
                return;
            }
            IoOperation::Write { range, data, durable: _ } => {
                IoOperation::Write { range, data, durable: false }
            }
            IoOperation::Zero { range, allocate, durable: _ } => {
                IoOperation::Zero { range, allocate, durable: false }
            }
            other @ (IoOperation::Read { .. } | IoOperation::Prefetch { .. }) => other,
        };
        match Job::new(id, operation, &self.store, &self.pool) {
            None => self.ready.push(IoCompletion { id, result: Ok(IoDone::Done) }),
            Some(mut job) if job.is_transfer() => {
                let result = run(&mut job, &self.store);
                self.ready.push(IoCompletion { id, result });
            }
            Some(job) => self.unfinished.push_back(job),
        }
    }

    pub(super) fn poll_completions(&mut self, completions: &mut Vec<IoCompletion>) {
        while self.zeroed < TURN_ZEROES_MAX
            && let Some(mut job) = self.unfinished.pop_front()
        {
            self.zeroed += job.next_zeroes();
            match run_call(&mut job, &self.store) {
                Some(result) => self.ready.push(IoCompletion { id: job.id, result }),
                None => self.unfinished.push_back(job),
            }
        }
        completions.append(&mut self.ready);
    }

    pub(super) fn has_completions(&self) -> bool {
        let zeroes = self.zeroed < TURN_ZEROES_MAX && !self.unfinished.is_empty();
        zeroes || !self.ready.is_empty()
    }

    pub(super) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
