//! Power cuts of both nodes under load: every write acknowledged before an answered FLUSH was
//! asked for, and every FUA write, is there through both nodes.

use std::time::Duration;

use client::driver::{Config, now_ns, read_area, start, start_after};
use client::history::{History, expand};
use client::linearizability::Value;
use client::workload::Mix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stretch_tests::checkers::durability::{self, Promises};
use stretch_tests::real::pair::Pair;
use stretch_tests::real::power::Power;
use stretch_tests::real::{isolated, soak};

const SIZE: u64 = 32 << 20;
const DISK: u64 = 128 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn values(history: &History, image: &[u8], first_block: u64) -> Vec<Value> {
    expand(&history.decode(image, first_block).expect("no block is damaged"))
}

/// One cut under load. `history` is what was there before; returns what is there afterwards, and
/// whether anything was lost that no FLUSH had covered: else the cuts would be none.
fn one_cut(
    pair: &mut Pair,
    power: &Power,
    config: &Config,
    history: History,
    load: Duration,
) -> (History, bool) {
    let first_block = config.area.blocks().start;
    let before = pair.area_of_image(config, 0);
    let running = start_after(config.clone(), history);
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 100, LIMIT), "node {node} answers");
    }
    running.let_run(load);
    power.cut(pair);
    let history = running.stop();
    history.check().expect("right until the cut");
    pair.start();
    let promises = Promises::of_history(&history);
    assert!(promises.durable.iter().filter(|durable| **durable).count() > 20, "too few promises");
    let before = values(&history, &before, first_block);
    let mut images = Vec::new();
    for node in 0..2 {
        let mut after = History::new(history.writer, history.trim);
        read_area(config, node, &mut after).expect("both serve");
        assert_eq!(after.wrong, [""; 0]);
        let seen: Vec<Value> = after.records.iter().flat_map(|read| expand(&read.seen)).collect();
        if let Err(loss) = durability::check(&promises, first_block, &before, &seen) {
            let lost = loss.lost.map(|index| &promises.operations[index]);
            panic!("node {node}: {loss:?} {lost:?}");
        }
        images.push(seen);
    }
    assert!(images[0] == images[1], "the nodes show different data");
    let image = pair.area_of_image(config, 0);
    let resumed = history.resume(&image, first_block).expect("no block is damaged");
    let mut whole = history;
    whole.add_image(0, now_ns(), first_block, &image);
    (resumed, whole.check().is_err())
}

fn power_cuts(direct: &str, seed: u64, cuts: u32) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut pair = Pair::prepare(SIZE);
    for node in 0..2 {
        pair.edit_config(node, "direct = \"auto\"", &format!("direct = \"{direct}\""));
    }
    let power = Power::install(&pair, DISK);
    pair.start();
    let mut config = Pair::client(seed);
    config.mix = Mix { flush: 6, fua_percent: 10, ..Mix::ALL };
    config.patience = Duration::ZERO;
    let prepared = Config { requests: Some(0), ..config.clone() };
    let mut history = start(prepared).expect("both serve").finish();
    let mut lossy = 0;
    for _ in 0..cuts {
        let load = Duration::from_micros(random.random_range(0..300_000));
        let (resumed, lost) = one_cut(&mut pair, &power, &config, history, load);
        lossy += u32::from(lost);
        history = resumed;
    }
    println!("{lossy} of {cuts} cuts lost something");
    assert!(cuts < 20 || lossy > 0, "these are no power cuts");
    pair.close(&config, history);
}

#[test]
fn power_is_cut_with_direct_io() {
    isolated("power_is_cut_with_direct_io", || power_cuts("auto", 41, soak(2, 20)));
}

/// Through the page cache, whose contents are lost.
#[test]
fn power_is_cut_with_buffered_io() {
    isolated("power_is_cut_with_buffered_io", || power_cuts("off", 42, soak(2, 20)));
}
