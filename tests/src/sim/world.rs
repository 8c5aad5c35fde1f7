//! The world: two nodes, their disks, the connections between them and the hosts, on one virtual
//! clock.
//!
//! Owns: everything. In: the plan of a seed. Out: findings, coverage, a trace.
//! Not here: what a node does with an event (`group_side.rs`, `volume_side.rs`), connections
//! (`network.rs`), hosts (`host_side.rs`), faults (`inject.rs`), what must be true (`checks.rs`).

use base::ids::{BootId, Incarnation, MachineId};
use base::time::{Duration, Instant};
use control_plane::polarization::{DurableStep, Group, GroupConfig};
use control_plane::record::{Amnesia, assess};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::coverage::Coverage;
use super::disk::DataDisk;
use super::event::{Event, Side};
use super::faults::{Step, Trigger};
use super::finding::{Finding, FindingKind};
use super::history::History;
use super::hosts::{Host, stamped};
use super::medium::{Machine, Medium, MediumWrite};
use super::net::Conn;
use super::plan::{END_AT, HEAL_AT, Plan, bytes};
use super::process::{Node, Process, VolumeThread};
use super::queue::Queue;
use super::trace::Trace;

/// How often held requests are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// Faults happen.
    Faulty,
    /// All is healed; both nodes must be active again until this instant.
    Healing(Instant),
    /// The hosts work in peace.
    Peace,
    /// Everything is read through both nodes.
    Reading,
    Done,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) configs: [GroupConfig; 2],
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Instant,
    pub(super) queue: Queue,
    pub(super) nodes: [Node; 2],
    pub(super) conns: Vec<Conn>,
    /// Directions that let nothing through, by where they lead to.
    pub(super) cut: [bool; 2],
    pub(super) refusing: bool,
    /// Factor on the delays of the link.
    pub(super) slow_link: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) next_client: u64,
    pub(super) history: History,
    pub(super) armed: Vec<(Trigger, Vec<(Duration, Step)>)>,
    pub(super) put_aside: Option<Side>,
    pub(super) stage: Stage,
    pub(super) trace: Trace,
    pub(super) coverage: Coverage,
    pub(super) finding: Option<Finding>,
    /// Whether findings about the order of things count.
    pub(super) order: bool,
    pub(super) sessions: u64,
    /// Gates that are open, by session.
    pub(super) open: [Option<u64>; 2],
    pub(super) last_session_begun: u64,
    pub(super) faults_done: u64,
    pub(super) acknowledged: u64,
    pub(super) contended: u64,
}

impl World {
    pub(super) fn new(mut plan: Plan, print: bool) -> Self {
        let configs = [plan.config(0), plan.config(1)];
        let mut history = History::new(plan.volumes.len());
        let images = initial_images(&plan, &mut history);
        let nodes = [0, 1].map(|side| new_node(&mut plan, side, &images[side]));
        let rng = plan.rng.clone();
        let mut hosts = Vec::new();
        for volume in 0..plan.volumes.len() {
            for side in [0, 1] {
                for _ in 0..plan.hosts_per_volume {
                    hosts.push(Host::new(side, volume, plan.depth));
                }
            }
        }
        Self {
            plan,
            configs,
            rng,
            now: Instant::ZERO,
            queue: Queue::default(),
            nodes,
            conns: Vec::new(),
            cut: [false; 2],
            refusing: false,
            slow_link: 1,
            hosts,
            next_client: 0,
            history,
            armed: Vec::new(),
            put_aside: None,
            stage: Stage::Faulty,
            trace: Trace::new(print),
            coverage: Coverage::default(),
            finding: None,
            order: true,
            sessions: 0,
            open: [None; 2],
            last_session_begun: 0,
            faults_done: 0,
            acknowledged: 0,
            contended: 0,
        }
    }

