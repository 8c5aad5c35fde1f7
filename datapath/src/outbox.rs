//! What the cores of one volume want done: actions in order, and what each I/O under way is for.

use std::collections::{BTreeMap, VecDeque};

use base::ids::ClientId;
use base::range::ByteRange;
use base::request::{Completion, RequestId};
use base::time::Instant;

use crate::port::VolumeReport;
use crate::storage::{IoId, IoOperation};
use crate::wire::DataMessage;

/// CACHE of hosts that is under way at the same time, at most.
pub(crate) const PREFETCHES_MAX: usize = 32;

/// Why a volume closes a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// Held longer than T_hold (L5).
    #[error("nobody could serve the volume in time")]
    HeldTooLong,
    /// Its write may be on the other copy, which this node is about to be overwritten from.
    #[error("its unanswered write was given up when the copies were made equal")]
    WriteGivenUp,
    /// This node does not serve now.
    #[error("this node does not serve the volume now")]
    NotServing,
    /// The process ends.
    #[error("this node is stopping")]
    Stopping,
}

/// When a request passed the stages of its way through the session that answers it; none for a
/// stage that it did not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stages {
    /// It was admitted to the session.
    pub admitted: Option<Instant>,
    /// Its turn came: a write got its place, a read its range, a flush began.
    pub ordered: Option<Instant>,
    /// This node's backing store was done with it.
    pub here: Option<Instant>,
    /// The peer said that its copy has it.
    pub there: Option<Instant>,
}

impl Stages {
    /// Admitted, nothing more.
    pub(crate) fn begin(now: Instant) -> Self {
        Self { admitted: Some(now), ..Self::default() }
    }
}

/// An effect for the shell to carry out, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Answer a host.
    Reply {
        /// Which request.
        id: RequestId,
        /// How it ended.
        completion: Completion,
        /// How far it was when, for measurements.
        stages: Stages,
    },
    /// Close one client without an answer to what it still waits for.
    CloseClient {
        /// Which.
        client: ClientId,
        /// For the log.
        why: CloseReason,
    },
    /// Close every client likewise.
    CloseAllClients {
        /// For the log.
        why: CloseReason,
    },
    /// Start an I/O.
    Submit {
        /// Comes back in the completion.
        id: IoId,
        /// What to do.
        operation: IoOperation,
    },
    /// To the peer's core of this volume.
    Send(DataMessage),
    /// To the group.
    Report(VolumeReport),
}

/// What an I/O under way is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum IoUse {
    /// A write of the session, in this slot.
    Apply { slot: usize },
    /// A read of a host, in this slot.
    Read { slot: usize },
    /// This node's half of a host's flush.
    LocalFlush,
    /// This node's half of a flush at the peer.
    PeerFlush { id: u64 },
    /// A host's CACHE, which is answered already.
    Prefetch,
    /// An own write of a session that was left.
    Carried { arrival: u64 },
    /// A piece or region being compared, at the source.
    SourceRead { id: u64 },
    /// A piece being compared, at the target.
    TargetRead { id: u64, range: ByteRange },
    /// A block that differed.
    TargetWrite { id: u64, range: ByteRange },
    /// A piece of a copy that is written over itself.
    RewriteRead { range: ByteRange },
    /// The same piece.
    RewriteWrite { range: ByteRange },
    /// A read of a session that was left, or after it, in this slot.
    LateRead { slot: usize },
    /// Nobody waits for it any more, but the session is not quiet before it has completed.
    Orphan,
}

/// Actions and I/O of one volume.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    actions: VecDeque<Action>,
    uses: BTreeMap<IoId, IoUse>,
    /// How many of them are [`IoUse::Prefetch`].
    prefetches: usize,
    next_io: u64,
}

