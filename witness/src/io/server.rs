//! The witness's connections: accepting, TLS, whose certificate it is, requests and answers.
//!
//! Owns: the arbiter, the log, every connection. One thread.
//! Invariants: a connection is served only if its certificate names a node; it belongs to the group
//! that its first request names, and of each group each node has one: a newer takes its place;
//! every wait has a limit; nothing is allocated by a length that was not checked.
//! Faults assumed: any bytes, any number of connections, nodes that are silent, slow, or ask without
//! end; a log whose disk hangs.
//! Not here: what is answered (`arbiter`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::frame::{FrameError, HEADER_BYTES, Header};
use base::identity::Kind;
use base::ids::{ConnNonce, NodeName, WitnessRun};
use base::io::clock;
use base::io::random::random_bytes;
use base::io::tcp;
use base::io::tls::{TlsError, TlsIdentity, peer_identity};
use base::limits::{Timers, WITNESS_CONNECTIONS_MAX, WITNESS_REQUESTS_PER_S};
use base::said::Said;
use base::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::event_log::EventLog;
use super::generation::Changes;
use super::metrics::{Metrics, Now};
use crate::arbiter::{Arbiter, Event, GroupId};
use crate::wire::{Answer, Question, REQUEST_BYTES_MAX, Reply, Request};

/// Handshakes under way, at most; further connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 128;
/// A handshake that has taken so long makes room for another.
const HANDSHAKE_SLOW: Duration = Duration::from_secs(1);
/// Time for a handshake when there is room.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to tell a connection why it is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection without a request for so long is closed: nodes ping several times a second.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Time between two looks at connections and tokens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after accept(2) failed, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A witness that runs.
#[derive(Debug)]
pub(super) struct Server {
    name: NodeName,
    tls: Arc<ServerConfig>,
    begun: Instant,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    arbiter: Arbiter,
    changes: Changes,
    log: EventLog,
    metrics: Metrics,
    said: Said,
    connections: BTreeMap<u64, Connection>,
    /// The connection of a node in a group.
    holders: BTreeMap<(GroupId, NodeName), u64>,
    /// Connections so far.
    accepted: u64,
}

#[derive(Debug)]
struct Connection {
    task: Option<AbortHandle>,
    heard: Rc<Cell<Instant>>,
    holder: Option<(GroupId, NodeName)>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("its certificate: {0}")]
    Certificate(#[from] TlsError),
    #[error(
        "the certificate is of stretch:{}/{}, and witness {witness} serves nodes: give the node an \
         identity of its own (stretch pki issue --kind node NAME)",
        kind.word(),
        name
    )]
    Kind { kind: Kind, name: NodeName, witness: NodeName },
    #[error("a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("a frame of {0} bytes: a request is not so long")]
    Length(u64),
    #[error("a frame of another connection")]
    Nonce,
    #[error("a request about another pair than the connection's first")]
    Group,
}

impl EndError {
    /// Whether the other side can be told in words, and people must know.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Io(_) | Self::Timeout => false,
            Self::Certificate(_)
            | Self::Kind { .. }
            | Self::Frame(_)
            | Self::Length(_)
            | Self::Nonce
            | Self::Group => true,
        }
    }
}

/// Removes the connection when its task ends, however it ends.
struct Registered {
    server: Rc<Server>,
    id: u64,
    heard: Rc<Cell<Instant>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.server.state.borrow_mut();
        let State { connections, holders, .. } = &mut *state;
        if let Some(holder) = connections.remove(&self.id).and_then(|connection| connection.holder)
            && holders.get(&holder) == Some(&self.id)
        {
            holders.remove(&holder);
        }
    }
}

