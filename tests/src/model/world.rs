//! Two nodes' group cores, a witness, and all that lies between them: every transition is a call of
//! a core with something that has happened, and the carrying out of what it answers.
//!
//! What stands for a volume here answers at once and holds one value: the data of the pair.
//! Not here: which transitions there are (`steps`), what must hold (`check`).

use std::collections::VecDeque;

use base::ids::{
    BootId, ConnNonce, DiskId, Generation, Incarnation, MachineId, NodeName, PairId, Session,
    Ticket, VolumeId, VolumeIndex, WitnessToken,
};
use base::limits::Timers;
use base::range::ByteRange;
use base::rules::Rules;
use base::time::Duration;
use control_plane::arbitration::renumber::{NOW, Renumber};
use control_plane::arbitration::{
    Action, AskedIds, Group, GroupConfig, Health, Message, State, WitnessEvent, WitnessWish,
};
use control_plane::polarization::{DurableDone, DurableStep, GroupVolume};
use control_plane::record::{
    Continuity, NodeRecord, PlaceRead, RecordState, SlotRead, Stamp, StartInput, VolumeFound,
    VolumeHeader, Vote, assess,
};
use datapath::port::{Scope, VolumeCommand, VolumeReport};
use witness::wire::Verdict;

use super::steps::Step;

/// 0 or 1: the node with the smaller name, or the other.
pub type Side = usize;

/// What may still go wrong, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// The control connection breaks.
    pub breaks: u8,
    /// A node finds its peer's disk stuck, while the connection lives.
    pub stuck: u8,
    /// A process ends.
    pub crashes: u8,
    /// A machine loses power.
    pub powers: u8,
    /// The witness begins another run.
    pub witness_restarts: u8,
    /// A node loses the witness, and finds it again.
    pub witness_cuts: u8,
    /// A node is stopped.
    pub stops: u8,
    /// A write of a node's disk fails.
    pub disk_failures: u8,
    /// A node finds itself unhealthy.
    pub unhealthy: u8,
    /// Values that hosts write.
    pub writes: u8,
    /// Clocks run, and grants count.
    pub timed: bool,
    /// Messages that move votes may come twice.
    pub repeats: u8,
    /// Volumes leave a session some time after they were told to.
    pub slow_volumes: bool,
    /// Jobs become durable some time after they were asked for.
    pub slow: bool,
}

/// What a volume does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Volume {
    /// Nothing.
    Idle,
    /// Serves alone.
    Alone(Session),
    /// A target is attached; whether it is equal.
    Source(Session, bool),
    /// Is being made equal.
    Target(Session),
    /// In a session.
    Member(Session),
}

/// What a volume says when it has left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Report {
    /// Nothing more is said in it.
    Left(Session),
    /// Nothing more is written in it.
    Quiet(Session),
}

/// What a node's machine keeps without its process.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    /// In both places.
    pub record: NodeRecord,
    /// Of the one volume.
    pub header: VolumeHeader,
    /// With its data.
    pub stamp: Stamp,
    /// In the page cache; none is a half-made copy.
    pub value: Option<u8>,
    /// What is left of it after a power cut.
    pub durable: Option<u8>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// What outlives the process.
    pub disk: Disk,
    /// The core of its process.
    pub group: Option<Group>,
    /// What the volume does.
    pub volume: Volume,
    /// Boots of its machine.
    pub boot: u8,
    /// Starts of its process.
    pub starts: u8,
    /// The control connection as this node knows it.
    pub end: Option<ConnNonce>,
    /// Asked for, and not durable.
    pub job: Option<(Ticket, Vec<DurableStep>)>,
    /// What its volume has not said yet.
    pub reports: VecDeque<Report>,
    /// Wishes on their way to the witness.
    pub asks: VecDeque<WitnessWish>,
    /// On their way from the witness.
    pub answers: VecDeque<WitnessEvent>,
    /// The token that its PINGs ask about.
    pub watched: Option<WitnessToken>,
    /// What the last PING said.
    pub told: Option<WitnessEvent>,
    /// Its health as it has told the peer on this connection.
    pub told_health: Option<Health>,
    /// Its way to the witness is open.
    pub sees_witness: bool,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// The nodes.
    pub nodes: [Node; 2],
    /// Under way to each node, oldest first.
    pub wires: [VecDeque<(ConnNonce, Message)>; 2],
    /// Copies that come some time, in no order.
    pub strays: [Option<Message>; 2],
    /// Names the next control connection.
    pub next_conn: u8,
    /// Tokens of this run of the witness, and who has won them.
    pub tokens: Vec<(u8, Option<Side>)>,
    /// Names the next token.
    pub next_token: u8,
    /// What may still go wrong.
    pub budget: Budget,
    /// A write was under way when the connection broke.
    pub half_written: bool,
    /// By how many ticks the first node's clock is ahead.
    pub skew: u8,
    /// The newest value that a host knows to be written.
    pub floor: u8,
    /// What the next write writes.
    pub next_value: u8,
}

