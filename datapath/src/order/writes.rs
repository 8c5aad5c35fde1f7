//! A write at this node, from its arrival to its commit: a lock, a place, the apply, the word that
//! both copies have it.
//!
//! Invariants: W1 a write is applied only once it has a place. W2 a range stays locked until both
//! copies have the write. W4 no reply before both copies have it; alone there is one copy. D5 at
//! most one ordered and uncommitted write per range. P2 a FUA write is durable before it counts.
//! Not here: what the peer says about it (`peer.rs`).

use base::limits::FRAME_PAYLOAD_MAX;
use base::request::{Completion, Content, RequestId, Write};
use base::rules::Rule;

use super::live::{LiveWrite, Origin, Owner};
use super::mirror::{Mirror, PeerCopy};
use super::ranges::LockId;
use crate::outbox::{IoUse, Outbox, Stages};
use crate::port::Role;
use crate::storage::IoOperation;
use crate::wire::DataMessage;

impl Mirror {
    pub(super) fn admit_write(
        &mut self,
        arrival: u64,
        request: RequestId,
        write: Write,
        out: &mut Outbox,
    ) {
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

    pub(super) fn insert_write(&mut self, origin: Origin, write: Write) -> usize {
        let since = self.now;
        self.work.begin(write.range.length());
        self.unflushed_bytes += write.range.length();
        if let Origin::Own { .. } = origin {
            self.own_bytes += write.payload_bytes();
        }
        self.writes.insert(LiveWrite {
            origin,
            fid: None,
            seq: None,
            write,
            lock: None,
            submitted: false,
            in_flight: false,
            here: false,
            there: false,
            parts: 0,
            replied: false,
            since,
            patience: self.work.patience(),
            stages: Stages::begin(since),
        })
    }

    /// Every write leaves here.
    pub(super) fn remove_write(&mut self, slot: usize) -> LiveWrite {
        let live = self.writes.remove(slot);
        self.work.end(live.write.range.length());
        match live.origin {
            Origin::Own { .. } => self.own_bytes -= live.write.payload_bytes(),
            Origin::Peer => {
                self.peer_writes -= 1;
                self.peer_bytes -= live.write.payload_bytes();
            }
        }
        live
    }

    /// The write waits for its turn on its range; at the orderer its turn is its place.
    pub(super) fn enter_lock(&mut self, slot: usize, out: &mut Outbox) {
        let range = self.writes[slot].write.range;
        let (lock, granted) = self.enter_queue(range, true, Owner::Write(slot));
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

    /// At the orderer: gives the write its place and tells the follower, if there is one, at once.
    fn order(&mut self, slot: usize, out: &mut Outbox) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let live = &mut self.writes[slot];
        assert!(live.seq.is_none() && live.lock.is_some(), "D5: a write is ordered once, locked");
        live.seq = Some(seq);
        live.since = self.now;
        live.patience = self.work.patience();
        live.stages.ordered = Some(self.now);
        match live.origin {
            Origin::Own { .. } => {
                self.own.insert(seq, slot);
                match self.peer {
                    PeerCopy::Whole => {
                        live.parts = 1;
                        out.send(DataMessage::Repl { seq, write: live.write.clone() });
                        self.told.open(seq);
                    }
                    PeerCopy::Resync(_) => self.place_parts(slot, seq, out),
                    PeerCopy::Absent => {
                        live.there = true;
                        self.written_alone = true;
                    }
                }
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
        live.in_flight = true;
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

    /// An apply has completed on this node's copy.
    pub(crate) fn applied(&mut self, slot: usize, out: &mut Outbox) {
        let live = &mut self.writes[slot];
        live.here = true;
        live.in_flight = false;
        live.stages.here = Some(self.now);
        if !self.info.rules.hold(Rule::LockUntilCommit)
            && let Some(lock) = live.lock.take()
        {
            self.leave_lock(lock, out);
        }
        let live = &mut self.writes[slot];
        match live.origin {
            Origin::Own { request, .. } => {
                let alone = !live.there && self.peer.is_in_passes();
                if alone || !self.info.rules.hold(Rule::AckFromBoth) {
                    live.replied = true;
                    self.answered_alone += 1;
                    out.answer(request, Completion::Done, live.stages);
                    if !self.info.rules.hold(Rule::LockOutlivesReply)
                        && let Some(lock) = live.lock.take()
                    {
                        self.leave_lock(lock, out);
                    }
                }
                self.try_commit(slot, out);
            }
            Origin::Peer if !live.replied => self.tell_applied(slot),
            Origin::Peer => {}
        }
    }

    /// An apply has failed on this node's copy: it is never acknowledged (W8).
    pub(crate) fn apply_failed(&mut self, slot: usize) {
        let live = &mut self.writes[slot];
        live.in_flight = false;
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

    pub(super) fn try_commit(&mut self, slot: usize, out: &mut Outbox) {
        let live = &self.writes[slot];
        let (true, true, Some(seq)) = (live.here, live.there, live.seq) else {
            return;
        };
        let live = self.remove_write(slot);
        let Origin::Own { request, .. } = live.origin else {
            unreachable!("only the node whose host wrote commits");
        };
        assert!(live.here && live.there, "W4: both copies have the write before its reply");
        assert!(
            live.lock.is_some() || live.replied || !self.info.rules.hold(Rule::LockUntilCommit),
            "W2: a range is locked until both copies have the write"
        );
        assert!(
            live.lock.is_some()
                || !live.replied
                || !self.info.rules.hold(Rule::LockOutlivesReply)
                || !self.info.rules.hold(Rule::LockUntilCommit),
            "D14: an early reply leaves the lock until the target has the write"
        );
        self.own.remove(&seq);
        match live.parts {
            0 => {}
            1 => self.told.commit(seq),
            parts => self.commit_parts(seq, parts),
        }
        if live.replied {
            self.answered_alone -= 1;
        } else {
            out.answer(request, Completion::Done, live.stages);
        }
        if let Some(lock) = live.lock {
            self.leave_lock(lock, out);
        }
    }

    pub(super) fn leave_lock(&mut self, lock: LockId, out: &mut Outbox) {
        let mut granted = std::mem::take(&mut self.granted);
        self.locks.leave(lock, &mut granted);
        for owner in granted.drain(..) {
            match owner {
                // Only a broken rule applies a write before its turn.
                Owner::Write(slot) if self.writes[slot].lock_was_ignored(self.info.rules) => {}
                Owner::Write(slot) => self.write_granted(slot, out),
                Owner::Read(slot) if !self.reads[slot].submitted => self.start_read(slot, out),
                Owner::Read(_) => {}
                Owner::Copy(id) => self.copy_granted(id, out),
                Owner::Late => unreachable!("it was first"),
            }
        }
        self.granted = granted;
    }
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
