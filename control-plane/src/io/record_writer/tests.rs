//! Real files: what `init` makes, what a start finds, and what is noticed when they were changed.

use base::ids::{Generation, Session};
use datapath::io::backing::Direct;
use rustix::fs::XattrFlags;

use super::*;
use crate::config::NodeConfig;
use crate::io::init::{InitError, init};
use crate::io::record_files::STAMP_ATTRIBUTE;
use crate::record::{Amnesia, Continuity, Finding, NodeRecord, RecordState, Stamp};

const SIZE: u64 = 1 << 20;

struct Folder {
    dir: tempfile::TempDir,
    config: NodeConfig,
}

fn folder(dir: tempfile::TempDir) -> Folder {
    let text = r#"
        [node]
        name = "a"
        data_dir = "a"
        record_dirs = ["a/record-1", "a/record-2"]
        address = "127.0.0.11:10810"
        [tls]
        dir = "pki/a"
        [nbd]
        listen = "127.0.0.11:10809"
        [peer]
        name = "b"
        address = "127.0.0.12:10810"
        [pair]
        id = "00112233-4455-6677-8899-aabbccddeeff"
        [[volume]]
        name = "vol0"
        id = "10112233-4455-6677-8899-aabbccddeeff"
        size = "1MiB"
        path = "a/vol0.img"
    "#;
    let config = NodeConfig::parse(&dir.path().join("a.toml"), text).expect("a configuration");
    fs::create_dir(dir.path().join("a")).expect("a folder");
    Folder { dir, config }
}

/// A node that was initialised and not started.
fn initialised() -> Folder {
    let folder = folder(tempfile::tempdir().expect("a folder"));
    folder.init(false).expect("nothing is in the way");
    folder
}

impl Folder {
    fn init(&self, source: bool) -> Result<crate::io::init::InitReport, InitError> {
        init(&self.config, &self.config.agreement().expect("complete"), source)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("a").join(name)
    }

    fn backing(&self) -> Arc<Backing> {
        let opened = Backing::open(&self.path("vol0.img"), SIZE, Direct::Off);
        Arc::new(opened.expect("the image is there and not in use"))
    }

    fn start_with(&self, backing: Arc<Backing>) -> Result<Started, StartError> {
        let node = &self.config.node;
        let agreement = self.config.agreement().expect("complete");
        let parts = agreement.volumes.iter().map(|volume| VolumeParts {
            name: volume.name.clone(),
            id: volume.id,
            backing: backing.clone(),
        });
        let parts: Vec<VolumeParts> = parts.collect();
        let incarnation = Incarnation([7; 16]);
        let rules = Rules::ALL_HOLD;
        let lock = lock_node(&node.data_dir)?;
        start(&node.name, &node.data_dir, &node.record_dirs, &parts, incarnation, rules, lock)
    }

    /// Starts, runs `jobs`, ends, and returns what the start had found.
    fn run(&self, jobs: impl FnOnce(&StartState) -> Vec<DurableStep>) -> StartState {
        let backing = self.backing();
        let Started { state, mut writer, .. } =
            self.start_with(backing.clone()).expect("it starts");
        let steps = jobs(&state);
        if !steps.is_empty() {
            writer.submit(Ticket(1), steps);
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let done = runtime.expect("a runtime").block_on(writer.next_done());
            let done = done.expect("the writer answers");
            assert_eq!((done.ticket, done.result), (Ticket(1), Ok(DurableDone::default())));
        }
        drop(writer);
        // The image is unlocked when the writer's thread has ended.
        while Arc::strong_count(&backing) > 1 {
            thread::yield_now();
        }
        state
    }

    fn look(&self) -> StartState {
        self.run(|_| Vec::new())
    }

    fn run_files(&self) -> RunFiles {
        RunFiles::of_record(&self.config.node.name, &self.config.node.record_dirs)
    }
}

impl Drop for Folder {
    /// Nothing is left behind below /run.
    fn drop(&mut self) {
        self.run_files().forget_sequence();
        self.run_files().note_late(false);
    }
}

/// What a node writes from F0 to a session start, in one go.
fn serve(round: u64) -> impl FnOnce(&StartState) -> Vec<DurableStep> {
    move |state| {
        let volume = VolumeIndex(0);
        let mut header = state.volumes[0].header;
        (header.round, header.start_seq) = (round, state.record.start_seq);
        let (volume_id, disk_id) = (header.volume_id, header.disk_id);
        let generation = state.record.generation;
        let mut record = state.record.clone();
        record.record_seq += 1;
        record.session = Session(round);
        record.state = RecordState::Active;
        record.session_boot_id = record.boot_id;
        vec![
            DurableStep::SyncData(volume),
            DurableStep::WriteStamp(volume, Stamp { volume_id, disk_id, generation, round }),
            DurableStep::WriteHeader(volume, header),
            DurableStep::WriteRecord(Box::new(record)),
        ]
    }
}

