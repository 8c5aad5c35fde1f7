//! Going on alone: two of three votes, a promise that is over, volumes that are quiet, and a durable
//! record that says so (PROTOCOL 2.2 F4, 2.4).
//!
//! Invariants: I2, I5, I6, F4.

use base::ids::Generation;
use base::limits::ANCESTORS_MAX;
use base::rules::{Rule, Rules};
use datapath::port::VolumeCommand;
use witness::wire::Note;

use super::durable::{Job, Purpose};
use super::grant::look_again;
use super::group::{Group, Phase};
use super::port::{Action, WitnessWish};
use super::state::State;
use super::timers::Timer;
use super::vote::count;
use crate::record::{Continuity, NodeRecord, RecordState, VolumeHeader};

impl Group {
    /// It has the votes; what it promised to the peer has to be over, too.
    pub(super) fn await_promise(&mut self) {
        if self.state == State::Deciding && !self.is_promise_over() {
            let at = look_again(self.grants.promised, self.clock);
            self.timers.set(Timer::Promise, at);
        }
    }

    /// Part of `settle`, while the record may be written: F4.
    pub(super) fn submit_solo(&mut self) -> bool {
        let ready = self.state == State::Deciding
            && self.has_left()
            && self.is_quiet()
            && self.votes() >= 2
            && self.is_eligible()
            && self.giving.is_none()
            && (!self.is_handing_off() || self.has_answered_handoff);
        if !ready {
            return false;
        }
        if !self.is_promise_over() {
            self.await_promise();
            return false;
        }
        let mut job = Job::new(Purpose::Solo);
        self.fill_solo(&mut job, self.record.clone());
        self.submit(job);
        true
    }

    /// F4: data, headers, stamps, then the record.
    pub(super) fn fill_solo(&mut self, job: &mut Job, mut record: NodeRecord) {
        assert!(record.is_whole(), "I5: a target never goes on alone");
        assert!(
            self.state == State::Ready || self.votes() >= 2,
            "F2: votes count when they are durable"
        );
        assert!(count(&record) >= 2, "I2: a node goes on alone with two votes of three");
        assert!(self.is_promise_over(), "I6: no promise binds a node that goes on alone");
        assert!(
            record.continuity <= Continuity::ProcessRestart
                || self.peer_unclean_too
                || !self.config.rules.hold(Rule::UncleanNeverWins),
            "I17: a node that may lack acknowledged writes does not go on alone"
        );
        let before = record.generation;
        let next = self.next_generation();
        self.volume_indexes().for_each(|volume| job.sync(volume));
        for volume in self.volume_indexes() {
            let header = *self.header(volume);
            let marks = VolumeHeader { bitmap_base: before, next_generation: next, ..header };
            job.header(volume, marks);
        }
        for volume in self.volume_indexes() {
            let mut stamp = self.stamp(volume, self.header(volume).round);
            stamp.generation = next;
            job.stamp(volume, stamp);
        }
        record.ancestors.insert(0, before);
        record.ancestors.truncate(ANCESTORS_MAX);
        record.generation = next;
        record.state = RecordState::Solo;
        record.continuity = Continuity::Continuous;
        record.by_reset = false;
        record.session_boot_id = record.boot_id;
        // A node that is being stopped serves nobody any more: what it holds stays as it is.
        let untouched = self.is_stopping() && self.left_equal;
        record.clean = untouched;
        record.solo_io_count = u64::from(!untouched);
        job.record(record);
    }

    /// Unguessable and new: this process and this record.
    fn next_generation(&self) -> Generation {
        let incarnation = self.record.incarnation.0;
        let mut bytes = Vec::from(incarnation);
        bytes.extend((self.record_seq_used + 1).to_le_bytes());
        Generation(xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes())
    }

    pub(super) fn solo_is_durable(&mut self) {
        assert!(
            self.config.rules != Rules::ALL_HOLD || self.record.state == RecordState::Solo,
            "F4: the record says Solo before the first operation alone"
        );
        self.token_move.forget();
        self.enter_solo();
        let note = Note {
            session: self.record.session,
            generation: self.record.generation,
            winner: self.config.node.clone(),
            forced: self.record.forced,
        };
        self.actions.push_back(Action::Witness(WitnessWish::Note(note)));
    }

    /// The volumes serve alone from now on; the gate opens when all have said so.
    pub(super) fn enter_solo(&mut self) {
        assert!(self.is_quiet() && self.phase == Phase::Idle, "W7: quiet before Solo");
        self.member_of = None;
        self.peer_unclean_too = false;
        self.claim = super::claim::Claim::None;
        self.is_gate_dropped = false;
        self.forget_grants();
        self.timers.clear(Timer::Promise);
        self.timers.clear(Timer::Claim);
        let why = format!("won session {}", self.record.session);
        self.transition(State::Solo, &why);
        if self.is_stopping() {
            return;
        }
        self.discarded = false;
        self.awaiting_solo = self.all_volumes();
        let session = self.record.session;
        self.alone_session = session;
        for volume in self.volume_indexes() {
            let granule_bytes = self.config.volumes[usize::from(volume.0)].granule_bytes;
            self.tell(volume, VolumeCommand::EnterSolo { session, granule_bytes });
        }
    }

    /// A volume serves alone.
    pub(super) fn on_entered_solo(&mut self, volume: base::ids::VolumeIndex) {
        self.awaiting_solo.remove(&volume);
        self.open_alone();
    }

    /// Hosts are served when the volumes are ready and the record says that they may have been.
    pub(super) fn open_alone(&mut self) {
        let alone = matches!(self.state, State::Solo | State::Source);
        if alone && self.awaiting_solo.is_empty() && self.record.solo_io_count > 0 {
            self.is_open_alone = !self.is_stopping();
            self.timers.clear(Timer::Hold);
        }
    }

    /// Part of `settle`, after a join had its chance: a winner that was stopped with equal copies
    /// serves again. From here on they may differ.
    pub(super) fn submit_open(&mut self) {
        let due = self.state == State::Solo
            && self.phase == Phase::Idle
            && self.job.is_none()
            && self.awaiting_solo.is_empty()
            && self.record.solo_io_count == 0
            && self.failure.is_none()
            && !self.is_stopping();
        if due {
            let mut record = self.record.clone();
            record.solo_io_count = 1;
            record.clean = false;
            let mut job = Job::new(Purpose::Open);
            job.record(record);
            self.submit(job);
        }
    }

    /// A node whose record says Solo knows that it was the last winner; it looks for a successor
    /// first (2.12).
    pub(super) fn enough_probing(&mut self) {
        let probing = self.state == State::Starting
            && self.started
            && self.record.state == RecordState::Solo
            && self.record.continuity < Continuity::Amnesia;
        if probing && !self.is_stopping() {
            self.timers.clear(Timer::Probe);
            self.enter_solo();
        }
    }

    /// I2, I5, I6 as far as this node can see them.
    pub(super) fn check_solo(&self) {
        if !self.config.rules.hold(Rule::UncleanNeverWins) {
            return;
        }
        if self.state == State::Solo {
            assert_eq!(self.record.state, RecordState::Solo, "F4: Solo is durable first");
        }
    }
}
