//! One volume in one session: every write gets its place, goes to both copies, and is answered
//! when both have it; reads see only what both have (PROTOCOL 2.6).
//!
//! Owns: range locks, writes and reads in flight, their places.
//! In: admitted requests, the peer's messages, completions. Out: actions in the outbox.
//! Invariants: W1 the follower applies its own write only once it has a place. W2 a range stays
//! locked until both copies have the write and the lock's keeper knows. W3 a read waits for
//! overlapping uncommitted writes. W4 no reply before both copies have the write. D5 at most one
//! ordered and uncommitted write per range.
//! Faults assumed: any message may be missing because the connection ended; none is reordered,
//! repeated or altered (TLS, and the frame sequence).
//! Not here: what becomes of requests outside a session (`volume.rs`).
//!
//! Both nodes keep the same kind of lock queue. At the orderer a granted exclusive lock *is* the
//! place in the order. At the follower an entry is made when the place is known (REPL or ORDERED),
//! so its queue has the orderer's order and delays only what the reads there need.

use std::collections::BTreeMap;

use base::ids::{ClientId, ConnNonce, Session};
use base::limits::{BLOCK_BYTES, FRAME_PAYLOAD_MAX};
use base::range::ByteRange;
use base::request::{Completion, Content, Operation, RequestError, RequestId, Write};
use base::rules::{Rule, Rules};
use base::time::Instant;
use slab::Slab;

use super::flush::Flushes;
use super::ranges::{LockId, RangeLocks};
use super::told::Told;
use crate::gate::Gate;
use crate::outbox::{IoUse, Outbox};
use crate::port::Role;
use crate::storage::{IoDone, IoFault, IoOperation};
use crate::wire::DataMessage;

/// The peer broke a rule of the data link; the connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// A message that this role never gets.
    #[error("a {0} that this node's role does not take")]
    Role(&'static str),
    /// A range outside the volume or not in whole blocks.
    #[error("a range outside the volume")]
    Range,
    /// A number that names no write in the state it must have.
    #[error("a {what} for number {number}, which is not under way")]
    Number {
        /// Which message.
        what: &'static str,
        /// The number in it.
        number: u64,
    },
}

/// What a session is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Its number.
    pub session: Session,
    /// The control connection it lives on.
    pub conn_nonce: ConnNonce,
    /// This node's part.
    pub role: Role,
    /// Size of the volume, in bytes.
    pub size: u64,
    /// Which rules hold.
    pub rules: Rules,
}

/// A request as it arrived, to be admitted or held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// 0, 1, 2 ... at this node: held requests keep their order.
    pub number: u64,
    /// Whose.
    pub id: RequestId,
    /// What.
    pub operation: Operation,
}

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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Write(usize),
    Read(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// Of a host attached here.
    Own { request: RequestId, arrival: u64 },
    /// Of a host attached at the peer.
    Peer,
}

#[derive(Debug)]
struct LiveWrite {
    origin: Origin,
    /// The follower's number for its own write.
    fid: Option<u64>,
    seq: Option<u64>,
    write: Write,
    lock: Option<LockId>,
    submitted: bool,
    /// This node's copy has it.
    here: bool,
    /// The peer said that its copy has it.
    there: bool,
    /// It was answered too early: only a broken rule does that.
    replied: bool,
    since: Instant,
}

#[derive(Debug)]
struct LiveRead {
    request: RequestId,
    arrival: u64,
    range: ByteRange,
    lock: LockId,
    /// The gate's generation at admission.
    serve_gen: u64,
    submitted: bool,
    result: Option<Result<IoDone, IoFault>>,
}

impl LiveWrite {
    fn lock_was_ignored(&self, rules: Rules) -> bool {
        self.submitted && !rules.hold(Rule::RangeLocked)
    }
}

/// One volume in one session.
#[derive(Debug)]
pub struct Mirror {
    info: SessionInfo,
    /// The time of the latest event.
    now: Instant,
    locks: RangeLocks<Owner>,
    granted: Vec<Owner>,
    writes: Slab<LiveWrite>,
    reads: Slab<LiveRead>,
    reads_done: Vec<usize>,
    /// Own writes at the follower that have no place yet.
    unordered: BTreeMap<u64, usize>,
    /// Own writes that have a place, until they commit.
    own: BTreeMap<u64, usize>,
    /// The peer's writes that have a place, until it says that they are committed.
    peers: BTreeMap<u64, usize>,
    next_seq: u64,
    next_fid: u64,
    peer_fid: u64,
    told: Told,
    flushes: Flushes,
    failed_seq: Option<u64>,
}

