//! The configurations: what may go wrong in each, and which broken rule which of them shows.

use base::rules::Rule;

use super::world::Budget;

const NOTHING: Budget = Budget {
    breaks: 0,
    repeats: 0,
    stuck: 0,
    crashes: 0,
    powers: 0,
    witness_restarts: 0,
    witness_cuts: 0,
    stops: 0,
    disk_failures: 0,
    unhealthy: 0,
    writes: 0,
    timed: false,
    slow_volumes: false,
    slow: false,
};

/// Searched to the end by every run of the tests.
pub const QUICK: [(&str, Budget); 17] = [
    ("grants", Budget { timed: true, ..NOTHING }),
    ("break_once", Budget { breaks: 1, ..NOTHING }),
    ("break_slow_volumes", Budget { breaks: 1, slow_volumes: true, ..NOTHING }),
    ("break_slow_record", Budget { breaks: 1, slow: true, ..NOTHING }),
    ("break_witness_restart", Budget { breaks: 1, witness_restarts: 1, ..NOTHING }),
    ("break_repeat", Budget { breaks: 1, repeats: 1, ..NOTHING }),
    ("stuck", Budget { stuck: 1, ..NOTHING }),
    ("crash", Budget { crashes: 1, ..NOTHING }),
    ("power", Budget { powers: 1, ..NOTHING }),
    ("power_slow_record", Budget { powers: 1, slow: true, ..NOTHING }),
    ("witness_restart", Budget { witness_restarts: 1, repeats: 1, ..NOTHING }),
    ("witness_cuts", Budget { witness_cuts: 2, repeats: 1, ..NOTHING }),
    ("stop", Budget { stops: 1, ..NOTHING }),
    ("stop_both", Budget { stops: 2, ..NOTHING }),
    ("disk_fails", Budget { disk_failures: 1, ..NOTHING }),
    ("unhealthy", Budget { unhealthy: 1, ..NOTHING }),
    ("unhealthy_both", Budget { unhealthy: 2, ..NOTHING }),
];

/// Larger ones, by hand.
pub const DEEP: [(&str, Budget); 13] = [
    ("break_twice", Budget { breaks: 2, ..NOTHING }),
    ("break_power", Budget { breaks: 1, powers: 1, ..NOTHING }),
    ("break_crash", Budget { breaks: 1, crashes: 1, ..NOTHING }),
    ("break_write", Budget { breaks: 1, writes: 1, ..NOTHING }),
    ("break_slow_all", Budget { breaks: 1, slow: true, slow_volumes: true, ..NOTHING }),
    ("crash_twice", Budget { crashes: 2, ..NOTHING }),
    ("crash_power", Budget { crashes: 1, powers: 1, ..NOTHING }),
    ("power_write", Budget { powers: 1, writes: 1, ..NOTHING }),
    ("power_twice", Budget { powers: 2, writes: 1, ..NOTHING }),
    ("stop_crash", Budget { stops: 1, crashes: 1, ..NOTHING }),
    ("stop_write", Budget { stops: 2, writes: 1, ..NOTHING }),
    ("grants_break", Budget { timed: true, breaks: 1, ..NOTHING }),
    ("grants_crash", Budget { timed: true, crashes: 1, ..NOTHING }),
];

/// A rule, and where its loss is seen.
pub fn shows(rule: Rule) -> Option<Budget> {
    Some(match rule {
        Rule::PromiseRemembered => Budget { timed: true, crashes: 1, ..NOTHING },
        Rule::PromiseKept | Rule::PromiseOutlasts | Rule::GrantFromRequest | Rule::GrantForAll => {
            Budget { timed: true, breaks: 1, ..NOTHING }
        }
        Rule::GrantInSession => Budget { timed: true, stuck: 1, slow_volumes: true, ..NOTHING },
        Rule::UncleanNeverWins => Budget { powers: 1, writes: 1, ..NOTHING },
        Rule::GiveDurable => Budget { breaks: 1, witness_restarts: 1, ..NOTHING },
        Rule::TransfersCounted => Budget { witness_restarts: 1, repeats: 1, ..NOTHING },
        Rule::TokenCompared => Budget { breaks: 2, ..NOTHING },
        _ => return None,
    })
}

/// The configuration with this name.
pub fn find(name: &str) -> Option<Budget> {
    QUICK.iter().chain(&DEEP).find(|(other, _)| *other == name).map(|(_, budget)| *budget)
}
