//! A disk or record of this node failed (PROTOCOL 2.6 W8, 2.10 U3).
//!
//! The story: reads and writes stop at once; the session is left; when the record says so the peer
//! may be told, and all votes go to it in the same record write.

use base::ids::VolumeIndex;
use datapath::port::VolumeCommand;

use super::durable::{Job, Purpose, RETRY_AFTER};
use super::group::Group;
use super::state::State;
use super::timers::Timer;
use crate::record::{Continuity, NodeRecord};

/// A failed disk or record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Failure {
    /// For people: which file, which operation, what the system said.
    pub(super) text: String,
    /// The volumes that reported it and wait for the record.
    volumes: Vec<VolumeIndex>,
    /// The record says so, or cannot be made to.
    pub(super) settled: bool,
    /// The record itself cannot be written.
    pub(super) record_lost: bool,
}

impl Group {
    pub(super) fn fail(&mut self, volume: Option<VolumeIndex>, text: String, record_lost: bool) {
        tracing::error!(node = %self.config.node, "{text}");
        self.timers.set(Timer::Retry, self.clock.time + RETRY_AFTER);
        self.drop_gate();
        match &mut self.failure {
            Some(failure) => {
                failure.volumes.extend(volume);
                failure.settled = false;
                failure.record_lost |= record_lost;
                failure.text = text;
            }
            None => {
                let volumes = volume.into_iter().collect();
                self.failure = Some(Failure { text, volumes, settled: false, record_lost });
            }
        }
        self.ask_due = true;
    }

    /// Part of `settle`, while the record may be written.
    pub(super) fn submit_failure(&mut self) -> bool {
        let Some(failure) = &self.failure else { return false };
        if failure.settled {
            return false;
        }
        if failure.record_lost || !self.started {
            // Nothing can be written now; it is tried again at the retry.
            self.failure_recorded();
            return false;
        }
        let mut record = self.record.clone();
        mark_failed(&mut record);
        let mut job = Job::new(Purpose::Failure);
        job.record(record);
        self.submit(job);
        true
    }

    pub(super) fn failure_recorded(&mut self) {
        let Some(failure) = &mut self.failure else { return };
        failure.settled = true;
        let recorded = !failure.record_lost;
        let text = format!("the disk of {} failed: {}", self.config.node, failure.text);
        assert!(
            !recorded || self.record.io_failed || !self.started,
            "W8: the record says that the disk failed before the peer is told"
        );
        for volume in std::mem::take(&mut failure.volumes) {
            if recorded {
                self.tell(volume, VolumeCommand::FailureRecorded);
            }
        }
        self.leave(&text);
        if matches!(self.state, State::Deciding | State::Limbo) {
            self.give_up(&text);
        }
    }

    pub(super) fn retry_after_failure(&mut self) {
        if self.job.is_some() {
            self.timers.set(Timer::Retry, self.clock.time + RETRY_AFTER);
            return;
        }
        if !self.started {
            self.submit_start();
            return;
        }
        if let Some(failure) = self.failure.as_mut().filter(|failure| failure.record_lost) {
            failure.record_lost = false;
            failure.settled = false;
        }
    }

    /// Whether a failed disk or record still forbids a join.
    pub(super) fn must_wait_after_failure(&self) -> bool {
        self.timers.is_set(Timer::Retry)
            || self.failure.as_ref().is_some_and(|f| !f.settled || f.record_lost)
    }
}

pub(super) fn mark_failed(record: &mut NodeRecord) {
    record.io_failed = true;
    record.clean = false;
    record.continuity = record.continuity.max(Continuity::Unclean);
}
