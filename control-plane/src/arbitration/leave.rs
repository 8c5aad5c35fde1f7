//! Leaving a session, and the barrier over all volumes (PROTOCOL 2.4, 2.6 W7).
//!
//! The story: every volume is told to leave; reads go on while the grant lasts. When all have
//! answered `Left` nothing of the session is sent or acknowledged any more: the peer is told, and
//! CLAIM, GIVE and HELLO may go out. When all have answered `Quiet` no I/O of it is under way, and
//! only then F4 or the next session begins.
//! Invariants: I7, D6, L5.

use std::collections::BTreeSet;

use base::ids::{Session, VolumeIndex};
use datapath::port::VolumeCommand;

use super::claim::Claim;
use super::group::{Group, Phase};
use super::hand_off::HandOff;
use super::message::Message;
use super::state::State;
use super::timers::Timer;
use crate::record::Continuity;

/// A session being left.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leaving {
    pub(super) session: Session,
    /// Volumes that have not answered.
    pub(super) unleft: BTreeSet<VolumeIndex>,
    pub(super) why: String,
}

impl Group {
    /// Ends whatever is under way with the peer.
    pub(super) fn leave(&mut self, why: &str) {
        self.timers.clear(Timer::Step);
        self.token_move.forget();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {
                if self.state == State::Active {
                    let session = self.record.session;
                    self.start_leaving(session, why);
                }
            }
            Phase::Joining(join) => self.leave_join(join, why),
            Phase::Leaving(leaving) => self.phase = Phase::Leaving(leaving),
        }
    }

    /// The first step of the barrier.
    pub(super) fn start_leaving(&mut self, session: Session, why: &str) {
        self.phase =
            Phase::Leaving(Leaving { session, unleft: self.all_volumes(), why: why.to_owned() });
        self.left_equal = self.state == State::Active;
        self.limit_hold();
        self.tell_leave(session);
        let to = match self.state {
            State::Active | State::Source | State::Ready => Some(State::Deciding),
            State::Target => Some(State::Limbo),
            _ => None,
        };
        if let Some(to) = to {
            self.transition(to, why);
        }
    }

    /// The volumes answer `Left`, then `Quiet`.
    pub(super) fn tell_leave(&mut self, session: Session) {
        self.left_session = session;
        self.unquiet = self.all_volumes();
        self.timers.set(Timer::Quiet, self.clock.time + self.timings().io_timeout);
        self.tell_all(&VolumeCommand::Leave { session });
    }

    /// Requests are held from now on, for T_hold (L5).
    pub(super) fn limit_hold(&mut self) {
        if !self.timers.is_set(Timer::Hold) && !self.discarded {
            self.timers.set(Timer::Hold, self.clock.time + self.timings().hold);
        }
    }

    pub(super) fn on_left(&mut self, volume: VolumeIndex, session: Session, equal: bool) {
        let Phase::Leaving(leaving) = &mut self.phase else { return };
        if leaving.session != session {
            return;
        }
        // With nothing uncommitted at both nodes the copies are the same.
        self.left_equal &= equal;
        leaving.unleft.remove(&volume);
        if !leaving.unleft.is_empty() {
            return;
        }
        let why = leaving.why.clone();
        self.phase = Phase::Idle;
        // All have left: now the peer may know (2.4).
        if self.link.is_some() {
            let io_failed = self.record.io_failed || self.failure.is_some();
            self.send(Message::Left { session, io_failed, why });
        }
        self.decide();
    }

    pub(super) fn on_quiet(&mut self, volume: VolumeIndex, session: Session) {
        if session == self.left_session {
            self.unquiet.remove(&volume);
            if self.unquiet.is_empty() {
                self.timers.clear(Timer::Quiet);
            }
        }
    }

    /// Whether all I/O of the session left has completed (W7).
    pub(super) fn is_quiet(&self) -> bool {
        self.unquiet.is_empty()
    }

    /// Nothing of a session or a join is under way, and the record can be spoken of.
    pub(super) fn has_left(&self) -> bool {
        self.phase == Phase::Idle && self.state != State::Active && self.started
    }

    /// What a node does that has left: win, claim, or give up (2.4 "DECIDING").
    pub(super) fn decide(&mut self) {
        if self.state != State::Deciding || !self.has_left() {
            return;
        }
        if self.failure.is_some() || self.has_hand_off() {
            self.give_up("it hands its votes off");
        } else if self.is_stopping() && !self.has_answered_handoff {
            // HANDOFF_OK, or the end of the wait for it.
            if self.hand_off == HandOff::Unanswered {
                self.fence("it is being stopped");
            }
        } else if self.votes() >= 2 {
            self.await_promise();
        } else if !self.may_claim() {
            let why = "it has not two of three votes and no witness to ask";
            if self.votes() == 0 || self.claim == Claim::Lost {
                self.fence(why);
            } else {
                self.sink(State::Limbo, why);
            }
        } else {
            self.plan_claim();
        }
    }

    /// It has lost, or gave up.
    pub(super) fn fence(&mut self, why: &str) {
        self.sink(State::Fenced, why);
    }

    /// Stops reading, too, and says so.
    pub(super) fn sink(&mut self, to: State, why: &str) {
        self.drop_gate();
        self.timers.clear(Timer::Claim);
        self.timers.clear(Timer::Promise);
        if self.state != to {
            self.transition(to, why);
        }
        self.say_stopped();
    }

    /// No read of the session is answered from here on.
    pub(super) fn drop_gate(&mut self) {
        self.is_gate_dropped = true;
    }

    /// STOPPED: it serves nothing any more in this session. Brings no votes.
    pub(super) fn say_stopped(&mut self) {
        let quiet = self.has_left() && self.has_stopped_reading();
        if !quiet || self.link.is_none() || self.has_said_stopped {
            return;
        }
        self.has_said_stopped = true;
        let continuity = if self.failure.is_some() {
            self.record.continuity.max(Continuity::Unclean)
        } else {
            self.record.continuity
        };
        self.send(Message::Stopped {
            session: self.record.session,
            incarnation: self.record.incarnation,
            durable: false,
            continuity,
            by_reset: self.record.by_reset,
        });
    }

    /// T_hold is over: held requests are discarded and their clients closed.
    pub(super) fn on_hold_over(&mut self) {
        self.discarded = true;
        self.tell_all(&VolumeCommand::DiscardHeld);
        if self.state == State::Deciding && self.has_left() && self.votes() < 2 {
            self.sink(State::Limbo, "nobody has decided in time");
        }
    }
}