/// More than a fresh pair needs.
const STEPS_TO_SESSION: usize = 300;

/// A step of a clock.
pub const TICK: Duration = Duration::from_millis(1);

/// Grants last one tick; a silent peer is found out by the end of the connection only.
pub const TIMED: Timers =
    Timers { grant_interval: Duration::from_millis(2), grant_ttl: TICK, drift_ppm: 0, ..UNTIMED };

/// A node's name.
pub fn name(side: Side) -> NodeName {
    ["a", "b"][side].parse().expect("a name")
}

/// Grants need no time here: reads are not looked at.
pub const UNTIMED: Timers = Timers {
    grant_interval: Duration::from_secs(1000),
    grant_ttl: Duration::ZERO,
    suspect_after: Duration::from_secs(1001),
    io_timeout: Duration::from_secs(1002),
    hold: Duration::from_secs(1003),
    alive: Duration::from_secs(1004),
    drift_ppm: 2000,
    claim_delay: Duration::ZERO,
    unhealthy_delay: Duration::ZERO,
    probe: Duration::ZERO,
};

fn config(side: Side, timers: Timers, rules: Rules) -> GroupConfig {
    GroupConfig {
        node: name(side),
        peer: name(1 - side),
        pair_id: PairId([1; 16]),
        witness: "w".parse().expect("a name"),
        volumes: vec![GroupVolume {
            name: "v".parse().expect("a name"),
            id: VolumeId([2; 16]),
            size: 4096,
            path: String::new(),
            granule_bytes: 512,
            trim_zeroes: true,
        }],
        timers,
        rules,
    }
}

fn fresh_disk(side: Side) -> Disk {
    let (volume_id, disk_id) = (VolumeId([2; 16]), DiskId([3 + side as u8; 16]));
    let generation = Generation([1; 16]);
    let ids = std::iter::once((volume_id, disk_id));
    let mut votes = [Vote::default(); 2];
    votes[side].held = true;
    let record = NodeRecord {
        pair_id: PairId([1; 16]),
        node: name(side),
        volumes_digest: control_plane::record::assess::volumes_digest(ids),
        record_seq: 1,
        start_seq: 1,
        session: Session(0),
        votes,
        witness_won: false,
        witness_token: None,
        state: RecordState::Virgin,
        continuity: Continuity::Continuous,
        by_reset: false,
        session_boot_id: BootId([1; 16]),
        generation,
        ancestors: Vec::new(),
        boot_id: BootId([1; 16]),
        machine_id: MachineId([5 + side as u8; 16]),
        vm_generation_id: [0; 16],
        incarnation: Incarnation([0; 16]),
        clean: false,
        io_failed: false,
        single: false,
        source: false,
        forced: false,
        solo_io_count: 0,
        grant_ttl_max_ms: 0,
        drift_ppm: 0,
        preferred: Some(name(0)),
        config_seq: 1,
    };
    let header = VolumeHeader {
        header_seq: 1,
        volume_id,
        disk_id,
        peer_disk_id: DiskId::NONE,
        bitmap_base: generation,
        next_generation: generation,
        round: 1,
        peer_round: 0,
        start_seq: 1,
        size: 4096,
        diskseq: 0,
    };
    let stamp = Stamp { volume_id, disk_id, generation, round: 1 };
    Disk { record, header, stamp, value: Some(0), durable: Some(0) }
}

impl World {
    /// Two nodes that were only just initialised, and stopped.
    pub fn new(budget: Budget) -> Self {
        let node = |side| Node {
            disk: fresh_disk(side),
            group: None,
            volume: Volume::Idle,
            boot: 1,
            starts: 0,
            end: None,
            job: None,
            reports: VecDeque::new(),
            asks: VecDeque::new(),
            answers: VecDeque::new(),
            watched: None,
            told: None,
            told_health: None,
            sees_witness: true,
        };
        Self {
            nodes: [node(0), node(1)],
            wires: [VecDeque::new(), VecDeque::new()],
            strays: [None, None],
            next_conn: 1,
            tokens: Vec::new(),
            next_token: 1,
            budget,
            half_written: false,
            skew: 0,
            floor: 0,
            next_value: 1,
        }
    }