impl Mirror {
    /// Nothing in flight.
    pub fn new(info: SessionInfo) -> Self {
        Self {
            info,
            now: Instant::ZERO,
            locks: RangeLocks::new(),
            granted: Vec::new(),
            writes: Slab::new(),
            reads: Slab::new(),
            reads_done: Vec::new(),
            unordered: BTreeMap::new(),
            own: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_seq: 1,
            next_fid: 0,
            peer_fid: 0,
            told: Told::default(),
            flushes: Flushes::default(),
            failed_seq: None,
        }
    }

    /// The session.
    pub fn info(&self) -> SessionInfo {
        self.info
    }

    /// Takes a request of an attached host; the gate was open at `now`.
    pub(crate) fn admit(&mut self, now: Instant, gate: Gate, arrival: Arrival, out: &mut Outbox) {
        self.now = now;
        assert!(
            gate.usable(now) && gate.session == self.info.session,
            "I9: a request is admitted while the gate is open"
        );
        let Arrival { number, id, operation } = arrival;
        match operation {
            Operation::Read { range } => self.admit_read(gate, number, id, range, out),
            Operation::Write(write) => self.admit_write(number, id, write, out),
            Operation::Flush => self.flushes.add(id),
            Operation::Cache { range } => {
                out.submit(IoUse::Prefetch { request: id }, IoOperation::Prefetch { range });
            }
        }
    }

    fn admit_read(
        &mut self,
        gate: Gate,
        arrival: u64,
        request: RequestId,
        range: ByteRange,
        out: &mut Outbox,
    ) {
        let slot = self.reads.vacant_key();
        let (lock, granted) = self.locks.enter(range, false, Owner::Read(slot));
        let serve_gen = gate.serve_gen;
        self.reads.insert(LiveRead {
            request,
            arrival,
            range,
            lock,
            serve_gen,
            submitted: false,
            result: None,
        });
        if granted || !self.info.rules.hold(Rule::ReadCommitted) {
            self.start_read(slot, out);
        }
    }

    fn admit_write(&mut self, arrival: u64, request: RequestId, write: Write, out: &mut Outbox) {
        let origin = Origin::Own { request, arrival };
        let slot = self.insert_write(origin, write);
        match self.info.role {
            Role::Orderer => self.enter_lock(slot, out),
            Role::Follower => {
                let fid = self.next_fid;
                self.next_fid += 1;
                self.unordered.insert(fid, slot);
                let live = &mut self.writes[slot];
                live.fid = Some(fid);
                let zeroes = !matches!(live.write.content, Content::Data(_));
                out.send(DataMessage::WriteRequest { fid, write: live.write.clone() });
                let rules = self.info.rules;
                if !rules.hold(Rule::OrderedBeforeApply)
                    || (zeroes && !rules.hold(Rule::ZeroesOrdered))
                {
                    self.apply(slot, out);
                }
            }
        }
    }

    fn insert_write(&mut self, origin: Origin, write: Write) -> usize {
        let since = self.now;
        self.writes.insert(LiveWrite {
            origin,
            fid: None,
            seq: None,
            write,
            lock: None,
            submitted: false,
            here: false,
            there: false,
            replied: false,
            since,
        })
    }

    /// The write waits for its turn on its range; at the orderer its turn is its place.
    fn enter_lock(&mut self, slot: usize, out: &mut Outbox) {
        let range = self.writes[slot].write.range;
        let (lock, granted) = self.locks.enter(range, true, Owner::Write(slot));
        self.writes[slot].lock = Some(lock);
        if granted || !self.info.rules.hold(Rule::RangeLocked) {
            self.write_granted(slot, out);
        }
    }

    fn write_granted(&mut self, slot: usize, out: &mut Outbox) {
        if self.info.role == Role::Orderer {
            self.order(slot, out);
        }
        if !self.writes[slot].submitted {
            self.apply(slot, out);
        }
    }

