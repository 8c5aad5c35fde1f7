//! The engine on io_uring: one submission call a turn, completions announced by an eventfd.
//!
//! Owns: the ring, and the memory the kernel works on: a job stays in its slot from the call's
//! submission to its completion.
//! Invariants: a slot has at most one call under way and the submission queue has room for all of
//! them, so a push never fails.
//! Faults assumed: the kernel is short of memory for a moment (the next turn tries again).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::buffer::BufferPool;
use super::job::{Call, Job};
use super::store::Store;
use crate::storage::{IoCompletion, IoDone, IoId, IoOperation};

/// Calls under way at once, at most.
const SLOTS: u32 = 256;
/// One read or write call of the kernel moves at most 2 GiB minus a page; far below that, because
/// the length of a submission has 32 bits.
const CALL_BYTES_MAX: usize = 1 << 30;

/// Makes calls through the ring.
pub(super) struct Ring {
    uring: IoUring,
    event: OwnedFd,
    store: Arc<Store>,
    buffers: Arc<BufferPool>,
    slots: Vec<Option<Job>>,
    free: Vec<u32>,
    /// Operations that wait for a slot. Bounded by what the core keeps under way.
    backlog: VecDeque<Job>,
    ready: Vec<IoCompletion>,
    /// Taken from the completion queue in this call; kept for its memory.
    reaped: Vec<(u64, i32)>,
}

impl Ring {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        let uring = build()?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let submitter = uring.submitter();
        submitter.register_eventfd(event.as_raw_fd())?;
        submitter.register_files(&[store.fd.as_raw_fd()])?;
        check_operations(&uring)?;
        assert!(uring.params().sq_entries() >= SLOTS, "each slot has room in the queue");
        Ok(Self {
            uring,
            event,
            store,
            buffers: BufferPool::new(),
            slots: (0..SLOTS).map(|_| None).collect(),
            free: (0..SLOTS).rev().collect(),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            reaped: Vec::with_capacity(SLOTS as usize),
        })
    }

    pub(super) fn submit(&mut self, id: IoId, operation: IoOperation) {
        match Job::new(id, operation, &self.store, &self.buffers) {
            None => self.ready.push(IoCompletion { id, result: Ok(IoDone::Done) }),
            Some(job) => match self.free.pop() {
                None => self.backlog.push_back(job),
                Some(slot) => self.occupy(slot, job),
            },
        }
    }

    pub(super) fn flush_submissions(&mut self) {
        let waiting = {
            let queue = self.uring.submission();
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        };
        if waiting {
            self.enter();
        }
    }

    pub(super) fn poll_completions(&mut self, completions: &mut Vec<IoCompletion>) {
        completions.append(&mut self.ready);
        let held_back = {
            let queue = self.uring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        if held_back {
            self.enter();
        }
        let mut reaped = mem::take(&mut self.reaped);
        reaped.extend(self.uring.completion().map(|entry| (entry.user_data(), entry.result())));
        for (slot, result) in reaped.drain(..) {
            self.finish(slot, result, completions);
        }
        self.reaped = reaped;
    }

    pub(super) fn has_completions(&mut self) -> bool {
        if !self.ready.is_empty() || !self.uring.completion().is_empty() {
            return true;
        }
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Hands over what was pushed and lets the kernel post what has completed.
    fn enter(&mut self) {
        match self.uring.submit() {
            Ok(_) => {}
            Err(error) => match Errno::from_io_error(&error) {
                // Short of memory, completions first, or interrupted: what is left in the queue
                // goes with the next turn, which this makes sure of.
                Some(Errno::AGAIN | Errno::BUSY | Errno::INTR) => {
                    let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
                }
                _ => panic!("io_uring_enter: {error}"),
            },
        }
    }

    fn occupy(&mut self, slot: u32, job: Job) {
        let place = &mut self.slots[slot as usize];
        assert!(place.is_none(), "a free slot is empty");
        *place = Some(job);
        self.push(slot);
    }

    fn push(&mut self, slot: u32) {
        let job = self.slots[slot as usize].as_mut().expect("the slot has a job");
        let entry = submission(job.next_call()).user_data(u64::from(slot));
        // SAFETY: the memory that the entry names belongs to the job, which stays in its slot
        // until the completion of this very entry is taken (`finish`), or for ever (`Drop`). The
        // descriptor is registered and lives as long as `store`.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        pushed.expect("a slot has one call, and there is room for all slots");
    }

    fn finish(&mut self, slot: u64, result: i32, completions: &mut Vec<IoCompletion>) {
        let slot = u32::try_from(slot).expect("slot numbers are ours");
        let place = &mut self.slots[slot as usize];
        let job = place.as_mut().expect("a completion belongs to a job");
        let answer = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(Errno::from_raw_os_error(-result)),
        };
        // SAFETY: a non-negative result of a read is the number of bytes the kernel has written
        // from the beginning of the space that was named in `push`.
        let outcome = unsafe { job.finish_call(answer) };
        let Some(result) = outcome else {
            self.push(slot);
            return;
        };
        let id = job.id;
        *place = None;
        completions.push(IoCompletion { id, result });
        match self.backlog.pop_front() {
            None => self.free.push(slot),
            Some(job) => self.occupy(slot, job),
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write to or read from the memory of what is under way, and waiting
        // for a hung disk would hang us: that memory is never given back.
        mem::forget(mem::take(&mut self.slots));
    }
}

/// The ring, with completions posted only when we ask for them where the kernel can do so.
fn build() -> io::Result<IoUring> {
    let mut best = IoUring::builder();
    best.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().dontfork();
    match best.build(SLOTS) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            // Before Linux 6.1.
            IoUring::builder().dontfork().build(SLOTS)
        }
        result => result,
    }
}

fn check_operations(uring: &IoUring) -> io::Result<()> {
    let mut probe = io_uring::Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::Fadvise::CODE,
    ];
    if needed.iter().all(|code| probe.is_supported(*code)) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old"))
    }
}

fn submission(call: Call<'_>) -> squeue::Entry {
    let file = types::Fixed(0);
    match call {
        Call::Read { space, offset } => {
            let length = space.len().min(CALL_BYTES_MAX) as u32;
            opcode::Read::new(file, space.as_mut_ptr().cast(), length).offset(offset).build()
        }
        Call::Write { bytes, offset, dsync } => {
            let length = bytes.len().min(CALL_BYTES_MAX) as u32;
            let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            opcode::Write::new(file, bytes.as_ptr(), length)
                .offset(offset)
                .rw_flags(flags.bits() as i32)
                .build()
        }
        Call::Fallocate { flags, offset, length } => {
            opcode::Fallocate::new(file, length).offset(offset).mode(flags.bits() as i32).build()
        }
        Call::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        Call::ReadAhead { offset, length } => {
            let length = length.min(CALL_BYTES_MAX as u64) as i64;
            opcode::Fadvise::new(file, length, Advice::WillNeed as i32).offset(offset).build()
        }
    }
}
