//! A full disk, a disk that returns EIO, and one that hangs, at either node: nothing acknowledged is
//! lost, the message names node and file, and the other copy is the source when the disk is mended.
//! A node whose every file hangs, its logs too, still does in time whatever needs no disk.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base::limits::Timers;
use client::driver::{Config, Running, start_after};
use client::history::History;
use client::wire::Request;
use client::workload::{Area, Mix};
use rustix::process::Signal;
use serde_json::Value;
use stretch_tests::chaos::netns::run;
use stretch_tests::real::disk::{Disk, FailingImage};
use stretch_tests::real::isolated;
use stretch_tests::real::node::STOP_LIMIT;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(20);
/// How much later than promised something may happen on a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

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

/// A pair whose node a has a disk of its own for `data_dir` and log.
struct DiskOfA {
    disk: Disk,
    image: PathBuf,
    log: PathBuf,
    events: PathBuf,
    pair: Pair,
    config: Config,
    running: Running,
}

impl DiskOfA {
    /// For volume and record, too.
    fn with_all(seed: u64) -> Self {
        Self::begin(seed, Pair::prepare(SIZE))
    }

    /// Volume and record are elsewhere.
    fn with_logs(seed: u64) -> Self {
        let mut pair = Pair::prepare(SIZE);
        let elsewhere = pair.folder().join("elsewhere");
        let from = pair.folder().join("a");
        let [from, to] = [&from, &elsewhere].map(|path| path.to_str().expect("a plain path"));
        run("cp", &["-a", "--sparse=always", from, to]);
        pair.move_image(0, &elsewhere.join("vol0.img"));
        let places = "\"elsewhere/record-1\", \"elsewhere/record-2\"";
        pair.edit_config(0, "\"a/record-1\", \"a/record-2\"", places);
        Self::begin(seed, pair)
    }

    fn begin(seed: u64, mut pair: Pair) -> Self {
        let disk = Disk::install(pair.folder(), "a", 128 << 20);
        let folder = pair.folder().join("a");
        let log = folder.join("log");
        pair.a.log_to(&log);
        pair.start();
        let config = config(seed);
        let running = start_after(config.clone(), History::new(config.writer, config.trim));
        assert!(running.wait_for_progress(0, 200, LIMIT));
        assert!(running.wait_for_progress(1, 200, LIMIT));
        let (image, events) = (pair.image(0), folder.join("events.jsonl"));
        Self { disk, image, log, events, pair, config, running }
    }

    /// Both nodes tell who is to blame, while nothing of a's can be written.
    fn assert_told(&self) {
        let (a, b) = (&self.pair.a, &self.pair.b);
        let path = self.image.to_str().expect("a plain path");
        let status = a.wait_status(LIMIT, |status| text(status, "cause").contains(path));
        assert_eq!(status["serving"], false, "{status}");
        assert!(text(&status, "advice").contains("disk of node a"), "{status}");
        b.wait_status(LIMIT, |status| {
            status["serving"] == false && text(status, "cause").contains("a ")
        });
        assert!(!b.log().contains("b has not acknowledged"), "b is blamed\n{}", b.log_tail());
    }

    /// What a had to say while the disk hung has come late, but whole.
    fn assert_logs_are_whole(&self) {
        self.pair.wait_active();
        for file in [&self.log, &self.events] {
            let text = fs::read_to_string(file).expect("it is there");
            assert!(text.contains("limbo"), "{}: {text}", file.display());
        }
    }

    fn end(self) {
        self.pair.wait_active();
        assert!(self.running.wait_for_progress(0, 200, LIMIT));
        assert!(self.running.wait_for_progress(1, 200, LIMIT));
        self.pair.close(&self.config, self.running.stop());
    }
}

/// A write outside the clients' area that nobody answers: how long after `begin` it is closed.
fn closed_unanswered(node: usize, begin: Instant) -> JoinHandle<Duration> {
    let mut connection = Pair::connect(node);
    connection.stream().set_read_timeout(Some(LIMIT)).expect("set");
    thread::spawn(move || {
        let write = Request::Write { offset: 28 << 20, data: vec![7; 4096].into(), fua: false };
        connection.send(&write).expect("taken by the kernel");
        let error = connection.receive().expect_err("nobody may answer");
        assert!(error.is_closed(), "{error}");
        begin.elapsed()
    })
}

/// Whether a process has called exit(2), as far as it may get.
fn has_exited(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("our own child");
    let (_, state) = stat.rsplit_once(") ").expect("the name is in brackets");
    state.starts_with('Z')
}

#[test]
fn everything_of_a_hangs() {
    isolated("everything_of_a_hangs", || {
        let test = DiskOfA::with_all(57);
        let begin = Instant::now();
        let Some(frozen) = test.disk.freeze() else { return };
        let probes = [0, 1].map(|node| closed_unanswered(node, begin));
        test.assert_told();
        for (name, probe) in ["a", "b"].iter().zip(probes) {
            let after = probe.join().expect("closed");
            let latest = Timers::DEFAULT.hold + Timers::DEFAULT.io_timeout + MARGIN;
            println!("{name} closes after {after:?}");
            assert!(after < latest, "{name} closes after {after:?}");
        }
        test.pair.a.wait_status(LIMIT, |status| text(status, "state") == "limbo");
        drop(frozen);
        test.assert_logs_are_whole();
        test.end();
    });
}

#[test]
fn only_the_logs_of_a_hang() {
    isolated("only_the_logs_of_a_hang", || {
        let test = DiskOfA::with_logs(59);
        let Some(frozen) = test.disk.freeze() else { return };
        // It is nobody's business for longer than any disk may take.
        test.running.let_run(Timers::DEFAULT.io_timeout * 2);
        assert!(test.running.wait_for_progress(0, 200, LIMIT));
        assert!(test.running.wait_for_progress(1, 200, LIMIT));
        assert_eq!(test.pair.a.status().expect("it answers")["session"], 1);
        let begin = Instant::now();
        test.pair.link.cut();
        let probes = [0, 1].map(|node| closed_unanswered(node, begin));
        for (name, probe) in ["a", "b"].iter().zip(probes) {
            let after = probe.join().expect("closed");
            println!("{name} closes after {after:?}");
            assert!(after < Timers::DEFAULT.hold + MARGIN, "{name} closes after {after:?}");
        }
        test.pair.a.wait_status(LIMIT, |status| text(status, "state") == "limbo");
        drop(frozen);
        test.pair.link.heal();
        test.assert_logs_are_whole();
        test.end();
    });
}

#[test]
fn a_stops_while_everything_of_it_hangs() {
    isolated("a_stops_while_everything_of_it_hangs", || {
        let mut test = DiskOfA::with_all(58);
        let Some(frozen) = test.disk.freeze() else { return };
        let begin = Instant::now();
        let probe = closed_unanswered(0, begin);
        test.assert_told();
        let begin_stop = Instant::now();
        test.pair.a.signal(Signal::TERM);
        // Threads that wait for the disk inside the kernel stay until it answers.
        while !has_exited(test.pair.a.pid()) {
            let took = begin_stop.elapsed();
            assert!(took < STOP_LIMIT, "runs after {took:?}\n{}", test.pair.a.log_tail());
            thread::sleep(Duration::from_millis(20));
        }
        println!("a has exited after {:?}", begin_stop.elapsed());
        assert!(TcpStream::connect(Pair::nbd(0)).is_err(), "it takes clients");
        assert_eq!(test.pair.a.status(), None);
        probe.join().expect("closed");
        drop(frozen);
        test.pair.a.wait_end(STOP_LIMIT);
        test.pair.a.start();
        test.end();
    });
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
