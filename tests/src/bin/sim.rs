//! Runs seeds of the simulator: `sim SEED` replays one and prints what happens; `sim FIRST COUNT`
//! runs many and prints how often what happened.
#![allow(missing_docs)]
#![forbid(unsafe_code)]

use std::time::Instant;

use base::rules::{Rule, Rules};
use stretch_tests::sim::{NEEDS_ORDER, Options, run, run_many};

fn main() -> anyhow::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options::NORMAL;
    if let Some(at) = args.iter().position(|arg| arg == "--break") {
        let name = args.get(at + 1).cloned().unwrap_or_default();
        let rule = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
        let rule = rule.ok_or_else(|| anyhow::anyhow!("no rule is called {name:?}"))?;
        options.rules = Rules::breaking(rule);
        args.drain(at..at + 2);
    }
    if let Some(at) = args.iter().position(|arg| arg == "--no-order") {
        options.order = false;
        args.remove(at);
    }
    if args.first().is_some_and(|arg| arg == "sabotage") {
        let count = args.get(1).map_or(Ok(1000), |arg| arg.parse())?;
        sabotage(count);
        return Ok(());
    }
    let first: u64 = args.first().map_or(Ok(0), |arg| arg.parse())?;
    let Some(count) = args.get(1) else {
        options.print = true;
        let outcome = run(first, options);
        println!("{outcome:#?}");
        return Ok(());
    };
    let count: u64 = count.parse()?;
    let begin = Instant::now();
    let (mut findings, mut operations, mut acknowledged, mut contended) = (0, 0, 0, 0);
    let coverage = run_many(first, options, |outcome| {
        operations += outcome.operations;
        acknowledged += outcome.acknowledged;
        contended += outcome.contended;
        if let Some(finding) = &outcome.finding {
            findings += 1;
            let text: String = finding.text.lines().take(6).collect::<Vec<_>>().join("\n    ");
            println!("seed {}: {:?}: {text}", outcome.seed, finding.kind);
        }
        outcome.seed + 1 < first + count && findings < 20
    });
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}", coverage.table());
    println!(
        "{count} seeds in {seconds:.1} s ({:.1} a second), {operations} operations, \
         {acknowledged} acknowledged, {contended} contended, {findings} findings",
        count as f64 / seconds
    );
    Ok(())
}

/// For each rule the first seed that notices that it is broken, by what hosts and bytes show.
fn sabotage(count: u64) {
    std::panic::set_hook(Box::new(|_| {}));
    for rule in Rule::ALL {
        let mut found = None;
        let order = NEEDS_ORDER.contains(&rule);
        let options = Options { rules: Rules::breaking(rule), order, print: false };
        run_many(0, options, |outcome| {
            if let Some(finding) = &outcome.finding {
                found = Some((outcome.seed, finding.clone()));
            }
            found.is_none() && outcome.seed + 1 < count
        });
        match found {
            Some((seed, finding)) => {
                let line = finding.text.lines().next().unwrap_or_default();
                println!("{rule:?}: seed {seed}: {:?}: {line}", finding.kind);
            }
            None => println!("{rule:?}: NOT FOUND in {count} seeds"),
        }
    }
}
