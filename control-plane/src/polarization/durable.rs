//! Jobs for the record writer: one at a time, and what the record says only once it is durable.
//!
//! Invariants: I8; the fsync order of PROTOCOL 2.2, each line one function below or in `join` and
//! `stop`.
//! Faults assumed: a job may fail at any step; then the memory keeps what was durable before and
//! the next record takes a higher number than any that may have been written.

use std::collections::BTreeMap;

use base::ids::{Ticket, VolumeIndex};
use base::limits::Timers;
use base::rules::Rule;
use base::time::{Duration, Instant};
use datapath::port::VolumeCommand;

use super::group::{Group, Phase};
use super::port::{Action, DurableDone, DurableFault, DurableStep};
use super::timers::Timer;
use crate::record::{Continuity, NodeRecord, Stamp, VolumeHeader};

/// How long a disk that failed is left alone.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a job is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// F0.
    Start,
    /// W8, U3: this node's disk failed.
    Failure,
    /// F6 at the source.
    SourceFlush,
    /// F5 at the target.
    TargetMark,
    /// The source's own rounds, before the target may record them.
    RaiseRounds,
    /// F7 at the target.
    TargetFinish,
    /// F8 at the source.
    SourceActivate,
    /// F8b at the target.
    TargetActivate,
    /// Clean stop: data, stamps and rounds.
    CleanFlush,
    /// Clean stop: the record.
    CleanRecord,
}

/// A job being put together, and then under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) purpose: Purpose,
    ticket: Ticket,
    steps: Vec<DurableStep>,
    record: Option<NodeRecord>,
    headers: BTreeMap<VolumeIndex, VolumeHeader>,
}

impl Job {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            ticket: Ticket(0),
            steps: Vec::new(),
            record: None,
            headers: BTreeMap::new(),
        }
    }

    pub(super) fn sync(&mut self, volume: VolumeIndex) {
        self.steps.push(DurableStep::SyncData(volume));
    }

    /// Whether it begins with a flush of all `volumes`.
    pub(super) fn flushes(&self, volumes: usize) -> bool {
        let is_flush = |step: &&DurableStep| matches!(step, DurableStep::SyncData(_));
        self.steps.iter().take_while(is_flush).count() == volumes
    }

    pub(super) fn stamp(&mut self, volume: VolumeIndex, stamp: Stamp) {
        self.steps.push(DurableStep::WriteStamp(volume, stamp));
    }

    pub(super) fn header(&mut self, volume: VolumeIndex, header: VolumeHeader) {
        let earlier = self.headers.insert(volume, header);
        assert!(earlier.is_none(), "a job writes a header once");
        self.steps.push(DurableStep::WriteHeader(volume, header));
    }

    pub(super) fn record(&mut self, record: NodeRecord) {
        assert!(self.record.is_none(), "a job writes the record once");
        self.steps.push(DurableStep::WriteRecord(Box::new(record.clone())));
        self.record = Some(record);
    }
}

/// A failed disk or record of this node.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people: which file, which operation, what the system said.
    pub(super) text: String,
    /// The volumes that reported it and wait for the record.
    volumes: Vec<VolumeIndex>,
    /// The record says so, or cannot be made to.
    pub(super) settled: bool,
    /// The record itself cannot be written.
    record_lost: bool,
}

