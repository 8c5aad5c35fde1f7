//! The engine for places where io_uring is forbidden: a fixed number of threads make blocking
//! calls.
//!
//! Owns: the threads; they end when the engine is dropped and their call has returned.
//! Invariants: the queues between loop and threads have a fixed size; what does not fit waits here.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::blocking::run;
use super::buffer::BufferPool;
use super::job::Job;
use super::store::Store;
use crate::storage::{IoCompletion, IoDone, IoId, IoOperation};

/// Threads of one volume.
const THREADS: usize = 8;
/// Operations handed to the threads and not yet reported, at most.
const HANDED_OVER_MAX: usize = 256;

/// Makes calls on threads.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    buffers: Arc<BufferPool>,
    jobs: Sender<Job>,
    results: Receiver<IoCompletion>,
    handed_over: usize,
    /// Operations that wait for room. Bounded by what the core keeps under way.
    backlog: VecDeque<Job>,
    ready: Vec<IoCompletion>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    event: OwnedFd,
    stopped: AtomicBool,
}

impl Pool {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { store, event, stopped: AtomicBool::new(false) });
        let (jobs, job_queue) = bounded(HANDED_OVER_MAX);
        let (result_queue, results) = bounded(HANDED_OVER_MAX);
        for number in 0..THREADS {
            let (shared, jobs, results) = (shared.clone(), job_queue.clone(), result_queue.clone());
            thread::Builder::new()
                .name(format!("stretch-disk-{number}"))
                .spawn(move || work(&shared, &jobs, &results))?;
        }
        let buffers = BufferPool::new();
        let backlog = VecDeque::new();
        Ok(Self { shared, buffers, jobs, results, handed_over: 0, backlog, ready: Vec::new() })
    }

    pub(super) fn submit(&mut self, id: IoId, operation: IoOperation) {
        match Job::new(id, operation, &self.shared.store, &self.buffers) {
            None => self.ready.push(IoCompletion { id, result: Ok(IoDone::Done) }),
            Some(job) => {
                self.backlog.push_back(job);
                self.hand_over();
            }
        }
    }

    pub(super) fn poll_completions(&mut self, completions: &mut Vec<IoCompletion>) {
        completions.append(&mut self.ready);
        while let Ok(completion) = self.results.try_recv() {
            self.handed_over -= 1;
            completions.push(completion);
        }
        self.hand_over();
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.ready.is_empty() || !self.results.is_empty()
    }

    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    fn hand_over(&mut self) {
        while self.handed_over < HANDED_OVER_MAX {
            let Some(job) = self.backlog.pop_front() else { return };
            self.jobs.try_send(job).expect("there is room, and the threads live as long as we do");
            self.handed_over += 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

fn work(shared: &Shared, jobs: &Receiver<Job>, results: &Sender<IoCompletion>) {
    while let Ok(mut job) = jobs.recv() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let result = run(&mut job, &shared.store);
        if results.send(IoCompletion { id: job.id, result }).is_err() {
            return;
        }
        // Fails only when the counter is full, and then the loop is awake already.
        let _ = rustix::io::write(&shared.event, &1u64.to_ne_bytes());
    }
}
