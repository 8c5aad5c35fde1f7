//! One seed, or many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use base::rules::{Rule, Rules};

use super::coverage::Coverage;
use super::finding::{Finding, FindingKind};
use super::plan::Plan;
use super::world::World;

/// How a seed is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which rules hold.
    pub rules: Rules,
    /// Whether the order of things is checked, too, or only what hosts and bytes show.
    pub order: bool,
    /// Print what happens.
    pub print: bool,
}

impl Options {
    /// All rules hold, everything is checked, nothing is printed.
    pub const NORMAL: Self = Self { rules: Rules::ALL_HOLD, order: true, print: false };
}

/// Rules whose breaking no host and no byte can show while nobody serves alone, so that only the
/// order of things does.
///
/// `WriteRequestBeforeAck` protects a host that gives a connection up and writes again through the
/// other node; to a history without such a host the write that comes late was never answered and
/// may come late. `CleanMeansBoth`: one clean record alone says that both copies were equal, and
/// every way in which the other could change since is told by its round or its stamp.
pub const NEEDS_ORDER: [Rule; 2] = [Rule::WriteRequestBeforeAck, Rule::CleanMeansBoth];

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The same for the same seed.
    pub trace_hash: u64,
    /// The first finding.
    pub finding: Option<Finding>,
    /// What happened.
    pub coverage: Coverage,
    /// Requests of hosts.
    pub operations: u64,
    /// Of these, answered with success.
    pub acknowledged: u64,
    /// Of these, at the same time as an overlapping one at the other node.
    pub contended: u64,
    /// Faults.
    pub faults: u64,
    /// Sessions.
    pub sessions: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let plan = Plan::new(seed, options.rules);
    let mut world = World::new(plan, options.print);
    world.order = options.order;
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(payload) = ended {
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned());
        world.finding.get_or_insert(Finding { kind: FindingKind::Panic, text });
    }
    Outcome {
        seed,
        trace_hash: world.trace.hash(),
        operations: world.history.operations.len() as u64,
        acknowledged: world.acknowledged,
        contended: world.contended,
        faults: world.faults_done,
        sessions: world.sessions,
        virtual_ms: world.now.as_nanos() / 1_000_000,
        coverage: world.coverage,
        finding: world.finding,
    }
}

/// Runs `count` seeds from `first` on with `threads` threads; calls `each` with every outcome as it
/// comes, until it says no.
pub fn run_many(
    first: u64,
    count: u64,
    threads: usize,
    options: Options,
    each: impl FnMut(Outcome) -> bool + Send,
) {
    let next = AtomicU64::new(first);
    let each = Mutex::new(each);
    let end = first.saturating_add(count);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = run(seed, options);
            if !(each.lock().expect("no checker panics"))(outcome) {
                next.store(end, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

/// The command that runs this seed alone and prints what happens.
pub fn replay_command(seed: u64, broken: Option<Rule>, order: bool) -> String {
    let mut command = format!("cargo run -p stretch-tests --bin sim -- {seed}");
    if let Some(rule) = broken {
        command.push_str(&format!(" --break {rule:?}"));
    }
    if !order {
        command.push_str(" --no-order");
    }
    command
}
