//! Interleaved rounds over all contenders, medians, and the ratios that we promise.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::alternatives::{Contender, Running};
use crate::fio::{self, Workload};
use crate::process::Quiet;

/// One measured run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// What fio saw.
    pub report: fio::Report,
    /// CPU time of all server processes, in microseconds per operation.
    pub server_us: f64,
    /// Share of the machine that strangers took, in percent.
    pub others_percent: f64,
}

/// All samples of a comparison.
pub type Samples = BTreeMap<(Workload, Contender), Vec<Sample>>;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds over everything.
    pub rounds: usize,
    /// Seconds of a measured run.
    pub seconds: u64,
    /// Seconds of the run before it that does not count.
    pub warm_seconds: u64,
    /// What to do about strangers on the machine.
    pub quiet: Quiet,
}

/// Measures every workload on every contender. The contenders take turns within each workload, so
/// that a slow drift of the machine meets all of them alike. Progress goes to stderr.
///
/// # Errors
/// fio or a server fails.
pub fn measure(
    plan: Plan,
    workloads: &[Workload],
    contenders: &[(Contender, Running)],
) -> Result<Samples> {
    let mut samples = Samples::new();
    for round in 1..=plan.rounds {
        for workload in workloads {
            for (contender, running) in contenders {
                let sample = measure_one(plan, *workload, running)?;
                eprintln!(
                    "round {round} {}, {}: {:.0}/s, p50 {:.0} us, server CPU {:.1} us, others {:.0} %",
                    workload.name(),
                    contender.name(),
                    sample.report.iops,
                    sample.report.p50_us,
                    sample.server_us,
                    sample.others_percent,
                );
                samples.entry((*workload, *contender)).or_default().push(sample);
            }
        }
    }
    Ok(samples)
}

fn measure_one(plan: Plan, workload: Workload, running: &Running) -> Result<Sample> {
    if plan.warm_seconds > 0 {
        fio::run(&running.target, workload, plan.warm_seconds)?;
    }
    let ((report, server_us), others_percent) = plan.quiet.measure(|| {
        let before = running.cpu_us()?;
        let report = fio::run(&running.target, workload, plan.seconds)?;
        let server = running.cpu_us()? - before;
        Ok(((report, server as f64 / report.operations), server + report.cpu_us))
    })?;
    Ok(Sample { report, server_us, others_percent })
}

/// The figures of one cell: medians, and the extremes of the rate.
struct Cell {
    rate: [f64; 3],
    p50_us: f64,
    p99_us: f64,
    server_us: f64,
    others_percent: f64,
}

impl Cell {
    /// The rate is MB/s for sequential workloads, otherwise operations per second.
    fn new(workload: Workload, samples: &[Sample]) -> Self {
        let of = |field: &dyn Fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            [values[0], values[values.len() / 2], values[values.len() - 1]]
        };
        let rate = |sample: &Sample| {
            if workload.is_sequential() {
                sample.report.bytes_per_s / 1e6
            } else {
                sample.report.iops
            }
        };
        Self {
            rate: of(&rate),
            p50_us: of(&|s| s.report.p50_us)[1],
            p99_us: of(&|s| s.report.p99_us)[1],
            server_us: of(&|s| s.server_us)[1],
            others_percent: of(&|s| s.others_percent)[1],
        }
    }
}

/// The samples as a markdown table, a section for each workload.
pub fn table(samples: &Samples) -> String {
    let mut text = String::from(
        "| workload | server | rate (min-max) | p50 us | p99 us | server CPU us/IO | others % |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for ((workload, contender), samples) in samples {
        let cell = Cell::new(*workload, samples);
        let unit = if workload.is_sequential() { " MB/s" } else { "/s" };
        let [low, median, high] = cell.rate;
        let _ = writeln!(
            text,
            "| {} | {} | {median:.0}{unit} ({low:.0}-{high:.0}) | {:.0} | {:.0} | {:.1} | {:.0} |",
            workload.name(),
            contender.name(),
            cell.p50_us,
            cell.p99_us,
            cell.server_us,
            cell.others_percent,
        );
    }
    text
}

/// What a ratio compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Figure {
    Rate,
    P50,
    ServerCpu,
}

/// A row of the goals: Stretch's figure against the best of some alternatives, or as it is.
struct Goal {
    workload: Workload,
    figure: Figure,
    against: &'static [Contender],
    goal: &'static str,
}

const QUORUM: &[Contender] = &[Contender::QuorumRing, Contender::QuorumThreads];

