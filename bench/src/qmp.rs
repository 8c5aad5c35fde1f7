//! The few words of QEMU's monitor protocol that a mirror needs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long the first copy may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);

/// Starts mirroring node `a` to node `r`, write-blocking, and waits until both are equal.
///
/// # Errors
/// QEMU refuses, or it takes too long.
pub fn start_mirror(socket: &Path) -> Result<()> {
    let mut monitor = Monitor::connect(socket)?;
    monitor.execute(
        "blockdev-mirror",
        json!({"job-id": "m0", "device": "a", "target": "r", "sync": "full",
               "copy-mode": "write-blocking"}),
    )?;
    let begin = Instant::now();
    while begin.elapsed() < SYNC_TIMEOUT {
        let jobs = monitor.execute("query-jobs", json!({}))?;
        let job = jobs.as_array().and_then(|jobs| jobs.first()).context("the mirror ended")?;
        if job["status"] == "ready" {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("the mirror is not ready after {} s", SYNC_TIMEOUT.as_secs())
}

struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        let mut monitor = Self { reader: BufReader::new(writer.try_clone()?), writer };
        monitor.line()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{request}")?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
