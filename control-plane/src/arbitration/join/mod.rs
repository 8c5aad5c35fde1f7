//! The join: a node that is alone makes its peer's copy equal, and both serve (PROTOCOL 2.8.2).
//!
//! The story, source left and target right; each arrow down waits for what stands above it:
//!
//! 1. Source: it is alone in session s. The record of session s+1 with both votes, F6, SYNC_START.
//! 2. Target: `Prepare`, F5 (record Target), `Compare`, SYNC_READY; the data connections.
//! 3. Source: `Attach`; while it serves, the volumes copy. When all is equal: its rounds, SYNC_DONE.
//!    Target: F7, SYNC_DONE_ACK; it is READY.
//! 4. Source: F8; it counts as active from submitting it on. `Enter`, AA_GO. Target: F8b, `Enter`,
//!    AA_GO_ACK; it serves when it has a grant.
//!
//! A target that is lost before F8 leaves the source alone as it was; after it the source is a node
//! that has left a session and holds both votes.
//! Invariants: I3, I5, P6; the step enum is the only order there is.

mod records;
mod step;

use std::collections::BTreeSet;

use base::ids::{ConnNonce, Session, VolumeIndex};
use base::rules::Rules;
use base::time::Duration;
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};

use super::durable::Purpose;
use super::group::{Group, Phase};
use super::link::data_nonce;
use super::message::{Hello, Message};
use super::port::Action;
use super::state::State;
use super::table::NUMBER_MAX;
use super::timers::Timer;
use crate::record::{Continuity, RecordState};
pub(super) use step::Step;

/// A join that makes no progress for so long is given up.
const STEP_MAX: Duration = Duration::from_secs(120);

/// A session being made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Join {
    pub(super) session: Session,
    pub(super) scope: Scope,
    seed: u64,
    pub(super) step: Step,
    /// Volumes that have not answered the command of this step.
    awaiting: BTreeSet<VolumeIndex>,
    /// The rounds that both nodes have when the session starts.
    rounds: Vec<u64>,
    peer: Box<Hello>,
    /// SYNC_READY came.
    is_target_ready: bool,
}

impl Join {
    /// Whether the source has said AA_GO and gives grants (2.8.2 step 5).
    pub(super) fn has_said_go(&self) -> bool {
        self.step == Step::AwaitAck
    }

    pub(super) fn peer_mut(&mut self) -> &mut Hello {
        &mut self.peer
    }

    fn peer_disk(&self, volume: VolumeIndex) -> base::ids::DiskId {
        self.peer.volumes[usize::from(volume.0)].disk_id
    }

    fn round(&self, volume: VolumeIndex) -> u64 {
        self.rounds[usize::from(volume.0)]
    }

    fn data_nonce(&self, conn: ConnNonce) -> ConnNonce {
        data_nonce(conn, self.session)
    }
}

impl Group {
    /// This node is alone and its peer can be made equal.
    pub(super) fn wish_join(&mut self, scope: Scope) {
        let free = self.state == State::Solo
            && self.phase == Phase::Idle
            && self.awaiting_solo.is_empty()
            && !self.is_handing_off()
            && self.failure.is_none()
            && self.job.is_none()
            && !self.timers.is_set(Timer::HoldOff);
        let Some(peer) = self.peer_hello().cloned() else { return };
        if !free {
            // Judged again when it may be one.
            if let Some(link) = &mut self.link {
                link.is_judged = self.state != State::Solo && self.state != State::Starting;
            }
            return;
        }
        let session = self.record.session.max(self.session_seen).max(peer.session);
        let session = session.max(peer.session_seen).next();
        self.session_seen = session;
        let nonce = self.conn_nonce().expect("a join has its connection");
        let (seed, _) = nonce.0.split_first_chunk::<8>().expect("a nonce has 16 bytes");
        let volumes = self.headers.iter().zip(&peer.volumes);
        let rounds = volumes.map(|(v, w)| v.round.max(w.round) + 1).collect();
        self.phase = Phase::Joining(Join {
            session,
            scope,
            seed: u64::from_le_bytes(*seed) ^ session.0,
            step: Step::Recording,
            awaiting: BTreeSet::new(),
            rounds,
            peer: Box::new(peer),
            is_target_ready: false,
        });
        let why = format!("joining {} in session {session}", self.config.peer);
        self.transition(State::Source, &why);
        self.submit_source();
    }

