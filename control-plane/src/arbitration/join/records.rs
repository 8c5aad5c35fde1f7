//! What a join makes durable: F5 to F8b of PROTOCOL 2.2.

use base::rules::Rule;
use datapath::port::Scope;

use super::step::Step;
use crate::arbitration::durable::{Job, Purpose};
use crate::arbitration::group::{Group, Phase};
use crate::record::{Continuity, NodeRecord, RecordState, VolumeHeader, Vote};

impl Group {
    /// 2.8.2 step 1: the session that only its winner makes, with both votes and no token; then
    /// F6: what was acknowledged in the old one is durable before the first block is sent.
    pub(super) fn submit_source(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("a step of a join") };
        assert_eq!(self.record.state, RecordState::Solo, "I3: only a winner makes a session");
        let mut record = self.record.clone();
        record.session = join.session;
        record.votes = [Vote { held: true, transfers: 0 }; 2];
        record.witness_token = None;
        record.witness_won = false;
        record.solo_io_count = 1;
        record.clean = false;
        let mut job = Job::new(Purpose::JoinSource);
        if self.config.rules.hold(Rule::SourceFlushFirst) {
            self.volume_indexes().for_each(|volume| job.sync(volume));
            assert!(
                job.flushes(self.headers.len()),
                "F6: every volume is flushed before its first block is sent"
            );
        }
        job.record(record);
        self.submit(job);
    }

    /// F5: from here on this copy counts as nothing until F7. Skipped where nothing will be
    /// overwritten: until touched it still counts as a copy of its session.
    pub(super) fn mark_target(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("F5 belongs to a join") };
        let mut job = Job::new(Purpose::TargetMark);
        let record_first = self.config.rules.hold(Rule::TargetRecordFirst);
        let mut record = self.record.clone();
        // Its votes are void: the peer has won.
        record.votes.iter_mut().for_each(|vote| vote.held = false);
        record.witness_token = None;
        record.witness_won = false;
        if join.scope != Scope::Nothing && record_first {
            record.state = RecordState::Target {
                source_generation: join.peer.generation,
                source_session: join.session,
            };
            record.clean = false;
        }
        job.record(record);
        for volume in self.volume_indexes() {
            let peer_disk_id = join.peer_disk(volume);
            job.header(volume, VolumeHeader { peer_disk_id, ..*self.header(volume) });
        }
        self.set_step(Step::Marking);
        self.submit(job);
    }

    /// The source's own rounds first, so that a target never knows of a round that the source
    /// does not have (F7).
    pub(super) fn raise_rounds(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("rounds are raised by a join") };
        let mut job = Job::new(Purpose::RaiseRounds);
        for volume in self.volume_indexes() {
            job.stamp(volume, self.stamp(volume, join.round(volume)));
        }
        for volume in self.volume_indexes() {
            let (round, peer_disk_id) = (join.round(volume), join.peer_disk(volume));
            job.header(volume, VolumeHeader { round, peer_disk_id, ..*self.header(volume) });
        }
        self.set_step(Step::Raising);
        self.submit(job);
    }

    /// F7.
    pub(super) fn finish_target(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("F7 belongs to a join") };
        let mut job = Job::new(Purpose::TargetFinish);
        if self.config.rules.hold(Rule::TargetFlushLast) {
            self.volume_indexes().for_each(|volume| job.sync(volume));
            assert!(
                job.flushes(self.headers.len()),
                "F7: every volume is flushed before stamp and record say that it is whole"
            );
        }
        let generation = join.peer.generation;
        for volume in self.volume_indexes() {
            let mut stamp = self.stamp(volume, join.round(volume));
            stamp.generation = generation;
            job.stamp(volume, stamp);
        }
        for volume in self.volume_indexes() {
            let mut header = *self.header(volume);
            header.round = join.round(volume);
            header.peer_round = join.round(volume);
            header.peer_disk_id = join.peer_disk(volume);
            header.next_generation = generation;
            job.header(volume, header);
        }
        let mut record = self.entered_record(RecordState::Ready);
        record.generation = generation;
        record.ancestors.clone_from(&join.peer.ancestors);
        record.votes = [Vote::default(); 2];
        record.witness_token = None;
        record.witness_won = false;
        job.record(record);
        self.set_step(Step::Finishing);
        self.submit(job);
    }

    /// What F7, F8 and F8b have in common. F12: the length of a grant before it is given.
    fn entered_record(&self, state: RecordState) -> NodeRecord {
        let mut record = self.record.clone();
        let timers = self.timings();
        record.session = self.session();
        record.state = state;
        record.continuity = Continuity::Continuous;
        record.by_reset = false;
        record.session_boot_id = record.boot_id;
        record.clean = false;
        record.io_failed = false;
        let ttl_ms = u32::try_from(timers.grant_ttl.as_millis()).unwrap_or(u32::MAX);
        record.grant_ttl_max_ms = record.grant_ttl_max_ms.max(ttl_ms);
        record.drift_ppm = record.drift_ppm.max(timers.drift_ppm);
        record
    }

    /// F8: the source counts as active from submitting this on.
    pub(super) fn activate_source(&mut self) {
        let Phase::Joining(join) = &self.phase else { panic!("F8 belongs to a join") };
        let mut job = Job::new(Purpose::SourceActivate);
        if self.config.rules.hold(Rule::ActiveBeforeGo) {
            job.record(self.entered_record(RecordState::Active));
        }
        for volume in self.volume_indexes() {
            let mut header = *self.header(volume);
            header.peer_round = join.round(volume);
            header.bitmap_base = self.record.generation;
            header.next_generation = self.record.generation;
            job.header(volume, header);
        }
        self.set_step(Step::Activating);
        self.submit(job);
    }

    /// F8b.
    pub(super) fn activate_target(&mut self) {
        let mut job = Job::new(Purpose::TargetActivate);
        job.record(self.entered_record(RecordState::Active));
        for volume in self.volume_indexes() {
            let bitmap_base = self.record.generation;
            job.header(volume, VolumeHeader { bitmap_base, ..*self.header(volume) });
        }
        self.set_step(Step::TargetActivating);
        self.submit(job);
    }
}
