//! Connections between the two nodes until somebody owns them: dialling, accepting, TLS, whose
//! certificate it is, and which kind of connection.
//!
//! Owns: connections under way. Out: [`PeerEvent`]s on one bounded channel.
//! Invariants: a connection is used only if its certificate names the configured peer, as a node;
//! every wait has a time limit; connections that have shown no such certificate are few, and a new
//! one takes the place of the oldest: the peer is through in a few round trips, whoever holds a
//! place is slow or silent.
//! Not here: what control messages mean (`polarization`), data frames (`volume_thread`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use base::frame::{HEADER_BYTES, Header};
use base::identity::{Identity, Kind};
use base::ids::{ConnNonce, NodeName, VolumeId, VolumeIndex};
use base::io::clock;
pub use base::io::random::random_bytes;
use base::io::socket::Socket;
use base::io::tcp;
use base::io::tls::{TlsIdentity, peer_identity, server_name};
use base::said::Said;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, warn};

pub use self::refusal::Trouble;
use crate::wire::ControlMessage;

mod refusal;

/// Time for one connection to show its certificate, and then to send its first frame.
const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for connect(2).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to tell a connection why it is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Accepted connections that have not shown the peer's certificate, at most.
const HANDSHAKES_MAX: usize = 64;
/// Control frames waiting to be sent, at most.
const OUTGOING_MAX: usize = 1024;

/// What happens on the connections between the nodes.
#[derive(Debug)]
pub enum PeerEvent {
    /// A control connection is up.
    Up(ControlLink),
    /// The dialling node could not make one.
    DialFailed {
        /// For status and log.
        trouble: Trouble,
    },
    /// A connection from the peer's address was refused, by this node or by the peer.
    Refused {
        /// For status; the log has it.
        trouble: Trouble,
    },
    /// A control message.
    Message {
        /// Of which connection.
        conn_nonce: ConnNonce,
        /// What it says.
        message: ControlMessage,
    },
    /// A control connection ended.
    Lost {
        /// Which.
        conn_nonce: ConnNonce,
        /// For status and log.
        trouble: Trouble,
    },
    /// A data connection is bound.
    Data(DataLink),
    /// The dialling node could not make a data connection.
    DataFailed {
        /// Of which control connection.
        conn_nonce: ConnNonce,
        /// For status and log.
        why: String,
    },
}

/// The sending half of a control connection. Dropped, it ends the connection when everything
/// queued was sent.
#[derive(Debug)]
pub struct ControlLink {
    /// Which connection.
    pub conn_nonce: ConnNonce,
    outgoing: mpsc::Sender<ControlMessage>,
}

impl ControlLink {
    /// Queues a message; `false` if the connection does not take it any more.
    pub fn send(&self, message: ControlMessage) -> bool {
        self.outgoing.try_send(message).is_ok()
    }
}

/// A bound data connection, to be handed to its volume.
#[derive(Debug)]
pub struct DataLink {
    /// The connection, with its TLS state.
    pub socket: Socket,
    /// The control connection that it belongs to.
    pub conn_nonce: ConnNonce,
    /// Position of the volume.
    pub volume: VolumeIndex,
    /// The volume that the dialling node means; none at the dialling node itself.
    pub volume_id: Option<VolumeId>,
    /// Frames sent and received.
    pub sequence: (u64, u64),
}

/// What every connection needs.
#[derive(Debug)]
pub struct PeerLinks {
    identity: TlsIdentity,
    local: SocketAddr,
    remote: SocketAddr,
    peer: Identity,
    alive: Duration,
    events: mpsc::Sender<PeerEvent>,
    said: RefCell<Said>,
}

