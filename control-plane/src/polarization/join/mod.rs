//! The join: from two HELLOs to two nodes that serve (PROTOCOL 2.8.1, 2.8.2).
//!
//! The story, source left and target right; each arrow down waits for what stands above it:
//!
//! 1. Both: HELLO, data connections up; each knows from both HELLOs which part it plays.
//! 2. Source: `Prepare`, then F6 (flush), then SYNC_START. Target: `Prepare`, then F5 (record
//!    Target), then `Compare` and SYNC_READY; the source's `Compare` follows.
//! 3. Source: when all is equal it raises its own rounds, then SYNC_DONE. Target: F7, SYNC_DONE_ACK.
//! 4. Source: F8 (record Active), `Enter`, AA_GO. Target: F8b, `Enter`, gate open, AA_GO_ACK.
//!    Source: gate open.
//!
//! Nothing is ever sent again: a lost connection starts over with new HELLOs and a higher session.
//! Invariants: I3, I5, P6; the step enum is the only order there is.

mod records;
mod step;

use std::collections::BTreeSet;

use base::ids::{Session, VolumeIndex};
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};

use super::choose::scope;
use super::durable::Purpose;
use super::group::{Group, Phase};
use super::state::State;
use super::timers::Timer;
use crate::record::{Continuity, RecordState};
use crate::wire::{ControlMessage, Hello};
use step::Step;

/// A join that makes no progress for so long is given up: far longer than a disk needs to flush
/// what a comparison wrote.
const STEP_MAX: Duration = Duration::from_secs(120);

/// A session being made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Join {
    pub(super) session: Session,
    pub(super) role: SyncRole,
    pub(super) began: Instant,
    pub(super) scope: Scope,
    /// The source's own disk failed: its copy is written over itself first (D10).
    rewrite: bool,
    seed: u64,
    step: Step,
    /// Volumes that have not answered the command of this step.
    awaiting: BTreeSet<VolumeIndex>,
    /// The rounds that both nodes have when the session starts.
    rounds: Vec<u64>,
    peer: Box<Hello>,
}

impl Join {
    /// What it waits for, in words.
    pub(super) fn awaits(&self) -> &'static str {
        self.step.awaits()
    }

    /// Whether a volume knows of it and has to leave.
    pub(super) fn has_touched_volumes(&self) -> bool {
        self.step.has_touched_volumes()
    }

    /// Whether a volume may have entered its session: what it holds is no more discarded without
    /// leaving it.
    pub(super) fn is_entered(&self) -> bool {
        self.step.is_entered()
    }

    fn peer_disk(&self, volume: VolumeIndex) -> base::ids::DiskId {
        self.peer.volumes[usize::from(volume.0)].disk_id
    }

    fn round(&self, volume: VolumeIndex) -> u64 {
        self.rounds[usize::from(volume.0)]
    }
}

impl Group {
    /// Both nodes know their parts; the data connections come first.
    pub(super) fn begin_join(
        &mut self,
        now: Instant,
        role: SyncRole,
        mine: &Hello,
        peer: Box<Hello>,
    ) {
        let highest = [mine.session, mine.session_seen, peer.session, peer.session_seen];
        let session = highest.into_iter().max().expect("four of them").next();
        assert!(session > self.session_seen, "I3: every session is a new one");
        let is_whole = !matches!(self.record.state, RecordState::Target { .. })
            && self.record.continuity != Continuity::Amnesia;
        assert!(
            role == SyncRole::Target || is_whole || self.config.rules != Rules::ALL_HOLD,
            "I5: neither a target nor a node in amnesia is the source of a join"
        );
        self.session_seen = session;
        let rounds = mine.volumes.iter().zip(&peer.volumes).map(|(v, w)| v.round.max(w.round) + 1);
        let nonce = self.conn_nonce().expect("a join has its connection");
        let (seed, _) = nonce.0.split_first_chunk::<8>().expect("a nonce has 16 bytes");
        let rules = self.config.rules;
        let (step, scope) = match role {
            SyncRole::Source => (Step::Linking, scope(mine, &peer, rules)),
            SyncRole::Target => (Step::AwaitStart, scope(&peer, mine, rules)),
        };
        let is_failed = role == SyncRole::Source && mine.io_failed;
        self.phase = Phase::Joining(Join {
            session,
            role,
            began: now,
            scope,
            rewrite: is_failed && rules.hold(Rule::FailedCopyRewritten),
            seed: u64::from_le_bytes(*seed),
            step,
            awaiting: BTreeSet::new(),
            rounds: rounds.collect(),
            peer,
        });
        self.timers.set(Timer::Step, now + self.timings().io_timeout * 2);
        if self.config.dials() {
            self.actions.push_back(super::port::Action::ConnectData { conn_nonce: nonce });
        }
        self.settle_links(now);
    }

    fn join_mut(&mut self) -> Option<&mut Join> {
        match &mut self.phase {
            Phase::Joining(join) => Some(join),
            Phase::Idle | Phase::Active { .. } | Phase::Leaving(_) | Phase::Stopping(_) => None,
        }
    }

