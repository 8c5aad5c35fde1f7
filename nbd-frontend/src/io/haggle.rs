//! One connection from accept to GO: moves bytes between the socket and the negotiation core.
//!
//! Story: greeting and options in plain text; STARTTLS hands the bare socket to the TLS library,
//! which reads its own bytes from it - nothing was buffered before, and what was would have ended
//! the connection; options again, inside TLS; at GO the socket is taken apart and given away with
//! every byte that was read beyond GO.
//! Not here: the deadline (the acceptor aborts us), what bytes mean (`negotiation`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use base::identity::{Identity, Kind};
use base::io::socket::Socket;
use base::io::tcp;
use base::io::tls::peer_identity;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::places::{HostPlace, SharedPlaces};
use super::shared_exports::SharedExports;
use crate::exports::Terms;
use crate::hosts::Host;
use crate::negotiation::{CloseReason, Negotiation, Outcome, TlsMode};

/// Bytes read at a time.
const READ_BYTES: usize = 4096;

/// What every connection is negotiated with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) alive: Duration,
    pub(super) exports: SharedExports,
    pub(super) places: SharedPlaces,
}

/// A connection that has reached GO.
#[derive(Debug)]
pub(super) struct Negotiated {
    pub(super) socket: Socket,
    pub(super) terms: Terms,
    pub(super) leftover: Vec<u8>,
    pub(super) host: Option<Identity>,
    pub(super) place: HostPlace,
}

/// Why a connection was not attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum HaggleError {
    /// One side ended it.
    #[error("{0}")]
    Closed(CloseReason),
    /// The certificate is not one of a host; the client was told and has left.
    #[error("{reason}")]
    WrongHolder {
        /// As it was told to the client.
        reason: String,
    },
    /// The TLS handshake failed: for example an expired or foreign certificate.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Leads `stream` to GO.
pub(super) async fn haggle(
    stream: TcpStream,
    peer: SocketAddr,
    settings: &Settings,
) -> Result<Negotiated, HaggleError> {
    tcp::tune(&stream, settings.alive)?;
    let mut stream = stream;
    let mode = if settings.tls.is_some() { TlsMode::Required } else { TlsMode::Off };
    let mut negotiation = Negotiation::new(mode);
    let host = Host::of(None, peer.ip());
    let Exchanged { outcome, leftover, place } =
        exchange(&mut stream, &mut negotiation, settings, &host).await?;
    match outcome {
        Outcome::Attached(terms) => {
            let socket = Socket::new(OwnedFd::from(stream.into_std()?), None);
            Ok(Negotiated { socket, terms, leftover, host: None, place: granted(place) })
        }
        Outcome::StartTls => {
            assert!(leftover.is_empty(), "plain text after STARTTLS ends the connection");
            let config = settings.tls.clone().expect("STARTTLS is granted where TLS is required");
            haggle_in_tls(stream, peer, config, negotiation, settings).await
        }
        Outcome::Close(reason) => {
            say_goodbye(&mut stream).await;
            Err(HaggleError::Closed(reason))
        }
    }
}

async fn haggle_in_tls(
    stream: TcpStream,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
    mut negotiation: Negotiation,
    settings: &Settings,
) -> Result<Negotiated, HaggleError> {
    let mut stream = TlsAcceptor::from(config).accept(stream).await.map_err(HaggleError::Tls)?;
    let host = host_of(&stream);
    if let Err(reason) = &host {
        tracing::warn!(%peer, reason, "a TLS client may not attach volumes; it is told why");
    }
    negotiation.handle_tls_established(host.as_ref().err().cloned());
    let holder = Host::of(host.as_ref().ok(), peer.ip());
    let Exchanged { outcome, mut leftover, place } =
        exchange(&mut stream, &mut negotiation, settings, &holder).await?;
    match outcome {
        Outcome::Attached(terms) => {
            let host = Some(host.expect("a wrong holder attaches nothing"));
            let socket = take_apart(stream, &mut leftover)?;
            Ok(Negotiated { socket, terms, leftover, host, place: granted(place) })
        }
        Outcome::Close(close) => {
            say_goodbye(&mut stream).await;
            Err(match host {
                Ok(_) => HaggleError::Closed(close),
                Err(reason) => HaggleError::WrongHolder { reason },
            })
        }
        Outcome::StartTls => unreachable!("TLS inside TLS is refused"),
    }
}

/// TLS close_notify, then the end of the sending direction. A client that has gone does not hear it.
async fn say_goodbye<S: AsyncWrite + Unpin>(stream: &mut S) {
    let _ = stream.shutdown().await;
}

/// The host that the certificate names, or what to tell the client.
fn host_of(stream: &TlsStream<TcpStream>) -> Result<Identity, String> {
    match peer_identity(stream.get_ref().1.peer_certificates()) {
        Ok(identity) if identity.kind == Kind::Host => Ok(identity),
        Ok(identity) => Err(format!(
            "a certificate of {identity} cannot attach volumes: use one of a host (stretch:host/NAME)"
        )),
        Err(error) => {
            Err(format!("{error}; to attach volumes use one of a host (stretch:host/NAME)"))
        }
    }
}

/// Where an exchange of bytes has led.
#[derive(Debug)]
struct Exchanged {
    outcome: Outcome,
    /// Bytes that were read and belong to what follows.
    leftover: Vec<u8>,
    /// There if the client is attached.
    place: Option<HostPlace>,
}

fn granted(place: Option<HostPlace>) -> HostPlace {
    place.expect("whoever is attached has a place")
}

/// Moves bytes until there is an outcome and everything before it is sent.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    negotiation: &mut Negotiation,
    settings: &Settings,
    host: &Host,
) -> Result<Exchanged, HaggleError> {
    let mut buffer = [0; READ_BYTES];
    let mut unread = 0..0;
    let mut place = None;
    loop {
        while let Some(output) = negotiation.poll_output() {
            stream.write_all(&output).await?;
        }
        stream.flush().await?;
        if let Some(outcome) = negotiation.outcome() {
            let leftover = buffer[unread].to_vec();
            return Ok(Exchanged { outcome: outcome.clone(), leftover, place });
        }
        if unread.is_empty() {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            unread = 0..count;
        }
        // Taken on trial: kept from the moment at which it is granted, before that is sent.
        let trial = settings.places.take(host);
        negotiation.handle_place(trial.as_ref().err().cloned());
        let used = negotiation.handle_bytes(&settings.exports.snapshot(), &buffer[unread.clone()]);
        unread.start += used;
        if let Some(Outcome::Attached(_)) = negotiation.outcome() {
            place = trial.ok();
        }
        if negotiation.poll_refused_place()
            && let Some(refused) = settings.places.note_refusal()
        {
            tracing::warn!(
                %host,
                refused,
                "NBD clients refused: their host has as many attached as one may have"
            );
        }
    }
}

/// Takes the connection out of the async runtime, and appends to `leftover` the bytes that the TLS
/// library has decrypted already: no readiness event would announce them.
fn take_apart(stream: TlsStream<TcpStream>, leftover: &mut Vec<u8>) -> io::Result<Socket> {
    let (stream, tls) = stream.into_inner();
    let fd = OwnedFd::from(stream.into_std()?);
    let mut socket = Socket::new(fd, Some(tls.into()));
    socket.receive_decrypted(|bytes| leftover.extend_from_slice(bytes))?;
    Ok(socket)
}
