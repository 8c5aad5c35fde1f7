//! One node process from its configuration to its end: opens everything, starts the threads, waits.
//!
//! Threads: `group` decides, one `volume-N` per volume moves bytes, `front` negotiates and answers
//! people, `record` makes things durable, `decisions` and `log` write the logs. A panic anywhere ends
//! the process: one node stopping is a fault that the pair survives.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use base::ids::{Incarnation, VolumeIndex, VolumeName};
use base::io::clock;
use base::io::tcp;
use base::io::tls::TlsIdentity;
use base::limits::CLIENTS_MAX;
use base::rules::Rules;
use base::time::Instant;
use datapath::io::backing::{Backing, BackingError, Direct};
use datapath::io::engine::Engine;
use datapath::io::memory;
use datapath::volume::VolumeConfig;
use nbd_frontend::admission::Caps;
use nbd_frontend::exports::{Availability, ExportInfo, ExportTable};
use nbd_frontend::io::acceptor::AcceptorConfig;
use nbd_frontend::io::shared_exports::SharedExports;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use super::admin_server::AdminState;
use super::certificates::Certificates;
use super::config_file::load_pair;
use super::decision_file::DecisionFile;
use super::front_thread::{self, FrontVolume};
use super::group_thread::{self, VolumeHandle};
use super::mailbox::SharedGate;
use super::metrics::{Latencies, Metrics, Transitions};
use super::peer_link::{PeerLinks, random_bytes};
use super::process_log;
use super::record_writer::{self, StartError, VolumeParts, lock_node};
use super::run_files::RunFiles;
use super::stop_signals::StopSignals;
use super::threads::Thread;
use super::volume_thread::{self, Mail, Report, VolumeCounters};
use crate::config::{self, NbdTls, NodeConfig, PairConfig};
use crate::polarization::{Group, GroupConfig, GroupView, GroupVolume};
use crate::status::{NodeStatus, ResyncRole, ResyncStatus, StatusReport, VolumeStatus};

/// Open files of a node beside its clients', generously.
const FILES_OF_THE_PROCESS: u64 = 1024;
/// Reports of volumes not yet taken by the group thread, at most.
const REPORTS_MAX: usize = 1024;
/// Events of peer connections not yet taken, at most.
const PEER_EVENTS_MAX: usize = 1024;
/// Measurements not yet folded in, at most; more are dropped.
const MEASURED_MAX: usize = 64;

/// How long a volume may still be in use by the process before, and between two looks.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_STEP: Duration = Duration::from_millis(10);
/// How long the threads may take to end; the group gives a clean stop up before that. With what is
/// still to be written to the logs (the next, and the process log's) a stop has 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(9);
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

/// Runs a node until it is stopped or fails.
///
/// # Errors
/// What keeps it from starting: which file or address, and what to do.
pub fn run(config: &NodeConfig, signals: StopSignals) -> Result<ExitCode> {
    process_log::end_process_on_panic();
    allow_many_files();
    memory::bound_what_is_kept();
    let identity = config.load_identity()?;
    let pair = load_pair(&config.node.record_dirs)?;
    let lock = lock_folder(&config.node.data_dir)?;
    let backings = open_volumes(config, &pair)?;
    let node = Node::start(config, pair, &identity, &backings, lock)?;
    node.wait(signals)
}

/// Clients, each a descriptor, come on top of what the process needs itself.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = CLIENTS_MAX as u64 + FILES_OF_THE_PROCESS;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let raised = rustix::process::Rlimit { current, ..limit };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        warn!(%error, "cannot raise the number of open files; fewer clients can attach");
    }
}

fn open_volumes(config: &NodeConfig, pair: &PairConfig) -> Result<Vec<Arc<Backing>>> {
    let mut backings = Vec::new();
    for (volume, local) in pair.volumes.iter().zip(config.local_volumes(pair)?) {
        let direct = match local.direct {
            config::Direct::Auto => Direct::Auto,
            config::Direct::On => Direct::On,
            config::Direct::Off => Direct::Off,
        };
        let backing = open_volume(&local.path, volume.size, direct).map_err(|error| {
            let advice = backing_advice(&error, volume.size);
            anyhow::Error::new(error).context(format!("volume {}{advice}", volume.name))
        })?;
        backings.push(Arc::new(backing));
    }
    Ok(backings)
}

