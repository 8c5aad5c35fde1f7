//! A session whose peer is being made equal while hosts are served (PROTOCOL 2.8.2 steps 4 and 5):
//! the target comes, regions are copied under range locks, the target is whole, or it goes.
//!
//! Invariants: D12 a write goes to the target where the target has what was there before. D14 the
//! lock of a mirrored write outlives its reply. D16 a target that is lost takes nothing of a host
//! with it.
//! Not here: which region is next and what state it is in (`resync.rs`).

use base::ids::{ConnNonce, Session};
use base::limits::PEER_WRITES_MAX;
use base::range::ByteRange;
use base::request::{Content, Write};
use base::time::Instant;
use bytes::Bytes;

use super::live::Owner;
use super::mirror::{Mirror, PeerCopy};
use super::peer::{MirrorError, number};
use super::told::Told;
use crate::compare::WINDOW;
use crate::outbox::{IoUse, Outbox};
use crate::port::{Progress, Scope};
use crate::queues::REQUESTS_MAX;
use crate::resync::{Ended, Resync, ResyncInfo};
use crate::storage::IoOperation;
use crate::wire::DataMessage;

/// Parts of writes above one each, under way at the same time, at most: a write that would have
/// more is copied instead.
const EXTRA_PARTS_MAX: usize = 64;
const _: () = assert!(REQUESTS_MAX + EXTRA_PARTS_MAX <= PEER_WRITES_MAX, "the target takes them");

/// A target and what is to be made equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) session: Session,
    pub(crate) conn_nonce: ConnNonce,
    pub(crate) scope: Scope,
    pub(crate) seed: u64,
    pub(crate) granule_bytes: u32,
}

impl Mirror {
    pub(super) fn resync(&self) -> Option<&Resync> {
        match &self.peer {
            PeerCopy::Resync(resync) => Some(resync),
            PeerCopy::Absent | PeerCopy::Whole => None,
        }
    }

    fn resync_mut(&mut self) -> Option<&mut Resync> {
        match &mut self.peer {
            PeerCopy::Resync(resync) => Some(resync),
            PeerCopy::Absent | PeerCopy::Whole => None,
        }
    }

    /// A target is there: its session begins.
    pub(crate) fn attach(&mut self, now: Instant, target: Target) {
        let Target { session, conn_nonce, scope, seed, granule_bytes } = target;
        assert!(matches!(self.peer, PeerCopy::Absent), "a target comes to who serves alone");
        assert!(session > self.info.session, "I3: a target begins a session of its own");
        assert!(granule_bytes >= self.info.granule_bytes, "W9: locks never become finer");
        self.now = now;
        self.info.session = session;
        self.info.conn_nonce = Some(conn_nonce);
        self.info.granule_bytes = granule_bytes;
        let (size, rules) = (self.info.size, self.info.rules);
        // What was written since somebody found that the copies are equal is known to nobody.
        let scope = if self.written_alone { scope.max(Scope::Everything) } else { scope };
        let mut resync = Resync::new(ResyncInfo { scope, seed, size, rules });
        // What is under way stays here.
        self.own.values().for_each(|slot| resync.mark(self.writes[*slot].write.range));
        self.peer = PeerCopy::Resync(Box::new(resync));
    }

    /// The target has everything and its record says so: from here on it counts.
    pub(crate) fn complete_copy(&mut self) {
        assert!(
            self.resync().is_some_and(Resync::is_told),
            "D15: a copy counts when it was found to be equal"
        );
        self.peer = PeerCopy::Whole;
        self.written_alone = false;
    }

    /// The target is lost before it counted: this node is alone again. What waited for it is done.
    pub(crate) fn detach(&mut self, now: Instant, out: &mut Outbox) {
        self.now = now;
        let PeerCopy::Resync(resync) = std::mem::replace(&mut self.peer, PeerCopy::Absent) else {
            panic!("D16: a copy that counts is lost by leaving its session")
        };
        self.info.conn_nonce = None;
        self.written_alone = true;
        self.told = Told::default();
        let writes = self.own_alone();
        for (id, lock, reading) in resync.into_locks() {
            if reading {
                self.abandoned.insert(id, lock);
            } else {
                self.leave_lock(lock, out);
            }
        }
        for slot in writes {
            self.try_commit(slot, out);
        }
        self.flushes.peer_lost(out);
    }

    /// Nothing of own writes goes to the peer any more; which ones that may complete.
    fn own_alone(&mut self) -> Vec<usize> {
        let mut changed = Vec::new();
        for (slot, live) in &mut self.writes {
            if let (Some(seq), true) = (live.seq, live.parts > 0) {
                for place in seq + 1..seq + u64::from(live.parts) {
                    self.own.remove(&place);
                }
                (live.parts, live.there) = (0, true);
                changed.push(slot);
            }
        }
        (self.extra_parts, self.parts_there) = Default::default();
        changed
    }

    /// Begins as many copies as may be under way; `true` once, when the target has everything.
    pub(crate) fn copy_on(&mut self, out: &mut Outbox) -> bool {
        let abandoned = self.abandoned.len();
        while let Some(resync) = self.resync_mut()
            && resync.copies() + abandoned < WINDOW
            && let Some((range, held)) = resync.next()
        {
            let id = self.next_copy;
            self.next_copy += 1;
            let (lock, granted) = self.enter_queue(range, held, Owner::Copy(id));
            self.resync_mut().expect("as above").begin(id, range, lock, held);
            if granted {
                self.copy_granted(id, out);
            }
        }
        let answered_alone = self.answered_alone;
        self.resync_mut().is_some_and(|resync| resync.is_equal(answered_alone))
    }

    pub(crate) fn copy_progress(&self) -> Option<Progress> {
        self.resync().map(Resync::progress)
    }

