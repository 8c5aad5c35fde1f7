//! Every way to start: one row each.

use base::ids::{BootId, DiskId, Generation, Incarnation, MachineId, Session, VolumeId};
use base::rules::Rules;

use super::super::tests::record;
use super::*;
use crate::record::SlotRead;

const BOOT: BootId = BootId([1; 16]);
const OTHER_BOOT: BootId = BootId([2; 16]);
const GENERATION: Generation = Generation([11; 16]);

/// A node that served in session 4 and whose process ended.
fn input() -> StartInput {
    let header = VolumeHeader {
        header_seq: 5,
        volume_id: VolumeId([2; 16]),
        disk_id: DiskId([3; 16]),
        peer_disk_id: DiskId([4; 16]),
        bitmap_base: GENERATION,
        next_generation: GENERATION,
        round: 7,
        peer_round: 7,
        start_seq: 3,
        size: 1 << 20,
        diskseq: 0,
    };
    let mut record = record(20);
    record.state = RecordState::Active;
    record.continuity = Continuity::Continuous;
    record.by_reset = false;
    record.io_failed = false;
    record.session_boot_id = BOOT;
    record.volumes_digest = volumes_digest([(header.volume_id, header.disk_id)].into_iter());
    StartInput {
        node: "a".parse().expect("a name"),
        places: places(&record),
        volumes: vec![VolumeFound {
            id: header.volume_id,
            path: "a/vol0.img".to_owned(),
            size: header.size,
            header: Ok(header),
            stamp: Ok(Stamp {
                volume_id: header.volume_id,
                disk_id: header.disk_id,
                generation: GENERATION,
                round: 7,
            }),
            empty: false,
            diskseq: 0,
        }],
        boot_id: BOOT,
        machine_id: record.machine_id,
        vm_generation_id: record.vm_generation_id,
        incarnation: Incarnation([99; 16]),
        run_record_seq: None,
        run_tells_of_failure: false,
    }
}

fn places(record: &NodeRecord) -> [PlaceRead; 2] {
    let slot = || SlotRead::Valid(Box::new(record.clone()));
    [PlaceRead::Slots([slot(), slot()]), PlaceRead::Slots([slot(), slot()])]
}

type Change = fn(&mut NodeRecord, &mut StartInput);

fn start(change: Change) -> StartState {
    let mut input = input();
    let PlaceRead::Slots([SlotRead::Valid(record), _]) = &input.places[0] else {
        panic!("made above")
    };
    let mut record = (**record).clone();
    change(&mut record, &mut input);
    if let PlaceRead::Slots(_) = input.places[0] {
        input.places[0] = places(&record)[0].clone();
    }
    if let PlaceRead::Slots(_) = input.places[1] {
        input.places[1] = places(&record)[1].clone();
    }
    assess(&input, Rules::ALL_HOLD).expect("there is a record")
}

