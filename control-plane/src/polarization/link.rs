//! The control connection: what came and went on it.

use std::collections::BTreeSet;

use base::ids::{ConnNonce, Incarnation, VolumeIndex};
use base::time::Instant;

use super::group::{Group, Phase};
use super::port::Action;
use super::timers::Timer;
use crate::wire::{ControlMessage, Heartbeat, Hello};

/// One control connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) nonce: ConnNonce,
    /// When the newest message came, or the connection itself.
    pub(super) heard: Instant,
    /// The process at the other end, once it has said so.
    pub(super) peer_incarnation: Option<Incarnation>,
    /// Heartbeats sent.
    pub(super) beats: u64,
    pub(super) my_hello: Option<Box<Hello>>,
    pub(super) peer_hello: Option<Box<Hello>>,
    /// Volumes whose data connection is attached.
    pub(super) links_up: BTreeSet<VolumeIndex>,
    /// Whether the two HELLOs were compared.
    pub(super) judged: bool,
}

impl Link {
    pub(super) fn new(nonce: ConnNonce, now: Instant) -> Self {
        Self {
            nonce,
            heard: now,
            peer_incarnation: None,
            beats: 0,
            my_hello: None,
            peer_hello: None,
            links_up: BTreeSet::new(),
            judged: false,
        }
    }
}

/// The newest report of the peer; outlives the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerReport {
    pub(super) at: Instant,
    pub(super) beat: Heartbeat,
}

impl Group {
    /// Takes a connection as the current one.
    pub(super) fn adopt(&mut self, now: Instant, link: Link) {
        assert!(self.link.is_none(), "one control connection at a time");
        self.link = Some(link);
        self.timers.set(Timer::Suspect, now + self.timings().suspect_after);
        self.beat_due = true;
    }

    /// The current connection is no more; one that was offered takes its place.
    pub(super) fn forget_link(&mut self) {
        self.link = None;
        self.timers.clear(Timer::Suspect);
        self.timers.clear(Timer::Heartbeat);
    }

    pub(super) fn adopt_offer(&mut self, now: Instant) {
        if let Some(offer) = self.offered.take().filter(|_| self.link.is_none()) {
            self.adopt(now, offer);
        }
    }

    pub(super) fn close_control(&mut self, conn_nonce: ConnNonce, why: &str) {
        self.actions.push_back(Action::CloseControl { conn_nonce, why: why.to_owned() });
    }

    /// Closes the current connection, if there is one.
    pub(super) fn close_link(&mut self, now: Instant, why: &str) {
        if let Some(nonce) = self.conn_nonce() {
            self.close_control(nonce, why);
            self.forget_link();
            self.adopt_offer(now);
        }
    }

    /// A second connection speaks. While a session is made or runs it is refused, whichever process
    /// is behind it: what an ended process had sent may arrive after the next one has joined. A
    /// peer that was restarted is let in when its old connection is lost, which is at once but
    /// where the network loses that, too, and then after T_sus.
    pub(super) fn judge_offer(&mut self, now: Instant, message: &ControlMessage) {
        let Some(offer) = self.offered.take() else { return };
        let busy = match &self.phase {
            Phase::Joining(_) | Phase::Active { .. } | Phase::Stopping(_) => true,
            Phase::Idle | Phase::Leaving(_) => false,
        };
        if !matches!(message, ControlMessage::Heartbeat(_) | ControlMessage::Hello(_)) {
            self.close_control(offer.nonce, "it does not begin with HEARTBEAT or HELLO");
            return;
        }
        if busy {
            self.close_control(offer.nonce, "another connection is in use, and not lost yet");
            return;
        }
        let why = format!("{} made a new connection", self.config.peer);
        if let Some(nonce) = self.conn_nonce() {
            self.close_control(nonce, &why);
        }
        self.forget_link();
        self.leave(now, &why);
        self.adopt(now, offer);
    }

    /// The peer has been silent for T_sus.
    pub(super) fn on_silence(&mut self, now: Instant) {
        let Some(link) = &self.link else { return };
        let silent_ms = now.since(link.heard).as_millis();
        let why = format!("{} was silent for {silent_ms} ms", self.config.peer);
        self.lose_connection(now, &why);
    }

    /// The peer broke the protocol: whatever it meant, the session ends.
    pub(super) fn out_of_turn(&mut self, now: Instant, what: &str) {
        let why = format!("{} broke the protocol: {what}", self.config.peer);
        tracing::warn!(node = %self.config.node, "{why}");
        self.leave(now, &why);
    }
}
