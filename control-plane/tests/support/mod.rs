//! A folder with certificates and a configuration, and something that answers like a node.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use base::io::tls::TlsIdentity;
use base::io::{clock, tcp};
use control_plane::config::{NodeConfig, PairConfig};
use control_plane::io::admin_server::{AdminState, bind_unix, serve_tls, serve_unix};
use control_plane::io::pki_files;
use control_plane::pki::{Request, Validity};
use control_plane::status::{NodeStatus, StatusReport};
use tokio::sync::{oneshot, watch};

/// An address that tests listen on, any port.
pub(crate) const LOCAL: &str = "127.0.0.11:0";

/// Valid now.
pub(crate) fn valid() -> Validity {
    Validity::days(clock::unix_seconds(), 1)
}

/// A CA in `dir`.
pub(crate) fn authority(dir: &Path) {
    pki_files::make_authority(dir, valid()).expect("a fresh folder");
}

/// An identity in `dir`; its folder.
pub(crate) fn issue(dir: &Path, holder: &str, validity: Validity) -> PathBuf {
    let request = Request {
        holder: holder.parse().expect("an identity"),
        addresses: vec!["127.0.0.11".parse().expect("an address")],
        dns_names: Vec::new(),
        validity,
    };
    pki_files::issue(dir, &request).expect("a fresh folder")
}

/// Writes `a.toml` into `dir` and reads it.
pub(crate) fn configure(dir: &Path) -> NodeConfig {
    let text = r#"
        [node]
        name = "a"
        data_dir = "a"
        record_dirs = ["a/record-1", "a/record-2"]
        address = "127.0.0.11:10810"
        [tls]
        dir = "pki/a"
        [nbd]
        listen = "127.0.0.11:10809"
        [peer]
        name = "b"
        address = "127.0.0.12:10810"
        [pair]
        id = "00112233-4455-6677-8899-aabbccddeeff"
        [[volume]]
        name = "vol0"
        id = "10112233-4455-6677-8899-aabbccddeeff"
        size = "1MiB"
        path = "a/vol0.img"
    "#;
    fs::create_dir_all(dir.join("a")).expect("a folder");
    fs::write(dir.join("a.toml"), text).expect("a file");
    NodeConfig::load(&dir.join("a.toml")).expect("a good configuration")
}

/// What a node says first.
pub(crate) fn starting() -> NodeStatus {
    let name = |text: &str| text.parse().expect("a name");
    NodeStatus::starting(name("a"), name("b"), name("a"), 4711)
}

/// Answers like a node's admin API until it is dropped.
pub(crate) struct FakeNode {
    /// Change it to change what the node says.
    pub(crate) status: watch::Sender<Arc<StatusReport>>,
    /// Where it listens for operators.
    pub(crate) admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    /// Serves `config`'s socket, and operators with the identity in `tls_dir`.
    pub(crate) fn start(config: &NodeConfig, tls_dir: &Path) -> Self {
        let first = StatusReport { at: clock::now(), status: starting() };
        let (status, status_receiver) = watch::channel(Arc::new(first));
        let agreement: PairConfig = config.agreement().expect("complete");
        let (_, pair) = watch::channel(Arc::new(agreement));
        let state = AdminState { status: status_receiver, pair };
        let identity = TlsIdentity::load(tls_dir).expect("an identity");
        let socket = config.admin.socket.clone();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let unix = bind_unix(&socket).expect("a free socket");
                let tcp = tcp::listen(LOCAL.parse().expect("an address")).expect("a free port");
                tell.send(tcp.local_addr().expect("bound")).expect("somebody waits");
                tokio::select! {
                    never = serve_unix(unix, state.clone()) => match never {},
                    never = serve_tls(tcp, &identity, state) => match never {},
                    _ = stopped => {}
                }
            });
        });
        let admin = told.recv().expect("it listens");
        Self { status, admin, stop: Some(stop), thread: Some(thread) }
    }

    /// Says `status` from now on.
    pub(crate) fn say(&self, status: NodeStatus) {
        self.status.send_replace(Arc::new(StatusReport { at: clock::now(), status }));
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}
