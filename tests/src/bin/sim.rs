//! Runs seeds of the simulator.
//!
//!     sim SEED                 one seed, and what happens in it
//!     sim FIRST COUNT          many, and how often what happened
//!     sim sabotage [COUNT]     each rule broken, and the first seed that notices
//!
//! `--break RULE` breaks a rule; `--no-order` looks only at what hosts and bytes show.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use base::rules::{Rule, Rules};
use stretch_tests::sim::{Coverage, NEEDS_ORDER, Options, replay_command, run, run_many};

/// Findings after which a long run ends.
const FINDINGS_MAX: usize = 20;

fn main() -> Result<ExitCode> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let broken = take_rule(&mut args)?;
    let before = args.len();
    args.retain(|arg| arg != "--no-order");
    let order = args.len() == before;
    let rules = broken.map_or(Rules::ALL_HOLD, Rules::breaking);
    let options = Options { rules, order, print: false };
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sabotage"] => Ok(sabotage(1000)),
        ["sabotage", count] => Ok(sabotage(count.parse()?)),
        [seed] => {
            let outcome = run(seed.parse()?, Options { print: true, ..options });
            println!("trace hash {:016x}", outcome.trace_hash);
            Ok(match outcome.finding {
                None => ExitCode::SUCCESS,
                Some(finding) => {
                    println!("{:?}: {}", finding.kind, finding.text);
                    ExitCode::FAILURE
                }
            })
        }
        [first, count] => Ok(many(first.parse()?, count.parse()?, options, broken)),
        _ => anyhow::bail!("usage: sim SEED | sim FIRST COUNT | sim sabotage [COUNT]"),
    }
}

fn take_rule(args: &mut Vec<String>) -> Result<Option<Rule>> {
    let Some(at) = args.iter().position(|arg| arg == "--break") else { return Ok(None) };
    let name = args.get(at + 1).context("--break needs a rule")?.clone();
    args.drain(at..at + 2);
    let rule = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
    rule.map(Some).with_context(|| format!("no rule is called {name}"))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn many(first: u64, count: u64, options: Options, broken: Option<Rule>) -> ExitCode {
    let begin = Instant::now();
    let (mut seeds, mut findings) = (0u64, 0usize);
    let (mut operations, mut acknowledged, mut contended) = (0, 0, 0);
    let mut coverage = Coverage::default();
    run_many(first, count, threads(), options, |outcome| {
        seeds += 1;
        operations += outcome.operations;
        acknowledged += outcome.acknowledged;
        contended += outcome.contended;
        coverage.add(&outcome.coverage);
        if let Some(finding) = &outcome.finding {
            findings += 1;
            println!("seed {}: {:?}: {}", outcome.seed, finding.kind, finding.text);
            println!("  replay: {}", replay_command(outcome.seed, broken, options.order));
        }
        findings < FINDINGS_MAX
    });
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}", coverage.table());
    println!(
        "{seeds} seeds in {seconds:.1} s ({:.1} a second), {operations} operations, \
         {acknowledged} acknowledged, {contended} contended, {findings} findings",
        seeds as f64 / seconds
    );
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// For each rule the first seed that notices that it is broken, by what hosts and bytes show.
fn sabotage(count: u64) -> ExitCode {
    // Cores that break a rule may well stop at an assert of another one.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for rule in Rule::ALL {
        let order = NEEDS_ORDER.contains(&rule);
        let options = Options { rules: Rules::breaking(rule), order, print: false };
        let mut found = BTreeMap::new();
        run_many(0, count, threads(), options, |outcome| {
            if let Some(finding) = outcome.finding.filter(|f| f.is_seen_by_checkers()) {
                found.insert(outcome.seed, finding);
            }
            found.is_empty()
        });
        match found.first_key_value() {
            Some((seed, finding)) => {
                let line = finding.text.lines().next().unwrap_or_default();
                println!("{rule:?}: seed {seed}: {:?}: {line}", finding.kind);
            }
            None => {
                println!("{rule:?}: not noticed in {count} seeds");
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
