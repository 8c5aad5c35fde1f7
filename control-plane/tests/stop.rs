//! A node that is told to stop while it is still starting.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

fn stretch() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stretch"))
}

#[test]
fn a_signal_before_the_node_runs_stops_it_cleanly() {
    let dir = tempfile::tempdir().expect("a folder");
    let demo = dir.path().join("demo");
    let [high, low] = u16::try_from(std::process::id() % 60_000).expect("small").to_be_bytes();
    let addresses = [211, 212, 213].map(|last| Ipv4Addr::new(127, high, low, last).to_string());
    let prepared = stretch()
        .args(["demo", "--prepare", "--size", "8MiB", "--addresses", &addresses.join(",")])
        .arg("--dir")
        .arg(&demo)
        .output()
        .expect("the program runs");
    assert!(prepared.status.success(), "{prepared:?}");
    // A pipe in the place of the configuration holds the node where it reads it.
    let pipe = demo.join("pipe.toml");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &pipe, FileType::Fifo, mode, 0).expect("a pipe");
    let mut node = stretch()
        .args(["node", "--config"])
        .arg(&pipe)
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let mut config = OpenOptions::new().write(true).open(&pipe).expect("it is read");
    kill_process(Pid::from_child(&node), Signal::TERM).expect("it runs");
    let text = std::fs::read(demo.join("a.toml")).expect("prepared");
    config.write_all(&text).expect("written");
    drop(config);
    let status = node.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{status}");
}