impl Group {
    /// Hands a job to the writer. Record and headers get their numbers here: never one that an
    /// earlier job, failed half-way, may have written already.
    pub(super) fn submit(&mut self, mut job: Job) {
        assert!(self.job.is_none(), "one durable job at a time");
        self.next_ticket += 1;
        job.ticket = Ticket(self.next_ticket);
        for step in &mut job.steps {
            match step {
                DurableStep::WriteRecord(record) => {
                    assert!(record.record_seq <= self.record_seq_used, "I8: numbers go up");
                    self.record_seq_used += 1;
                    record.record_seq = self.record_seq_used;
                    job.record = Some((**record).clone());
                }
                DurableStep::WriteHeader(volume, header) => {
                    let used = &mut self.header_seq_used[usize::from(volume.0)];
                    assert!(header.header_seq <= *used, "header numbers go up");
                    *used += 1;
                    header.header_seq = *used;
                    job.headers.insert(*volume, *header);
                }
                DurableStep::SyncData(_) | DurableStep::WriteStamp(..) => {}
            }
        }
        if job.steps.iter().any(DurableStep::flushes_data) {
            self.timers.set(Timer::Flush, self.last_turn + self.timings().io_timeout);
        }
        self.actions.push_back(Action::Durable { ticket: job.ticket, steps: job.steps.clone() });
        self.job = Some(job);
    }

    /// F0: continuity and the start's number are durable before HELLO. The headers follow the
    /// record.
    pub(super) fn submit_start(&mut self) {
        let mut job = Job::new(Purpose::Start);
        let mut record = self.record.clone();
        if self.failure.is_some() {
            mark_failed(&mut record);
        }
        let start_seq = record.start_seq;
        job.record(record);
        // A stamp that is ahead of its header may be in memory only.
        let rewrite = self.config.rules.hold(Rule::SeenStampWritten);
        for (volume, stamp) in self.volume_indexes().zip(self.start_stamps.clone()) {
            stamp.into_iter().filter(|_| rewrite).for_each(|stamp| job.stamp(volume, stamp));
        }
        for volume in self.volume_indexes() {
            let header = VolumeHeader { start_seq, ..*self.header(volume) };
            job.header(volume, header);
        }
        self.submit(job);
    }

    pub(super) fn on_durable(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<DurableDone, DurableFault>,
    ) {
        let job = self.job.take().expect("a ticket comes back once");
        self.timers.clear(Timer::Flush);
        assert_eq!(job.ticket, ticket, "tickets come back in order");
        match result {
            Ok(done) => {
                if let Some(lost) = done.lost_place {
                    if self.lost_place.is_none() {
                        tracing::error!(node = %self.config.node, "{}", lost_place_text(&lost));
                    }
                    self.lost_place = Some(lost);
                }
                if let Some(record) = job.record {
                    assert!(record.session >= self.record.session, "I8: sessions never go back");
                    self.record = record;
                }
                for (volume, header) in job.headers {
                    self.headers[usize::from(volume.0)] = header;
                }
                self.on_job_done(now, job.purpose);
            }
            Err(fault) => self.on_job_failed(now, &fault),
        }
    }

    fn on_job_done(&mut self, now: Instant, purpose: Purpose) {
        match purpose {
            Purpose::Start => {
                self.started = true;
                if let Some(failure) = &mut self.failure {
                    failure.settled = true;
                    failure.record_lost = false;
                }
            }
            Purpose::Failure => self.failure_recorded(now),
            Purpose::SourceFlush
            | Purpose::TargetMark
            | Purpose::RaiseRounds
            | Purpose::TargetFinish
            | Purpose::SourceActivate
            | Purpose::TargetActivate => {
                // A disk that failed meanwhile ends the join before the next step.
                if self.failure.as_ref().is_none_or(|failure| failure.settled) {
                    self.join_job_done(now, purpose);
                }
            }
            Purpose::CleanFlush | Purpose::CleanRecord => self.stop_job_done(now, purpose),
        }
    }

    fn on_job_failed(&mut self, now: Instant, fault: &DurableFault) {
        let text = format!("{}: {} failed: {}", fault.path, fault.operation, fault.fault);
        self.fail(now, fault.volume, text, fault.volume.is_none());
    }

    /// This node's disk or record failed: stop at once, then say so durably, then tell the peer
    /// (W8, U3).
    pub(super) fn fail(
        &mut self,
        now: Instant,
        volume: Option<VolumeIndex>,
        text: String,
        record_lost: bool,
    ) {
        tracing::error!(node = %self.config.node, "{text}");
        self.close_gate();
        self.limit_hold(now);
        self.timers.set(Timer::Retry, now + RETRY_AFTER);
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
        self.beat_due = true;
    }

