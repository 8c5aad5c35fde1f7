//! The same table for every engine and place, against a plain array of bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base::limits::{BLOCK_BYTES, DIGEST_BLOCK_BYTES};
use base::range::ByteRange;
use bytes::Bytes;
use proptest::prelude::*;
use rustix::event::epoll;

use super::backing::{Backing, BackingError, DEVICE_TAIL_BYTES, Direct};
use super::engine::{Engine, EngineKind};
use crate::storage::{IoCompletion, IoDone, IoFault, IoId, IoOperation};

const SIZE: u64 = 1 << 20;

/// Where a volume lies and how I/O on it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Setup {
    place: &'static str,
    direct: Direct,
    kind: EngineKind,
}

fn setups() -> Vec<Setup> {
    let disk: &str = Box::leak(std::env::temp_dir().to_string_lossy().into_owned().into());
    let mut setups = vec![
        Setup { place: "/dev/shm", direct: Direct::Auto, kind: EngineKind::Inline },
        Setup { place: "/dev/shm", direct: Direct::Auto, kind: EngineKind::Ring },
        Setup { place: "/dev/shm", direct: Direct::Auto, kind: EngineKind::Pool },
    ];
    for kind in [EngineKind::Ring, EngineKind::Pool] {
        for direct in [Direct::Auto, Direct::Off] {
            setups.push(Setup { place: disk, direct, kind });
        }
    }
    setups
}

/// A volume on an engine, with the folder it lies in.
struct Bench {
    engine: Engine,
    epoll: std::os::fd::OwnedFd,
    next_id: u64,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(setup: Setup, size: u64) -> Self {
        let dir = tempfile::tempdir_in(setup.place).expect("a folder");
        let path = dir.path().join("vol.img");
        File::create(&path).and_then(|file| file.set_len(size)).expect("an image");
        let backing = Backing::open(&path, size, setup.direct).expect("it opens");
        Self::on(&backing, setup.kind, dir, path)
    }

