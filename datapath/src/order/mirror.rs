//! One volume in one session: every write gets its place, goes to both copies, and is answered
//! when both have it; reads see only what both have (PROTOCOL 2.6). Alone there is one copy and the
//! rest is the same.
//!
//! Owns: range locks, writes and reads in flight, their places.
//! In: admitted requests, the peer's messages, completions. Out: actions in the outbox.
//! Invariants: I9 a request is admitted while the gate is open. W9 locks cover whole blocks of the
//! direct I/O of both nodes. W1, W2, W4, D5 and P2 in `writes.rs`,
//! W3 in `reads.rs`, P1 in `flush.rs`.
//! Faults assumed: any message may be missing because the connection ended; none is reordered,
//! repeated or altered (TLS, and the frame sequence).
//! Not here: the way of a write (`writes.rs`) and of a read (`reads.rs`), a peer whose copy is
//! being made (`copy.rs`), what the peer says
//! (`peer.rs`), what waits too long (`late.rs`), the end (`leave.rs`), what becomes of requests
//! outside a session (`volume.rs`).
//!
//! Both nodes keep the same kind of lock queue. At the orderer a granted exclusive lock *is* the
//! place in the order. At the follower an entry is made when the place is known (REPL or ORDERED),
//! so its queue has the orderer's order and delays only what the reads there need.

use std::collections::{BTreeMap, BTreeSet};

use base::ids::{ConnNonce, Session};
use base::limits::{PEER_BYTES_MAX, PEER_WRITES_MAX};
use base::range::ByteRange;
use base::request::{Completion, Operation, RequestId};
use base::rules::{Rule, Rules};
use base::time::Instant;
use slab::Slab;

use super::flush::Flushes;
use super::late::{self, Work};
use super::leave::CarriedWrite;
use super::live::{LiveRead, LiveWrite, Origin, Owner};
use super::ranges::{LockId, RangeLocks};
use super::told::Told;
use crate::compare::WINDOW;
use crate::gate::Gate;
use crate::outbox::{Outbox, Stages};
use crate::port::Role;
use crate::queues::{Queue, REQUESTS_MAX};
use crate::resync::Resync;
use crate::wire::DataMessage;

/// What a session is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Its number.
    pub session: Session,
    /// The control connection it lives on; none alone.
    pub conn_nonce: Option<ConnNonce>,
    /// This node's part.
    pub role: Role,
    /// Size of the volume, in bytes.
    pub size: u64,
    /// Unit of range locks that both nodes agreed on, in bytes.
    pub granule_bytes: u32,
    /// Which rules hold.
    pub rules: Rules,
}

/// What the orderer knows of the other copy.
#[derive(Debug)]
pub(super) enum PeerCopy {
    /// There is none that counts: this node serves alone.
    Absent,
    /// It is being made equal while this node serves; it counts for nothing.
    Resync(Box<Resync>),
    /// It has everything that is committed.
    Whole,
}

impl PeerCopy {
    /// Whether writes are answered before the target has them (PROTOCOL 2.8.2 step 4).
    pub(super) fn is_in_passes(&self) -> bool {
        matches!(self, Self::Resync(resync) if !resync.is_last_step())
    }

    /// Whether FLUSH and replies wait for it.
    fn is_waited_for(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Resync(resync) => resync.is_last_step(),
            Self::Whole => true,
        }
    }
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

/// One volume in one session.
#[derive(Debug)]
pub struct Mirror {
    pub(super) info: SessionInfo,
    pub(super) peer: PeerCopy,
    /// The time of the latest event.
    pub(super) now: Instant,
    pub(super) locks: RangeLocks<Owner>,
    pub(super) granted: Vec<Owner>,
    pub(super) writes: Slab<LiveWrite>,
    pub(super) reads: Slab<LiveRead>,
    pub(super) reads_done: Vec<usize>,
    /// Reads whose data was asked for and has not come, oldest first: since when, and slot.
    pub(super) reads_begun: BTreeSet<(Instant, usize)>,
    /// What the disks have to do.
    pub(super) work: Work,
    /// Written since the last flush began.
    pub(super) unflushed_bytes: u64,
    /// What own writes and reads keep in memory.
    pub(super) own_bytes: u64,
    /// Own writes at the follower that have no place yet.
    pub(super) unordered: BTreeMap<u64, usize>,
    /// Own writes that have a place, until they commit.
    pub(super) own: BTreeMap<u64, usize>,
    /// The peer's writes that have a place, until it says that they are committed.
    pub(super) peers: BTreeMap<u64, usize>,
    pub(super) next_seq: u64,
    pub(super) next_fid: u64,
    pub(super) peer_fid: u64,
    /// Of the writes of the peer that are under way.
    pub(super) peer_writes: usize,
    pub(super) peer_bytes: u64,
    /// The peer's flush is under way here.
    pub(super) peer_flush: bool,
    pub(super) told: Told,
    pub(super) flushes: Flushes,
    pub(super) failed_seq: Option<u64>,
    /// Alone, something was written that no peer has.
    pub(super) written_alone: bool,
    /// Own writes that were answered and that the peer has not acknowledged.
    pub(super) answered_alone: usize,
    /// Of own writes of several parts: the parts above the first one of each, and which parts the
    /// target has.
    pub(super) extra_parts: usize,
    pub(super) parts_there: BTreeSet<u64>,
    /// Number of the next copy of a region.
    pub(super) next_copy: u64,
    /// Reads for targets that are gone, which keep their locks until they end.
    pub(super) abandoned: BTreeMap<u64, LockId>,
}