    /// Part of `settle`: writes a failure into the record as soon as the writer is free.
    pub(super) fn settle_failure(&mut self, now: Instant) {
        let Some(failure) = &self.failure else { return };
        if failure.settled || self.job.is_some() {
            return;
        }
        if failure.record_lost || !self.started {
            // Nothing can be written now; it is tried again at the retry.
            self.failure_recorded(now);
            return;
        }
        let mut record = self.record.clone();
        mark_failed(&mut record);
        let mut job = Job::new(Purpose::Failure);
        job.record(record);
        self.submit(job);
    }

    fn failure_recorded(&mut self, now: Instant) {
        let Some(failure) = &mut self.failure else { return };
        failure.settled = true;
        let text = format!("the disk of {} failed: {}", self.config.node, failure.text);
        let recorded = !failure.record_lost;
        assert!(
            !recorded || self.record.io_failed || !self.started,
            "W8: the record says that the disk failed before the peer is told"
        );
        for volume in std::mem::take(&mut failure.volumes) {
            if recorded {
                self.actions.push_back(Action::Volume(volume, VolumeCommand::FailureRecorded));
            }
        }
        self.leave(now, &text);
    }

    /// The disk has been asked for something for longer than T_io. If the process ends now, nobody
    /// learns whether it was done.
    pub(super) fn note_late_disk(&mut self) {
        if !self.disk_late {
            self.disk_late = true;
            self.actions.push_back(Action::DiskLate(true));
        }
    }

    /// Part of `settle`: all of it was done, or has failed and is known to have.
    pub(super) fn settle_late_disk(&mut self) {
        if self.disk_late && self.is_quiet() && self.job.is_none() {
            self.disk_late = false;
            self.actions.push_back(Action::DiskLate(false));
        }
    }

    /// After the wait: the disk may be mended by a join as target; a record that could not be
    /// written is tried once more, which decides.
    pub(super) fn retry_after_failure(&mut self, now: Instant) {
        if self.job.is_some() {
            self.timers.set(Timer::Retry, now + RETRY_AFTER);
            return;
        }
        if !self.started {
            self.submit_start();
            return;
        }
        let Some(failure) = &mut self.failure else { return };
        if failure.record_lost {
            failure.record_lost = false;
            failure.settled = false;
            let mut record = self.record.clone();
            mark_failed(&mut record);
            let mut job = Job::new(Purpose::Failure);
            job.record(record);
            self.submit(job);
        }
    }

    /// Whether a failed disk or record still forbids a join.
    pub(super) fn must_wait_after_failure(&self) -> bool {
        self.timers.is_set(Timer::Retry)
            || self.failure.as_ref().is_some_and(|f| !f.settled || f.record_lost)
    }

    /// F6.
    pub(super) fn submit_source_flush(&mut self) {
        let mut job = Job::new(Purpose::SourceFlush);
        if self.config.rules.hold(Rule::SourceFlushFirst) {
            self.volume_indexes().for_each(|volume| job.sync(volume));
            assert!(
                job.flushes(self.headers.len()),
                "F6: every volume is flushed before its first block is sent"
            );
        }
        self.submit(job);
    }

    /// The phase is over and nothing of this node is under way any more.
    pub(super) fn is_at_rest(&self) -> bool {
        self.phase == Phase::Idle && self.job.is_none() && self.is_quiet()
    }

    pub(super) fn timings(&self) -> Timers {
        self.config.timers
    }
}

/// What is said while the record is kept in one place only.
pub(super) fn lost_place_text(lost: &str) -> String {
    format!(
        "{lost}; the record is kept twice in the other directory, and the node goes on: losing \
         that one, too, would lose the record"
    )
}

fn mark_failed(record: &mut NodeRecord) {
    record.io_failed = true;
    record.clean = false;
    record.continuity = record.continuity.max(Continuity::Unclean);
}
