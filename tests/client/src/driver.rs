//! The stamped client: many connections to every node, many requests in flight on each, over one
//! small area, and a record of everything that was asked and answered.
//! Owns: the threads of a run, one a connection, and their records until the run is over.
//! Faults assumed: a connection may end or fall silent at any time; what it had not answered is
//! then unknown, and a new one is made, for a bounded time.
//! Not here: what comes next (`workload`), whether it was right (`history`).

#[cfg(test)]
mod tests;
mod worker;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;

use crate::connection::{ClientError, Connection, Target};
use crate::history::{Action, History, Outcome, Record, TrimMeaning};
use crate::wire::Request;
use crate::workload::{Area, Mix};
use worker::Worker;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The NBD addresses of the nodes, all of the same volume.
    pub nodes: Vec<SocketAddr>,
    /// Name of the export.
    pub export: String,
    /// Connections to each node.
    pub connections: u64,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Ends after so long; `None`: when told.
    pub time: Option<Duration>,
    /// Ends after so many requests; `None`: when told.
    pub requests: Option<u64>,
    /// Where.
    pub area: Area,
    /// What.
    pub mix: Mix,
    /// What TRIM does on the volume.
    pub trim: TrimMeaning,
    /// Half of the connections ask for structured replies if set, else none.
    pub structured: bool,
    /// Ask for TLS, with this identity.
    pub tls: Option<Arc<ClientConfig>>,
    /// Draws the requests.
    pub seed: u64,
    /// Names the run in every stamp.
    pub writer: u64,
    /// A connection on which nothing comes back for so long, with requests out, is given up.
    pub silence: Duration,
    /// How long a node may be unreachable before its connections give up.
    pub patience: Duration,
}

impl Config {
    /// 4 connections to each node, 8 requests in flight on each, 1 MiB, everything mixed.
    pub fn new(nodes: Vec<SocketAddr>, export: &str) -> Self {
        Self {
            nodes,
            export: export.to_owned(),
            connections: 4,
            depth: 8,
            time: None,
            requests: None,
            area: Area { offset: 0, length: 1 << 20, request_bytes_max: 64 << 10 },
            mix: Mix::ALL,
            trim: TrimMeaning::Either,
            structured: true,
            tls: None,
            seed: 1,
            writer: now_ns(),
            silence: Duration::from_secs(15),
            patience: Duration::from_secs(30),
        }
    }

    fn target(&self, node: usize, structured: bool) -> Target {
        let tls = self.tls.clone();
        Target { structured, tls, ..Target::new(self.nodes[node], &self.export) }
    }
}

/// CLOCK_MONOTONIC in nanoseconds: one order of events for all threads and runs of a machine.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("after boot");
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("a fraction of a second")
}

/// What the threads of a run share.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    next_id: AtomicU64,
    /// Requests that may still be made.
    left: AtomicU64,
    /// By node.
    done: Vec<AtomicU64>,
    /// Connections that have not given up.
    workers: AtomicU64,
    sleepers: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    fn new(config: &Config, first_id: u64) -> Self {
        Self {
            stop: AtomicBool::new(false),
            next_id: AtomicU64::new(first_id),
            left: AtomicU64::new(config.requests.unwrap_or(u64::MAX)),
            done: config.nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            workers: AtomicU64::new(config.connections * config.nodes.len() as u64),
            sleepers: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    /// The last one to give up ends the run.
    fn worker_ends(&self) {
        if self.workers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop();
        }
    }

    /// The id of a request that may be made, or `None` if there were enough.
    fn take_id(&self) -> Option<u64> {
        let take = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Some(self.next_id.fetch_add(1, Ordering::Relaxed)),
            Err(_) => {
                self.stop();
                None
            }
        }
    }

    /// Waits for at most `time`, less if the run is stopped.
    fn pause(&self, time: Duration) {
        let guard = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_stopped() {
            let _unused = self.wake.wait_timeout(guard, time);
        }
    }
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Worker>>,
    history: History,
    ends: Option<Instant>,
}

/// Longest pause between two looks at a counter.
const LOOK: Duration = Duration::from_millis(5);

impl Running {
    /// Requests that `node` acknowledged so far.
    pub fn done(&self, node: usize) -> u64 {
        self.shared.done[node].load(Ordering::Relaxed)
    }

    /// Waits until `node` has acknowledged `count` more requests than now; false if it does not
    /// within `limit` or the run ends.
    pub fn wait_for_progress(&self, node: usize, count: u64, limit: Duration) -> bool {
        let goal = self.done(node) + count;
        let until = Instant::now() + limit;
        while self.done(node) < goal {
            if Instant::now() >= until || self.shared.is_stopped() {
                return false;
            }
            self.shared.pause(LOOK);
        }
        true
    }

