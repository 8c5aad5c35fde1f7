//! I4, I14 and I15 over many seeds: no token is won twice; every broken rule is noticed.

use base::rules::{Rule, Rules};
use stretch_tests::arbitration::{Counts, run};

/// Seeds of a run, and within which a broken rule is noticed.
const SEEDS: u64 = 2000;

#[test]
fn no_seed_has_two_winners() {
    let mut sum = Counts::default();
    for seed in 0..SEEDS {
        let counts = run(seed, Rules::ALL_HOLD).unwrap_or_else(|error| panic!("{seed}: {error}"));
        sum.won += counts.won;
        sum.lost += counts.lost;
        sum.unknown += counts.unknown;
        sum.set_back += counts.set_back;
        sum.runs += counts.runs;
    }
    println!("{sum:?}");
    let Counts { won, lost, unknown, set_back, runs } = sum;
    assert!([won, lost, unknown, set_back, runs].into_iter().all(|count| count > SEEDS / 2));
}

fn is_noticed(rule: Rule) {
    let rules = Rules::breaking(rule);
    let noticed = (0..SEEDS).find_map(|seed| run(seed, rules).err().map(|error| (seed, error)));
    let (seed, error) = noticed.unwrap_or_else(|| panic!("{rule:?} is not noticed"));
    println!("seed {seed}: {error}");
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
    first_claim_decides_is_noticed: FirstClaimDecides,
    tokens_die_with_run_is_noticed: TokensDieWithRun,
    rollback_noticed_is_noticed: RollbackNoticed,
    seen_counter_kept_is_noticed: SeenCounterKept,
    token_of_its_group_is_noticed: TokenOfItsGroup,
}