/// What to do about a volume that cannot be opened, where its own words do not say.
fn backing_advice(error: &BackingError, size: u64) -> String {
    match error {
        BackingError::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
            if path.starts_with("/dev") {
                return ": its device is not there: attach it".to_owned();
            }
            format!(
                ": its file is not there: if it is only not mounted, mount it; if it is lost, \
                 `truncate -s {size} {}` makes an empty one, which this node then fills from \
                 the other node's copy",
                path.display()
            )
        }
        BackingError::DeviceSize { actual: 0, .. } => {
            ": its device has no size: is it attached?".to_owned()
        }
        // The others say what to do themselves.
        _ => String::new(),
    }
}

/// Takes the node's lock as soon as it is free; before anything else of the node is opened, so
/// that a node that runs already is named as such.
fn lock_folder(data_dir: &Path) -> Result<File, StartError> {
    let give_up = clock::now() + BUSY_TIMEOUT;
    loop {
        match lock_node(data_dir) {
            Err(StartError::Locked { .. }) if clock::now() < give_up => thread::sleep(BUSY_STEP),
            result => return result,
        }
    }
}

/// Opens a volume as soon as it is free. The kernel keeps the files of an ended process open, and
/// so their locks held, until the I/O that was under way has completed (PROTOCOL 2.1).
fn open_volume(path: &Path, size: u64, direct: Direct) -> Result<Backing, BackingError> {
    let give_up = clock::now() + BUSY_TIMEOUT;
    loop {
        match Backing::open(path, size, direct) {
            Err(BackingError::Busy { .. }) if clock::now() < give_up => thread::sleep(BUSY_STEP),
            result => return result,
        }
    }
}

/// All rules hold, but in a build with the feature `sabotage`, which is never released: there one
/// can be broken by name, to see that a run of real processes notices.
fn rules() -> Rules {
    #[cfg(feature = "sabotage")]
    if let Ok(name) = std::env::var("STRETCH_BREAK") {
        let named = base::rules::Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
        let rule = named.expect("STRETCH_BREAK names a rule");
        warn!(?rule, "a safety rule is broken on purpose: this node loses data");
        return Rules::breaking(rule);
    }
    Rules::ALL_HOLD
}

struct Node {
    volumes: Vec<Thread>,
    group: Thread,
    front: Thread,
    decisions: Thread,
    stop: watch::Sender<bool>,
    end: watch::Sender<bool>,
}

impl Node {
    fn start(
        config: &NodeConfig,
        pair: PairConfig,
        identity: &TlsIdentity,
        backings: &[Arc<Backing>],
        lock: File,
    ) -> Result<Self> {
        let rules = rules();
        let record = start_record(config, &pair, backings, rules, lock)?;
        let (reports, report_queue) = mpsc::channel(REPORTS_MAX);
        let (measured, measured_queue) = mpsc::channel(MEASURED_MAX);
        let gate = Arc::new(SharedGate::default());
        let io_timeout = pair.timers.timers().io_timeout;
        let run_files = record.writer.run_files().clone();
        let common = Common { rules, io_timeout, gate: gate.clone(), reports, measured, run_files };
        let Volumes { threads, handles, fronts } = start_volumes(&pair, backings, &common)?;
        let table = ExportTable::new(handles.iter().map(|handle| handle.export.clone()).collect());
        let exports = SharedExports::new(table);
        let first = first_status(config, &pair);
        let report = StatusReport { at: clock::now(), status: first.clone() };
        let (status, status_seen) = watch::channel(Arc::new(report));
        let (stop, stop_seen) = watch::channel(false);
        let (end, end_seen) = watch::channel(false);
        let name = config.node.name.as_str();
        let metrics = Metrics::new(&config.node.name);
        let transitions = metrics.transitions();
        let front = spawn_front(front_thread::Parts {
            nbd: acceptor_config(config, &pair, identity),
            exports: exports.clone(),
            volumes: fronts,
            admin_socket: config.admin.socket.clone(),
            admin_listen: config.admin.listen,
            metrics_listen: config.metrics.listen,
            identity: identity.clone(),
            admin: admin_state(status_seen, &pair),
            metrics,
            measured: measured_queue,
            stop: end_seen,
        })?;
        let (decision_file, decisions) =
            DecisionFile::start(&config.node.data_dir.join("events.jsonl"), name)?;
        let group = spawn_group(GroupStart {
            group_config: group_config(config, &pair, backings, rules),
            state: record.state,
            writer: record.writer,
            identity: identity.clone(),
            local: config.node.address,
            remote: config.peer.address,
            handles,
            reports: report_queue,
            gate,
            exports,
            decisions: decision_file,
            transitions,
            describe: describer(first, pair, Certificates::new(identity.terms.clone())),
            status,
            stop: stop_seen,
        })?;
        Ok(Self { volumes: threads, group, front, decisions, stop, end })
    }