    /// The peer is alone and begins: this node is its target.
    pub(super) fn on_sync_start(&mut self, session: Session, scope: Scope, seed: u64) {
        let known = self.session_seen.max(self.record.session);
        if session <= known || session.0 >= NUMBER_MAX {
            self.out_of_turn("SYNC_START of an old or impossible session");
            return;
        }
        if matches!(self.state, State::Solo | State::Source | State::Broken | State::Stopped) {
            self.out_of_turn("SYNC_START to a node that serves, or cannot join");
            return;
        }
        if self.state == State::Active {
            self.leave("the peer begins another session");
        }
        self.drop_gate();
        self.starting = Some((session, scope, seed));
    }

    /// Part of `settle`: nothing of an older session is under way any more.
    pub(super) fn settle_start(&mut self) {
        let free = self.has_left()
            && self.is_quiet()
            && self.job.is_none()
            && self.stop == super::hand_off::Stop::No
            && !self.must_wait_after_failure();
        if !free || self.link.is_none() {
            return;
        }
        let Some((session, scope, seed)) = self.starting.take() else { return };
        // Of a node that is alone, and copies what this one needs.
        if self.scope_as_target().is_none_or(|needed| scope < needed) {
            self.out_of_turn("SYNC_START that does not follow from both HELLOs");
            return;
        }
        let Some(peer) = self.peer_hello().cloned() else { return };
        self.giving = None;
        self.taking.clear();
        self.session_seen = session;
        let volumes = self.headers.iter().zip(&peer.volumes);
        let rounds = volumes.map(|(v, w)| v.round.max(w.round) + 1).collect();
        self.phase = Phase::Joining(Join {
            session,
            scope,
            seed,
            step: Step::TargetPreparing,
            awaiting: BTreeSet::new(),
            rounds,
            peer: Box::new(peer),
            is_target_ready: false,
        });
        self.timers.clear(Timer::Claim);
        self.timers.clear(Timer::Promise);
        let why = format!("joining {} in session {session}", self.config.peer);
        self.transition(State::Target, &why);
        self.clear_data_links();
        let role = SyncRole::Target;
        let prepare = VolumeCommand::Prepare { session, role, rewrite: false };
        self.ask(Step::TargetPreparing, &prepare);
    }

    fn clear_data_links(&mut self) {
        if let Some(link) = &mut self.link {
            link.links_up.clear();
        }
    }

    /// Both nodes know of the join: whoever dials connects (W6).
    fn connect_data(&mut self) {
        let Phase::Joining(join) = &self.phase else { return };
        let conn = self.conn_nonce().expect("a join has its connection");
        let data_nonce = join.data_nonce(conn);
        if self.config.dials() {
            self.actions.push_back(Action::ConnectData { data_nonce });
        }
    }

    pub(super) fn join_mut(&mut self) -> Option<&mut Join> {
        match &mut self.phase {
            Phase::Joining(join) => Some(join),
            Phase::Idle | Phase::Leaving(_) => None,
        }
    }

    /// Whether a data connection belongs to what is under way.
    fn is_current_data(&self, nonce: ConnNonce) -> bool {
        self.current_data_nonce() == Some(nonce)
    }

    /// The nonce of the data connections that are welcome.
    pub fn current_data_nonce(&self) -> Option<ConnNonce> {
        let conn = self.conn_nonce()?;
        match (&self.phase, self.state) {
            (Phase::Joining(join), _) => Some(join.data_nonce(conn)),
            (Phase::Idle, State::Active) => Some(data_nonce(conn, self.record.session)),
            (Phase::Idle | Phase::Leaving(_), _) => None,
        }
    }

    pub(super) fn on_data_link(&mut self, volume: VolumeIndex, nonce: ConnNonce) {
        if self.is_current_data(nonce) {
            if let Some(link) = &mut self.link {
                link.links_up.insert(volume);
            }
            self.settle_links();
        }
    }

    pub(super) fn on_data_link_lost(&mut self, volume: VolumeIndex, nonce: ConnNonce, why: &str) {
        if self.is_current_data(nonce) {
            let name = &self.config.volumes[usize::from(volume.0)].name;
            let peer = &self.config.peer;
            let text = format!("the data connection of volume {name} to {peer} was lost: {why}");
            self.leave(&text);
        }
    }

    /// All data connections are up on this side: the join goes on (W6).
    fn settle_links(&mut self) {
        let up = self.link.as_ref().map_or(0, |link| link.links_up.len());
        if up != self.headers.len() {
            return;
        }
        let Some(join) = self.join_mut() else { return };
        let (step, is_ready) = (join.step, join.is_target_ready);
        if step == Step::AwaitTarget && is_ready {
            self.attach();
        }
    }