    /// Runs to the end or to the first finding.
    pub(super) fn run(&mut self) {
        for (at, length) in self.plan.bursts.clone() {
            self.queue.push(Instant::ZERO + at, Event::Burst { length });
        }
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.queue.push(Instant::ZERO + fault.at, Event::Fault { index });
        }
        self.queue.push(Instant::ZERO + HEAL_AT, Event::HealAll);
        self.queue.push(Instant::ZERO + LOOK_EVERY, Event::Look);
        self.queue.push(Instant::ZERO + Duration::from_millis(50), Event::Burst { length: 6 });
        for side in [0, 1] {
            self.start(side);
        }
        while self.finding.is_none() && self.stage != Stage::Done {
            let (at, event) = self.queue.pop().expect("the run ends before its events");
            assert!(at >= self.now, "time goes on");
            self.now = at;
            self.dispatch(event);
        }
    }

    /// So long from now.
    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Around `base` nanoseconds, now and then much more.
    pub(super) fn jitter(&mut self, base: u64) -> Duration {
        let factor = self.rng.random_range(1..=256);
        let long = if factor == 256 { 20 } else { 1 };
        Duration::from_nanos(base / 2 + base * factor * long / 256)
    }

    /// How long a thread of a node takes to notice something: now and then it is busy.
    pub(super) fn hop(&mut self) -> Duration {
        if self.rng.random_range(0..3000) == 0 {
            self.coverage.count("thread", "busy");
            return Duration::from_millis(self.rng.random_range(2..200));
        }
        self.jitter(self.plan.latencies.hop)
    }

    pub(super) fn report(&mut self, finding: Finding) {
        if finding.kind == FindingKind::Order && !self.order {
            return;
        }
        self.trace.line(self.now, || format!("FINDING {:?}: {}", finding.kind, finding.text));
        self.finding.get_or_insert(finding);
    }

    fn dispatch(&mut self, event: Event) {
        let (side, life) = event.belongs();
        if let Some(side) = side {
            if life.is_some_and(|life| life != self.nodes[side].life) {
                return;
            }
            if self.nodes[side].frozen && event.waits_while_frozen() {
                self.nodes[side].deferred.push(event);
                return;
            }
        }
        self.trace.fold(&[self.now.as_nanos(), event.number(), side.unwrap_or(2) as u64]);
        match event {
            Event::Deliver { conn, to } => self.deliver(conn, to),
            Event::Dial { side, .. } => self.dial(side),
            Event::Dialled { side, peer_life, nonce, .. } => self.dialled(side, peer_life, nonce),
            Event::DataDialled { side, peer_life, nonce, volume, .. } => {
                self.data_dialled(side, peer_life, nonce, volume);
            }
            Event::GroupTimer { side, .. } => self.group_timer(side),
            Event::Report { side, volume, report, .. } => self.group_report(side, volume, report),
            Event::Letter { side, volume, letter, .. } => {
                self.thread(side, volume, |thread| thread.letters.push_back(letter));
            }
            Event::Turn { side, volume, .. } => self.turn(side, volume),
            Event::Durable { side, .. } => self.durable_part_done(side),
            Event::Exit { side, .. } => self.end_process(side, false),
            Event::DiskDone { side, volume, io, .. } => self.disk_done(side, volume, io),
            Event::Request { side, volume, id, operation, .. } => {
                let request = super::process::Incoming::Request(id, operation);
                self.thread(side, volume, |thread| thread.requests.push_back(request));
            }
            Event::ClientLeft { side, volume, client, .. } => {
                let gone = super::process::Incoming::Gone(client);
                self.thread(side, volume, |thread| thread.requests.push_back(gone));
            }
            Event::Think { host } => self.think(host),
            Event::Burst { length } => self.burst(length),
            Event::Fault { index } => self.fault(index),
            Event::Action { action } => self.inject(*action),
            Event::Thaw { side, .. } => self.thaw(side),
            Event::HealAll => self.heal_all(),
            Event::Look => {
                self.check_answered();
                self.after(LOOK_EVERY, Event::Look);
            }
            Event::Closing => self.closing(),
        }
    }

    /// Hands something to a volume's thread and wakes it.
    fn thread(&mut self, side: Side, volume: usize, hand: impl FnOnce(&mut VolumeThread)) {
        let process = self.nodes[side].process.as_mut().expect("events of the dead are dropped");
        hand(process.volumes[volume].as_mut().expect("no turn is under way"));
        self.wake(side, volume);
    }

    /// Starts the node's process, if it does not run.
    pub(super) fn start(&mut self, side: Side) {
        if self.nodes[side].process.is_some() {
            return;
        }
        let incarnation = Incarnation(bytes(&mut self.rng));
        let node = &mut self.nodes[side];
        let input = node.medium.start_input(&self.configs[side], &node.machine, incarnation);
        let start = match assess(&input, self.plan.rules) {
            Ok(start) => start,
            Err(error) => {
                self.report(Finding::liveness(format!("node {side} cannot start: {error}")));
                return;
            }
        };
        self.trace.line(self.now, || {
            format!(
                "{side} starts: {:?} {:?} {:?} {:?}",
                start.record.state, start.record.session, start.record.continuity, start.amnesia
            )
        });
        for reason in &start.amnesia {
            let text = format!("{reason:?}");
            let word = text.split([' ', '{']).next().unwrap_or_default().to_owned();
            self.coverage.count("amnesia", word);
        }
        let bad_slots = start.amnesia.contains(&Amnesia::BadSlots);
        if bad_slots && !node.slot_damaged {
            let text = format!("node {side} finds slots damaged that nobody damaged");
            self.report(Finding::order(text));
            return;
        }
        if bad_slots {
            // Whatever its copy has: it is not the source of a join.
            self.history.hit(side);
        }
        node.life += 1;
        node.unserved_since = self.now;
        let plan = node.medium.plan().expect("there is a record");
        let group = Group::new(self.now, self.configs[side].clone(), start);
        let volumes = (0..self.plan.volumes.len())
            .map(|index| Some(Box::new(VolumeThread::new(&self.configs[side], index))))
            .collect();
        node.process = Some(Process::new(group, volumes, plan));
        self.drain_group(side);
        for host in 0..self.hosts.len() {
            if self.hosts[host].side == side {
                self.wake_host(host);
            }
        }
    }

    /// The process is gone; the kernel closes its sockets unless the machine is gone, too.
    pub(super) fn end_process(&mut self, side: Side, silently: bool) {
        if self.nodes[side].process.is_none() {
            return;
        }
        // Where there is no word of it, that is not covered (docs/INVARIANTS.md, D11).
        let told = self.nodes[side].machine.tells_of_failing();
        let fails = told && self.is_flush_failing(side);
        if fails {
            self.history.lost(side);
            self.coverage.count("disk", "flush failed as the process ended");
        }
        self.end_job(side, fails);
        self.nodes[side].process = None;
        self.trace.line(self.now, || format!("{side} is gone (silently {silently})"));
        let node = &mut self.nodes[side];
        node.life += 1;
        node.frozen = false;
        node.deferred.clear();
        node.freeze_in_turn = None;
        node.hung = None;
        for disk in &mut node.disks {
            disk.kill(fails && disk.faults.flush.is_some(), &mut self.rng);
        }
        self.open[side] = None;
        self.close_all_ends(side, silently);
        for host in 0..self.hosts.len() {
            if self.hosts[host].side == side {
                self.hosts[host].disconnected();
                self.wake_host(host);
            }
        }
    }

    /// What a durable job was doing may have been done, in memory only, or have failed.
    fn end_job(&mut self, side: Side, flush_fails: bool) {
        let node = &mut self.nodes[side];
        let Some(job) = node.process.as_mut().and_then(|process| process.job.take()) else {
            return;
        };
        match job.steps.front() {
            Some(DurableStep::SyncData(volume)) => {
                let disk = &mut node.disks[usize::from(volume.0)];
                if flush_fails && disk.faults.flush.is_some() {
                    let _ = disk.sync(&mut self.rng);
                }
            }
            Some(DurableStep::WriteStamp(volume, stamp)) if self.rng.random_bool(0.5) => {
                let volume = usize::from(volume.0);
                node.machine.unsynced_stamps[volume] = Some(stamp.encode(0));
            }
            _ => {}
        }
    }

    /// Whether data is being flushed, by a volume or a durable job, that will be lost.
    pub(super) fn is_flush_failing(&self, side: Side) -> bool {
        let node = &self.nodes[side];
        let job = node.process.as_ref().and_then(|process| process.job.as_ref());
        let synced = match job.and_then(|job| job.steps.front()) {
            Some(DurableStep::SyncData(volume)) => Some(usize::from(volume.0)),
            _ => None,
        };
        synced.is_some_and(|volume| node.disks[volume].faults.flush.is_some())
            || node.disks.iter().any(|disk| disk.is_flush_failing())
    }

    /// The machine loses power: whatever was volatile is gone.
    pub(super) fn cut_power(&mut self, side: Side) {
        let node = &mut self.nodes[side];
        let lost = node.disks.iter().any(|disk| !disk.is_flushed());
        if let Some(write) = node
            .process
            .as_mut()
            .and_then(|process| process.job.as_mut())
            .and_then(|job| job.parts.pop_front())
        {
            node.medium.tear(&write, &mut self.rng);
            // With one place left a torn slot is damage (PROTOCOL 2.2).
            node.slot_damaged |= matches!(write, MediumWrite::Record { to, .. } if to.single);
        }
        self.end_process(side, true);
        let node = &mut self.nodes[side];
        for disk in &mut node.disks {
            disk.cut_power(&mut self.rng);
        }
        for (volume, stamp) in node.machine.unsynced_stamps.iter().enumerate() {
            if stamp.is_some() && self.rng.random_bool(0.5) {
                node.medium.stamps[volume] = *stamp;
            }
        }
        node.machine.reboot(BootId(bytes(&mut self.rng)));
        let stopped = self.durable_record(side).is_some_and(|record| record.clean);
        if lost || !stopped {
            // Whatever it has by luck: it says of itself that it may lack something.
            self.history.lost(side);
        }
        self.coverage.count("power", if lost { "loses writes" } else { "loses nothing" });
    }

    pub(super) fn is_over(&self) -> bool {
        self.now >= Instant::ZERO + END_AT
    }
}