    fn on(backing: &Backing, kind: EngineKind, dir: tempfile::TempDir, path: PathBuf) -> Self {
        let engine = Engine::start_as(backing, kind).expect("the engine starts");
        assert_eq!(engine.kind(), kind);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, engine.event_fd(), epoll::EventData::new_u64(1), flags).expect("added");
        Self { engine, epoll, next_id: 0, path, _dir: dir }
    }

    /// Ends when nothing holds the file any more: rings and threads go a moment after their engine.
    fn close(self) {
        let Self { engine, path, .. } = self;
        drop(engine);
        wait_until_free(&path);
    }

    fn submit(&mut self, operation: IoOperation) -> IoId {
        let id = IoId(self.next_id);
        self.next_id += 1;
        self.engine.submit(id, operation);
        id
    }

    /// Turns the loop as the volume thread does until everything has completed.
    fn finish(&mut self) -> BTreeMap<IoId, Result<IoDone, IoFault>> {
        let mut all = Vec::<IoCompletion>::new();
        loop {
            self.engine.begin_turn();
            self.engine.poll_completions(&mut all);
            self.engine.flush_submissions();
            if self.engine.in_flight() == 0 {
                break;
            }
            if !self.engine.has_completions() && !self.engine.has_unfinished() {
                let mut events = Vec::with_capacity(4);
                let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
                let buffer = rustix::buffer::spare_capacity(&mut events);
                let count = epoll::wait(&self.epoll, buffer, Some(&limit));
                assert_ne!(count, Ok(0), "a completion is announced");
            }
        }
        let count = all.len();
        let map: BTreeMap<_, _> = all.into_iter().map(|done| (done.id, done.result)).collect();
        assert_eq!(map.len(), count, "each operation completes once");
        map
    }

    fn one(&mut self, operation: IoOperation) -> Result<IoDone, IoFault> {
        let id = self.submit(operation);
        self.finish().remove(&id).expect("it completed")
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<Bytes, IoFault> {
        match self.one(IoOperation::Read { range: range(offset, length) })? {
            IoDone::Data(bytes) => Ok(bytes),
            IoDone::Done => panic!("a read returns bytes"),
        }
    }

    fn write(&mut self, offset: u64, length: u64, byte: u8) -> Result<IoDone, IoFault> {
        let data = Bytes::from(vec![byte; length as usize]);
        self.one(IoOperation::Write { range: range(offset, length), data, durable: false })
    }
}

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).expect("in range")
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Read { block: u64, blocks: u64 },
    Write { block: u64, blocks: u64, byte: u8, durable: bool, shift: usize },
    Zero { block: u64, blocks: u64, allocate: bool, durable: bool },
    Flush,
    Prefetch { block: u64, blocks: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = SIZE / BLOCK_BYTES;
    let extent = (0..blocks, prop_oneof![1u64..16, 1u64..300])
        .prop_map(move |(block, count)| (block, count.min(blocks - block)));
    let step = prop_oneof![
        4 => extent.clone().prop_map(|(block, blocks)| Step::Read { block, blocks }),
        6 => (extent.clone(), any::<u8>(), prop::bool::weighted(0.1), 0usize..4).prop_map(
            |((block, blocks), byte, durable, shift)| Step::Write { block, blocks, byte, durable, shift }
        ),
        2 => (extent.clone(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |((block, blocks), allocate, durable)| Step::Zero { block, blocks, allocate, durable }
        ),
        1 => Just(Step::Flush),
        1 => extent.prop_map(|(block, blocks)| Step::Prefetch { block, blocks }),
    ];
    prop::collection::vec(step, 1..60)
}

/// A payload that is page-aligned only by chance for a `shift` other than zero.
fn payload(length: u64, byte: u8, shift: usize) -> Bytes {
    let bytes: Vec<u8> =
        (0..length as usize + shift).map(|i| byte.wrapping_add((i % 251) as u8)).collect();
    Bytes::from(bytes).slice(shift..)
}

fn operation(step: &Step) -> IoOperation {
    let at = |block: u64, blocks: u64| range(block * BLOCK_BYTES, blocks * BLOCK_BYTES);
    match *step {
        Step::Read { block, blocks } => IoOperation::Read { range: at(block, blocks) },
        Step::Write { block, blocks, byte, durable, shift } => IoOperation::Write {
            range: at(block, blocks),
            data: payload(blocks * BLOCK_BYTES, byte, shift),
            durable,
        },
        Step::Zero { block, blocks, allocate, durable } => {
            IoOperation::Zero { range: at(block, blocks), allocate, durable }
        }
        Step::Flush => IoOperation::Flush,
        Step::Prefetch { block, blocks } => IoOperation::Prefetch { range: at(block, blocks) },
    }
}

/// Runs a history, as many operations at once as do not conflict, and compares every byte.
fn run_history(setup: Setup, steps: &[Step]) {
    run_history_on(&mut Bench::new(setup, SIZE), BLOCK_BYTES, steps);
}

/// The same on a new volume whose operations conflict if they share a granule.
fn run_history_on(bench: &mut Bench, granule_bytes: u64, steps: &[Step]) {
    let mut model = vec![0u8; SIZE as usize];
    let mut batch: Vec<(IoId, IoOperation)> = Vec::new();
    for step in steps {
        let next = operation(step);
        let range = next.range().round_out(granule_bytes);
        let conflict =
            batch.iter().any(|(_, other)| other.range().round_out(granule_bytes).overlaps(range));
        if conflict {
            check_batch(bench, &mut batch, &mut model);
        }
        let id = bench.submit(next.clone());
        batch.push((id, next));
    }
    check_batch(bench, &mut batch, &mut model);
    assert_eq!(bench.engine.in_flight(), 0);
    let image = fs::read(&bench.path).expect("the image");
    let kind = bench.engine.kind();
    assert!(image[..SIZE as usize] == model, "{}, {kind:?}: it differs", bench.path.display());
}

fn check_batch(bench: &mut Bench, batch: &mut Vec<(IoId, IoOperation)>, model: &mut [u8]) {
    let mut results = bench.finish();
    for (id, operation) in batch.drain(..) {
        let range = operation.range();
        let bytes = range.offset() as usize..range.end() as usize;
        let result = results.remove(&id).expect("it completed").expect("nothing fails here");
        match (operation, result) {
            (IoOperation::Read { .. }, IoDone::Data(data)) => assert!(data == model[bytes]),
            (IoOperation::Write { data, .. }, IoDone::Done) => model[bytes].copy_from_slice(&data),
            (IoOperation::Zero { .. }, IoDone::Done) => model[bytes].fill(0),
            (IoOperation::Flush | IoOperation::Prefetch { .. }, IoDone::Done) => {}
            (operation, result) => panic!("{operation:?} returned {result:?}"),
        }
    }
    assert!(results.is_empty(), "nothing else completes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_engine_is_an_array_of_bytes(steps in steps()) {
        for setup in setups() {
            run_history(setup, &steps);
        }
    }
}

#[test]
fn more_operations_than_slots_all_complete() {
    for setup in setups() {
        let mut bench = Bench::new(setup, 4 << 20);
        for block in 0..1000 {
            let data = Bytes::from(vec![block as u8; 4096]);
            let range = range(block * 4096, 4096);
            bench.submit(IoOperation::Write { range, data, durable: false });
        }
        let done = bench.finish();
        assert_eq!(done.len(), 1000, "{setup:?}");
        assert!(done.values().all(|result| *result == Ok(IoDone::Done)));
        for block in 0..1000 {
            bench.submit(IoOperation::Read { range: range(block * 4096, 4096) });
        }
        for (block, (_, result)) in bench.finish().into_iter().enumerate() {
            assert_eq!(result, Ok(IoDone::Data(Bytes::from(vec![block as u8; 4096]))));
        }
    }
}

#[test]
fn a_large_zeroing_takes_turns_with_others() {
    let size = 4 * super::job::ZERO_CALL_BYTES_MAX;
    for setup in setups() {
        let mut bench = Bench::new(setup, size);
        bench.write(size - 4096, 4096, 7).expect("written");
        let zero =
            IoOperation::Zero { range: range(4096, size - 4096), allocate: false, durable: true };
        let zero = bench.submit(zero);
        let data = Bytes::from(vec![9; 4096]);
        let write = IoOperation::Write { range: range(0, 4096), data, durable: true };
        let write = bench.submit(write);
        if setup.kind == EngineKind::Inline {
            let mut first = Vec::new();
            bench.engine.poll_completions(&mut first);
            assert_eq!(first.iter().map(|done| done.id).collect::<Vec<_>>(), [write]);
            assert!(!bench.engine.has_completions(), "the turn has zeroed enough");
            assert!(bench.engine.has_unfinished(), "the loop must come back for the zeroing");
        } else {
            assert_eq!(bench.finish().len(), 2);
        }
        let rest = bench.finish();
        assert!(setup.kind != EngineKind::Inline || rest.contains_key(&zero));
        assert!(bench.read(size - 4096, 4096).expect("read").iter().all(|b| *b == 0), "{setup:?}");
        assert!(bench.read(0, 4096).expect("read").iter().all(|b| *b == 9));
    }
}

#[test]
fn a_turn_in_place_zeroes_a_bounded_number_of_bytes() {
    const BOUND: u64 = super::inline::TURN_ZEROES_MAX + super::job::ZERO_TMPFS_BYTES_MAX;
    const LENGTH: u64 = 3 * BOUND;
    const COUNT: u64 = 4;
    let setup = Setup { place: "/dev/shm", direct: Direct::Auto, kind: EngineKind::Inline };
    let mut bench = Bench::new(setup, COUNT * LENGTH);
    for number in 0..COUNT {
        let range = range(number * LENGTH, LENGTH);
        bench.submit(IoOperation::Zero { range, allocate: true, durable: true });
    }
    let allocated = |path: &std::path::Path| fs::metadata(path).expect("there").blocks() * 512;
    let (mut before, mut done, mut turns) = (0, Vec::new(), 0);
    while done.len() < COUNT as usize {
        assert!(bench.engine.has_unfinished(), "the loop must come back");
        bench.engine.begin_turn();
        loop {
            bench.engine.poll_completions(&mut done);
            if !bench.engine.has_completions() {
                break;
            }
        }
        let now = allocated(&bench.path);
        assert!(now - before <= BOUND, "{} bytes in one turn", now - before);
        (before, turns) = (now, turns + 1);
    }
    assert!(turns >= COUNT * LENGTH / BOUND && before == COUNT * LENGTH);
    assert!(!bench.engine.has_unfinished());
}

#[test]
fn an_operation_outside_the_volume_is_a_defect() {
    for setup in setups() {
        let outside =
            IoOperation::Zero { range: range(SIZE - 512, 1024), allocate: false, durable: false };
        let caught = std::panic::catch_unwind(|| Bench::new(setup, SIZE).submit(outside));
        assert!(caught.is_err(), "{setup:?}");
    }
}

#[test]
fn a_file_truncated_under_us_is_noticed_by_a_read() {
    for setup in setups() {
        let mut bench = Bench::new(setup, SIZE);
        bench.write(0, SIZE, 5).expect("written");
        let file = fs::OpenOptions::new().write(true).open(&bench.path).expect("opened");
        file.set_len(SIZE / 2).expect("truncated");
        assert_eq!(bench.read(SIZE / 2, 4096), Err(IoFault::Truncated), "{setup:?}");
        assert_eq!(bench.read(SIZE / 2 - 4096, 8192), Err(IoFault::Truncated), "{setup:?}");
        assert_eq!(bench.read(0, 4096), Ok(Bytes::from(vec![5; 4096])));
    }
}

#[test]
fn dropping_an_engine_with_work_under_way_is_harmless() {
    for setup in setups() {
        let mut bench = Bench::new(setup, 64 << 20);
        for block in 0..64 {
            let data = Bytes::from(vec![1; 1 << 20]);
            let range = range(block << 20, 1 << 20);
            bench.submit(IoOperation::Write { range, data, durable: true });
        }
        bench.engine.flush_submissions();
    }
}

#[test]
fn a_wrong_or_busy_file_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("vol.img");
    let open = |size| Backing::open(&path, size, Direct::Auto);
    assert!(matches!(open(SIZE), Err(BackingError::Open { .. })));
    File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
    for wrong in [SIZE - 512, SIZE + 512] {
        let error = open(wrong).expect_err("wrong size");
        assert!(matches!(error, BackingError::FileSize { actual: SIZE, .. }));
        assert!(error.to_string().contains(&wrong.to_string()), "{error}");
    }
    let first = open(SIZE).expect("it opens");
    assert!(matches!(open(SIZE), Err(BackingError::Busy { .. })));
    let engine = Engine::start_as(&first, EngineKind::Pool).expect("started");
    drop(first);
    assert!(matches!(open(SIZE), Err(BackingError::Busy { .. })), "the engine holds the lock");
    drop(engine);
    wait_until_free(&path);
    let error = Backing::open(dir.path(), SIZE, Direct::Auto).expect_err("a folder");
    assert!(matches!(error, BackingError::Kind { .. }));
}

