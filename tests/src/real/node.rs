//! One `stretch node` process.
//! Owns: the process; it is killed when this is dropped.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use super::{built_program, program};

/// How long a clean stop may take (CONTRACT: the demo has 10 s for both).
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// Its name in the pair.
    pub name: &'static str,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Node {
    /// A node of the folder that `stretch demo --prepare` has made. Not started.
    pub fn new(folder: &Path, name: &'static str) -> Self {
        let config = folder.join(format!("{name}.toml"));
        let log = folder.join(format!("{name}.log"));
        let program = program();
        Self { name, program, config, log, child: None, environment: Vec::new() }
    }

    /// From the next start on, the process has this environment variable.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    /// From the next start on, the process writes its log there.
    pub fn log_to(&mut self, path: &Path) {
        path.clone_into(&mut self.log);
    }

    /// From the next start on, the process breaks this rule; it takes the program that can.
    pub fn break_rule(&mut self, rule: &str) {
        self.program = built_program();
        self.set("STRETCH_BREAK", rule);
    }

    /// Starts the process.
    ///
    /// # Panics
    /// If it runs or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("a log can be written");
        let child = Command::new(&self.program)
            .arg("node")
            .arg("--config")
            .arg(&self.config)
            .envs(self.environment.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the program can be started"));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child");
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_killed();
    }

    /// Waits until a process that was sent SIGKILL is gone.
    pub fn wait_killed(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.wait().expect("our own child");
    }

    /// SIGSTOP: the process stands still, its connections stay.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// If it has not after `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let until = Instant::now() + limit;
        let mut child = self.child.take().expect("it runs");
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() >= until {
                self.child = Some(child);
                panic!("{} has not ended after {limit:?}\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and waits for the clean stop that it asks for.
    ///
    /// # Panics
    /// If the stop is not clean or takes too long.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_end(STOP_LIMIT);
        assert!(status.success(), "{} did not stop cleanly: {status}", self.name);
    }

    /// Whether the process was started and has not ended.
    pub fn runs(&self) -> bool {
        let Some(child) = &self.child else { return false };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // Only a look: whoever waits for the process still learns how it ended.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), look).expect("our own child").is_none()
    }

    /// `stretch status --json`; `None` if the node does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = Command::new(program())
            .args(["status", "--json", "--config"])
            .arg(&self.config)
            .output()
            .expect("the program can be started");
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("status --json prints JSON"))
    }

    /// Looks at the status until `wanted` finds in it what it looks for; returns that status.
    ///
    /// # Panics
    /// If it does not within `limit`.
    pub fn wait_status(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + limit;
        loop {
            let status = self.status();
            match status {
                Some(status) if wanted(&status) => return status,
                _ => {}
            }
            assert!(
                self.runs() && Instant::now() < until,
                "not what was waited for: {status:?}\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `stretch wait --state`; whether the node said so in time.
    pub fn wait_state(&self, state: &str, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        // A node whose admin socket is not there yet cannot be waited for.
        while self.runs() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let status = Command::new(program())
                .args(["wait", "--state", state, "--timeout"])
                .arg(format!("{}ms", left.as_millis().max(1)))
                .arg("--config")
                .arg(&self.config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("the program can be started");
            if status.success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Everything it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of [`Self::log`].
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("--- log of {}\n{}\n", self.name, lines[from..].join("\n"))
    }

    /// Forgets what it has said so far.
    pub fn clear_log(&self) {
        File::create(&self.log).expect("a log can be written");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}