    pub(super) fn on_data_link(&mut self, now: Instant, volume: VolumeIndex) {
        if let Some(link) = &mut self.link {
            link.links_up.insert(volume);
        }
        self.settle_links(now);
    }

    pub(super) fn on_data_link_lost(&mut self, now: Instant, volume: VolumeIndex, why: &str) {
        match &self.phase {
            // The peer has our FREEZE_ACK and may have left already; its own word is on the way.
            Phase::Active { freeze: Some(freeze), .. } if freeze.undrained.is_empty() => return,
            Phase::Leaving(_) | Phase::Stopping(_) => return,
            Phase::Idle | Phase::Joining(_) | Phase::Active { .. } => {}
        }
        let name = &self.config.volumes[usize::from(volume.0)].name;
        let peer = &self.config.peer;
        let text = format!("the data connection of volume {name} to {peer} was lost: {why}");
        self.leave(now, &text);
    }

    /// All data connections are up on this side: the join goes on (W6).
    fn settle_links(&mut self, now: Instant) {
        let up = self.link.as_ref().map_or(0, |link| link.links_up.len());
        if up != self.headers.len() {
            return;
        }
        let Some(join) = self.join_mut() else { return };
        let to = match join.step {
            Step::Linking => Step::Preparing,
            Step::TargetLinking => Step::TargetPreparing,
            Step::AwaitStart => {
                self.timers.clear(Timer::Step);
                return;
            }
            _ => return,
        };
        join.began = now;
        let Join { session, role, scope, rewrite, .. } = *join;
        self.ask(to, &VolumeCommand::Prepare { session, role, rewrite });
        let state = match role {
            SyncRole::Source => State::Source,
            SyncRole::Target => State::Target,
        };
        let peer = self.config.peer.clone();
        let cause = self.join_text(role, scope);
        self.explain(cause, "nothing: both nodes serve when it is done");
        self.transition(state, &format!("joining {peer} in session {session}"));
    }

