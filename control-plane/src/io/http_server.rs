//! Serves HTTP/1.1 on a listener with a bound on connections and on time.
//!
//! Full means that further connections wait in the kernel's queue.
//! Not here: what is answered (`admin_server.rs`, `metrics.rs`).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use base::limits;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Pause after accept(2) failed, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever and runs `serve` for each connection, at most
/// [`limits::ADMIN_CONNECTIONS_MAX`] at once. Dropping the future ends them all.
pub(super) async fn accept_loop<C, A, S>(
    what: &str,
    mut accept: impl FnMut() -> A,
    serve: impl Fn(C) -> S,
) -> Infallible
where
    A: Future<Output = io::Result<C>>,
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= limits::ADMIN_CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match accept().await {
            Ok(connection) => {
                let served = serve(connection);
                connections.spawn(async move {
                    if tokio::time::timeout(limits::ADMIN_CONNECTION_TIMEOUT, served).await.is_err()
                    {
                        tracing::debug!("a connection took too long and was closed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("{what}: cannot accept a connection: {error}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection.
pub(super) async fn serve_http<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::ADMIN_STEP_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!("an HTTP connection ended early: {error}");
    }
}