    /// The copy of a region has its lock.
    pub(super) fn copy_granted(&mut self, id: u64, out: &mut Outbox) {
        let (now, patience) = (self.now, self.work.patience());
        let resync = self.resync_mut().expect("a copy without its target has no lock to wait for");
        let range = resync.granted(id, now, patience);
        self.work.begin(range.length());
        out.send(DataMessage::DigestRequest { id, range });
        out.submit(IoUse::SourceRead { id }, IoOperation::Read { range });
    }

    /// A region was read for a copy.
    pub(crate) fn copy_read(&mut self, id: u64, data: Bytes, out: &mut Outbox) {
        if self.leave_abandoned(id, out) {
            return;
        }
        let resync = self.resync_mut().expect("it is not abandoned");
        if let Some(lock) = resync.read(id, data) {
            self.leave_lock(lock, out);
        }
        self.copy_go_on(id, out);
    }

    /// It could not be read; `false` if nobody needs it any more.
    pub(crate) fn copy_read_failed(&mut self, id: u64, out: &mut Outbox) -> bool {
        if self.leave_abandoned(id, out) {
            return false;
        }
        let ended = self.resync_mut().expect("it is not abandoned").read_failed(id);
        self.copy_ended(&ended, out);
        true
    }

    fn leave_abandoned(&mut self, id: u64, out: &mut Outbox) -> bool {
        let lock = self.abandoned.remove(&id);
        if let Some(lock) = lock {
            self.leave_lock(lock, out);
        }
        lock.is_some()
    }

    pub(super) fn handle_digests(
        &mut self,
        id: u64,
        digests: Vec<u128>,
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        let now = self.now;
        let resync = self.resync_mut().ok_or(MirrorError::Role("DIGESTS"))?;
        resync.digests(id, digests, now).map_err(|_| MirrorError::Digests)?;
        self.copy_go_on(id, out);
        Ok(())
    }

    pub(super) fn handle_block_ack(
        &mut self,
        id: u64,
        out: &mut Outbox,
    ) -> Result<(), MirrorError> {
        let now = self.now;
        let resync = self.resync_mut().ok_or(MirrorError::Role("SYNC_BLOCK_ACK"))?;
        resync.acknowledged(id, now).map_err(|_| number("SYNC_BLOCK_ACK", id))?;
        self.copy_go_on(id, out);
        Ok(())
    }

    fn copy_go_on(&mut self, id: u64, out: &mut Outbox) {
        let ended = self.resync_mut().and_then(|resync| resync.go_on(id, out));
        if let Some(ended) = ended {
            self.copy_ended(&ended, out);
        }
    }

    fn copy_ended(&mut self, ended: &Ended, out: &mut Outbox) {
        self.work.end(ended.bytes);
        if let Some(lock) = ended.lock {
            self.leave_lock(lock, out);
        }
    }

    /// An own write has its first place: each part of it that the target takes has one.
    pub(super) fn place_parts(&mut self, slot: usize, seq: u64, out: &mut Outbox) {
        let PeerCopy::Resync(resync) = &mut self.peer else { unreachable!("a target is there") };
        let live = &mut self.writes[slot];
        let parts = resync.admit(live.write.range, 1 + EXTRA_PARTS_MAX - self.extra_parts);
        live.parts = u32::try_from(parts.len()).expect("few parts");
        live.there = parts.is_empty();
        self.extra_parts += parts.len().saturating_sub(1);
        self.next_seq = seq + parts.len().max(1) as u64;
        for (place, range) in (seq..).zip(parts) {
            self.own.insert(place, slot);
            self.told.open(place);
            out.send(DataMessage::Repl { seq: place, write: part(&live.write, range) });
        }
    }

    /// Whether an acknowledgement of this place of the write is due.
    pub(super) fn waits_for_ack(&self, slot: usize, place: u64) -> bool {
        let live = &self.writes[slot];
        !live.there && (live.parts <= 1 || !self.parts_there.contains(&place))
    }

    /// The target has this part of a write of several; whether it has all.
    pub(super) fn is_last_part(&mut self, slot: usize, place: u64) -> bool {
        let live = &self.writes[slot];
        self.parts_there.insert(place);
        let first = live.seq.expect("it has its places");
        let parts = live.parts as usize;
        self.parts_there.range(first..first + parts as u64).count() == parts
    }

    /// A write of several parts is on both copies.
    pub(super) fn commit_parts(&mut self, seq: u64, parts: u32) {
        for place in seq..seq + u64::from(parts) {
            self.own.remove(&place);
            self.parts_there.remove(&place);
            self.told.commit(place);
        }
        self.extra_parts -= parts as usize - 1;
    }

    /// At a target: whether a mirrored write there is not known to be committed.
    pub(crate) fn is_changing(&self, range: ByteRange) -> bool {
        self.locks.is_changing(range)
    }

    /// At a target that has become a follower: what was mirrored stays what it is.
    pub(crate) fn follow(&mut self, granule_bytes: u32) {
        assert!(granule_bytes >= self.info.granule_bytes, "W9: locks never become finer");
        self.info.granule_bytes = granule_bytes;
    }
}

/// A part of a write, as a write.
fn part(write: &Write, range: ByteRange) -> Write {
    let content = match &write.content {
        Content::Data(data) => {
            let start = usize::try_from(range.offset() - write.range.offset()).expect("in memory");
            let length = usize::try_from(range.length()).expect("in memory");
            Content::Data(data.slice(start..start + length))
        }
        Content::Zeroes { allocate } => Content::Zeroes { allocate: *allocate },
        Content::Trim => Content::Trim,
    };
    Write { range, content, fua: write.fua }
}