    /// What is done in the join, as far as it is to be done at all.
    fn join_text(&self, role: SyncRole, scope: Scope) -> String {
        let (node, peer) = (&self.config.node, &self.config.peer);
        match (scope, role) {
            (Scope::Nothing, _) => {
                format!(
                    "{node} and {peer} begin a session; both copies are equal, nothing is compared"
                )
            }
            (Scope::Everything, SyncRole::Source) => {
                format!("both copies are being compared; {node} has the copy that counts")
            }
            (Scope::Everything, SyncRole::Target) => {
                format!("the copy of {node} is being made equal to {peer}'s")
            }
            (Scope::Rewrite, SyncRole::Source) => format!(
                "all of {node}'s copy is being copied to {peer}, whose disk had failed; nothing \
                 is compared"
            ),
            (Scope::Rewrite, SyncRole::Target) => format!(
                "a disk of {node} had failed: its whole copy is being written anew from {peer}'s"
            ),
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
        if self.join_mut().is_some_and(|join| join.has_touched_volumes()) {
            self.timers.set(Timer::Step, self.last_turn + STEP_MAX);
        }
    }

    /// Prepared, Compared or Entered from a volume.
    pub(super) fn on_join_report(
        &mut self,
        now: Instant,
        volume: VolumeIndex,
        session: Session,
        report: &VolumeReport,
    ) {
        let Some(join) = self.join_mut().filter(|join| join.session == session) else { return };
        let step = join.step;
        let is_last = step.is_answered_by(report)
            && join.awaiting.remove(&volume)
            && join.awaiting.is_empty();
        if !is_last {
            return;
        }
        if self.failure.as_ref().is_none_or(|failure| failure.settled) {
            self.all_answered(now, step);
        }
    }

    fn all_answered(&mut self, now: Instant, step: Step) {
        match step {
            Step::Preparing => {
                self.set_step(Step::Flushing);
                self.submit_source_flush();
            }
            Step::TargetPreparing => self.mark_target(),
            Step::Comparing => self.raise_rounds(),
            Step::Entering => {
                let session = self.session();
                self.set_step(Step::AwaitAck);
                self.send(ControlMessage::AaGo { session });
            }
            Step::TargetEntering => {
                let session = self.session();
                assert_eq!(
                    self.record.state,
                    RecordState::Active,
                    "F8b: the target's record says Active before it serves"
                );
                self.become_active(now, Role::Follower);
                self.send(ControlMessage::AaGoAck { session });
            }
            _ => unreachable!("no answer is awaited in {step:?}"),
        }
    }

    pub(super) fn on_join_message(&mut self, now: Instant, message: ControlMessage) {
        if self.failure.as_ref().is_some_and(|failure| !failure.settled) {
            return;
        }
        let name = message.name();
        let session = message.session();
        let Some(join) = self.join_mut().filter(|join| join.session == session) else {
            self.out_of_turn(now, &format!("{name} of session {session} outside its join"));
            return;
        };
        match (join.step, message) {
            (Step::AwaitStart, ControlMessage::SyncStart { scope, seed, .. })
                if scope >= join.scope =>
            {
                join.scope = scope;
                join.seed = seed;
                join.step = Step::TargetLinking;
                self.settle_links(now);
            }
            (Step::AwaitTarget, ControlMessage::SyncReady { .. }) => {
                let compare = self.compare_command();
                self.ask(Step::Comparing, &compare);
            }
            (Step::TargetComparing, ControlMessage::SyncDone { rounds, .. })
                if rounds == join.rounds =>
            {
                self.finish_target();
            }
            (Step::AwaitReady, ControlMessage::SyncDoneAck { .. }) => self.activate_source(),
            (Step::AwaitGo, ControlMessage::AaGo { .. }) => self.activate_target(),
            (Step::AwaitAck, ControlMessage::AaGoAck { .. }) => {
                self.become_active(now, Role::Orderer);
            }
            (step, _) => {
                let awaits = step.awaits();
                self.out_of_turn(now, &format!("{name} while this node waits for {awaits}"));
            }
        }
    }

    fn compare_command(&self) -> VolumeCommand {
        let Phase::Joining(join) = &self.phase else { panic!("only a join compares") };
        VolumeCommand::Compare {
            session: join.session,
            conn_nonce: self.conn_nonce().expect("a join has its connection"),
            role: join.role,
            scope: join.scope,
            seed: join.seed,
        }
    }

    pub(super) fn join_job_done(&mut self, now: Instant, purpose: Purpose) {
        let Some(join) = self.join_mut() else { return };
        let session = join.session;
        match (join.step, purpose) {
            (Step::Flushing, Purpose::SourceFlush) => {
                let (scope, seed) = (join.scope, join.seed);
                self.set_step(Step::AwaitTarget);
                self.send(ControlMessage::SyncStart { session, scope, seed });
            }
            (Step::Marking, Purpose::TargetMark) => self.compare_as_target(),
            (Step::Raising, Purpose::RaiseRounds) => {
                let rounds = join.rounds.clone();
                self.set_step(Step::AwaitReady);
                self.send(ControlMessage::SyncDone { session, rounds });
            }
            (Step::Finishing, Purpose::TargetFinish) => {
                self.forget_faults();
                self.set_step(Step::AwaitGo);
                self.transition(State::Ready, "everything is equal and durable");
                self.send(ControlMessage::SyncDoneAck { session });
            }
            (Step::Activating, Purpose::SourceActivate) => {
                self.forget_faults();
                self.enter(now, Step::Entering, Role::Orderer);
            }
            (Step::TargetActivating, Purpose::TargetActivate) => {
                self.enter(now, Step::TargetEntering, Role::Follower);
            }
            // The join that asked for it was left.
            (_, _) => tracing::debug!(?now, "{purpose:?} of a join that is over"),
        }
    }

    /// What was wrong with this copy is mended: it is equal to the other one.
    fn forget_faults(&mut self) {
        self.failure = None;
        self.start_texts.clear();
        self.timers.clear(Timer::Retry);
    }

    fn compare_as_target(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("only a join compares") };
        assert!(
            matches!(self.record.state, RecordState::Target { .. })
                || join.scope == Scope::Nothing
                || !self.config.rules.hold(Rule::TargetRecordFirst),
            "F5: the record says Target before the first byte is overwritten"
        );
        let compare = self.compare_command();
        let session = self.session();
        self.set_step(Step::TargetComparing);
        self.tell_all(&compare);
        self.send(ControlMessage::SyncReady { session });
    }

    fn enter(&mut self, now: Instant, step: Step, role: Role) {
        let links = self.link.as_ref().map_or(0, |link| link.links_up.len());
        assert_eq!(links, self.headers.len(), "W6: every volume has its data connection");
        let conn_nonce = self.conn_nonce().expect("a join has its connection");
        let session = self.session();
        // Hosts that come from now on are held as well, until the last step is done (L5).
        if !self.timers.is_set(Timer::Hold) {
            self.timers.set(Timer::Hold, now + self.timings().hold);
        }
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

    /// The volumes are in the session on both nodes, or will be before they are asked for
    /// anything: hosts may be served.
    fn become_active(&mut self, now: Instant, role: Role) {
        let session = self.session();
        let compared = self.compared_text();
        self.phase = Phase::Active { session, role, freeze: None };
        self.explain(String::new(), "");
        self.left_why.clear();
        self.empty.fill(false);
        self.timers.clear(Timer::Hold);
        self.timers.clear(Timer::Step);
        let part = match role {
            Role::Orderer => "orderer",
            Role::Follower => "follower",
        };
        let why = format!("both nodes are in session {session}; {part}; {compared}");
        self.transition(State::Active, &why);
        self.open_gate(session);
        tracing::debug!(?now, "gate open");
    }
}
