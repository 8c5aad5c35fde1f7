//! What a started node does by itself, from what its record says (PROTOCOL 2.12).

use super::durable::{Job, Purpose};
use super::group::Group;
use super::state::State;
use super::timers::Timer;
use crate::record::{Continuity, RecordState, VolumeHeader};

impl Group {
    /// F0: continuity and the start's number are durable before HELLO. The headers follow the
    /// record.
    pub(super) fn submit_start(&mut self) {
        let mut job = Job::new(Purpose::Start);
        let mut record = self.record.clone();
        if self.failure.is_some() {
            super::failure::mark_failed(&mut record);
        }
        let start_seq = record.start_seq;
        job.record(record);
        // A stamp that is ahead of its header may be in memory only.
        for (volume, stamp) in self.volume_indexes().zip(self.start_stamps.clone()) {
            stamp.into_iter().for_each(|stamp| job.stamp(volume, stamp));
        }
        for volume in self.volume_indexes() {
            let header = VolumeHeader { start_seq, ..*self.header(volume) };
            job.header(volume, header);
        }
        self.submit(job);
    }

    pub(super) fn start_done(&mut self) {
        self.started = true;
        if let Some(failure) = &mut self.failure {
            failure.settled = true;
            failure.record_lost = false;
        }
        let continuity = self.record.continuity;
        let kept = continuity <= Continuity::ProcessRestart;
        if continuity == Continuity::Amnesia {
            let why = "its record or data was lost, replaced or rolled back";
            self.transition(State::Limbo, why);
            return;
        }
        match self.record.state {
            RecordState::Virgin => {}
            RecordState::Solo => {
                self.timers.set(Timer::Probe, self.clock.time + self.timings().probe);
            }
            RecordState::Active if self.is_eligible() && self.votes() > 0 => {
                self.transition(State::Deciding, "started again after a session");
                self.decide();
            }
            RecordState::Active if self.votes() == 0 => {
                self.transition(State::Fenced, "started again without a vote of its session");
            }
            RecordState::Active => {
                let why = "data on this node may lack acknowledged writes";
                self.transition(State::Limbo, why);
            }
            RecordState::Ready if kept => self.transition(State::Ready, "has all of its session"),
            RecordState::Ready | RecordState::Target { .. } => {
                self.transition(State::Limbo, "waits for the source of its resync");
            }
            RecordState::Stopped => self.transition(State::Fenced, "was stopped cleanly"),
            RecordState::Broken => self.transition(State::Broken, "split-brain was found"),
        }
    }
}
