//! A full disk, a disk that returns EIO, and one that hangs, at either node: nothing acknowledged is
//! lost, the message names node and file, and the other copy is the source when the disk is mended.

use std::fs;
use std::path::Path;
use std::time::Duration;

use client::driver::{Config, start_after};
use client::history::History;
use client::workload::{Area, Mix};
use serde_json::Value;
use stretch_tests::real::disk::{Disk, FailingImage};
use stretch_tests::real::isolated;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Writes that need space, on a blank volume.
fn config(seed: u64) -> Config {
    let mut config = Pair::client(seed);
    config.mix = Mix { read: 30, write: 70, flush: 1, ..Mix::PLAIN };
    config.area = Area { offset: 0, length: 24 << 20, ..config.area };
    config
}

fn text<'a>(status: &'a Value, key: &str) -> &'a str {
    status[key].as_str().unwrap_or_default()
}

fn through(node: usize, seed: u64, mut pair: Pair, image: &Path, fail: &dyn Fn(), mend: &dyn Fn()) {
    pair.start();
    let config = config(seed);
    let running = start_after(config.clone(), History::new(config.writer, config.trim));
    assert!(running.wait_for_progress(0, 200, LIMIT));
    assert!(running.wait_for_progress(1, 200, LIMIT));
    fail();
    let (failed, other) = if node == 0 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
    let path = image.to_str().expect("a plain path");
    // First what happened is made durable, then it is told.
    let status = failed.wait_status(LIMIT, |status| text(status, "cause").contains(path));
    assert_eq!(status["serving"], false, "{status}");
    let told = format!("{} {}", text(&status, "cause"), text(&status, "advice"));
    assert!(told.contains(&format!("node {}", failed.name)), "status does not name it: {told}");
    assert!(failed.log().contains(path), "the log does not name {path}");
    let status = other.wait_status(LIMIT, |status| status["serving"] == false);
    let told = text(&status, "cause");
    assert!(told.contains(failed.name) && told.contains("disk"), "what failed where? {told}");
    mend();
    pair.wait_active();
    assert!(running.wait_for_progress(0, 200, LIMIT));
    assert!(running.wait_for_progress(1, 200, LIMIT));
    pair.close(&config, running.stop());
}

fn full(node: usize, seed: u64) {
    let pair = Pair::prepare(SIZE);
    let disk = Disk::install(pair.folder(), ["a", "b"][node], 128 << 20);
    let image = pair.image(node);
    through(node, seed, pair, &image, &|| disk.fill(1 << 20), &|| disk.free());
}

fn failing(node: usize, seed: u64) {
    let mut pair = Pair::prepare(SIZE);
    let folder = pair.folder().join("failing");
    fs::create_dir(&folder).expect("a folder");
    let image = FailingImage::serve(&folder, SIZE);
    pair.move_image(node, image.path());
    through(node, seed, pair, image.path(), &|| image.fail(), &|| image.mend());
}

/// The disk neither answers nor fails: its own node is to blame, at both nodes.
fn hanging(node: usize, seed: u64) {
    let mut pair = Pair::prepare(SIZE);
    let folder = pair.folder().join("hanging");
    fs::create_dir(&folder).expect("a folder");
    let image = FailingImage::serve(&folder, SIZE);
    pair.move_image(node, image.path());
    pair.start();
    let config = config(seed);
    let running = start_after(config.clone(), History::new(config.writer, config.trim));
    assert!(running.wait_for_progress(0, 200, LIMIT));
    assert!(running.wait_for_progress(1, 200, LIMIT));
    image.hang();
    let (stuck, other) = if node == 0 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
    let path = image.path().to_str().expect("a plain path");
    let status = stuck.wait_status(LIMIT, |status| text(status, "cause").contains(path));
    assert_eq!(status["serving"], false, "{status}");
    assert!(text(&status, "advice").contains(&format!("disk of node {}", stuck.name)), "{status}");
    other.wait_status(LIMIT, |status| {
        status["serving"] == false && text(status, "cause").contains(&format!("{} ", stuck.name))
    });
    for node in [stuck, other] {
        let blamed = format!("{} has not acknowledged", other.name);
        assert!(!node.log().contains(&blamed), "{} is blamed\n{}", other.name, node.log_tail());
    }
    image.go_on();
    pair.wait_active();
    assert!(running.wait_for_progress(0, 200, LIMIT));
    assert!(running.wait_for_progress(1, 200, LIMIT));
    pair.close(&config, running.stop());
}

#[test]
fn the_disk_of_a_hangs() {
    isolated("the_disk_of_a_hangs", || hanging(0, 55));
}

#[test]
fn the_disk_of_b_hangs() {
    isolated("the_disk_of_b_hangs", || hanging(1, 56));
}

#[test]
fn the_disk_of_a_is_full() {
    isolated("the_disk_of_a_is_full", || full(0, 51));
}

#[test]
fn the_disk_of_b_is_full() {
    isolated("the_disk_of_b_is_full", || full(1, 52));
}

#[test]
fn the_disk_of_a_fails() {
    isolated("the_disk_of_a_fails", || failing(0, 53));
}

#[test]
fn the_disk_of_b_fails() {
    isolated("the_disk_of_b_fails", || failing(1, 54));
}
