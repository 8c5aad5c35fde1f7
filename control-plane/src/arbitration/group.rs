//! The group core: one owner of state, session, votes, connection and record of a node.
//!
//! Not here: what follows from an event is in one file for each concern; what is due after it, and
//! in which order, in `settle`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use base::ids::{ConnNonce, Incarnation, NodeName, Session, Ticket, VolumeIndex, WitnessToken};
use base::limits::Timers;
use base::time::Instant;
use datapath::port::{VolumeCommand, VolumeReport};

use super::claim::Claim;
use super::durable::Job;
use super::failure::Failure;
use super::grant::{Grants, Moment, ReadRight, Serving};
use super::hand_off::{HandOff, Stop};
use super::join::Join;
use super::leave::Leaving;
use super::link::Link;
use super::message::{Give, Health, Message};
use super::mode::TokenMove;
use super::port::{Action, Decision, WitnessEvent};
use super::state::State;
use super::timers::{Timer, TimerTable};
use super::vote::GiveWish;
use crate::polarization::{DurableDone, DurableFault, GroupVolume};
use crate::record::{NodeRecord, Stamp, StartState, VolumeHeader};
use base::ids::PairId;
use base::rules::Rules;
use datapath::port::Scope;

/// What a group is built with.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupConfig {
    /// This node.
    pub node: NodeName,
    /// The other one.
    pub peer: NodeName,
    /// The pair.
    pub pair_id: PairId,
    /// The witness in use.
    pub witness: NodeName,
    /// The volumes, in the order of the pair configuration.
    pub volumes: Vec<GroupVolume>,
    /// The timers.
    pub timers: Timers,
    /// Which rules hold.
    pub rules: Rules,
}

impl GroupConfig {
    /// Whether this node dials every peer connection (CONTRACT: the smaller name does).
    pub fn dials(&self) -> bool {
        self.node < self.peer
    }
}

/// What is under way with the peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Phase {
    /// Nothing, or a session (`State::Active`).
    Idle,
    /// A session is being made.
    Joining(Join),
    /// A session or a join was left; not all volumes have said so.
    Leaving(Leaving),
}

/// The group core of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    pub(super) config: Arc<GroupConfig>,
    pub(super) state: State,
    /// As it is durable.
    pub(super) record: NodeRecord,
    /// As they are durable.
    pub(super) headers: Vec<VolumeHeader>,
    /// What is new and empty, as found at the start.
    pub(super) empty: Vec<bool>,
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
    pub(super) lost_place: Option<String>,
    pub(super) link: Option<Link>,
    /// A second connection that has not yet said who it is.
    pub(super) offered: Option<Link>,
    pub(super) phase: Phase,
    /// The highest session that this process has seen, also an unfinished one.
    pub(super) session_seen: Session,
    /// The session that `unquiet` is about.
    pub(super) left_session: Session,
    /// Volumes that have not answered Leave with Quiet.
    pub(super) unquiet: BTreeSet<VolumeIndex>,
    /// The session of before was left with nothing uncommitted here, in this process.
    pub(super) left_equal: bool,
    /// Volumes that do not serve alone yet.
    pub(super) awaiting_solo: BTreeSet<VolumeIndex>,
    /// The volumes serve alone.
    pub(super) is_open_alone: bool,
    /// The session that volumes which serve alone speak of.
    pub(super) alone_session: Session,
    /// The session in which this very process became active (2.5.3).
    pub(super) member_of: Option<Session>,
    /// It made the running session.
    pub(super) is_orderer: bool,
    /// No read of the session is answered any more.
    pub(super) is_gate_dropped: bool,
    /// It holds both votes, but reads by its grant alone (T1).
    pub(super) is_narrowed: bool,
    pub(super) serving_as: Serving,
    pub(super) right: ReadRight,
    pub(super) grants: Grants,
    /// The peer serves nothing any more in the record's session.
    pub(super) peer_stopped: bool,
    pub(super) has_said_stopped: bool,
    /// The peer lost as much as this node did (dual power loss).
    pub(super) peer_unclean_too: bool,
    pub(super) giving: Option<GiveWish>,
    /// Received and not yet in the record, oldest first.
    pub(super) taking: VecDeque<Give>,
    /// Votes that came back: not given again before the peer's situation has changed.
    pub(super) returned: [bool; 2],
    pub(super) claim: Claim,
    /// The token of the last vote that was won.
    pub(super) claimed: Option<WitnessToken>,
    pub(super) witness_stable: bool,
    /// The witness does not know the record's token.
    pub(super) is_token_unknown: bool,
    pub(super) has_asked_to_lend: bool,
    pub(super) token_move: TokenMove,
    pub(super) hand_off: HandOff,
    /// HANDOFF_OK was said in this session.
    pub(super) has_answered_handoff: bool,
    /// SYNC_START came; the session of before is not over yet.
    pub(super) starting: Option<(Session, Scope, u64)>,
    pub(super) stop: Stop,
    pub(super) health: Health,
    pub(super) peer_health: Health,
    /// Held requests were discarded and no session was entered since.
    pub(super) discarded: bool,
    pub(super) clock: Moment,
    pub(super) timers: TimerTable,
    pub(super) ask_due: bool,
    pub(super) actions: VecDeque<Action>,
}

