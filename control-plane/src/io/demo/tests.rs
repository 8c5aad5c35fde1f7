use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Options;
use super::folder::{Folder, lock_holder};
use super::lines::{missing, percent_encode, quote, ready};

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
fn the_lines_are_golden_with_and_without_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options {
        dir: dir.path().to_owned(),
        size: Some(8 << 20),
        addresses: None,
        prepare: false,
    };
    insta::assert_snapshot!("lines", lines_of(&options));
    for name in ["a.toml", "b.toml"] {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).expect("made");
        fs::write(&path, text.replace("tls = \"off\"", "tls = \"required\"")).expect("written");
    }
    insta::assert_snapshot!("lines_tls", lines_of(&options));
}
