//! The control connection: it outlives a session that was left, so that votes can move on it; what
//! is lost with it is told again by the HELLOs of the next one.

use base::ids::{ConnNonce, Incarnation, Session, VolumeIndex};
use base::time::Instant;
use std::collections::BTreeSet;

use super::group::Group;
use super::message::{Hello, Message};
use super::port::Action;
use super::timers::Timer;

/// One control connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Link {
    pub(super) nonce: ConnNonce,
    /// When the newest message came, or the connection itself.
    pub(super) heard: Instant,
    /// The process at the other end, once it has said so.
    pub(super) peer_incarnation: Option<Incarnation>,
    /// The newest of each node.
    pub(super) my_hello: Option<Box<Hello>>,
    pub(super) peer_hello: Option<Box<Hello>>,
    /// Neither has changed since the table was applied to them.
    pub(super) is_judged: bool,
    /// Volumes whose data connection of the join under way is attached.
    pub(super) links_up: BTreeSet<VolumeIndex>,
}

impl Link {
    pub(super) fn new(nonce: ConnNonce, now: Instant) -> Self {
        Self {
            nonce,
            heard: now,
            peer_incarnation: None,
            my_hello: None,
            peer_hello: None,
            is_judged: false,
            links_up: BTreeSet::new(),
        }
    }
}

/// What binds the data connections of one session: the control connection and the session.
pub(super) fn data_nonce(conn: ConnNonce, session: Session) -> ConnNonce {
    let mut bytes = conn.0;
    for (byte, part) in bytes.iter_mut().zip(session.0.to_le_bytes()) {
        *byte ^= part;
    }
    ConnNonce(bytes)
}

impl Group {
    /// Takes a connection as the current one.
    pub(super) fn adopt(&mut self, link: Link) {
        assert!(self.link.is_none(), "one control connection at a time");
        self.link = Some(link);
        self.timers.set(Timer::Suspect, self.clock.time + self.timings().suspect_after);
        self.ask_due = true;
        self.has_said_stopped = false;
        self.forget_returned();
    }

    /// The current connection is no more.
    pub(super) fn forget_link(&mut self) {
        self.link = None;
        self.has_answered_handoff = false;
        self.timers.clear(Timer::Suspect);
        self.timers.clear(Timer::Ask);
    }

    pub(super) fn adopt_offer(&mut self) {
        if let Some(offer) = self.offered.take().filter(|_| self.link.is_none()) {
            self.adopt(offer);
        }
    }

    pub(super) fn close_control(&mut self, conn_nonce: ConnNonce, why: &str) {
        self.actions.push_back(Action::CloseControl { conn_nonce, why: why.to_owned() });
    }

    /// Closes the current connection, if there is one, and what depends on it.
    pub(super) fn close_link(&mut self, why: &str) {
        if let Some(nonce) = self.conn_nonce() {
            self.close_control(nonce, why);
            self.lose_link(why);
        }
    }

    /// The current connection has ended.
    pub(super) fn lose_link(&mut self, why: &str) {
        self.forget_link();
        self.leave(why);
        self.adopt_offer();
    }

    /// A second connection speaks. While a session is made or runs it is refused, unless it proves
    /// that the process of the first one has ended (2.10 U4): only a higher number of starts does,
    /// as what an ended process had sent may come late.
    pub(super) fn judge_offer(&mut self, message: &Message) {
        let Some(offer) = self.offered.take() else { return };
        if !matches!(message, Message::GrantReq(_) | Message::Hello(_)) {
            self.close_control(offer.nonce, "it does not begin with GRANT_REQ or HELLO");
            return;
        }
        if !self.has_left() {
            self.close_control(offer.nonce, "another connection is in use, and not lost yet");
            return;
        }
        let why = format!("{} made a new connection", self.config.peer);
        if let Some(nonce) = self.conn_nonce() {
            self.close_control(nonce, &why);
        }
        self.forget_link();
        self.adopt(offer);
    }

    /// The peer has been silent for T_sus.
    pub(super) fn on_silence(&mut self) {
        let Some(link) = &self.link else { return };
        let silent_ms = self.clock.time.since(link.heard).as_millis();
        let why = format!("{} was silent for {silent_ms} ms", self.config.peer);
        self.close_link(&why);
    }

    /// The peer broke the protocol: whatever it meant, the connection ends.
    pub(super) fn out_of_turn(&mut self, what: &str) {
        let why = format!("{} broke the protocol: {what}", self.config.peer);
        tracing::warn!(node = %self.config.node, "{why}");
        self.close_link(&why);
    }

    pub(super) fn send(&mut self, message: Message) {
        let conn_nonce = self.link.as_ref().expect("a message needs its connection").nonce;
        self.actions.push_back(Action::SendControl { conn_nonce, message: Box::new(message) });
    }

    pub(super) fn peer_hello(&self) -> Option<&Hello> {
        self.link.as_ref().and_then(|link| link.peer_hello.as_deref())
    }
}