    /// Waits for a signal, then for everything to end in order; for a disk that hangs no longer
    /// than a clean stop may take.
    fn wait(self, mut signals: StopSignals) -> Result<ExitCode> {
        info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "node runs");
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        signals.wait();
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        self.stop.send_replace(true);
        let give_up = clock::now() + STOP_TIMEOUT;
        let left = || give_up.since(clock::now());
        let mut ended = self.group.wait(left());
        for volume in &self.volumes {
            ended &= volume.wait(left());
        }
        self.end.send_replace(true);
        ended &= self.front.wait(left().max(FLUSH_TIMEOUT));
        if !self.decisions.wait(FLUSH_TIMEOUT) {
            warn!("the last decisions are in this log only: the disk of events.jsonl hangs");
        }
        anyhow::ensure!(ended, "a thread of this node has not ended within {STOP_TIMEOUT:?}");
        info!("node stopped");
        Ok(ExitCode::SUCCESS)
    }
}

fn start_record(
    config: &NodeConfig,
    pair: &PairConfig,
    backings: &[Arc<Backing>],
    rules: Rules,
    lock: File,
) -> Result<record_writer::Started> {
    let record = record_writer::start(
        &config.node.name,
        &config.node.data_dir,
        &config.node.record_dirs,
        &volume_parts(pair, backings),
        Incarnation(random_bytes()),
        rules,
        lock,
    )?;
    for text in record.state.texts() {
        error!("{text}");
    }
    Ok(record)
}

/// What all volume threads get.
struct Common {
    rules: Rules,
    io_timeout: Duration,
    gate: Arc<SharedGate>,
    reports: mpsc::Sender<Report>,
    measured: mpsc::Sender<(usize, Box<Latencies>)>,
    run_files: RunFiles,
}

/// The volume threads, and what the group and the front thread know of each.
#[derive(Default)]
struct Volumes {
    threads: Vec<Thread>,
    handles: Vec<VolumeHandle>,
    fronts: Vec<FrontVolume>,
}

fn start_volumes(pair: &PairConfig, backings: &[Arc<Backing>], common: &Common) -> Result<Volumes> {
    let mut volumes = Volumes::default();
    for (index, (volume, backing)) in pair.volumes.iter().zip(backings).enumerate() {
        let (mail, letters, arrivals) = Mail::new()?;
        let counters = Arc::new(VolumeCounters::default());
        let parts = volume_thread::Parts {
            config: VolumeConfig {
                index: VolumeIndex(u16::try_from(index).context("too many volumes")?),
                size: volume.size,
                granule_bytes: backing.granule_bytes(),
                io_timeout: common.io_timeout,
                rules: common.rules,
            },
            mail,
            reports: common.reports.clone(),
            gate: common.gate.clone(),
            counters: counters.clone(),
            measured: common.measured.clone(),
            run_files: common.run_files.clone(),
        };
        volumes.threads.push(spawn_volume(index, &volume.name, parts, backing.clone())?);
        let mut export = ExportInfo::new(volume.name.clone(), volume.size);
        export.fast_zero = backing.zero_is_fast();
        export.availability = Availability::Refused("this node has just started".to_owned());
        volumes.fronts.push(FrontVolume { name: volume.name.clone(), arrivals });
        volumes.handles.push(VolumeHandle { id: volume.id, export, letters, counters });
    }
    Ok(volumes)
}

