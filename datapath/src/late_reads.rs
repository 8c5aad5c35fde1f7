//! Reads after a session was left: a node that does not know yet who goes on answers them for as long
//! as its gate for that session is open (PROTOCOL 2.4, 2.5.3).
//!
//! Owns: what is uncommitted in this node's copy since then, reads under way.
//! In: requests that are held, completions, one sample of clock and gate per turn. Out: actions.
//! Invariants: W3 nothing is read that is not on both copies. I9 a read is answered only under the
//! gate that it was admitted under; that of the session that was left, or none.
//! Not here: reads of a session (`order/reads.rs`), anything that changes the copy (`order/leave.rs`).
//!
//! Why this is right: what this node may yet change is in the uncommitted ranges, as nothing new is
//! applied before the next session. What the other node acknowledges alone it acknowledges when
//! the right of this one to read has ended, and what both acknowledged is here.

use base::ids::{ClientId, Session};
use base::range::ByteRange;
use base::request::{Operation, RequestId};
use base::rules::{Rule, Rules};
use base::time::Instant;
use slab::Slab;

use crate::gate::Gate;
use crate::held::Held;
use crate::order::mirror::Arrival;
use crate::order::ranges::LockId;
use crate::order::reads::read_completion;
use crate::outbox::{IoUse, Outbox, Stages};
use crate::storage::{IoDone, IoFault, IoOperation};

/// A read that was begun in the session or after it.
#[derive(Debug)]
pub(crate) struct LateRead {
    /// Its arrival number and whose it is, unless nobody waits for it any more.
    pub(crate) asked: Option<(u64, RequestId)>,
    pub(crate) range: ByteRange,
    /// The gate's generation at admission.
    pub(crate) serve_gen: u64,
    /// What keeps writes of the time after away, until it has ended.
    pub(crate) lock: Option<LockId>,
    pub(crate) result: Option<Result<IoDone, IoFault>>,
    pub(crate) stages: Stages,
}

/// The session that was left.
#[derive(Debug)]
struct Left {
    session: Session,
    serve_gen: u64,
    granule_bytes: u64,
    /// Whole granules, by place, apart from each other.
    uncommitted: Vec<ByteRange>,
    /// What arrived before was looked at.
    seen: u64,
}

/// Reads after a session.
#[derive(Debug, Default)]
pub(crate) struct LateReads {
    left: Option<Left>,
    reads: Slab<LateRead>,
    done: Vec<usize>,
    under_way: usize,
    bytes: u64,
}

impl LateReads {
    /// A session was left whose gate was open last in this generation.
    pub(crate) fn begin(
        &mut self,
        session: Session,
        serve_gen: u64,
        granule_bytes: u32,
        uncommitted: &[ByteRange],
    ) {
        let granule_bytes = u64::from(granule_bytes);
        let mut whole: Vec<_> =
            uncommitted.iter().map(|range| range.round_out(granule_bytes)).collect();
        whole.sort_unstable();
        let mut apart: Vec<ByteRange> = Vec::with_capacity(whole.len());
        for range in whole {
            match apart.last_mut().filter(|last| last.end() >= range.offset()) {
                Some(last) => {
                    *last = ByteRange::between(last.offset(), last.end().max(range.end()));
                }
                None => apart.push(range),
            }
        }
        self.left = Some(Left { session, serve_gen, granule_bytes, uncommitted: apart, seen: 0 });
    }

    /// A read goes on.
    pub(crate) fn add(&mut self, read: LateRead) -> usize {
        let is_done = read.result.is_some();
        self.bytes += read.range.length();
        let slot = self.reads.insert(read);
        if is_done {
            self.done.push(slot);
        } else {
            self.under_way += 1;
        }
        slot
    }

    /// Reads whose data has not come: nothing changes by them.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Reads, and what they keep in memory.
    pub(crate) fn load(&self) -> (usize, u64) {
        (self.reads.len(), self.bytes)
    }

    /// Its data has come. Returns its lock.
    pub(crate) fn done(
        &mut self,
        slot: usize,
        result: Result<IoDone, IoFault>,
        now: Instant,
    ) -> Option<LockId> {
        self.under_way -= 1;
        let read = &mut self.reads[slot];
        read.result = Some(result);
        read.stages.here = Some(now);
        let lock = read.lock.take();
        if read.asked.is_some() {
            self.done.push(slot);
        } else {
            self.remove(slot);
        }
        lock
    }

    /// A client has gone, or every one.
    pub(crate) fn forget(&mut self, client: Option<ClientId>) {
        for (_, read) in &mut self.reads {
            read.asked = read.asked.filter(|(_, id)| client.is_some_and(|c| c != id.client));
        }
        self.remove_unasked();
    }

    fn remove_unasked(&mut self) {
        let is_asked = |slot: &usize| self.reads[*slot].asked.is_some();
        let (asked, unasked) = std::mem::take(&mut self.done).into_iter().partition(is_asked);
        self.done = asked;
        let unasked: Vec<usize> = unasked;
        for slot in unasked {
            self.remove(slot);
        }
    }

