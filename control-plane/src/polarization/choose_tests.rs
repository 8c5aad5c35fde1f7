use base::ids::{DiskId, Generation, Incarnation, MachineId, PairId, Session, VolumeId};

use super::*;

const COMMON: Generation = Generation([1; 16]);

/// A node that was active in session 5 and was restarted.
fn hello(node: &str) -> Hello {
    let number = node.as_bytes()[0];
    let other = if node == "a" { b'b' } else { b'a' };
    Hello {
        pair_id: PairId([9; 16]),
        node: node.parse().expect("a name"),
        incarnation: Incarnation([number; 16]),
        machine_id: MachineId([number; 16]),
        session: Session(5),
        session_seen: Session(5),
        state: RecordState::Active,
        continuity: Continuity::ProcessRestart,
        by_reset: false,
        clean: false,
        io_failed: false,
        source: false,
        forced: false,
        stopping: false,
        solo_io_count: 0,
        generation: COMMON,
        ancestors: Vec::new(),
        volumes: vec![VolumeHello {
            volume_id: VolumeId([2; 16]),
            disk_id: DiskId([number; 16]),
            peer_disk_id: DiskId([other; 16]),
            bitmap_base: COMMON,
            round: 7,
            peer_round: 7,
            size: 1 << 20,
            granule_bytes: 512,
            trim_zeroes: true,
            empty: false,
        }],
    }
}

fn virgin(hello: &mut Hello) {
    hello.state = RecordState::Virgin;
    hello.session = Session(0);
    hello.continuity = Continuity::Continuous;
    hello.generation = Generation(hello.incarnation.0);
    hello.volumes[0].peer_disk_id = DiskId::NONE;
    (hello.volumes[0].round, hello.volumes[0].peer_round) = (0, 0);
}

fn target(hello: &mut Hello) {
    hello.state = RecordState::Target { source_generation: COMMON, source_session: Session(6) };
}

fn clean(hello: &mut Hello) {
    hello.state = RecordState::Stopped;
    hello.clean = true;
}

type Change = fn(&mut Hello);

fn pair(change_a: Change, change_b: Change) -> (Hello, Hello) {
    let (mut a, mut b) = (hello("a"), hello("b"));
    change_a(&mut a);
    change_b(&mut b);
    (a, b)
}

fn refused(x: &Hello, y: &Hello) -> Option<String> {
    refusal(x, y, &["vol0".parse().expect("a name")])
}

/// Both nodes ask; they come to the same answer.
fn ask(a: &Hello, b: &Hello) -> String {
    let rules = Rules::ALL_HOLD;
    let (one, other) = (choose_source(a, b, rules), choose_source(b, a, rules));
    assert_eq!(one, other, "the choice is symmetric");
    assert_eq!(refused(a, b), refused(b, a), "the verdict is symmetric");
    match one {
        Choice::Source(node) => node.to_string(),
        Choice::Nobody { .. } => "nobody".to_owned(),
    }
}

const SAME: Change = |_| {};
const RESET: Change = |h| (h.continuity, h.by_reset) = (Continuity::Unclean, true);
const AMNESIA: Change = |h| h.continuity = Continuity::Amnesia;
const NEWER: Change = |h| h.session = Session(6);
const FAILED: Change = |h| (h.io_failed, h.continuity) = (true, Continuity::Unclean);
const BEHIND: Change = |h| h.volumes[0].round = 6;
const READY: Change = |h| (h.state, h.session) = (RecordState::Ready, Session(6));

