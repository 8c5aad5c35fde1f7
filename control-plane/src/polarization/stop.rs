//! The clean stop of one node (PROTOCOL 2.10 U1, as far as nobody serves alone yet).
//!
//! The story: FREEZE; both nodes take no more writes and wait until everything taken is committed
//! on both (FREEZE_ACK); both leave the session; when quiet both flush, raise stamp and round and
//! say so (ROUND_DONE); whoever knows both writes that it stopped cleanly. Then the node that was
//! asked to stop ends, and the other waits for it. Two that are stopped at once do the same, with
//! crossing FREEZEs. If any step fails or takes too long the record does not say clean, and the
//! next join compares everything.

use std::collections::BTreeSet;

use base::ids::{Session, VolumeIndex};
use base::time::Instant;
use datapath::port::VolumeCommand;

use super::durable::{Job, Purpose};
use super::group::{Group, Phase, StopRequest};
use super::port::Action;
use super::state::State;
use super::timers::{Timer, TimerTable};
use crate::record::{RecordState, Stamp, VolumeHeader};
use crate::wire::ControlMessage;

/// Both nodes stop taking writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Freeze {
    /// Own volumes with writes that are not committed.
    pub(super) undrained: BTreeSet<VolumeIndex>,
    /// The peer has none.
    pub(super) peer_drained: bool,
}

/// A frozen session was left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stopping {
    pub(super) session: Session,
    pub(super) stage: Stage,
    /// Volumes that have not answered Leave.
    pub(super) unleft: BTreeSet<VolumeIndex>,
    /// What both nodes make durable: their rounds have been equal since the join.
    pub(super) rounds: Vec<u64>,
    /// The peer has.
    pub(super) peer_done: bool,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The volumes leave and become quiet.
    Leaving,
    /// Data, stamps and rounds become durable.
    Flushing,
    /// Own rounds are durable, the peer's word is missing.
    Exchanging,
    /// The record becomes durable.
    Recording,
}

impl Group {
    /// Part of `settle`: drives a stop that was asked for.
    pub(super) fn settle_stop(&mut self, now: Instant) {
        if self.stop != StopRequest::Requested {
            return;
        }
        match &self.phase {
            Phase::Idle => {
                if self.is_at_rest() {
                    self.finish_stop();
                }
            }
            Phase::Joining(_) => {
                let why = format!("{} is being stopped", self.config.node);
                self.leave(now, &why);
                self.settle_stop_idle();
            }
            Phase::Active { session, freeze, .. } => {
                let failing = self.failure.as_ref().is_some_and(|f| !f.settled);
                if freeze.is_none() && !failing {
                    let session = *session;
                    self.begin_freeze(now);
                    self.send(ControlMessage::Freeze { session });
                }
            }
            Phase::Leaving(_) | Phase::Stopping(_) => {}
        }
    }

    fn settle_stop_idle(&mut self) {
        if self.is_at_rest() {
            self.finish_stop();
        }
    }

    fn begin_freeze(&mut self, now: Instant) {
        let undrained = self.all_volumes();
        let Phase::Active { session, freeze, .. } = &mut self.phase else {
            panic!("only a running session is frozen");
        };
        assert!(freeze.is_none(), "a session is frozen once");
        *freeze = Some(Freeze { undrained, peer_drained: false });
        let session = *session;
        self.timers.set(Timer::Step, now + self.timings().io_timeout);
        self.limit_hold(now);
        self.tell_all(&VolumeCommand::Drain { session });
    }

    /// The peer is being stopped, or both are: crossing FREEZEs are one.
    pub(super) fn on_freeze(&mut self, now: Instant, of: Session) {
        match &self.phase {
            Phase::Active { session, freeze, .. } if *session == of => {
                if freeze.is_none() {
                    tracing::info!(node = %self.config.node, "{} stops cleanly", self.config.peer);
                    self.begin_freeze(now);
                }
            }
            Phase::Stopping(stopping) if stopping.session == of => {}
            Phase::Idle
            | Phase::Joining(_)
            | Phase::Active { .. }
            | Phase::Leaving(_)
            | Phase::Stopping(_) => self.out_of_turn(now, "FREEZE outside a session"),
        }
    }

    pub(super) fn on_drained(&mut self, now: Instant, volume: VolumeIndex, of: Session) {
        let Phase::Active { session, freeze: Some(freeze), .. } = &mut self.phase else { return };
        if *session != of || !freeze.undrained.remove(&volume) || !freeze.undrained.is_empty() {
            return;
        }
        self.send(ControlMessage::FreezeAck { session: of });
        self.settle_freeze(now);
    }

    pub(super) fn on_freeze_ack(&mut self, now: Instant, of: Session) {
        match &mut self.phase {
            Phase::Active { session, freeze: Some(freeze), .. } if *session == of => {
                freeze.peer_drained = true;
                self.settle_freeze(now);
            }
            Phase::Idle
            | Phase::Joining(_)
            | Phase::Active { .. }
            | Phase::Leaving(_)
            | Phase::Stopping(_) => self.out_of_turn(now, "FREEZE_ACK without FREEZE"),
        }
    }

    /// Everything is committed on both nodes: the session is left without a word.
    fn settle_freeze(&mut self, now: Instant) {
        let Phase::Active { session, freeze: Some(freeze), .. } = &self.phase else { return };
        if !freeze.undrained.is_empty() || !freeze.peer_drained {
            return;
        }
        let session = *session;
        self.close_gate();
        self.phase = Phase::Stopping(Stopping {
            session,
            stage: Stage::Leaving,
            unleft: self.all_volumes(),
            rounds: self.headers.iter().map(|header| header.round + 1).collect(),
            peer_done: false,
        });
        self.timers.set(Timer::Step, now + self.timings().io_timeout);
        self.tell_leave(now, session);
        let who =
            if self.stop == StopRequest::None { &self.config.peer } else { &self.config.node };
        let why = format!("{who} is being stopped cleanly");
        self.explain(format!("{why}; nobody serves"), "start it again");
        self.transition(State::Deciding, &why);
    }