    /// Every read leaves here.
    fn remove(&mut self, slot: usize) -> LateRead {
        let read = self.reads.remove(slot);
        self.bytes -= read.range.length();
        read
    }

    /// The time of that session is over: what was not answered is asked again.
    pub(crate) fn end(&mut self, rules: Rules) -> Vec<Arrival> {
        self.left = None;
        if !rules.hold(Rule::GateAtReply) {
            return Vec::new();
        }
        let mut held = Vec::new();
        for (_, read) in &mut self.reads {
            held.extend(read.asked.take().map(|asked| arrival(asked, read.range)));
        }
        self.remove_unasked();
        held.sort_by_key(|arrival| arrival.number);
        held
    }

    /// What is still being read, for those who will write there.
    pub(crate) fn ranges_under_way(&self) -> Vec<(usize, ByteRange)> {
        let under_way = self.reads.iter().filter(|(_, read)| read.result.is_none());
        under_way.map(|(slot, read)| (slot, read.range)).collect()
    }

    pub(crate) fn keep_lock(&mut self, slot: usize, lock: Option<LockId>) {
        self.reads[slot].lock = lock;
    }

    /// Whether a turn has something to do here.
    pub(crate) fn is_idle(&self) -> bool {
        self.left.is_none() && self.done.is_empty()
    }

    /// The end of a turn: answers reads, admits those that are held and see committed data only.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        gate: Gate,
        next_arrival: u64,
        held: &mut Held,
        (rules, out): (Rules, &mut Outbox),
    ) {
        let is_same =
            |left: &Left| gate.session == left.session && gate.serve_gen == left.serve_gen;
        if !self.left.as_ref().is_some_and(is_same) {
            held.put_before(self.end(rules));
        }
        let open = self.left.is_some() && gate.usable(now);
        let again = self.answer(gate, open, (rules, out));
        let Some(left) = &mut self.left else { return held.put_before(again) };
        if !again.is_empty() {
            left.seen = 0;
            held.put_before(again);
        }
        if !open {
            left.seen = 0;
            return;
        }
        let seen = std::mem::replace(&mut left.seen, next_arrival);
        if seen == next_arrival {
            return;
        }
        let dirty = !rules.hold(Rule::ReadCommitted);
        let taken = held.take_reads(seen, |range| dirty || left.may_read(range));
        for Arrival { number, id, operation } in taken {
            let range = operation_range(&operation);
            let stages = Stages { ordered: Some(now), ..Stages::begin(now) };
            self.admit((number, id), range, (gate, stages), (rules, out));
        }
    }

    fn admit(
        &mut self,
        asked: (u64, RequestId),
        range: ByteRange,
        (gate, stages): (Gate, Stages),
        (rules, out): (Rules, &mut Outbox),
    ) {
        let left = self.left.as_ref().expect("the caller's");
        assert!(
            gate.session == left.session && gate.serve_gen == left.serve_gen,
            "I9: a read is admitted under the gate of the session that was left"
        );
        assert!(
            left.may_read(range) || !rules.hold(Rule::ReadCommitted),
            "W3: nothing uncommitted is read after a session"
        );
        let serve_gen = gate.serve_gen;
        let read =
            LateRead { asked: Some(asked), range, serve_gen, lock: None, result: None, stages };
        let slot = self.add(read);
        out.submit(IoUse::LateRead { slot }, IoOperation::Read { range });
    }

    /// Answers the reads whose data is older than this sample of the gate; the others come back.
    fn answer(
        &mut self,
        gate: Gate,
        open: bool,
        (rules, out): (Rules, &mut Outbox),
    ) -> Vec<Arrival> {
        let mut held = Vec::new();
        for slot in std::mem::take(&mut self.done) {
            let read = self.remove(slot);
            let asked = read.asked.expect("what nobody waits for is gone");
            let admitted = open && read.serve_gen == gate.serve_gen;
            if admitted || !rules.hold(Rule::GateAtReply) {
                out.answer(asked.1, read_completion(read.result), read.stages);
            } else {
                held.push(arrival(asked, read.range));
            }
        }
        held.sort_by_key(|arrival| arrival.number);
        held
    }
}

impl Left {
    fn may_read(&self, range: ByteRange) -> bool {
        let range = range.round_out(self.granule_bytes);
        let next = self.uncommitted.partition_point(|other| other.end() <= range.offset());
        self.uncommitted.get(next).is_none_or(|other| !other.overlaps(range))
    }
}

fn arrival((number, id): (u64, RequestId), range: ByteRange) -> Arrival {
    Arrival { number, id, operation: Operation::Read { range } }
}

fn operation_range(operation: &Operation) -> ByteRange {
    match operation {
        Operation::Read { range } => *range,
        Operation::Write(_) | Operation::Flush | Operation::Cache { .. } => {
            unreachable!("only reads were taken")
        }
    }
}
