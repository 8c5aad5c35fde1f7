//! One operation as a row of system calls: what to call next, and what the answer means. The
//! engines only carry the calls, so short transfers, retries and fallbacks are the same in all.
//!
//! Direct I/O takes whole blocks. A read that is none reads more and shows its part; a write reads
//! the rest of its first and last block (`patch`); a zeroing is up to three steps one after the other,
//! also through the page cache, where a device still zeroes whole sectors only (EINVAL).
//! Owns: the memory of one operation from its submission to its completion.
//! Faults assumed: calls that do less than asked, are interrupted, or are not supported.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use base::limits::{BLOCK_BYTES, PAGE_BYTES};
use base::payload::PayloadBuf;
use base::range::ByteRange;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::buffer::{BufferPool, ReadBuffer};
use super::patch::{Parts, Patch};
use super::store::{Ability, Store};
use crate::storage::{IoDone, IoFault, IoId, IoOperation};

/// Interrupted or refused for the moment so often in a row: a fault.
const RETRIES_MAX: u32 = 64;
/// Bytes zeroed by one system call, at most: it must not hold up the others for long.
pub(super) const ZERO_CALL_BYTES_MAX: u64 = 64 << 20;
/// The same on tmpfs, where a call clears memory and may be made on the loop's own thread.
pub(super) const ZERO_TMPFS_BYTES_MAX: u64 = 4 << 20;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);
const ALLOCATE: FallocateFlags = FallocateFlags::KEEP_SIZE;

/// Zeros to write where nothing better exists.
#[repr(C, align(4096))]
struct Zeros([u8; 256 << 10]);
static ZEROS: Zeros = Zeros([0; 256 << 10]);
const _: () = assert!(align_of::<Zeros>() == PAGE_BYTES);

/// A system call to make.
#[derive(Debug)]
pub(super) enum Call<'a> {
    Read { space: &'a mut [MaybeUninit<u8>], offset: u64 },
    Write { bytes: &'a [u8], offset: u64, dsync: bool },
    Fallocate { flags: FallocateFlags, offset: u64, length: u64 },
    Sync,
    ReadAhead { offset: u64, length: u64 },
}

/// How an operation ended.
pub(super) type Outcome = Result<IoDone, IoFault>;

/// One operation under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: IoId,
    store: Arc<Store>,
    range: ByteRange,
    work: Work,
    /// The steps after this one, the last one first.
    steps: Vec<(ByteRange, Work)>,
    /// An fdatasync follows.
    sync_after: bool,
    retries: u32,
}

#[derive(Debug)]
enum Work {
    /// Of what is read only a part may be wanted.
    Read {
        buffer: ReadBuffer,
        part: Option<Range<usize>>,
    },
    /// Reads what a write needs to be one of whole blocks.
    Patch {
        patch: Patch,
        dsync: bool,
    },
    Write {
        data: Bytes,
        written: usize,
        dsync: bool,
    },
    Zero {
        done: u64,
        piece: Piece,
        allocate: bool,
    },
    ReadAhead,
    Sync,
}

/// How the next piece of a range is zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Punch,
    /// Space for what has just been punched.
    Allocate,
    ZeroRange,
    Write,
}

impl Job {
    /// The operation `operation`; `None` if it is done already because there is nothing to do.
    /// Panics if it leaves the volume.
    pub(super) fn new(
        id: IoId,
        operation: IoOperation,
        store: &Arc<Store>,
        pool: &Arc<BufferPool>,
    ) -> Option<Self> {
        let mut range = operation.range();
        assert!(range.end() <= store.size, "an operation stays inside the volume: {range:?}");
        let is_flush = matches!(operation, IoOperation::Flush);
        if range.is_empty() && !is_flush {
            return None;
        }
        let mut sync_after = false;
        let mut steps = Vec::new();
        let work = match operation {
            IoOperation::Read { .. } => {
                let wanted = range;
                range = wanted.round_out(store.block_bytes);
                let length = usize::try_from(range.length()).expect("a read fits memory");
                let start = (wanted.offset() - range.offset()) as usize;
                let part = (wanted != range).then(|| start..start + wanted.length() as usize);
                Work::Read { buffer: pool.take(length), part }
            }
            IoOperation::Write { range, data, durable } => {
                assert_eq!(data.len() as u64, range.length(), "a write has the bytes of its range");
                let dsync = durable && store.able.has(Ability::Dsync);
                sync_after = durable && !dsync;
                if store.takes(range) {
                    Work::Write { data: align(data, store), written: 0, dsync }
                } else {
                    Work::Patch { patch: Patch::new(range, data, store.block_bytes, pool), dsync }
                }
            }
            IoOperation::Zero { allocate, durable, .. } => {
                sync_after = durable;
                steps = zeroing(range, allocate, store, pool);
                let (first, work) = steps.pop().expect("there is something to zero");
                range = first;
                work
            }
            IoOperation::Flush => Work::Sync,
            IoOperation::Prefetch { .. } if store.direct || store.tmpfs => return None,
            IoOperation::Prefetch { .. } => Work::ReadAhead,
        };
        Some(Self { id, store: store.clone(), range, work, steps, sync_after, retries: 0 })
    }

