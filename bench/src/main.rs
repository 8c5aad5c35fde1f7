//! `stretch-bench`: Stretch beside its alternatives, on this machine, now.
//!
//! Needs fio, nbdkit, qemu-utils and qemu-system-common or qemu-block-extra (qemu-storage-daemon)
//! of Debian; contenders with TLS towards the host also need root.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use stretch_bench::alternatives::{self, Contender, Place, Running};
use stretch_bench::compare::{self, Plan};
use stretch_bench::fio::{self, Target, Workload};
use stretch_bench::pki;
use stretch_bench::process::Quiet;

#[derive(Parser)]
#[command(about = "Measures Stretch and its alternatives")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs PEERS' workloads against every contender, interleaved, and prints markdown tables.
    Compare(Compare),
}

#[derive(Args)]
struct Compare {
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of a measured run.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seconds of the run before it.
    #[arg(long, default_value_t = 2)]
    warm: u64,
    /// Bytes of the volume, in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Folder for the images: on tmpfs or on a disk. A new folder is made in it and removed.
    #[arg(long, default_value = "/dev/shm")]
    place: PathBuf,
    #[arg(long, value_delimiter = ',', default_values_t = DEFAULT_CONTENDERS, value_enum)]
    contenders: Vec<Contender>,
    #[arg(long, value_delimiter = ',', default_values_t = Workload::ALL, value_enum)]
    workloads: Vec<Workload>,
    /// The executable of the pair that is started.
    #[arg(long, default_value = "target/release/stretch")]
    stretch: PathBuf,
    /// A pair that runs already, instead of starting one.
    #[arg(long, requires = "pids")]
    uri: Option<String>,
    /// Its processes.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// For an nbds URI: the folder with the host's certificate.
    #[arg(long)]
    identity: Option<PathBuf>,
    #[command(flatten)]
    quiet: Quiet,
}

const DEFAULT_CONTENDERS: [Contender; 5] = [
    Contender::Stretch,
    Contender::Nbdkit,
    Contender::QuorumRing,
    Contender::QuorumThreads,
    Contender::Mirror,
];

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare(arguments) => run_compare(&arguments),
    }
}

fn run_compare(arguments: &Compare) -> Result<()> {
    if arguments.rounds == 0 || arguments.seconds == 0 {
        bail!("nothing to measure in no rounds or no seconds");
    }
    let dir = tempfile::Builder::new().prefix("stretch-bench-").tempdir_in(&arguments.place)?;
    let pki_dir = dir.path().join("pki");
    pki::write(&pki_dir, &["bench"])?;
    let place = Place {
        dir: dir.path().to_owned(),
        pki: pki_dir,
        size: arguments.size_mib << 20,
        stretch: fs::canonicalize(&arguments.stretch).unwrap_or(arguments.stretch.clone()),
    };
    let mut contenders = Vec::new();
    for contender in &arguments.contenders {
        let running = match (&arguments.uri, contender) {
            (Some(uri), Contender::Stretch) => {
                let identity = arguments.identity.clone();
                let target = Target { uri: uri.clone(), size: place.size, identity };
                Running::external(target, arguments.pids.clone())
            }
            _ => alternatives::start(*contender, &place)?,
        };
        eprintln!("{}: {} is filled", contender.name(), running.target.uri);
        fio::fill(&running.target).with_context(|| format!("filling {}", contender.name()))?;
        contenders.push((*contender, running));
    }
    let plan = Plan {
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        warm_seconds: arguments.warm,
        quiet: arguments.quiet,
    };
    let samples = compare::measure(plan, &arguments.workloads, &contenders)?;
    println!("{}", compare::table(&samples));
    println!("{}", compare::ratios(&samples));
    Ok(())
}
