//! A read at this node: it waits until everything that it overlaps is committed, and is answered
//! only if the gate has not changed meanwhile.
//!
//! Invariants: W3 a read waits for overlapping uncommitted writes. I9 it is answered only under the
//! gate that it was admitted under.

use base::range::ByteRange;
use base::request::{Completion, Operation, RequestError, RequestId};
use base::rules::Rule;
use base::time::Instant;

use super::live::{LiveRead, Owner};
use super::mirror::{Arrival, Mirror};
use crate::gate::Gate;
use crate::outbox::{IoUse, Outbox, Stages};
use crate::storage::{IoDone, IoFault, IoOperation};

impl Mirror {
    pub(super) fn admit_read(
        &mut self,
        gate: Gate,
        arrival: u64,
        request: RequestId,
        range: ByteRange,
        out: &mut Outbox,
    ) {
        let slot = self.reads.vacant_key();
        let (lock, granted) = self.enter_queue(range, false, Owner::Read(slot));
        let serve_gen = gate.serve_gen;
        self.work.begin(range.length());
        self.own_bytes += range.length();
        self.reads.insert(LiveRead {
            request,
            arrival,
            range,
            lock,
            serve_gen,
            submitted: false,
            patience: self.work.patience(),
            result: None,
            stages: Stages::begin(self.now),
        });
        if granted || !self.info.rules.hold(Rule::ReadCommitted) {
            self.start_read(slot, out);
        }
    }

    pub(super) fn start_read(&mut self, slot: usize, out: &mut Outbox) {
        let read = &mut self.reads[slot];
        assert!(
            self.locks.is_granted(read.lock) || !self.info.rules.hold(Rule::ReadCommitted),
            "W3: a read waits for the uncommitted writes that it overlaps"
        );
        read.submitted = true;
        read.stages.ordered = Some(self.now);
        self.reads_begun.insert((self.now, slot));
        out.submit(IoUse::Read { slot }, IoOperation::Read { range: read.range });
    }

    /// A read has completed; it is answered or held when the turn is settled.
    pub(crate) fn read_done(&mut self, slot: usize, result: Result<IoDone, IoFault>) {
        let read = &mut self.reads[slot];
        read.result = Some(result);
        read.stages.here = Some(self.now);
        let began = read.stages.ordered.expect("it began");
        self.reads_begun.remove(&(began, slot));
        self.reads_done.push(slot);
    }

    /// Every read leaves here.
    pub(super) fn remove_read(&mut self, slot: usize) -> LiveRead {
        let read = self.reads.remove(slot);
        self.work.end(read.range.length());
        self.own_bytes -= read.range.length();
        read
    }

    /// Answers the reads whose data is older than this sample of the gate. Those that may not be
    /// answered come back in `held`.
    pub(super) fn answer_reads(
        &mut self,
        now: Instant,
        gate: Gate,
        held: &mut Vec<Arrival>,
        out: &mut Outbox,
    ) {
        for slot in std::mem::take(&mut self.reads_done) {
            let read = self.remove_read(slot);
            self.leave_lock(read.lock, out);
            let open = gate.usable(now)
                && gate.session == self.info.session
                && gate.serve_gen == read.serve_gen;
            if open || !self.info.rules.hold(Rule::GateAtReply) {
                out.answer(read.request, read_completion(read.result), read.stages);
            } else {
                let operation = Operation::Read { range: read.range };
                held.push(Arrival { number: read.arrival, id: read.request, operation });
            }
        }
    }
}

pub(crate) fn read_completion(result: Option<Result<IoDone, IoFault>>) -> Completion {
    match result.expect("a read in the list of done ones has its result") {
        Ok(IoDone::Data(data)) => Completion::Data(data),
        Ok(IoDone::Done) => unreachable!("a read returns data"),
        Err(_) => Completion::Failed(RequestError::Io),
    }
}
