//! What a node says that cannot start, and what it tells people to do.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{FlockOperation, flock};

static PAIRS: AtomicU8 = AtomicU8::new(0);

/// A pair that was made and never started, in `dir`; the address of b, which accepts.
fn prepare(dir: &Path) -> Ipv4Addr {
    let [high, low] = u16::try_from(std::process::id() % 60_000).expect("small").to_be_bytes();
    let begin = 100 + 10 * PAIRS.fetch_add(1, Ordering::Relaxed);
    let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(127, high, low, begin + last));
    let list = addresses.map(|address| address.to_string()).join(",");
    let prepared = Command::new(env!("CARGO_BIN_EXE_stretch"))
        .args(["demo", "--prepare", "--size", "8MiB", "--addresses", &list, "--dir"])
        .arg(dir)
        .output()
        .expect("the program runs");
    assert!(prepared.status.success(), "{prepared:?}");
    addresses[1]
}

/// What node b says to people as it fails.
fn failure(dir: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stretch"))
        .args(["node", "--config", "b.toml"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_lost_image_comes_with_the_command_that_makes_room_for_the_copy() {
    let dir = tempfile::tempdir().expect("a folder");
    let demo = dir.path().join("demo");
    prepare(&demo);
    fs::remove_file(demo.join("b/vol0.img")).expect("it is there");
    let said = failure(&demo);
    assert!(said.contains("if it is only not mounted, mount it"), "{said}");
    assert!(said.contains(&format!("truncate -s {} ", 8 << 20)), "{said}");
    assert!(said.contains("vol0.img` makes an empty one"), "{said}");
}

#[test]
fn record_folders_that_are_not_there_are_no_reason_for_a_new_init() {
    let dir = tempfile::tempdir().expect("a folder");
    let demo = dir.path().join("demo");
    prepare(&demo);
    let config = fs::read_to_string(demo.join("b.toml")).expect("prepared");
    let line = config.lines().find(|line| line.starts_with("record_dirs")).expect("a key");
    let folders: Vec<_> = line.split('"').skip(1).step_by(2).collect();
    for folder in &folders {
        fs::remove_dir_all(demo.join(folder)).expect("it is there");
    }
    let said = failure(&demo);
    assert!(said.contains("If this node ran before, do not run `stretch init`"), "{said}");
    assert!(!said.contains("going on with"), "there is no other place: {said}");
    for folder in &folders {
        assert!(said.contains(&format!("{folder}/pair: No such file")), "{said}");
    }
}

#[test]
fn a_node_that_runs_already_is_named_before_its_volumes() {
    let dir = tempfile::tempdir().expect("a folder");
    let demo = dir.path().join("demo");
    prepare(&demo);
    let lock = fs::File::options().write(true).open(demo.join("b/node.lock")).expect("prepared");
    flock(&lock, FlockOperation::LockExclusive).expect("nobody runs");
    let image = fs::File::open(demo.join("b/vol0.img")).expect("prepared");
    flock(&image, FlockOperation::LockExclusive).expect("nobody runs");
    let said = failure(&demo);
    assert!(said.contains("another process runs this node"), "{said}");
    assert!(!said.contains("volume"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let demo = dir.path().join("demo");
    let address = prepare(&demo);
    let _taken = TcpListener::bind((address, 10810)).expect("nobody listens");
    let said = failure(&demo);
    assert!(said.contains(&format!("cannot listen at {address}:10810 for the peer")), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
}
