//! Two group cores, the smallest network, disks and volumes that they can stand on.
//!
//! A volume's data is one number: the last write. Cached and durable data differ until a flush, so
//! a machine crash shows what was lost. Volumes answer at once, but through the same queues as
//! real ones; jobs can be cut off by a crash between any two steps.

use std::collections::{BTreeMap, VecDeque};

use base::ids::{
    BootId, ConnNonce, DiskId, Generation, Incarnation, MachineId, NodeName, PairId, Session,
    Ticket, VolumeId, VolumeIndex,
};
use base::limits::Timers;
use base::rules::Rules;
use base::time::{Duration, Instant};
use datapath::gate::Gate;
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};
use datapath::storage::IoFault;

use crate::polarization::{
    Action, Decision, DurableDone, DurableFault, DurableStep, Group, GroupConfig, GroupView,
    GroupVolume,
};
use crate::record::assess::volumes_digest;
use crate::record::{
    Continuity, NodeRecord, PlaceRead, RecordState, SlotRead, Stamp, StartInput, VolumeFound,
    VolumeHeader, Vote, assess,
};
use crate::state_word::StateWord;
use crate::wire::ControlMessage;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
/// Units of the nodes' direct I/O.
const GRANULES: [u32; 2] = [512, 4096];

/// What survives a crash of the machine, and the cache that does not.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) record: NodeRecord,
    pub(super) volumes: Vec<DiskVolume>,
}

#[derive(Clone, Debug)]
pub(super) struct DiskVolume {
    pub(super) header: VolumeHeader,
    pub(super) stamp: Result<Stamp, String>,
    pub(super) cached: u64,
    pub(super) durable: u64,
    pub(super) empty: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FakeVolume {
    link: Option<ConnNonce>,
    pub(super) comparing: Option<(Session, SyncRole)>,
    pub(super) session: Option<(Session, Role)>,
    pub(super) discarded: bool,
    pub(super) failure_recorded: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) group: Option<Group>,
    pub(super) disk: Disk,
    pub(super) volumes: Vec<FakeVolume>,
    reports: VecDeque<(VolumeIndex, VolumeReport)>,
    pub(super) job: Option<(Ticket, Vec<DurableStep>)>,
    pub(super) gate: Gate,
    boot: u8,
    /// The mark below /run.
    pub(super) disk_late: bool,
    incarnation: u8,
    pub(super) ended: bool,
    /// The next write of a stamp, header or record fails.
    pub(super) fail_step: Option<DurableStepKind>,
    /// A durable job does not end.
    pub(super) hung: bool,
    /// It is stopped: nothing of it runs.
    pub(super) asleep: bool,
    /// Every durable step so far, by name.
    pub(super) steps: Vec<String>,
    /// Every transition so far.
    pub(super) decisions: Vec<Decision>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DurableStepKind {
    Data,
    Record,
}

#[derive(Debug)]
struct Connection {
    nonce: ConnNonce,
    /// Messages to a and to b.
    queues: [VecDeque<ControlMessage>; 2],
    open: [bool; 2],
    known: [bool; 2],
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    connections: Vec<Connection>,
    nonces: u64,
    /// Messages get through; else they wait, as TCP's do.
    pub(super) net_up: bool,
    pub(super) sent: Vec<(usize, ControlMessage)>,
    pub(super) last_write: u64,
    /// Highest write acknowledged before a FLUSH that was answered.
    pub(super) flushed: Vec<u64>,
    pub(super) acknowledged: Vec<u64>,
    pub(super) compared: Vec<Scope>,
}

pub(super) fn name(node: usize) -> NodeName {
    ["a", "b"][node].parse().expect("a name")
}

fn fresh_disk(node: usize, volumes: usize, source: bool, empty: bool) -> Disk {
    let generation = Generation([10 + node as u8; 16]);
    let headers: Vec<VolumeHeader> = (0..volumes)
        .map(|i| VolumeHeader {
            header_seq: 1,
            volume_id: VolumeId([i as u8 + 1; 16]),
            disk_id: DiskId([100 + 10 * node as u8 + i as u8; 16]),
            peer_disk_id: DiskId::NONE,
            bitmap_base: generation,
            next_generation: generation,
            round: 0,
            peer_round: 0,
            start_seq: 0,
            size: 1 << 20,
            diskseq: 0,
        })
        .collect();
    let record = NodeRecord {
        pair_id: PairId([9; 16]),
        node: name(node),
        volumes_digest: volumes_digest(headers.iter().map(|h| (h.volume_id, h.disk_id))),
        record_seq: 2,
        start_seq: 0,
        session: Session(0),
        votes: [Vote::default(); 2],
        witness_won: false,
        witness_token: None,
        state: RecordState::Virgin,
        continuity: Continuity::Continuous,
        by_reset: false,
        session_boot_id: BootId::NONE,
        generation,
        ancestors: Vec::new(),
        boot_id: BootId::NONE,
        machine_id: MachineId([node as u8 + 1; 16]),
        vm_generation_id: [0; 16],
        incarnation: Incarnation::NONE,
        clean: false,
        io_failed: false,
        single: false,
        source,
        forced: false,
        solo_io_count: 0,
        grant_ttl_max_ms: 0,
        drift_ppm: 0,
        preferred: None,
        config_seq: 1,
    };
    let volumes = headers
        .into_iter()
        .map(|header| DiskVolume {
            stamp: Ok(Stamp {
                volume_id: header.volume_id,
                disk_id: header.disk_id,
                generation,
                round: 0,
            }),
            header,
            cached: 0,
            durable: 0,
            empty,
        })
        .collect();
    Disk { record, volumes }
}

impl World {
    /// Two nodes that were initialised, not started.
    pub(super) fn new(volumes: usize, source: Option<usize>, empty: bool) -> Self {
        let node = |node: usize| Node {
            group: None,
            disk: fresh_disk(node, volumes, source == Some(node), empty),
            volumes: vec![FakeVolume::default(); volumes],
            reports: VecDeque::new(),
            job: None,
            gate: Gate::CLOSED,
            boot: 1,
            disk_late: false,
            incarnation: 0,
            ended: false,
            fail_step: None,
            hung: false,
            asleep: false,
            steps: Vec::new(),
            decisions: Vec::new(),
        };
        Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: [node(A), node(B)],
            connections: Vec::new(),
            nonces: 0,
            net_up: true,
            sent: Vec::new(),
            last_write: 0,
            flushed: vec![0; volumes],
            acknowledged: vec![0; volumes],
            compared: Vec::new(),
        }
    }