    /// All left and quiet: flush, then stamps, then headers (F10 without a bitmap).
    pub(super) fn settle_stopping(&mut self, now: Instant) {
        let quiet = self.is_quiet();
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if stopping.stage != Stage::Leaving || !stopping.unleft.is_empty() || !quiet {
            return;
        }
        stopping.stage = Stage::Flushing;
        // Everything in memory goes to both disks now.
        self.timers.set(Timer::Step, now + self.timings().io_timeout * 3);
        let mut job = Job::new(Purpose::CleanFlush);
        self.volume_indexes().for_each(|volume| job.sync(volume));
        for volume in self.volume_indexes() {
            job.stamp(volume, self.stamp(volume, self.header(volume).round + 1));
        }
        for volume in self.volume_indexes() {
            let header = *self.header(volume);
            job.header(volume, VolumeHeader { round: header.round + 1, ..header });
        }
        self.submit(job);
    }

    /// This node's stamp with a round.
    pub(super) fn stamp(&self, volume: VolumeIndex, round: u64) -> Stamp {
        let header = self.header(volume);
        let (volume_id, disk_id) = (header.volume_id, header.disk_id);
        Stamp { volume_id, disk_id, generation: self.record.generation, round }
    }

    pub(super) fn stop_job_done(&mut self, now: Instant, purpose: Purpose) {
        let rounds: Vec<u64> = self.headers.iter().map(|header| header.round).collect();
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        let session = stopping.session;
        match purpose {
            Purpose::CleanFlush => {
                stopping.stage = Stage::Exchanging;
                if self.link.is_some() {
                    self.send(ControlMessage::RoundDone { session, rounds });
                }
                self.settle_exchange(now);
            }
            Purpose::CleanRecord => {
                self.phase = Phase::Idle;
                self.timers.clear(Timer::Step);
                if self.stop == StopRequest::None {
                    let peer = self.config.peer.clone();
                    self.explain(
                        format!("{peer} was stopped cleanly; nobody serves, both copies are equal"),
                        &format!("start node {peer} again: it copies nothing"),
                    );
                }
                self.close_link(now, "stopped cleanly");
            }
            Purpose::Start
            | Purpose::Failure
            | Purpose::SourceFlush
            | Purpose::TargetMark
            | Purpose::RaiseRounds
            | Purpose::TargetFinish
            | Purpose::SourceActivate
            | Purpose::TargetActivate => unreachable!("not a step of a stop: {purpose:?}"),
        }
    }

    pub(super) fn on_round_done(&mut self, now: Instant, of: Session, rounds: Vec<u64>) {
        match &mut self.phase {
            Phase::Stopping(stopping)
                if stopping.session == of && !stopping.peer_done && rounds == stopping.rounds =>
            {
                stopping.peer_done = true;
                self.settle_exchange(now);
            }
            Phase::Idle
            | Phase::Joining(_)
            | Phase::Active { .. }
            | Phase::Leaving(_)
            | Phase::Stopping(_) => self.out_of_turn(now, "ROUND_DONE without its clean stop"),
        }
    }

    /// Both rounds are durable: the peer's goes into the headers, then the record says clean.
    fn settle_exchange(&mut self, now: Instant) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if stopping.stage != Stage::Exchanging {
            return;
        }
        if !stopping.peer_done {
            return;
        }
        let rounds = stopping.rounds.clone();
        stopping.stage = Stage::Recording;
        self.timers.set(Timer::Step, now + self.timings().io_timeout);
        let mut job = Job::new(Purpose::CleanRecord);
        for (volume, peer_round) in self.volume_indexes().zip(rounds) {
            job.header(volume, VolumeHeader { peer_round, ..*self.header(volume) });
        }
        let mut record = self.record.clone();
        record.state = RecordState::Stopped;
        record.clean = true;
        job.record(record);
        self.submit(job);
    }

    /// A step that needs the peer or the disk took too long: what was begun is given up.
    pub(super) fn on_step_over(&mut self, now: Instant) {
        match &self.phase {
            Phase::Joining(join) if !join.has_touched_volumes() => {
                self.leave(now, "the data connections did not come up in time");
            }
            Phase::Active { freeze: Some(_), .. } | Phase::Stopping(_) => {
                self.leave(now, "a clean stop did not end in time; the next join compares all");
            }
            Phase::Joining(join) => {
                let why = format!("the join went no further; it waited for {}", join.awaits());
                self.leave(now, &why);
            }
            Phase::Idle | Phase::Active { .. } | Phase::Leaving(_) => {}
        }
    }

    /// The last thing that this node does.
    pub(super) fn finish_stop(&mut self) {
        if self.stop == StopRequest::Done {
            return;
        }
        self.stop = StopRequest::Done;
        self.close_gate();
        self.phase = Phase::Idle;
        self.tell_all(&VolumeCommand::Shutdown);
        for nonce in self.offered.take().map(|l| l.nonce).into_iter().chain(self.conn_nonce()) {
            self.close_control(nonce, "this node has stopped");
        }
        self.forget_link();
        self.timers = TimerTable::EMPTY;
        let clean = self.record.clean && self.record.state == RecordState::Stopped;
        let why = if clean {
            "stopped cleanly"
        } else if self.record.state == RecordState::Virgin {
            "stopped before its first session"
        } else {
            "stopped, not cleanly: the next join compares everything; nothing acknowledged is lost"
        };
        self.transition(State::Stopped, why);
        self.actions.push_back(Action::Stopped);
    }
}