fn first_status(config: &NodeConfig, pair: &PairConfig) -> NodeStatus {
    NodeStatus::starting(
        config.node.name.clone(),
        config.peer.name.clone(),
        pair.preferred.clone(),
        std::process::id(),
    )
}

fn acceptor_config(
    config: &NodeConfig,
    pair: &PairConfig,
    identity: &TlsIdentity,
) -> AcceptorConfig {
    AcceptorConfig {
        address: config.nbd.listen,
        tls: (config.nbd.tls == NbdTls::Required).then(|| identity.nbd_server.clone()),
        alive: pair.timers.timers().alive,
        caps: Caps::DEFAULT,
    }
}

/// The pair's configuration does not change while a node runs.
fn admin_state(status: watch::Receiver<Arc<StatusReport>>, pair: &PairConfig) -> AdminState {
    AdminState { status, pair: watch::channel(Arc::new(pair.clone())).1 }
}

fn describer(
    first: NodeStatus,
    pair: PairConfig,
    certificates: Certificates,
) -> group_thread::Describe {
    let began = clock::now();
    let certificates = RefCell::new(certificates);
    Box::new(move |view, volumes| {
        let mut status = describe(&first, &pair, began, view, volumes);
        certificates.borrow_mut().add_to(&mut status, clock::now(), clock::unix_seconds());
        status
    })
}

fn volume_parts(pair: &PairConfig, backings: &[Arc<Backing>]) -> Vec<VolumeParts> {
    let parts = |(volume, backing): (&config::PairVolume, &Arc<Backing>)| VolumeParts {
        name: volume.name.clone(),
        id: volume.id,
        backing: backing.clone(),
    };
    pair.volumes.iter().zip(backings).map(parts).collect()
}

fn group_config(
    config: &NodeConfig,
    pair: &PairConfig,
    backings: &[Arc<Backing>],
    rules: Rules,
) -> GroupConfig {
    let volume = |(volume, backing): (&config::PairVolume, &Arc<Backing>)| GroupVolume {
        name: volume.name.clone(),
        id: volume.id,
        size: volume.size,
        path: backing.path().display().to_string(),
        granule_bytes: backing.granule_bytes(),
        trim_zeroes: true,
    };
    GroupConfig {
        node: config.node.name.clone(),
        peer: config.peer.name.clone(),
        pair_id: pair.id,
        volumes: pair.volumes.iter().zip(backings).map(volume).collect(),
        timers: pair.timers.timers(),
        rules,
    }
}

