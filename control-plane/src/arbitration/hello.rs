//! HELLO: what a node says about itself outside a session, again after each change, and what it
//! does about the newest two (PROTOCOL 2.8.1).
//!
//! Invariants: F0. A HELLO speaks of a record that is durable, and of a node that has left.

use super::group::{Group, Phase};
use super::message::{Hello, Message};
use super::state::State;
use super::table::{Verdict, mismatch, scope, verdict};
use crate::record::{Continuity, RecordState};
use crate::wire::VolumeHello;
use datapath::port::Scope;

impl Group {
    /// Part of `settle`: HELLO goes out when there is something new to say.
    pub(super) fn settle_hello(&mut self) {
        if self.link.is_none() || !self.has_left() || self.must_wait_after_failure() {
            return;
        }
        let hello = self.hello();
        let link = self.link.as_mut().expect("checked above");
        if link.my_hello.as_deref() != Some(&hello) {
            link.my_hello = Some(Box::new(hello.clone()));
            link.is_judged = false;
            self.send(Message::Hello(hello));
        }
        self.judge();
    }

    pub(super) fn hello(&self) -> Hello {
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
            start_seq: record.start_seq,
            machine_id: record.machine_id,
            session: record.session,
            session_seen: self.session_seen,
            votes: record.votes,
            state: record.state,
            continuity: record.continuity,
            by_reset: record.by_reset,
            clean: record.clean,
            io_failed: record.io_failed || self.failure.is_some(),
            health: self.health,
            source: record.source,
            forced: record.forced,
            stopping: self.is_stopping(),
            solo_io_count: record.solo_io_count,
            generation: record.generation,
            ancestors: record.ancestors.clone(),
            volumes: volumes.collect(),
        }
    }

    pub(super) fn on_hello(&mut self, hello: Hello) {
        if hello.node != self.config.peer {
            self.out_of_turn("it calls itself by another name");
            return;
        }
        let Some(link) = &mut self.link else { return };
        let known = *link.peer_incarnation.get_or_insert(hello.incarnation);
        if known != hello.incarnation {
            self.out_of_turn("another process speaks on the connection");
            return;
        }
        let changed = link.peer_hello.as_ref().is_some_and(|before| {
            (before.stopping, before.io_failed, before.continuity, before.health)
                != (hello.stopping, hello.io_failed, hello.continuity, hello.health)
        });
        self.peer_health = hello.health;
        let in_session = hello.session == self.record.session || hello.session > self.session_seen;
        let has_left = !matches!(hello.state, RecordState::Ready | RecordState::Target { .. });
        link.peer_hello = Some(Box::new(hello));
        link.is_judged = false;
        if changed {
            self.forget_returned();
        }
        if self.state == State::Active && in_session && has_left {
            let why = format!("{} has left the session", self.config.peer);
            self.leave(&why);
        }
    }

    /// Both HELLOs are there, and one is new.
    fn judge(&mut self) {
        let Some(link) = &mut self.link else { return };
        let (Some(mine), Some(peer)) = (&link.my_hello, &link.peer_hello) else { return };
        if link.is_judged || self.phase != Phase::Idle || self.job.is_some() {
            return;
        }
        if self.giving.is_some() || !self.taking.is_empty() {
            return;
        }
        link.is_judged = true;
        let (mine, peer) = (mine.clone(), peer.clone());
        let verdict = self.verdict(&mine, &peer);
        self.give_again();
        self.obey(verdict, &peer);
    }

    fn verdict(&self, mine: &Hello, peer: &Hello) -> Verdict {
        let names: Vec<_> = self.config.volumes.iter().map(|v| v.name.clone()).collect();
        match mismatch(mine, peer, &names) {
            Some(reason) => Verdict::Refuse(reason),
            None => verdict(mine, peer, self.config.rules),
        }
    }

    /// Whether the peer may make this node its target, and what it has to copy at least.
    pub(super) fn scope_as_target(&self) -> Option<Scope> {
        let (mine, peer) = (self.hello(), self.peer_hello()?);
        (self.verdict(&mine, peer) == Verdict::AwaitSource).then(|| scope(peer, &mine))
    }

    /// The peer will make no session with this node: said of HELLOs, outside of any session.
    pub(super) fn on_refused(&mut self, reason: &str) {
        if self.has_left() {
            self.become_broken(reason);
        } else {
            self.out_of_turn("REFUSE after the join began");
        }
    }

    fn obey(&mut self, verdict: Verdict, peer: &Hello) {
        match verdict {
            Verdict::Refuse(reason) => {
                self.send(Message::Refuse { reason: reason.clone() });
                self.become_broken(&reason);
            }
            Verdict::BeSource(scope) => {
                self.enough_probing();
                self.wish_join(scope);
            }
            Verdict::AwaitSource => {
                if matches!(self.state, State::Deciding | State::Limbo) {
                    self.give_up("the peer goes on alone");
                }
            }
            Verdict::GiveUp => self.give_up("the peer goes on by the rule of both HELLOs"),
            Verdict::SayStopped => self.say_stopped(),
            Verdict::GoOn { peer_unclean_too } => {
                self.peer_unclean_too |= peer_unclean_too;
                let harmless = !matches!(peer.state, RecordState::Active | RecordState::Solo)
                    || peer.session < self.record.session
                    || peer.continuity == Continuity::Amnesia;
                if harmless {
                    self.wake_up("the peer cannot go on");
                }
            }
            Verdict::Wait(reason) => {
                tracing::info!(node = %self.config.node, "waiting: {reason}");
            }
        }
    }

    /// All votes to the peer; from here on this node serves nothing of the session.
    pub(super) fn give_up(&mut self, why: &str) {
        match self.state {
            State::Deciding | State::Limbo | State::Fenced => {}
            State::Starting if self.record.state == RecordState::Virgin => {}
            _ => return,
        }
        self.drop_gate();
        self.timers.clear(super::timers::Timer::Claim);
        self.timers.clear(super::timers::Timer::Promise);
        if matches!(self.state, State::Deciding | State::Limbo) {
            self.transition(State::Fenced, why);
        }
        self.giving = Some(super::vote::GiveWish::All);
    }

    pub(super) fn become_broken(&mut self, reason: &str) {
        if !matches!(self.state, State::Broken | State::Stopped) {
            // What serves alone goes on (2.11); it only makes no session.
            if matches!(self.state, State::Solo | State::Source | State::Ready) {
                tracing::error!(node = %self.config.node, "{reason}");
                return;
            }
            self.drop_gate();
            self.transition(State::Broken, reason);
        }
    }
}
