//! The same state with small numbers: what only has to differ is counted from the first, instants
//! are relative to now, texts are gone. For a model checker, to which two states that can only do
//! the same are one.

use std::collections::BTreeMap;

use base::ids::Generation;
use base::time::Instant;

use super::grant::{AskedIds, Moment};
use super::group::{Group, Phase};
use super::message::{Hello, Message};
use crate::record::{NodeRecord, RecordState, Stamp, VolumeHeader};

/// The moment to which a renumbered clock is set back.
pub const NOW: Moment =
    Moment { time: Instant::from_nanos(1 << 50), raw: Instant::from_nanos(1 << 50) };

/// Names that were given so far.
#[derive(Debug, Default)]
pub struct Renumber {
    generations: BTreeMap<Generation, u8>,
}

impl Renumber {
    fn generation(&mut self, generation: &mut Generation) {
        if generation.is_none() {
            return;
        }
        let next = u8::try_from(self.generations.len() + 1).expect("few generations");
        let number = *self.generations.entry(*generation).or_insert(next);
        *generation = Generation([number; 16]);
    }

    fn state(&mut self, state: &mut RecordState) {
        if let RecordState::Target { source_generation, .. } = state {
            self.generation(source_generation);
        }
    }

    /// A record, also one on disk.
    pub fn record(&mut self, record: &mut NodeRecord) {
        record.record_seq = 1;
        record.start_seq = 1;
        self.state(&mut record.state);
        self.generation(&mut record.generation);
        record.ancestors.iter_mut().for_each(|generation| self.generation(generation));
    }

    /// A header, also one on disk.
    pub fn header(&mut self, header: &mut VolumeHeader) {
        header.header_seq = 1;
        header.start_seq = 1;
        self.generation(&mut header.bitmap_base);
        self.generation(&mut header.next_generation);
    }

    /// A stamp, also one on disk.
    pub fn stamp(&mut self, stamp: &mut Stamp) {
        self.generation(&mut stamp.generation);
    }

    fn hello(&mut self, hello: &mut Hello) {
        hello.start_seq = 1;
        self.state(&mut hello.state);
        self.generation(&mut hello.generation);
        hello.ancestors.iter_mut().for_each(|generation| self.generation(generation));
        hello.volumes.iter_mut().for_each(|volume| self.generation(&mut volume.bitmap_base));
    }

    /// A message under way.
    pub fn message(&mut self, message: &mut Message) {
        match message {
            Message::Hello(hello) => self.hello(hello),
            Message::Left { why, .. } => why.clear(),
            Message::Refuse { reason } => reason.clear(),
            _ => {}
        }
    }

    /// A node's core between two events; what its requests for a grant are counted from.
    pub fn group(&mut self, group: &mut Group) -> AskedIds {
        assert!(group.actions.is_empty(), "all of them were carried out");
        self.record(&mut group.record);
        group.record_seq_used = 1;
        group.header_seq_used.fill(1);
        group.headers.iter_mut().for_each(|header| self.header(header));
        group.next_ticket = 0;
        if let Some(job) = &mut group.job {
            job.renumber(self);
        }
        if let Some(link) = &mut group.link {
            link.my_hello.iter_mut().for_each(|hello| self.hello(hello));
            link.peer_hello.iter_mut().for_each(|hello| self.hello(hello));
            link.heard = NOW.time;
        }
        match &mut group.phase {
            Phase::Idle => {}
            Phase::Joining(join) => self.hello(join.peer_mut()),
            Phase::Leaving(leaving) => leaving.why.clear(),
        }
        if let Some(failure) = &mut group.failure {
            failure.text.clear();
        }
        // No two published rights meet in one turn.
        group.right.serve_gen = 0;
        let clock = group.clock;
        let shift = group.grants.renumber(clock);
        group.right.until = relative(group.right.until, clock);
        group.timers.renumber(clock.time);
        group.clock = NOW;
        shift
    }

    /// The number of a request of a node, or of the grant for it.
    pub fn request(&mut self, message: &mut Message, sender: AskedIds, receiver: AskedIds) {
        match message {
            Message::GrantReq(request) => request.id = sender.renumber(request.id),
            Message::Grant { id, .. } => *id = receiver.renumber(*id),
            _ => {}
        }
    }
}

impl Group {
    /// From here on it goes by these rules.
    pub fn set_rules(&mut self, rules: base::rules::Rules) {
        std::sync::Arc::make_mut(&mut self.config).rules = rules;
    }
}

/// An instant of a clock that is set back to [`NOW`].
pub(super) fn relative(moment: Moment, clock: Moment) -> Moment {
    let time = relative_instant(moment.time, clock.time, NOW.time);
    let raw = relative_instant(moment.raw, clock.raw, NOW.raw);
    Moment { time, raw }
}

/// Likewise, where it is in the past and how long ago counts.
pub(super) fn relative_past(moment: Moment, clock: Moment) -> Moment {
    let back = |at: Instant, clock: Instant, now: Instant| {
        let ago = u64::try_from(clock.since(at).as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(now.as_nanos().saturating_sub(ago))
    };
    Moment {
        time: back(moment.time, clock.time, NOW.time),
        raw: back(moment.raw, clock.raw, NOW.raw),
    }
}

pub(super) fn relative_instant(at: Instant, clock: Instant, now: Instant) -> Instant {
    if at == Instant::NEVER || at == Instant::ZERO {
        at
    } else if at <= clock {
        // Over is over, however long ago.
        now
    } else {
        now + at.since(clock)
    }
}
