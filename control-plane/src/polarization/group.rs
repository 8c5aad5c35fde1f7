//! The group core.

use std::collections::VecDeque;

use base::ids::{ConnNonce, Ticket, VolumeIndex};
use base::time::Instant;
use datapath::port::VolumeReport;

use super::{Action, DurableDone, DurableFault, GroupConfig, GroupView};
use crate::record::StartState;
use crate::wire::ControlMessage;

/// The group core of one node.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    start: StartState,
    actions: VecDeque<Action>,
}

impl Group {
    /// A node that has just started.
    pub fn new(_now: Instant, config: GroupConfig, start: StartState) -> Self {
        Self { config, start, actions: VecDeque::new() }
    }

    /// A control connection is up. The dialling node drew `conn_nonce`; the other one takes it
    /// from the first frame that it receives (the dialling core sends a HEARTBEAT at once).
    pub fn handle_control_up(&mut self, now: Instant, conn_nonce: ConnNonce) {
        let _ = (now, conn_nonce);
    }

    /// A control connection ended or broke a rule.
    pub fn handle_control_lost(&mut self, now: Instant, conn_nonce: ConnNonce, why: &str) {
        let _ = (now, conn_nonce, why);
    }

    /// A message of the peer.
    pub fn handle_control(&mut self, now: Instant, conn_nonce: ConnNonce, message: ControlMessage) {
        let _ = (now, conn_nonce, message);
    }

    /// A volume reports.
    pub fn handle_volume(&mut self, now: Instant, volume: VolumeIndex, report: VolumeReport) {
        let _ = (now, volume, report);
    }

    /// A durable job ended.
    pub fn handle_durable(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<DurableDone, DurableFault>,
    ) {
        let _ = (now, ticket, result);
    }

    /// The node is to stop, cleanly if it can.
    pub fn handle_stop(&mut self, now: Instant) {
        let _ = now;
    }

    /// Time passed; called at `next_deadline`, after all received input was handed in.
    pub fn handle_time(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next thing for the shell to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `handle_time` is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether the dialling shell is to dial: no control connection is up and the node is not
    /// stopping.
    pub fn wants_control(&self) -> bool {
        self.config.dials()
    }

    /// The control connection whose data connections are welcome.
    pub fn conn_nonce(&self) -> Option<ConnNonce> {
        None
    }

    /// What the group knows, for people.
    pub fn view(&self, now: Instant) -> GroupView {
        let _ = now;
        GroupView {
            state: "starting",
            serving: false,
            session: self.start.record.session,
            orderer: None,
            cause: String::new(),
            advice: String::new(),
            peer: super::PeerView {
                name: self.config.peer.clone(),
                reachable: false,
                state: None,
                last_seen_ms: None,
            },
            volumes: Vec::new(),
        }
    }
}