    /// Both started, joined, and asked the witness for a token; then `budget` may be spent.
    pub fn in_session(budget: Budget, rules: Rules) -> Self {
        let timed = budget.timed;
        let mut world = Self::new(Budget { timed, ..Budget::default() });
        [0, 1].into_iter().for_each(|side| world.start(side, rules));
        for _ in 0..STEPS_TO_SESSION {
            let steps = world.steps();
            let Some(step) = steps.into_iter().find(|step| !matches!(step, Step::Tick(_))) else {
                break;
            };
            world.take(step, rules);
        }
        world.budget = budget;
        world
    }

    /// The message that a step delivers.
    pub fn next_message(&self, step: Step) -> Option<String> {
        let Step::Deliver(side) = step else { return None };
        self.wires[side].front().map(|(_, message)| format!("{message:?}"))
    }

    /// What matters of a node, in a line.
    pub fn describe(&self, side: Side) -> String {
        let node = &self.nodes[side];
        let record = &node.disk.record;
        let votes = record.votes.map(|vote| (vote.held, vote.transfers));
        format!(
            "{:?} {:?} record {:?} {:?} {:?} votes {votes:?} won {} value {:?}",
            self.state(side),
            node.volume,
            record.session,
            record.state,
            record.continuity,
            record.witness_won,
            node.disk.value
        )
    }

    /// From here on the cores go by these rules.
    pub fn set_rules(&mut self, rules: Rules) {
        for node in &mut self.nodes {
            node.group.iter_mut().for_each(|group| group.set_rules(rules));
        }
    }

    /// A node's state, while its process runs.
    pub fn state(&self, side: Side) -> Option<State> {
        self.nodes[side].group.as_ref().map(Group::state)
    }

    /// Starts a node's process.
    pub fn start(&mut self, side: Side, rules: Rules) {
        let node = &mut self.nodes[side];
        node.starts += 1;
        let slot = || SlotRead::Valid(Box::new(node.disk.record.clone()));
        let input = StartInput {
            node: name(side),
            places: std::array::from_fn(|_| PlaceRead::Slots([slot(), slot()])),
            volumes: vec![VolumeFound {
                id: VolumeId([2; 16]),
                path: String::new(),
                size: 4096,
                header: Ok(node.disk.header),
                stamp: Ok(node.disk.stamp),
                empty: false,
                diskseq: 0,
            }],
            boot_id: BootId([node.boot; 16]),
            machine_id: MachineId([5 + side as u8; 16]),
            vm_generation_id: [0; 16],
            incarnation: Incarnation([node.starts; 16]),
            run_record_seq: None,
            run_tells_of_failure: false,
        };
        let start = assess(&input, rules).expect("there is a record");
        assert!(start.amnesia.is_empty(), "nothing is lost here: {:?}", start.amnesia);
        let timers = if self.budget.timed { TIMED } else { UNTIMED };
        let group = Group::new(NOW, config(side, timers, rules), start);
        node.group = Some(group);
        node.volume = Volume::Idle;
        node.told = None;
        self.drain(side);
        if self.nodes[side].sees_witness {
            self.call(side, |group| {
                group.handle_witness(NOW, WitnessEvent::Up { stable: true });
            });
        }
    }

    /// The process is gone. The peer's end of the connection is found out later.
    pub fn kill(&mut self, side: Side) {
        let node = &mut self.nodes[side];
        node.group = None;
        node.volume = Volume::Idle;
        node.end = None;
        node.job = None;
        node.reports.clear();
        node.asks.clear();
        node.answers.clear();
        node.watched = None;
        node.told_health = None;
        self.wires[side].clear();
    }

    /// An event for a node's core; then all that follows at that node.
    pub fn call(&mut self, side: Side, event: impl FnOnce(&mut Group)) {
        let Some(group) = &mut self.nodes[side].group else { return };
        event(group);
        self.drain(side);
    }

    fn drain(&mut self, side: Side) {
        loop {
            let Some(group) = &mut self.nodes[side].group else { return };
            let Some(action) = group.poll_action() else { return };
            self.carry_out(side, action);
        }
    }