/// The images that the nodes begin with: the source's may hold something already.
fn initial_images(plan: &Plan, history: &mut History) -> [Vec<Vec<u8>>; 2] {
    let mut images: [Vec<Vec<u8>>; 2] = Default::default();
    for (index, volume) in plan.volumes.iter().enumerate() {
        for side in [0, 1] {
            images[side].push(vec![0; volume.work.size as usize]);
        }
        if let Some(source) = plan.source.filter(|_| plan.adopted) {
            let id = history.adopt(index, volume.work.hot);
            let (start, end) = (volume.work.hot.offset() as usize, volume.work.hot.end() as usize);
            let data = stamped(index, id, volume.work.hot);
            images[source][index][start..end].copy_from_slice(&data);
        }
    }
    images
}

fn new_node(plan: &mut Plan, side: Side, images: &[Vec<u8>]) -> Node {
    let machine_id = MachineId(bytes(&mut plan.rng));
    let boot_id = BootId(bytes(&mut plan.rng));
    let (record, volumes) = plan.initial(side, machine_id);
    let granules = plan.volumes.iter().map(|volume| u64::from(volume.granules[side]));
    let empty = images.iter().map(|image| image.iter().all(|byte| *byte == 0)).collect();
    Node {
        machine: Machine {
            boot_id,
            machine_id,
            run_record_seq: None,
            tells_of_failure: false,
            tells_of_late_disk: false,
            unsynced_stamps: vec![None; images.len()],
            empty,
        },
        medium: Medium::fresh(&record, &volumes),
        disks: images.iter().zip(granules).map(|(i, g)| DataDisk::new(i.clone(), g)).collect(),
        life: 0,
        process: None,
        frozen: false,
        unserved_since: Instant::ZERO,
        deferred: Vec::new(),
        freeze_in_turn: None,
        snapshot: None,
        stash: None,
        slot_damaged: false,
        bad_places: [false; 2],
        slowness: 1,
        hung: None,
        record_seq: 0,
        record_session: 0,
    }
}