fn finding(state: &StartState) -> String {
    let [Finding::DataReplaced { why }] = &state.volumes[0].findings[..] else {
        panic!("the data was replaced: {:?}", state.volumes[0].findings);
    };
    why.clone()
}

#[test]
fn init_makes_a_sparse_image_a_stamp_and_a_record_that_start() {
    let folder = initialised();
    let image = fs::metadata(folder.path("vol0.img")).expect("it was made");
    assert_eq!(image.len(), SIZE);
    let state = folder.look();
    assert_eq!(state.texts(), Vec::<String>::new());
    assert_eq!(state.record.state, RecordState::Virgin);
    assert_eq!(state.record.continuity, Continuity::Continuous);
    assert_ne!(state.record.generation, Generation::NONE);
    assert!(state.volumes[0].empty);
    assert_eq!(state.volumes[0].header.size, SIZE);
}

#[test]
fn init_never_touches_a_node_that_was_initialised() {
    let folder = initialised();
    let before = fs::read(folder.path("record-1/record")).expect("it is there");
    let error = folder.init(true).expect_err("there is a record");
    assert!(error.to_string().contains("was initialised before"), "{error}");
    fs::remove_file(folder.path("record-1/record")).expect("it is there");
    folder.init(true).expect_err("there is still one");
    let after = fs::read(folder.path("record-2/record")).expect("it is there");
    assert_eq!(before, after);
}

#[test]
fn init_adopts_an_image_with_data_only_as_the_source() {
    let folder = folder(tempfile::tempdir().expect("a folder"));
    fs::write(folder.path("vol0.img"), vec![5; 1 << 20]).expect("an image");
    let error = folder.init(false).expect_err("it holds data");
    assert!(error.to_string().contains("--source"), "{error}");
    assert!(!folder.path("record-1/record").exists(), "nothing was changed");
    let report = folder.init(true).expect("it is the one that counts");
    assert_eq!(report.adopted, [folder.path("vol0.img")]);
    assert_eq!(fs::read(folder.path("vol0.img")).expect("kept"), vec![5; 1 << 20]);
    let state = folder.look();
    assert!(state.record.source && !state.volumes[0].empty);
}

#[test]
fn init_refuses_an_image_of_another_size() {
    let folder = folder(tempfile::tempdir().expect("a folder"));
    fs::write(folder.path("vol0.img"), vec![5; 4096]).expect("an image");
    folder.init(true).expect_err("it does not fit");
    assert!(!folder.path("record-1/record").exists());
}

#[test]
fn a_node_runs_once() {
    let folder = initialised();
    let _lock = lock_node(&folder.path("")).expect("nobody runs");
    let error = folder.start_with(folder.backing()).expect_err("somebody runs");
    assert!(error.to_string().contains("another process runs this node"), "{error}");
}

#[test]
fn without_a_record_a_node_does_not_start() {
    let folder = initialised();
    for place in ["record-1", "record-2"] {
        fs::remove_dir_all(folder.path(place)).expect("it is there");
    }
    let error = folder.start_with(folder.backing()).expect_err("there is none");
    assert!(error.to_string().contains("stretch init"), "{error}");
}

#[test]
fn what_was_made_durable_is_found_again() {
    let folder = initialised();
    for round in 1..6 {
        folder.run(serve(round));
        let state = folder.look();
        assert_eq!(state.texts(), Vec::<String>::new());
        assert_eq!(state.record.session, Session(round));
        assert_eq!(state.record.continuity, Continuity::ProcessRestart);
        assert_eq!(state.volumes[0].header.round, round);
    }
}

/// A process that ended in between may leave a stamp in memory that is not on the disk.
#[test]
fn a_stamp_that_is_ahead_is_to_be_written_again_before_the_header() {
    let folder = initialised();
    folder.run(serve(1));
    let ahead = folder.run(|state| {
        let header = state.volumes[0].header;
        let (volume_id, disk_id) = (header.volume_id, header.disk_id);
        let generation = state.record.generation;
        let stamp = Stamp { volume_id, disk_id, generation, round: 2 };
        vec![DurableStep::WriteStamp(VolumeIndex(0), stamp)]
    });
    assert_eq!(ahead.volumes[0].stamp, None);
    let state = folder.look();
    assert_eq!(state.volumes[0].stamp.map(|stamp| stamp.round), Some(2));
    assert_eq!(state.volumes[0].header.round, 2);
}

#[test]
fn a_blank_image_in_place_of_the_old_one_is_noticed() {
    let folder = initialised();
    folder.run(serve(1));
    fs::remove_file(folder.path("vol0.img")).expect("it is there");
    File::create(folder.path("vol0.img")).and_then(|f| f.set_len(SIZE)).expect("a blank one");
    let state = folder.look();
    assert!(finding(&state).starts_with("no stamp"));
    assert_eq!(state.record.continuity, Continuity::Amnesia);
    let texts = state.texts().join("; ");
    assert!(texts.contains("vol0.img: data replaced or rolled back"), "{texts}");
}