    /// Whether it is a read or a write, which end with few calls.
    pub(super) const fn is_transfer(&self) -> bool {
        matches!(self.work, Work::Read { .. } | Work::Patch { .. } | Work::Write { .. })
    }

    /// Bytes that the next call zeroes, at most; none if it is for something else.
    pub(super) fn next_zeroes(&self) -> u64 {
        match self.work {
            Work::Zero { done, piece, .. } => {
                let call_bytes_max = match piece {
                    Piece::Write => ZEROS.0.len() as u64,
                    Piece::Punch | Piece::Allocate | Piece::ZeroRange => {
                        zero_call_bytes_max(&self.store)
                    }
                };
                (self.range.length() - done).min(call_bytes_max)
            }
            Work::Read { .. }
            | Work::Patch { .. }
            | Work::Write { .. }
            | Work::ReadAhead
            | Work::Sync => 0,
        }
    }

    /// The next call. The memory it names stays where it is until [`Self::finish_call`], also when
    /// the job itself is moved.
    pub(super) fn next_call(&mut self) -> Call<'_> {
        let offset = self.range.offset();
        match &mut self.work {
            Work::Read { buffer, .. } => {
                let offset = offset + buffer.filled() as u64;
                Call::Read { space: buffer.space(), offset }
            }
            Work::Patch { patch, .. } => {
                let (offset, buffer) = patch.next_read().expect("when all is read it is a write");
                Call::Read { space: buffer.space(), offset }
            }
            Work::Write { data, written, dsync } => Call::Write {
                bytes: &data[*written..],
                offset: offset + *written as u64,
                dsync: *dsync,
            },
            Work::Zero { done, piece, .. } => {
                let left = self.range.length() - *done;
                let offset = offset + *done;
                let length = left.min(zero_call_bytes_max(&self.store));
                match piece {
                    Piece::Punch => Call::Fallocate { flags: PUNCH, offset, length },
                    Piece::Allocate => Call::Fallocate { flags: ALLOCATE, offset, length },
                    Piece::ZeroRange => Call::Fallocate { flags: ZERO, offset, length },
                    Piece::Write => {
                        let length = left.min(ZEROS.0.len() as u64) as usize;
                        Call::Write { bytes: &ZEROS.0[..length], offset, dsync: false }
                    }
                }
            }
            Work::ReadAhead => Call::ReadAhead { offset, length: self.range.length() },
            Work::Sync => Call::Sync,
        }
    }

    /// Takes the answer to the call that [`Self::next_call`] named; `None` if another call is due.
    ///
    /// # Safety
    /// After a [`Call::Read`], `Ok(n)` says that the first `n` bytes of its space were written.
    pub(super) unsafe fn finish_call(&mut self, answer: Result<usize, Errno>) -> Option<Outcome> {
        match answer {
            Err(Errno::INTR | Errno::AGAIN) if self.retries < RETRIES_MAX => {
                self.retries += 1;
                None
            }
            Err(error) => self.fail(error),
            Ok(count) => {
                self.retries = 0;
                // SAFETY: the caller's promise, handed on.
                unsafe { self.advance(count) }
            }
        }
    }

    /// # Safety
    /// As [`Self::finish_call`] with `Ok(count)`.
    unsafe fn advance(&mut self, count: usize) -> Option<Outcome> {
        match &mut self.work {
            Work::Read { .. } | Work::Patch { .. } if count == 0 => Some(Err(IoFault::Truncated)),
            Work::Patch { patch, .. } => {
                let (_, buffer) = patch.next_read().expect("a read was due");
                // SAFETY: the caller's promise.
                unsafe { buffer.advance(count) }
                if patch.next_read().is_none() {
                    self.write_patched();
                }
                None
            }
            Work::Read { buffer, .. } => {
                // SAFETY: the caller's promise.
                unsafe { buffer.advance(count) }
                if !buffer.is_full() {
                    return None;
                }
                self.end()
            }
            Work::Write { data, written, .. } => {
                if count == 0 {
                    return Some(Err(IoFault::System(Errno::IO.raw_os_error())));
                }
                *written += count;
                assert!(*written <= data.len(), "no more is written than there was");
                if *written < data.len() { None } else { self.end() }
            }
            Work::Zero { done, piece, allocate } => {
                let left = self.range.length() - *done;
                let advanced = match piece {
                    Piece::Punch if *allocate => {
                        *piece = Piece::Allocate;
                        return None;
                    }
                    Piece::Punch | Piece::Allocate | Piece::ZeroRange => {
                        left.min(zero_call_bytes_max(&self.store))
                    }
                    Piece::Write if count == 0 => {
                        return Some(Err(IoFault::System(Errno::IO.raw_os_error())));
                    }
                    Piece::Write => count as u64,
                };
                *done += advanced;
                assert!(*done <= self.range.length(), "no more is zeroed than was asked for");
                if *done < self.range.length() {
                    *piece = first_piece(&self.store, *allocate);
                    return None;
                }
                self.end()
            }
            Work::ReadAhead | Work::Sync => Some(Ok(IoDone::Done)),
        }
    }

    /// What a write of a part of a block needs was read.
    fn write_patched(&mut self) {
        let Work::Patch { patch, dsync } = std::mem::replace(&mut self.work, Work::Sync) else {
            unreachable!("called for a patch only");
        };
        self.range = patch.blocks();
        self.work = Work::Write { data: patch.into_bytes(), written: 0, dsync };
    }

    /// This step is done; after the last one what is left is to make it durable.
    fn end(&mut self) -> Option<Outcome> {
        if let Some((range, work)) = self.steps.pop() {
            self.range = range;
            self.work = work;
            return None;
        }
        let before = std::mem::replace(&mut self.work, Work::Sync);
        match before {
            Work::Read { buffer, part: None } => Some(Ok(IoDone::Data(buffer.freeze()))),
            Work::Read { buffer, part: Some(part) } => {
                Some(Ok(IoDone::Data(buffer.freeze().slice(part))))
            }
            _ if self.sync_after => None,
            _ => Some(Ok(IoDone::Done)),
        }
    }

    fn fail(&mut self, error: Errno) -> Option<Outcome> {
        let unsupported = error == Errno::OPNOTSUPP || error == Errno::NOSYS;
        match &mut self.work {
            Work::ReadAhead => Some(Ok(IoDone::Done)),
            Work::Write { dsync, .. } if *dsync && unsupported => {
                self.store.able.refuse(Ability::Dsync);
                *dsync = false;
                self.sync_after = true;
                None
            }
            Work::Zero { piece, allocate, .. } if unsupported && *piece != Piece::Write => {
                self.store.able.refuse(match piece {
                    Piece::Punch => Ability::PunchHole,
                    Piece::Allocate => Ability::Allocate,
                    Piece::ZeroRange | Piece::Write => Ability::ZeroRange,
                });
                *piece = first_piece(&self.store, *allocate);
                None
            }
            _ => Some(Err(fault(error))),
        }
    }
}