    /// Both nodes serve.
    pub(super) fn active(volumes: usize) -> Self {
        let mut world = Self::new(volumes, None, false);
        world.start(A);
        world.start(B);
        world.run();
        world.expect_active();
        world
    }

    pub(super) fn start(&mut self, node: usize) {
        let rules = Rules::ALL_HOLD;
        let n = &mut self.nodes[node];
        assert!(n.group.is_none(), "a node runs once");
        n.incarnation += 1;
        let slot = || SlotRead::Valid(Box::new(n.disk.record.clone()));
        let found = n.disk.volumes.iter().map(|v| VolumeFound {
            id: v.header.volume_id,
            path: format!("{}/vol.img", name(node)),
            size: v.header.size,
            header: Ok(v.header),
            stamp: v.stamp.clone(),
            empty: v.empty,
            diskseq: 0,
        });
        let input = StartInput {
            node: name(node),
            places: [PlaceRead::Slots([slot(), slot()]), PlaceRead::Slots([slot(), slot()])],
            volumes: found.collect(),
            boot_id: BootId([n.boot; 16]),
            machine_id: MachineId([node as u8 + 1; 16]),
            vm_generation_id: [0; 16],
            incarnation: Incarnation([n.incarnation; 16]),
            run_record_seq: None,
            run_tells_of_failure: n.disk_late,
        };
        let start = assess(&input, rules).expect("the record is there");
        let volumes = start.volumes.iter().enumerate().map(|(i, v)| GroupVolume {
            name: format!("vol{i}").parse().expect("a name"),
            id: v.header.volume_id,
            size: v.header.size,
            path: v.path.clone(),
            granule_bytes: GRANULES[node],
            trim_zeroes: true,
        });
        let config = GroupConfig {
            node: name(node),
            peer: name(1 - node),
            pair_id: PairId([9; 16]),
            volumes: volumes.collect(),
            timers: Timers::DEFAULT,
            rules,
        };
        n.ended = false;
        n.gate = Gate::CLOSED;
        n.volumes.fill(FakeVolume::default());
        n.group = Some(Group::new(self.now, config, start));
        self.drain(node);
    }