    /// Lets the run go on for `time`, less if it ends by itself.
    pub fn let_run(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.shared.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.shared.pause(left.min(LOOK * 10));
        }
    }

    /// Ends the run: no further requests; those in flight are waited for.
    pub fn stop(self) -> History {
        self.shared.stop();
        self.join()
    }

    /// Waits for the end that the configuration gave.
    pub fn finish(self) -> History {
        match self.ends {
            Some(ends) => self.let_run(ends.saturating_duration_since(Instant::now())),
            None => self.let_run(Duration::from_secs(u64::from(u32::MAX))),
        }
        self.stop()
    }

    fn join(self) -> History {
        let mut history = self.history;
        history.connections_lost.resize(self.shared.done.len(), 0);
        for handle in self.workers {
            let worker = handle.join().expect("a worker does not panic");
            history.connections_lost[worker.node] += worker.connections_lost;
            history.connections_silent += worker.connections_silent;
            history.wrong.extend(worker.wrong);
            history.records.extend(worker.records);
        }
        history.next_id = self.shared.next_id.load(Ordering::Relaxed);
        history.records.sort_by_key(|record| (record.begin_ns, record.id));
        history
    }
}

/// Zeroes the area through the first node, then starts a run on it.
///
/// # Errors
/// The first node cannot be reached or refuses.
pub fn start(config: Config) -> Result<Running, ClientError> {
    let mut history = History::new(config.writer, config.trim);
    zero_area(&config, &mut history)?;
    Ok(start_after(config, history))
}

/// Starts a run on what `history` left, which becomes part of its history.
pub fn start_after(config: Config, history: History) -> Running {
    assert_eq!(config.writer, history.writer, "one history has one writer");
    let shared = Arc::new(Shared::new(&config, history.next_id));
    let ends = config.time.map(|time| Instant::now() + time);
    let config = Arc::new(config);
    let mut workers = Vec::new();
    for node in 0..config.nodes.len() {
        for index in 0..config.connections {
            let worker = Worker::new(node, index, config.clone(), shared.clone());
            let name = format!("client-{node}-{index}");
            let thread = std::thread::Builder::new().name(name);
            workers.push(thread.spawn(move || worker.run()).expect("a thread can be made"));
        }
    }
    Running { shared, workers, history, ends }
}

/// Zeroes the area, runs to the configured end and returns the history.
///
/// # Errors
/// As [`start`].
pub fn run(config: Config) -> Result<History, ClientError> {
    start(config).map(Running::finish)
}

/// Largest request of [`zero_area`] and [`read_area`].
const STEP_BYTES: u64 = 1 << 20;

fn steps(area: Area) -> impl Iterator<Item = (u64, u32)> {
    let end = area.offset + area.length;
    let starts = (area.offset..end).step_by(usize::try_from(STEP_BYTES).expect("small"));
    starts.map(move |at| (at, u32::try_from(STEP_BYTES.min(end - at)).expect("small")))
}

fn zero_area(config: &Config, history: &mut History) -> Result<(), ClientError> {
    let mut connection = Connection::open(&config.target(0, config.structured))?;
    for (offset, length) in steps(config.area) {
        let begin_ns = now_ns();
        connection.call(&Request::WriteZeroes { offset, length, fua: false, no_hole: true })?;
        push_answered(history, 0, Action::WriteZeroes, (offset, length), begin_ns);
    }
    connection.disconnect()
}

/// Reads the whole area through `node` and adds what it says to `history`.
///
/// # Errors
/// The node cannot be reached, refuses or fails.
pub fn read_area(config: &Config, node: usize, history: &mut History) -> Result<(), ClientError> {
    let mut connection = Connection::open(&config.target(node, config.structured))?;
    for (offset, length) in steps(config.area) {
        let begin_ns = now_ns();
        let data = connection.read(offset, length)?;
        push_answered(history, node, Action::Read, (offset, length), begin_ns);
        let last = history.records.last_mut().expect("just pushed");
        let first_block = last.blocks().start;
        match crate::history::decode_blocks(config.writer, &data, first_block) {
            Ok(seen) => last.seen = seen,
            Err(finding) => {
                history.records.pop();
                history.wrong.push(format!("read of everything at node {node}: {finding}"));
            }
        }
    }
    connection.disconnect()
}

fn push_answered(
    history: &mut History,
    node: usize,
    action: Action,
    (offset, length): (u64, u32),
    begin_ns: u64,
) {
    let id = history.next_id;
    history.next_id += 1;
    history.records.push(Record {
        node,
        connection: 0,
        action,
        fua: false,
        id,
        offset,
        length,
        begin_ns,
        end_ns: Some(now_ns()),
        outcome: Outcome::Done,
        seen: Vec::new(),
    });
}
