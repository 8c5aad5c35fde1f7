//! The seven workloads, run by fio's nbd engine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What a host does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Workload {
    /// Random writes of 4 KiB, one at a time.
    Write4kQ1,
    /// Random writes of 4 KiB, 32 under way.
    Write4kQ32,
    /// Random reads of 4 KiB, one at a time.
    Read4kQ1,
    /// Random reads of 4 KiB, 32 under way.
    Read4kQ32,
    /// Seven reads to three writes of 4 KiB, 32 under way.
    Mix70Q32,
    /// Sequential writes of 1 MiB, 8 under way.
    Write1mQ8,
    /// Sequential reads of 1 MiB, 8 under way.
    Read1mQ8,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Write4kQ1,
        Self::Write4kQ32,
        Self::Read4kQ1,
        Self::Read4kQ32,
        Self::Mix70Q32,
        Self::Write1mQ8,
        Self::Read1mQ8,
    ];

    /// As in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write4kQ1 => "write 4k q1",
            Self::Write4kQ32 => "write 4k q32",
            Self::Read4kQ1 => "read 4k q1",
            Self::Read4kQ32 => "read 4k q32",
            Self::Mix70Q32 => "70/30 4k q32",
            Self::Write1mQ8 => "write 1M q8",
            Self::Read1mQ8 => "read 1M q8",
        }
    }

    /// Whether bytes and not operations per second are what counts.
    pub const fn is_sequential(self) -> bool {
        matches!(self, Self::Write1mQ8 | Self::Read1mQ8)
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Write4kQ1 => &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
            Self::Write4kQ32 => &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
            Self::Read4kQ1 => &["--rw=randread", "--bs=4k", "--iodepth=1"],
            Self::Read4kQ32 => &["--rw=randread", "--bs=4k", "--iodepth=32"],
            Self::Mix70Q32 => &["--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=32"],
            Self::Write1mQ8 => &["--rw=write", "--bs=1m", "--iodepth=8"],
            Self::Read1mQ8 => &["--rw=read", "--bs=1m", "--iodepth=8"],
        }
    }
}

/// Where fio sends its requests.
#[derive(Clone, Debug)]
pub struct Target {
    /// nbd:// or nbds://.
    pub uri: String,
    /// Bytes of the export.
    pub size: u64,
    /// The folder with the client's certificate, for nbds.
    pub identity: Option<PathBuf>,
}

/// What one run of fio saw.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Report {
    /// Operations per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Operations.
    pub operations: f64,
    /// Median latency in microseconds; of a mixed run the slower direction's.
    pub p50_us: f64,
    /// 99th percentile likewise.
    pub p99_us: f64,
    /// CPU time of fio itself, in microseconds.
    pub cpu_us: u64,
}

/// Runs `workload` for `seconds`.
///
/// # Errors
/// fio is missing or reports an error.
pub fn run(target: &Target, workload: Workload, seconds: u64) -> Result<Report> {
    let timing = ["--time_based".to_owned(), format!("--runtime={seconds}")];
    let output = start(target, workload.arguments(), &timing)?;
    parse(&output)
}

/// Writes every byte of the export once, with contents that nothing can compress.
///
/// # Errors
/// fio is missing or reports an error.
pub fn fill(target: &Target) -> Result<()> {
    start(target, &["--rw=write", "--bs=1m", "--iodepth=8"], &["--refill_buffers".to_owned()])?;
    Ok(())
}

fn start(target: &Target, workload: &[&str], more: &[String]) -> Result<String> {
    let mut command = command(target.identity.as_deref());
    command
        .args(["--name=j", "--thread=0", "--ioengine=nbd", "--output-format=json"])
        .args(["--randrepeat=0", "--norandommap", "--percentile_list=50:99:99.9"])
        .arg(format!("--uri={}", target.uri))
        .arg(format!("--size={}", target.size))
        .args(workload)
        .args(more);
    let output = command.output().context("starting fio (Debian package fio)")?;
    if !output.status.success() {
        bail!("fio on {} failed: {}", target.uri, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// fio's nbd engine takes certificates only from libnbd's own folder; ours are shown there in a
/// mount namespace of fio's own, which takes root.
fn command(identity: Option<&Path>) -> Command {
    let Some(identity) = identity else { return Command::new("fio") };
    let script =
        r#"mkdir -p /etc/pki/libnbd && mount --bind "$0" /etc/pki/libnbd && exec fio "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(identity);
    command
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    job_runtime: f64,
    usr_cpu: f64,
    sys_cpu: f64,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    total_ios: f64,
    iops: f64,
    bw_bytes: f64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

impl Latency {
    fn us(&self, percentile: &str) -> f64 {
        self.percentile.get(percentile).copied().unwrap_or(0.0) / 1000.0
    }
}

fn parse(output: &str) -> Result<Report> {
    let json = output.find('{').map(|at| &output[at..]).context("fio printed no result")?;
    let output: Output = serde_json::from_str(json).context("fio's result is not understood")?;
    let [job] = output.jobs.as_slice() else { bail!("fio reports {} jobs", output.jobs.len()) };
    let operations = job.read.total_ios + job.write.total_ios;
    if job.error != 0 || operations == 0.0 {
        bail!("fio met error {} after {operations} operations", job.error);
    }
    let slower = if job.write.clat_ns.us("50.000000") > job.read.clat_ns.us("50.000000") {
        &job.write.clat_ns
    } else {
        &job.read.clat_ns
    };
    Ok(Report {
        iops: job.read.iops + job.write.iops,
        bytes_per_s: job.read.bw_bytes + job.write.bw_bytes,
        operations,
        p50_us: slower.us("50.000000"),
        p99_us: slower.us("99.000000"),
        // Percent of milliseconds.
        cpu_us: ((job.usr_cpu + job.sys_cpu) * job.job_runtime * 10.0) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_past_fios_warnings() {
        let direction = |ios: u32, iops: u32, p50: u32| {
            format!(
                r#"{{"total_ios":{ios},"iops":{iops},"bw_bytes":{},"clat_ns":{{"percentile":
                {{"50.000000":{p50},"99.000000":{}}}}}}}"#,
                iops * 4096,
                p50 * 2
            )
        };
        let text = format!(
            "fio: a warning\n{{\"jobs\":[{{\"error\":0,\"job_runtime\":2000,\"usr_cpu\":10.0,\
             \"sys_cpu\":40.0,\"read\":{},\"write\":{}}}]}}",
            direction(140, 70, 1000),
            direction(60, 30, 9000)
        );
        let report = parse(&text).expect("a result");
        assert_eq!((report.iops, report.operations), (100.0, 200.0));
        assert_eq!((report.p50_us, report.p99_us), (9.0, 18.0));
        assert_eq!(report.cpu_us, 1_000_000);
        assert!(parse(&text.replace("\"error\":0", "\"error\":5")).is_err());
        assert!(parse("nothing").is_err());
    }
}
