//! Two volume cores, one of which serves while the other is made equal to it: seeds without a
//! finding, and each broken rule noticed.
//!
//! `STRETCH_SOAK=1` runs 5,000 seeds; `STRETCH_SEEDS=N` chooses another number.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base::rules::{Rule, Rules};
use stretch_tests::volumes::{Counts, FindingKind, run};

const SEEDS: u64 = 40;
const SOAK_SEEDS: u64 = 5_000;
const NOTICED_WITHIN: u64 = 300;
/// Nothing waits for longer than some operations of a slow disk after each other take (40 ms each),
/// whether a target comes, is copied to or is lost. T_io would be 2 s.
const LONGEST_US: u64 = 300_000;

/// What no host and no copy shows, as a target applies what overlaps in the order in which it comes.
const NEEDS_ORDER: [Rule; 1] = [Rule::LockOutlivesReply];

fn seed_count() -> u64 {
    let number = std::env::var("STRETCH_SEEDS").ok();
    let soak = std::env::var_os("STRETCH_SOAK").is_some();
    match number {
        Some(number) => number.parse().expect("STRETCH_SEEDS is a number"),
        None if soak => SOAK_SEEDS,
        None => SEEDS,
    }
}

#[test]
fn no_seed_has_a_finding() {
    let mut sum = Counts::default();
    for seed in 0..seed_count() {
        let counts = match run(seed, Rules::ALL_HOLD, true) {
            Ok(counts) => counts,
            Err(finding) => panic!("seed {seed}: {:?}: {}", finding.kind, finding.text),
        };
        assert!(counts.answered >= 100, "seed {seed}: {counts:?}");
        assert!(counts.longest_us <= LONGEST_US, "seed {seed}: {counts:?}");
        sum.answered += counts.answered;
        sum.answered_alone += counts.answered_alone;
        sum.attached += counts.attached;
        sum.lost_early += counts.lost_early;
        sum.lost_late += counts.lost_late;
        sum.sessions += counts.sessions;
        sum.reads_after += counts.reads_after;
        sum.longest_us = sum.longest_us.max(counts.longest_us);
    }
    println!("{sum:?}");
    let all = [sum.answered_alone, sum.lost_early, sum.lost_late, sum.sessions, sum.reads_after];
    assert!(all.iter().all(|count| *count > 0), "{sum:?}");
}

#[test]
fn the_same_seed_has_the_same_history() {
    let histories: Vec<_> = (0..4).map(|seed| run(seed, Rules::ALL_HOLD, true)).collect();
    for (seed, history) in (0..).zip(&histories) {
        assert_eq!(run(seed, Rules::ALL_HOLD, true), *history, "seed {seed}");
    }
    assert!(histories.windows(2).all(|pair| pair[0] != pair[1]), "seeds differ");
}

/// A broken rule is noticed by what hosts are told and what the copies hold; asserts and the order
/// of things do not count, but for the rules of `NEEDS_ORDER`.
fn is_noticed(rule: Rule) {
    let order = NEEDS_ORDER.contains(&rule);
    let found = (0..NOTICED_WITHIN).find_map(|seed| {
        let ended = catch_unwind(AssertUnwindSafe(|| run(seed, Rules::breaking(rule), order)));
        let finding = ended.ok()?.err()?;
        let counts = match finding.kind {
            FindingKind::Seen => true,
            FindingKind::Order => order,
            FindingKind::Stuck => false,
        };
        counts.then_some((seed, finding))
    });
    let (seed, finding) = found.unwrap_or_else(|| panic!("{rule:?} is not noticed"));
    println!("{rule:?}: seed {seed}: {:?}: {}", finding.kind, finding.text);
}

macro_rules! each_rule {
    ($($name:ident: $rule:ident,)*) => {
        $(
            #[test]
            fn $name() {
                is_noticed(Rule::$rule);
            }
        )*
    };
}

each_rule! {
    mirrored_when_copied_is_noticed: MirroredWhenCopied,
    reread_when_acked_is_noticed: RereadWhenAcked,
    lock_outlives_reply_is_noticed: LockOutlivesReply,
    compared_when_acked_is_noticed: ComparedWhenAcked,
    read_committed_is_noticed: ReadCommitted,
    lock_until_commit_is_noticed: LockUntilCommit,
    range_locked_is_noticed: RangeLocked,
    ack_from_both_is_noticed: AckFromBoth,
    compare_everything_is_noticed: CompareEverything,
    target_drops_own_is_noticed: TargetDropsOwn,
    quiet_before_next_is_noticed: QuietBeforeNext,
}
