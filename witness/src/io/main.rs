//! The process of a witness, from its command line to its end.
//!
//! Threads: one does everything; `events` and `log` write the logs, because the disk below them may
//! hang. Exit codes: 0 done, 1 failed, 2 usage or configuration.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use base::frame::WIRE_VERSION;
use base::ids::WitnessRun;
use base::io::random::random_bytes;
use base::io::threads::Thread;
use base::io::tls::{Term, TlsIdentity};
use base::io::{clock, process_log, tcp};
use base::limits::WITNESS_CONNECTIONS_MAX;
use base::rules::Rules;
use clap::Parser;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};
use tracing::{info, warn};

use super::config_file;
use super::event_log::{EventLog, read_journal};
use super::metrics::{self, Metrics};
use super::server::Server;
use crate::arbiter::Arbiter;
use crate::config::{ConfigError, WitnessConfig};

/// Open files of a witness beside its connections, generously.
const FILES_OF_THE_PROCESS: u64 = 512;
/// Lines of the process log that wait to be written, at most.
const LOG_LINES_MAX: usize = 1024;
/// How long the end waits for the log.
const LOG_TIMEOUT: Duration = Duration::from_millis(250);
/// How long before its end a certificate is named, in seconds.
const WARN_BEFORE_S: i64 = 30 * 24 * 3600;
/// Time between two looks at the certificates.
const TERMS_INTERVAL: Duration = Duration::from_secs(24 * 3600);

static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "sabotage") { "sabotage" } else { "none" };
    let version = env!("CARGO_PKG_VERSION");
    format!("{version}\nwire      {WIRE_VERSION}\nfeatures  {features}")
});

#[derive(Parser, Debug)]
#[command(
    name = "stretch-witness",
    about = "The third site of Stretch: says which of two nodes that do not see each other goes on",
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration"
)]
struct Arguments {
    /// The witness's TOML file
    #[arg(long, value_name = "F")]
    config: PathBuf,
    /// Die with the process of this id, which must be the parent
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<u32>,
}

/// Does what `arguments` (with the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { config, die_with_parent }) => run(&config, die_with_parent),
        Err(error) => {
            // Help and version are no errors and go to stdout; the rest exits with 2.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Runs the witness of the file at `config` until SIGTERM or SIGINT.
pub fn run(config: &Path, die_with_parent: Option<u32>) -> ExitCode {
    let started = start(config, die_with_parent);
    let (runtime, signals, config) = match started {
        Ok(started) => started,
        Err(error) => {
            // Nobody is left to be told if this fails, too.
            let _ = writeln!(io::stderr(), "stretch-witness: {error:#}");
            return failure(&error);
        }
    };
    process_log::begin_small(config.log.clone(), LOG_LINES_MAX);
    process_log::end_process_on_panic();
    let result = {
        let tasks = LocalSet::new();
        runtime.block_on(tasks.run_until(serve(&config, signals)))
    };
    // With the tasks went whoever could still write to the log.
    let code = match result {
        Ok(log) => {
            if !log.wait(LOG_TIMEOUT) {
                warn!("the last events are in this log only: the disk of events.jsonl hangs");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            process_log::say(&format!("stretch-witness: {error:#}"));
            failure(&error)
        }
    };
    process_log::end();
    code
}

fn failure(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

/// What comes before the log is open. Signals first: one that comes early ends it like any other.
fn start(
    config: &Path,
    die_with_parent: Option<u32>,
) -> anyhow::Result<(Runtime, Signals, WitnessConfig)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        Signals { terminate, interrupt: signal(SignalKind::interrupt())? }
    };
    if let Some(parent) = die_with_parent {
        die_with(parent)?;
    }
    Ok((runtime, signals, config_file::load(config)?))
}

/// From now on the end of the parent is the end of this process, however the parent ends.
fn die_with(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the line above: then no signal comes any more.
    let current = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs());
    anyhow::ensure!(current == Some(parent), "process {parent}, the parent, has ended");
    Ok(())
}

/// Serves until a signal comes; the thread of the log ends when everything was written.
async fn serve(config: &WitnessConfig, mut signals: Signals) -> anyhow::Result<Thread> {
    let identity = config_file::load_identity(config)?;
    config_file::check_folder(config)?;
    allow_many_files();
    let nodes = tcp::listen(config.listen)
        .with_context(|| format!("witness.listen: cannot listen on {}", config.listen))?;
    let page = match config.metrics {
        None => None,
        Some(address) => Some(
            tcp::listen(address)
                .with_context(|| format!("metrics.listen: cannot listen on {address}"))?,
        ),
    };
    let journal = read_journal(&config.data_dir);
    let (log, log_thread) = EventLog::start(&config.data_dir, &config.name)?;
    let metrics = Metrics::new(&config.name);
    let run = WitnessRun(random_bytes());
    let arbiter = Arbiter::new(clock::now(), run, journal, rules());
    if let Some(listener) = page {
        spawn_local(metrics::serve(listener, metrics.page()));
    }
    let server = Server::new(&identity, arbiter, log, metrics);
    spawn_local(server.clone().look_after());
    spawn_local(look_at_terms(identity));
    let accepting = spawn_local(server.clone().accept(nodes));
    let (pid, address) = (std::process::id(), config.listen);
    info!(version = env!("CARGO_PKG_VERSION"), pid, %address, "witness {} runs", config.name);
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
    let cause = tokio::select! {
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.interrupt.recv() => "SIGINT",
    };
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    accepting.abort();
    server.log_end(cause);
    info!("witness {} stopped: {cause}", config.name);
    Ok(log_thread)
}

/// Connections, each a descriptor, come on top of what the process needs itself.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = WITNESS_CONNECTIONS_MAX as u64 + FILES_OF_THE_PROCESS;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
        warn!(%error, "cannot raise the number of open files; fewer nodes can connect");
    }
}

/// All rules hold, but in a build with the feature `sabotage`, which is never released: there one
/// can be broken by name, to see that a run of real processes notices.
fn rules() -> Rules {
    #[cfg(feature = "sabotage")]
    if let Ok(name) = std::env::var("STRETCH_BREAK") {
        let named = base::rules::Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
        let rule = named.expect("STRETCH_BREAK names a rule");
        warn!(?rule, "a safety rule is broken on purpose: this witness splits pairs");
        return Rules::breaking(rule);
    }
    Rules::ALL_HOLD
}

/// Names certificates that end soon, once a day: running connections go on, no new one is accepted
/// when they are over.
async fn look_at_terms(identity: TlsIdentity) -> Infallible {
    loop {
        let now = clock::unix_seconds();
        for Term { path, begin, end } in &identity.terms {
            let path = path.display();
            if *begin > now {
                warn!("the certificate {path} is not valid yet: look at this machine's clock");
            } else if *end < now + WARN_BEFORE_S {
                let hours = (*end - now) / 3600;
                warn!("the certificate {path} ends in {hours} h: issue another and restart");
            }
        }
        tokio::time::sleep(TERMS_INTERVAL).await;
    }
}