fn current_thread_runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn spawn_volume(
    index: usize,
    name: &VolumeName,
    parts: volume_thread::Parts,
    backing: Arc<Backing>,
) -> io::Result<Thread> {
    let (ready, started) = std::sync::mpsc::channel();
    let name = name.clone();
    let thread = Thread::spawn(&format!("volume-{index}"), move || {
        // What the volume says in the log is about this one.
        let _span = tracing::error_span!("volume", %name).entered();
        // The engine belongs to the thread that uses it.
        match Engine::start(&backing) {
            Ok(engine) => {
                let _ = ready.send(Ok(()));
                if let Err(error) = volume_thread::run(parts, engine) {
                    panic!("the loop of a volume failed: {error}");
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
    Ok(thread)
}

fn spawn_front(parts: front_thread::Parts) -> Result<Thread> {
    let (ready, started) = std::sync::mpsc::channel();
    let thread = Thread::spawn("front", move || {
        let runtime = current_thread_runtime().expect("a runtime needs only an epoll descriptor");
        runtime.block_on(front_thread::run(parts, ready));
    })?;
    started.recv().context("the front thread ended")??;
    Ok(thread)
}

struct GroupStart {
    group_config: GroupConfig,
    state: crate::record::StartState,
    writer: record_writer::RecordWriter,
    identity: TlsIdentity,
    local: std::net::SocketAddr,
    remote: std::net::SocketAddr,
    handles: Vec<VolumeHandle>,
    reports: mpsc::Receiver<Report>,
    gate: Arc<SharedGate>,
    exports: SharedExports,
    decisions: DecisionFile,
    transitions: Transitions,
    describe: group_thread::Describe,
    status: watch::Sender<Arc<StatusReport>>,
    stop: watch::Receiver<bool>,
}

fn spawn_group(start: GroupStart) -> Result<Thread> {
    let address = start.local;
    let (ready, started) = std::sync::mpsc::channel();
    let thread = Thread::spawn("group", move || {
        let runtime = current_thread_runtime().expect("a runtime needs only an epoll descriptor");
        let local = LocalSet::new();
        runtime.block_on(local.run_until(async move {
            let dials = start.group_config.dials();
            let listener = if dials { None } else { Some(tcp::listen(start.local)) };
            let listener = match listener.transpose() {
                Ok(listener) => listener,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            run_group(start, listener).await;
        }));
    })?;
    started.recv().context("the group thread ended")?.with_context(|| {
        format!(
            "cannot listen at {address} for the peer: `address` in [node] must be this machine's, \
             and no other process may use its port"
        )
    })?;
    Ok(thread)
}

async fn run_group(start: GroupStart, listener: Option<tokio::net::TcpListener>) {
    let (events, peer_events) = mpsc::channel(PEER_EVENTS_MAX);
    let links = PeerLinks::new(
        start.identity,
        start.local,
        start.remote,
        start.group_config.peer.clone(),
        start.group_config.timers.alive,
        events,
    );
    if let Some(listener) = listener {
        tokio::task::spawn_local(links.clone().accept(listener));
    }
    group_thread::run(group_thread::Parts {
        group: Group::new(clock::now(), start.group_config, start.state),
        links,
        peer_events,
        writer: start.writer,
        volumes: start.handles,
        reports: start.reports,
        gate: start.gate,
        exports: start.exports,
        decisions: start.decisions,
        transitions: start.transitions,
        describe: start.describe,
        status: start.status,
        stop: start.stop,
    })
    .await;
}

/// Status as people see it, from what the group and the volume threads know.
fn describe(
    base: &NodeStatus,
    pair: &PairConfig,
    began: Instant,
    view: &GroupView,
    volumes: &[VolumeHandle],
) -> NodeStatus {
    let mut status = base.clone();
    status.state = view.state;
    status.serving = view.serving;
    status.session = view.session;
    status.orderer = view.orderer.clone();
    status.cause = view.cause.clone();
    status.advice = view.advice.clone();
    status.uptime_ms = milliseconds(clock::now().since(began));
    status.peer.reachable = view.peer.reachable;
    status.peer.state = view.peer.state;
    status.peer.last_seen_ms = view.peer.last_seen_ms;
    status.volumes = pair
        .volumes
        .iter()
        .zip(volumes)
        .zip(&view.volumes)
        .map(|((volume, handle), view)| VolumeStatus {
            name: volume.name.clone(),
            size: volume.size,
            dirty_bytes: None,
            marked_bytes: None,
            clients: u32::try_from(group_thread::clients_of(handle)).unwrap_or(u32::MAX),
            resync: view.resync.map(|resync| ResyncStatus {
                role: if resync.role == "source" { ResyncRole::Source } else { ResyncRole::Target },
                done_bytes: resync.done_bytes,
                todo_bytes: resync.todo_bytes,
                bytes_per_s: (resync.bytes_per_s > 0).then_some(resync.bytes_per_s),
                eta_ms: resync.eta_ms,
            }),
        })
        .collect();
    status
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