#[test]
fn the_source_of_every_pair_of_records() {
    let table: &[(&str, Change, Change, &str)] = &[
        ("both restarted", SAME, SAME, "a"),
        ("a lost power", RESET, SAME, "b"),
        ("b lost power", SAME, RESET, "a"),
        ("both lost power", RESET, RESET, "a"),
        ("b was in a later session", SAME, NEWER, "b"),
        (
            "b was in a later session but lost power",
            SAME,
            |h| {
                NEWER(h);
                RESET(h)
            },
            "b",
        ),
        ("a has forgotten", AMNESIA, SAME, "b"),
        ("a has forgotten, b lost power", AMNESIA, RESET, "b"),
        ("both have forgotten", AMNESIA, AMNESIA, "nobody"),
        ("a is a target", target, SAME, "b"),
        ("a is a target, b lost power", target, RESET, "b"),
        ("a is a target, b has forgotten", target, AMNESIA, "nobody"),
        ("both are targets", target, target, "nobody"),
        ("a was rolled back", BEHIND, SAME, "b"),
        ("a was rolled back, b lost power", BEHIND, RESET, "b"),
        ("both were rolled back", BEHIND, BEHIND, "nobody"),
        ("a's disk failed", FAILED, SAME, "b"),
        ("a's disk failed, b lost power", FAILED, RESET, "a"),
        ("b's disk failed, a lost power", RESET, FAILED, "b"),
        (
            "a's disk failed, then both lost power",
            |h| {
                FAILED(h);
                RESET(h)
            },
            RESET,
            "b",
        ),
        ("a's disk failed, b is a target", FAILED, target, "a"),
        ("both disks failed", FAILED, FAILED, "a"),
        ("a is new", virgin, SAME, "b"),
        ("a is new, b has forgotten", virgin, AMNESIA, "nobody"),
        ("both are new", virgin, virgin, "a"),
        (
            "both are new, b is --source",
            virgin,
            |h| {
                virgin(h);
                h.source = true
            },
            "b",
        ),
        (
            "both are new, a is --source",
            |h| {
                virgin(h);
                h.source = true
            },
            virgin,
            "a",
        ),
        (
            "both are new, a has lost its image",
            |h| {
                virgin(h);
                AMNESIA(h)
            },
            virgin,
            "b",
        ),
        ("b is ready, a not yet active", SAME, READY, "b"),
        ("b is ready, a active in the same session", NEWER, READY, "a"),
        ("both clean", clean, clean, "a"),
        (
            "both clean, b's image was replaced",
            clean,
            |h| {
                clean(h);
                AMNESIA(h)
            },
            "a",
        ),
        ("a clean, b not", clean, |h| h.continuity = Continuity::ProcessRestart, "a"),
    ];
    for (what, change_a, change_b, expected) in table {
        let (a, b) = pair(*change_a, *change_b);
        assert_eq!(refused(&a, &b), None, "{what}");
        assert_eq!(ask(&a, &b), *expected, "{what}");
    }
}

#[test]
fn a_first_join_that_was_cut_off_goes_on() {
    let (a, mut b) = pair(virgin, virgin);
    b.state = RecordState::Target { source_generation: a.generation, source_session: Session(1) };
    assert_eq!(ask(&a, &b), "a");
    b.state = RecordState::Ready;
    (b.session, b.generation) = (Session(1), a.generation);
    assert_eq!(ask(&a, &b), "b", "it has the higher session and the same data");
    b.continuity = Continuity::Amnesia;
    assert_eq!(ask(&a, &b), "a");
    b.state = RecordState::Active;
    assert_eq!(ask(&a, &b), "nobody", "hosts may have been served without a");
}

#[test]
fn nobody_says_why_for_both_and_what_is_safe() {
    let (a, b) = pair(AMNESIA, target);
    let Choice::Nobody { cause, advice } = choose_source(&a, &b, Rules::ALL_HOLD) else {
        panic!("neither may be");
    };
    for part in ["a has a record or data that was lost", "b is the target", "nobody serves"] {
        assert!(cause.contains(part), "{part}: {cause}");
    }
    assert!(advice.contains("kept as they are") && advice.contains("safe"), "{advice}");
}

