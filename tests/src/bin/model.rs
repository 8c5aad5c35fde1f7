//! The model checker by hand: `model` searches the quick configurations, `model deep [LIMIT]` the
//! larger ones, `model NAME [LIMIT]` one of them and shows the way to what it finds.

#![forbid(unsafe_code)]

use std::time::Instant;

use base::rules::Rules;
use stretch_tests::model::configs::{DEEP, QUICK, find};
use stretch_tests::model::explore::{Explored, explore, replay};
use stretch_tests::model::world::{Budget, World};

/// States after which a search by hand gives up, unless told otherwise.
const LIMIT: usize = 3_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let limit = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(LIMIT);
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.first().map(String::as_str) {
        None => QUICK.iter().for_each(|(name, budget)| search(name, *budget, limit, false)),
        Some("deep") => DEEP.iter().for_each(|(name, budget)| search(name, *budget, limit, false)),
        Some(name) => match find(name) {
            Some(budget) => search(name, budget, limit, true),
            None => println!("there is no configuration {name}"),
        },
    }
}

fn search(name: &str, budget: Budget, limit: usize, show: bool) {
    let start = World::in_session(budget, Rules::ALL_HOLD);
    let began = Instant::now();
    let Explored { states, exhausted, violation, stuck } =
        explore(start.clone(), Rules::ALL_HOLD, limit);
    let end = if exhausted { "to the end" } else { "not to the end" };
    println!("{name}: {states} states, {end}, {} stuck, {:.1?}", stuck.len(), began.elapsed());
    let path = match (violation, stuck.first()) {
        (Some((why, path)), _) => {
            println!("  {why}: {path:?}");
            path
        }
        (None, Some(path)) => {
            println!("  stuck after {path:?}");
            path.clone()
        }
        (None, None) => return,
    };
    if show {
        replay(start, &path, Rules::ALL_HOLD).iter().for_each(|line| println!("{line}"));
    }
}
