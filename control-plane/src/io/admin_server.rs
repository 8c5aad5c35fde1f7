//! The admin API: over a UNIX socket for this machine's owner, over HTTPS for operators.
//!
//! Over TLS the library verifies the certificate; then its kind is looked at, and whoever is no
//! operator is answered with the reason and nothing else.
//! Not here: what the answers mean (`admin.rs`, `status`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base::io::tls::{TlsIdentity, peer_identity};
use base::io::{clock, tcp};
use base::limits;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use super::http_server::{accept_loop, serve_http};
use crate::admin::{PAIR_CONFIG_PATH, Refusal, STATUS_PATH, admit};
use crate::config::PairConfig;
use crate::status::StatusReport;

/// Longest path that fits the system's address of a UNIX socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where the answers come from.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// Written by the group thread, often (see [`StatusReport`]).
    pub status: watch::Receiver<Arc<StatusReport>>,
    /// Changes when a verb changes the agreement.
    pub pair: watch::Receiver<Arc<PairConfig>>,
}

/// Listens on the UNIX socket `path`, usable by its owner only. One that a killed process left
/// behind is replaced: the caller holds the node's lock.
///
/// # Errors
/// As bind(2).
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before bind: the file appears with this mode, there is no moment at which others may use it.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let (_folder, short) = short_path(path)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
    rustix::net::listen(&socket, 16)?;
    UnixListener::from_std(StdUnixListener::from(socket))
}

/// A path to the same file that fits a socket address, and what must stay open while it is used.
pub(super) fn short_path(path: &Path) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((None, path.to_owned()));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let short = Path::new("/proc/self/fd").join(number.to_string()).join(name);
    Ok((Some(folder), short))
}

/// Serves on a UNIX socket until it is dropped.
pub async fn serve_unix(listener: UnixListener, state: AdminState) -> Infallible {
    let router = router(state);
    let accept = async || Ok(listener.accept().await?.0);
    accept_loop("admin socket", accept, |stream| serve_http(stream, router.clone())).await
}

/// Serves operators over mutual TLS until it is dropped.
pub async fn serve_tls(
    listener: TcpListener,
    identity: &TlsIdentity,
    state: AdminState,
) -> Infallible {
    let router = router(state);
    let acceptor = TlsAcceptor::from(identity.server.clone());
    let accept = async || listener.accept().await;
    accept_loop("admin port", accept, |(stream, from)| {
        serve_operator(stream, from, acceptor.clone(), router.clone())
    })
    .await
}

async fn serve_operator(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
) {
    if let Err(error) = tcp::tune(&stream, limits::ADMIN_CONNECTION_TIMEOUT) {
        tracing::debug!("admin port: {from} is gone: {error}");
        return;
    }
    let handshake = tokio::time::timeout(limits::ADMIN_STEP_TIMEOUT, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            log_handshake(from, &error);
            return;
        }
        Err(_) => {
            tracing::debug!("admin port: {from} did not finish its handshake");
            return;
        }
    };
    let holder = peer_identity(stream.get_ref().1.peer_certificates());
    let admitted = match &holder {
        Ok(holder) => admit(holder),
        Err(error) => Err(Refusal::nameless(error)),
    };
    match admitted {
        Ok(()) => serve_http(stream, router).await,
        Err(refusal) => {
            tracing::warn!("admin port: {from}: {}", refusal.error);
            serve_http(stream, refusing_router(refusal)).await;
        }
    }
}

/// A certificate that is refused concerns somebody; noise from a port scan does not.
fn log_handshake(from: SocketAddr, error: &io::Error) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            tracing::warn!("admin port: {from}: its certificate is refused: {why}");
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            tracing::warn!("admin port: {from}: refused, it shows no certificate");
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            tracing::warn!("admin port: {from} refuses this node's certificate: {alert:?}");
        }
        _ => tracing::debug!("admin port: {from}: no TLS handshake: {error}"),
    }
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(PAIR_CONFIG_PATH, get(pair_config))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(state)
}

fn refusing_router(refusal: Refusal) -> Router {
    Router::new().fallback(move || {
        let refusal = refusal.clone();
        async move { (StatusCode::FORBIDDEN, Json(refusal)) }
    })
}

async fn status(State(state): State<AdminState>) -> Response {
    let report = state.status.borrow().clone();
    let now = clock::now();
    if report.fresh(now) {
        Json(&report.status).into_response()
    } else {
        let age_ms = now.since(report.at).as_millis();
        (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal::stale(age_ms))).into_response()
    }
}

async fn pair_config(State(state): State<AdminState>) -> Response {
    let pair = state.pair.borrow().clone();
    Json(&*pair).into_response()
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, Json(Refusal::unknown())).into_response()
}