#[test]
fn nothing_is_compared_only_where_nothing_can_differ() {
    let empty: Change = |h| {
        virgin(h);
        h.volumes[0].empty = true;
    };
    let table: &[(&str, Change, Change, Scope)] = &[
        ("both clean", clean, clean, Scope::Nothing),
        ("one clean", clean, SAME, Scope::Everything),
        (
            "two sessions",
            clean,
            |h| {
                clean(h);
                h.session = Session(6)
            },
            Scope::Everything,
        ),
        (
            "two generations",
            clean,
            |h| {
                clean(h);
                h.generation = Generation([7; 16])
            },
            Scope::Everything,
        ),
        (
            "round ahead",
            clean,
            |h| {
                clean(h);
                h.volumes[0].round = 8
            },
            Scope::Everything,
        ),
        (
            "round not confirmed",
            clean,
            |h| {
                clean(h);
                h.volumes[0].peer_round = 6
            },
            Scope::Everything,
        ),
        (
            "one lost its image",
            clean,
            |h| {
                clean(h);
                AMNESIA(h)
            },
            Scope::Everything,
        ),
        (
            "one lost power after all",
            clean,
            |h| {
                clean(h);
                RESET(h)
            },
            Scope::Everything,
        ),
        (
            "the target's disk failed",
            clean,
            |h| {
                clean(h);
                h.io_failed = true
            },
            Scope::Rewrite,
        ),
        (
            "the source's disk failed",
            |h| {
                clean(h);
                h.io_failed = true
            },
            clean,
            Scope::Everything,
        ),
        (
            "stopped but not clean",
            |h| h.state = RecordState::Stopped,
            |h| h.state = RecordState::Stopped,
            Scope::Everything,
        ),
        ("new and empty", empty, empty, Scope::Nothing),
        ("new, one with data", empty, virgin, Scope::Everything),
        ("new and clean", empty, clean, Scope::Everything),
    ];
    for (what, change_a, change_b, expected) in table {
        let (a, b) = pair(*change_a, *change_b);
        assert_eq!(scope(&a, &b, Rules::ALL_HOLD), *expected, "{what}");
        ask(&a, &b);
    }
}

#[test]
fn what_can_never_be_a_pair_is_refused_by_both_with_the_reason() {
    let split: Change = |h| h.generation = Generation([3; 16]);
    let table: &[(&str, Change, Change)] = &[
        ("pair", |h| h.pair_id = PairId([1; 16]), SAME),
        ("correct its [pair] id, move its record folders", SAME, |h| h.pair_id = PairId([1; 16])),
        ("volume vol0 has 512 bytes at a", |h| h.volumes[0].size = 512, SAME),
        ("Replacing a node, or both of", |h| h.volumes[0].disk_id = DiskId([77; 16]), SAME),
        ("both nodes are called", SAME, |h| h.node = "a".parse().expect("a name")),
        ("volumes", |h| h.volumes.clear(), SAME),
        ("volume ids and their order", |h| h.volumes[0].volume_id = VolumeId([5; 16]), SAME),
        ("both must be equal", SAME, |h| h.volumes[0].size = 512),
        ("its image, if blank, has to go, too", SAME, |h| h.volumes[0].size = 512),
        ("in units of", SAME, |h| h.volumes[0].granule_bytes *= 16),
        ("in units of", |h| h.volumes[0].granule_bytes = 0, SAME),
        ("in units of", |h| h.volumes[0].granule_bytes = 1536, SAME),
        ("the same disk id", SAME, |h| h.volumes[0].disk_id = DiskId([b'a'; 16])),
        ("does not know", SAME, |h| h.volumes[0].disk_id = DiskId([77; 16])),
        ("does not know", |h| h.volumes[0].disk_id = DiskId::NONE, SAME),
        ("split-brain was found", |h| h.state = RecordState::Broken, SAME),
        (
            "both initialised with --source",
            |h| {
                virgin(h);
                h.source = true
            },
            |h| {
                virgin(h);
                h.source = true
            },
        ),
        ("no common history", split, SAME),
        ("out of range", |h| h.session_seen = Session(u64::MAX), SAME),
        ("out of range", SAME, |h| h.volumes[0].peer_round = u64::MAX),
    ];
    for (part, change_a, change_b) in table {
        let (a, b) = pair(*change_a, *change_b);
        let reason = refused(&a, &b);
        assert_eq!(reason, refused(&b, &a));
        let reason = reason.unwrap_or_else(|| panic!("refused: {part}"));
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn related_data_is_not_refused() {
    let ancestor: Change = |h| {
        h.ancestors = vec![h.generation];
        h.generation = Generation([3; 16]);
    };
    let strange: Change = |h| h.generation = Generation([3; 16]);
    let interrupted: Change = |h| {
        target(h);
        h.generation = Generation([3; 16]);
    };
    let forgotten: Change = |h| {
        h.generation = Generation([3; 16]);
        h.continuity = Continuity::Amnesia;
    };
    assert_eq!(pair(ancestor, SAME).0.ancestors.len(), 1);
    for (change_a, change_b) in
        [(ancestor, SAME), (interrupted, SAME), (forgotten, SAME), (virgin, strange)]
    {
        let (a, b) = pair(change_a, change_b);
        assert_eq!(refused(&a, &b), None);
        ask(&a, &b);
    }
}
