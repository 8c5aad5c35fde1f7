//! A test in a network, process and mount namespace of its own: all of 127.0.0.0/8 is its own, and
//! when it ends, however it ends, the kernel kills everything that it has started.
//!
//! The test starts itself again under `unshare` (util-linux), because a namespace is a matter of
//! whole processes. As root, or as anybody where user namespaces are allowed.

use std::env;
use std::process::Command;

/// Names the test that runs inside.
const INSIDE: &str = "STRETCH_TEST_INSIDE";

/// Runs `body` in namespaces of its own. `test` is the test's full name, as `cargo test` prints it.
///
/// # Panics
/// If `body` does, or if there can be no namespaces.
pub fn isolated(test: &str, body: impl FnOnce()) {
    if env::var(INSIDE).as_deref() == Ok(test) {
        run("ip", &["link", "set", "lo", "up"]);
        // What nodes keep until the machine restarts goes with the namespace.
        run("mount", &["-t", "tmpfs", "run", "/run"]);
        body();
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(env::current_exe().expect("our own path"));
    unshare.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, test);
    let output = unshare.output().expect("unshare (package util-linux) can be started");
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespace");
    // A wrong name would run nothing, successfully.
    assert!(told.contains("test result: ok. 1 passed"), "there is no test {test}");
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started or fails; with its words.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn two_tests_have_the_same_address_at_once() {
        let _here = TcpListener::bind("127.0.0.11:0").expect("loopback is there");
        isolated("chaos::netns::tests::two_tests_have_the_same_address_at_once", || {
            let listener = TcpListener::bind("127.0.0.11:10809").expect("nobody else is here");
            TcpStream::connect(listener.local_addr().expect("bound")).expect("lo is up");
            assert_eq!(std::process::id(), 1, "everything dies with us");
        });
    }

    #[test]
    #[should_panic(expected = "there is no test")]
    fn a_name_that_is_no_test_is_noticed() {
        isolated("no such test", || ());
    }

    #[test]
    #[should_panic(expected = "failed in its namespace")]
    fn a_failure_inside_is_a_failure() {
        if env::var(INSIDE).is_ok() {
            // The outer process expects a panic of its own; here the run has to fail instead.
            std::process::exit(1);
        }
        isolated("chaos::netns::tests::a_failure_inside_is_a_failure", || ());
    }
}
