//! One operation as a row of system calls: what to call next, and what the answer means. The
//! engines only carry the calls, so short transfers, retries and fallbacks are the same in all.
//!
//! Owns: the memory of one operation from its submission to its completion.
//! Faults assumed: calls that do less than asked, are interrupted, or are not supported.

use std::mem::MaybeUninit;
use std::sync::Arc;

use base::limits::{BLOCK_BYTES, PAGE_BYTES};
use base::payload::PayloadBuf;
use base::range::ByteRange;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::buffer::{BufferPool, ReadBuffer};
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
    /// An fdatasync follows.
    sync_after: bool,
    retries: u32,
}

#[derive(Debug)]
enum Work {
    Read { buffer: ReadBuffer },
    Write { data: Bytes, written: usize, dsync: bool },
    Zero { done: u64, piece: Piece, allocate: bool },
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
        let range = operation.range();
        assert!(range.end() <= store.size, "an operation stays inside the volume: {range:?}");
        let is_flush = matches!(operation, IoOperation::Flush);
        if range.is_empty() && !is_flush {
            return None;
        }
        let mut sync_after = false;
        let work = match operation {
            IoOperation::Read { range } => {
                let length = usize::try_from(range.length()).expect("a read fits memory");
                Work::Read { buffer: pool.take(length) }
            }
            IoOperation::Write { range, data, durable } => {
                assert_eq!(data.len() as u64, range.length(), "a write has the bytes of its range");
                let dsync = durable && store.able.has(Ability::Dsync);
                sync_after = durable && !dsync;
                Work::Write { data: align(data, store), written: 0, dsync }
            }
            IoOperation::Zero { allocate, durable, .. } => {
                sync_after = durable;
                Work::Zero { done: 0, piece: first_piece(store, allocate), allocate }
            }
            IoOperation::Flush => Work::Sync,
            IoOperation::Prefetch { .. } if store.direct || store.tmpfs => return None,
            IoOperation::Prefetch { .. } => Work::ReadAhead,
        };
        Some(Self { id, store: store.clone(), range, work, sync_after, retries: 0 })
    }

    /// Whether it is a read or a write, which end with few calls.
    pub(super) const fn is_transfer(&self) -> bool {
        matches!(self.work, Work::Read { .. } | Work::Write { .. })
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
            Work::Read { .. } | Work::Write { .. } | Work::ReadAhead | Work::Sync => 0,
        }
    }

    /// The next call. The memory it names stays where it is until [`Self::finish_call`], also when
    /// the job itself is moved.
    pub(super) fn next_call(&mut self) -> Call<'_> {
        let offset = self.range.offset();
        match &mut self.work {
            Work::Read { buffer } => {
                let offset = offset + buffer.filled() as u64;
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
            Work::Read { buffer } => {
                if count == 0 {
                    return Some(Err(IoFault::Truncated));
                }
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

    /// The operation itself is done; what is left is to make it durable.
    fn end(&mut self) -> Option<Outcome> {
        let before = std::mem::replace(&mut self.work, Work::Sync);
        match before {
            Work::Read { buffer } => Some(Ok(IoDone::Data(buffer.freeze()))),
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
mod tests {
    use std::fs::File;

    use super::*;
    use crate::io::store::Abilities;

    const SIZE: u64 = 1 << 30;

    fn store() -> Arc<Store> {
        let file = File::open("/dev/null").expect("opened");
        Arc::new(Store {
            fd: file.into(),
            size: SIZE,
            direct: false,
            memory_align: 1,
            tmpfs: false,
            able: Abilities::all(),
        })
    }

    fn job(store: &Arc<Store>, operation: IoOperation) -> Job {
        Job::new(IoId(1), operation, store, &BufferPool::new()).expect("there is something to do")
    }

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).expect("in range")
    }

    fn write(store: &Arc<Store>, durable: bool) -> Job {
        let data = Bytes::from((0..100u8).collect::<Vec<_>>());
        job(store, IoOperation::Write { range: range(1000, 100), data, durable })
    }

    fn zero(store: &Arc<Store>, length: u64, allocate: bool, durable: bool) -> Job {
        job(store, IoOperation::Zero { range: range(4096, length), allocate, durable })
    }

    /// Answers a read's call with `count` bytes of `value`.
    fn answer_read(job: &mut Job, count: usize, value: u8) -> Option<Outcome> {
        let Call::Read { space, .. } = job.next_call() else { panic!("a read's call is a read") };
        for byte in &mut space[..count] {
            byte.write(value);
        }
        // SAFETY: just written.
        unsafe { job.finish_call(Ok(count)) }
    }

    /// Answers a call that is no read.
    fn answer(job: &mut Job, answer: Result<usize, Errno>) -> Option<Outcome> {
        assert!(
            !matches!(job.next_call(), Call::Read { .. }) || answer.is_err() || answer == Ok(0)
        );
        // SAFETY: no read, or no byte of it.
        unsafe { job.finish_call(answer) }
    }

    /// The call in short, for comparing.
    fn call(job: &mut Job) -> String {
        match job.next_call() {
            Call::Read { space, offset } => format!("read {offset}+{}", space.len()),
            Call::Write { bytes, offset, dsync } => {
                format!("write{} {offset}+{}", if dsync { " dsync" } else { "" }, bytes.len())
            }
            Call::Fallocate { flags, offset, length } => {
                let name = if flags == PUNCH {
                    "punch"
                } else if flags == ZERO {
                    "zero"
                } else {
                    "allocate"
                };
                format!("{name} {offset}+{length}")
            }
            Call::Sync => "sync".to_owned(),
            Call::ReadAhead { offset, length } => format!("ahead {offset}+{length}"),
        }
    }

    #[test]
    fn a_short_read_goes_on_where_it_stopped() {
        let mut job = job(&store(), IoOperation::Read { range: range(512, 1000) });
        assert_eq!(call(&mut job), "read 512+1000");
        assert_eq!(answer_read(&mut job, 300, 1), None);
        assert_eq!(call(&mut job), "read 812+700");
        assert_eq!(answer(&mut job, Err(Errno::INTR)), None);
        assert_eq!(call(&mut job), "read 812+700");
        let Some(Ok(IoDone::Data(bytes))) = answer_read(&mut job, 700, 2) else {
            panic!("the read is whole")
        };
        assert!(bytes[..300].iter().all(|b| *b == 1) && bytes[300..].iter().all(|b| *b == 2));
    }

    #[test]
    fn the_end_of_the_file_inside_the_volume_is_a_fault() {
        let mut job = job(&store(), IoOperation::Read { range: range(512, 1000) });
        assert_eq!(answer_read(&mut job, 300, 1), None);
        assert_eq!(answer(&mut job, Ok(0)), Some(Err(IoFault::Truncated)));
    }

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let mut job = write(&store(), true);
        assert_eq!(call(&mut job), "write dsync 1000+100");
        assert_eq!(answer(&mut job, Ok(30)), None);
        let Call::Write { bytes, .. } = job.next_call() else { panic!("a write") };
        assert_eq!(bytes[0], 30);
        assert_eq!(call(&mut job), "write dsync 1030+70");
        assert_eq!(answer(&mut job, Ok(70)), Some(Ok(IoDone::Done)));
    }

    #[test]
    fn a_write_that_writes_nothing_is_a_fault() {
        let fault = Some(Err(IoFault::System(Errno::IO.raw_os_error())));
        assert_eq!(answer(&mut write(&store(), false), Ok(0)), fault);
    }

    #[test]
    fn without_dsync_a_durable_write_is_followed_by_a_sync() {
        let store = store();
        let mut first = write(&store, true);
        assert_eq!(answer(&mut first, Err(Errno::OPNOTSUPP)), None);
        assert_eq!(call(&mut first), "write 1000+100");
        assert_eq!(answer(&mut first, Ok(100)), None);
        assert_eq!(call(&mut first), "sync");
        assert_eq!(answer(&mut first, Ok(0)), Some(Ok(IoDone::Done)));
        let mut second = write(&store, true);
        assert_eq!(call(&mut second), "write 1000+100", "it is remembered");
        assert_eq!(answer(&mut second, Ok(100)), None);
        assert_eq!(answer(&mut second, Err(Errno::IO)), Some(Err(IoFault::System(5))));
    }

    #[test]
    fn errors_have_their_faults() {
        for (error, fault) in [
            (Errno::NOSPC, IoFault::NoSpace),
            (Errno::DQUOT, IoFault::NoSpace),
            (Errno::IO, IoFault::System(5)),
            (Errno::ROFS, IoFault::System(30)),
        ] {
            assert_eq!(answer(&mut write(&store(), false), Err(error)), Some(Err(fault)));
            let mut zero = zero(&store(), 4096, false, false);
            assert_eq!(answer(&mut zero, Err(error)), Some(Err(fault)));
            let mut flush = job(&store(), IoOperation::Flush);
            assert_eq!(answer(&mut flush, Err(error)), Some(Err(fault)));
        }
    }

    #[test]
    fn a_call_refused_for_ever_is_a_fault_at_last() {
        let mut job = write(&store(), false);
        for _ in 0..RETRIES_MAX {
            assert_eq!(answer(&mut job, Err(Errno::AGAIN)), None);
        }
        let fault = IoFault::System(Errno::AGAIN.raw_os_error());
        assert_eq!(answer(&mut job, Err(Errno::AGAIN)), Some(Err(fault)));
    }

    #[test]
    fn zeroing_goes_in_pieces_and_falls_back() {
        let store = store();
        let mut job = zero(&store, ZERO_CALL_BYTES_MAX + 8192, false, true);
        assert_eq!(call(&mut job), format!("punch 4096+{ZERO_CALL_BYTES_MAX}"));
        assert_eq!(answer(&mut job, Ok(0)), None);
        let rest = 4096 + ZERO_CALL_BYTES_MAX;
        assert_eq!(call(&mut job), format!("punch {rest}+8192"));
        assert_eq!(answer(&mut job, Err(Errno::OPNOTSUPP)), None);
        assert_eq!(call(&mut job), format!("zero {rest}+8192"));
        assert_eq!(answer(&mut job, Err(Errno::OPNOTSUPP)), None);
        assert_eq!(call(&mut job), format!("write {rest}+8192"));
        assert_eq!(answer(&mut job, Ok(5000)), None);
        assert_eq!(call(&mut job), format!("write {}+3192", rest + 5000));
        assert_eq!(answer(&mut job, Ok(3192)), None);
        assert_eq!(call(&mut job), "sync");
        assert_eq!(answer(&mut job, Ok(0)), Some(Ok(IoDone::Done)));
        assert!(!store.able.has(Ability::PunchHole) && !store.able.has(Ability::ZeroRange));
    }

    #[test]
    fn zeros_that_keep_their_space_are_punched_and_allocated_where_need_be() {
        let store = store();
        let mut job = zero(&store, 8192, true, false);
        assert_eq!(call(&mut job), "zero 4096+8192");
        assert_eq!(answer(&mut job, Err(Errno::OPNOTSUPP)), None);
        assert_eq!(call(&mut job), "punch 4096+8192");
        assert_eq!(answer(&mut job, Ok(0)), None);
        assert_eq!(call(&mut job), "allocate 4096+8192");
        assert_eq!(answer(&mut job, Ok(0)), Some(Ok(IoDone::Done)));
        store.able.refuse(Ability::Allocate);
        assert_eq!(call(&mut zero(&store, 8192, true, false)), "write 4096+8192");
        assert_eq!(call(&mut zero(&store, 8192, false, false)), "punch 4096+8192");
    }

    #[test]
    fn written_zeros_are_bounded_pieces_of_zeros() {
        let store = store();
        store.able.refuse(Ability::PunchHole);
        store.able.refuse(Ability::ZeroRange);
        let mut job = zero(&store, 1 << 20, false, false);
        let Call::Write { bytes, .. } = job.next_call() else { panic!("a write") };
        assert!(bytes.len() == 256 << 10 && bytes.iter().all(|b| *b == 0));
        assert!((bytes.as_ptr() as usize).is_multiple_of(PAGE_BYTES));
        assert_eq!(answer(&mut job, Ok(0)), Some(Err(IoFault::System(5))));
    }

    #[test]
    fn reading_ahead_never_fails() {
        let mut ahead = job(&store(), IoOperation::Prefetch { range: range(0, 8192) });
        assert_eq!(call(&mut ahead), "ahead 0+8192");
        assert_eq!(answer(&mut ahead, Err(Errno::IO)), Some(Ok(IoDone::Done)));
    }
}
