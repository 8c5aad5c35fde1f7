//! The attached NBD clients of one volume: sockets and their cores.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use base::ids::ClientId;
use base::io::clock;
use base::io::socket::Socket;
use base::limits::TURN_BYTES_MAX;
use base::request::{Completion, Operation, RequestId};
use base::time::Instant;
use datapath::outbox::{CloseReason, Stages};
use nbd_frontend::budget::Budget;
use nbd_frontend::client::{Client, InFlight};
use nbd_frontend::io::acceptor::{Attached, Place};
use nbd_frontend::proto::request::Command;
use tracing::info;

use crate::io::metrics::{Latencies, Op};

struct Connection {
    socket: Socket,
    client: Client,
    peer: SocketAddr,
    readable: bool,
    gone: bool,
    /// Nothing can be sent any more.
    broken: bool,
    /// Frees the client's place under the cap when the connection is dropped.
    _place: Place,
}

/// Who takes the requests.
pub(super) trait Intake {
    /// Whether more may be received, because the data link can take them at once (G2a) and few
    /// enough are under way.
    fn is_open(&self) -> bool;
    /// A request that is here.
    fn take(&mut self, id: RequestId, operation: Operation);
}

#[derive(Default)]
pub(super) struct Clients {
    connections: BTreeMap<ClientId, Connection>,
    /// Those that have something to receive, to send or to end: a turn looks at no others.
    active: BTreeSet<ClientId>,
    /// What they hold in memory together.
    budget: Budget,
    /// Whose turn is first: the one behind the last that was given room while there was some.
    first: ClientId,
    next_id: u64,
}

impl Clients {
    pub(super) fn next_id(&mut self) -> ClientId {
        self.next_id += 1;
        ClientId(self.next_id)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub(super) fn attach(&mut self, id: ClientId, attached: Attached) {
        let Attached { mut socket, terms, leftover, peer, host: _, place } = attached;
        let mut client = Client::new(terms, &self.budget);
        client.handle_bytes(clock::now(), &leftover);
        let decrypted = socket.receive_decrypted(|bytes| client.handle_bytes(clock::now(), bytes));
        if decrypted.is_err() {
            client.handle_connection_lost();
        }
        let connection = Connection {
            socket,
            client,
            peer,
            readable: true,
            gone: false,
            broken: false,
            _place: place,
        };
        self.connections.insert(id, connection);
        self.active.insert(id);
    }

    pub(super) fn note(&mut self, number: u64, readable: bool, gone: bool) {
        let id = ClientId(number);
        // An event of a connection that was closed in the meantime is of no interest.
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.readable |= readable;
            connection.gone |= gone;
            self.active.insert(id);
        }
    }

    /// Whether the next turn has something to receive or to go on with.
    pub(super) fn has_input(&self) -> bool {
        let goes_on = |id| {
            let Connection { client, readable, .. } = &self.connections[id];
            (*readable && client.wants_input()) || client.can_resume()
        };
        self.active.iter().any(goes_on)
    }

    /// One turn of each client: what waited for room, and what came, as far as there is room.
    /// Every request that is here is handed on, room or not. Asked before each, so that all
    /// together exceed a bound by no more than one of them does in its turn.
    pub(super) fn receive(&mut self, scratch: &mut [u8], intake: &mut impl Intake) {
        let in_turn = self.active.range(self.first..).chain(self.active.range(..self.first));
        let mut last = None;
        for id in in_turn {
            let connection = self.connections.get_mut(id).expect("an active one is attached");
            let has_room = intake.is_open() && !self.budget.is_spent();
            let before = self.budget.used_bytes();
            if intake.is_open() {
                connection.receive(scratch);
            }
            let mut served = self.budget.used_bytes() > before;
            while let Some((tag, operation)) = connection.client.poll_request() {
                intake.take(RequestId { client: *id, tag }, operation);
                served = true;
            }
            if has_room && served {
                last = Some(*id);
            }
        }
        if let Some(ClientId(last)) = last {
            self.first = ClientId(last + 1);
        }
    }