    pub(super) fn view(&self, node: usize) -> GroupView {
        self.nodes[node].group.as_ref().expect("it runs").view(self.now)
    }

    pub(super) fn group(&self, node: usize) -> &Group {
        self.nodes[node].group.as_ref().expect("it runs")
    }

    pub(super) fn feed(&mut self, node: usize, event: impl FnOnce(&mut Group, Instant)) {
        let now = self.now;
        if let Some(group) = &mut self.nodes[node].group {
            event(group, now);
            self.drain(node);
        }
    }

    pub(super) fn stop(&mut self, node: usize) {
        self.feed(node, |group, now| group.handle_stop(now));
    }

    /// The process ends at once; the job under way has got as far as `steps` of its steps.
    pub(super) fn kill(&mut self, node: usize, steps: usize) {
        if let Some((_, job)) = self.nodes[node].job.take() {
            for step in job.into_iter().take(steps) {
                if self.execute(node, step).is_err() {
                    break;
                }
            }
        }
        let n = &mut self.nodes[node];
        n.group = None;
        n.reports.clear();
        n.gate = Gate::CLOSED;
        for connection in &mut self.connections {
            connection.open[node] = false;
            connection.queues[node].clear();
        }
    }

    /// The machine loses power.
    pub(super) fn power_cut(&mut self, node: usize, steps: usize) {
        self.kill(node, steps);
        let n = &mut self.nodes[node];
        n.boot += 1;
        n.disk_late = false;
        for volume in &mut n.disk.volumes {
            volume.cached = volume.durable;
        }
    }

    /// Every connection ends at once on both sides.
    pub(super) fn reset_connections(&mut self) {
        if !self.net_up {
            return;
        }
        for connection in &mut self.connections {
            connection.open = [false; 2];
            connection.queues.iter_mut().for_each(VecDeque::clear);
        }
        self.notice_closed();
    }

    /// A host writes through a node that serves; `None` if it cannot be acknowledged now.
    pub(super) fn write(&mut self, node: usize, volume: usize, flush: bool) -> Option<u64> {
        let open = self.nodes[node].gate.usable(self.now) && self.nodes[node].group.is_some();
        let session = |n: &Node| n.volumes[volume].session.map(|(session, _)| session);
        let both = session(&self.nodes[A]).is_some()
            && session(&self.nodes[A]) == session(&self.nodes[B])
            && self.nodes.iter().all(|n| n.group.is_some());
        if !open || !both || !self.net_up {
            return None;
        }
        self.last_write += 1;
        for n in &mut self.nodes {
            n.disk.volumes[volume].cached = self.last_write;
            n.disk.volumes[volume].empty = false;
            if flush {
                n.disk.volumes[volume].durable = self.last_write;
            }
        }
        self.acknowledged[volume] = self.last_write;
        if flush {
            self.flushed[volume] = self.last_write;
        }
        Some(self.last_write)
    }

    /// One thing happens, if there is one to happen. `pick` chooses among what is possible.
    pub(super) fn step(&mut self, pick: usize) -> bool {
        self.dial();
        self.notice_closed();
        let mut possible: Vec<Event> = Vec::new();
        for node in self.awake() {
            if self.nodes[node].job.is_some() && !self.nodes[node].hung {
                possible.push(Event::Job(node));
            }
            if !self.nodes[node].reports.is_empty() {
                possible.push(Event::Report(node));
            }
            for (index, connection) in self.connections.iter().enumerate() {
                if self.net_up && !connection.queues[node].is_empty() {
                    possible.push(Event::Message(node, index));
                }
            }
        }
        if possible.is_empty() {
            return false;
        }
        match possible[pick % possible.len()] {
            Event::Job(node) => self.finish_job(node),
            Event::Report(node) => {
                let (volume, report) = self.nodes[node].reports.pop_front().expect("not empty");
                self.feed(node, |group, now| group.handle_volume(now, volume, report));
            }
            Event::Message(node, index) => self.deliver(node, index),
        }
        self.check();
        true
    }