    /// At the orderer: gives the write its place and tells the follower at once.
    fn order(&mut self, slot: usize, out: &mut Outbox) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let live = &mut self.writes[slot];
        assert!(live.seq.is_none() && live.lock.is_some(), "D5: a write is ordered once, locked");
        live.seq = Some(seq);
        live.since = self.now;
        match live.origin {
            Origin::Own { .. } => {
                out.send(DataMessage::Repl { seq, write: live.write.clone() });
                self.own.insert(seq, slot);
                self.told.open(seq);
            }
            Origin::Peer => {
                let fid = live.fid.expect("a follower's write has its number");
                self.told.ordered.push((fid, seq));
                self.peers.insert(seq, slot);
            }
        }
    }

    fn apply(&mut self, slot: usize, out: &mut Outbox) {
        let rules = self.info.rules;
        let live = &mut self.writes[slot];
        assert!(
            live.seq.is_some()
                || !rules.hold(Rule::OrderedBeforeApply)
                || !rules.hold(Rule::ZeroesOrdered),
            "W1: a write is applied only once it has a place"
        );
        live.submitted = true;
        let durable = live.write.fua && (live.origin != Origin::Peer || rules.hold(Rule::FuaBoth));
        assert!(
            durable == live.write.fua || !rules.hold(Rule::FuaBoth),
            "P2: a FUA write is durable on each copy before it counts there"
        );
        let from_peer = live.origin == Origin::Peer;
        let trim = matches!(live.write.content, Content::Trim);
        let operation = if trim && from_peer && !rules.hold(Rule::TrimOnBoth) {
            IoOperation::Prefetch { range: live.write.range }
        } else {
            operation(&live.write, durable)
        };
        let large = live.write.range.length() > u64::from(FRAME_PAYLOAD_MAX);
        if large && from_peer && !rules.hold(Rule::AckWholeWrite) {
            live.replied = true;
            self.tell_applied(slot);
        }
        out.submit(IoUse::Apply { slot }, operation);
    }

    /// A write of the peer's host is on this node's copy.
    fn tell_applied(&mut self, slot: usize) {
        let seq = self.writes[slot].seq.expect("a write of the peer has its place");
        match self.info.role {
            Role::Orderer => self.told.applied.push(seq),
            Role::Follower => self.told.acks.push(seq),
        }
    }

    fn start_read(&mut self, slot: usize, out: &mut Outbox) {
        let read = &mut self.reads[slot];
        assert!(
            self.locks.is_granted(read.lock) || !self.info.rules.hold(Rule::ReadCommitted),
            "W3: a read waits for the uncommitted writes that it overlaps"
        );
        read.submitted = true;
        out.submit(IoUse::Read { slot }, IoOperation::Read { range: read.range });
    }

    /// An apply has completed on this node's copy.
    pub(crate) fn applied(&mut self, slot: usize, out: &mut Outbox) {
        let live = &mut self.writes[slot];
        live.here = true;
        if !self.info.rules.hold(Rule::LockUntilCommit)
            && let Some(lock) = live.lock.take()
        {
            self.leave_lock(lock, out);
        }
        let live = &mut self.writes[slot];
        match live.origin {
            Origin::Own { request, .. } => {
                if !self.info.rules.hold(Rule::AckFromBoth) {
                    live.replied = true;
                    out.reply(request, Completion::Done);
                }
                self.try_commit(slot, out);
            }
            Origin::Peer if !live.replied => self.tell_applied(slot),
            Origin::Peer => {}
        }
    }

    /// An apply has failed on this node's copy: it is never acknowledged (W8).
    pub(crate) fn apply_failed(&mut self, slot: usize) {
        let live = &self.writes[slot];
        if live.origin == Origin::Peer {
            self.failed_seq = live.seq;
        }
    }

    /// This node's failure is durable: the peer may be told.
    pub(crate) fn failure_recorded(&mut self, out: &mut Outbox) {
        if let Some(seq) = self.failed_seq.take() {
            out.send(DataMessage::Nak { seq });
        }
    }

    /// A read has completed; it is answered or held when the turn is settled.
    pub(crate) fn read_done(&mut self, slot: usize, result: Result<IoDone, IoFault>) {
        self.reads[slot].result = Some(result);
        self.reads_done.push(slot);
    }

    /// This node's half of a flush is done.
    pub(crate) fn flushed(&mut self, out: &mut Outbox) {
        self.flushes.done_here(out);
    }

    fn try_commit(&mut self, slot: usize, out: &mut Outbox) {
        let live = &self.writes[slot];
        let (true, true, Some(seq)) = (live.here, live.there, live.seq) else {
            return;
        };
        let live = self.writes.remove(slot);
        let Origin::Own { request, .. } = live.origin else {
            unreachable!("only the node whose host wrote commits");
        };
        assert!(live.here && live.there, "W4: both copies have the write before its reply");
        assert!(
            live.lock.is_some() || !self.info.rules.hold(Rule::LockUntilCommit),
            "W2: a range is locked until both copies have the write"
        );
        self.own.remove(&seq);
        self.told.commit(seq);
        if !live.replied {
            out.reply(request, Completion::Done);
        }
        if let Some(lock) = live.lock {
            self.leave_lock(lock, out);
        }
    }

    fn leave_lock(&mut self, lock: LockId, out: &mut Outbox) {
        let mut granted = std::mem::take(&mut self.granted);
        self.locks.leave(lock, &mut granted);
        for owner in granted.drain(..) {
            match owner {
                // Only a broken rule applies a write before its turn.
                Owner::Write(slot) if self.writes[slot].lock_was_ignored(self.info.rules) => {}
                Owner::Write(slot) => self.write_granted(slot, out),
                Owner::Read(slot) if !self.reads[slot].submitted => self.start_read(slot, out),
                Owner::Read(_) => {}
            }
        }
        self.granted = granted;
    }

    /// A message of the peer in this session.
    pub(crate) fn handle_message(
        &mut self,
        now: Instant,
        message: DataMessage,
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        self.now = now;
        match message {
            DataMessage::Repl { seq, write } => self.handle_repl(seq, write, out),
            DataMessage::WriteRequest { fid, write } => self.handle_write_request(fid, write, out),
            DataMessage::Ordered(pairs) => self.handle_ordered(&pairs, out),
            DataMessage::Ack(seqs) => self.handle_there(Role::Orderer, "ACK", &seqs, out),
            DataMessage::Applied(seqs) => self.handle_there(Role::Follower, "APPLIED", &seqs, out),
            DataMessage::Commit { watermark, more } => self.handle_commit(watermark, &more, out),
            DataMessage::Flush { id } => {
                out.submit(IoUse::PeerFlush { id }, IoOperation::Flush);
                Ok(())
            }
            DataMessage::FlushAck { id } => {
                let known = self.flushes.done_there(id, out);
                if known { Ok(()) } else { Err(number("FLUSH_ACK", id)) }
            }
            DataMessage::Nak { .. } => unreachable!("the volume takes NAK"),
            DataMessage::DigestRequest { .. }
            | DataMessage::Digests { .. }
            | DataMessage::SyncBlock { .. }
            | DataMessage::SyncBlockAck { .. } => Err(MirrorError::Role("sync message")),
        }
    }

    fn handle_repl(&mut self, seq: u64, write: Write, out: &mut Outbox) -> Result<(), MirrorError> {
        if self.info.role != Role::Follower {
            return Err(MirrorError::Role("REPL"));
        }
        self.check_range(write.range)?;
        if seq == 0 || self.peers.contains_key(&seq) || self.own.contains_key(&seq) {
            return Err(number("REPL", seq));
        }
        let slot = self.insert_write(Origin::Peer, write);
        self.writes[slot].seq = Some(seq);
        self.peers.insert(seq, slot);
        self.enter_lock(slot, out);
        Ok(())
    }

    fn handle_write_request(
        &mut self,
        fid: u64,
        write: Write,
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        if self.info.role != Role::Orderer {
            return Err(MirrorError::Role("WREQ"));
        }
        self.check_range(write.range)?;
        if fid != self.peer_fid {
            return Err(number("WREQ", fid));
        }
        self.peer_fid += 1;
        let slot = self.insert_write(Origin::Peer, write);
        self.writes[slot].fid = Some(fid);
        self.enter_lock(slot, out);
        Ok(())
    }

    fn handle_ordered(
        &mut self,
        pairs: &[(u64, u64)],
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        if self.info.role != Role::Follower {
            return Err(MirrorError::Role("ORDERED"));
        }
        for (fid, seq) in pairs {
            if *seq == 0 || self.peers.contains_key(seq) || self.own.contains_key(seq) {
                return Err(number("ORDERED", *seq));
            }
            let slot = self.unordered.remove(fid).ok_or(number("ORDERED", *fid))?;
            let live = &mut self.writes[slot];
            live.seq = Some(*seq);
            self.own.insert(*seq, slot);
            self.told.open(*seq);
            self.enter_lock(slot, out);
        }
        Ok(())
    }

    fn handle_there(
        &mut self,
        role: Role,
        what: &'static str,
        seqs: &[u64],
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        if self.info.role != role {
            return Err(MirrorError::Role(what));
        }
        for seq in seqs {
            let expected = self.own.get(seq).copied().filter(|slot| !self.writes[*slot].there);
            let Some(slot) = expected else {
                if self.info.rules.hold(Rule::CommitOwnOnly) {
                    return Err(number(what, *seq));
                }
                continue;
            };
            let live = &mut self.writes[slot];
            live.there = true;
            self.try_commit(slot, out);
        }
        Ok(())
    }

    fn handle_commit(
        &mut self,
        watermark: u64,
        more: &[u64],
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        let rules = self.info.rules;
        let told: Vec<_> =
            self.peers.range(..=watermark).map(|(seq, slot)| (*seq, *slot)).collect();
        for (seq, slot) in told {
            if self.writes[slot].here || rules.hold(Rule::CommitWatermark) {
                self.peer_committed(seq, slot, out)?;
            }
        }
        if !rules.hold(Rule::CommitOwnOnly) {
            let own: Vec<_> = self.own.range(..=watermark).map(|(_, slot)| *slot).collect();
            for slot in own {
                self.writes[slot].there = true;
                self.try_commit(slot, out);
            }
        }
        for seq in more {
            let slot = *self.peers.get(seq).ok_or(number("COMMIT", *seq))?;
            self.peer_committed(*seq, slot, out)?;
        }
        Ok(())
    }

    fn peer_committed(
        &mut self,
        seq: u64,
        slot: usize,
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        if !self.writes[slot].here {
            return Err(number("COMMIT", seq));
        }
        self.peers.remove(&seq);
        let live = self.writes.remove(slot);
        assert!(
            live.lock.is_some() || !self.info.rules.hold(Rule::LockUntilCommit),
            "W2: a range is locked until its keeper knows that both copies have the write"
        );
        if let Some(lock) = live.lock {
            self.leave_lock(lock, out);
        }
        Ok(())
    }

    fn check_range(&self, range: ByteRange) -> Result<(), MirrorError> {
        let whole = range.offset().is_multiple_of(BLOCK_BYTES)
            && range.length().is_multiple_of(BLOCK_BYTES);
        let inside = !range.is_empty() && range.end() <= self.info.size;
        if whole && inside { Ok(()) } else { Err(MirrorError::Range) }
    }

    /// The end of a turn: answers the reads whose data is older than this sample of the gate, and
    /// tells the peer what the turn brought. Reads that may not be answered come back in `held`.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        gate: Gate,
        held: &mut Vec<Arrival>,
        out: &mut Outbox,
    ) {
        for slot in std::mem::take(&mut self.reads_done) {
            let read = self.reads.remove(slot);
            self.leave_lock(read.lock, out);
            let open = gate.usable(now)
                && gate.session == self.info.session
                && gate.serve_gen == read.serve_gen;
            if open || !self.info.rules.hold(Rule::GateAtReply) {
                out.reply(read.request, read_completion(read.result));
            } else {
                let operation = Operation::Read { range: read.range };
                held.push(Arrival { number: read.arrival, id: read.request, operation });
            }
        }
        self.flushes.start(now, self.info.rules, out);
        self.told.send(self.info.rules, out);
    }

    /// Since when the oldest write or flush has waited for the peer.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        let own = self.told.oldest_open().map(|seq| self.own[&seq]);
        let unordered = self.unordered.first_key_value().map(|(_, slot)| *slot);
        let peers = self.peers.first_key_value().map(|(_, slot)| *slot);
        [own, unordered, peers]
            .into_iter()
            .flatten()
            .map(|slot| self.writes[slot].since)
            .chain(self.flushes.waiting_since())
            .min()
    }

    /// Whether no request of a host attached here is under way.
    pub(crate) fn is_drained(&self) -> bool {
        let own = |(_, live): (usize, &LiveWrite)| matches!(live.origin, Origin::Own { .. });
        self.flushes.is_idle() && self.reads.is_empty() && !self.writes.iter().any(own)
    }

    /// Requests and writes under way.
    pub(crate) fn load(&self) -> usize {
        self.writes.len() + self.reads.len()
    }

    /// A client has gone: what waits for a place or a lock is forgotten. What has been sent goes
    /// on, its reply goes nowhere.
    pub(crate) fn client_gone(&mut self, client: ClientId, out: &mut Outbox) {
        self.flushes.remove_client(client);
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
                let live = self.writes.remove(slot);
                self.leave_lock(live.lock.expect("waits for its range"), out);
            }
        }
        let waits = |read: &LiveRead| read.request.client == client && !read.submitted;
        let reads: Vec<_> =
            self.reads.iter().filter(|(_, read)| waits(read)).map(|(slot, _)| slot).collect();
        for slot in reads {
            if self.reads.get(slot).is_some_and(waits) {
                let read = self.reads.remove(slot);
                self.leave_lock(read.lock, out);
            }
        }
    }

    /// Leaves the session (W7): what was not submitted is dropped, what the peer never saw is held,
    /// own writes that it may have seen are carried.
    pub(crate) fn leave(self, mut number: impl FnMut() -> u64, out: &mut Outbox) -> Leftovers {
        let mut leftovers =
            Leftovers { held: Vec::new(), carried: Vec::new(), uncommitted: Vec::new() };
        let mut arrivals = BTreeMap::new();
        for (slot, live) in &self.writes {
            if live.submitted {
                leftovers.uncommitted.push(live.write.range);
            }
            let Origin::Own { request, arrival } = live.origin else { continue };
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
                in_flight: live.submitted && !live.here,
            });
        }
        let gated = self.info.rules.hold(Rule::GateAtReply);
        let mut ungated = BTreeMap::new();
        for (slot, read) in &self.reads {
            if !gated && read.submitted && read.result.is_none() {
                ungated.insert(slot, read.request);
                continue;
            }
            let operation = Operation::Read { range: read.range };
            leftovers.held.push(Arrival { number: read.arrival, id: read.request, operation });
        }
        for id in self.flushes.into_requests() {
            leftovers.held.push(Arrival { number: number(), id, operation: Operation::Flush });
        }
        leftovers.held.sort_by_key(|arrival| arrival.number);
        leftovers.carried.sort_by_key(|carried| carried.arrival);
        out.reassign(|used_for| match used_for {
            IoUse::Apply { slot } => match arrivals.get(slot) {
                Some(arrival) => IoUse::Carried { arrival: *arrival },
                None => IoUse::Orphan,
            },
            IoUse::Read { slot } => match ungated.get(slot) {
                Some(request) => IoUse::Ungated { request: *request },
                None => IoUse::Orphan,
            },
            IoUse::LocalFlush | IoUse::PeerFlush { .. } => IoUse::Orphan,
            other => other.clone(),
        });
        leftovers
    }
}

fn number(what: &'static str, number: u64) -> MirrorError {
    MirrorError::Number { what, number }
}

/// The I/O that carries out a write. TRIM means "reads as zeros afterwards" on both nodes (W5).
pub(crate) fn operation(write: &Write, durable: bool) -> IoOperation {
    let range = write.range;
    match &write.content {
        Content::Data(data) => IoOperation::Write { range, data: data.clone(), durable },
        Content::Zeroes { allocate } => IoOperation::Zero { range, allocate: *allocate, durable },
        Content::Trim => IoOperation::Zero { range, allocate: false, durable },
    }
}

fn read_completion(result: Option<Result<IoDone, IoFault>>) -> Completion {
    match result.expect("a read in the list of done ones has its result") {
        Ok(IoDone::Data(data)) => Completion::Data(data),
        Ok(IoDone::Done) => unreachable!("a read returns data"),
        Err(_) => Completion::Failed(RequestError::Io),
    }
}
