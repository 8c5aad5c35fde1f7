//! Commands that make or run something: `node`, `demo`, `init`, `pki`.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use base::identity::Identity;
use base::io::clock;
use base::io::tls::TlsIdentity;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::args::{DemoArgs, InitArgs, IssueArgs, NodeArgs, PkiCommand};
use super::{Failure, Outcome, RunNode, say};
use crate::config::{ConfigError, NodeConfig};
use crate::io::demo::{self, Options};
use crate::io::init::{self, InitError};
use crate::io::pki_files;
use crate::io::process_log;
use crate::io::stop_signals::StopSignals;
use crate::pki::{Request, Validity, day};

/// Addresses of the demo: a, b, the witness.
const DEMO_ADDRESSES: usize = 3;

pub(super) fn node(args: &NodeArgs, run_node: RunNode) -> Outcome {
    let signals = StopSignals::catch()?;
    if let Some(parent) = args.die_with_parent {
        die_with(parent)?;
    }
    let config = NodeConfig::load(&args.config)?;
    process_log::begin(&config.node.log);
    let code = run_node(config, signals).unwrap_or_else(|error| {
        // As `config check` says of the same file.
        let usage = error.is::<ConfigError>();
        let failure = if usage { Failure::Usage(error) } else { Failure::Refused(error) };
        // Behind everything that the node has said.
        failure.report(process_log::say)
    });
    process_log::end();
    Ok(code)
}

/// From now on the end of the parent is the end of this process, however the parent ends.
fn die_with(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    // It may have ended before the line above: then no signal comes any more.
    let current = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs());
    if current == Some(parent) {
        return Ok(());
    }
    Err(Failure::Refused(anyhow::anyhow!("process {parent}, the parent, has ended")))
}

pub(super) fn demo(args: DemoArgs) -> Outcome {
    let addresses = match <[_; DEMO_ADDRESSES]>::try_from(args.addresses) {
        Ok(addresses) => Some(addresses),
        Err(none) if none.is_empty() => None,
        Err(some) => {
            let count = some.len();
            let text = "--addresses needs three, of a, b and the witness, with commas between";
            return Err(Failure::Usage(anyhow::anyhow!("{text}; found {count}")));
        }
    };
    let options = Options { dir: args.dir, size: args.size, addresses, prepare: args.prepare };
    demo::run(&options).map_err(Failure::Refused)
}

pub(super) fn init(args: &InitArgs) -> Outcome {
    let config = NodeConfig::load(&args.config)?;
    let agreement = config.agreement()?;
    let report = init::init(&config, &agreement, args.source).map_err(|error| match error {
        InitError::Config(error) => Failure::from(error),
        error => Failure::refused(error),
    })?;
    for path in &report.made {
        say(&format!("made {}, which is blank", path.display()))?;
    }
    for path in &report.adopted {
        say(&adopted(path, args.source))?;
    }
    let places = config.node.record_dirs.each_ref().map(|dir| dir.display().to_string());
    say(&format!("made the record of node {} in {}", config.node.name, places.join(" and ")))?;
    for line in config.not_used_yet() {
        say(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes of what was there already.
fn adopted(path: &Path, source: bool) -> String {
    let device = fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let path = path.display();
    match (source, device) {
        (true, _) => format!("kept {path} as it is: it is copied to the other node"),
        (false, false) => format!("uses {path}, which is blank"),
        (false, true) => format!(
            "uses {path}; what it holds does not count and is overwritten from the other node's \
             copy (init --source would keep it)"
        ),
    }
}

pub(super) fn pki(command: &PkiCommand) -> Outcome {
    match command {
        PkiCommand::Ca { dir, days } => {
            let validity = Validity::days(clock::unix_seconds(), *days);
            pki_files::make_authority(dir, validity).map_err(Failure::refused)?;
            let (dir, end) = (dir.display(), day(validity.end));
            say(&format!(
                "made a CA in {dir}, valid until {end}; keep {} secret",
                pki_files::CA_KEY
            ))?;
        }
        PkiCommand::Issue(args) => issue(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let request = Request {
        holder: Identity { kind: args.kind, name: args.name.clone() },
        addresses: args.address.clone(),
        dns_names: args.dns.clone(),
        validity: Validity::days(clock::unix_seconds(), args.days),
    };
    let folder = pki_files::issue(&args.dir, &request)
        .with_context(|| format!("no identity for {}", request.holder))
        .map_err(Failure::Refused)?;
    // It is of no use without its CA.
    let terms = TlsIdentity::load(&folder).map_err(Failure::refused)?.terms;
    let own = request.validity.end;
    let end = terms.iter().map(|term| term.end).fold(own, i64::min);
    let cut = if end < own { ", when its CA ends" } else { "" };
    let end = day(end);
    say(&format!("made {} in {}, valid until {end}{cut}", request.holder, folder.display()))
}
