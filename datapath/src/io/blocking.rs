//! Making a job's calls in place, waiting for each.

use std::io::IoSlice;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::job::{Call, Job, Outcome};
use super::store::Store;

/// Makes one call of `job`; `None` if another one is due.
pub(super) fn run_call(job: &mut Job, store: &Store) -> Option<Outcome> {
    let answer = make_call(job.next_call(), store);
    // SAFETY: `make_call` reports as read what pread(2) has written, no more.
    unsafe { job.finish_call(answer) }
}

/// Makes all calls of `job`.
pub(super) fn run(job: &mut Job, store: &Store) -> Outcome {
    loop {
        if let Some(outcome) = run_call(job, store) {
            return outcome;
        }
    }
}

fn make_call(call: Call<'_>, store: &Store) -> Result<usize, Errno> {
    let fd = &store.fd;
    match call {
        Call::Read { space, offset } => {
            rustix::io::pread(fd, space, offset).map(|(read, _)| read.len())
        }
        Call::Write { bytes, offset, dsync: false } => rustix::io::pwrite(fd, bytes, offset),
        Call::Write { bytes, offset, dsync: true } => {
            rustix::io::pwritev2(fd, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC)
        }
        Call::Fallocate { flags, offset, length } => {
            rustix::fs::fallocate(fd, flags, offset, length).map(|()| 0)
        }
        Call::Sync => rustix::fs::fdatasync(fd).map(|()| 0),
        Call::ReadAhead { offset, length } => {
            let length = std::num::NonZeroU64::new(length);
            rustix::fs::fadvise(fd, offset, length, Advice::WillNeed).map(|()| 0)
        }
    }
}
