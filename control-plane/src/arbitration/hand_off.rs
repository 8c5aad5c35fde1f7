//! One-sided hand-off: a node that stops, or is unhealthy, gives all its votes to a peer that has
//! said that it will go on (PROTOCOL 2.10 U1, U2).
//!
//! The story of a clean stop: HANDOFF_REQ, HANDOFF_OK; the volumes take nothing more and drain; the
//! session is left; the record without votes; GIVE(stopped): the peer is alone at once. Then this
//! node makes its copy durable and says so in its record. Alone already, it only does the latter.

use base::ids::{Session, VolumeIndex};
use datapath::port::VolumeCommand;
use std::collections::BTreeSet;

use super::durable::{Job, Purpose};
use super::group::{Group, Phase};
use super::message::Message;
use super::port::Action;
use super::state::State;
use super::timers::{Timer, TimerTable};
use crate::record::{RecordState, VolumeHeader};

/// A hand-off of this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum HandOff {
    No,
    /// HANDOFF_REQ was sent.
    Asked,
    /// HANDOFF_OK came; a stop drains its volumes first.
    Draining(BTreeSet<VolumeIndex>),
    /// The session is being left, GIVE follows.
    Going,
    /// The peer has not answered in time: the votes stay here.
    Unanswered,
}

/// How far a stop of this node is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stop {
    No,
    Requested,
    /// The record says that it stopped.
    Recorded,
    Done,
}

impl Group {
    pub(super) fn is_stopping(&self) -> bool {
        self.stop != Stop::No
    }

    pub(super) fn is_handing_off(&self) -> bool {
        self.hand_off != HandOff::No || self.is_stopping()
    }

    /// Part of `settle`: drives a stop that was asked for.
    pub(super) fn settle_stop(&mut self) {
        if self.stop != Stop::Requested {
            return;
        }
        match self.state {
            State::Active if self.phase == Phase::Idle => self.ask_hand_off(),
            State::Deciding if self.has_left() => self.ask_hand_off(),
            State::Active | State::Deciding => {}
            State::Source | State::Target | State::Ready => {
                let why = format!("{} is being stopped", self.config.node);
                self.leave(&why);
            }
            State::Starting
            | State::Solo
            | State::Fenced
            | State::Limbo
            | State::Broken
            | State::Stopped => {}
        }
        self.settle_clean();
    }

    /// U1, U2: is the peer up, and will it go on?
    pub(super) fn ask_hand_off(&mut self) {
        if self.hand_off != HandOff::No {
            return;
        }
        self.hand_off = HandOff::Asked;
        self.timers.set(Timer::HandOff, self.clock.time + self.timings().io_timeout);
        let session = self.record.session;
        if self.link.is_some() {
            self.send(Message::HandoffReq { session });
        }
    }

    /// Whether this node will go on with the peer's votes.
    pub(super) fn on_handoff_request(&mut self, session: Session) {
        let in_session = session == self.record.session
            && self.record.state == RecordState::Active
            && matches!(self.state, State::Active | State::Deciding | State::Fenced | State::Limbo);
        let smaller = self.config.node < self.config.peer;
        let will = in_session
            && self.is_eligible()
            && (!self.is_stopping() || smaller)
            && (!self.health.unhealthy || self.peer_health.unhealthy);
        if will {
            self.has_answered_handoff = true;
            self.send(Message::HandoffOk { session });
        }
    }

    pub(super) fn on_handoff_ok(&mut self, session: Session) {
        let asked = self.hand_off == HandOff::Asked && session == self.record.session;
        // Two that stop at once: the one that has said yes stays.
        if !asked || (self.is_stopping() && self.has_answered_handoff) {
            return;
        }
        if self.state == State::Active && self.is_stopping() {
            self.hand_off = HandOff::Draining(self.all_volumes());
            self.tell_all(&VolumeCommand::Drain { session });
        } else {
            self.go("it hands its votes to the peer");
        }
    }