    pub(super) fn complete(
        &mut self,
        id: RequestId,
        completion: Completion,
        stages: Stages,
        now: Instant,
        latencies: &mut Latencies,
    ) {
        if let Some(connection) = self.connections.get_mut(&id.client) {
            if let Some(InFlight { command, bytes, begun }) = connection.client.in_flight(id.tag)
                && let Some(op) = op_of(command)
            {
                latencies.record_request(op, begun, stages, now);
                if let Completion::Failed(_) = completion {
                    latencies.count_error(op);
                } else {
                    latencies.count_bytes(op, bytes);
                }
            }
            connection.client.handle_completion(id.tag, completion);
            self.active.insert(id.client);
        }
    }

    pub(super) fn close(&mut self, client: ClientId, why: &CloseReason) {
        self.active.remove(&client);
        if let Some(connection) = self.connections.remove(&client) {
            info!(peer = %connection.peer, reason = %why, "closing an NBD client");
        }
    }

    pub(super) fn close_all(&mut self, why: CloseReason) {
        if why == CloseReason::Stopping {
            for (id, connection) in &mut self.connections {
                connection.client.handle_shutdown(clock::now());
                self.active.insert(*id);
            }
            return;
        }
        self.active.clear();
        for (_, connection) in std::mem::take(&mut self.connections) {
            info!(peer = %connection.peer, reason = %why, "closing an NBD client");
        }
    }

    /// Sends what the turn brought and drops the connections that are over; returns those.
    pub(super) fn flush(&mut self) -> Vec<ClientId> {
        let mut over = Vec::new();
        let mut idle = Vec::new();
        for id in &self.active {
            let connection = self.connections.get_mut(id).expect("an active one is attached");
            if connection.flush() {
                over.push(*id);
                continue;
            }
            if !connection.readable && !connection.client.is_waiting() {
                idle.push(*id);
            }
        }
        for id in &idle {
            self.active.remove(id);
        }
        for id in &over {
            self.active.remove(id);
            self.connections.remove(id);
        }
        over
    }
}

fn op_of(command: Command) -> Option<Op> {
    match command {
        Command::Read => Some(Op::Read),
        Command::Write => Some(Op::Write),
        Command::WriteZeroes => Some(Op::WriteZeroes),
        Command::Trim => Some(Op::Trim),
        Command::Flush => Some(Op::Flush),
        Command::Cache => Some(Op::Cache),
        Command::Disconnect | Command::BlockStatus | Command::Other(_) => None,
    }
}

impl Connection {
    fn receive(&mut self, scratch: &mut [u8]) {
        let now = clock::now();
        let client = &mut self.client;
        client.resume(now);
        let mut budget = TURN_BYTES_MAX;
        while self.readable && client.wants_input() && budget > 0 {
            // One piece at a time: the client may have had enough after any of them.
            let piece = scratch.len().min(budget).min(client.input_bytes_max());
            let received = self
                .socket
                .receive(&mut scratch[..piece], 1, |bytes| client.handle_bytes(now, bytes));
            match received {
                Err(_) => {
                    self.readable = false;
                    client.handle_connection_lost();
                }
                Ok(received) if received.closed => {
                    self.readable = false;
                    client.handle_peer_closed();
                }
                Ok(received) => {
                    self.readable = received.more || (self.gone && received.bytes > 0);
                    budget = budget.saturating_sub(received.bytes);
                    if self.gone && !self.readable {
                        client.handle_connection_lost();
                    }
                }
            }
        }
    }

    /// `true` when the connection is over.
    fn flush(&mut self) -> bool {
        while let Some(piece) = self.client.poll_output() {
            self.socket.queue(piece);
        }
        if !self.broken && self.socket.wants_write() && self.socket.flush().is_err() {
            self.broken = true;
            self.client.handle_connection_lost();
        }
        self.client.handle_backlog(if self.broken { 0 } else { self.socket.backlog() });
        match self.client.ended() {
            None => false,
            Some(end) => {
                let sends = end.is_orderly() && !self.broken;
                if sends && self.socket.wants_write() {
                    return false;
                }
                if sends {
                    self.socket.finish();
                }
                info!(peer = %self.peer, reason = %end, "NBD client gone");
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