    fn carry_out(&mut self, side: Side, action: Action) {
        match action {
            Action::SendControl { conn_nonce, message } => {
                // Without time a sign of life says nothing but the sender's health.
                if let Message::GrantReq(request) = &*message
                    && self.budget.timed
                {
                    // One is enough.
                    let wire = &self.wires[1 - side];
                    let is_request = |m: &(ConnNonce, Message)| matches!(m.1, Message::GrantReq(_));
                    let same = self.nodes[side].told_health.replace(request.health)
                        == Some(request.health);
                    let is_grant = |m: &(ConnNonce, Message)| matches!(m.1, Message::Grant { .. });
                    let pending =
                        wire.iter().any(is_request) || self.wires[side].iter().any(is_grant);
                    let member = self.state(side) == Some(State::Active);
                    if same && (pending || !member) {
                        return;
                    }
                } else if let Message::GrantReq(request) = &*message {
                    let told = self.nodes[side].told_health.replace(request.health);
                    if told == Some(request.health) {
                        return;
                    }
                }
                if self.nodes[1 - side].end == Some(conn_nonce) {
                    self.wires[1 - side].push_back((conn_nonce, *message));
                }
            }
            Action::CloseControl { conn_nonce, .. } => {
                if self.nodes[side].end == Some(conn_nonce) {
                    self.nodes[side].end = None;
                    self.wires[side].clear();
                }
            }
            Action::ConnectData { data_nonce } => {
                if self.is_connected() {
                    for end in [side, 1 - side] {
                        self.report(end, VolumeReport::LinkUp { conn_nonce: data_nonce });
                    }
                }
            }
            Action::Volume(_, command) => self.command(side, command),
            Action::Durable { ticket, steps } => self.make_durable(side, ticket, steps),
            Action::Witness(wish) => self.wish(side, wish),
            Action::PublishGate(_) | Action::Decision(_) | Action::DiskLate(_) => {}
            Action::Stopped => self.kill(side),
        }
    }

    /// Both ends know of the same connection.
    pub fn is_connected(&self) -> bool {
        self.nodes[0].end.is_some() && self.nodes[0].end == self.nodes[1].end
    }

    /// A volume's report reaches its core.
    pub fn report(&mut self, side: Side, report: VolumeReport) {
        self.call(side, |group| group.handle_volume(NOW, VolumeIndex(0), report));
    }

    /// The volume says what it has still to say.
    pub fn say_report(&mut self, side: Side) {
        let report = self.nodes[side].reports.pop_front().expect("there is one");
        let report = match report {
            Report::Left(session) => {
                let uncommitted =
                    if self.half_written { vec![ByteRange::between(0, 512)] } else { Vec::new() };
                VolumeReport::Left { session, uncommitted }
            }
            Report::Quiet(session) => VolumeReport::Quiet { session },
        };
        self.report(side, report);
    }

    fn make_durable(&mut self, side: Side, ticket: Ticket, steps: Vec<DurableStep>) {
        if self.budget.slow {
            self.nodes[side].job = Some((ticket, steps));
        } else {
            self.durable_now(side, ticket, steps);
        }
    }

    /// The job is durable.
    pub fn durable_now(&mut self, side: Side, ticket: Ticket, steps: Vec<DurableStep>) {
        let disk = &mut self.nodes[side].disk;
        for step in steps {
            match step {
                DurableStep::SyncData(_) => disk.durable = disk.value,
                DurableStep::WriteStamp(_, stamp) => disk.stamp = stamp,
                DurableStep::WriteHeader(_, header) => disk.header = header,
                DurableStep::WriteRecord(record) => disk.record = *record,
            }
        }
        self.call(side, |group| {
            group.handle_durable(NOW, ticket, Ok(DurableDone { lost_place: None }));
        });
    }

    fn command(&mut self, side: Side, command: VolumeCommand) {
        let volume = &mut self.nodes[side].volume;
        match command {
            VolumeCommand::Leave { session } => {
                *volume = Volume::Idle;
                self.nodes[side].reports.extend([Report::Left(session), Report::Quiet(session)]);
                while !self.budget.slow_volumes && !self.nodes[side].reports.is_empty() {
                    self.say_report(side);
                }
            }
            VolumeCommand::EnterSolo { session, .. } => {
                *volume = Volume::Alone(session);
                self.report(side, VolumeReport::Entered { session });
            }
            VolumeCommand::Prepare { session, .. } => {
                *volume = Volume::Idle;
                self.report(side, VolumeReport::Prepared { session });
            }
            VolumeCommand::Compare { session, scope, .. } => {
                *volume = Volume::Target(session);
                if scope != Scope::Nothing {
                    self.nodes[side].disk.value = None;
                }
            }
            VolumeCommand::Attach { session, .. } => {
                *volume = Volume::Source(session, false);
                self.copy(side);
            }
            VolumeCommand::Detach { session } => *volume = Volume::Alone(session),
            VolumeCommand::Enter { session, .. } => {
                *volume = Volume::Member(session);
                self.half_written = false;
                self.report(side, VolumeReport::Entered { session });
            }
            VolumeCommand::Drain { session } => {
                self.report(side, VolumeReport::Drained { session });
            }
            VolumeCommand::DiscardHeld
            | VolumeCommand::FailureRecorded
            | VolumeCommand::Shutdown => {}
        }
    }

