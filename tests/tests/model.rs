//! The group's core, model-checked: two of them, a witness and all that may go wrong between them.

use base::rules::{Rule, Rules};
use stretch_tests::model::configs::{QUICK, find, shows};
use stretch_tests::model::explore::explore;
use stretch_tests::model::world::World;

/// More than any quick configuration has.
const STATES_MAX: usize = 400_000;

/// Searched to the end, without a broken invariant and without a dead end.
fn holds(name: &str) {
    let budget = find(name).expect("a configuration");
    let start = World::in_session(budget, Rules::ALL_HOLD);
    let found = explore(start, Rules::ALL_HOLD, STATES_MAX);
    println!("{name}: {} states", found.states);
    assert_eq!(found.violation, None, "{name}");
    assert!(found.exhausted, "{name}: more than {STATES_MAX} states");
    assert!(found.stuck.is_empty(), "{name}: nobody serves after {:?}", found.stuck.first());
}

#[test]
fn grants() {
    holds("grants");
}

#[test]
fn break_once() {
    holds("break_once");
}

#[test]
fn break_slow_volumes() {
    holds("break_slow_volumes");
}

#[test]
fn break_slow_record() {
    holds("break_slow_record");
}

#[test]
fn break_witness_restart() {
    holds("break_witness_restart");
}

#[test]
fn break_repeat() {
    holds("break_repeat");
}

#[test]
fn stuck() {
    holds("stuck");
}

#[test]
fn crash() {
    holds("crash");
}

#[test]
fn power() {
    holds("power");
}

#[test]
fn power_slow_record() {
    holds("power_slow_record");
}

#[test]
fn witness_restart() {
    holds("witness_restart");
}

#[test]
fn witness_cuts() {
    holds("witness_cuts");
}

#[test]
fn stop() {
    holds("stop");
}

#[test]
fn stop_both() {
    holds("stop_both");
}

#[test]
fn disk_fails() {
    holds("disk_fails");
}

#[test]
fn unhealthy() {
    holds("unhealthy");
}

#[test]
fn unhealthy_both() {
    holds("unhealthy_both");
}

#[test]
fn every_quick_configuration_has_its_test() {
    let this = include_str!("model.rs");
    for (name, _) in QUICK {
        assert!(this.contains(&format!("fn {name}() {{\n    holds(\"{name}\");")), "{name}");
    }
}

#[test]
fn a_fresh_pair_comes_to_a_session_with_the_witness() {
    let budget = QUICK[0].1;
    let world = World::in_session(budget, Rules::ALL_HOLD);
    assert!(world.is_good());
    assert_eq!(world.violation(), None);
}

/// A broken rule is noticed by what the nodes hold and serve, not by an assert.
fn is_noticed(rule: Rule) {
    let budget = shows(rule).expect("a configuration that shows it");
    let mut start = World::in_session(budget, Rules::ALL_HOLD);
    start.set_rules(Rules::breaking(rule));
    let found = explore(start, Rules::breaking(rule), STATES_MAX);
    let (why, path) = found.violation.unwrap_or_else(|| panic!("{rule:?} is not noticed"));
    println!("{rule:?}: {why} after {path:?}");
    assert!(["I1", "I2", "I5", "I6", "D2"].iter().any(|id| why.starts_with(id)), "{why}");
}

macro_rules! each_rule {
    ($($name:ident: $rule:ident,)*) => {
        $(
            #[test]
            fn $name() {
                is_noticed(Rule::$rule);
            }
        )*

        #[test]
        fn every_rule_can_be_broken_by_name() {
            for rule in [$(Rule::$rule),*] {
                assert!(Rule::ALL.contains(&rule), "{rule:?}");
            }
        }
    };
}

each_rule! {
    promise_remembered_is_noticed: PromiseRemembered,
    promise_kept_is_noticed: PromiseKept,
    promise_outlasts_is_noticed: PromiseOutlasts,
    grant_from_request_is_noticed: GrantFromRequest,
    grant_in_session_is_noticed: GrantInSession,
    grant_for_all_is_noticed: GrantForAll,
    unclean_never_wins_is_noticed: UncleanNeverWins,
    give_durable_is_noticed: GiveDurable,
    transfers_counted_is_noticed: TransfersCounted,
    token_compared_is_noticed: TokenCompared,
}
