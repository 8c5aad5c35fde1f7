//! Somebody puts another file in place of b's image while b is stopped: it is named, copied over
//! from a, and never a source.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use client::driver::{Config, start, start_after};
use client::history::History;
use stretch_tests::chaos::netns::run;
use stretch_tests::real::isolated;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// A pair that has worked, was stopped cleanly, and has worked again.
fn worked(config: &Config, between: impl FnOnce(&Pair)) -> (Pair, History) {
    let mut pair = Pair::running(SIZE);
    let running = start(config.clone()).expect("both serve");
    assert!(running.wait_for_progress(1, 300, LIMIT));
    let history = running.stop();
    pair.stop();
    between(&pair);
    pair.start();
    let running = start_after(config.clone(), history);
    assert!(running.wait_for_progress(0, 300, LIMIT));
    (pair, running.stop())
}

/// `cp -a`: bytes, times and extended attributes, the stamp among them.
fn copy(from: &Path, to: &Path) {
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    run("cp", &["-a", "--sparse=always", &path(from), &path(to)]);
}

fn replaced(seed: u64, between: impl FnOnce(&Pair), replace: impl FnOnce(&Pair)) {
    let config = Pair::client(seed);
    let (mut pair, history) = worked(&config, between);
    pair.b.stop();
    replace(&pair);
    pair.b.clear_log();
    pair.b.start();
    pair.wait_active();
    let told = pair.b.log();
    assert!(told.contains("vol0.img") || told.contains("vol0"), "b says nothing of it:\n{told}");
    pair.close(&config, history);
}

#[test]
fn a_blank_image_at_b_is_copied_over_from_a() {
    isolated("a_blank_image_at_b_is_copied_over_from_a", || {
        replaced(
            31,
            |_| (),
            |pair| {
                fs::remove_file(pair.image(1)).expect("it was there");
                let blank = File::create(pair.image(1)).expect("made");
                blank.set_len(SIZE).expect("grown");
            },
        );
    });
}

#[test]
fn an_older_copy_at_b_is_copied_over_from_a() {
    isolated("an_older_copy_at_b_is_copied_over_from_a", || {
        let older = |pair: &Pair| pair.folder().join("older.img");
        replaced(
            32,
            |pair| copy(&pair.image(1), &older(pair)),
            |pair| copy(&older(pair), &pair.image(1)),
        );
    });
}

#[test]
fn an_older_copy_of_b_alone_does_not_serve() {
    isolated("an_older_copy_of_b_alone_does_not_serve", || {
        let config = Pair::client(33);
        let older = |pair: &Pair| pair.folder().join("older.img");
        let (mut pair, history) = worked(&config, |pair| copy(&pair.image(1), &older(pair)));
        pair.stop();
        copy(&older(&pair), &pair.image(1));
        pair.b.start();
        assert!(!pair.b.wait_state("active-active", Duration::from_secs(2)), "b alone serves");
        let status = pair.b.status().expect("b answers");
        assert_eq!(status["serving"], false, "{status}");
        assert!(status.to_string().contains("vol0"), "status does not name it: {status}");
        pair.a.start();
        pair.wait_active();
        pair.close(&config, history);
    });
}