    /// Until nothing is left to happen at this moment.
    pub(super) fn run(&mut self) {
        for turn in 0..100_000 {
            if !self.step(turn) {
                return;
            }
        }
        panic!("the two nodes never come to rest");
    }

    /// Lets time pass, in steps in which both nodes get to run.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            for node in self.awake() {
                let now = self.now;
                let due = self.nodes[node].group.as_ref().and_then(Group::next_deadline);
                if due.is_some_and(|at| at <= now) {
                    self.feed(node, |group, now| group.handle_time(now));
                }
            }
            self.run();
        }
    }

    pub(super) fn expect_active(&self) {
        for node in [A, B] {
            let view = self.view(node);
            assert_eq!(view.state, StateWord::ActiveActive, "{node}: {view:?}");
            assert!(view.serving && view.cause.is_empty(), "{view:?}");
        }
        let (a, b) = (&self.nodes[A].disk, &self.nodes[B].disk);
        for (v, w) in a.volumes.iter().zip(&b.volumes) {
            assert_eq!(v.cached, w.cached, "the copies are equal");
        }
    }

    pub(super) fn messages(&self, kind: &str) -> usize {
        self.sent.iter().filter(|(_, message)| message.name() == kind).count()
    }

    fn awake(&self) -> Vec<usize> {
        [A, B].into_iter().filter(|node| !self.nodes[*node].asleep).collect()
    }

    fn dial(&mut self) {
        let wants = self.nodes[A].group.as_ref().is_some_and(Group::wants_control);
        let there = self.nodes[B].group.is_some() && !self.nodes[B].ended;
        if !wants || !there || !self.net_up {
            return;
        }
        self.nonces += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonces.to_le_bytes());
        let nonce = ConnNonce(nonce);
        let queues = [VecDeque::new(), VecDeque::new()];
        let known = [true, false];
        self.connections.push(Connection { nonce, queues, open: [true; 2], known });
        self.feed(A, |group, now| group.handle_control_up(now, nonce));
    }

    fn deliver(&mut self, node: usize, index: usize) {
        let connection = &mut self.connections[index];
        let message = connection.queues[node].pop_front().expect("not empty");
        let nonce = connection.nonce;
        if !connection.open[node] {
            return;
        }
        if !std::mem::replace(&mut connection.known[node], true) {
            self.feed(node, |group, now| group.handle_control_up(now, nonce));
        }
        self.feed(node, |group, now| group.handle_control(now, nonce, message));
    }

    /// A side that has closed is seen by the other when it has read what came before.
    fn notice_closed(&mut self) {
        for node in self.awake() {
            for index in 0..self.connections.len() {
                let connection = &mut self.connections[index];
                let gone = !connection.open[1 - node] && connection.queues[node].is_empty();
                if connection.known[node] && gone && self.net_up {
                    connection.known[node] = false;
                    connection.open[node] = false;
                    let nonce = connection.nonce;
                    self.feed(node, |group, now| group.handle_control_lost(now, nonce, "closed"));
                }
            }
        }
        self.connections.retain(|c| c.open.contains(&true) || c.known.contains(&true));
    }

    fn drain(&mut self, node: usize) {
        loop {
            let Some(group) = &mut self.nodes[node].group else { return };
            let Some(action) = group.poll_action() else { return };
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::SendControl { conn_nonce, message } => {
                self.sent.push((node, message.clone()));
                let connection = self.connections.iter_mut().find(|c| c.nonce == conn_nonce);
                let connection = connection.expect("a message goes to a connection that was up");
                if connection.open == [true; 2] {
                    connection.queues[1 - node].push_back(message);
                }
            }
            Action::CloseControl { conn_nonce, .. } => {
                let mut all = self.connections.iter_mut();
                let connection = all.find(|c| c.nonce == conn_nonce).expect("it was up");
                assert!(connection.open[node], "a connection is closed once");
                connection.open[node] = false;
                connection.known[node] = false;
                connection.queues[node].clear();
            }
            Action::DiskLate(late) => self.nodes[node].disk_late = late,
            Action::ConnectData { conn_nonce } => {
                assert_eq!(node, A, "the node with the smaller name dials");
                for n in &mut self.nodes {
                    for (index, volume) in n.volumes.iter_mut().enumerate() {
                        volume.link = Some(conn_nonce);
                        let index = VolumeIndex(index as u16);
                        n.reports.push_back((index, VolumeReport::LinkUp { conn_nonce }));
                    }
                }
            }
            Action::Volume(volume, command) => self.command(node, volume, command),
            Action::Durable { ticket, steps } => {
                let n = &mut self.nodes[node];
                assert!(n.job.is_none(), "one job at a time");
                n.job = Some((ticket, steps));
            }
            Action::PublishGate(gate) => {
                assert!(gate.serve_gen >= self.nodes[node].gate.serve_gen);
                self.nodes[node].gate = gate;
            }
            Action::Decision(decision) => self.nodes[node].decisions.push(decision),
            Action::Stopped => {
                self.kill(node, 0);
                self.nodes[node].ended = true;
            }
        }
    }

    fn command(&mut self, node: usize, volume: VolumeIndex, command: VolumeCommand) {
        let index = usize::from(volume.0);
        let serving = self.nodes[node].gate.usable(self.now);
        let fake = &mut self.nodes[node].volumes[index];
        let mut reports = Vec::new();
        match command {
            VolumeCommand::Prepare { session, .. } => {
                assert!(fake.session.is_none() && fake.comparing.is_none(), "it left before");
                reports.push(VolumeReport::Prepared { session });
            }
            VolumeCommand::Compare { session, role, scope, .. } => {
                fake.comparing = Some((session, role));
                if role == SyncRole::Source && self.compare(node, index, session, scope) {
                    reports.push(VolumeReport::Compared { session, copied_bytes: 0 });
                }
            }
            VolumeCommand::Enter { session, role, granule_bytes, .. } => {
                assert_eq!(granule_bytes, GRANULES[0].max(GRANULES[1]), "W9: the larger at both");
                assert!(!serving, "a volume enters before the gate opens");
                fake.comparing = None;
                fake.session = Some((session, role));
                fake.discarded = false;
                reports.push(VolumeReport::Entered { session });
            }
            VolumeCommand::EnterSolo { session, .. }
            | VolumeCommand::Attach { session, .. }
            | VolumeCommand::Detach { session } => {
                panic!("nobody serves alone: session {session:?}");
            }
            VolumeCommand::Leave { session } => {
                assert!(!serving, "I7: the gate is closed before a volume leaves");
                fake.session = None;
                fake.comparing = None;
                reports.push(VolumeReport::Left { session, uncommitted: Vec::new() });
                reports.push(VolumeReport::Quiet { session });
            }
            VolumeCommand::DiscardHeld => fake.discarded = true,
            VolumeCommand::Drain { session } => reports.push(VolumeReport::Drained { session }),
            VolumeCommand::FailureRecorded => {
                assert!(self.nodes[node].disk.record.io_failed, "W8: the record comes first");
                self.nodes[node].volumes[index].failure_recorded = true;
            }
            VolumeCommand::Shutdown => {}
        }
        self.nodes[node].reports.extend(reports.into_iter().map(|report| (volume, report)));
    }

    /// The comparison itself: what differs is copied from the source. It does not end if the
    /// target is gone.
    fn compare(&mut self, source: usize, volume: usize, session: Session, scope: Scope) -> bool {
        let target = 1 - source;
        let expected = Some((session, SyncRole::Target));
        if self.nodes[target].volumes[volume].comparing != expected {
            return false;
        }
        self.compared.push(scope);
        let right = self.nodes[source].disk.volumes[volume].cached;
        match scope {
            Scope::Nothing => {
                let there = self.nodes[target].disk.volumes[volume].cached;
                assert_eq!(there, right, "nothing to compare only where nothing differs");
            }
            Scope::Everything | Scope::Rewrite => {
                let record = self.nodes[target].disk.record.state;
                assert!(matches!(record, RecordState::Target { .. }), "P6: F5 before the copy");
                let durable = self.nodes[source].disk.volumes[volume].durable;
                assert_eq!(durable, right, "F6: the source flushes before it sends");
                self.nodes[target].disk.volumes[volume].cached = right;
            }
        }
        true
    }

    fn finish_job(&mut self, node: usize) {
        let (ticket, steps) = self.nodes[node].job.take().expect("a job is under way");
        let mut result = Ok(DurableDone::default());
        for step in steps {
            if let Err(fault) = self.execute(node, step) {
                result = Err(fault);
                break;
            }
        }
        self.feed(node, |group, now| group.handle_durable(now, ticket, result));
    }

    fn execute(&mut self, node: usize, step: DurableStep) -> Result<(), DurableFault> {
        let n = &mut self.nodes[node];
        let kind = match step {
            DurableStep::SyncData(_) => Some(DurableStepKind::Data),
            DurableStep::WriteRecord(_) => Some(DurableStepKind::Record),
            DurableStep::WriteStamp(..) | DurableStep::WriteHeader(..) => None,
        };
        if kind.is_some() && n.fail_step == kind {
            n.fail_step = None;
            let volume = (kind == Some(DurableStepKind::Data)).then_some(VolumeIndex(0));
            let (operation, path) = ("flush the data", "x/vol.img".to_owned());
            return Err(DurableFault { volume, operation, path, fault: IoFault::System(5) });
        }
        let volumes = &mut n.disk.volumes;
        match step {
            DurableStep::SyncData(v) => {
                let volume = &mut volumes[usize::from(v.0)];
                volume.durable = volume.cached;
                n.steps.push("data".to_owned());
            }
            DurableStep::WriteStamp(v, stamp) => {
                n.steps.push(format!("stamp {}", stamp.round));
                volumes[usize::from(v.0)].stamp = Ok(stamp);
            }
            DurableStep::WriteHeader(v, header) => {
                let volume = &mut volumes[usize::from(v.0)];
                assert!(header.header_seq > volume.header.header_seq, "headers count up");
                n.steps.push(format!("header {}/{}", header.round, header.peer_round));
                volume.header = header;
            }
            DurableStep::WriteRecord(record) => {
                assert!(record.record_seq > n.disk.record.record_seq, "I8: record_seq counts up");
                assert!(record.session >= n.disk.record.session, "I8: sessions never go back");
                n.steps.push(format!("record {:?}", record.state));
                n.disk_late &= !record.io_failed;
                n.disk.record = *record;
            }
        }
        Ok(())
    }

    /// What must hold after each event.
    fn check(&self) {
        let open: BTreeMap<usize, Session> = [A, B]
            .into_iter()
            .filter(|node| self.nodes[*node].gate.usable(self.now))
            .map(|node| (node, self.nodes[node].gate.session))
            .collect();
        for (node, session) in &open {
            let disk = &self.nodes[*node].disk;
            assert_eq!(disk.record.session, *session, "a node serves in its record's session");
            assert_eq!(disk.record.state, RecordState::Active);
            let other = &self.nodes[1 - *node];
            if other.group.is_some() {
                let other_session = open.get(&(1 - *node)).copied().unwrap_or(*session);
                assert_eq!(other_session, *session, "two gates never speak of two sessions");
            }
        }
        let sources = [A, B].into_iter().filter(|node| {
            self.nodes[*node]
                .volumes
                .iter()
                .any(|v| matches!(v.comparing, Some((_, SyncRole::Source))))
        });
        assert!(sources.count() <= 1, "one source per join");
        for node in [A, B].into_iter().filter(|node| self.nodes[*node].group.is_some()) {
            let view = self.view(node);
            let says_why = view.state == StateWord::ActiveActive || !view.cause.is_empty();
            assert!(says_why, "{} without a word: {view:?}", view.state);
        }
    }
}

enum Event {
    Job(usize),
    Report(usize),
    Message(usize, usize),
}