    /// All blocks of the source reach the target, if it is there.
    fn copy(&mut self, side: Side) {
        let Volume::Source(session, false) = self.nodes[side].volume else { return };
        let target = self.nodes[1 - side].volume == Volume::Target(session);
        if self.is_connected() && target {
            self.nodes[1 - side].disk.value = self.nodes[side].disk.value;
            self.nodes[side].volume = Volume::Source(session, true);
            self.report(side, VolumeReport::Compared { session, copied_bytes: 0 });
        }
    }

    fn wish(&mut self, side: Side, wish: WitnessWish) {
        let node = &mut self.nodes[side];
        match &wish {
            WitnessWish::Note(_) => return,
            WitnessWish::Watch(token) => {
                node.watched = *token;
                node.told = None;
                return;
            }
            WitnessWish::Create(_) => {}
            WitnessWish::Claim(token) => {
                node.watched = Some(*token);
                node.told = None;
            }
        }
        node.asks.retain(|other| std::mem::discriminant(other) != std::mem::discriminant(&wish));
        node.asks.push_back(wish);
    }

    /// What a PING would say of the watched token.
    pub fn ping(&self, side: Side) -> Option<WitnessEvent> {
        let token = self.nodes[side].watched?;
        let found = self.tokens.iter().find(|(number, _)| *number == token.0[0]);
        Some(match found {
            None => WitnessEvent::Unknown(token),
            Some((_, None)) => WitnessEvent::Open(token),
            Some((_, Some(winner))) => WitnessEvent::Decided(token, name(*winner)),
        })
    }

    /// The witness takes a wish; its answer.
    pub fn serve(&mut self, side: Side) -> Option<WitnessEvent> {
        match self.nodes[side].asks.pop_front()? {
            WitnessWish::Create(nonce) => {
                let number = self.next_token;
                self.next_token += 1;
                self.tokens = vec![(number, None)];
                self.nodes[side].watched = Some(WitnessToken([number; 16]));
                self.nodes[side].told = None;
                Some(WitnessEvent::Created(nonce, WitnessToken([number; 16])))
            }
            WitnessWish::Claim(token) => {
                let found = self.tokens.iter_mut().find(|(number, _)| *number == token.0[0]);
                let verdict = match found {
                    None => Verdict::Unknown,
                    Some((_, winner)) => {
                        let winner = *winner.get_or_insert(side);
                        if winner == side {
                            Verdict::Won
                        } else {
                            Verdict::Lost { winner: name(winner) }
                        }
                    }
                };
                Some(WitnessEvent::Verdict(token, verdict))
            }
            WitnessWish::Watch(_) | WitnessWish::Note(_) => None,
        }
    }

    /// Small numbers for everything that only has to differ.
    pub fn renumber(&mut self) {
        let mut names = Renumber::default();
        let mut shifts = [AskedIds::default(); 2];
        for (node, shift) in self.nodes.iter_mut().zip(&mut shifts) {
            names.record(&mut node.disk.record);
            names.header(&mut node.disk.header);
            names.stamp(&mut node.disk.stamp);
            if let Some(group) = &mut node.group {
                *shift = names.group(group);
            }
            if let Some((ticket, steps)) = &mut node.job {
                *ticket = Ticket(0);
                for step in steps {
                    match step {
                        DurableStep::SyncData(_) => {}
                        DurableStep::WriteStamp(_, stamp) => names.stamp(stamp),
                        DurableStep::WriteHeader(_, header) => names.header(header),
                        DurableStep::WriteRecord(record) => names.record(record),
                    }
                }
            }
        }
        for (to, wire) in self.wires.iter_mut().enumerate() {
            for (_, message) in wire {
                names.message(message);
                names.request(message, shifts[1 - to], shifts[to]);
            }
        }
        self.strays.iter_mut().flatten().for_each(|message| names.message(message));
        // A grant that nobody waits for any more does nothing.
        for wire in &mut self.wires {
            wire.retain(|(_, message)| !matches!(message, Message::Grant { id: 0, .. }));
        }
    }
}