#[test]
fn an_older_copy_of_the_image_with_its_attributes_is_noticed() {
    let folder = initialised();
    folder.run(serve(1));
    let mut old = [0; 80];
    let image = folder.path("vol0.img");
    let length = rustix::fs::getxattr(&image, STAMP_ATTRIBUTE, &mut old[..]);
    assert_eq!(length, Ok(80), "the test's folder has user attributes");
    folder.run(serve(2));
    rustix::fs::setxattr(&image, STAMP_ATTRIBUTE, &old, XattrFlags::empty()).expect("restored");
    assert!(finding(&folder.look()).contains("round 1"));
}

#[test]
fn a_lost_place_is_amnesia_and_is_made_anew_by_the_next_record() {
    let folder = initialised();
    folder.run(serve(1));
    fs::remove_dir_all(folder.path("record-2")).expect("it is there");
    let state = folder.run(serve(2));
    assert!(matches!(state.amnesia[..], [Amnesia::PlaceLost { place: 1, .. }]));
    let texts = state.texts().join("; ");
    assert!(texts.contains("record-2/record: the file is not there"), "{texts}");
    assert!(texts.contains("goes on with the other one and makes this one again"), "{texts}");
    assert_eq!(folder.look().record.session, Session(2));
    assert!(folder.path("record-2/record").exists());
}

#[test]
fn a_torn_slot_of_one_place_is_normal_and_of_both_is_amnesia() {
    let folder = initialised();
    folder.run(serve(1));
    let tear = |place: &str| {
        let path = folder.path(place).join("record");
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[100] ^= 1;
        fs::write(&path, bytes).expect("torn");
    };
    tear("record-1");
    assert_eq!(folder.look().amnesia, []);
    tear("record-2");
    assert!(folder.look().amnesia.contains(&Amnesia::BadSlots));
}

#[test]
fn an_older_copy_of_the_record_is_noticed_until_the_machine_restarts() {
    let folder = initialised();
    if folder.run_files().sequence().is_none() {
        // No folder below /run is ours: then only the peer notices.
        return;
    }
    let keep = |from: &str, to: &str| {
        fs::create_dir_all(folder.path(to)).expect("a folder");
        fs::copy(folder.path(from).join("record"), folder.path(to).join("record")).expect("kept");
    };
    keep("record-1", "kept-1");
    keep("record-2", "kept-2");
    folder.run(serve(1));
    keep("kept-1", "record-1");
    keep("kept-2", "record-2");
    let state = folder.look();
    assert!(
        state.amnesia.iter().any(|a| matches!(a, Amnesia::OlderThanRun { .. })),
        "{:?}",
        state.amnesia
    );
}

/// D11: the process was killed before its record said that a flush had failed.
#[test]
fn a_failed_disk_is_remembered_until_a_record_says_so() {
    let folder = initialised();
    let run_files = folder.run_files();
    if run_files.sequence().is_none() {
        // No folder below /run is ours: the time until the record is not covered.
        return;
    }
    folder.run(serve(1));
    run_files.note_failure();
    // A record that was under way at that time says nothing of it.
    let write = |state: &StartState, io_failed| {
        let record_seq = state.record.record_seq + 1;
        let record = NodeRecord { record_seq, io_failed, ..state.record.clone() };
        vec![DurableStep::WriteRecord(Box::new(record))]
    };
    folder.run(|state| write(state, false));
    let state = folder.run(|state| write(state, true));
    assert!(state.record.io_failed && !state.record.clean);
    assert_eq!(state.record.continuity, Continuity::Unclean);
    assert!(!run_files.tells_of_failure());
    let state = folder.run(|state| write(state, false));
    assert!(state.record.io_failed, "as the record says");
    assert!(!folder.look().record.io_failed, "a join has ended it");
}

#[test]
fn a_job_that_fails_names_volume_operation_and_file_and_ends_there() {
    let folder = initialised();
    let meta = meta_path(&folder.path(""), &folder.config.volumes[0].name);
    fs::remove_file(&meta).expect("it is there");
    fs::create_dir(&meta).expect("a folder in its place");
    let Started { state, mut writer, .. } = folder.start_with(folder.backing()).expect("it starts");
    assert!(matches!(state.volumes[0].findings[..], [Finding::HeaderLost { .. }]));
    let mut record = state.record.clone();
    record.record_seq += 1;
    let header = DurableStep::WriteHeader(VolumeIndex(0), state.volumes[0].header);
    let before = fs::read(folder.path("record-1/record")).expect("it is there");
    writer.submit(Ticket(1), vec![header, DurableStep::WriteRecord(Box::new(record))]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let done = runtime.block_on(writer.next_done()).expect("the writer answers");
    let fault = done.result.expect_err("a folder is no file");
    assert_eq!(fault.volume, Some(VolumeIndex(0)));
    assert_eq!(fault.operation, "write the header");
    assert_eq!(fault.path, meta.display().to_string());
    let after = fs::read(folder.path("record-1/record")).expect("it is there");
    assert_eq!(before, after, "the steps after a failed one are not tried");
}
