//! `stretch demo` with real processes: ready, refused while it runs, stopped cleanly, used again,
//! and no orphan however it ends. Addresses are this test process's own.

use std::io::{BufRead, BufReader, Lines};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use control_plane::io::run_files::RunFiles;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

static DEMOS: AtomicU8 = AtomicU8::new(0);

/// Three addresses that nobody else uses.
fn addresses() -> String {
    let [high, low] = u16::try_from(std::process::id() % 60_000).expect("small").to_be_bytes();
    let begin = 10 * DEMOS.fetch_add(1, Ordering::Relaxed);
    let ip = |last: u8| Ipv4Addr::new(127, high, low, begin + last).to_string();
    [ip(11), ip(12), ip(13)].join(",")
}

fn stretch(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stretch"));
    command.args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running demo; killed when it is dropped.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    dir: PathBuf,
}

impl Demo {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stretch"))
            .args(["demo", "--dir"])
            .arg(dir)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines, dir: dir.to_owned() }
    }

    /// Everything up to and with the first line that begins with `start`.
    fn read_until(&mut self, start: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            let found = line.starts_with(start);
            seen.push(line);
            if found {
                return seen;
            }
        }
        panic!("no line begins with {start}:\n{}\n{}", seen.join("\n"), self.logs());
    }

    fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!("--- a\n{}\n--- b\n{}", log("a/log"), log("b/log"))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The process ids of the nodes, from their own status.
    fn node_pids(&self) -> Vec<Pid> {
        let of = |name: &str| {
            let config = self.dir.join(name).display().to_string();
            let output = stretch(&["status", "--json", "--config", &config]);
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            Pid::from_raw(
                i32::try_from(json["pids"]["node"].as_i64().expect("a pid")).expect("a pid"),
            )
        };
        ["a.toml", "b.toml"].iter().filter_map(|name| of(name)).collect()
    }

    /// SIGTERM; the exit code and how long it took.
    fn stop(mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        (status.code(), begun.elapsed())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A demo that is killed leaves below /run what one that is stopped takes away.
        for name in ["a", "b"] {
            let places = ["record-1", "record-2"].map(|place| self.dir.join(name).join(place));
            RunFiles::of_record(&name.parse().expect("a name"), &places).forget_sequence();
        }
    }
}

fn await_end(pids: &[Pid]) {
    let begun = Instant::now();
    while pids.iter().any(|pid| test_kill_process(*pid).is_ok()) {
        assert!(begun.elapsed() < PATIENCE, "orphans: {pids:?}");
        std::thread::yield_now();
    }
}

#[test]
fn prepare_makes_the_folder_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("demo");
    let folder_text = folder.display().to_string();
    let prepare = ["demo", "--prepare", "--dir", &folder_text, "--size", "8MiB"];
    let output = stretch(&prepare);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    assert!(out.starts_with(&format!("prepared {folder_text}\n")), "{out}");
    for path in [
        "a.toml",
        "b.toml",
        "witness.toml",
        "pki/ca-cert.pem",
        "pki/ca-key.pem",
        "pki/w/server-cert.pem",
        "pki/host1/client-cert.pem",
        "pki/operator/client-key.pem",
        "a/vol0.img",
        "b/vol0.meta",
        "a/record-1/record",
        "b/record-2/record",
    ] {
        assert!(folder.join(path).exists(), "{path}");
    }
    assert_eq!(folder.join("a/vol0.img").metadata().expect("there").len(), 8 << 20);
    for name in ["a.toml", "b.toml"] {
        let file = folder.join(name).display().to_string();
        let output = stretch(&["config", "check", &file]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let output = stretch(&["config", "show", "--config", &file]);
        assert!(!text(&output.stdout).contains("differs"), "{}", text(&output.stdout));
    }
    // The same again changes nothing; something else is refused.
    let before = std::fs::read(folder.join("a.toml")).expect("there");
    assert!(stretch(&prepare).status.success());
    assert_eq!(std::fs::read(folder.join("a.toml")).expect("there"), before);
    let output = stretch(&["demo", "--prepare", "--dir", &folder_text, "--size", "16MiB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("has a volume of 8.0 MiB, not 16.0 MiB"));
    let output = stretch(&[
        "demo",
        "--prepare",
        "--dir",
        &folder_text,
        "--addresses",
        "127.1.1.1,127.1.1.2,127.1.1.3",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("leave --addresses out"));
}

#[test]
fn a_folder_with_other_things_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("thesis.tex"), "x").expect("written");
    let output = stretch(&["demo", "--prepare", "--dir", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("holds thesis.tex and no demo"));
    assert!(!dir.path().join("pki").exists());
}

#[test]
fn a_first_run_that_fails_takes_away_what_it_made_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("demo");
    let folder_text = folder.display().to_string();
    std::fs::create_dir(&folder).expect("made");
    // A file where a node's folder has to be.
    std::fs::write(folder.join("b"), "mine").expect("written");
    let prepare = ["demo", "--prepare", "--dir", &folder_text, "--size", "8MiB"];
    let output = stretch(&prepare);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no demo was made in"), "{}", text(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(&folder).expect("there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(std::fs::read_to_string(folder.join("b")).expect("kept"), "mine");
    std::fs::remove_file(folder.join("b")).expect("there");
    assert!(stretch(&prepare).status.success());

    // An address that is in use is named before anything is made.
    let addresses = addresses();
    let first = addresses.split(',').next().expect("three");
    let _used = std::net::TcpListener::bind(format!("{first}:10811")).expect("ours");
    let other = dir.path().join("other");
    let other_text = other.display().to_string();
    let output = stretch(&["demo", "--dir", &other_text, "--addresses", &addresses]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("{first}:10811 is in use")), "{said}");
    assert!(said.contains("give three others with --addresses A,B,W"), "{said}");
    assert!(!other.exists());
}

