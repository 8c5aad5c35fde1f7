//! The command line: what `stretch` is asked to do, and how it ends.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 node not reachable or
//! timed out. Not here: what the commands do (`operate.rs`, `setup.rs`, `demo`).

mod args;
mod operate;
mod setup;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

pub use args::Arguments;
use args::Command;

use crate::config::{ConfigError, NodeConfig};
use crate::io::stop_signals::StopSignals;

/// Runs a node until it is told to stop.
pub type RunNode = fn(NodeConfig, StopSignals) -> anyhow::Result<ExitCode>;

/// How a command fails; each has an exit code.
#[derive(Debug)]
enum Failure {
    /// 1: it was refused or went wrong.
    Refused(anyhow::Error),
    /// 2: the command line or a configuration file is wrong.
    Usage(anyhow::Error),
    /// 3: no answer, or not in time.
    Unreachable(anyhow::Error),
}

type Outcome = Result<ExitCode, Failure>;

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.into())
    }
}

/// A line for a script or a person went nowhere: whoever read it has left.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Refused(error.into())
    }
}

impl Failure {
    fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self::Refused(error.into())
    }

    /// The exit code, after the reason was said.
    fn report(self, say: impl FnOnce(&str)) -> ExitCode {
        let (error, code) = match self {
            Self::Refused(error) => (error, 1),
            Self::Usage(error) => (error, 2),
            Self::Unreachable(error) => (error, 3),
        };
        let closed = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if !closed {
            say(&format!("stretch: {error:#}"));
        }
        ExitCode::from(code)
    }
}

/// Does what `arguments` (with the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>, run_node: RunNode) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors and go to stdout; the rest exits with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    run(arguments.command, run_node).unwrap_or_else(|failure| {
        failure.report(|text| {
            // Nobody is left to be told if this fails, too.
            let _ = writeln!(io::stderr(), "{text}");
        })
    })
}

fn run(command: Command, run_node: RunNode) -> Outcome {
    match command {
        Command::Node(args) => setup::node(&args, run_node),
        Command::Demo(args) => setup::demo(args),
        Command::Init(args) => setup::init(&args),
        Command::Pki(command) => setup::pki(&command),
        Command::Config(command) => operate::config(&command),
        Command::Status(args) => operate::status(&args),
        Command::Wait(args) => operate::wait(&args),
    }
}

/// Prints to stdout without the panic of `println!` when nobody reads it.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&serde_json::to_string_pretty(value).map_err(Failure::refused)?)
}