const fn zero_call_bytes_max(store: &Store) -> u64 {
    if store.tmpfs { ZERO_TMPFS_BYTES_MAX } else { ZERO_CALL_BYTES_MAX }
}

/// The steps of a zeroing, the last one first: whole blocks in the way of the place, the parts of
/// blocks around them as writes. A part is smaller than a block, and no block is larger than 64 KiB.
fn zeroing(
    range: ByteRange,
    allocate: bool,
    store: &Store,
    pool: &Arc<BufferPool>,
) -> Vec<(ByteRange, Work)> {
    let Parts { head, blocks, tail } = Parts::of(range, store.zero_block_bytes);
    let part = |range: ByteRange| {
        let data = Bytes::from_static(&ZEROS.0[..range.length() as usize]);
        if store.takes(range) {
            return (range, Work::Write { data, written: 0, dsync: false });
        }
        let patch = Patch::new(range, data, store.block_bytes, pool);
        (range, Work::Patch { patch, dsync: false })
    };
    let whole =
        |range| (range, Work::Zero { done: 0, piece: first_piece(store, allocate), allocate });
    let mut steps = Vec::with_capacity(3);
    steps.extend(Some(tail).filter(|tail| !tail.is_empty()).map(part));
    steps.extend(Some(blocks).filter(|blocks| !blocks.is_empty()).map(whole));
    steps.extend(Some(head).filter(|head| !head.is_empty()).map(part));
    steps
}

/// The best way to zero that has not been refused.
fn first_piece(store: &Store, allocate: bool) -> Piece {
    let able = &store.able;
    if allocate && able.has(Ability::ZeroRange) {
        Piece::ZeroRange
    } else if able.has(Ability::PunchHole) && (!allocate || able.has(Ability::Allocate)) {
        Piece::Punch
    } else if able.has(Ability::ZeroRange) {
        Piece::ZeroRange
    } else {
        Piece::Write
    }
}

/// Payloads are page-aligned; one that is not is copied, because direct I/O would refuse it.
fn align(data: Bytes, store: &Store) -> Bytes {
    let align = store.memory_align.clamp(BLOCK_BYTES as usize, PAGE_BYTES);
    if !store.direct || (data.as_ptr() as usize).is_multiple_of(align) {
        return data;
    }
    let mut copy = PayloadBuf::with_length(data.len());
    copy.fill_from(&data);
    copy.freeze()
}

fn fault(error: Errno) -> IoFault {
    match error {
        Errno::NOSPC | Errno::DQUOT => IoFault::NoSpace,
        other => IoFault::System(other.raw_os_error()),
    }
}

#[cfg(test)]
mod tests;
