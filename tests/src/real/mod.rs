//! A pair of real processes in a network of their own: prepared by `stretch demo --prepare`,
//! started, killed, frozen, cut apart, and looked at from outside as a person would.
//!
//! The program is the one that was built with these tests, or `STRETCH_BIN`.
//! Not here: what clients do (`client`), what must be true afterwards (`checkers`).

pub mod disk;
pub mod node;
pub mod pair;
pub mod power;
pub mod witness;

use std::env;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::chaos::netns;

/// Runs `body` in a network of its own; one test at a time, because each of them wants the machine
/// for itself: a node that gets no processor for T_sus is a fault of its own.
///
/// # Panics
/// As [`netns::isolated`].
pub fn isolated(test: &str, body: impl FnOnce()) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind.
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    netns::isolated(test, body);
}

/// `short`, or `long` if `STRETCH_SOAK=1` asks for the full count.
pub fn soak<T>(short: T, long: T) -> T {
    if env::var("STRETCH_SOAK").as_deref() == Ok("1") { long } else { short }
}

/// The `stretch` program: `STRETCH_BIN`, or [`built_program`].
///
/// # Panics
/// If it is not there.
pub fn program() -> PathBuf {
    let Some(path) = env::var_os("STRETCH_BIN").map(PathBuf::from) else { return built_program() };
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// The program that was built together with the tests, which alone can break a rule.
///
/// # Panics
/// If it is not there.
pub fn built_program() -> PathBuf {
    let mut path = env::current_exe().expect("our own path");
    // target/PROFILE/deps/test-HASH
    path.pop();
    path.pop();
    let path = path.join("stretch");
    assert!(path.exists(), "{} is not there: cargo build --workspace", path.display());
    path
}

/// The `stretch-witness` program beside `stretch`.
///
/// # Panics
/// If it is not there.
pub fn witness_program() -> PathBuf {
    let path = program().with_file_name("stretch-witness");
    assert!(path.exists(), "{} is not there: cargo build --workspace", path.display());
    path
}