#[test]
fn a_node_that_cannot_start_ends_the_demo_with_its_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().display().to_string();
    let addresses = addresses();
    let prepare = ["demo", "--prepare", "--dir", &folder, "--size", "8MiB", "--addresses"];
    assert!(stretch(&[&prepare[..], &[&addresses]].concat()).status.success());
    std::fs::remove_file(dir.path().join("b/vol0.img")).expect("there");
    let output = stretch(&["demo", "--dir", &folder]);
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains("b ended (exit status: 1); its last lines:\n  stretch: "), "{out}");
    assert!(out.contains("b/vol0.img"), "{out}");
    assert!(out.contains(&format!(" node --config {folder}/b.toml")), "{out}");
    assert!(err.contains("node b failed, so the pair cannot be ready"), "{err}");
}

#[test]
fn a_demo_is_ready_refuses_a_second_stops_cleanly_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let addresses = addresses();
    let mut demo = Demo::start(dir.path(), &["--size", "8MiB", "--addresses", &addresses]);
    let before = demo.read_until("ready: vol0 (8.0 MiB)");
    assert!(before.iter().all(|line| !line.contains('\u{1b}')), "escape codes: {before:?}");
    let pasted = demo.read_until("Ctrl-C");
    assert!(pasted.iter().any(|line| line.starts_with("qemu-io -f raw nbd://")), "{pasted:?}");

    // A second one on the folder.
    let folder = dir.path().display().to_string();
    let output = stretch(&["demo", "--dir", &folder]);
    assert_eq!(output.status.code(), Some(1));
    let refusal = text(&output.stderr);
    let pids = demo.node_pids();
    let named = |who: &str, pid: Pid| refusal.contains(&format!("{who} runs as process {pid}"));
    assert!(named("demo", demo.pid()), "{refusal}");
    assert!(named("a", pids[0]) && named("b", pids[1]), "{refusal}");

    let config = dir.path().join("b.toml").display().to_string();
    let output = stretch(&["wait", "--config", &config, "--state", "active-active"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let admin = format!("{}:10811", addresses.split(',').next().expect("three"));
    let identity = dir.path().join("pki/operator").display().to_string();
    let output = stretch(&["status", "--json", "--node", &admin, "--identity", &identity]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["state"], "active-active");

    let (code, took) = demo.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    await_end(&pids);

    let mut demo = Demo::start(dir.path(), &[]);
    demo.read_until("ready:");
    let (code, _) = demo.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn a_killed_demo_leaves_no_orphans_and_its_folder_can_be_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut demo = Demo::start(dir.path(), &["--size", "8MiB", "--addresses", &addresses()]);
    demo.read_until("ready:");
    let pids = demo.node_pids();
    assert_eq!(pids.len(), 2);
    kill_process(demo.pid(), Signal::KILL).expect("it runs");
    let status = demo.child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    await_end(&pids);
    let mut demo = Demo::start(dir.path(), &[]);
    demo.read_until("ready:");
}

#[test]
fn a_node_that_ends_is_named_and_the_demo_ends_with_the_last() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut demo = Demo::start(dir.path(), &["--size", "8MiB", "--addresses", &addresses()]);
    demo.read_until("ready:");
    let pids = demo.node_pids();
    kill_process(pids[1], Signal::KILL).expect("it runs");
    demo.read_until("b ended (signal: 9 (SIGKILL)");
    assert!(test_kill_process(pids[0]).is_ok(), "a goes on");
    kill_process(pids[0], Signal::KILL).expect("it runs");
    demo.read_until("a ended");
    assert_eq!(demo.child.wait().expect("it ends").code(), Some(1));
}
