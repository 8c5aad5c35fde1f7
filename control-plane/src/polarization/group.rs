//! The group core: one owner of state, session, connection and record of a node.
//!
//! Not here: the join (`join`), leaving and the barrier (`leave`), the clean stop (`stop`),
//! durable jobs (`durable`), who is the source (`choose`).

use std::collections::{BTreeSet, VecDeque};

use base::ids::{ConnNonce, Incarnation, Session, Ticket, VolumeIndex};
use base::time::Instant;
use datapath::gate::Gate;
use datapath::port::{Progress, Role, VolumeCommand, VolumeReport};
use datapath::queues::Queue;

use super::durable::{Failure, Job};
use super::join::Join;
use super::leave::Leaving;
use super::link::{Link, PeerReport};
use super::port::{Action, Decision, DurableDone, DurableFault, GroupConfig};
use super::state::State;
use super::stop::{Freeze, Stopping};
use super::timers::{Timer, TimerTable};
use crate::record::{NodeRecord, RecordState, Stamp, StartState, VolumeHeader};
use crate::wire::{ControlMessage, Heartbeat};

/// What is under way with a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing.
    Idle,
    /// A session is being made.
    Joining(Join),
    /// In a session.
    Active {
        session: Session,
        role: Role,
        /// A clean stop has begun.
        freeze: Option<Freeze>,
    },
    /// A session or a join was left; not all volumes have said so.
    Leaving(Leaving),
    /// A frozen session was left; rounds and records follow.
    Stopping(Stopping),
}

/// How far a stop of this node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StopRequest {
    None,
    Requested,
    Done,
}

/// What the group says about itself beyond its state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Situation {
    pub(super) cause: String,
    pub(super) advice: String,
}

/// The group core of one node.
#[derive(Debug)]
pub struct Group {
    pub(super) config: GroupConfig,
    pub(super) state: State,
    /// As it is durable.
    pub(super) record: NodeRecord,
    /// As they are durable.
    pub(super) headers: Vec<VolumeHeader>,
    /// What is new and empty, as found at the start.
    pub(super) empty: Vec<bool>,
    /// What was wrong at the start, until a join has mended it.
    pub(super) start_texts: Vec<String>,
    /// Stamps that F0 makes durable before it raises a header's round.
    pub(super) start_stamps: Vec<Option<Stamp>>,
    /// F0 is durable.
    pub(super) started: bool,
    /// The highest record_seq that may have been written.
    pub(super) record_seq_used: u64,
    /// The highest header_seq of each volume that may have been written.
    pub(super) header_seq_used: Vec<u64>,
    pub(super) next_ticket: u64,
    pub(super) job: Option<Job>,
    pub(super) failure: Option<Failure>,
    /// The disk has been asked for something for longer than T_io (D11).
    pub(super) disk_late: bool,
    pub(super) lost_place: Option<String>,
    pub(super) link: Option<Link>,
    /// A second connection that has not yet said who it is.
    pub(super) offered: Option<Link>,
    pub(super) peer_report: Option<PeerReport>,
    pub(super) phase: Phase,
    /// The highest session that this process has seen, also an unfinished one.
    pub(super) session_seen: Session,
    /// The session that `unquiet` is about.
    pub(super) left_session: Session,
    /// Volumes that have not answered Leave with Quiet.
    pub(super) unquiet: BTreeSet<VolumeIndex>,
    pub(super) progress: Vec<Progress>,
    pub(super) gate: Gate,
    /// Held requests were discarded and no session was entered since.
    pub(super) discarded: bool,
    /// The last time that this process did not run for longer than a silent peer is trusted: since
    /// when, and until when a loss counts from there.
    pub(super) away: Option<(Instant, Instant)>,
    /// What is handed in before may have been received before such a pause: no news of the peer.
    pub(super) caught_up_at: Instant,
    pub(super) timers: TimerTable,
    pub(super) last_turn: Instant,
    pub(super) beat_due: bool,
    pub(super) stop: StopRequest,
    pub(super) situation: Situation,
    /// Why the last session or join was left, until the next session.
    pub(super) left_why: String,
    pub(super) actions: VecDeque<Action>,
}

