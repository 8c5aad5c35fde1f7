//! The peer's messages of a session: each is checked against this node's role and against what is
//! under way, then obeyed.
//!
//! Invariants: W2 COMMIT speaks of the sender's own writes, and of none that this node has not
//! applied.
//! Bounded: a peer that has more under way than an honest one may loses its connection.
//! Not here: frames and their payloads (`wire`), messages of another session (`volume.rs`).

use base::limits::{BLOCK_BYTES, PEER_BYTES_MAX, PEER_WRITES_MAX};
use base::range::ByteRange;
use base::request::Write;
use base::rules::Rule;
use base::time::Instant;

use super::live::Origin;
use super::mirror::Mirror;
use crate::outbox::{IoUse, Outbox};
use crate::port::Role;
use crate::storage::IoOperation;
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
    /// Not one digest per block, or of a region that is not being copied.
    #[error("digests that were not asked for")]
    Digests,
    /// More under way than a node takes from its hosts.
    #[error("more {0} under way than a node takes from its hosts")]
    TooMany(&'static str),
    /// A number that names no write in the state it must have.
    #[error("a {what} for number {number}, which is not under way")]
    Number {
        /// Which message.
        what: &'static str,
        /// The number in it.
        number: u64,
    },
}

impl Mirror {
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
                if std::mem::replace(&mut self.peer_flush, true) {
                    return Err(MirrorError::TooMany("flushes"));
                }
                out.submit(IoUse::PeerFlush { id }, IoOperation::Flush);
                Ok(())
            }
            DataMessage::FlushAck { id } => {
                let known = self.flushes.done_there(id, now, out);
                if known { Ok(()) } else { Err(number("FLUSH_ACK", id)) }
            }
            DataMessage::Nak { .. } => unreachable!("the volume takes NAK"),
            DataMessage::Digests { id, digests } => self.handle_digests(id, digests, out),
            DataMessage::SyncBlockAck { id } => self.handle_block_ack(id, out),
            DataMessage::DigestRequest { .. } | DataMessage::SyncBlock { .. } => {
                Err(MirrorError::Role("sync message"))
            }
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
        let slot = self.insert_peer_write(write)?;
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
        let slot = self.insert_peer_write(write)?;
        self.writes[slot].fid = Some(fid);
        self.enter_lock(slot, out);
        Ok(())
    }

    fn insert_peer_write(&mut self, write: Write) -> Result<usize, MirrorError> {
        let bytes = write.payload_bytes();
        if self.peer_writes == PEER_WRITES_MAX || self.peer_bytes + bytes > PEER_BYTES_MAX {
            return Err(MirrorError::TooMany("writes"));
        }
        self.peer_writes += 1;
        self.peer_bytes += bytes;
        Ok(self.insert_write(Origin::Peer, write))
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
            live.parts = 1;
            live.stages.ordered = Some(self.now);
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
            let expected =
                self.own.get(seq).copied().filter(|slot| self.waits_for_ack(*slot, *seq));
            let Some(slot) = expected else {
                if self.info.rules.hold(Rule::CommitOwnOnly) {
                    return Err(number(what, *seq));
                }
                continue;
            };
            if self.writes[slot].parts > 1 && !self.is_last_part(slot, *seq) {
                continue;
            }
            let live = &mut self.writes[slot];
            live.there = true;
            live.stages.there = Some(self.now);
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
                if !self.writes.contains(slot) {
                    continue;
                }
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
        let live = self.remove_write(slot);
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
}

pub(super) fn number(what: &'static str, number: u64) -> MirrorError {
    MirrorError::Number { what, number }
}
