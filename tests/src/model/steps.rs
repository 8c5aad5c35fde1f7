//! The transitions: what may happen next.

use base::ids::ConnNonce;
use base::ids::VolumeIndex;
use base::rules::Rules;
use control_plane::arbitration::renumber::NOW;
use control_plane::arbitration::{Message, Moment, State, WitnessEvent};
use datapath::port::VolumeReport;
use datapath::storage::IoFault;

use super::world::{Side, TICK, Volume, World};

/// One transition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// The oldest message arrives.
    Deliver(Side),
    /// This end learns that the connection is gone.
    Notice(Side),
    /// A control connection comes up.
    Connect,
    /// A timer is due.
    Time(Side),
    /// A job is durable.
    Durable(Side),
    /// A volume reports.
    Report(Side),
    /// The witness takes a wish.
    Witness(Side),
    /// Its answer arrives.
    Answer(Side),
    /// A PING says something new.
    Ping(Side),
    /// A clock goes on.
    Tick(Side),
    /// A process starts.
    Start(Side),
    /// The control connection is gone; neither end knows.
    Break,
    /// A message that moves votes comes again later.
    Repeat(Side),
    /// That copy comes.
    Stray(Side),
    /// A node finds that its peer does not acknowledge.
    Stuck(Side),
    /// A process ends.
    Crash(Side),
    /// A machine loses power.
    Power(Side),
    /// A node is to stop.
    Stop(Side),
    /// A write of a node's disk fails.
    DiskFails(Side),
    /// A node finds itself unhealthy.
    Unhealthy(Side),
    /// The witness begins another run.
    WitnessRestart,
    /// A node loses the witness.
    WitnessCut(Side),
    /// It finds it again.
    WitnessBack(Side),
    /// A host writes.
    Write(Side),
    /// A mirrored write that reaches one node only, and is not acknowledged.
    HalfWrite(Side, Side),
}

impl Step {
    /// Whether it is a fault, or a wish of somebody outside: not counted on for liveness.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Deliver(_)
            | Self::Notice(_)
            | Self::Connect
            | Self::Time(_)
            | Self::Durable(_)
            | Self::Report(_)
            | Self::Witness(_)
            | Self::Answer(_)
            | Self::Tick(_)
            | Self::Ping(_)
            | Self::WitnessBack(_)
            | Self::Start(_) => false,
            Self::Break
            | Self::Repeat(_)
            | Self::Stray(_)
            | Self::Stuck(_)
            | Self::Crash(_)
            | Self::Power(_)
            | Self::Stop(_)
            | Self::DiskFails(_)
            | Self::Unhealthy(_)
            | Self::WitnessRestart
            | Self::WitnessCut(_)
            | Self::Write(_)
            | Self::HalfWrite(..) => true,
        }
    }
}