    /// The volumes of the source copy while they serve.
    fn attach(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("only a join attaches") };
        let conn_nonce = join.data_nonce(self.conn_nonce().expect("a join has its connection"));
        let (session, scope, seed) = (join.session, join.scope, join.seed);
        let units = self.lock_units();
        self.alone_session = session;
        self.await_all(Step::Copying);
        for (volume, granule_bytes) in self.volume_indexes().zip(units) {
            let attach = VolumeCommand::Attach { session, conn_nonce, scope, seed, granule_bytes };
            self.tell(volume, attach);
        }
    }

    /// Puts a command to all volumes and waits for their answers.
    fn ask(&mut self, step: Step, command: &VolumeCommand) {
        self.await_all(step);
        self.tell_all(command);
    }

    fn await_all(&mut self, step: Step) {
        let all = self.all_volumes();
        self.set_step(step);
        self.join_mut().expect("a step of a join").awaiting = all;
    }

    fn set_step(&mut self, step: Step) {
        self.join_mut().expect("a step of a join").step = step;
        self.limit_step();
    }

    /// The step under way has begun or gone on: from now on it may take so long.
    pub(super) fn limit_step(&mut self) {
        self.timers.set(Timer::Step, self.clock.time + STEP_MAX);
    }

    /// Prepared, Compared or Entered from a volume.
    pub(super) fn on_join_report(
        &mut self,
        volume: VolumeIndex,
        session: Session,
        report: &VolumeReport,
    ) {
        let Some(join) = self.join_mut().filter(|join| join.session == session) else { return };
        let step = join.step;
        let fits = matches!(
            (step, report),
            (Step::TargetPreparing, VolumeReport::Prepared { .. })
                | (Step::Copying, VolumeReport::Compared { .. })
                | (Step::Entering | Step::TargetEntering, VolumeReport::Entered { .. })
        );
        if !fits || !join.awaiting.remove(&volume) || !join.awaiting.is_empty() {
            return;
        }
        if self.failure.is_none() {
            self.all_answered(step);
        }
    }

    fn all_answered(&mut self, step: Step) {
        match step {
            Step::TargetPreparing => self.mark_target(),
            Step::Copying => self.raise_rounds(),
            Step::Entering => {
                let session = self.session();
                self.set_step(Step::AwaitAck);
                self.send(Message::AaGo { session });
            }
            Step::TargetEntering => {
                let session = self.session();
                self.become_active(false);
                self.send(Message::AaGoAck { session });
            }
            _ => unreachable!("no answer is awaited in {step:?}"),
        }
    }

    pub(super) fn on_join_message(&mut self, message: Message, session: Session) {
        if self.failure.is_some() {
            return;
        }
        let name = message.name();
        let Some(join) = self.join_mut().filter(|join| join.session == session) else {
            // Of a join that was left here, and not there yet.
            tracing::debug!("{name} of session {session} outside its join");
            return;
        };
        match (join.step, message) {
            (Step::AwaitTarget, Message::SyncReady { .. }) => {
                join.is_target_ready = true;
                self.connect_data();
                self.settle_links();
            }
            (Step::TargetCopying, Message::SyncDone { rounds, .. }) if rounds == join.rounds => {
                self.finish_target();
            }
            (Step::AwaitReady, Message::SyncDoneAck { .. }) => self.activate_source(),
            (Step::AwaitGo, Message::AaGo { .. }) => self.activate_target(),
            (Step::AwaitAck, Message::AaGoAck { .. }) => self.become_active(true),
            (step, _) => {
                let awaits = step.awaits();
                self.out_of_turn(&format!("{name} while this node waits for {awaits}"));
            }
        }
    }

    pub(super) fn join_job_done(&mut self, purpose: &Purpose) {
        let Some(join) = self.join_mut() else { return };
        let (session, step) = (join.session, join.step);
        match (step, purpose) {
            (Step::Recording, Purpose::JoinSource) => {
                let (scope, seed) = (join.scope, join.seed);
                self.open_alone();
                self.clear_data_links();
                self.set_step(Step::AwaitTarget);
                self.send(Message::SyncStart { session, scope, seed });
            }
            (Step::Marking, Purpose::TargetMark) => self.compare_as_target(),
            (Step::Raising, Purpose::RaiseRounds) => {
                let rounds = join.rounds.clone();
                self.set_step(Step::AwaitReady);
                self.send(Message::SyncDone { session, rounds });
            }
            (Step::Finishing, Purpose::TargetFinish) => {
                self.peer_stopped = false;
                self.set_step(Step::AwaitGo);
                self.transition(State::Ready, "everything is equal and durable");
                self.send(Message::SyncDoneAck { session });
            }
            (Step::Activating, Purpose::SourceActivate) => {
                self.enter(Step::Entering, Role::Orderer);
            }
            (Step::TargetActivating, Purpose::TargetActivate) => {
                self.enter(Step::TargetEntering, Role::Follower);
            }
            // The join that asked for it was left.
            (_, _) => tracing::debug!("{purpose:?} of a join that is over"),
        }
    }

    fn compare_as_target(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("only a join compares") };
        assert!(
            matches!(self.record.state, RecordState::Target { .. })
                || join.scope == Scope::Nothing
                || self.config.rules != Rules::ALL_HOLD,
            "F5: the record says Target before the first byte is overwritten"
        );
        let conn_nonce = join.data_nonce(self.conn_nonce().expect("a join has its connection"));
        let (session, scope, seed) = (join.session, join.scope, join.seed);
        let role = SyncRole::Target;
        self.set_step(Step::TargetCopying);
        self.tell_all(&VolumeCommand::Compare { session, conn_nonce, role, scope, seed });
        self.send(Message::SyncReady { session });
        self.connect_data();
    }

    fn enter(&mut self, step: Step, role: Role) {
        let Phase::Joining(join) = &self.phase else { panic!("only a join enters") };
        let conn_nonce = join.data_nonce(self.conn_nonce().expect("a join has its connection"));
        let session = join.session;
        self.discarded = false;
        let units = self.lock_units();
        self.await_all(step);
        for (volume, granule_bytes) in self.volume_indexes().zip(units) {
            let enter = VolumeCommand::Enter { session, conn_nonce, role, granule_bytes };
            self.tell(volume, enter);
        }
    }

    /// W9: both nodes lock in the larger of their units.
    fn lock_units(&self) -> Vec<u32> {
        let Phase::Joining(join) = &self.phase else { panic!("a step of a join") };
        let volumes = self.config.volumes.iter().zip(&join.peer.volumes);
        volumes.map(|(own, peer)| own.granule_bytes.max(peer.granule_bytes)).collect()
    }

    /// Both nodes are in the session.
    fn become_active(&mut self, is_orderer: bool) {
        assert!(
            self.record.state == RecordState::Active || self.config.rules != Rules::ALL_HOLD,
            "F8, F8b: the record says Active before the node serves in the session"
        );
        let session = self.session();
        self.phase = Phase::Idle;
        self.begin_session(is_orderer);
        self.transition(State::Active, &format!("both nodes are in session {session}"));
        self.ask_due = true;
    }

    /// Nothing of an earlier session counts any more.
    fn begin_session(&mut self, is_orderer: bool) {
        self.is_orderer = is_orderer;
        self.member_of = Some(self.session());
        self.is_open_alone = false;
        self.is_gate_dropped = false;
        self.is_narrowed = false;
        self.is_token_unknown = false;
        self.has_asked_to_lend = false;
        self.has_answered_handoff = false;
        self.has_said_stopped = false;
        self.peer_stopped = false;
        self.peer_unclean_too = false;
        self.claim = super::claim::Claim::None;
        self.returned = [false, false];
        self.empty.fill(false);
        self.timers.clear(Timer::Hold);
        self.timers.clear(Timer::Step);
        if let Some(link) = &mut self.link {
            link.my_hello = None;
            link.peer_hello = None;
        }
    }

    /// A join is given up. Before F8 the source stays alone; the target has to leave.
    pub(super) fn leave_join(&mut self, join: Join, why: &str) {
        let session = join.session;
        match join.step {
            Step::Recording | Step::AwaitTarget => self.transition(State::Solo, why),
            Step::Copying | Step::Raising | Step::AwaitReady => {
                self.tell_all(&VolumeCommand::Detach { session });
                self.transition(State::Solo, why);
            }
            // It counts as active (F8): nothing is completed alone before F4.
            Step::Activating | Step::Entering | Step::AwaitAck => {
                self.is_open_alone = false;
                self.member_of = Some(session);
                self.start_leaving(session, why);
            }
            Step::TargetPreparing
            | Step::Marking
            | Step::TargetCopying
            | Step::Finishing
            | Step::TargetActivating
            | Step::TargetEntering => self.start_leaving(session, why),
            Step::AwaitGo => {
                // READY stays READY (2.4); its volumes leave all the same.
                self.tell_leave(session);
            }
        }
        if self.record.continuity == Continuity::Amnesia {
            tracing::debug!("the copy is still none");
        }
    }
}