#[test]
fn every_way_to_start_has_its_continuity() {
    use Continuity::{Amnesia, Continuous, ProcessRestart, Unclean};
    let table: &[(&str, Change, Continuity, bool)] = &[
        ("process restarted", |_, _| {}, ProcessRestart, false),
        ("machine restarted", |_, i| i.boot_id = OTHER_BOOT, Unclean, true),
        ("the kernel shows no boot id", |_, i| i.boot_id = BootId::NONE, Unclean, true),
        (
            "machine restarted after a clean stop",
            |r, i| {
                (r.state, r.clean) = (RecordState::Stopped, true);
                i.boot_id = OTHER_BOOT;
            },
            ProcessRestart,
            false,
        ),
        (
            "stopped, but not cleanly",
            |r, i| {
                r.state = RecordState::Stopped;
                i.boot_id = OTHER_BOOT;
            },
            Unclean,
            true,
        ),
        ("never in a session", |r, _| r.state = RecordState::Virgin, Continuous, false),
        (
            "never in a session, machine restarted",
            |r, i| {
                r.state = RecordState::Virgin;
                i.boot_id = OTHER_BOOT;
            },
            Continuous,
            false,
        ),
        ("ready, process restarted", |r, _| r.state = RecordState::Ready, ProcessRestart, false),
        ("failed disk", |r, _| r.io_failed = true, Unclean, false),
        ("failed disk, no record of it", |_, i| i.run_tells_of_failure = true, Unclean, false),
        (
            "an earlier start found a reset",
            |r, _| (r.continuity, r.by_reset) = (Unclean, true),
            Unclean,
            true,
        ),
        ("an earlier start found amnesia", |r, _| r.continuity = Amnesia, Amnesia, false),
        ("a place is gone", |_, i| i.places[1] = PlaceRead::Absent, Amnesia, false),
        ("older than this machine wrote", |_, i| i.run_record_seq = Some(21), Amnesia, false),
        ("as new as this machine wrote", |_, i| i.run_record_seq = Some(20), ProcessRestart, false),
        ("another machine", |_, i| i.machine_id = MachineId([1; 16]), Amnesia, false),
        ("a machine without an id", |_, i| i.machine_id = MachineId::NONE, ProcessRestart, false),
        ("a snapshot of the machine", |_, i| i.vm_generation_id = [1; 16], Amnesia, false),
        ("foreign headers", |r, _| r.volumes_digest = [0; 16], Amnesia, false),
        ("no stamp", |_, i| i.volumes[0].stamp = Err("ENODATA".to_owned()), Amnesia, false),
        ("no header", |_, i| i.volumes[0].header = Err("ENOENT".to_owned()), Amnesia, false),
        ("stamp of another disk", |_, i| stamp(i).disk_id = DiskId([9; 16]), Amnesia, false),
        ("stamp of another volume", |_, i| stamp(i).volume_id = VolumeId([9; 16]), Amnesia, false),
        ("stamp of an older round", |_, i| stamp(i).round = 6, Amnesia, false),
        (
            "stamp of a strange data",
            |_, i| stamp(i).generation = Generation([9; 16]),
            Amnesia,
            false,
        ),
        ("crash between stamp and header", |_, i| stamp(i).round = 8, ProcessRestart, false),
        (
            "crash between header and stamp of a new generation",
            |_, i| {
                header(i).next_generation = Generation([9; 16]);
                stamp(i).generation = Generation([9; 16]);
            },
            ProcessRestart,
            false,
        ),
        ("an older header", |_, i| stamp(i).round = 9, ProcessRestart, false),
        (
            "device attached again",
            |_, i| {
                header(i).diskseq = 5;
                i.volumes[0].diskseq = 6;
            },
            Unclean,
            true,
        ),
        (
            "device attached again after a clean stop",
            |r, i| {
                (r.state, r.clean) = (RecordState::Stopped, true);
                header(i).diskseq = 5;
                i.volumes[0].diskseq = 6;
            },
            ProcessRestart,
            false,
        ),
    ];
    for (what, change, continuity, by_reset) in table {
        let start = start(*change);
        assert_eq!(start.record.continuity, *continuity, "{what}: {:?}", start.texts());
        assert_eq!(start.record.by_reset, *by_reset, "{what}");
        assert_eq!(start.amnesia.is_empty(), *continuity != Amnesia, "{what}");
        let told = !start.texts().is_empty();
        assert!(told || *continuity != Amnesia, "{what}: amnesia is explained");
    }
}

fn stamp(input: &mut StartInput) -> &mut Stamp {
    input.volumes[0].stamp.as_mut().expect("made above")
}

fn header(input: &mut StartInput) -> &mut VolumeHeader {
    input.volumes[0].header.as_mut().expect("made above")
}

#[test]
fn a_bitmap_file_takes_the_round_of_the_data() {
    let one_behind = start(|_, i| stamp(i).round = 8);
    assert_eq!(
        (one_behind.volumes[0].header.round, &one_behind.volumes[0].findings[..]),
        (8, &[][..])
    );
    let old_round = start(|_, i| stamp(i).round = 12);
    assert!(matches!(old_round.volumes[0].findings[..], [Finding::BitmapOld { .. }]));
    assert_eq!(old_round.volumes[0].header.round, 12);
    let old_start = start(|_, i| header(i).start_seq = 2);
    assert!(matches!(old_start.volumes[0].findings[..], [Finding::BitmapOld { .. }]));
    let old_base = start(|_, i| header(i).bitmap_base = Generation([9; 16]));
    assert!(matches!(old_base.volumes[0].findings[..], [Finding::BitmapOld { .. }]));
    let predecessor = start(|r, i| header(i).bitmap_base = r.ancestors[0]);
    assert_eq!(predecessor.volumes[0].findings, []);
}