#[rustfmt::skip]
const GOALS: [Goal; 9] = [
    Goal { workload: Workload::Write4kQ32, figure: Figure::Rate, against: QUORUM, goal: "at least 5" },
    Goal { workload: Workload::Write4kQ32, figure: Figure::ServerCpu, against: &[], goal: "at most 14 us" },
    Goal { workload: Workload::Write4kQ1, figure: Figure::P50, against: QUORUM, goal: "at most 0.45" },
    Goal { workload: Workload::Read4kQ32, figure: Figure::Rate, against: &[Contender::Nbdkit], goal: "at least 1.3" },
    Goal { workload: Workload::Read4kQ1, figure: Figure::P50, against: &[Contender::Nbdkit], goal: "at most 1.0" },
    Goal { workload: Workload::Mix70Q32, figure: Figure::Rate, against: &[Contender::Mirror], goal: "at least 3" },
    Goal { workload: Workload::Mix70Q32, figure: Figure::Rate, against: QUORUM, goal: "" },
    Goal { workload: Workload::Write1mQ8, figure: Figure::Rate, against: QUORUM, goal: "at least 2.3" },
    Goal { workload: Workload::Read1mQ8, figure: Figure::Rate, against: &[Contender::Nbdkit], goal: "at least 1.0" },
];

/// Stretch against the alternatives, as far as both were measured: of several settings of one
/// alternative the better one counts.
pub fn ratios(samples: &Samples) -> String {
    let mut text = String::from(
        "| workload | figure | Stretch | against | ratio | goal |\n|---|---|---|---|---|---|\n",
    );
    for goal in &GOALS {
        let value = |contender: Contender| {
            let cell = Cell::new(goal.workload, samples.get(&(goal.workload, contender))?);
            Some(match goal.figure {
                Figure::Rate => cell.rate[1],
                Figure::P50 => cell.p50_us,
                Figure::ServerCpu => cell.server_us,
            })
        };
        let Some(ours) = value(Contender::Stretch) else { continue };
        let theirs = goal.against.iter().filter_map(|other| Some((value(*other)?, *other)));
        let best = match goal.figure {
            Figure::Rate => theirs.max_by(|a, b| a.0.total_cmp(&b.0)),
            Figure::P50 | Figure::ServerCpu => theirs.min_by(|a, b| a.0.total_cmp(&b.0)),
        };
        let figure = match goal.figure {
            Figure::Rate if goal.workload.is_sequential() => "MB/s",
            Figure::Rate => "IOPS",
            Figure::P50 => "p50 us",
            Figure::ServerCpu => "server CPU us/IO",
        };
        let (against, ratio) = match best {
            Some((theirs, other)) => {
                (format!("{theirs:.0} ({})", other.name()), format!("{:.2}", ours / theirs))
            }
            None if goal.against.is_empty() => ("-".to_owned(), "-".to_owned()),
            None => continue,
        };
        let _ = writeln!(
            text,
            "| {} | {figure} | {ours:.0} | {against} | {ratio} | {} |",
            goal.workload.name(),
            goal.goal
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(iops: f64) -> Sample {
        let report = fio::Report {
            iops,
            bytes_per_s: iops * 4096.0,
            operations: iops,
            p50_us: 1e6 / iops,
            p99_us: 2e6 / iops,
            cpu_us: 0,
        };
        Sample { report, server_us: 12.25, others_percent: 0.0 }
    }

    #[test]
    fn the_better_setting_of_an_alternative_counts() {
        let mut samples = Samples::new();
        let rows = [
            (Contender::Stretch, [90_000.0, 100_000.0, 80_000.0]),
            (Contender::QuorumRing, [15_000.0, 15_000.0, 15_000.0]),
            (Contender::QuorumThreads, [20_000.0, 10_000.0, 18_000.0]),
        ];
        for (contender, rates) in rows {
            samples.insert((Workload::Write4kQ32, contender), rates.map(sample).to_vec());
        }
        let text = ratios(&samples);
        let wanted =
            "| write 4k q32 | IOPS | 90000 | 18000 (QEMU quorum, TLS link, threads) | 5.00 |";
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("| write 4k q32 | server CPU us/IO | 12 | - | - | at most 14 us |"));
        assert_eq!(text.lines().count(), 4, "nothing is said about what was not measured: {text}");
        assert!(table(&samples).contains("| 90000/s (80000-100000) | 11 | 22 | 12.2 | 0 |"));
    }
}