    pub(super) fn on_drained(&mut self, volume: VolumeIndex, session: Session) {
        if session != self.record.session {
            return;
        }
        let HandOff::Draining(undrained) = &mut self.hand_off else { return };
        undrained.remove(&volume);
        if undrained.is_empty() {
            let why = format!("{} is being stopped cleanly", self.config.node);
            self.go(&why);
        }
    }

    fn go(&mut self, why: &str) {
        self.hand_off = HandOff::Going;
        self.drop_gate();
        self.leave(why);
        self.decide();
    }

    /// The peer does not answer: a stop goes on without it, its votes stay here.
    pub(super) fn on_hand_off_over(&mut self) {
        if self.hand_off == HandOff::No {
            return;
        }
        if !self.is_stopping() {
            self.hand_off = HandOff::No;
            return;
        }
        self.hand_off = HandOff::Unanswered;
        self.leave("it is being stopped, and the peer has not taken its votes in time");
        self.decide();
    }

    /// Whether all votes may be given: the peer has said that it goes on.
    pub(super) fn has_hand_off(&self) -> bool {
        self.hand_off == HandOff::Going
    }

    /// Everything of the session is over: what is here becomes durable, then the record says so.
    fn settle_clean(&mut self) {
        let over = self.has_left()
            && self.is_quiet()
            && self.job.is_none()
            && self.giving.is_none()
            && self.awaiting_solo.is_empty();
        if !over || self.stop != Stop::Requested {
            return;
        }
        match self.state {
            State::Deciding | State::Active | State::Source => return,
            State::Solo if self.is_open_alone => {
                self.leave_solo();
                return;
            }
            _ => {}
        }
        let stops = matches!(self.record.state, RecordState::Active | RecordState::Solo);
        if !stops || self.failure.is_some() {
            self.finish_stop();
            return;
        }
        self.submit_clean();
    }

    /// Alone: nobody is served from here on.
    fn leave_solo(&mut self) {
        self.is_open_alone = false;
        self.tell_leave(self.alone_session);
    }

    fn submit_clean(&mut self) {
        let mut job = Job::new(Purpose::Clean);
        self.volume_indexes().for_each(|volume| job.sync(volume));
        for volume in self.volume_indexes() {
            job.stamp(volume, self.stamp(volume, self.header(volume).round + 1));
        }
        for volume in self.volume_indexes() {
            let header = *self.header(volume);
            job.header(volume, VolumeHeader { round: header.round + 1, ..header });
        }
        let mut record = self.record.clone();
        // A node that was alone until now has changed its copy, or has said so at F4.
        record.clean = self.left_equal || record.state == RecordState::Solo;
        if record.state == RecordState::Active {
            record.state = RecordState::Stopped;
        }
        job.record(record);
        self.submit(job);
    }

    pub(super) fn clean_done(&mut self) {
        if self.stop == Stop::Requested {
            self.stop = Stop::Recorded;
            self.finish_stop();
        }
    }

    /// The last thing that this node does.
    pub(super) fn finish_stop(&mut self) {
        if self.stop == Stop::Done {
            return;
        }
        self.stop = Stop::Done;
        self.drop_gate();
        self.is_open_alone = false;
        self.phase = Phase::Idle;
        self.tell_all(&VolumeCommand::Shutdown);
        for nonce in self.offered.take().map(|l| l.nonce).into_iter().chain(self.conn_nonce()) {
            self.close_control(nonce, "this node has stopped");
        }
        self.link = None;
        self.timers = TimerTable::EMPTY;
        self.giving = None;
        self.taking.clear();
        self.transition(State::Stopped, "stopped");
        self.actions.push_back(Action::Stopped);
    }

    /// Part of `settle`: an unhealthy node asks its peer to go on.
    pub(super) fn settle_health(&mut self) {
        let hands_off = self.state == State::Active
            && self.phase == Phase::Idle
            && self.health.unhealthy
            && !self.peer_health.unhealthy
            && !self.has_answered_handoff;
        if hands_off {
            self.ask_hand_off();
        }
    }

    /// After GIVE(all): the peer goes on.
    pub(super) fn note_handed_off(&mut self) {
        if !self.is_stopping() {
            self.hand_off = HandOff::No;
            self.timers.clear(Timer::HandOff);
        }
    }
}
