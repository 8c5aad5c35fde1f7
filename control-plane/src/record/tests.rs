//! Formats: golden bytes, every damaged bit, and what no version can have written.

use base::ids::{
    BootId, DiskId, Generation, Incarnation, MachineId, PairId, Session, VolumeId, WitnessToken,
};
use base::limits::ANCESTORS_MAX;
use proptest::prelude::*;

use super::header::{VolumeHeader, choose_header};
use super::layout::{BLOCK_BYTES, LayoutError};
use super::slots::{PlaceRead, SlotPlan, SlotRead, SlotWrite, choose};
use super::stamp::{STAMP_BYTES, Stamp, choose_stamp};
use super::{Amnesia, Continuity, NodeRecord, RecordState, Vote, WitnessVote};

pub(super) fn record(record_seq: u64) -> NodeRecord {
    NodeRecord {
        pair_id: PairId([1; 16]),
        node: "a".parse().expect("a name"),
        volumes_digest: [2; 16],
        record_seq,
        start_seq: 3,
        session: Session(4),
        votes: [Vote { held: true, transfers: 5 }, Vote { held: false, transfers: 6 }],
        witness_won: false,
        witness_token: Some(WitnessVote {
            witness: "w".parse().expect("a name"),
            token: WitnessToken([7; 16]),
        }),
        state: RecordState::Target {
            source_generation: Generation([8; 16]),
            source_session: Session(9),
        },
        continuity: Continuity::Unclean,
        by_reset: true,
        session_boot_id: BootId([10; 16]),
        generation: Generation([11; 16]),
        ancestors: vec![Generation([12; 16]), Generation([13; 16])],
        boot_id: BootId([14; 16]),
        machine_id: MachineId([15; 16]),
        vm_generation_id: [16; 16],
        incarnation: Incarnation([17; 16]),
        clean: false,
        io_failed: true,
        single: false,
        source: true,
        forced: false,
        solo_io_count: 18,
        grant_ttl_max_ms: 400,
        drift_ppm: 2000,
        preferred: Some("b".parse().expect("a name")),
        config_seq: 19,
    }
}

fn header() -> VolumeHeader {
    VolumeHeader {
        header_seq: 1,
        volume_id: VolumeId([2; 16]),
        disk_id: DiskId([3; 16]),
        peer_disk_id: DiskId([4; 16]),
        bitmap_base: Generation([5; 16]),
        next_generation: Generation([6; 16]),
        round: 7,
        peer_round: 8,
        start_seq: 9,
        size: 1 << 30,
        diskseq: 10,
    }
}

fn stamp() -> Stamp {
    Stamp {
        volume_id: VolumeId([1; 16]),
        disk_id: DiskId([2; 16]),
        generation: Generation([3; 16]),
        round: 4,
    }
}

/// The bytes as runs of equal ones, which shows 4096 of them in a few lines.
fn runs(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|byte| *byte == first).count();
        match count {
            1..=3 => (0..count).for_each(|_| text.push_str(&format!("{first:02x} "))),
            _ => text.push_str(&format!("{first:02x}x{count} ")),
        }
        rest = &rest[count..];
    }
    text.trim_end().to_owned()
}

#[test]
fn golden_bytes_of_a_record() {
    assert_eq!(
        runs(&record(20).encode()),
        "01 00 00 00 53 54 52 52 14 00x7 03 00x7 13 00x7 01x16 61 00x31 02x16 04 00x7 05 \
         00x7 01 00x7 06 00x15 77 00x31 07x16 00 01 00 01 00 01 00 01 04 02 00 00 02 00 \
         00 00 08x16 09 00x7 0bx16 0ax16 0ex16 0fx16 10x16 11x16 12 00x7 90 01 00 00 d0 \
         07 00 00 62 00x31 0cx16 0dx16 00x3692 74 5e b4 c6"
    );
}

#[test]
fn golden_bytes_of_a_header() {
    assert_eq!(
        runs(&header().encode()),
        "01 00 00 00 53 54 52 48 01 00x7 02x16 03x16 04x16 05x16 06x16 07 00x7 08 00x7 09 \
         00x10 40 00x4 0a 00x3963 d7 c4 24 de"
    );
}