fn wait_until_free(path: &Path) {
    let file = File::open(path).expect("opened");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("free at last");
}

#[test]
fn direct_is_decided_as_asked() {
    let shm = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let path = shm.path().join("vol.img");
    File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
    assert!(matches!(Backing::open(&path, SIZE, Direct::On), Err(BackingError::NotDirect { .. })));
    let backing = Backing::open(&path, SIZE, Direct::Auto).expect("it opens");
    assert!(backing.is_on_tmpfs() && !backing.is_device() && backing.zero_is_fast());
    assert_eq!(backing.description(), "file on tmpfs, through the page cache (tmpfs is memory)");

    let disk = tempfile::tempdir().expect("a folder");
    let path = disk.path().join("vol.img");
    File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
    let auto = Backing::open(&path, SIZE, Direct::Auto).expect("it opens");
    let (words, direct) = (auto.description().to_owned(), auto.store.direct);
    assert_eq!(auto.granule_bytes(), BLOCK_BYTES as u32);
    drop(auto);
    let flags = |backing: &Backing| rustix::fs::fcntl_getfl(backing.fd()).expect("flags");
    match Backing::open(&path, SIZE, Direct::On) {
        Ok(on) => {
            assert!(direct && flags(&on).contains(rustix::fs::OFlags::DIRECT), "{words}");
        }
        Err(error) => assert!(!direct, "{error} but {words}"),
    }
    let off = Backing::open(&path, SIZE, Direct::Off).expect("it opens");
    assert!(!flags(&off).contains(rustix::fs::OFlags::DIRECT));
    assert!(off.description().contains("as configured"));
}

