//! Listens for NBD clients, leads each to GO and hands its connection over, once.
//!
//! Owns: the listener and every connection that is not attached.   In: connections, time.
//! Out: [`Attached`] values on a channel.
//! Invariants: a connection is closed at its deadline whatever it does or does not do, also during
//! the TLS handshake and while nobody takes it over; every descriptor is owned by one value, so
//! that it is closed with it.
//! Not here: the rules of admission (`admission`), one connection's way to GO (`haggle`), attached
//! clients (control-plane's volume thread).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::identity::Identity;
use base::io::socket::Socket;
use base::io::{clock, tcp};
use base::time::Instant;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::haggle::{HaggleError, Negotiated, Settings, haggle};
use super::places::{HostPlace, SharedPlaces};
use super::shared_exports::SharedExports;
use crate::admission::{Admission, Admissions, Caps, ConnectionId};
use crate::exports::Terms;
use crate::negotiation::CloseReason;

/// How long to wait when accepting fails, for example because descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A client that has reached GO, with everything needed to serve it.
#[derive(Debug)]
pub struct Attached {
    /// The connection, non-blocking, with its TLS state if any.
    pub socket: Socket,
    /// What it was promised; `terms.export.name` says which volume it is for.
    pub terms: Terms,
    /// Plain bytes that were read beyond GO: the first input of the client.
    pub leftover: Vec<u8>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whose certificate it showed; `None` without TLS.
    pub host: Option<Identity>,
    /// The client's place under the cap: to be dropped together with the connection.
    pub place: Place,
}

/// One attached client's place under the cap of all clients, and under that of its host's.
#[derive(Debug)]
pub struct Place {
    attached: Arc<AtomicUsize>,
    _of_host: HostPlace,
}

impl Place {
    fn take(attached: &Arc<AtomicUsize>, of_host: HostPlace) -> Self {
        attached.fetch_add(1, Ordering::Relaxed);
        Self { attached: attached.clone(), _of_host: of_host }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.attached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// Where.
    pub address: SocketAddr,
    /// `TlsIdentity::nbd_server` of the node; `None`: no TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// `Timers::alive` of the pair.
    pub alive: Duration,
    /// How many connections at most.
    pub caps: Caps,
}

/// A listening front end.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    settings: Settings,
    admissions: Admissions,
    attached: Arc<AtomicUsize>,
    negotiating: BTreeMap<ConnectionId, AbortHandle>,
    tasks: JoinSet<ConnectionId>,
    sink: mpsc::Sender<Attached>,
}

impl Acceptor {
    /// Listens. Clients that reach GO are sent to `sink`; while it is full they wait, until their
    /// time is up.
    ///
    /// # Errors
    /// The address is in use, not this machine's, or needs a privilege.
    pub fn listen(
        config: AcceptorConfig,
        exports: SharedExports,
        sink: mpsc::Sender<Attached>,
    ) -> io::Result<Self> {
        let AcceptorConfig { address, tls, alive, caps } = config;
        let places = SharedPlaces::new(caps.host_max);
        Ok(Self {
            listener: tcp::listen(address)?,
            settings: Settings { tls, alive, exports, places },
            admissions: Admissions::new(caps),
            attached: Arc::default(),
            negotiating: BTreeMap::new(),
            tasks: JoinSet::new(),
            sink,
        })
    }

    /// Where it listens; the port is the real one.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until nobody takes clients any more. Dropping the future closes the listener and
    /// every connection that is not attached.
    pub async fn run(mut self) {
        let sink = self.sink.clone();
        loop {
            tokio::select! {
                () = sink.closed() => return,
                accepted = self.listener.accept() => self.handle_accepted(accepted).await,
                Some(ended) = self.tasks.join_next() => self.handle_ended(ended),
                () = sleep_until(self.admissions.next_deadline()) => self.close_expired(),
            }
        }
    }

    async fn handle_accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => {
                self.admit(stream, peer);
                // A connection that had to go is closed now, not after a burst of others was
                // accepted: only so are the caps bounds of memory and descriptors.
                tokio::task::yield_now().await;
            }
            // The client has gone while it waited to be accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept an NBD connection; trying again shortly");
                // Time goes on meanwhile: whoever is over it gives a descriptor back.
                self.close_expired();
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }

    fn handle_ended(&mut self, ended: Result<ConnectionId, JoinError>) {
        match ended {
            Ok(connection) => {
                self.admissions.handle_end(connection);
                self.negotiating.remove(&connection);
            }
            // One that was aborted is forgotten already; one that panicked will be at its deadline.
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "an NBD negotiation failed inside"),
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Whoever has left or was attached meanwhile holds no place among those who negotiate.
        while let Some(ended) = self.tasks.try_join_next() {
            self.handle_ended(ended);
        }
        let attached = self.attached.load(Ordering::Relaxed);
        let taken = match self.admissions.handle_accept(clock::now(), attached) {
            Admission::Taken(taken) => taken,
            Admission::TakenInstead { taken, closed } => {
                tracing::debug!(%peer, "too many NBD connections negotiate: closing the oldest");
                self.abort(closed);
                taken
            }
            Admission::Refused => {
                if let Some(refused) = self.settings.places.note_refusal() {
                    tracing::warn!(%peer, attached, refused, "NBD clients refused: too many");
                }
                return;
            }
        };
        let settings = self.settings.clone();
        let attached = self.attached.clone();
        let sink = self.sink.clone();
        let task = self.tasks.spawn(async move {
            match haggle(stream, peer, &settings).await {
                Ok(negotiated) => hand_over(negotiated, peer, &attached, &sink).await,
                Err(error) => log_end(peer, &error),
            }
            taken
        });
        self.negotiating.insert(taken, task);
    }

    fn close_expired(&mut self) {
        while let Some(connection) = self.admissions.poll_expired(clock::now()) {
            tracing::debug!("an NBD connection did not reach GO in time: closing it");
            self.abort(connection);
        }
    }

    fn abort(&mut self, connection: ConnectionId) {
        if let Some(task) = self.negotiating.remove(&connection) {
            task.abort();
        }
    }
}

async fn hand_over(
    negotiated: Negotiated,
    peer: SocketAddr,
    attached: &Arc<AtomicUsize>,
    sink: &mpsc::Sender<Attached>,
) {
    let Ok(free) = sink.reserve().await else { return };
    let Negotiated { socket, terms, leftover, host, place } = negotiated;
    let name = host.as_ref().map(|host| host.name.as_str());
    tracing::info!(%peer, export = %terms.export.name, host = name, "NBD client attached");
    // Nothing is awaited between here and the end of the task: the client never counts as
    // negotiating and as attached at once.
    let place = Place::take(attached, place);
    free.send(Attached { socket, terms, leftover, peer, host, place });
}

fn log_end(peer: SocketAddr, error: &HaggleError) {
    match error {
        // Looking and leaving is what tools do all day; the others are in the log already.
        HaggleError::Closed(CloseReason::Aborted | CloseReason::NoPlace)
        | HaggleError::Io(_)
        | HaggleError::WrongHolder { .. } => {
            tracing::debug!(%peer, reason = %error, "NBD client left before GO");
        }
        HaggleError::Closed(_) | HaggleError::Tls(_) => {
            tracing::warn!(%peer, reason = %error, "NBD client refused");
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline - clock::now()).await,
        None => std::future::pending().await,
    }
}
