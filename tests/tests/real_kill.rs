//! kill -9 of one node and of both under load: every acknowledged write is there afterwards.

use std::time::Duration;

use client::driver::start;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stretch_tests::real::pair::Pair;
use stretch_tests::real::{isolated, soak};

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Kills the nodes that `victims` names, again and again at random moments.
fn kill_again_and_again(victims: &[&[usize]], seed: u64, moments: u32) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut pair = Pair::running(SIZE);
    let mut config = Pair::client(seed);
    config.patience = LIMIT;
    let running = start(config.clone()).expect("both serve");
    for moment in 0..moments {
        let victims = victims[moment as usize % victims.len()];
        for node in 0..2 {
            assert!(running.wait_for_progress(node, 50, LIMIT), "moment {moment}: node {node}");
        }
        running.let_run(Duration::from_micros(random.random_range(0..200_000)));
        for victim in victims {
            [&mut pair.a, &mut pair.b][*victim].kill();
        }
        for victim in victims {
            [&mut pair.a, &mut pair.b][*victim].start();
        }
        pair.wait_active();
    }
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 50, LIMIT), "at the end: node {node}");
    }
    let counts = pair.close(&config, running.stop());
    println!("{counts:?}");
    assert!(counts.connections_lost_total() > 0, "nothing was killed under load: {counts:?}");
}

#[test]
fn one_node_is_killed_under_load() {
    isolated("one_node_is_killed_under_load", || {
        kill_again_and_again(&[&[0], &[1]], 11, soak(4, 50));
    });
}

#[test]
fn both_nodes_are_killed_under_load() {
    isolated("both_nodes_are_killed_under_load", || {
        kill_again_and_again(&[&[0, 1], &[1, 0]], 12, soak(2, 50));
    });
}
