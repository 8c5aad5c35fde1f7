//! What one turn has to tell the peer: numbers gathered while events are handled and sent together
//! at the end of the turn.
//!
//! Invariants: W2 a commit is told at the end of its turn at the latest, and once told it stays
//! told.

use std::collections::BTreeSet;

use base::limits::COMMIT_MORE_MAX;
use base::rules::{Rule, Rules};

use crate::outbox::Outbox;
use crate::wire::DataMessage;

/// The numbers of a turn, and which own writes are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// (fid, seq) of the follower's writes that got their place.
    pub(super) ordered: Vec<(u64, u64)>,
    /// Places of the follower's writes applied here (at the orderer).
    pub(super) applied: Vec<u64>,
    /// Places of the orderer's writes applied here (at the follower).
    pub(super) acks: Vec<u64>,
    committed: Vec<u64>,
    own_open: BTreeSet<u64>,
    own_last: u64,
}

impl Told {
    /// An own write has place `seq`.
    pub(super) fn open(&mut self, seq: u64) {
        let fresh = self.own_open.insert(seq);
        assert!(fresh, "a place is given once");
        self.own_last = self.own_last.max(seq);
    }

    /// The own write at `seq` is on both copies.
    pub(super) fn commit(&mut self, seq: u64) {
        let was_open = self.own_open.remove(&seq);
        assert!(was_open, "a write commits once");
        self.committed.push(seq);
    }

    /// Sends what the turn gathered.
    pub(super) fn send(&mut self, rules: Rules, out: &mut Outbox) {
        for chunk in self.ordered.chunks(COMMIT_MORE_MAX) {
            out.send(DataMessage::Ordered(chunk.to_vec()));
        }
        for chunk in self.applied.chunks(COMMIT_MORE_MAX) {
            out.send(DataMessage::Applied(chunk.to_vec()));
        }
        for chunk in self.acks.chunks(COMMIT_MORE_MAX) {
            out.send(DataMessage::Ack(chunk.to_vec()));
        }
        self.ordered.clear();
        self.applied.clear();
        self.acks.clear();
        if self.committed.is_empty() {
            return;
        }
        let below_open = self.own_open.first().map_or(self.own_last, |seq| seq - 1);
        let watermark = if rules.hold(Rule::CommitWatermark) {
            below_open
        } else {
            self.committed.iter().copied().max().unwrap_or(below_open)
        };
        self.committed.retain(|seq| *seq > watermark);
        if self.committed.is_empty() {
            out.send(DataMessage::Commit { watermark, more: Vec::new() });
        }
        for chunk in self.committed.chunks(COMMIT_MORE_MAX) {
            out.send(DataMessage::Commit { watermark, more: chunk.to_vec() });
        }
        self.committed.clear();
    }
}
