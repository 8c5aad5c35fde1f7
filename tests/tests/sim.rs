//! The simulator: seeds without a finding, every broken rule noticed, every trace repeatable.
//!
//! `STRETCH_SOAK=1` runs 10,000 seeds and checks that every fault and transition occurred;
//! `STRETCH_SEEDS=N` chooses another number. `tests/run` adds a minute of seeds that nobody has run.

use std::process::Command;

use base::rules::{Rule, Rules};
use stretch_tests::sim::{
    Coverage, FaultKind, FindingKind, NEEDS_ORDER, Options, Outcome, replay_command, run, run_many,
};

/// Seeds of a short run, and within which a broken rule is noticed.
const SEEDS: u64 = 300;
const NOTICED_WITHIN: u64 = 1000;
const SOAK_SEEDS: u64 = 10_000;

/// Without these nothing is lost: a good copy is taken for a bad one, and nobody serves.
const KEEPS_SERVING: [Rule; 1] = [Rule::SeenStampWritten];

/// What must occur beside the faults, in a long run.
const OCCURS: [(&str, &[&str]); 16] = [
    ("all clients closed", &["HeldTooLong", "Stopping"]),
    ("client closed", &["NotServing", "WriteGivenUp"]),
    ("amnesia", &["BadSlots", "OlderThanRun", "PlaceLost", "Recorded", "Volume"]),
    (
        "compare",
        &[
            "Source Everything",
            "Source Nothing",
            "Source Rewrite",
            "Target Everything",
            "Target Nothing",
            "Target Rewrite",
            "own copy rewritten",
            "block copied",
        ],
    ),
    (
        "control message",
        &[
            "HELLO",
            "HEARTBEAT",
            "LEFT",
            "SYNC_START",
            "SYNC_READY",
            "SYNC_DONE",
            "SYNC_DONE_ACK",
            "AA_GO",
            "AA_GO_ACK",
            "FREEZE",
            "FREEZE_ACK",
            "ROUND_DONE",
        ],
    ),
    (
        "data message",
        &[
            "REPL",
            "WREQ",
            "ORDERED",
            "ACK",
            "APPLIED",
            "COMMIT",
            "NAK",
            "FLUSH",
            "FLUSH_ACK",
            "DIGEST_REQUEST",
            "DIGESTS",
            "SYNC_BLOCK",
            "SYNC_BLOCK_ACK",
        ],
    ),
    (
        "disk",
        &["flush failed", "read failed", "sync failed", "write failed", "write zeroes failed"],
    ),
    (
        "folder",
        &[
            "blank image",
            "header lost",
            "older folder",
            "older folder, told by the machine",
            "older header",
            "older image",
            "place lost",
            "put back",
            "slot damaged",
            "wrong image for a while",
        ],
    ),
    ("lock unit", &["512", "4096"]),
    ("late message", &["between", "in a session"]),
    ("thread", &["busy"]),
    ("power", &["loses nothing", "loses writes"]),
    ("record", &["Virgin", "Target", "Ready", "Active", "Stopped", "a place failed"]),
    (
        "report",
        &[
            "LinkUp",
            "LinkLost",
            "Prepared",
            "Progress",
            "Compared",
            "Entered",
            "Left",
            "Quiet",
            "Drained",
            "PeerStuck",
            "DiskStuck",
            "PeerDiskFailed",
            "DiskFailed",
        ],
    ),
    ("session", &["after a loss on both nodes", "nothing lost"]),
    (
        "transition",
        &[
            "starting -> resync-source",
            "starting -> resync-target",
            "starting -> limbo",
            "starting -> stopped",
            "resync-source -> active-active",
            "resync-source -> deciding",
            "resync-source -> limbo",
            "resync-target -> ready",
            "resync-target -> deciding",
            "resync-target -> limbo",
            "ready -> active-active",
            "ready -> deciding",
            "active-active -> deciding",
            "deciding -> resync-source",
            "deciding -> resync-target",
            "deciding -> limbo",
            "deciding -> stopped",
            "limbo -> resync-source",
            "limbo -> resync-target",
            "limbo -> stopped",
        ],
    ),
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn seed_count() -> u64 {
    let number = std::env::var("STRETCH_SEEDS").ok();
    let soak = std::env::var_os("STRETCH_SOAK").is_some();
    match number {
        Some(number) => number.parse().expect("STRETCH_SEEDS is a number"),
        None if soak => SOAK_SEEDS,
        None => SEEDS,
    }
}

/// What every run has at least.
fn check_size(outcome: &Outcome) {
    let Outcome { seed, operations, acknowledged, contended, faults, virtual_ms, .. } = outcome;
    assert!(*operations >= 300, "seed {seed}: {operations} operations");
    assert!(*acknowledged >= 100, "seed {seed}: {acknowledged} acknowledged");
    assert!(*contended >= 30, "seed {seed}: {contended} contended");
    assert!(*faults >= 3, "seed {seed}: {faults} faults");
    assert!(*virtual_ms >= 20_000, "seed {seed}: {virtual_ms} ms");
}

fn missing(coverage: &Coverage) -> Vec<String> {
    let faults = FaultKind::WEIGHTS.map(|(kind, _)| ("fault", kind.name()));
    let others = OCCURS
        .iter()
        .flat_map(|(kind, names)| names.iter().map(|name| (*kind, (*name).to_owned())));
    faults
        .into_iter()
        .chain(others)
        .filter(|(kind, name)| coverage.of(kind, name) == 0)
        .map(|(kind, name)| format!("{kind} {name}"))
        .collect()
}

#[test]
fn no_seed_has_a_finding() {
    let count = seed_count();
    let mut coverage = Coverage::default();
    let mut findings = Vec::new();
    run_many(0, count, threads(), Options::NORMAL, |outcome| {
        coverage.add(&outcome.coverage);
        match &outcome.finding {
            None => check_size(&outcome),
            Some(finding) => findings.push(format!(
                "seed {}: {:?}: {}\nreplay: {}",
                outcome.seed,
                finding.kind,
                finding.text,
                replay_command(outcome.seed, None, true)
            )),
        }
        findings.len() < 5
    });
    println!("{}", coverage.table());
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
    if count >= SOAK_SEEDS {
        assert_eq!(missing(&coverage), Vec::<String>::new(), "never occurred in {count} seeds");
    }
}

#[test]
fn the_same_seed_has_the_same_trace() {
    let hashes: Vec<u64> = (0..12).map(|seed| run(seed, Options::NORMAL).trace_hash).collect();
    for (seed, hash) in (0..).zip(&hashes) {
        assert_eq!(run(seed, Options::NORMAL).trace_hash, *hash, "seed {seed}");
    }
    let mut different = hashes.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), hashes.len(), "seeds differ");
}

