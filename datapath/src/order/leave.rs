//! What becomes of what is under way: when its client goes, and when the session ends.
//!
//! Invariants: W7 what was not submitted is dropped, what was submitted is waited for. D7 what the
//! peer never saw is forgotten with its client, or held.

use std::collections::BTreeMap;

use base::ids::ClientId;
use base::range::ByteRange;
use base::request::{Operation, RequestId, Write};
use base::rules::Rule;

use super::live::{LiveRead, LiveWrite, Origin};
use super::mirror::{Arrival, Mirror};
use crate::late_reads::{LateRead, LateReads};
use crate::outbox::{IoUse, Outbox};

/// An own write that was sent to the peer and not answered when the session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CarriedWrite {
    /// Its arrival number.
    pub arrival: u64,
    /// Whose.
    pub id: RequestId,
    /// What.
    pub write: Write,
    /// This node's copy has it.
    pub applied: bool,
    /// Its apply was submitted and has not completed.
    pub in_flight: bool,
}

/// What is left of a session.
#[derive(Debug)]
pub struct Leftovers {
    /// Requests that the peer never saw, oldest first.
    pub held: Vec<Arrival>,
    /// Own writes that it may have seen.
    pub carried: Vec<CarriedWrite>,
    /// Ranges in which the copies may differ.
    pub uncommitted: Vec<ByteRange>,
}

impl Mirror {
    /// A client has gone: what waits for a place or a lock is forgotten. What has been sent goes
    /// on, its reply goes nowhere.
    pub(crate) fn client_gone(&mut self, client: ClientId, out: &mut Outbox) {
        self.flushes.remove_client(client);
        self.forget_writes(client, out);
        self.forget_reads(client, out);
    }

    fn forget_writes(&mut self, client: ClientId, out: &mut Outbox) {
        let unsent = |live: &LiveWrite| {
            matches!(live.origin, Origin::Own { request, .. } if request.client == client)
                && live.seq.is_none()
                && live.fid.is_none()
        };
        let writes: Vec<_> =
            self.writes.iter().filter(|(_, live)| unsent(live)).map(|(slot, _)| slot).collect();
        for slot in writes {
            // One that the removal of another gave its place is no longer waiting.
            if self.writes.get(slot).is_some_and(unsent) {
                let live = self.remove_write(slot);
                self.leave_lock(live.lock.expect("waits for its range"), out);
            }
        }
    }

    fn forget_reads(&mut self, client: ClientId, out: &mut Outbox) {
        let waits = |read: &LiveRead| read.request.client == client && !read.submitted;
        let reads: Vec<_> =
            self.reads.iter().filter(|(_, read)| waits(read)).map(|(slot, _)| slot).collect();
        for slot in reads {
            if self.reads.get(slot).is_some_and(waits) {
                let read = self.remove_read(slot);
                self.leave_lock(read.lock, out);
            }
        }
    }

    /// Leaves the session (W7): what was not submitted is dropped, what the peer never saw is held,
    /// own writes that it may have seen are carried.
    /// Reads under way go on in `late`.
    pub(crate) fn leave(
        mut self,
        mut number: impl FnMut() -> u64,
        late: &mut LateReads,
        out: &mut Outbox,
    ) -> Leftovers {
        let mut leftovers =
            Leftovers { held: Vec::new(), carried: Vec::new(), uncommitted: Vec::new() };
        let carried = self.part_with_writes(&mut leftovers);
        let reads = self.part_with_reads(&mut leftovers, late);
        for id in self.flushes.into_requests() {
            leftovers.held.push(Arrival { number: number(), id, operation: Operation::Flush });
        }
        leftovers.held.sort_by_key(|arrival| arrival.number);
        leftovers.carried.sort_by_key(|carried| carried.arrival);
        out.reassign(|used_for| match used_for {
            IoUse::Apply { slot } => match carried.get(slot) {
                Some(arrival) => IoUse::Carried { arrival: *arrival },
                None => IoUse::Orphan,
            },
            IoUse::Read { slot } => IoUse::LateRead { slot: reads[slot] },
            IoUse::LocalFlush | IoUse::PeerFlush { .. } | IoUse::SourceRead { .. } => IoUse::Orphan,
            other => other.clone(),
        });
        leftovers
    }

    /// The arrival numbers of the carried ones, by slot.
    fn part_with_writes(&self, leftovers: &mut Leftovers) -> BTreeMap<usize, u64> {
        let mut arrivals = BTreeMap::new();
        for (slot, live) in &self.writes {
            if live.submitted {
                leftovers.uncommitted.push(live.write.range);
            }
            let Origin::Own { request, arrival } = live.origin else { continue };
            if live.replied && self.info.rules.hold(Rule::AckFromBoth) {
                continue;
            }
            if live.seq.is_none() && live.fid.is_none() {
                let operation = Operation::Write(live.write.clone());
                leftovers.held.push(Arrival { number: arrival, id: request, operation });
                continue;
            }
            arrivals.insert(slot, arrival);
            leftovers.carried.push(CarriedWrite {
                arrival,
                id: request,
                write: live.write.clone(),
                applied: live.here,
                in_flight: live.in_flight,
            });
        }
        arrivals
    }

    /// Reads that wait are asked again, the others go on: their new slots, by the old ones.
    fn part_with_reads(
        &mut self,
        leftovers: &mut Leftovers,
        late: &mut LateReads,
    ) -> BTreeMap<usize, usize> {
        let mut slots = BTreeMap::new();
        for (slot, read) in std::mem::take(&mut self.reads) {
            let LiveRead { request, arrival, range, serve_gen, result, stages, .. } = read;
            if !read.submitted {
                let operation = Operation::Read { range };
                leftovers.held.push(Arrival { number: arrival, id: request, operation });
                continue;
            }
            let asked = Some((arrival, request));
            let late_read = LateRead { asked, range, serve_gen, lock: None, result, stages };
            slots.insert(slot, late.add(late_read));
        }
        slots
    }
}