impl Group {
    /// A node that has just started.
    pub fn new(now: Moment, config: GroupConfig, start: StartState) -> Self {
        assert_eq!(config.volumes.len(), start.volumes.len(), "one start state per volume");
        let mut timers = TimerTable::EMPTY;
        timers.set(Timer::Hold, now.time + config.timers.hold);
        let mut group = Self {
            state: State::Starting,
            session_seen: start.record.session,
            record_seq_used: start.record.record_seq,
            header_seq_used: start.volumes.iter().map(|v| v.header.header_seq).collect(),
            headers: start.volumes.iter().map(|v| v.header).collect(),
            start_stamps: start.volumes.iter().map(|v| v.stamp).collect(),
            empty: start.volumes.iter().map(|v| v.empty).collect(),
            record: start.record,
            config: Arc::new(config),
            started: false,
            next_ticket: 0,
            job: None,
            failure: None,
            lost_place: None,
            link: None,
            offered: None,
            phase: Phase::Idle,
            left_session: Session(0),
            unquiet: BTreeSet::new(),
            left_equal: false,
            awaiting_solo: BTreeSet::new(),
            is_open_alone: false,
            alone_session: Session(0),
            member_of: None,
            is_orderer: false,
            is_gate_dropped: false,
            is_narrowed: false,
            serving_as: Serving::Nobody,
            right: ReadRight::NONE,
            grants: Grants::new(Moment::ZERO),
            peer_stopped: false,
            has_said_stopped: false,
            peer_unclean_too: false,
            giving: None,
            taking: VecDeque::new(),
            returned: [false, false],
            claim: Claim::None,
            claimed: None,
            witness_stable: false,
            is_token_unknown: false,
            has_asked_to_lend: false,
            token_move: TokenMove::Idle,
            hand_off: HandOff::No,
            has_answered_handoff: false,
            starting: None,
            stop: Stop::No,
            health: Health::default(),
            peer_health: Health::default(),
            discarded: false,
            clock: now,
            timers,
            ask_due: false,
            actions: VecDeque::new(),
        };
        group.promise_at_start();
        group.submit_start();
        group
    }

    /// A control connection is up. The dialling node drew `conn_nonce`; the other one takes it
    /// from the first frame that it receives.
    pub fn handle_control_up(&mut self, now: Moment, conn_nonce: ConnNonce) {
        self.observe(now);
        let link = Link::new(conn_nonce, now.time);
        if self.stop == Stop::Done {
            self.close_control(conn_nonce, "this node is stopping");
        } else if self.link.is_none() {
            self.adopt(link);
        } else if let Some(older) = self.offered.replace(link) {
            self.close_control(older.nonce, "a newer connection was offered");
        }
        self.settle();
    }

    /// A control connection ended or broke a rule.
    pub fn handle_control_lost(&mut self, now: Moment, conn_nonce: ConnNonce, why: &str) {
        self.observe(now);
        if self.offered.as_ref().is_some_and(|link| link.nonce == conn_nonce) {
            self.offered = None;
        }
        if self.is_current(conn_nonce) {
            let text = format!("the connection to {} was lost: {why}", self.config.peer);
            self.lose_link(&text);
        }
        self.settle();
    }

