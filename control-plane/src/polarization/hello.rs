//! HELLO: what a node says about itself, and the verdict that both nodes draw from two of them
//! (PROTOCOL 2.8.1).
//!
//! Invariants: F0. A HELLO speaks of a record that is durable, and of a node that has nothing of
//! an earlier session under way.

use base::time::Instant;
use datapath::port::SyncRole;

use super::choose::{Choice, choose_source, refusal};
use super::group::{Group, Phase, StopRequest};
use super::state::State;
use super::timers::Timer;
use crate::wire::{ControlMessage, Hello, VolumeHello};

impl Group {
    /// Part of `settle`: HELLO goes out once per connection, when this node has nothing of an
    /// earlier session under way and its record is durable (F0).
    pub(super) fn settle_hello(&mut self, now: Instant) {
        let due = self.link.as_ref().is_some_and(|link| link.my_hello.is_none());
        if !due || !self.started || !self.is_at_rest() || self.must_wait_after_failure() {
            return;
        }
        if self.stop != StopRequest::None {
            return;
        }
        let hello = Box::new(self.hello());
        if let Some(link) = &mut self.link {
            link.my_hello = Some(hello.clone());
        }
        self.send(ControlMessage::Hello(hello));
        self.judge(now);
    }

    fn hello(&self) -> Hello {
        assert!(self.started, "F0: what this start found is durable before the peer hears of it");
        let volumes = self.volume_indexes().map(|volume| {
            let index = usize::from(volume.0);
            let (header, config) = (&self.headers[index], &self.config.volumes[index]);
            VolumeHello {
                volume_id: header.volume_id,
                disk_id: header.disk_id,
                peer_disk_id: header.peer_disk_id,
                bitmap_base: header.bitmap_base,
                round: header.round,
                peer_round: header.peer_round,
                size: header.size,
                granule_bytes: config.granule_bytes,
                trim_zeroes: config.trim_zeroes,
                empty: self.empty[index],
            }
        });
        let record = &self.record;
        Hello {
            pair_id: record.pair_id,
            node: record.node.clone(),
            incarnation: record.incarnation,
            machine_id: record.machine_id,
            session: record.session,
            session_seen: self.session_seen,
            state: record.state,
            continuity: record.continuity,
            by_reset: record.by_reset,
            clean: record.clean,
            io_failed: record.io_failed || self.failure.is_some(),
            source: record.source,
            forced: record.forced,
            stopping: self.stop != StopRequest::None,
            solo_io_count: record.solo_io_count,
            generation: record.generation,
            ancestors: record.ancestors.clone(),
            volumes: volumes.collect(),
        }
    }

    pub(super) fn on_hello(&mut self, now: Instant, hello: Box<Hello>) {
        let Some(link) = &mut self.link else { return };
        let known = *link.peer_incarnation.get_or_insert(hello.incarnation);
        if link.peer_hello.is_some() || known != hello.incarnation {
            self.out_of_turn(now, "a second HELLO on one connection");
            return;
        }
        if hello.node != self.config.peer {
            self.out_of_turn(now, "it calls itself by another name");
            return;
        }
        link.peer_hello = Some(hello);
        self.judge(now);
    }

    /// Both HELLOs are there: the same question is asked, and answered alike, on both nodes.
    fn judge(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        let (Some(mine), Some(peer)) = (&link.my_hello, &link.peer_hello) else { return };
        if self.phase != Phase::Idle || link.judged {
            return;
        }
        let (mine, peer) = (mine.clone(), peer.clone());
        link.judged = true;
        let names: Vec<_> = self.config.volumes.iter().map(|v| v.name.clone()).collect();
        if let Some(reason) = refusal(&mine, &peer, &names) {
            self.send(ControlMessage::Refuse { reason: reason.clone() });
            self.become_broken(&reason);
            return;
        }
        match choose_source(&mine, &peer, self.config.rules) {
            Choice::Source(node) => {
                let is_mine = node == self.config.node;
                let role = if is_mine { SyncRole::Source } else { SyncRole::Target };
                self.begin_join(now, role, &mine, peer);
            }
            Choice::Nobody { cause, advice } => {
                self.explain(cause.clone(), &advice);
                if self.state == State::Broken {
                    self.transition(State::Limbo, &cause);
                }
                tracing::error!(node = %self.config.node, "{cause}; {advice}");
            }
        }
    }

    fn become_broken(&mut self, reason: &str) {
        self.explain(
            format!("the two nodes refuse each other: {reason}"),
            "do what is named and start both nodes again; both copies are kept as they are",
        );
        self.transition(State::Broken, reason);
    }

    pub(super) fn on_refused(&mut self, now: Instant, reason: &str) {
        let untouched = match &self.phase {
            Phase::Idle => true,
            Phase::Joining(join) => !join.has_touched_volumes(),
            Phase::Active { .. } | Phase::Leaving(_) | Phase::Stopping(_) => false,
        };
        if !untouched {
            self.out_of_turn(now, "REFUSE after the join began");
            return;
        }
        self.phase = Phase::Idle;
        self.timers.clear(Timer::Step);
        if let Some(link) = &mut self.link {
            link.judged = true;
        }
        if self.state != State::Broken {
            self.become_broken(reason);
        }
    }
}