impl Group {
    /// A node that has just started.
    pub fn new(now: Instant, config: GroupConfig, start: StartState) -> Self {
        assert_eq!(config.volumes.len(), start.volumes.len(), "one start state per volume");
        let mut timers = TimerTable::EMPTY;
        timers.set(Timer::Hold, now + config.timers.hold);
        let mut group = Self {
            state: State::Starting,
            session_seen: start.record.session,
            record_seq_used: start.record.record_seq,
            header_seq_used: start.volumes.iter().map(|v| v.header.header_seq).collect(),
            headers: start.volumes.iter().map(|v| v.header).collect(),
            start_stamps: start.volumes.iter().map(|v| v.stamp).collect(),
            empty: start.volumes.iter().map(|v| v.empty).collect(),
            start_texts: start.texts(),
            progress: vec![Progress::default(); start.volumes.len()],
            record: start.record,
            config,
            started: false,
            next_ticket: 0,
            job: None,
            failure: None,
            disk_late: false,
            lost_place: None,
            link: None,
            offered: None,
            peer_report: None,
            phase: Phase::Idle,
            left_session: Session(0),
            unquiet: BTreeSet::new(),
            gate: Gate::CLOSED,
            discarded: false,
            away: None,
            caught_up_at: Instant::ZERO,
            timers,
            last_turn: now,
            beat_due: false,
            stop: StopRequest::None,
            situation: Situation::default(),
            left_why: String::new(),
            actions: VecDeque::new(),
        };
        let peer = group.config.peer.clone();
        group.explain(
            format!("waiting for node {peer}"),
            &format!(
                "start node {peer} if it does not run; else look at the link between the nodes"
            ),
        );
        group.submit_start();
        group
    }

    /// A control connection is up. The dialling node drew `conn_nonce`; the other one takes it
    /// from the first frame that it receives (the dialling core sends a HEARTBEAT at once).
    pub fn handle_control_up(&mut self, now: Instant, conn_nonce: ConnNonce) {
        self.observe(now);
        let link = Link::new(conn_nonce, now);
        if self.stop == StopRequest::Done {
            self.close_control(conn_nonce, "this node is stopping");
        } else if self.link.is_none() {
            self.adopt(now, link);
        } else if let Some(older) = self.offered.replace(link) {
            self.close_control(older.nonce, "a newer connection was offered");
        }
        self.settle(now);
    }

    /// A control connection ended or broke a rule.
    pub fn handle_control_lost(&mut self, now: Instant, conn_nonce: ConnNonce, why: &str) {
        self.observe(now);
        if self.offered.as_ref().is_some_and(|link| link.nonce == conn_nonce) {
            self.offered = None;
        }
        if self.is_current(conn_nonce) {
            self.forget_link();
            let text = format!("the connection to {} was lost: {why}", self.config.peer);
            self.lose_connection(now, &text);
            self.adopt_offer(now);
        }
        self.settle(now);
    }

    /// A message of the peer.
    pub fn handle_control(&mut self, now: Instant, conn_nonce: ConnNonce, message: ControlMessage) {
        self.observe(now);
        if self.offered.as_ref().is_some_and(|link| link.nonce == conn_nonce) {
            self.judge_offer(now, &message);
        }
        if self.is_current(conn_nonce) {
            self.hear(now);
            self.on_message(now, message);
        }
        self.settle(now);
    }

    /// A volume reports.
    pub fn handle_volume(&mut self, now: Instant, volume: VolumeIndex, report: VolumeReport) {
        assert!(usize::from(volume.0) < self.headers.len(), "a report of one of our volumes");
        self.observe(now);
        if self.stop == StopRequest::Done {
            return;
        }
        self.on_report(now, volume, report);
        self.settle(now);
    }

    /// A durable job ended.
    pub fn handle_durable(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<DurableDone, DurableFault>,
    ) {
        self.observe(now);
        self.on_durable(now, ticket, result);
        self.settle(now);
    }

    /// The node is to stop, cleanly if it can.
    pub fn handle_stop(&mut self, now: Instant) {
        self.observe(now);
        if self.stop == StopRequest::None {
            self.stop = StopRequest::Requested;
            self.timers.set(Timer::StopBy, now + self.timings().io_timeout * 4);
        }
        self.settle(now);
    }

