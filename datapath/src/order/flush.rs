//! FLUSH on both nodes, alone on this one (PROTOCOL 2.7): the requests of one turn share one flush;
//! those that come while it is under way share the next.
//!
//! Invariants: P1 a FLUSH is answered when both nodes have made everything acknowledged before it
//! durable; what was begun alone needs this node only.

use base::request::{Completion, RequestId};
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};

use crate::outbox::{IoUse, Outbox, Stages};
use crate::storage::IoOperation;
use crate::wire::DataMessage;

/// A host's FLUSH and when it came.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: RequestId,
    at: Instant,
}

#[derive(Debug)]
struct Running {
    id: u64,
    requests: Vec<Asked>,
    here: Option<Instant>,
    there: Option<Instant>,
    /// It was sent to the peer, whose half counts.
    on_both: bool,
    since: Instant,
    /// How much longer than T_io it may take.
    patience: Duration,
}

/// The flushes of one session at one node.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    next_id: u64,
    running: Option<Running>,
    waiting: Vec<Asked>,
}

impl Flushes {
    /// A host asks.
    pub(super) fn add(&mut self, request: RequestId, at: Instant) {
        self.waiting.push(Asked { request, at });
    }

    /// Starts the next flush, at the peer as well if `on_both`, if none is under way; whether it
    /// did.
    pub(super) fn start(
        &mut self,
        now: Instant,
        patience: Duration,
        (on_both, rules): (bool, Rules),
        out: &mut Outbox,
    ) -> bool {
        if self.running.is_some() || self.waiting.is_empty() {
            return false;
        }
        let id = self.next_id;
        self.next_id += 1;
        if on_both {
            out.send(DataMessage::Flush { id });
        }
        out.submit(IoUse::LocalFlush, IoOperation::Flush);
        let there = (on_both && !rules.hold(Rule::FlushBoth)).then_some(now);
        let requests = std::mem::take(&mut self.waiting);
        let since = now;
        self.running = Some(Running { id, requests, here: None, there, on_both, since, patience });
        true
    }

    /// This node's half is done.
    pub(super) fn done_here(&mut self, now: Instant, out: &mut Outbox) {
        let running = self.running.as_mut().expect("a local flush belongs to a running one");
        running.here = Some(now);
        self.answer(out);
    }

    /// The peer's half is done; `false` if no such flush is under way.
    pub(super) fn done_there(&mut self, id: u64, now: Instant, out: &mut Outbox) -> bool {
        match &mut self.running {
            Some(running) if running.id == id && running.on_both => running.there = Some(now),
            _ => return id < self.next_id,
        }
        self.answer(out);
        true
    }

    /// The peer is gone and its copy does not count: its half is not waited for.
    pub(super) fn peer_lost(&mut self, out: &mut Outbox) {
        if let Some(running) = &mut self.running {
            running.on_both = false;
            running.there = None;
            self.answer(out);
        }
    }

    /// When the flush under way began, and how much longer than T_io it may take.
    pub(super) fn waiting_since(&self) -> Option<(Instant, Duration)> {
        self.running.as_ref().map(|running| (running.since, running.patience))
    }

    /// Whether the flush under way is not done at this node.
    pub(super) fn waits_here(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.here.is_none())
    }

    /// Whether a host waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Every request that was not answered.
    pub(super) fn into_requests(self) -> Vec<RequestId> {
        let running = self.running.map(|running| running.requests).unwrap_or_default();
        running.into_iter().chain(self.waiting).map(|asked| asked.request).collect()
    }

    pub(super) fn remove_client(&mut self, client: base::ids::ClientId) {
        self.waiting.retain(|asked| asked.request.client != client);
    }

    fn answer(&mut self, out: &mut Outbox) {
        let done = |running: &mut Running| {
            running.here.is_some() && (running.there.is_some() || !running.on_both)
        };
        let Some(Running { requests, here, there, on_both, since, .. }) =
            self.running.take_if(done)
        else {
            return;
        };
        assert!(
            here.is_some() && there.is_some() == on_both,
            "P1: a FLUSH is answered when all that it was sent to have flushed"
        );
        for Asked { request, at } in requests {
            let stages = Stages { admitted: Some(at), ordered: Some(since), here, there };
            out.answer(request, Completion::Done, stages);
        }
    }
}
