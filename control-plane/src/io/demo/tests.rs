use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Options;
use super::children::worth_showing;
use super::folder::{Folder, lock_holder};
use super::lines::{missing, percent_encode, quote, ready};
use super::show::live_part;
use crate::io::run_files::RunFiles;
use crate::state_word::StateWord;
use crate::status::{NodeStatus, ResyncRole, ResyncStatus, VolumeStatus};

#[test]
fn a_path_survives_a_shell() {
    assert_eq!(quote(Path::new("/a/b-c_d.e")), "/a/b-c_d.e");
    assert_eq!(quote(Path::new("/a b")), "'/a b'");
    assert_eq!(quote(Path::new("/it's")), r"'/it'\''s'");
    assert_eq!(quote(Path::new("/a$b")), "'/a$b'");
}

#[test]
fn missing_tools_are_named_once_with_their_packages() {
    assert_eq!(missing(|_| true), None);
    let text = missing(|tool| tool == "fio").expect("three are missing");
    assert_eq!(
        text,
        "not installed here: qemu-io, nbdinfo, nbdcopy \
         (Debian: apt-get install qemu-utils libnbd-bin)"
    );
}

#[test]
fn the_holder_of_a_lock_is_found() {
    let locks = "1: POSIX  ADVISORY  WRITE 12 fe:01:99 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 4711 fe:01:99 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE 0 fe:01:98 0 EOF\n";
    assert_eq!(lock_holder(locks, 99), Some(4711));
    assert_eq!(lock_holder(locks, 98), None);
    assert_eq!(lock_holder(locks, 1), None);
    assert_eq!(lock_holder("nonsense", 1), None);
}

#[test]
fn a_path_survives_a_uri() {
    assert_eq!(percent_encode(Path::new("/a/b-c_d.e~")), "/a/b-c_d.e~");
    assert_eq!(percent_encode(Path::new("/x y/100%&\u{e4}")), "/x%20y/100%25%26%C3%A4");
}

/// The lines to paste, with what differs from run to run replaced.
fn lines_of(options: &Options) -> String {
    let folder = Folder::take(options).expect("a good folder");
    let program = std::env::current_exe().expect("this test").display().to_string();
    let dir = folder.dir.display().to_string();
    let text = ready(&folder, Duration::from_millis(1234), |_| true).expect("lines");
    let text = text.replace(&program, "STRETCH").replace(&dir, "DIR");
    // Root's certificates lie elsewhere.
    text.replace("/etc/pki", "~/.pki")
}

#[test]
fn nothing_is_left_below_run_when_a_demo_has_ended() {
    let dir = tempfile::tempdir().expect("a folder");
    let options =
        Options { dir: dir.path().to_owned(), size: Some(512), addresses: None, prepare: true };
    let folder = Folder::take(&options).expect("a good folder");
    let text = ready(&folder, Duration::from_millis(1), |_| true).expect("lines");
    assert!(text.contains("--bs=512 --iodepth=32 --size=512 "), "{text}");
    let files = folder
        .nodes
        .each_ref()
        .map(|node| RunFiles::of_record(&node.node.name, &node.node.record_dirs).sequence());
    // A user without a folder below /run keeps nothing there.
    assert!(files.iter().flatten().all(|path| path.exists()), "{files:?}");
    drop(folder);
    assert!(files.iter().flatten().all(|path| !path.exists()), "{files:?}");
}

#[test]
fn of_a_log_the_complaints_are_shown() {
    let text =
        "T  INFO one\nT  WARN two\nT  INFO three\nT ERROR four\nstretch: five\nT  INFO six\n";
    assert_eq!(worth_showing(text), ["T  WARN two", "T ERROR four", "stretch: five"]);
    assert_eq!(worth_showing("1\n2\n3\n4\n"), ["2", "3", "4"]);
    assert_eq!(worth_showing(&"stretch: no\n".repeat(12)).len(), 10);
}

#[test]
fn the_live_line_says_what_is_compared_and_not_what_a_start_waits_for() {
    let name = |text: &str| text.parse().expect("a name");
    let mut status = NodeStatus::starting(name("a"), name("b"), name("a"), 1);
    status.cause = "waiting for node b".to_owned();
    assert_eq!(live_part(&status), "a: starting");
    status.state = StateWord::ResyncSource;
    assert_eq!(live_part(&status), "a: resync-source - waiting for node b");
    status.cause.clear();
    for (done_bytes, todo_bytes, said) in [(0, 0, " (nothing to compare)"), (1, 3, " 25%")] {
        let role = ResyncRole::Source;
        let resync = ResyncStatus { role, done_bytes, todo_bytes, bytes_per_s: None, eta_ms: None };
        status.volumes = vec![VolumeStatus {
            name: "vol0".parse().expect("a name"),
            size: 4096,
            dirty_bytes: None,
            marked_bytes: None,
            clients: 0,
            resync: Some(resync),
        }];
        assert_eq!(live_part(&status), format!("a: resync-source{said}"));
    }
}

#[test]
fn the_lines_are_golden_with_and_without_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let options =
        Options { dir: dir.path().to_owned(), size: Some(8 << 20), addresses: None, prepare: true };
    insta::assert_snapshot!("lines", lines_of(&options));
    for name in ["a.toml", "b.toml"] {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).expect("made");
        fs::write(&path, text.replace("tls = \"off\"", "tls = \"required\"")).expect("written");
    }
    insta::assert_snapshot!("lines_tls", lines_of(&options));
}