impl Server {
    pub(super) fn new(
        identity: &TlsIdentity,
        arbiter: Arbiter,
        log: EventLog,
        metrics: Metrics,
    ) -> Rc<Self> {
        let state = State {
            arbiter,
            changes: Changes::listen(),
            log,
            metrics,
            said: Said::default(),
            connections: BTreeMap::new(),
            holders: BTreeMap::new(),
            accepted: 0,
        };
        let server = Self {
            name: identity.identity.name.clone(),
            tls: identity.server.clone(),
            begun: clock::now(),
            state: RefCell::new(state),
        };
        server.state.borrow_mut().log_events();
        Rc::new(server)
    }

    /// Accepts for ever. Runs on a `LocalSet`.
    pub(super) async fn accept(self: Rc<Self>, listener: TcpListener) -> Infallible {
        let mut handshakes = Handshakes::default();
        loop {
            handshakes.wait_for_room().await;
            match listener.accept().await {
                Ok((stream, from)) => {
                    let handshake = spawn_local(self.clone().handle_accepted(stream, from));
                    handshakes.add(handshake.abort_handle());
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection; trying again shortly");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Looks after connections and tokens for ever.
    pub(super) async fn look_after(self: Rc<Self>) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = clock::now();
            let mut state = self.state.borrow_mut();
            state.arbiter.handle_time(now);
            state.look_at_generation();
            state.log_events();
            state.close_silent(now);
            state.metrics.show(Now {
                groups: state.arbiter.group_count(),
                tokens: state.arbiter.token_count(),
                connections: state.connections.len(),
                uptime: now.since(self.begun),
            });
        }
    }

    /// The last line of the log.
    pub(super) fn log_end(&self, cause: &str) {
        let mut state = self.state.borrow_mut();
        let run = state.arbiter.run();
        state.log.append_end(run, cause);
    }

    /// From accept to the certificate; what comes behind it has a task of its own, which is smaller.
    async fn handle_accepted(self: Rc<Self>, stream: TcpStream, from: SocketAddr) {
        if self.state.borrow().connections.len() >= WITNESS_CONNECTIONS_MAX {
            let text = format!("there are {WITNESS_CONNECTIONS_MAX} connections already");
            self.tell_refusal(from, &text);
            return;
        }
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream)).await;
        match handshake.unwrap_or(Err(EndError::Timeout)) {
            Ok(mut stream) => match self.node_of(&stream) {
                Ok(node) => self.begin(stream, node, from),
                Err(error) => {
                    self.tell_refusal(from, &error.to_string());
                    self.refuse(&mut stream, ConnNonce::NONE, 0, &error).await;
                }
            },
            // The TLS library says whose certificate is wrong.
            Err(EndError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                self.tell_refusal(from, &error.to_string());
            }
            // Somebody looks whether it listens, or went away.
            Err(error) => debug!(%from, "a connection ended early: {error}"),
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, EndError> {
        tcp::tune(&stream, Timers::DEFAULT.alive)?;
        Ok(TlsAcceptor::from(self.tls.clone()).accept(stream).await?)
    }

    fn node_of(&self, stream: &TlsStream<TcpStream>) -> Result<NodeName, EndError> {
        let holder = peer_identity(stream.get_ref().1.peer_certificates())?;
        if holder.kind == Kind::Node {
            return Ok(holder.name);
        }
        let (kind, name, witness) = (holder.kind, holder.name, self.name.clone());
        Err(EndError::Kind { kind, name, witness })
    }

    fn begin(self: &Rc<Self>, stream: TlsStream<TcpStream>, node: NodeName, from: SocketAddr) {
        let heard = Rc::new(Cell::new(clock::now()));
        let id = {
            let mut state = self.state.borrow_mut();
            state.accepted += 1;
            let id = state.accepted;
            let connection = Connection { task: None, heard: heard.clone(), holder: None };
            state.connections.insert(id, connection);
            id
        };
        let registered = Registered { server: self.clone(), id, heard };
        let task = spawn_local(registered.serve(stream, node, from));
        if let Some(connection) = self.state.borrow_mut().connections.get_mut(&id) {
            connection.task = Some(task.abort_handle());
        }
    }

    /// Tells the other side why it is refused, and ends the connection.
    async fn refuse(
        &self,
        stream: &mut TlsStream<TcpStream>,
        conn_nonce: ConnNonce,
        sequence: u64,
        error: &EndError,
    ) {
        let (run, reason) = (self.state.borrow().arbiter.run(), error.to_string());
        let answer = Answer { id: 0, run, counter: 0, reply: Reply::Refused { reason } };
        let frame = answer.encode(conn_nonce, sequence);
        let tell = async {
            stream.write_all(&frame).await?;
            stream.shutdown().await?;
            // Closing with bytes unread would reset the connection and lose the reason.
            let mut rest = [0; 256];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, tell).await;
    }

    fn tell_refusal(&self, from: SocketAddr, text: &str) {
        let mut state = self.state.borrow_mut();
        state.metrics.count_refused();
        if state.said.is_news(clock::now(), from.ip(), text) {
            warn!(%from, "a connection was refused: {text}");
        }
    }

    /// The answer, and everything that belongs to it.
    fn answer(&self, node: &NodeName, request: &Request) -> Answer {
        let mut state = self.state.borrow_mut();
        let random = match request.question {
            Question::Create { .. } => random_bytes(),
            Question::Claim { .. } => {
                // Before anything is granted, not only once in a while.
                state.look_at_generation();
                [0; 16]
            }
            Question::Ping { .. } | Question::Note(_) | Question::Who => [0; 16],
        };
        let answer = state.arbiter.handle_request(clock::now(), node, request, random);
        state.metrics.count(&request.question, &answer.reply);
        state.log_events();
        answer
    }
}

impl State {
    /// The machine's memory may be a copy, or an older one.
    fn look_at_generation(&mut self) {
        if self.changes.have_come() {
            self.arbiter.handle_generation_change(WitnessRun(random_bytes()));
        }
    }

    fn log_events(&mut self) {
        while let Some(event) = self.arbiter.poll_event() {
            if matches!(event, Event::RolledBack { .. }) {
                self.metrics.count_rollback();
            }
            self.log.append(&event);
        }
    }

    fn close_silent(&mut self, now: Instant) {
        for connection in self.connections.values() {
            if now.since(connection.heard.get()) > SILENT_MAX
                && let Some(task) = &connection.task
            {
                task.abort();
            }
        }
    }

    /// The connection is this node's in the group from now on; an older one ends.
    fn bind(&mut self, id: u64, holder: (GroupId, NodeName)) {
        let older = self.holders.insert(holder.clone(), id);
        if let Some(older) = older.and_then(|older| self.connections.get_mut(&older)) {
            debug!("a newer connection of {} takes the place of its older one", holder.1);
            older.holder = None;
            if let Some(task) = &older.task {
                task.abort();
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.holder = Some(holder);
        }
    }
}

impl Registered {
    /// A connection from its certificate to its end.
    async fn serve(self, mut stream: TlsStream<TcpStream>, node: NodeName, from: SocketAddr) {
        let mut link = Link::default();
        let Err(error) = self.serve_requests(&mut stream, &node, &mut link).await;
        if error.is_refusal() {
            self.server.tell_refusal(from, &format!("node {node}: {error}"));
            let conn_nonce = link.conn_nonce.unwrap_or(ConnNonce::NONE);
            self.server.refuse(&mut stream, conn_nonce, link.sent, &error).await;
        } else {
            debug!(%from, "a connection of node {node} ended: {error}");
        }
    }

    async fn serve_requests(
        &self,
        stream: &mut TlsStream<TcpStream>,
        node: &NodeName,
        link: &mut Link,
    ) -> Result<Infallible, EndError> {
        loop {
            let request = link.read(stream).await?;
            let now = clock::now();
            self.heard.set(now);
            self.check_group(node, &request, link)?;
            link.wait_for_turn(now).await;
            let answer = self.server.answer(node, &request);
            link.write(stream, &answer).await?;
        }
    }

    /// One connection is of one group.
    fn check_group(
        &self,
        node: &NodeName,
        request: &Request,
        link: &mut Link,
    ) -> Result<(), EndError> {
        if let Some((pair_id, peer)) = &link.group {
            let same = *pair_id == request.pair_id && *peer == request.peer;
            return if same { Ok(()) } else { Err(EndError::Group) };
        }
        link.group = Some((request.pair_id, request.peer.clone()));
        if let Some(group) = GroupId::new(request.pair_id, node.clone(), request.peer.clone()) {
            self.server.state.borrow_mut().bind(self.id, (group, node.clone()));
        }
        Ok(())
    }
}

/// The frames of one connection.
#[derive(Debug, Default)]
struct Link {
    conn_nonce: Option<ConnNonce>,
    received: u64,
    sent: u64,
    group: Option<(base::ids::PairId, NodeName)>,
    /// Since when requests are counted, and how many there were.
    counted: Option<(Instant, u32)>,
}

impl Link {
    async fn read(&mut self, stream: &mut TlsStream<TcpStream>) -> Result<Request, EndError> {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await?;
        let header = Header::decode(&head)?;
        if header.sequence != self.received {
            let (expected, found) = (self.received, header.sequence);
            return Err(FrameError::Sequence { expected, found }.into());
        }
        if *self.conn_nonce.get_or_insert(header.conn_nonce) != header.conn_nonce {
            return Err(EndError::Nonce);
        }
        let bytes = header.body_bytes as usize;
        if bytes > REQUEST_BYTES_MAX || header.payload_bytes != 0 {
            let length = u64::from(header.body_bytes) + u64::from(header.payload_bytes);
            return Err(EndError::Length(length));
        }
        let mut body = [0; REQUEST_BYTES_MAX];
        stream.read_exact(&mut body[..bytes]).await?;
        self.received += 1;
        Ok(Request::decode(&header, &body[..bytes])?)
    }

    async fn write(
        &mut self,
        stream: &mut TlsStream<TcpStream>,
        answer: &Answer,
    ) -> Result<(), EndError> {
        let conn_nonce = self.conn_nonce.unwrap_or(ConnNonce::NONE);
        let frame = answer.encode(conn_nonce, self.sent);
        self.sent += 1;
        stream.write_all(&frame).await?;
        stream.flush().await?;
        Ok(())
    }

    /// A node that asks without end waits; the others do not.
    async fn wait_for_turn(&mut self, now: Instant) {
        const SECOND: Duration = Duration::from_secs(1);
        let (since, count) = self.counted.unwrap_or((now, 0));
        if now.since(since) >= SECOND {
            self.counted = Some((now, 1));
        } else if count < WITNESS_REQUESTS_PER_S {
            self.counted = Some((since, count + 1));
        } else {
            tokio::time::sleep(SECOND.saturating_sub(now.since(since))).await;
            self.counted = Some((clock::now(), 1));
        }
    }
}

/// Handshakes under way, oldest first.
#[derive(Debug, Default)]
struct Handshakes(VecDeque<(Instant, AbortHandle)>);

impl Handshakes {
    /// Returns when there is room for one more: some have ended, or the oldest is slow.
    async fn wait_for_room(&mut self) {
        loop {
            self.0.retain(|(_, handshake)| !handshake.is_finished());
            let Some((begun, handshake)) = self.0.front() else { return };
            if self.0.len() < HANDSHAKES_MAX {
                return;
            }
            if clock::now().since(*begun) >= HANDSHAKE_SLOW {
                debug!("too many connections show no certificate: closing the oldest");
                handshake.abort();
                self.0.pop_front();
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn add(&mut self, handshake: AbortHandle) {
        self.0.push_back((clock::now(), handshake));
    }
}