#[test]
fn a_target_may_carry_the_stamp_of_its_source() {
    let target = start(|r, i| {
        let source_generation = Generation([8; 16]);
        r.state = RecordState::Target { source_generation, source_session: Session(5) };
        stamp(i).generation = source_generation;
        stamp(i).round = 40;
    });
    assert_eq!(target.volumes[0].findings, []);
}

#[test]
fn a_start_prepares_what_f0_writes() {
    let start = start(|r, i| {
        r.single = true;
        i.boot_id = OTHER_BOOT;
    });
    assert_eq!(start.record.start_seq, 21);
    assert_eq!(start.record.record_seq, 20);
    assert_eq!(start.record.boot_id, OTHER_BOOT);
    assert_eq!(start.record.session_boot_id, BOOT, "only a join changes it");
    assert_eq!(start.record.incarnation, Incarnation([99; 16]));
    assert!(!start.record.single);
}

#[test]
fn amnesia_takes_clean_away_and_a_restart_keeps_it() {
    let stopped: Change = |r, _| (r.state, r.clean) = (RecordState::Stopped, true);
    assert!(start(stopped).record.clean);
    let lost: Change = |r, i| {
        (r.state, r.clean) = (RecordState::Stopped, true);
        i.volumes[0].stamp = Err("ENODATA".to_owned());
    };
    assert!(!start(lost).record.clean);
}

#[test]
fn a_node_numbers_its_start_above_everything_this_machine_wrote() {
    assert_eq!(start(|_, i| i.run_record_seq = Some(50)).record.start_seq, 51);
}

#[test]
fn a_lost_header_keeps_the_identity_that_the_stamp_names() {
    let start = start(|_, i| i.volumes[0].header = Err("ENOENT".to_owned()));
    let header = start.volumes[0].header;
    assert_eq!((header.volume_id, header.disk_id), (VolumeId([2; 16]), DiskId([3; 16])));
    assert!(header.peer_disk_id.is_none());
    assert!(!start.amnesia.contains(&Amnesia::ForeignHeaders));
    let text = start.texts().join("; ");
    assert!(text.contains("a/vol0.img") && text.contains("ENOENT"), "{text}");
}

#[test]
fn without_a_record_there_is_nothing_to_judge() {
    let mut input = input();
    input.places = [PlaceRead::Absent, PlaceRead::Absent];
    assert_eq!(assess(&input, Rules::ALL_HOLD), Err(AssessError::NoRecord));
    let text = AssessError::NoRecord.to_string();
    assert!(text.contains("If this node ran before, do not run `stretch init`"), "{text}");
    input.places[0] = PlaceRead::Slots([SlotRead::Bad, SlotRead::Bad]);
    assert_eq!(assess(&input, Rules::ALL_HOLD), Err(AssessError::RecordLost));
    let text = AssessError::RecordLost.to_string();
    assert!(text.contains("Put back a backup of this node's whole folder"), "{text}");
}

#[test]
fn another_nodes_record_is_refused() {
    let mut input = input();
    input.node = "b".parse().expect("a name");
    let error = assess(&input, Rules::ALL_HOLD).expect_err("it is a's");
    assert!(error.to_string().contains("check record_dirs"), "{error}");
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_the_volumes() {
    let one = (VolumeId([1; 16]), DiskId([2; 16]));
    let two = (VolumeId([3; 16]), DiskId([4; 16]));
    let digest = |ids: [_; 2]| volumes_digest(ids.into_iter());
    assert_eq!(digest([one, two]), digest([two, one]));
    assert_ne!(digest([one, two]), digest([one, (two.0, one.1)]));
}
