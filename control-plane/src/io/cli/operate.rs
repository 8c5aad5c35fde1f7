//! Commands that ask: `status`, `wait`, `config check`, `config show`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{ConfigCommand, ShowArgs, StatusArgs, TargetArgs, WaitArgs};
use super::{Failure, Outcome, say, say_json};
use crate::config::{Difference, NodeConfig, PairConfig};
use crate::io::admin_client::{self, ClientError, Target};
use crate::io::config_file::load_pair;
use crate::io::pki_files;
use crate::pki::day;
use crate::status::{NodeStatus, Wanted, change_line, render};

/// Names the configuration file where nothing on the command line does.
const CONFIG_VARIABLE: &str = "STRETCH_CONFIG";
const CONFIG_DEFAULT: &str = "/etc/stretch/node.toml";
/// Names the operator's identity where nothing on the command line does.
const IDENTITY_VARIABLE: &str = "STRETCH_IDENTITY";
const IDENTITY_DEFAULT: &str = "/etc/stretch/operator";
/// Between two questions of `wait`.
const WAIT_STEP: Duration = Duration::from_millis(50);
/// Between two questions of `status --watch`.
const WATCH_STEP: Duration = Duration::from_millis(250);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            _ if error.unreachable() => Self::Unreachable(error.into()),
            ClientError::Identity(_) => Self::Usage(error.into()),
            _ => Self::Refused(error.into()),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// `given`, else what the environment names, else the default place if it is there.
fn find(
    given: Option<&PathBuf>,
    variable: &str,
    default: &str,
    what: &str,
) -> Result<PathBuf, Failure> {
    let named = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let there = || Some(PathBuf::from(default)).filter(|path| path.exists());
    given.cloned().or_else(named).or_else(there).ok_or_else(|| {
        Failure::Usage(anyhow::anyhow!("{what}, nor ${variable}, and there is no {default}"))
    })
}

fn find_config(args: &TargetArgs) -> Result<NodeConfig, Failure> {
    let what = "which node? neither --config F nor --node HOST:PORT was given";
    let path = find(args.config.as_ref(), CONFIG_VARIABLE, CONFIG_DEFAULT, what)?;
    Ok(NodeConfig::load(&path)?)
}

fn find_target(args: &TargetArgs) -> Result<Target, Failure> {
    let Some(address) = &args.node else {
        return Ok(Target::Socket(find_config(args)?.admin.socket));
    };
    let what = "who asks? no --identity DIR (an operator's) was given";
    let identity = find(args.identity.as_ref(), IDENTITY_VARIABLE, IDENTITY_DEFAULT, what)?;
    Ok(Target::Remote { address: address.clone(), identity })
}

pub(super) fn config(command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Show(args) => show(args),
    }
}

fn check(file: &Path) -> Outcome {
    let config = NodeConfig::load(file)?;
    let identity = config.check_files()?;
    let mut text = format!(
        "{}: good: node {}, peer {}, {} volume(s)\n",
        file.display(),
        config.node.name,
        config.peer.name,
        config.volumes.len()
    );
    for term in &identity.terms {
        let issuer = pki_files::issuer(&term.path);
        let issuer = issuer.map_or(String::new(), |name| format!("issued by {name}, "));
        let (path, end) = (term.path.display(), day(term.end));
        text.push_str(&format!("  {path}: {issuer}valid until {end}\n"));
    }
    for line in config.not_used_yet() {
        text.push_str(&format!("  {line}\n"));
    }
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> Outcome {
    let (pair, differences) = match &args.target.node {
        Some(_) => {
            let target = find_target(&args.target)?;
            (runtime()?.block_on(admin_client::pair_config(&target))?, Vec::new())
        }
        None => {
            let config = find_config(&args.target)?;
            let pair = load_pair(&config.node.record_dirs).map_err(Failure::refused)?;
            let differences = pair.differences(&config);
            (pair, differences)
        }
    };
    if args.json {
        #[derive(serde::Serialize)]
        struct Shown {
            pair: PairConfig,
            differences: Vec<Difference>,
        }
        say_json(&Shown { pair, differences })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = pair.to_string();
    if !differences.is_empty() {
        text.push_str("\nThe TOML file differs here; what the pair agreed on counts:\n");
        for difference in &differences {
            text.push_str(&format!("  {difference}\n"));
        }
    }
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let target = find_target(&args.target)?;
    let runtime = runtime()?;
    if args.watch {
        return runtime.block_on(watch(&target, args.json));
    }
    let status = runtime.block_on(admin_client::status(&target))?;
    if args.json {
        say_json(&status)?
    } else {
        say(&render(&status))?
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--watch` shows, and how.
enum Screen {
    /// Redrawn in place.
    Terminal(ProgressBar),
    /// A line per change.
    Lines { last: String, json: bool },
}

impl Screen {
    fn new(json: bool) -> Result<Self, Failure> {
        if json || !std::io::stdout().is_terminal() {
            return Ok(Self::Lines { last: String::new(), json });
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        bar.set_style(ProgressStyle::with_template("{msg}").map_err(Failure::refused)?);
        Ok(Self::Terminal(bar))
    }

    fn show(&mut self, answer: &Result<NodeStatus, ClientError>) -> Result<(), Failure> {
        let line = match answer {
            Ok(status) => change_line(status),
            Err(error) => error.to_string(),
        };
        match self {
            Self::Terminal(bar) => bar.set_message(match answer {
                Ok(status) => render(status),
                Err(_) => line,
            }),
            Self::Lines { last, .. } if *last == line => {}
            Self::Lines { last, json: true } => {
                if let Ok(status) = answer {
                    say(&serde_json::to_string(status).map_err(Failure::refused)?)?;
                }
                *last = line;
            }
            Self::Lines { last, json: false } => {
                say(&line)?;
                *last = line;
            }
        }
        Ok(())
    }
}

async fn watch(target: &Target, json: bool) -> Outcome {
    let mut screen = Screen::new(json)?;
    loop {
        let answer = admin_client::status(target).await;
        match answer {
            Err(error) if !error.unreachable() => return Err(error.into()),
            answer => screen.show(&answer)?,
        }
        tokio::time::sleep(WATCH_STEP).await;
    }
}

pub(super) fn wait(args: &WaitArgs) -> Outcome {
    let target = find_target(&args.target)?;
    let wanted = Wanted { state: args.state, mode: args.mode.clone() };
    let status = runtime()?.block_on(wait_for(&target, &wanted, args.timeout))?;
    if args.json {
        say_json(&status)?
    } else {
        say(&change_line(&status))?
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait_for(
    target: &Target,
    wanted: &Wanted,
    timeout: Duration,
) -> Result<NodeStatus, Failure> {
    let mut last = "it has not answered yet".to_owned();
    let attempt = async {
        loop {
            match admin_client::status(target).await {
                Ok(status) if status.is(wanted) => return Ok(status),
                Ok(status) => last = change_line(&status),
                Err(error) if error.unreachable() => last = error.to_string(),
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    };
    // At least one question is asked, however short the time is.
    match tokio::time::timeout(timeout.max(WAIT_STEP), attempt).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let mode = wanted.mode.as_ref().map_or(String::new(), |mode| format!(" and {mode}"));
            let waited = humantime::format_duration(timeout);
            Err(Failure::Unreachable(anyhow::anyhow!(
                "the node at {target} was not {}{mode} within {waited}; last: {last}",
                wanted.state
            )))
        }
    }
}