/// Why a connection was not used.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("its certificate: {0}")]
    Certificate(#[from] base::io::tls::TlsError),
    #[error("its certificate names {found}; {expected} is expected here")]
    Holder { found: Identity, expected: Identity },
    #[error("its first frame: {0}")]
    Frame(#[from] base::frame::FrameError),
}

impl PeerLinks {
    /// For the connections between `local` (this node's address) and the peer.
    pub fn new(
        identity: TlsIdentity,
        local: SocketAddr,
        remote: SocketAddr,
        peer: NodeName,
        alive: Duration,
        events: mpsc::Sender<PeerEvent>,
    ) -> Rc<Self> {
        let peer = Identity { kind: Kind::Node, name: peer };
        let said = RefCell::default();
        Rc::new(Self { identity, local, remote, peer, alive, events, said })
    }

    /// Accepts for ever; for the node that does not dial. Runs on a `LocalSet`.
    pub async fn accept(self: Rc<Self>, listener: TcpListener) {
        let mut handshakes = Handshakes::default();
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let handshake = spawn_local(self.clone().handle_accepted(stream, from));
                    handshakes.add(handshake.abort_handle());
                    // One that had to go is closed now, not after a burst of others was accepted.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    warn!(%error, "cannot accept a peer connection; trying again shortly");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// From accept to the peer's certificate; what comes behind it has a task of its own, which
    /// nobody else's connection ends.
    async fn handle_accepted(self: Rc<Self>, stream: TcpStream, from: SocketAddr) {
        match with_time_limit(self.authenticate(stream)).await {
            Ok(stream) => {
                spawn_local(self.serve_accepted(stream, from));
            }
            Err(error) => self.tell_refusal(from, &error).await,
        }
    }

    async fn authenticate(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, SetupError> {
        tcp::tune(&stream, self.alive)?;
        let acceptor = TlsAcceptor::from(self.identity.server.clone());
        let mut stream = TlsStream::Server(acceptor.accept(stream).await?);
        self.check_holder(&mut stream).await?;
        Ok(stream)
    }

    async fn serve_accepted(self: Rc<Self>, stream: TlsStream<TcpStream>, from: SocketAddr) {
        match with_time_limit(self.bind_accepted(stream)).await {
            Ok(None) => {}
            Ok(Some((stream, conn_nonce, first))) => {
                self.run_control(stream, conn_nonce, Some(first)).await;
            }
            Err(error) => self.tell_refusal(from, &error).await,
        }
    }

    /// To the log, and to status if it was the peer: it dials from its own address.
    async fn tell_refusal(&self, from: SocketAddr, error: &SetupError) {
        if matches!(error, SetupError::Timeout) {
            debug!(%from, "a peer connection said nothing in time");
            return;
        }
        let Trouble { why, advice } = self.trouble(error);
        let separator = if advice.is_empty() { "" } else { "; " };
        let text = format!("{why}{separator}{advice}");
        if self.said.borrow_mut().is_news(clock::now(), from.ip(), &text) {
            warn!(%from, "a connection to the peer link was refused: {text}");
        }
        if from.ip() == self.remote.ip() && !advice.is_empty() {
            let trouble = Trouble { why, advice };
            let _ = self.events.send(PeerEvent::Refused { trouble }).await;
        }
    }

    fn trouble(&self, error: &SetupError) -> Trouble {
        Trouble::new(error, &self.identity.identity.name, &self.peer.name)
    }

    /// A data connection is passed on from here, a control connection is returned with its first
    /// message.
    async fn bind_accepted(
        &self,
        mut stream: TlsStream<TcpStream>,
    ) -> Result<Option<(TlsStream<TcpStream>, ConnNonce, ControlMessage)>, SetupError> {
        let (header, message) = read_frame(&mut stream, 0).await?;
        if let ControlMessage::DataBind { volume, volume_id, conn_nonce } = message {
            let socket = into_socket(stream)?;
            let sequence = (0, 1);
            let volume_id = Some(volume_id);
            let link = DataLink { socket, conn_nonce, volume, volume_id, sequence };
            let _ = self.events.send(PeerEvent::Data(link)).await;
            return Ok(None);
        }
        Ok(Some((stream, header.conn_nonce, message)))
    }

    /// Dials the control connection; the event says how that went.
    pub fn dial(self: &Rc<Self>) {
        let links = self.clone();
        spawn_local(async move {
            match with_time_limit(links.connect()).await {
                Ok(stream) => links.run_control(stream, ConnNonce(random_bytes()), None).await,
                Err(error) => {
                    let mut trouble = links.trouble(&error);
                    if !trouble.is_refusal() {
                        trouble.why =
                            format!("{} at {}: {}", links.peer.name, links.remote, trouble.why);
                    }
                    let _ = links.events.send(PeerEvent::DialFailed { trouble }).await;
                }
            }
        });
    }

    /// Dials one data connection and binds it; the event says how that went.
    pub fn dial_data(
        self: &Rc<Self>,
        conn_nonce: ConnNonce,
        volume: VolumeIndex,
        volume_id: VolumeId,
    ) {
        let links = self.clone();
        spawn_local(async move {
            let bind = async {
                let mut stream = links.connect().await?;
                let message = ControlMessage::DataBind { volume, volume_id, conn_nonce };
                let frame = message.encode(conn_nonce, 0);
                stream.write_all(&frame).await?;
                stream.flush().await?;
                into_socket(stream)
            };
            let event = match with_time_limit(bind).await {
                Ok(socket) => PeerEvent::Data(DataLink {
                    socket,
                    conn_nonce,
                    volume,
                    volume_id: None,
                    sequence: (1, 0),
                }),
                Err(error) => PeerEvent::DataFailed { conn_nonce, why: error.to_string() },
            };
            let _ = links.events.send(event).await;
        });
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, SetupError> {
        let connect = tcp::connect(self.local, self.remote);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| SetupError::Timeout)??;
        tcp::tune(&stream, self.alive)?;
        let connector = TlsConnector::from(self.identity.client.clone());
        let mut stream = TlsStream::Client(connector.connect(server_name(), stream).await?);
        self.check_holder(&mut stream).await?;
        Ok(stream)
    }

    /// Compares the name; a wrong one is told so before the connection ends.
    async fn check_holder(&self, stream: &mut TlsStream<TcpStream>) -> Result<(), SetupError> {
        let found = peer_identity(stream.get_ref().1.peer_certificates());
        let error = match found {
            Ok(found) if found == self.peer => return Ok(()),
            Ok(found) => SetupError::Holder { found, expected: self.peer.clone() },
            Err(error) => SetupError::Certificate(error),
        };
        let reason = format!("connection refused: {}", self.trouble(&error).why);
        let message = ControlMessage::Refuse { reason };
        let frame = message.encode(ConnNonce::NONE, 0);
        let tell = async {
            stream.write_all(&frame).await?;
            stream.shutdown().await?;
            // Closing with bytes unread would reset the connection and lose the reason.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, tell).await;
        Err(error)
    }

    /// A control connection from here to its end.
    async fn run_control(
        &self,
        stream: TlsStream<TcpStream>,
        conn_nonce: ConnNonce,
        first: Option<ControlMessage>,
    ) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (outgoing, mut queue) = mpsc::channel::<ControlMessage>(OUTGOING_MAX);
        let mut received = u64::from(first.is_some());
        let _ = self.events.send(PeerEvent::Up(ControlLink { conn_nonce, outgoing })).await;
        if let Some(message) = first {
            let _ = self.events.send(PeerEvent::Message { conn_nonce, message }).await;
        }
        let read = async {
            loop {
                let (header, message) = read_frame(&mut reader, received).await?;
                received += 1;
                if header.conn_nonce != conn_nonce
                    && !matches!(message, ControlMessage::Refuse { .. })
                {
                    let error = io::Error::other("a frame of another connection");
                    return Err::<(), SetupError>(error.into());
                }
                let _ = self.events.send(PeerEvent::Message { conn_nonce, message }).await;
            }
        };
        let write = async {
            let mut sent = 0;
            let mut frames = Vec::new();
            while let Some(message) = queue.recv().await {
                let mut next = Some(message);
                while let Some(message) = next {
                    frames.extend_from_slice(&message.encode(conn_nonce, sent));
                    sent += 1;
                    next = queue.try_recv().ok();
                }
                writer.write_all(&frames).await?;
                writer.flush().await?;
                frames.clear();
            }
            // Closed by us: everything queued was sent.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, writer.shutdown()).await;
            Ok::<(), SetupError>(())
        };
        // What was received comes first: a reason may stand before the end of the connection.
        let ended = tokio::select! {
            biased;
            ended = read => ended,
            ended = write => ended,
        };
        let trouble = match ended {
            Ok(()) => Trouble { why: "closed by this node".to_owned(), advice: String::new() },
            Err(error) => self.describe(&error),
        };
        let _ = self.events.send(PeerEvent::Lost { conn_nonce, trouble }).await;
    }

    fn describe(&self, error: &SetupError) -> Trouble {
        let mut trouble = self.trouble(error);
        if !trouble.is_refusal() {
            trouble.why = match error {
                SetupError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    "the peer closed the control connection".to_owned()
                }
                error => format!("the control connection broke: {error}"),
            };
        }
        trouble
    }
}

/// Accepted connections on their way to the peer's certificate, oldest first.
#[derive(Default)]
struct Handshakes(VecDeque<AbortHandle>);

impl Handshakes {
    fn add(&mut self, handshake: AbortHandle) {
        self.0.retain(|handshake| !handshake.is_finished());
        if self.0.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            debug!("too many connections show no certificate: closing the oldest");
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

async fn with_time_limit<T>(
    work: impl Future<Output = Result<T, SetupError>>,
) -> Result<T, SetupError> {
    tokio::time::timeout(SETUP_TIMEOUT, work).await.map_err(|_| SetupError::Timeout)?
}

async fn read_frame(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    sequence: u64,
) -> Result<(Header, ControlMessage), SetupError> {
    let mut head = [0; HEADER_BYTES];
    reader.read_exact(&mut head).await?;
    let header = Header::decode(&head)?;
    if header.sequence != sequence {
        let (expected, found) = (sequence, header.sequence);
        return Err(base::frame::FrameError::Sequence { expected, found }.into());
    }
    // Bounded by the header's own check.
    let mut body = vec![0; header.body_bytes as usize];
    reader.read_exact(&mut body).await?;
    Ok((header, ControlMessage::decode(&header, &body)?))
}

fn into_socket(stream: TlsStream<TcpStream>) -> Result<Socket, SetupError> {
    let (stream, tls) = match stream {
        TlsStream::Client(stream) => {
            let (stream, tls) = stream.into_inner();
            (stream, tokio_rustls::rustls::Connection::from(tls))
        }
        TlsStream::Server(stream) => {
            let (stream, tls) = stream.into_inner();
            (stream, tokio_rustls::rustls::Connection::from(tls))
        }
    };
    let fd = OwnedFd::from(stream.into_std()?);
    Ok(Socket::new(fd, Some(tls)))
}

#[cfg(test)]
mod tests;
