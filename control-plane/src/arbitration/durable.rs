//! Jobs for the record writer: one at a time, and what the record says only once it is durable.
//!
//! Invariants: I8; the fsync order of PROTOCOL 2.2, each line one function of a sibling.
//! Faults assumed: a job may fail at any step; then the memory keeps what was durable before and
//! the next record takes a higher number than any that may have been written.

use std::collections::BTreeMap;

use base::ids::{Ticket, VolumeIndex};
use base::rules::Rule;
use base::time::Duration;

use super::claim::Claim;
use super::group::Group;
use super::message::Give;
use super::port::Action;
use super::renumber::Renumber;
use super::timers::Timer;
use crate::polarization::{DurableDone, DurableFault, DurableStep};
use crate::record::{NodeRecord, Stamp, VolumeHeader};

/// How long a disk that failed is left alone.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a job is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Purpose {
    /// F0.
    Start,
    /// F1; then this is sent.
    Give(Box<Give>),
    /// F2; then this is sent back, if it has votes.
    Take(Box<Give>),
    /// The witness's vote was won.
    Won,
    /// F4.
    Solo,
    /// A winner that was stopped serves again.
    Open,
    /// The winner makes the next session: its record, and F6.
    JoinSource,
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
    /// W8, U3: this node's disk failed.
    Failure,
    /// A clean stop: data, stamps, rounds, then the record.
    Clean,
}

/// A job being put together, and then under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Job {
    pub(super) purpose: Purpose,
    ticket: Ticket,
    steps: Vec<Step>,
    record: Option<NodeRecord>,
    headers: BTreeMap<VolumeIndex, VolumeHeader>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Step {
    Sync(VolumeIndex),
    Stamp(VolumeIndex, Stamp),
    Header(VolumeIndex),
    Record,
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
        self.steps.push(Step::Sync(volume));
    }

    /// Whether it begins with a flush of all `volumes`.
    pub(super) fn flushes(&self, volumes: usize) -> bool {
        self.steps.iter().take_while(|step| matches!(step, Step::Sync(_))).count() == volumes
    }

    pub(super) fn stamp(&mut self, volume: VolumeIndex, stamp: Stamp) {
        self.steps.push(Step::Stamp(volume, stamp));
    }

    pub(super) fn header(&mut self, volume: VolumeIndex, header: VolumeHeader) {
        let earlier = self.headers.insert(volume, header);
        assert!(earlier.is_none(), "a job writes a header once");
        self.steps.push(Step::Header(volume));
    }

    pub(super) fn record(&mut self, record: NodeRecord) {
        assert!(self.record.is_none(), "a job writes the record once");
        self.steps.push(Step::Record);
        self.record = Some(record);
    }

    /// See `renumber`.
    pub(super) fn renumber(&mut self, names: &mut Renumber) {
        self.ticket = Ticket(0);
        self.record.iter_mut().for_each(|record| names.record(record));
        self.headers.values_mut().for_each(|header| names.header(header));
        for step in &mut self.steps {
            if let Step::Stamp(_, stamp) = step {
                names.stamp(stamp);
            }
        }
    }

    fn durable_steps(&self) -> Vec<DurableStep> {
        let step = |step: &Step| match step {
            Step::Sync(volume) => DurableStep::SyncData(*volume),
            Step::Stamp(volume, stamp) => DurableStep::WriteStamp(*volume, *stamp),
            Step::Header(volume) => DurableStep::WriteHeader(*volume, self.headers[volume]),
            Step::Record => {
                let record = self.record.clone().expect("the step stands for it");
                DurableStep::WriteRecord(Box::new(record))
            }
        };
        self.steps.iter().map(step).collect()
    }
}

impl Group {
    /// Hands a job to the writer. Record and headers get their numbers here: never one that an
    /// earlier job, failed half-way, may have written already.
    pub(super) fn submit(&mut self, mut job: Job) {
        assert!(self.job.is_none(), "one durable job at a time");
        self.next_ticket += 1;
        job.ticket = Ticket(self.next_ticket);
        if let Some(record) = &mut job.record {
            assert!(record.record_seq <= self.record_seq_used, "I8: numbers go up");
            self.record_seq_used += 1;
            record.record_seq = self.record_seq_used;
        }
        for (volume, header) in &mut job.headers {
            let used = &mut self.header_seq_used[usize::from(volume.0)];
            assert!(header.header_seq <= *used, "header numbers go up");
            *used += 1;
            header.header_seq = *used;
        }
        let steps = job.durable_steps();
        if steps.iter().any(DurableStep::flushes_data) {
            self.timers.set(Timer::Flush, self.clock.time + self.timings().io_timeout);
        }
        self.actions.push_back(Action::Durable { ticket: job.ticket, steps });
        self.job = Some(job);
    }

    pub(super) fn on_durable(&mut self, ticket: Ticket, result: Result<DurableDone, DurableFault>) {
        let job = self.job.take().expect("a ticket comes back once");
        self.timers.clear(Timer::Flush);
        assert_eq!(job.ticket, ticket, "tickets come back in order");
        match result {
            Ok(done) => {
                self.lost_place = done.lost_place.or(self.lost_place.take());
                if let Some(record) = job.record {
                    self.check_record(&record);
                    if record.witness_token != self.record.witness_token {
                        self.is_token_unknown = false;
                        self.claim = Claim::None;
                    }
                    self.record = record;
                }
                for (volume, header) in job.headers {
                    self.headers[usize::from(volume.0)] = header;
                }
                self.on_job_done(job.purpose);
            }
            Err(fault) => {
                let text = format!("{}: {} failed: {}", fault.path, fault.operation, fault.fault);
                self.fail(fault.volume, text, fault.volume.is_none());
            }
        }
    }

    /// I8, I1: nothing that has been durable goes back.
    fn check_record(&self, next: &NodeRecord) {
        assert!(next.session >= self.record.session, "I8: sessions never go back");
        let counted = self.config.rules.hold(Rule::TransfersCounted);
        if next.session == self.record.session && counted {
            for (old, new) in self.record.votes.iter().zip(&next.votes) {
                assert!(new.transfers >= old.transfers, "I8: transfers never go back");
            }
        }
    }

    fn on_job_done(&mut self, purpose: Purpose) {
        if purpose == Purpose::TargetFinish {
            // What was wrong with this copy is mended: it is equal to the other one.
            self.failure = None;
            self.timers.clear(Timer::Retry);
        }
        match purpose {
            Purpose::Start => self.start_done(),
            Purpose::Give(give) => self.give_done(*give),
            Purpose::Take(back) => self.take_done(*back),
            Purpose::Won => self.won_done(),
            Purpose::Solo => self.solo_is_durable(),
            Purpose::Open => self.open_alone(),
            Purpose::Failure => self.failure_recorded(),
            Purpose::Clean => self.clean_done(),
            Purpose::JoinSource
            | Purpose::TargetMark
            | Purpose::RaiseRounds
            | Purpose::TargetFinish
            | Purpose::SourceActivate
            | Purpose::TargetActivate => {
                // A disk that failed meanwhile ends the join before the next step.
                if self.failure.is_none() {
                    self.join_job_done(&purpose);
                }
            }
        }
    }

    /// This node's stamp with a round.
    pub(super) fn stamp(&self, volume: VolumeIndex, round: u64) -> Stamp {
        let header = self.header(volume);
        let (volume_id, disk_id) = (header.volume_id, header.disk_id);
        Stamp { volume_id, disk_id, generation: self.record.generation, round }
    }
}