#[test]
fn golden_bytes_of_a_stamp() {
    assert_eq!(
        runs(&stamp().encode(5)),
        "01 00 00 00 53 54 52 53 05 00x7 01x16 02x16 03x16 04 00x11 f8 1a f6 c6"
    );
}

#[test]
fn everything_reads_back() {
    assert_eq!(NodeRecord::decode(&record(20).encode()), Ok(record(20)));
    assert_eq!(VolumeHeader::decode(&header().encode()), Ok(header()));
    assert_eq!(Stamp::decode(&stamp().encode(5)), Ok((5, stamp())));
    for state in [
        RecordState::Virgin,
        RecordState::Active,
        RecordState::Solo,
        RecordState::Ready,
        RecordState::Stopped,
        RecordState::Broken,
    ] {
        let record = NodeRecord { state, witness_token: None, preferred: None, ..record(1) };
        assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn every_damaged_bit_is_noticed() {
    let (record, header, stamp) = (record(20).encode(), header().encode(), stamp().encode(5));
    for bit in 0..BLOCK_BYTES * 8 {
        let flip = |mut block: [u8; BLOCK_BYTES]| {
            block[bit / 8] ^= 1 << (bit % 8);
            block
        };
        assert!(NodeRecord::decode(&flip(record)).is_err(), "bit {bit}");
        assert!(VolumeHeader::decode(&flip(header)).is_err(), "bit {bit}");
    }
    for bit in 0..STAMP_BYTES * 8 {
        let mut bad = stamp;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Stamp::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn blank_and_newer_blocks_are_named_as_such() {
    assert_eq!(NodeRecord::decode(&[0; BLOCK_BYTES]), Err(LayoutError::Blank));
    assert_eq!(VolumeHeader::decode(&[0; BLOCK_BYTES]), Err(LayoutError::Blank));
    assert_eq!(Stamp::decode(&[0; STAMP_BYTES]), Err(LayoutError::Blank));
    assert_eq!(NodeRecord::decode(&header().encode()), Err(LayoutError::Magic));
    let mut newer = record(1).encode();
    newer[0] = 2;
    resign(&mut newer);
    assert_eq!(NodeRecord::decode(&newer), Err(LayoutError::Version { found: 2, known: 1 }));
}

fn resign(block: &mut [u8; BLOCK_BYTES]) {
    let crc = crc32c::crc32c(&block[..BLOCK_BYTES - 4]);
    block[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    /// Whatever passes the checksum is either refused or is exactly what this version writes.
    #[test]
    fn a_signed_but_wild_record_is_refused_or_reads_back(
        changes in proptest::collection::vec((8usize..900, any::<u8>()), 0..6),
    ) {
        let mut block = record(20).encode();
        for (at, byte) in changes {
            block[at] = byte;
        }
        resign(&mut block);
        if let Ok(record) = NodeRecord::decode(&block) {
            prop_assert!(record.ancestors.len() <= ANCESTORS_MAX);
            prop_assert_eq!(record.encode(), block);
        }
    }

    #[test]
    fn a_signed_but_wild_header_is_refused_or_reads_back(
        changes in proptest::collection::vec((8usize..160, any::<u8>()), 0..6),
    ) {
        let mut block = header().encode();
        for (at, byte) in changes {
            block[at] = byte;
        }
        resign(&mut block);
        if let Ok(header) = VolumeHeader::decode(&block) {
            prop_assert_eq!(header.encode(), block);
        }
    }
}

#[test]
fn the_newer_of_two_headers_and_of_two_stamps_counts() {
    let newer = VolumeHeader { header_seq: 2, ..header() };
    let bad = || Err(LayoutError::Crc);
    assert_eq!(choose_header([Ok(header()), Ok(newer)]), Ok((1, newer)));
    assert_eq!(choose_header([Ok(newer), Ok(header())]), Ok((0, newer)));
    assert_eq!(choose_header([bad(), Ok(header())]), Ok((1, header())));
    assert_eq!(choose_header([Ok(header()), bad()]), Ok((0, header())));
    assert_eq!(choose_header([bad(), Err(LayoutError::Blank)]), Err(LayoutError::Crc));
    assert_eq!(choose_stamp([Ok((1, stamp())), Ok((2, stamp()))]), Ok((1, 2, stamp())));
    assert_eq!(choose_stamp([Err(LayoutError::Crc), Ok((2, stamp()))]), Ok((1, 2, stamp())));
    let none = choose_stamp([Err(LayoutError::Blank), Err(LayoutError::Crc)]);
    assert_eq!(none, Err(LayoutError::Blank));
}

/// A place in words: numbers are valid slots, `s` after one says `single`, `x` is a bad slot,
/// `absent` and `unreadable` are what they say.
fn place(text: &str) -> PlaceRead {
    let slot = |text: &str| {
        if text == "x" {
            return SlotRead::Bad;
        }
        let single = text.ends_with('s');
        let number = text.trim_end_matches('s').parse().expect("a number");
        SlotRead::Valid(Box::new(NodeRecord { single, ..record(number) }))
    };
    match text.split_once(' ') {
        Some((first, second)) => PlaceRead::Slots([slot(first), slot(second)]),
        None if text == "absent" => PlaceRead::Absent,
        None => PlaceRead::Unreadable { why: "EIO".to_owned() },
    }
}

#[test]
fn every_way_to_find_the_places() {
    // Two places, the record that counts, whether it is trusted, slots that the next one goes to.
    let table = [
        ("1 2", "1 2", Some(2), true, [0, 0]),
        ("3 2", "1 2", Some(3), true, [1, 0]),
        // Torn while being written, in the first place or in the second.
        ("x 2", "1 2", Some(2), true, [0, 0]),
        ("3 2", "x 2", Some(3), true, [1, 0]),
        ("x 2", "x 2", Some(2), false, [0, 0]),
        ("2 x", "x 2", Some(2), false, [1, 0]),
        ("x x", "1 2", Some(2), false, [0, 0]),
        ("absent", "1 2", Some(2), false, [0, 0]),
        ("1 2", "unreadable", Some(2), false, [0, 0]),
        // One place was lost while the node ran.
        ("4s 4s", "absent", Some(4), true, [0, 0]),
        ("1 2", "4s 4s", Some(4), true, [0, 0]),
        ("x x", "4s 4s", Some(4), true, [0, 0]),
        ("4s x", "absent", Some(4), false, [1, 0]),
        ("x 2", "4s x", Some(4), false, [0, 1]),
        // Crash between the two writes of the place that is left.
        ("4 4s", "absent", Some(4), true, [0, 0]),
        // Both places work again after one was lost.
        ("5 2", "4s 4s", Some(5), true, [1, 0]),
        ("5 2", "5 4s", Some(5), true, [1, 1]),
        ("absent", "absent", None, false, [0, 0]),
        ("x x", "x x", None, false, [0, 0]),
        ("x x", "absent", None, false, [0, 0]),
    ];
    for (first, second, newest, trusted, next) in table {
        let chosen = choose(&[place(first), place(second)]);
        let found = chosen.as_ref().map(|c| c.record.record_seq);
        assert_eq!(found, newest, "{first} | {second}");
        let Some(chosen) = chosen else { continue };
        assert_eq!(chosen.amnesia.is_empty(), trusted, "{first} | {second}: {:?}", chosen.amnesia);
        let writes = chosen.plan.clone().begin();
        let slots = |place| -> Vec<usize> {
            writes.iter().filter(|w| w.place == place).map(|w| w.slot).collect()
        };
        for (index, read) in [first, second].into_iter().enumerate() {
            // After `4 4s` either slot may be the older one: both are the same record.
            if ["absent", "unreadable", "x x"].contains(&read) {
                assert_eq!(slots(index), [0, 1], "{first} | {second}");
            } else if read != "4 4s" {
                assert_eq!(slots(index), [next[index]], "{first} | {second}");
            }
        }
    }
}

#[test]
fn a_lost_place_is_named() {
    let chosen = choose(&[place("1 2"), place("unreadable")]).expect("a record");
    let lost = Amnesia::PlaceLost { place: 1, why: "EIO".to_owned() };
    assert_eq!(chosen.amnesia, [lost]);
}

#[test]
fn records_go_over_the_older_slot_and_twice_into_the_last_place() {
    let write = |place, slot, single| SlotWrite { place, slot, single };
    let mut plan = SlotPlan::FRESH;
    assert_eq!(plan.begin(), [write(0, 0, false), write(1, 0, false)]);
    plan.written(write(0, 0, false));
    plan.written(write(1, 0, false));
    assert_eq!(plan.begin(), [write(0, 1, false), write(1, 1, false)]);
    // Place 2 fails after place 1 was written: place 1 gets it twice, the older slot first.
    plan.written(write(0, 1, false));
    assert_eq!(plan.failed(write(1, 1, false)), [write(0, 0, true), write(0, 1, true)]);
    plan.written(write(0, 0, true));
    plan.written(write(0, 1, true));
    // One lost place stays out until the next start; two are both tried again.
    assert_eq!(plan.begin(), [write(0, 0, true), write(0, 1, true)]);
    assert_eq!(plan.failed(write(0, 0, true)), []);
    assert_eq!(plan.begin(), [write(0, 0, false), write(1, 1, false)]);
}

#[test]
fn a_crash_at_any_write_of_any_record_is_survived() {
    crash_at_any_write([[1, 2], [1, 2]], 3);
}

#[test]
fn a_place_that_was_made_again_survives_a_crash_after_the_first_record() {
    let lost = choose(&[place("1 2"), place("absent")]).expect("a record");
    let mut plan = lost.plan;
    plan.begin().into_iter().for_each(|write| plan.written(write));
    assert_eq!(plan.begin().len(), 2, "one slot of each place");
    crash_at_any_write([[3, 2], [3, 3]], 4);
}

#[test]
fn two_crashes_in_a_row_are_survived() {
    // The first tore a slot of place 2; the start after it is cut off in its first write.
    let first = choose(&[place("4 3"), place("x 3")]).expect("a record");
    assert!(first.amnesia.is_empty());
    let write = first.plan.clone().begin()[0];
    assert_eq!((write.place, write.slot), (1, 0), "the bad slot is mended first");
    let mut plan = first.plan;
    plan.begin().into_iter().for_each(|write| plan.written(write));
    assert_eq!(plan.begin()[0].place, 0, "then the order is the usual one");
    for torn in ["4 3", "4 x"] {
        let second = choose(&[place(torn), place("5 3")]).expect("a record");
        assert!(second.amnesia.is_empty(), "{torn}");
        assert_eq!(second.record.record_seq, 5);
    }
}

#[test]
fn a_place_that_works_again_is_written_before_the_one_that_was_left() {
    let start = choose(&[place("6s 6s"), place("1 2")]).expect("a record");
    let mut plan = start.plan;
    let first = plan.begin()[0];
    assert_eq!((first.place, first.slot), (1, 0));
    plan.written(first);
    // A crash in the second write.
    let torn = choose(&[place("x 6s"), place("7 2")]).expect("a record");
    assert!(torn.amnesia.is_empty(), "{:?}", torn.amnesia);
}

fn crash_at_any_write(mut places: [[u64; 2]; 2], first: u64) {
    // Whatever slot is torn, and whichever place is lost afterwards: the newest whole record is
    // found, and never an older one without amnesia.
    let text = |slots: [u64; 2]| {
        slots.map(|n| if n == 0 { "x".to_owned() } else { n.to_string() }).join(" ")
    };
    let reads = places.map(|slots| place(&text(slots)));
    let mut plan = choose(&reads).expect("a record").plan;
    for number in first..first + 17 {
        for write in plan.begin() {
            for torn in [false, true] {
                let mut after = places;
                after[write.place][write.slot] = if torn { 0 } else { number };
                let chosen = choose(&[place(&text(after[0])), place(&text(after[1]))]);
                let chosen = chosen.expect("a record");
                assert!(chosen.amnesia.is_empty(), "{after:?}");
                assert!(chosen.record.record_seq + 1 >= number);
            }
            places[write.place][write.slot] = number;
            plan.written(write);
        }
    }
}
