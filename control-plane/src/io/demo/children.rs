//! The two nodes as processes: started, watched, stopped, never left behind.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use base::io::clock;
use rustix::process::{Pid, Signal, kill_process};

use super::Stop;
use super::folder::Folder;
use super::lines::quote;
use super::show::print_line;

/// Lines of a log that are shown when its process ended: those that complain, else any.
const COMPLAINTS_MAX: usize = 10;
const TAIL_LINES: usize = 3;
/// Bytes read to find them.
const TAIL_BYTES: u64 = 8 << 10;
/// How long the nodes may take for a clean stop; the demo has 10 s for all of it.
const STOP_TIMEOUT: Duration = Duration::from_secs(9);
/// Between two looks at a process that is to end.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Both nodes.
pub(super) struct Children {
    nodes: Vec<Node>,
}

struct Node {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Starts it again, for a shell.
    command: String,
    /// Where the log was when this process began.
    log_begin: u64,
    ended: Option<ExitStatus>,
}

impl Children {
    /// Starts both.
    pub(super) fn start(folder: &Folder) -> anyhow::Result<Self> {
        let mut children = Self { nodes: Vec::new() };
        for (index, name) in folder.names().into_iter().enumerate() {
            // If the second one cannot be started the first one dies with `children`.
            children.nodes.push(Node::start(folder, index, name)?);
        }
        Ok(children)
    }

    /// What there is to say about nodes that ended since the last call.
    pub(super) fn ended(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| node.ended.is_none()) {
            if let Ok(Some(status)) = node.child.try_wait() {
                node.ended = Some(status);
                lines.push(node.obituary(status));
            }
        }
        lines
    }

    /// The node that could not start or failed by itself, if there is one.
    pub(super) fn failed(&self) -> Option<&'static str> {
        let failed = |status: ExitStatus| status.code().is_some_and(|code| code != 0);
        self.nodes.iter().find(|node| node.ended.is_some_and(failed)).map(|node| node.name)
    }

    /// Whether both have ended.
    pub(super) fn none_left(&self) -> bool {
        self.nodes.iter().all(|node| node.ended.is_some())
    }

    /// Asks both to stop, waits, and kills what does not. A second signal does not wait.
    pub(super) async fn stop(mut self, stop: &mut Stop) -> ExitCode {
        let before: Vec<bool> = self.nodes.iter().map(|node| node.ended.is_none()).collect();
        for node in &self.nodes {
            node.signal(Signal::TERM);
        }
        let deadline = clock::now() + STOP_TIMEOUT;
        while !self.none_left() {
            // Their last lines are of no interest: they were asked to end.
            self.ended();
            tokio::select! {
                () = tokio::time::sleep(STOP_STEP) => {}
                () = stop.wait() => break,
            }
            if clock::now() >= deadline {
                break;
            }
        }
        let mut clean = true;
        for (node, ran) in self.nodes.iter().zip(before) {
            match node.ended {
                Some(status) if status.success() || !ran => {}
                Some(status) => {
                    eprintln!(
                        "{} did not stop cleanly ({status}); see {}",
                        node.name,
                        node.log.display()
                    );
                    clean = false;
                }
                None => {
                    eprintln!("{} did not stop in time and was killed", node.name);
                    clean = false;
                }
            }
        }
        if clean {
            print_line("stopped");
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.ended.is_none()) {
            node.signal(Signal::KILL);
            // It cannot refuse; afterwards nothing of it is left.
            let _ = node.child.wait();
        }
    }
}

impl Node {
    fn start(folder: &Folder, index: usize, name: &'static str) -> anyhow::Result<Self> {
        let log = folder.log(index);
        let open = || OpenOptions::new().append(true).create(true).open(&log);
        let file = open().with_context(|| format!("cannot write {}", log.display()))?;
        let log_begin = file.metadata()?.len();
        let program = std::env::current_exe().context("cannot find the running program")?;
        let child = Command::new(&program)
            .arg("node")
            .arg("--config")
            .arg(folder.toml(index))
            .arg("--die-with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            // A terminal's Ctrl-C reaches the demo only, which then stops them in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let config = folder.toml(index);
        let command = format!("{} node --config {}", quote(&program), quote(&config));
        Ok(Self { name, child, log, command, log_begin, ended: None })
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (None, Some(pid)) = (self.ended, id) {
            // It may have ended by itself: it stays a zombie, and its id its own, until waited for.
            let _ = kill_process(pid, signal);
        }
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let mut text = format!("{} ended ({status})", self.name);
        match tail(&self.log, self.log_begin) {
            Ok(lines) if !lines.is_empty() => {
                text.push_str("; its last lines:");
                for line in lines {
                    text.push_str("\n  ");
                    text.push_str(&line);
                }
            }
            _ => text.push_str(&format!("; see {}", self.log.display())),
        }
        text.push_str(&format!("\nthis starts it again: {}", self.command));
        text
    }
}

/// The last lines of `path` behind `begin`.
fn tail(path: &Path, begin: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(worth_showing(&text))
}

/// The last complaints in a log; where there are none, its last lines.
pub(super) fn worth_showing(text: &str) -> Vec<String> {
    let complains = |line: &&str| {
        line.starts_with("stretch: ") || line.contains(" WARN ") || line.contains("ERROR ")
    };
    let last = |lines: Vec<&str>, max: usize| -> Vec<String> {
        let first = lines.len().saturating_sub(max);
        lines[first..].iter().map(|line| (*line).to_owned()).collect()
    };
    let complaints: Vec<&str> = text.lines().filter(complains).collect();
    if complaints.is_empty() {
        return last(text.lines().collect(), TAIL_LINES);
    }
    last(complaints, COMPLAINTS_MAX)
}