#[test]
fn extents_tell_whether_there_is_data() {
    for place in ["/dev/shm".into(), std::env::temp_dir()] {
        let dir = tempfile::tempdir_in(place).expect("a folder");
        let path = dir.path().join("vol.img");
        File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
        let backing = Backing::open(&path, SIZE, Direct::Off).expect("it opens");
        assert!(!backing.has_data_extents(), "opening leaves no trace");
        let mut engine = Engine::start_as(&backing, EngineKind::Pool).expect("started");
        let data = Bytes::from(vec![1; 512]);
        let range = range(SIZE - 512, 512);
        engine.submit(IoId(1), IoOperation::Write { range, data, durable: false });
        let mut done = Vec::new();
        while done.is_empty() {
            engine.poll_completions(&mut done);
        }
        assert!(backing.has_data_extents());
    }
}

/// Something that only root can make, and that is taken away at the end.
struct Mount {
    dir: tempfile::TempDir,
    undo: Vec<Vec<String>>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        for command in self.undo.drain(..).rev() {
            let _ = Command::new(&command[0]).args(&command[1..]).status();
        }
    }
}

/// Runs a program; `None`, with a line that says so, if it is missing or may not.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("SKIPPED, {program} failed (root is needed): {}", why.trim());
            None
        }
        Err(error) => {
            eprintln!("SKIPPED, {program} cannot be started: {error}");
            None
        }
    }
}

