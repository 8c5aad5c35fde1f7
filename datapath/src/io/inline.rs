//! The engine for tmpfs: reads and writes are made where they are submitted.
//!
//! On tmpfs a pwrite is a copy (1.5 us), while io_uring would send it through a kernel thread
//! (45 us, PEERS). Anywhere else a throttled or hung disk would stop the loop.
//! Invariants: a turn is never held up by more than one request's copy and one call of a zeroing.
//! A flush is answered at once and without a call: fdatasync(2) does nothing on tmpfs, whose
//! contents end with the machine's power whatever one calls. So no fsync is ever made inline.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::blocking::{run, run_call};
use super::buffer::BufferPool;
use super::job::Job;
use super::store::Store;
use crate::storage::{IoCompletion, IoDone, IoId, IoOperation};

/// Makes calls in place.
#[derive(Debug)]
pub(super) struct Inline {
    store: Arc<Store>,
    pool: Arc<BufferPool>,
    ready: Vec<IoCompletion>,
    /// Zeroings that take several calls.
    unfinished: VecDeque<Job>,
    event: OwnedFd,
}

impl Inline {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        assert!(store.tmpfs, "only tmpfs never waits");
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let pool = BufferPool::new();
        Ok(Self { store, pool, ready: Vec::new(), unfinished: VecDeque::new(), event })
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
        if let Some(mut job) = self.unfinished.pop_front() {
            match run_call(&mut job, &self.store) {
                Some(result) => self.ready.push(IoCompletion { id: job.id, result }),
                None => self.unfinished.push_back(job),
            }
        }
        completions.append(&mut self.ready);
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.ready.is_empty() || !self.unfinished.is_empty()
    }

    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
