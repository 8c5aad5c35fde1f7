use std::path::Path;

use super::folder::lock_holder;
use super::lines::{missing, quote};

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