impl World {
    /// Everything that may happen next.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let budget = self.budget;
        for side in [0, 1] {
            let node = &self.nodes[side];
            let Some(group) = &node.group else {
                steps.push(Step::Start(side));
                continue;
            };
            if node.end.is_some() && !self.wires[side].is_empty() {
                steps.push(Step::Deliver(side));
            }
            if node.end.is_some() && !self.is_connected() {
                steps.push(Step::Notice(side));
            }
            if !node.reports.is_empty() {
                steps.push(Step::Report(side));
            }
            if node.job.is_some() {
                steps.push(Step::Durable(side));
            }
            if group.next_deadline().is_some_and(|at| at <= NOW.time) {
                steps.push(Step::Time(side));
            }
            if node.sees_witness && !node.asks.is_empty() {
                steps.push(Step::Witness(side));
            }
            if node.sees_witness && !node.answers.is_empty() {
                steps.push(Step::Answer(side));
            }
            if node.sees_witness && self.ping(side).is_some() && self.ping(side) != node.told {
                steps.push(Step::Ping(side));
            }
            if !node.sees_witness {
                steps.push(Step::WitnessBack(side));
            }
            self.faults_of(side, &mut steps);
        }
        if budget.timed {
            steps.push(Step::Tick(usize::from(self.skew)));
        }
        let free = |side: Side| self.nodes[side].group.is_some() && self.nodes[side].end.is_none();
        let wants = self.nodes[0].group.as_ref().is_some_and(|group| group.wants_control());
        if free(0) && free(1) && wants {
            steps.push(Step::Connect);
        }
        if budget.breaks > 0 && self.is_connected() {
            steps.push(Step::Break);
        }
        if budget.witness_restarts > 0 && !self.tokens.is_empty() {
            steps.push(Step::WitnessRestart);
        }
        steps
    }

    fn faults_of(&self, side: Side, steps: &mut Vec<Step>) {
        let budget = self.budget;
        let node = &self.nodes[side];
        let state = self.state(side).expect("it runs");
        if budget.crashes > 0 {
            steps.push(Step::Crash(side));
        }
        let moves = |(_, message): &(ConnNonce, Message)| matches!(message, Message::Give(_));
        if budget.repeats > 0 && self.wires[side].front().is_some_and(moves) {
            steps.push(Step::Repeat(side));
        }
        if self.strays[side].is_some() && node.end.is_some() {
            steps.push(Step::Stray(side));
        }
        if budget.stuck > 0 && state == State::Active {
            steps.push(Step::Stuck(side));
        }
        if budget.powers > 0 {
            steps.push(Step::Power(side));
        }
        if budget.stops > 0 {
            steps.push(Step::Stop(side));
        }
        if budget.disk_failures > 0 && node.volume != Volume::Idle {
            steps.push(Step::DiskFails(side));
        }
        if budget.unhealthy > 0 && state == State::Active {
            steps.push(Step::Unhealthy(side));
        }
        if budget.witness_cuts > 0 && node.sees_witness {
            steps.push(Step::WitnessCut(side));
        }
        if self.next_value <= budget.writes {
            if self.may_write_alone(side) || self.may_write_both(side) {
                steps.push(Step::Write(side));
            }
            if self.may_write_both(side) {
                steps.push(Step::HalfWrite(side, 0));
                steps.push(Step::HalfWrite(side, 1));
            }
        }
    }

    fn is_open(&self, side: Side) -> bool {
        let group = self.nodes[side].group.as_ref();
        group.is_some_and(|group| !group.read_right().until.has_ended(NOW))
    }

    fn may_write_alone(&self, side: Side) -> bool {
        let alone = match self.nodes[side].volume {
            Volume::Alone(_) | Volume::Source(_, false) => true,
            Volume::Source(_, true) | Volume::Idle | Volume::Target(_) | Volume::Member(_) => false,
        };
        alone && self.is_open(side)
    }

    fn may_write_both(&self, side: Side) -> bool {
        let session = match self.nodes[side].volume {
            Volume::Source(session, true) | Volume::Member(session) => session,
            _ => return false,
        };
        let peer = match self.nodes[1 - side].volume {
            Volume::Source(other, true) | Volume::Member(other) | Volume::Target(other) => other,
            _ => return false,
        };
        let ordered = self.state(side) == Some(State::Active)
            || matches!(self.nodes[side].volume, Volume::Source(..) | Volume::Member(_));
        session == peer && self.is_connected() && ordered && self.serves_or_orders(side)
    }

    fn serves_or_orders(&self, side: Side) -> bool {
        matches!(self.state(side), Some(State::Active | State::Source)) && {
            // Untimed: every member has its grant.
            self.is_open(side) || self.state(side) == Some(State::Active)
        }
    }

    /// What follows; panics of a core are for the caller.
    pub fn take(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Deliver(side) => {
                let (nonce, message) = self.wires[side].pop_front().expect("one is there");
                self.call(side, |group| group.handle_control(NOW, nonce, message));
            }
            Step::Notice(side) => self.notice(side),
            Step::Connect => self.connect(),
            Step::Time(side) => self.call(side, |group| group.handle_time(NOW)),
            Step::Durable(side) => {
                let (ticket, steps) = self.nodes[side].job.take().expect("one is under way");
                self.durable_now(side, ticket, steps);
            }
            Step::Witness(side) => {
                if let Some(event) = self.serve(side) {
                    self.nodes[side].answers.push_back(event);
                }
            }
            Step::Answer(side) => {
                let event = self.nodes[side].answers.pop_front().expect("one is there");
                self.call(side, |group| group.handle_witness(NOW, event));
            }
            Step::Tick(side) => self.tick(side),
            Step::Ping(side) => {
                if let Some(event) = self.ping(side) {
                    self.nodes[side].told = Some(event.clone());
                    self.call(side, |group| group.handle_witness(NOW, event));
                }
            }
            Step::Start(side) => self.start(side, rules),
            Step::Break => {
                self.budget.breaks -= 1;
                self.break_link();
            }
            Step::Report(side) => self.say_report(side),
            Step::Repeat(side) => {
                self.budget.repeats -= 1;
                let (_, copy) = self.wires[side].front().cloned().expect("one is there");
                self.strays[side] = Some(copy);
            }
            Step::Stray(side) => {
                let message = self.strays[side].take().expect("one is under way");
                let nonce = whole(self.nodes[side].end.expect("a connection is up"));
                self.call(side, |group| group.handle_control(NOW, nonce, message));
            }
            Step::Stuck(side) => {
                self.budget.stuck -= 1;
                let session = self.nodes[side].disk.record.session;
                self.report(side, VolumeReport::PeerStuck { session, waited_ms: 2000 });
            }
            Step::Crash(side) => {
                self.budget.crashes -= 1;
                self.kill(side);
            }
            Step::Power(side) => {
                self.budget.powers -= 1;
                self.power(side);
            }
            Step::Stop(side) => {
                self.budget.stops -= 1;
                self.call(side, |group| group.handle_stop(NOW));
            }
            Step::DiskFails(side) => {
                self.budget.disk_failures -= 1;
                let fault = IoFault::System(5);
                let report = VolumeReport::DiskFailed { fault, operation: "write" };
                self.call(side, |group| group.handle_volume(NOW, VolumeIndex(0), report));
            }
            Step::Unhealthy(side) => {
                self.budget.unhealthy -= 1;
                self.call(side, |group| group.handle_health(NOW, true, false));
            }
            Step::WitnessRestart => {
                self.budget.witness_restarts -= 1;
                self.tokens.clear();
            }
            Step::WitnessCut(side) => {
                self.budget.witness_cuts -= 1;
                self.nodes[side].sees_witness = false;
                self.nodes[side].asks.clear();
                self.nodes[side].answers.clear();
                self.nodes[side].told = None;
                self.call(side, |group| group.handle_witness(NOW, WitnessEvent::Lost));
            }
            Step::WitnessBack(side) => {
                self.nodes[side].sees_witness = true;
                let up = WitnessEvent::Up { stable: true };
                self.call(side, |group| group.handle_witness(NOW, up));
            }
            Step::Write(side) => self.write(side),
            Step::HalfWrite(_, reaches) => {
                self.nodes[reaches].disk.value = Some(self.next_value);
                self.half_written = true;
                self.next_value += 1;
                self.break_link();
            }
        }
        self.renumber();
    }

    fn write(&mut self, side: Side) {
        let value = self.next_value;
        self.next_value += 1;
        if self.may_write_both(side) {
            self.nodes[1 - side].disk.value = Some(value);
        }
        self.nodes[side].disk.value = Some(value);
        self.floor = value;
    }

    /// A node's clock goes on, whether the node runs or not.
    fn tick(&mut self, side: Side) {
        self.skew = 1 - self.skew;
        let later = Moment { time: NOW.time + TICK, raw: NOW.raw + TICK };
        self.call(side, |group| group.handle_time(later));
    }

    fn connect(&mut self) {
        let nonce = ConnNonce([self.next_conn; 16]);
        self.next_conn = 3 - self.next_conn;
        for side in [0, 1] {
            self.nodes[side].end = Some(nonce);
            self.nodes[side].told_health = None;
        }
        for side in [0, 1] {
            self.call(side, |group| group.handle_control_up(NOW, nonce));
        }
    }

    /// Neither end knows yet. What is under way may still arrive.
    fn break_link(&mut self) {
        // The later end has another number from here on: what it sends goes nowhere.
        for side in [0, 1] {
            self.nodes[side].end = self.nodes[side].end.map(|nonce| broken(nonce, side));
        }
    }

    fn notice(&mut self, side: Side) {
        let Some(nonce) = self.nodes[side].end.take() else { return };
        self.wires[side].clear();
        let nonce = whole(nonce);
        self.call(side, |group| group.handle_control_lost(NOW, nonce, "it is gone"));
    }

    /// The machine loses power: of its cache nothing is left.
    fn power(&mut self, side: Side) {
        self.kill(side);
        let record = &self.nodes[side].disk.record;
        let alone = matches!(record.state, control_plane::record::RecordState::Solo);
        let disk = &mut self.nodes[side].disk;
        disk.value = disk.durable;
        let left = disk.value.unwrap_or(self.floor);
        if alone || self.is_only_copy_lost(side) {
            self.floor = self.floor.min(left);
        }
        self.nodes[side].boot += 1;
        self.nodes[side].disk.header.diskseq = 0;
    }

    /// Both nodes of the session have lost power: what neither made durable is gone.
    fn is_only_copy_lost(&self, side: Side) -> bool {
        let other = &self.nodes[1 - side];
        let same = other.disk.record.session == self.nodes[side].disk.record.session;
        let unclean = other.disk.record.session_boot_id != base::ids::BootId([other.boot; 16]);
        same && unclean && other.disk.value.is_none_or(|value| value < self.floor)
    }
}

/// A connection that is gone has its number of both ends apart.
fn broken(nonce: ConnNonce, side: Side) -> ConnNonce {
    let mut bytes = nonce.0;
    bytes[15] = 0x80 | u8::try_from(side).expect("0 or 1");
    ConnNonce(bytes)
}

fn whole(nonce: ConnNonce) -> ConnNonce {
    ConnNonce([nonce.0[0]; 16])
}
