//! Hosts for the tests of what happens behind GO.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use base::limits::Timers;
use nbd_frontend::admission::Caps;
use nbd_frontend::exports::{ExportInfo, ExportTable};
use nbd_frontend::io::acceptor::{Acceptor, AcceptorConfig, Attached};
use nbd_frontend::io::shared_exports::SharedExports;
use tokio::sync::mpsc;

/// The export that all attach to.
pub(super) const NAME: &str = "vol0";

/// `count` clients that reached GO, and the hosts' ends of their connections.
pub(super) fn attached(count: usize) -> (Vec<Attached>, Vec<TcpStream>) {
    let export = ExportInfo::new(NAME.parse().expect("a name"), 1 << 30);
    let config = AcceptorConfig {
        address: "127.0.0.1:0".parse().expect("an address"),
        tls: None,
        alive: Timers::DEFAULT.alive,
        caps: Caps::DEFAULT,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (sink, mut arrivals) = mpsc::channel(count);
        let exports = SharedExports::new(ExportTable::new(vec![export]));
        let acceptor = Acceptor::listen(config, exports, sink).expect("listening");
        let address = acceptor.local_address().expect("an address");
        let dial = thread::spawn(move || (0..count).map(|_| go(address)).collect());
        let mut attached = Vec::new();
        let arrive = async {
            while attached.len() < count {
                attached.push(arrivals.recv().await.expect("a client"));
            }
        };
        tokio::select! {
            () = acceptor.run() => unreachable!("somebody takes the clients"),
            () = arrive => {}
        }
        (attached, dial.join().expect("the hosts"))
    })
}

/// Negotiates by NBD_OPT_EXPORT_NAME without the padding.
fn go(address: SocketAddr) -> TcpStream {
    let mut host = TcpStream::connect(address).expect("connected");
    host.read_exact(&mut [0; 18]).expect("the greeting");
    let mut hello = 3u32.to_be_bytes().to_vec();
    hello.extend(b"IHAVEOPT");
    hello.extend(1u32.to_be_bytes());
    hello.extend((NAME.len() as u32).to_be_bytes());
    hello.extend(NAME.as_bytes());
    host.write_all(&hello).expect("sent");
    host.read_exact(&mut [0; 10]).expect("the export");
    host
}