impl Outbox {
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.actions.len()
    }

    pub(crate) fn submit(&mut self, used_for: IoUse, operation: IoOperation) {
        let id = IoId(self.next_io);
        self.next_io += 1;
        self.prefetches += usize::from(used_for == IoUse::Prefetch);
        self.uses.insert(id, used_for);
        self.actions.push_back(Action::Submit { id, operation });
    }

    /// Reads ahead, unless that is under way often enough: it is only a hint, and on a disk that
    /// hangs it never ends.
    pub(crate) fn prefetch(&mut self, range: ByteRange) {
        if self.prefetches < PREFETCHES_MAX {
            self.submit(IoUse::Prefetch, IoOperation::Prefetch { range });
        }
    }

    pub(crate) fn send(&mut self, message: DataMessage) {
        self.actions.push_back(Action::Send(message));
    }

    /// Answers a request that went through no session, or not through all of one.
    pub(crate) fn reply(&mut self, id: RequestId, completion: Completion) {
        self.answer(id, completion, Stages::default());
    }

    /// Answers a request that a session has carried out.
    pub(crate) fn answer(&mut self, id: RequestId, completion: Completion, stages: Stages) {
        self.actions.push_back(Action::Reply { id, completion, stages });
    }

    pub(crate) fn report(&mut self, report: VolumeReport) {
        self.actions.push_back(Action::Report(report));
    }

    pub(crate) fn close(&mut self, client: ClientId, why: CloseReason) {
        self.actions.push_back(Action::CloseClient { client, why });
    }

    pub(crate) fn close_all(&mut self, why: CloseReason) {
        self.actions.push_back(Action::CloseAllClients { why });
    }

    /// What a completed I/O was for.
    pub(crate) fn complete(&mut self, id: IoId) -> IoUse {
        let used_for = self.uses.remove(&id).expect("an I/O completes once");
        self.prefetches -= usize::from(used_for == IoUse::Prefetch);
        used_for
    }

    /// I/O under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.uses.len()
    }

    /// Gives every I/O under way a new use, but CACHE of hosts: that counts until it completes.
    pub(crate) fn reassign(&mut self, mut change: impl FnMut(&IoUse) -> IoUse) {
        let mut prefetches = 0;
        for used_for in self.uses.values_mut() {
            if *used_for == IoUse::Prefetch {
                prefetches += 1;
                continue;
            }
            *used_for = change(used_for);
            assert!(*used_for != IoUse::Prefetch, "nothing else becomes CACHE of a host");
        }
        assert_eq!(prefetches, self.prefetches, "CACHE under way is counted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for more CACHE than may be under way, and returns the ids of what is begun.
    fn prefetch_all(out: &mut Outbox) -> Vec<IoId> {
        let range = ByteRange::new(0, 4096).expect("in range");
        (0..2 * PREFETCHES_MAX).for_each(|_| out.prefetch(range));
        let submitted = std::iter::from_fn(|| out.poll()).map(|action| match action {
            Action::Submit { id, operation: IoOperation::Prefetch { .. } } => id,
            other => panic!("{other:?}"),
        });
        submitted.collect()
    }

    #[test]
    fn cache_is_counted_from_its_begin_to_its_end() {
        let mut out = Outbox::default();
        let ids = prefetch_all(&mut out);
        assert_eq!(ids.len(), PREFETCHES_MAX);
        assert_eq!(prefetch_all(&mut out), []);
        for id in &ids[..5] {
            assert_eq!(out.complete(*id), IoUse::Prefetch);
        }
        assert_eq!(prefetch_all(&mut out).len(), 5);
    }

    #[test]
    fn cache_stays_what_it_is_when_all_else_has_a_new_use() {
        let mut out = Outbox::default();
        let ids = prefetch_all(&mut out);
        out.submit(IoUse::LocalFlush, IoOperation::Flush);
        let Some(Action::Submit { id: flush, .. }) = out.poll() else { panic!("a flush") };
        out.reassign(|_| IoUse::Orphan);
        assert_eq!(out.complete(flush), IoUse::Orphan);
        assert_eq!(prefetch_all(&mut out), [], "as many as may be are under way still");
        assert_eq!(out.complete(ids[0]), IoUse::Prefetch);
        assert_eq!(prefetch_all(&mut out).len(), 1);
    }
}