    /// Time passed; called at `next_deadline`, after all received input was handed in.
    pub fn handle_time(&mut self, now: Instant) {
        self.observe(now);
        while let Some(timer) = self.timers.take_due(now) {
            self.fire(now, timer);
        }
        self.settle(now);
    }

    /// The next thing for the shell to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `handle_time` is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether the dialling shell is to dial: no control connection is up and the node is not
    /// stopping.
    pub fn wants_control(&self) -> bool {
        self.config.dials()
            && self.link.is_none()
            && self.offered.is_none()
            && self.stop == StopRequest::None
    }

    /// The control connection whose data connections are welcome.
    pub fn conn_nonce(&self) -> Option<ConnNonce> {
        self.link.as_ref().map(|link| link.nonce)
    }

    /// This process, as the peer knows it.
    pub fn incarnation(&self) -> Incarnation {
        self.record.incarnation
    }

    pub(super) fn volume_indexes(&self) -> impl Iterator<Item = VolumeIndex> + use<> {
        (0..u16::try_from(self.headers.len()).expect("volumes are bounded")).map(VolumeIndex)
    }

    pub(super) fn all_volumes(&self) -> BTreeSet<VolumeIndex> {
        self.volume_indexes().collect()
    }

    pub(super) fn header(&self, volume: VolumeIndex) -> &VolumeHeader {
        &self.headers[usize::from(volume.0)]
    }

    pub(super) fn tell(&mut self, volume: VolumeIndex, command: VolumeCommand) {
        self.actions.push_back(Action::Volume(volume, command));
    }

    pub(super) fn tell_all(&mut self, command: &VolumeCommand) {
        for volume in self.volume_indexes() {
            self.tell(volume, command.clone());
        }
    }

    pub(super) fn send(&mut self, message: ControlMessage) {
        let conn_nonce = self.link.as_ref().expect("a message needs its connection").nonce;
        self.actions.push_back(Action::SendControl { conn_nonce, message });
    }

    fn is_current(&self, conn_nonce: ConnNonce) -> bool {
        self.conn_nonce() == Some(conn_nonce)
    }

    /// The only way to change the state; one log line and one entry of the decision log each.
    pub(super) fn transition(&mut self, to: State, why: &str) {
        let from = self.state;
        if from == to {
            return;
        }
        let session = self.session();
        from.check_edge(to, session, why);
        self.state = to;
        self.beat_due = true;
        let (from, to) = (from.word(), to.word());
        let node = &self.config.node;
        if self.state == State::Broken {
            tracing::error!(%node, from = from.word(), to = to.word(), %session, "{why}");
        } else {
            tracing::info!(%node, from = from.word(), to = to.word(), %session, "{why}");
        }
        let why = why.to_owned();
        self.actions.push_back(Action::Decision(Decision { from, to, session, why }));
    }

    /// What waits here, with what there may be of it after a turn.
    pub fn queues(&self) -> [Queue; 2] {
        let volumes = self.headers.len();
        [
            Queue::of("actions", self.actions.len(), 0),
            Queue::of("volumes that are not quiet", self.unquiet.len(), volumes),
        ]
    }

    pub(super) fn explain(&mut self, cause: String, advice: &str) {
        self.situation = Situation { cause, advice: advice.to_owned() };
    }

    /// The session under way, else the last one.
    pub(super) fn session(&self) -> Session {
        match &self.phase {
            Phase::Idle => self.record.session,
            Phase::Joining(join) => join.session,
            Phase::Active { session, .. } => *session,
            Phase::Leaving(leaving) => leaving.session,
            Phase::Stopping(stopping) => stopping.session,
        }
    }

    /// Before each event: a node that was away itself does not blame its peer (2.4). Everything
    /// that had been received meanwhile is handed in before `handle_time`.
    fn observe(&mut self, now: Instant) {
        let timers = self.timings();
        let pause = now.since(self.last_turn);
        if pause > timers.grant_interval * 2 && self.link.is_some() {
            self.timers.set(Timer::Suspect, now + timers.suspect_after);
        }
        if pause > timers.suspect_after {
            self.away = Some((self.last_turn, now + timers.suspect_after));
            self.caught_up_at = now + timers.grant_interval;
        }
        self.last_turn = self.last_turn.max(now);
    }