fn small_tmpfs() -> Option<Mount> {
    let dir = tempfile::tempdir().expect("a folder");
    let target = dir.path().to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", &target])?;
    Some(Mount { dir, undo: vec![vec!["umount".into(), "--lazy".into(), target]] })
}

fn small_ext4() -> Option<Mount> {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("disk").to_string_lossy().into_owned();
    File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
    run("mkfs.ext4", &["-q", "-O", "^has_journal", &image])?;
    let target = dir.path().to_string_lossy().into_owned();
    run("mount", &["-o", "loop", &image, &target])?;
    Some(Mount { dir, undo: vec![vec!["umount".into(), "--lazy".into(), target]] })
}

#[test]
fn a_full_disk_is_told_as_such() {
    let both = [EngineKind::Ring, EngineKind::Pool];
    let all = [EngineKind::Inline, EngineKind::Ring, EngineKind::Pool];
    for (mount, kinds) in [(small_tmpfs(), &all[..]), (small_ext4(), &both[..])] {
        let Some(mount) = mount else { continue };
        for kind in kinds {
            let dir = tempfile::tempdir_in(mount.dir.path()).expect("a folder");
            let path = dir.path().join("vol.img");
            let size = 64 << 20;
            File::create(&path).and_then(|file| file.set_len(size)).expect("an image");
            let backing = Backing::open(&path, size, Direct::Auto).expect("it opens");
            let mut bench = Bench::on(&backing, *kind, dir, path);
            drop(backing);
            let mut results = (0..64).map(|n| bench.write(n << 20, 1 << 20, 1));
            let full = results.find(|result| result.is_err());
            assert_eq!(full, Some(Err(IoFault::NoSpace)), "{kind:?}");
            let allocate = IoOperation::Zero {
                range: range(32 << 20, 32 << 20),
                allocate: true,
                durable: false,
            };
            assert_eq!(bench.one(allocate), Err(IoFault::NoSpace), "{kind:?}");
            let free =
                IoOperation::Zero { range: range(0, 1 << 20), allocate: false, durable: true };
            assert_eq!(bench.one(free), Ok(IoDone::Done), "{kind:?}: a full disk can be trimmed");
            assert_eq!(
                bench.write(0, 512 << 10, 2),
                Ok(IoDone::Done),
                "{kind:?}: and then written"
            );
            bench.close();
        }
    }
}

