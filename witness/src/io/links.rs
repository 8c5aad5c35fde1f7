//! A node's connections to its witnesses: what the client core wants done, and what comes back.
//!
//! Owns: connections under way and up; one at a time, as the client core has it.
//! Out: [`LinkEvent`]s on one bounded channel.
//! Invariants: a connection is used only if its certificate names the configured witness; every
//! wait has a limit; nothing is allocated by a length that was not checked.
//! Not here: which witness is asked what (`client`).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::frame::{FrameError, HEADER_BYTES, Header};
use base::identity::{Identity, Kind};
use base::ids::{ConnNonce, NodeName};
use base::io::random::random_bytes;
use base::io::tcp;
use base::io::tls::{TlsError, peer_identity, server_name};
use base::limits::Timers;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

use crate::client::{Action, Event};
use crate::wire::{ANSWER_BYTES_MAX, Answer, Request};

/// Requests that wait to be sent, at most: the client core has five under way.
const OUTGOING_MAX: usize = 8;
/// Time for connect, handshake and certificate; the client core gives up by itself about then.
const SETUP_TIMEOUT: Duration = Duration::from_secs(3);

/// What happens on the connections.
#[derive(Debug)]
pub enum LinkEvent {
    /// For `Client::handle_connected`.
    Connected {
        /// Which attempt.
        attempt: u64,
    },
    /// For `Client::handle_answer`.
    Answer {
        /// On which connection.
        attempt: u64,
        /// It.
        answer: Answer,
    },
    /// For `Client::handle_lost`.
    Lost {
        /// Which attempt or connection.
        attempt: u64,
        /// For status and log.
        why: String,
    },
}

/// A witness of the list, and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessAddress {
    /// As in its certificate.
    pub name: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Carries out what a client core wants.
#[derive(Debug)]
pub struct WitnessLinks {
    dialler: Rc<Dialler>,
    /// In the order of the client core's list.
    witnesses: Vec<WitnessAddress>,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Dialler {
    tls: Arc<ClientConfig>,
    local: SocketAddr,
    events: mpsc::Sender<LinkEvent>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    requests: mpsc::Sender<Request>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("its certificate: {0}")]
    Certificate(#[from] TlsError),
    #[error("its certificate is of {found}, not of {wanted}")]
    Holder { found: Identity, wanted: Identity },
    #[error("a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("a frame of another length or connection")]
    Foreign,
}

impl WitnessLinks {
    /// For a node that dials from `local`'s address. Events of connections that were closed may
    /// still come; the client core knows them by their number.
    pub fn new(
        tls: Arc<ClientConfig>,
        local: SocketAddr,
        witnesses: Vec<WitnessAddress>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let dialler = Rc::new(Dialler { tls, local, events });
        Self { dialler, witnesses, open: BTreeMap::new() }
    }

    /// Does it, or returns what is for the group. Runs on a `LocalSet`.
    pub fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Dial { witness, attempt } => self.dial(witness, attempt),
            Action::Close { attempt } => self.close(attempt),
            Action::Send { attempt, request } => {
                // A connection that takes no more is silent, and given up for that.
                if let Some(open) = self.open.get(&attempt) {
                    let _ = open.requests.try_send(request);
                }
            }
            Action::Tell(event) => return Some(event),
        }
        None
    }

    fn dial(&mut self, witness: usize, attempt: u64) {
        let witness = self.witnesses[witness].clone();
        let (requests, queue) = mpsc::channel(OUTGOING_MAX);
        let dialler = self.dialler.clone();
        let task = spawn_local(async move {
            let Err(error) = dialler.run(&witness, attempt, queue).await;
            let why = format!("witness {} at {}: {error}", witness.name, witness.address);
            let _ = dialler.events.send(LinkEvent::Lost { attempt, why }).await;
        });
        self.open.retain(|_, open| !open.task.is_finished());
        self.open.insert(attempt, Open { task: task.abort_handle(), requests });
    }

    fn close(&mut self, attempt: u64) {
        if let Some(open) = self.open.remove(&attempt) {
            open.task.abort();
        }
    }
}

impl Drop for WitnessLinks {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.task.abort());
    }
}

impl Dialler {
    /// A connection from its beginning to its end.
    async fn run(
        &self,
        witness: &WitnessAddress,
        attempt: u64,
        queue: mpsc::Receiver<Request>,
    ) -> Result<std::convert::Infallible, LinkError> {
        let connecting = tokio::time::timeout(SETUP_TIMEOUT, self.connect(witness));
        let stream = connecting.await.map_err(|_| LinkError::Timeout)??;
        let _ = self.events.send(LinkEvent::Connected { attempt }).await;
        let conn_nonce = ConnNonce(random_bytes());
        let (reader, writer) = tokio::io::split(stream);
        // What was received comes first: a reason may stand before the end of the connection.
        tokio::select! {
            biased;
            ended = self.read(reader, attempt, conn_nonce) => ended,
            ended = write(writer, conn_nonce, queue) => ended,
        }
    }

    async fn connect(&self, witness: &WitnessAddress) -> Result<TlsStream<TcpStream>, LinkError> {
        let stream = tcp::connect(self.local, witness.address).await?;
        tcp::tune(&stream, Timers::DEFAULT.alive)?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(server_name(), stream).await?;
        let found = peer_identity(stream.get_ref().1.peer_certificates())?;
        let wanted = Identity { kind: Kind::Witness, name: witness.name.clone() };
        if found != wanted {
            return Err(LinkError::Holder { found, wanted });
        }
        Ok(stream)
    }

    async fn read(
        &self,
        mut reader: impl AsyncRead + Unpin,
        attempt: u64,
        conn_nonce: ConnNonce,
    ) -> Result<std::convert::Infallible, LinkError> {
        let mut received = 0;
        loop {
            let mut head = [0; HEADER_BYTES];
            reader.read_exact(&mut head).await?;
            let header = Header::decode(&head)?;
            if header.sequence != received {
                let (expected, found) = (received, header.sequence);
                return Err(FrameError::Sequence { expected, found }.into());
            }
            received += 1;
            let bytes = header.body_bytes as usize;
            // A connection that is refused before its first request has no nonce yet.
            let ours = header.conn_nonce == conn_nonce || header.conn_nonce == ConnNonce::NONE;
            if bytes > ANSWER_BYTES_MAX || header.payload_bytes != 0 || !ours {
                return Err(LinkError::Foreign);
            }
            let mut body = [0; ANSWER_BYTES_MAX];
            reader.read_exact(&mut body[..bytes]).await?;
            let answer = Answer::decode(&header, &body[..bytes])?;
            let _ = self.events.send(LinkEvent::Answer { attempt, answer }).await;
        }
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    conn_nonce: ConnNonce,
    mut queue: mpsc::Receiver<Request>,
) -> Result<std::convert::Infallible, LinkError> {
    let mut sent = 0;
    let mut frames = Vec::new();
    while let Some(request) = queue.recv().await {
        let mut next = Some(request);
        while let Some(request) = next {
            frames.extend_from_slice(&request.encode(conn_nonce, sent));
            sent += 1;
            next = queue.try_recv().ok();
        }
        writer.write_all(&frames).await?;
        writer.flush().await?;
        frames.clear();
    }
    Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by this node").into())
}
