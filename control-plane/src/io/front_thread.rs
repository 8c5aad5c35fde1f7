//! The thread for everything that may wait: NBD clients on their way to GO, the admin API, metrics.
//! A flood here delays no grant and no write.
//!
//! Not here: attached clients (`volume_thread`), deciding (`group_thread`).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base::ids::VolumeName;
use base::io::tcp;
use base::io::tls::TlsIdentity;
use base::time::Duration;
use nbd_frontend::io::acceptor::{Acceptor, AcceptorConfig, Attached};
use nbd_frontend::io::shared_exports::SharedExports;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::admin_server::{self, AdminState};
use super::mailbox::Sender;
use super::metrics::{Latencies, Metrics, serve_metrics};

/// Clients that reached GO and were not taken by their volume's thread yet, at most.
const ATTACHED_MAX: usize = 64;
/// Time between two looks at a full box of arrivals.
const ARRIVALS_RETRY: Duration = Duration::from_millis(5);
/// How often status is shown as metrics.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// A volume as clients see it.
#[derive(Debug)]
pub struct FrontVolume {
    /// Its name.
    pub name: VolumeName,
    /// To its thread.
    pub arrivals: Sender<Box<Attached>>,
}

/// What the front thread is started with.
#[derive(Debug)]
pub struct Parts {
    /// Where and how NBD is listened for.
    pub nbd: AcceptorConfig,
    /// What can be attached.
    pub exports: SharedExports,
    /// Where attached clients go.
    pub volumes: Vec<FrontVolume>,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The admin port, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// The metrics port, if there is one.
    pub metrics_listen: Option<SocketAddr>,
    /// For the admin port.
    pub identity: TlsIdentity,
    /// Where the answers come from.
    pub admin: AdminState,
    /// The node's metrics.
    pub metrics: Metrics,
    /// What the volume threads measured, by the volume's place.
    pub measured: mpsc::Receiver<(usize, Box<Latencies>)>,
    /// Ends the thread.
    pub stop: watch::Receiver<bool>,
}

/// Listens everywhere, says so through `ready`, and serves until told to stop.
///
/// # Errors
/// Through `ready`: an address that cannot be listened on, by name.
pub async fn run(parts: Parts, ready: std::sync::mpsc::Sender<io::Result<()>>) {
    let Parts { nbd, exports, volumes, admin_socket, metrics, measured, identity, admin, .. } =
        parts;
    let (admin_listen, metrics_listen, mut stop) =
        (parts.admin_listen, parts.metrics_listen, parts.stop);
    let (sink, attached) = mpsc::channel(ATTACHED_MAX);
    let address = nbd.address;
    let listening = async {
        let nbd =
            Acceptor::listen(nbd, exports, sink).map_err(|error| named("NBD", address, &error))?;
        let unix = admin_server::bind_unix(&admin_socket).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("admin socket {}: {error}", admin_socket.display()),
            )
        })?;
        let port = listen("admin", admin_listen)?;
        io::Result::Ok((nbd, unix, port, listen("metrics", metrics_listen)?))
    };
    let (nbd, unix, admin_port, metrics_port) = match listening.await {
        Ok(listeners) => listeners,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    let serve_admin = async {
        match admin_port {
            Some(listener) => {
                admin_server::serve_tls(listener, &identity, admin.clone()).await;
            }
            None => std::future::pending().await,
        }
    };
    let page = metrics.page();
    let serve_metrics = async {
        match metrics_port {
            Some(listener) => {
                serve_metrics(listener, page).await;
            }
            None => std::future::pending().await,
        }
    };
    let names: Vec<_> = volumes.iter().map(|volume| volume.name.clone()).collect();
    let measure = measure(metrics, measured, admin.status.clone(), names);
    tokio::select! {
        () = nbd.run() => {}
        () = forward(&volumes, attached) => {}
        _ = admin_server::serve_unix(unix, admin.clone()) => {}
        () = serve_admin => {}
        () = serve_metrics => {}
        () = measure => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn named(what: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} address {address}: {error}"))
}

fn listen(what: &str, address: Option<SocketAddr>) -> io::Result<Option<tokio::net::TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    tcp::listen(address).map(Some).map_err(|error| named(what, address, &error))
}

/// Hands each client to its volume's thread, as soon as that has room for it. One that has none
/// keeps nobody else's clients waiting; who waits has a place under the cap of all clients.
pub(super) async fn forward(volumes: &[FrontVolume], mut attached: mpsc::Receiver<Attached>) {
    let mut waiting: Vec<VecDeque<Box<Attached>>> =
        volumes.iter().map(|_| VecDeque::new()).collect();
    loop {
        tokio::select! {
            client = attached.recv() => {
                let Some(client) = client else { return };
                let export = &client.terms.export.name;
                match volumes.iter().position(|volume| volume.name == *export) {
                    Some(index) => waiting[index].push_back(Box::new(client)),
                    None => warn!(%export, "a client attached to an export that is not a volume"),
                }
            }
            () = tokio::time::sleep(ARRIVALS_RETRY), if waiting.iter().any(|w| !w.is_empty()) => {}
        }
        for (volume, waiting) in volumes.iter().zip(&mut waiting) {
            while let Some(client) = waiting.pop_front() {
                if let Err(back) = volume.arrivals.send(client) {
                    waiting.push_front(back);
                    break;
                }
            }
        }
    }
}

/// Folds what the threads measured into the metrics, and shows status there.
async fn measure(
    mut metrics: Metrics,
    mut measured: mpsc::Receiver<(usize, Box<Latencies>)>,
    status: watch::Receiver<Arc<crate::status::StatusReport>>,
    volumes: Vec<VolumeName>,
) {
    let mut tick = tokio::time::interval(METRICS_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            Some((volume, mut latencies)) = measured.recv() => {
                metrics.fold(&volumes[volume], &mut latencies);
            }
            _ = tick.tick() => {
                let report = status.borrow().clone();
                metrics.show_status(&report.status);
            }
        }
    }
}