    /// A message of the peer.
    pub fn handle_control(&mut self, now: Moment, conn_nonce: ConnNonce, message: Message) {
        self.observe(now);
        if self.offered.as_ref().is_some_and(|link| link.nonce == conn_nonce) {
            self.judge_offer(&message);
        }
        if self.is_current(conn_nonce) {
            if let Some(link) = &mut self.link {
                link.heard = now.time;
                self.timers.set(Timer::Suspect, now.time + self.config.timers.suspect_after);
            }
            self.on_message(message);
        }
        self.settle();
    }

    /// A volume reports.
    pub fn handle_volume(&mut self, now: Moment, volume: VolumeIndex, report: VolumeReport) {
        assert!(usize::from(volume.0) < self.headers.len(), "a report of one of our volumes");
        self.observe(now);
        if self.stop != Stop::Done {
            self.on_report(volume, report);
            self.settle();
        }
    }

    /// A durable job ended.
    pub fn handle_durable(
        &mut self,
        now: Moment,
        ticket: Ticket,
        result: Result<DurableDone, DurableFault>,
    ) {
        self.observe(now);
        self.on_durable(ticket, result);
        self.settle();
    }

    /// The witness client reports.
    pub fn handle_witness(&mut self, now: Moment, event: WitnessEvent) {
        self.observe(now);
        self.on_witness(event);
        self.settle();
    }

    /// What bears on who should serve has changed.
    pub fn handle_health(&mut self, now: Moment, unhealthy: bool, has_host: bool) {
        self.observe(now);
        let health = Health { unhealthy, has_host, ..self.health };
        self.ask_due |= health != self.health;
        self.health = health;
        self.settle();
    }

    /// The node is to stop, cleanly if it can.
    pub fn handle_stop(&mut self, now: Moment) {
        self.observe(now);
        if self.stop == Stop::No {
            self.stop = Stop::Requested;
            self.timers.set(Timer::StopBy, now.time + self.timings().io_timeout * 4);
        }
        self.settle();
    }

    /// Time passed; called at `next_deadline`, after all received input was handed in.
    pub fn handle_time(&mut self, now: Moment) {
        self.observe(now);
        while let Some(timer) = self.timers.take_due(now.time) {
            self.fire(timer);
        }
        self.settle();
    }

    /// The next thing for the shell to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `handle_time` is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether the dialling shell is to dial.
    pub fn wants_control(&self) -> bool {
        self.config.dials()
            && self.link.is_none()
            && self.offered.is_none()
            && self.stop != Stop::Done
    }

    /// The control connection in use.
    pub fn conn_nonce(&self) -> Option<ConnNonce> {
        self.link.as_ref().map(|link| link.nonce)
    }

    /// This process, as the peer knows it.
    pub fn incarnation(&self) -> Incarnation {
        self.record.incarnation
    }

    /// The node's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The record as it is durable, as far as this process knows.
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// The right that was published last.
    pub fn read_right(&self) -> ReadRight {
        self.right
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

    pub(super) fn timings(&self) -> Timers {
        self.config.timers
    }

    fn is_current(&self, conn_nonce: ConnNonce) -> bool {
        self.conn_nonce() == Some(conn_nonce)
    }

    /// The session under way, else the last one.
    pub(super) fn session(&self) -> Session {
        match &self.phase {
            Phase::Idle => self.record.session,
            Phase::Joining(join) => join.session,
            Phase::Leaving(leaving) => leaving.session,
        }
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
        self.ask_due = true;
        tracing::info!(node = %self.config.node, ?from, ?to, %session, "{why}");
        let why = why.to_owned();
        self.actions.push_back(Action::Decision(Decision { from, to, session, why }));
    }

    /// Before each event: a node that was away itself does not blame its peer (2.4).
    fn observe(&mut self, now: Moment) {
        let timers = self.timings();
        let pause = now.time.since(self.clock.time);
        if pause > timers.grant_interval * 2 && self.link.is_some() {
            self.timers.set(Timer::Suspect, now.time + timers.suspect_after);
        }
        self.clock =
            Moment { time: self.clock.time.max(now.time), raw: self.clock.raw.max(now.raw) };
    }
}
