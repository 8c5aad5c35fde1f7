//! Processes that are measured: started, counted and ended.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take to open its port.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A child that ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
}

impl Server {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Errors
    /// It cannot be started; the message names the program.
    pub fn start<S: AsRef<OsStr>>(program: &Path, args: &[S], log: &Path) -> Result<Self> {
        let name = program.display().to_string();
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {name} (is its package installed?)"))?;
        Ok(Self { child, name })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `address` accepts connections.
    ///
    /// # Errors
    /// The process ended, or 20 s passed.
    pub fn wait_for_port(&mut self, address: SocketAddr) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it listened on {address}: {status}", self.name);
            }
            if begin.elapsed() > START_TIMEOUT {
                bail!("{} does not listen on {address}", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time that `pid` and its waited-for children have used, in microseconds (steps
/// of 10 ms).
///
/// # Errors
/// There is no such process.
pub fn cpu_us(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<u64> =
        after_name.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    if fields.len() != 4 {
        bail!("/proc/{pid}/stat is not understood");
    }
    // USER_HZ is 100 on every architecture we build for.
    Ok(fields.iter().sum::<u64>() * 10_000)
}

/// Time the whole machine was busy, in microseconds.
///
/// # Errors
/// /proc/stat is not understood.
pub fn machine_busy_us() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    if fields.len() < 8 {
        bail!("/proc/stat is not understood");
    }
    // user, nice, system, irq and softirq; not idle, iowait and steal.
    Ok((fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) * 10_000)
}

/// How a measurement deals with strangers on the machine.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Quiet {
    /// Seconds to wait for a moment in which nothing else runs, before each try.
    #[arg(long, default_value_t = 30)]
    quiet_wait: u64,
    /// Share of the machine in percent that others may take; a run with more is repeated.
    #[arg(long, default_value_t = 6.0)]
    others_max: f64,
    /// Tries of one run; then the least disturbed one counts.
    #[arg(long, default_value_t = 4)]
    tries: usize,
}

impl Quiet {
    /// Calls `run`, which returns its result and the CPU time in microseconds that the measured
    /// processes used, until others took little enough; returns the least disturbed result and
    /// what others took, in percent of the machine.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn measure<T>(self, mut run: impl FnMut() -> Result<(T, u64)>) -> Result<(T, f64)> {
        let mut best: Option<(T, f64)> = None;
        for _ in 0..self.tries.max(1) {
            self.wait()?;
            let (begin, busy) = (Instant::now(), machine_busy_us()?);
            let (result, ours) = run()?;
            let others = (machine_busy_us()? - busy).saturating_sub(ours);
            let machine = begin.elapsed().as_micros() as f64 * cores() as f64;
            let percent = 100.0 * others as f64 / machine;
            if best.as_ref().is_none_or(|(_, least)| percent < *least) {
                best = Some((result, percent));
            }
            if percent <= self.others_max {
                break;
            }
        }
        best.context("a measurement has at least one try")
    }

    /// Waits for 0.5 s in which less than a twelfth of the machine is busy, or gives up.
    fn wait(self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(self.quiet_wait) {
            let (start, busy) = (Instant::now(), machine_busy_us()?);
            thread::sleep(Duration::from_millis(500));
            let used = machine_busy_us()? - busy;
            if used * 12 < start.elapsed().as_micros() as u64 * cores() as u64 {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
