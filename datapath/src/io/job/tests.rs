//! Every operation as the calls that it makes, answered by hand.

use std::fs::File;

use super::*;
use crate::io::store::Abilities;

const SIZE: u64 = 1 << 30;

fn store() -> Arc<Store> {
    store_of_blocks(1)
}

fn store_of_blocks(block_bytes: u64) -> Arc<Store> {
    let file = File::open("/dev/null").expect("opened");
    Arc::new(Store {
        fd: file.into(),
        size: SIZE,
        direct: false,
        block_bytes,
        zero_block_bytes: block_bytes,
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
    assert!(!matches!(job.next_call(), Call::Read { .. }) || answer.is_err() || answer == Ok(0));
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
fn a_read_of_parts_of_blocks_reads_whole_ones() {
    let mut job = job(&store_of_blocks(4096), IoOperation::Read { range: range(512, 4096) });
    assert_eq!(call(&mut job), "read 0+8192");
    assert_eq!(answer_read(&mut job, 4096, 1), None);
    assert_eq!(call(&mut job), "read 4096+4096");
    let Some(Ok(IoDone::Data(bytes))) = answer_read(&mut job, 4096, 2) else {
        panic!("the read is whole")
    };
    assert!(bytes[..3584].iter().all(|b| *b == 1) && bytes[3584..].iter().all(|b| *b == 2));
    assert_eq!(bytes.len(), 4096);
}

#[test]
fn a_write_of_parts_of_blocks_reads_their_rest_first() {
    let data = Bytes::from(vec![5; 8192]);
    let operation = IoOperation::Write { range: range(512, 8192), data, durable: true };
    let mut job = job(&store_of_blocks(4096), operation);
    assert_eq!(call(&mut job), "read 0+4096");
    assert_eq!(answer_read(&mut job, 4096, 1), None);
    assert_eq!(call(&mut job), "read 8192+4096");
    assert_eq!(answer_read(&mut job, 4096, 2), None);
    assert_eq!(call(&mut job), "write dsync 0+12288");
    let Call::Write { bytes, .. } = job.next_call() else { panic!("a write") };
    assert!(bytes[..512].iter().all(|b| *b == 1));
    assert!(bytes[512..8704].iter().all(|b| *b == 5));
    assert!(bytes[8704..].iter().all(|b| *b == 2));
    assert_eq!(answer(&mut job, Ok(12288)), Some(Ok(IoDone::Done)));
}

#[test]
fn a_part_of_a_block_that_cannot_be_read_is_not_written() {
    for (answered, fault) in [(Ok(0), IoFault::Truncated), (Err(Errno::IO), IoFault::System(5))] {
        let data = Bytes::from(vec![5; 512]);
        let operation = IoOperation::Write { range: range(512, 512), data, durable: false };
        let mut job = job(&store_of_blocks(4096), operation);
        assert_eq!(answer(&mut job, answered), Some(Err(fault)));
    }
}

#[test]
fn zeros_that_end_inside_blocks_are_written_there() {
    let store = store_of_blocks(4096);
    let zero = IoOperation::Zero { range: range(3584, 9216), allocate: false, durable: true };
    let mut job = job(&store, zero);
    assert_eq!(call(&mut job), "read 0+4096");
    assert_eq!(answer_read(&mut job, 4096, 1), None);
    assert_eq!(call(&mut job), "write 0+4096");
    let Call::Write { bytes, .. } = job.next_call() else { panic!("a write") };
    assert!(bytes[..3584].iter().all(|b| *b == 1) && bytes[3584..].iter().all(|b| *b == 0));
    assert_eq!(answer(&mut job, Ok(4096)), None);
    assert_eq!(call(&mut job), "punch 4096+8192");
    assert_eq!(answer(&mut job, Ok(0)), None);
    assert_eq!(call(&mut job), "read 12288+4096");
    assert_eq!(answer_read(&mut job, 4096, 2), None);
    assert_eq!(call(&mut job), "write 12288+4096");
    assert_eq!(answer(&mut job, Ok(4096)), None);
    assert_eq!(call(&mut job), "sync");
    assert_eq!(answer(&mut job, Ok(0)), Some(Ok(IoDone::Done)));
}

#[test]
fn a_device_through_the_page_cache_zeroes_whole_sectors_and_writes_the_rest() {
    let mut store = store();
    Arc::get_mut(&mut store).expect("nobody else has it").zero_block_bytes = 4096;
    let zero = IoOperation::Zero { range: range(3584, 9216), allocate: false, durable: true };
    let mut job = job(&store, zero);
    for due in ["write 3584+512", "punch 4096+8192", "write 12288+512", "sync"] {
        assert_eq!(call(&mut job), due);
        let done = if due.starts_with("write") { 512 } else { 0 };
        let end = answer(&mut job, Ok(done));
        assert_eq!(end, (due == "sync").then_some(Ok(IoDone::Done)));
    }
}

#[test]
fn reading_ahead_never_fails() {
    let mut ahead = job(&store(), IoOperation::Prefetch { range: range(0, 8192) });
    assert_eq!(call(&mut ahead), "ahead 0+8192");
    assert_eq!(answer(&mut ahead, Err(Errno::IO)), Some(Ok(IoDone::Done)));
}