impl Mirror {
    /// In a session with the peer, nothing in flight.
    pub(crate) fn new(info: SessionInfo) -> Self {
        Self::with(PeerCopy::Whole, info)
    }

    /// Alone, nothing in flight.
    pub(crate) fn alone(info: SessionInfo) -> Self {
        assert!(
            info.role == Role::Orderer && info.conn_nonce.is_none(),
            "who serves alone orders alone"
        );
        Self::with(PeerCopy::Absent, info)
    }

    fn with(peer: PeerCopy, info: SessionInfo) -> Self {
        Self {
            info,
            peer,
            now: Instant::ZERO,
            locks: RangeLocks::new(),
            granted: Vec::new(),
            writes: Slab::new(),
            reads: Slab::new(),
            reads_done: Vec::new(),
            reads_begun: BTreeSet::new(),
            work: Work::default(),
            unflushed_bytes: 0,
            own_bytes: 0,
            unordered: BTreeMap::new(),
            own: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_seq: 1,
            next_fid: 0,
            peer_fid: 0,
            peer_writes: 0,
            peer_bytes: 0,
            peer_flush: false,
            told: Told::default(),
            flushes: Flushes::default(),
            failed_seq: None,
            written_alone: false,
            answered_alone: 0,
            extra_parts: 0,
            parts_there: BTreeSet::new(),
            next_copy: 0,
            abandoned: BTreeMap::new(),
        }
    }

    /// What waits in the session.
    pub(crate) fn queues(&self) -> [Queue; 5] {
        let both = REQUESTS_MAX + PEER_WRITES_MAX;
        let copies = self.resync().map_or(0, Resync::copies) + self.abandoned.len();
        [
            Queue::of("writes", self.writes.len(), both),
            Queue::of("range locks", self.locks.len(), both + WINDOW),
            Queue::of("regions being copied", copies, WINDOW),
            Queue::of("writes of the peer", self.peer_writes, PEER_WRITES_MAX),
            Queue::of_bytes("bytes of the peer's writes", self.peer_bytes, PEER_BYTES_MAX),
        ]
    }

    /// The session.
    pub fn info(&self) -> SessionInfo {
        self.info
    }

    /// What happens from here on happens now.
    pub(crate) fn note_time(&mut self, now: Instant) {
        self.now = now;
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
            Operation::Flush => self.flushes.add(id, now),
            Operation::Cache { range } => {
                out.prefetch(range);
                let stages = Stages { ordered: Some(now), ..Stages::begin(now) };
                out.answer(id, Completion::Done, stages);
            }
        }
    }

    /// Carries out an own write of the session before, which was not answered in it.
    pub(crate) fn carry_out(&mut self, now: Instant, carried: CarriedWrite, out: &mut Outbox) {
        self.now = now;
        assert!(!carried.applied, "what this copy has is only answered");
        self.admit_write(carried.arrival, carried.id, carried.write, out);
    }

    /// Keeps a range that a read of the time before has not left: what is written there waits.
    pub(crate) fn keep_unwritten(&mut self, range: ByteRange) -> LockId {
        let (lock, granted) = self.enter_queue(range, false, Owner::Late);
        assert!(granted, "W7: what is left of the time before comes first");
        lock
    }

    /// That read has ended.
    pub(crate) fn release(&mut self, now: Instant, lock: LockId, out: &mut Outbox) {
        self.now = now;
        self.leave_lock(lock, out);
    }

    /// Adds an entry to the lock queue: whole blocks of the direct I/O of both nodes (W9).
    pub(super) fn enter_queue(
        &mut self,
        range: ByteRange,
        exclusive: bool,
        owner: Owner,
    ) -> (LockId, bool) {
        let granule_bytes = u64::from(self.info.granule_bytes);
        let whole = range.round_out(granule_bytes);
        let locked = if self.info.rules.hold(Rule::GranuleLocked) { whole } else { range };
        self.locks.enter(locked, exclusive, owner)
    }

    /// This node's half of a flush is done.
    pub(crate) fn flushed(&mut self, out: &mut Outbox) {
        self.flushes.done_here(self.now, out);
    }

    /// This node's half of the peer's flush is done.
    pub(crate) fn flushed_for_peer(&mut self, id: u64, out: &mut Outbox) {
        self.peer_flush = false;
        out.send(DataMessage::FlushAck { id });
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
        self.now = now;
        self.answer_reads(now, gate, held, out);
        let patience = self.work.patience() + late::time_for(self.unflushed_bytes);
        let on_both = self.peer.is_waited_for();
        if self.flushes.start(now, patience, (on_both, self.info.rules), out) {
            self.unflushed_bytes = 0;
        }
        self.told.send(self.info.rules, out);
    }

    /// Whether no request of a host attached here is under way.
    pub(crate) fn is_drained(&self) -> bool {
        let own = |(_, live): (usize, &LiveWrite)| matches!(live.origin, Origin::Own { .. });
        self.flushes.is_idle() && self.reads.is_empty() && !self.writes.iter().any(own)
    }

    /// What the requests of hosts attached here keep in memory.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.own_bytes
    }

    /// Requests and writes under way.
    pub(crate) fn load(&self) -> usize {
        self.writes.len() + self.reads.len()
    }
}
