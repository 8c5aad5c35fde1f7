//! Leaving a session, and the barrier over all volumes (PROTOCOL 2.6 W7).
//!
//! The story: the gate is closed, every volume is told to leave; when all have answered `Left`
//! nothing of the session is sent any more, the peer is told and the connection ends; when all
//! have answered `Quiet` no I/O of it is under way, and only then this node says HELLO again.
//! Held requests wait for T_hold; then they are discarded and their clients closed (L5).
//! Invariants: I7, D6, L5.

use std::collections::BTreeSet;

use base::ids::{ConnNonce, Session, VolumeIndex};
use base::time::Instant;
use datapath::port::{Progress, VolumeCommand};

use super::durable::RETRY_AFTER;
use super::group::{Group, Phase};
use super::port::GroupVolume;
use super::state::State;
use super::stop::Stage;
use super::timers::Timer;
use crate::wire::ControlMessage;

/// A session being left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leaving {
    pub(super) session: Session,
    /// Volumes that have not answered.
    pub(super) unleft: BTreeSet<VolumeIndex>,
    /// Its connection, if it still lives: the peer is told on it.
    pub(super) nonce: Option<ConnNonce>,
    pub(super) why: String,
}

impl Group {
    /// Ends whatever is under way with the peer, for this reason, and the connection with it.
    pub(super) fn leave(&mut self, now: Instant, why: &str) {
        self.close_gate();
        self.timers.clear(Timer::Step);
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.end_connection(now, why),
            Phase::Joining(join) if !join.has_touched_volumes() => self.end_connection(now, why),
            Phase::Joining(join) => self.start_leaving(now, join.session, why),
            Phase::Active { session, .. } => self.start_leaving(now, session, why),
            Phase::Leaving(leaving) => self.phase = Phase::Leaving(leaving),
            Phase::Stopping(stopping) => match stopping.stage {
                Stage::Leaving => {
                    // The volumes were told already.
                    self.explain_loss(why);
                    self.phase = Phase::Leaving(Leaving {
                        session: stopping.session,
                        unleft: stopping.unleft,
                        nonce: self.conn_nonce(),
                        why: why.to_owned(),
                    });
                    self.settle_left(now);
                }
                Stage::Flushing | Stage::Exchanging | Stage::Recording => {
                    self.end_connection(now, why);
                }
            },
        }
    }

    /// The connection is gone. A clean stop that knows the peer's rounds needs it no more: it
    /// ends as the peer's did.
    pub(super) fn lose_connection(&mut self, now: Instant, why: &str) {
        if let Phase::Stopping(stopping) = &self.phase
            && stopping.peer_done
            && stopping.stage != Stage::Leaving
        {
            self.close_link(now, why);
            return;
        }
        self.leave(now, why);
    }

    fn end_connection(&mut self, now: Instant, why: &str) {
        if self.state != State::Broken || self.failure.is_some() {
            self.explain_loss(why);
        }
        self.close_link(now, why);
    }

    fn start_leaving(&mut self, now: Instant, session: Session, why: &str) {
        self.phase = Phase::Leaving(Leaving {
            session,
            unleft: self.all_volumes(),
            nonce: self.conn_nonce(),
            why: why.to_owned(),
        });
        self.tell_leave(now, session);
        why.clone_into(&mut self.left_why);
        self.explain_loss(why);
        let to = if self.discarded { State::Limbo } else { State::Deciding };
        self.transition(to, why);
        if self.timers.at(Timer::Hold) <= now {
            self.timers.clear(Timer::Hold);
            self.on_hold_over(now);
        }
    }

    /// The first step of the barrier, for a clean stop as well.
    pub(super) fn tell_leave(&mut self, now: Instant, session: Session) {
        assert!(!self.is_serving(), "I7: the gate is closed before a session is left");
        self.left_session = session;
        self.unquiet = self.all_volumes();
        self.timers.set(Timer::Quiet, now + self.timings().io_timeout);
        self.limit_hold(now);
        self.progress.fill(Progress::default());
        self.tell_all(&VolumeCommand::Leave { session });
    }

    /// Requests are held from now on, for T_hold (L5).
    pub(super) fn limit_hold(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Hold) && !self.discarded {
            self.timers.set(Timer::Hold, self.lost_since(now) + self.timings().hold);
        }
    }

    /// Since when hosts have had no answer: a node that was stopped for a while and finds its
    /// session over as it wakes up counts from when it was stopped.
    fn lost_since(&self, now: Instant) -> Instant {
        match self.away {
            Some((since, until)) if now <= until => since,
            Some(_) | None => now,
        }
    }

    fn explain_loss(&mut self, why: &str) {
        if let Some(failure) = &self.failure {
            let (cause, advice) = self.failure_texts(failure);
            self.explain(cause, &advice);
            return;
        }
        let peer = &self.config.peer;
        let advice = if self.peer_report.is_some_and(|report| report.beat.io_failed) {
            format!(
                "free space or mend the disk of node {peer}, whose status names it; it tries \
                 again every {} s, and the pair joins by itself",
                RETRY_AFTER.as_secs()
            )
        } else {
            format!(
                "none if {peer} comes back: the pair joins by itself; else look at node {peer} \
                 and at the link between the nodes"
            )
        };
        let cause = format!(
            "{why}; nobody serves until both nodes are together again, nothing is lost{}",
            self.earlier_loss(why)
        );
        self.explain(cause, &advice);
    }

    /// What came before a loss that is only its consequence.
    fn earlier_loss(&self, why: &str) -> String {
        match self.left_why.as_str() {
            "" => String::new(),
            earlier if earlier == why => String::new(),
            earlier => format!(" (the last session was left because {earlier})"),
        }
    }

    pub(super) fn on_left(&mut self, now: Instant, volume: VolumeIndex, session: Session) {
        match &mut self.phase {
            Phase::Leaving(leaving) if leaving.session == session => {
                leaving.unleft.remove(&volume);
                self.settle_left(now);
            }
            Phase::Stopping(stopping) if stopping.session == session => {
                stopping.unleft.remove(&volume);
                self.settle_stopping(now);
            }
            Phase::Idle
            | Phase::Joining(_)
            | Phase::Active { .. }
            | Phase::Leaving(_)
            | Phase::Stopping(_) => {}
        }
    }

    /// All have left: now the peer may know (2.4), and the connection ends.
    fn settle_left(&mut self, now: Instant) {
        let Phase::Leaving(leaving) = &self.phase else { return };
        if !leaving.unleft.is_empty() {
            return;
        }
        let Leaving { session, nonce, why, .. } = leaving.clone();
        self.phase = Phase::Idle;
        if nonce.is_some() && nonce == self.conn_nonce() {
            let io_failed = self.record.io_failed || self.failure.is_some();
            self.send(ControlMessage::Left { session, io_failed, why: why.clone() });
            self.close_link(now, &why);
        }
    }

    pub(super) fn on_quiet(&mut self, now: Instant, volume: VolumeIndex, session: Session) {
        if session != self.left_session {
            return;
        }
        self.unquiet.remove(&volume);
        if self.unquiet.is_empty() {
            self.timers.clear(Timer::Quiet);
        }
        self.settle_stopping(now);
    }

    /// Whether all I/O of the session left has completed (W7).
    pub(super) fn is_quiet(&self) -> bool {
        self.unquiet.is_empty()
    }

    /// A volume is not quiet within T_io (W7): nothing goes on before it is. Its disk is slow or
    /// hangs; it has lost nothing, so that its copy is compared like any other when it answers.
    pub(super) fn on_not_quiet(&mut self) {
        let Some(volume) = self.unquiet.first().copied() else { return };
        let node = &self.config.node;
        let GroupVolume { name, path, .. } = &self.config.volumes[usize::from(volume.0)];
        let cause = format!(
            "the disk of {node} does not complete what it was asked for before volume {name} \
             ({path}) left its session ({}); nobody serves until it has, nothing is lost",
            self.left_why
        );
        let advice =
            format!("none if it completes; else mend the disk of node {node} and start it again");
        tracing::error!(%node, "{cause}");
        self.explain(cause, &advice);
        self.note_late_disk();
    }

    /// T_hold is over: held requests are discarded and their clients closed.
    pub(super) fn on_hold_over(&mut self, now: Instant) {
        let peer = &self.config.peer;
        match &self.phase {
            Phase::Joining(join) if join.is_entered() => {
                let why = format!("{peer} did not take the last step of the join in time");
                self.leave(now, &why);
            }
            // Its service has stopped, to be frozen or because the disk failed.
            Phase::Active { .. } => self.leave(now, "what had begun did not end in time"),
            Phase::Idle | Phase::Joining(_) | Phase::Leaving(_) | Phase::Stopping(_) => {}
        }
        self.timers.clear(Timer::Hold);
        self.discarded = true;
        self.tell_all(&VolumeCommand::DiscardHeld);
        if matches!(self.state, State::Starting | State::Deciding) {
            let waited = self.timings().hold;
            let why = if self.gate.serve_gen == 0 {
                let peer = &self.config.peer;
                format!("no session with {peer} within {waited:?}; nobody is served until there is")
            } else {
                format!("requests were held for {waited:?}; they and their clients are given up")
            };
            self.transition(State::Limbo, &why);
        }
    }

    pub(super) fn on_peer_left(&mut self, now: Instant, io_failed: bool, why: &str) {
        let peer = &self.config.peer;
        let text = if io_failed {
            format!("{peer} left because its disk failed ({why})")
        } else {
            format!("{peer} left ({why})")
        };
        self.leave(now, &text);
    }

    pub(super) fn on_peer_stuck(
        &mut self,
        now: Instant,
        volume: VolumeIndex,
        session: Session,
        waited_ms: u64,
    ) {
        if self.is_in_session(session) {
            let name = &self.config.volumes[usize::from(volume.0)].name;
            let peer = &self.config.peer;
            let why = format!(
                "{peer} has not acknowledged a request of volume {name} for {waited_ms} ms"
            );
            self.leave(now, &why);
        }
    }

    /// This node's own half of a request is missing: the peer is not to blame.
    pub(super) fn on_disk_stuck(
        &mut self,
        now: Instant,
        volume: VolumeIndex,
        session: Session,
        waited_ms: u64,
    ) {
        if !self.is_in_session(session) {
            return;
        }
        let node = self.config.node.clone();
        let GroupVolume { name, path, .. } = self.config.volumes[usize::from(volume.0)].clone();
        let why = format!(
            "the disk of {node} has not completed a request of volume {name} ({path}) for \
             {waited_ms} ms"
        );
        self.note_late_disk();
        self.leave(now, &why);
        self.explain(
            format!("{why}; nobody serves until both nodes are together again, nothing is lost"),
            &format!(
                "none if it answers again: the pair joins by itself; else look at the disk of \
                 node {node}"
            ),
        );
    }

    pub(super) fn on_peer_disk_failed(&mut self, now: Instant, session: Session) {
        if self.is_in_session(session) {
            let why = format!("the disk of {} failed", self.config.peer);
            self.leave(now, &why);
        }
    }

    fn is_in_session(&self, of: Session) -> bool {
        match &self.phase {
            Phase::Active { session, .. } => *session == of,
            Phase::Joining(join) => join.session == of,
            Phase::Idle | Phase::Leaving(_) | Phase::Stopping(_) => false,
        }
    }
}
