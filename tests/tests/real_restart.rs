//! Clean stops and starts: nothing is lost, nothing is copied.

use std::time::{Duration, Instant};

use client::driver::{start, start_after};
use stretch_tests::real::isolated;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 64 << 20;
/// CONTRACT: the next start on the folder is active within 2 s.
const WARM_LIMIT: Duration = Duration::from_secs(2);

#[test]
fn a_clean_stop_of_both_loses_nothing_and_the_next_start_copies_nothing() {
    isolated("a_clean_stop_of_both_loses_nothing_and_the_next_start_copies_nothing", || {
        let mut pair = Pair::running(SIZE);
        let mut config = Pair::client(2);
        config.patience = Duration::ZERO;
        let running = start(config.clone()).expect("both serve");
        assert!(running.wait_for_progress(1, 500, Duration::from_secs(10)));
        // Under load: what was not answered is unknown, the rest is there.
        pair.stop();
        let history = running.stop();
        pair.assert_equal();
        let began = Instant::now();
        pair.start();
        let took = began.elapsed();
        assert!(took <= WARM_LIMIT, "active only after {took:?}");
        for node in [&pair.a, &pair.b] {
            let why = last_activation(&pair, node.name);
            assert!(why.ends_with("nothing was compared"), "{}: {why}", node.name);
        }
        // After a kill it is different.
        pair.b.kill();
        pair.b.start();
        assert!(pair.b.wait_state("active-active", Duration::from_secs(30)));
        pair.wait_active();
        let why = last_activation(&pair, "a");
        assert!(why.contains(&format!("compared {SIZE} bytes, copied ")), "a: {why}");
        let running = start_after(config.clone(), history);
        assert!(running.wait_for_progress(0, 500, Duration::from_secs(10)));
        pair.close(&config, running.stop());
    });
}

/// Why a node became active the last time, in its decision log.
fn last_activation(pair: &Pair, node: &str) -> String {
    let path = pair.folder().join(node).join("events.jsonl");
    let events = std::fs::read_to_string(path).expect("a decision log");
    let mut events = events.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let active = events.rfind(|event: &serde_json::Value| event["to"] == "active-active");
    active.expect("it was active")["why"].as_str().expect("a text").to_owned()
}

#[test]
fn a_clean_stop_of_one_node_freezes_the_other_and_nothing_is_lost() {
    isolated("a_clean_stop_of_one_node_freezes_the_other_and_nothing_is_lost", || {
        let mut pair = Pair::running(SIZE);
        let config = Pair::client(3);
        let running = start(config.clone()).expect("both serve");
        assert!(running.wait_for_progress(0, 300, Duration::from_secs(10)));
        pair.b.stop();
        pair.assert_equal();
        let status = pair.a.status().expect("a still runs");
        assert_eq!(status["serving"], false, "{status}");
        assert!(!status["cause"].as_str().unwrap_or_default().is_empty(), "{status}");
        pair.b.start();
        pair.wait_active();
        for node in 0..2 {
            assert!(running.wait_for_progress(node, 300, Duration::from_secs(10)));
        }
        pair.close(&config, running.stop());
    });
}