/// The command that a finding prints shows the same finding.
#[test]
fn a_seed_is_replayed_by_the_command_that_is_printed() {
    let (seed, rule) = (0, Rule::CompareEverything);
    let options = Options { rules: Rules::breaking(rule), order: false, print: false };
    let outcome = run(seed, options);
    let finding = outcome.finding.expect("half a comparison is noticed at once");
    let command = replay_command(seed, Some(rule), false);
    let arguments = command
        .strip_prefix("cargo run -p stretch-tests --bin sim -- ")
        .expect("a command that can be pasted");
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments.split(' '))
        .output()
        .expect("the simulator's own program");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&format!("trace hash {:016x}", outcome.trace_hash)));
    assert!(text.contains(&finding.text) && text.contains(" starts: "), "a readable trace");
}

/// A broken rule is noticed by what hosts are told and what the copies hold; asserts and the order
/// of things do not count, but for the rules of `NEEDS_ORDER`; that a pair does not heal counts for
/// the rules of `KEEPS_SERVING`.
fn is_noticed(rule: Rule) {
    let order = NEEDS_ORDER.contains(&rule);
    let options = Options { rules: Rules::breaking(rule), order, print: false };
    let mut noticed = None;
    run_many(0, NOTICED_WITHIN, 1, options, |outcome| {
        noticed = outcome.finding.filter(|finding| {
            let stuck = finding.kind == FindingKind::Liveness && KEEPS_SERVING.contains(&rule);
            finding.is_seen_by_checkers() || stuck
        });
        noticed.is_none()
    });
    let finding = noticed.unwrap_or_else(|| panic!("{rule:?} is not noticed"));
    println!("{:?}: {}", finding.kind, finding.text);
}

macro_rules! each_rule {
    ($($name:ident: $rule:ident,)*) => {
        $(
            #[test]
            fn $name() {
                is_noticed(Rule::$rule);
            }
        )*

        /// That each rule has a test here or in another table is tidy's to see.
        #[test]
        fn every_rule_can_be_broken_by_name() {
            for rule in [$(Rule::$rule),*] {
                assert!(Rule::ALL.contains(&rule), "{rule:?}");
            }
        }
    };
}

each_rule! {
    ordered_before_apply_is_noticed: OrderedBeforeApply,
    lock_until_commit_is_noticed: LockUntilCommit,
    range_locked_is_noticed: RangeLocked,
    granule_locked_is_noticed: GranuleLocked,
    read_committed_is_noticed: ReadCommitted,
    ack_from_both_is_noticed: AckFromBoth,
    zeroes_ordered_is_noticed: ZeroesOrdered,
    trim_on_both_is_noticed: TrimOnBoth,
    ack_whole_write_is_noticed: AckWholeWrite,
    commit_watermark_is_noticed: CommitWatermark,
    commit_own_only_is_noticed: CommitOwnOnly,
    quiet_before_next_is_noticed: QuietBeforeNext,
    session_checked_at_apply_is_noticed: SessionCheckedAtApply,
    write_request_before_ack_is_noticed: WriteRequestBeforeAck,
    gate_at_reply_is_noticed: GateAtReply,
    flush_both_is_noticed: FlushBoth,
    fua_both_is_noticed: FuaBoth,
    target_record_first_is_noticed: TargetRecordFirst,
    source_flush_first_is_noticed: SourceFlushFirst,
    target_flush_last_is_noticed: TargetFlushLast,
    active_before_go_is_noticed: ActiveBeforeGo,
    stamp_checked_is_noticed: StampChecked,
    round_checked_is_noticed: RoundChecked,
    continuity_kept_is_noticed: ContinuityKept,
    seen_stamp_written_is_noticed: SeenStampWritten,
    clean_means_both_is_noticed: CleanMeansBoth,
    target_never_source_is_noticed: TargetNeverSource,
    source_by_record_is_noticed: SourceByRecord,
    failed_write_never_acked_is_noticed: FailedWriteNeverAcked,
    compare_everything_is_noticed: CompareEverything,
    target_drops_own_is_noticed: TargetDropsOwn,
    failed_copy_rewritten_is_noticed: FailedCopyRewritten,
    failure_remembered_is_noticed: FailureRemembered,
}