    fn hear(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.heard = now;
            self.timers.set(Timer::Suspect, now + self.config.timers.suspect_after);
            if now >= self.caught_up_at {
                self.extend_gate();
            }
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Heartbeat => self.beat_due = true,
            Timer::Suspect => self.on_silence(now),
            Timer::Hold => self.on_hold_over(now),
            Timer::Quiet => self.on_not_quiet(),
            Timer::Flush => self.note_late_disk(),
            Timer::Step => self.on_step_over(now),
            Timer::Retry => self.retry_after_failure(now),
            Timer::StopBy => self.finish_stop(),
        }
    }

    fn on_message(&mut self, now: Instant, message: ControlMessage) {
        if self.is_last_of_left_session(&message) {
            return;
        }
        match message {
            ControlMessage::Hello(hello) => self.on_hello(now, hello),
            ControlMessage::Heartbeat(beat) => self.on_heartbeat(now, beat),
            ControlMessage::Refuse { reason } => self.on_refused(now, &reason),
            ControlMessage::Left { io_failed, why, .. } => self.on_peer_left(now, io_failed, &why),
            ControlMessage::Freeze { session } => self.on_freeze(now, session),
            ControlMessage::FreezeAck { session } => self.on_freeze_ack(now, session),
            ControlMessage::RoundDone { session, rounds } => {
                self.on_round_done(now, session, rounds);
            }
            ControlMessage::DataBind { .. } => {
                self.out_of_turn(now, "DATA_BIND on a control connection");
            }
            ControlMessage::SyncStart { .. }
            | ControlMessage::SyncReady { .. }
            | ControlMessage::SyncDone { .. }
            | ControlMessage::SyncDoneAck { .. }
            | ControlMessage::AaGo { .. }
            | ControlMessage::AaGoAck { .. } => self.on_join_message(now, message),
        }
    }

    /// What the peer said before it knew that this node has left; only the news about the peer
    /// itself is of use.
    fn is_last_of_left_session(&self, message: &ControlMessage) -> bool {
        let Phase::Leaving(leaving) = &self.phase else { return false };
        let dying = leaving.nonce.is_some() && leaving.nonce == self.conn_nonce();
        dying && !matches!(message, ControlMessage::Heartbeat(_))
    }

    fn on_report(&mut self, now: Instant, volume: VolumeIndex, report: VolumeReport) {
        match report {
            VolumeReport::LinkUp { conn_nonce } => {
                if self.is_current(conn_nonce) {
                    self.on_data_link(now, volume);
                }
            }
            VolumeReport::LinkLost { conn_nonce, why } => {
                if self.is_current(conn_nonce) {
                    self.on_data_link_lost(now, volume, &why);
                }
            }
            VolumeReport::Prepared { session }
            | VolumeReport::Compared { session, .. }
            | VolumeReport::Entered { session } => {
                self.on_join_report(now, volume, session, &report);
            }
            VolumeReport::Progress(progress) => {
                let known = &mut self.progress[usize::from(volume.0)];
                if std::mem::replace(known, progress) != progress {
                    self.limit_step();
                }
            }
            VolumeReport::Left { session, .. } => self.on_left(now, volume, session),
            VolumeReport::Quiet { session } => self.on_quiet(now, volume, session),
            VolumeReport::Drained { session } => self.on_drained(now, volume, session),
            VolumeReport::PeerStuck { session, waited_ms } => {
                self.on_peer_stuck(now, volume, session, waited_ms);
            }
            VolumeReport::DiskStuck { session, waited_ms } => {
                self.on_disk_stuck(now, volume, session, waited_ms);
            }
            VolumeReport::CopyFailed { session, .. } => {
                unreachable!("no target is made equal while hosts are served: {session}")
            }
            VolumeReport::PeerDiskFailed { session } => self.on_peer_disk_failed(now, session),
            VolumeReport::DiskFailed { fault, operation } => {
                let path = &self.config.volumes[usize::from(volume.0)].path;
                let text = format!("{path}: {operation} failed: {fault}");
                self.fail(now, Some(volume), text, false);
            }
        }
    }

    fn on_heartbeat(&mut self, now: Instant, beat: Heartbeat) {
        let before = self.peer_report.replace(PeerReport { at: now, beat });
        if beat.io_failed != before.is_some_and(|report| report.beat.io_failed)
            && matches!(self.phase, Phase::Idle)
            && let Some(failure) = &self.failure
        {
            let (cause, advice) = self.failure_texts(failure);
            self.explain(cause, &advice);
        }
        if let Some(link) = &mut self.link {
            let known = *link.peer_incarnation.get_or_insert(beat.incarnation);
            if known != beat.incarnation {
                self.out_of_turn(now, "another process speaks on the connection");
                return;
            }
        }
        let deaf = u128::from(beat.heard_ms) > self.timings().suspect_after.as_millis();
        if deaf {
            let peer = self.config.peer.clone();
            self.leave(now, &format!("{peer} does not hear this node"));
        }
    }

    /// After each event: what is due is done, and what must hold is checked.
    fn settle(&mut self, now: Instant) {
        self.settle_late_disk();
        self.settle_failure(now);
        self.settle_stop(now);
        self.settle_hello(now);
        self.settle_heartbeat(now);
        self.check_invariants();
    }

    fn settle_heartbeat(&mut self, now: Instant) {
        if !self.beat_due {
            return;
        }
        self.beat_due = false;
        let (state, serving) = (self.state_word(now), self.is_serving());
        // A pause of this node itself is no silence of the peer.
        let heard_at = self.timers.at(Timer::Suspect);
        let heard_ms = (now + self.timings().suspect_after).since(heard_at).as_millis();
        let Some(link) = &mut self.link else { return };
        link.beats += 1;
        let beat = Heartbeat {
            id: link.beats,
            incarnation: self.record.incarnation,
            heard_ms: u32::try_from(heard_ms).unwrap_or(u32::MAX),
            state,
            serving,
            io_failed: self.record.io_failed || self.failure.is_some(),
        };
        self.send(ControlMessage::Heartbeat(beat));
        self.timers.set(Timer::Heartbeat, now + self.timings().grant_interval);
    }

    /// Whether hosts are served.
    pub(super) fn is_serving(&self) -> bool {
        self.gate.read_until > Instant::ZERO
    }

    /// Opens the gate: the last step of a join.
    pub(super) fn open_gate(&mut self, session: Session) {
        assert!(!self.is_serving(), "a gate is opened once per session");
        let serve_gen = self.gate.serve_gen + 1;
        let read_until = self.timers.at(Timer::Suspect);
        self.gate = Gate { serve_gen, session, read_until };
        self.actions.push_back(Action::PublishGate(self.gate));
        self.beat_due = true;
    }

    /// Closes it: the first step of leaving.
    pub(super) fn close_gate(&mut self) {
        if !self.is_serving() {
            return;
        }
        let serve_gen = self.gate.serve_gen + 1;
        self.gate = Gate { serve_gen, session: self.gate.session, read_until: Instant::ZERO };
        self.actions.push_back(Action::PublishGate(self.gate));
        self.beat_due = true;
    }

    /// While the peer is heard reads go on; a silent one stops them when it counts as lost.
    fn extend_gate(&mut self) {
        let until = self.timers.at(Timer::Suspect);
        if self.is_serving() && self.gate.read_until != until {
            self.gate.read_until = until;
            self.actions.push_back(Action::PublishGate(self.gate));
        }
    }

    fn check_invariants(&self) {
        if self.config.rules != base::rules::Rules::ALL_HOLD {
            return;
        }
        assert!(self.session_seen >= self.record.session, "I8: sessions never go back");
        assert!(self.record_seq_used >= self.record.record_seq, "I8: record_seq never goes back");
        if self.is_serving() {
            let Phase::Active { session, .. } = &self.phase else {
                panic!("I7: the gate is open outside a session: {:?}", self.phase);
            };
            assert_eq!(self.gate.session, *session, "the gate speaks of the session");
            assert_eq!(self.record.session, *session, "F8: the record is in the session");
            assert_eq!(self.record.state, RecordState::Active, "F8: the record says Active");
        }
        assert!(
            self.state != State::Deciding || self.timers.is_set(Timer::Hold),
            "L5: requests are held against a deadline"
        );
        if let Phase::Joining(join) = &self.phase {
            assert!(join.session >= self.record.session, "I3: a join makes a new session");
            assert!(self.unquiet.is_empty(), "W7: quiet before the next session");
        }
    }
}