/// A loop device of `bytes` bytes in sectors of `sector_bytes`.
fn loop_device(bytes: u64, sector_bytes: u64) -> Option<(Mount, PathBuf)> {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("disk").to_string_lossy().into_owned();
    File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
    let sector = sector_bytes.to_string();
    let device = run("losetup", &["--find", "--show", "--sector-size", &sector, &image])?;
    let undo = vec![vec!["losetup".to_owned(), "--detach".to_owned(), device.clone()]];
    Some((Mount { dir, undo }, PathBuf::from(device)))
}

#[test]
fn a_block_device_has_its_stamp_behind_the_volume() {
    let size = 8 << 20;
    let Some((_mount, device)) = loop_device(size + DEVICE_TAIL_BYTES, 512) else { return };
    let too_large = Backing::open(&device, size + 512, Direct::Auto).expect_err("too large");
    assert!(matches!(too_large, BackingError::DeviceSize { .. }), "{too_large}");
    for kind in [EngineKind::Ring, EngineKind::Pool] {
        let backing = Backing::open(&device, size, Direct::Auto).expect("it opens");
        assert!(backing.is_device() && !backing.is_on_tmpfs(), "devtmpfs is no tmpfs");
        let again = Backing::open(&device, size, Direct::Auto).expect_err("in use");
        assert!(matches!(again, BackingError::Busy { .. }), "{again}");
        let stamp = fs::OpenOptions::new().read(true).write(true).open(&device).expect("opened");
        stamp.write_all_at(&[7; 4096], size).and_then(|()| stamp.sync_all()).expect("written");
        let dir = tempfile::tempdir().expect("a folder");
        let mut bench = Bench::on(&backing, kind, dir, device.clone());
        bench.write(0, size, 3).expect("written");
        let hole = range(DIGEST_BLOCK_BYTES, 2 * DIGEST_BLOCK_BYTES);
        for allocate in [false, true] {
            let zero = IoOperation::Zero { range: hole, allocate, durable: true };
            assert_eq!(bench.one(zero), Ok(IoDone::Done), "{kind:?}");
            assert!(
                bench.read(hole.offset(), hole.length()).expect("read").iter().all(|b| *b == 0)
            );
        }
        assert!(bench.read(0, 4096).expect("read").iter().all(|b| *b == 3));
        assert_eq!(bench.one(IoOperation::Flush), Ok(IoDone::Done));
        let mut tail = [0; 4096];
        stamp.read_exact_at(&mut tail, size).expect("read");
        assert_eq!(tail, [7; 4096], "behind the volume nothing is touched");
        drop(backing);
        bench.close();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_of_larger_blocks_is_an_array_of_bytes(steps in steps()) {
        for kind in [EngineKind::Ring, EngineKind::Pool] {
            let Some((mount, device)) = loop_device(SIZE + DEVICE_TAIL_BYTES, 4096) else {
                return Ok(());
            };
            let backing = Backing::open(&device, SIZE, Direct::On).expect("direct I/O works");
            assert_eq!(backing.granule_bytes(), 4096);
            assert_eq!(backing.description(), "block device, direct I/O in blocks of 4096 bytes");
            let dir = tempfile::tempdir().expect("a folder");
            let mut bench = Bench::on(&backing, kind, dir, device);
            drop(backing);
            run_history_on(&mut bench, 4096, &steps);
            bench.close();
            drop(mount);
        }
    }

    /// Through the page cache such a disk takes writes of any range, but zeroes whole sectors only.
    #[test]
    fn a_disk_of_larger_blocks_is_one_through_the_page_cache_too(steps in steps()) {
        for kind in [EngineKind::Ring, EngineKind::Pool] {
            let Some((mount, device)) = loop_device(SIZE + DEVICE_TAIL_BYTES, 4096) else {
                return Ok(());
            };
            let backing = Backing::open(&device, SIZE, Direct::Off).expect("it opens");
            assert_eq!(backing.granule_bytes(), 512);
            let dir = tempfile::tempdir().expect("a folder");
            let mut bench = Bench::on(&backing, kind, dir, device);
            drop(backing);
            run_history_on(&mut bench, 512, &steps);
            bench.close();
            drop(mount);
        }
    }
}

/// Zeroings that begin or end inside a sector of 4096 bytes, of a volume that ends inside one.
#[test]
fn zeros_of_parts_of_sectors_reach_a_disk_through_the_page_cache() {
    let size = SIZE - 512;
    for kind in [EngineKind::Ring, EngineKind::Pool] {
        let Some((_mount, device)) = loop_device(SIZE + DEVICE_TAIL_BYTES, 4096) else { return };
        let behind = fs::OpenOptions::new().read(true).write(true).open(&device).expect("opened");
        behind.write_all_at(&[7; 512], size).and_then(|()| behind.sync_all()).expect("written");
        let backing = Backing::open(&device, size, Direct::Auto).expect("it opens");
        let dir = tempfile::tempdir().expect("a folder");
        let mut bench = Bench::on(&backing, kind, dir, device.clone());
        drop(backing);
        let mut expected = vec![3; size as usize];
        bench.write(0, size, 3).expect("written");
        for (offset, length) in [(512, 512), (7680, 1024), (12800, 16384), (size - 8192, 8192)] {
            for (allocate, durable) in [(false, false), (false, true), (true, false), (true, true)]
            {
                let zero = IoOperation::Zero { range: range(offset, length), allocate, durable };
                let shown = format!("{kind:?}: {zero:?}");
                bench.write(offset, length, 5).expect("written");
                assert_eq!(bench.one(zero), Ok(IoDone::Done), "{shown}");
                expected[offset as usize..(offset + length) as usize].fill(0);
                assert!(bench.read(0, size).expect("read") == expected, "{shown}");
            }
        }
        assert_eq!(bench.one(IoOperation::Flush), Ok(IoDone::Done));
        let mut tail = [0; 512];
        behind.read_exact_at(&mut tail, size).expect("read");
        assert_eq!(tail, [7; 512], "behind the volume nothing is touched");
        bench.close();
    }
}

#[test]
fn a_volume_that_ends_inside_a_block_is_not_used_directly() {
    let Some((_mount, device)) = loop_device(SIZE + DEVICE_TAIL_BYTES, 4096) else { return };
    let on = Backing::open(&device, SIZE - 512, Direct::On).expect_err("it would write behind it");
    assert!(on.to_string().contains("does not end with a block"), "{on}");
    let auto = Backing::open(&device, SIZE - 512, Direct::Auto).expect("it opens");
    assert!(!auto.store.direct && auto.description().contains("does not end with a block"));
    assert_eq!(auto.granule_bytes(), 512);
}

/// A file's blocks of direct I/O are those of the device below.
#[test]
fn a_file_on_a_disk_of_larger_blocks_is_used_directly() {
    let Some((_loop, device)) = loop_device(16 << 20, 4096) else { return };
    let device = device.to_string_lossy().into_owned();
    let Some(_) = run("mkfs.ext4", &["-q", "-O", "^has_journal", &device]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let target = dir.path().to_string_lossy().into_owned();
    let Some(_) = run("mount", &[&device, &target]) else { return };
    let mount = Mount { dir, undo: vec![vec!["umount".into(), "--lazy".into(), target]] };
    let path = mount.dir.path().join("vol.img");
    File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
    for kind in [EngineKind::Ring, EngineKind::Pool] {
        let backing = Backing::open(&path, SIZE, Direct::Auto).expect("it opens");
        assert_eq!(backing.description(), "file, direct I/O in blocks of 4096 bytes");
        let dir = tempfile::tempdir().expect("a folder");
        let mut bench = Bench::on(&backing, kind, dir, path.clone());
        drop(backing);
        bench.write(0, 16384, 1).expect("written");
        bench.write(3584, 1024, 2).expect("written");
        let zero = IoOperation::Zero { range: range(512, 512), allocate: true, durable: true };
        assert_eq!(bench.one(zero), Ok(IoDone::Done));
        let mut expected = vec![1; 16384];
        expected[3584..4608].fill(2);
        expected[512..1024].fill(0);
        assert_eq!(bench.read(0, 16384), Ok(Bytes::from(expected)), "{kind:?}");
        bench.close();
    }
}

/// The largest read and write, shifted by less than a block.
#[test]
fn the_largest_request_may_end_inside_blocks() {
    let (size, length) = (64 << 20, u64::from(base::limits::REQUEST_BYTES_MAX));
    let Some((_mount, device)) = loop_device(size + DEVICE_TAIL_BYTES, 4096) else { return };
    let backing = Backing::open(&device, size, Direct::On).expect("direct I/O works");
    let dir = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::on(&backing, EngineKind::Ring, dir, device);
    drop(backing);
    assert_eq!(bench.write(512, length, 7), Ok(IoDone::Done));
    assert!(bench.read(512, length).expect("read").iter().all(|byte| *byte == 7));
    assert!(bench.read(0, 512).expect("read").iter().all(|byte| *byte == 0));
    bench.close();
}

#[test]
fn an_engine_is_chosen_for_the_place() {
    for (place, kinds) in [
        ("/dev/shm".into(), &[EngineKind::Inline][..]),
        (std::env::temp_dir(), &[EngineKind::Inline, EngineKind::Ring, EngineKind::Pool][..]),
    ] {
        let dir = tempfile::tempdir_in(place).expect("a folder");
        let path = dir.path().join("vol.img");
        File::create(&path).and_then(|file| file.set_len(SIZE)).expect("an image");
        let backing = Backing::open(&path, SIZE, Direct::Auto).expect("it opens");
        let engine = Engine::start(&backing).expect("started");
        assert!(kinds.contains(&engine.kind()));
        assert_eq!(engine.kind() == EngineKind::Inline, backing.is_on_tmpfs());
        let wait = Duration::ZERO;
        let idle = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(
            &idle,
            engine.event_fd(),
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )
        .expect("added");
        let mut events = Vec::with_capacity(1);
        let limit = rustix::time::Timespec::try_from(wait).expect("short");
        let buffer = rustix::buffer::spare_capacity(&mut events);
        assert_eq!(epoll::wait(&idle, buffer, Some(&limit)), Ok(0), "nothing wakes an idle loop");
    }
}
