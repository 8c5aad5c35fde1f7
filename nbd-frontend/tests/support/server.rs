//! The front end under test, with a volume in memory.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::thread;

use base::io::clock;
use base::io::tls::TlsIdentity;
use base::limits::{TURN_BYTES_MAX, Timers};
use base::request::{Completion, Content, Operation, Write};
use bytes::Bytes;
use nbd_frontend::admission::Caps;
use nbd_frontend::client::{Client, End};
use nbd_frontend::exports::{ExportInfo, ExportTable};
use nbd_frontend::io::acceptor::{Acceptor, AcceptorConfig, Attached};
use nbd_frontend::io::shared_exports::SharedExports;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::{mpsc, oneshot};

pub const SIZE: u64 = 16 << 20;

/// How an attached client ended, and which host it was.
pub struct Ended {
    pub end: End,
    pub host: Option<String>,
}

pub struct Server {
    pub address: SocketAddr,
    pub exports: SharedExports,
    pub memory: Arc<Mutex<Vec<u8>>>,
    pub ended: Mutex<blocking::Receiver<Ended>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

pub fn table() -> ExportTable {
    let export = ExportInfo {
        description: "a volume in memory".to_owned(),
        fast_zero: true,
        ..ExportInfo::new("disk".parse().expect("a name"), SIZE)
    };
    ExportTable::new(vec![export])
}

impl Server {
    pub fn plain() -> Self {
        Self::start(None, Caps::DEFAULT)
    }

    pub fn tls(identity: &TlsIdentity) -> Self {
        Self::start(Some(identity), Caps::DEFAULT)
    }

    pub fn start(identity: Option<&TlsIdentity>, caps: Caps) -> Self {
        let exports = SharedExports::new(table());
        let memory = Arc::new(Mutex::new(vec![0; SIZE as usize]));
        let config = AcceptorConfig {
            address: "127.0.0.1:0".parse().expect("an address"),
            tls: identity.map(|identity| identity.nbd_server.clone()),
            alive: Timers::DEFAULT.alive,
            caps,
        };
        let (address_out, address_in) = blocking::channel();
        let (ended_out, ended) = blocking::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (shared, volume) = (exports.clone(), memory.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let (sink, mut attached) = mpsc::channel(8);
                let acceptor = Acceptor::listen(config, shared, sink).expect("listening");
                address_out.send(acceptor.local_address().expect("an address")).expect("sent");
                tokio::select! {
                    () = acceptor.run() => {}
                    _ = stopped => {}
                    () = async {
                        while let Some(attached) = attached.recv().await {
                            let (volume, ended) = (volume.clone(), ended_out.clone());
                            thread::spawn(move || {
                                let host = attached.host.as_ref().map(|host| host.to_string());
                                let end = serve(attached, &volume);
                                let _ = ended.send(Ended { end, host });
                            });
                        }
                    } => {}
                }
            });
        });
        let address = address_in.recv().expect("the server listens");
        let (stop, thread) = (Some(stop), Some(thread));
        Self { address, exports, memory, ended: Mutex::new(ended), stop, thread }
    }

    /// How the next client to end has ended.
    pub fn next_end(&self) -> Ended {
        let ended = self.ended.lock().expect("not poisoned");
        ended.recv_timeout(std::time::Duration::from_secs(8)).expect("a client ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One attached client, as a volume thread serves it.
fn serve(attached: Attached, memory: &Mutex<Vec<u8>>) -> End {
    let Attached { mut socket, terms, leftover, place, .. } = attached;
    let mut client = Client::new(terms);
    client.handle_bytes(clock::now(), &leftover);
    let mut scratch = vec![0; 64 << 10];
    let mut input_open = true;
    loop {
        while let Some((tag, operation)) = client.poll_request() {
            let completion = perform(&operation, memory);
            client.handle_completion(clock::now(), tag, completion);
        }
        while let Some(piece) = client.poll_output() {
            socket.queue(piece);
        }
        if socket.flush().is_err() {
            client.handle_connection_lost();
        }
        client.handle_backlog(clock::now(), socket.backlog());
        if !client.is_quiet() {
            continue;
        }
        if let Some(end) = client.ended() {
            if !end.is_orderly() {
                return end;
            }
            if !socket.wants_write() {
                socket.finish();
                drop(place);
                return end;
            }
        }
        let reads = client.wants_input() && input_open;
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, reads);
        events.set(PollFlags::OUT, socket.wants_write());
        if events.is_empty() {
            continue;
        }
        {
            let fd = socket.fd();
            poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), events)], None).expect("poll");
        }
        if reads {
            let feed = |bytes: &[u8]| client.handle_bytes(clock::now(), bytes);
            match socket.receive(&mut scratch, TURN_BYTES_MAX, feed) {
                Ok(received) if received.closed => {
                    input_open = false;
                    client.handle_peer_closed();
                }
                Ok(_) => {}
                Err(_) => client.handle_connection_lost(),
            }
        }
    }
}

fn perform(operation: &Operation, memory: &Mutex<Vec<u8>>) -> Completion {
    let mut memory = memory.lock().expect("not poisoned");
    match operation {
        Operation::Read { range } => {
            let bytes = &memory[range.offset() as usize..range.end() as usize];
            Completion::Data(Bytes::copy_from_slice(bytes))
        }
        Operation::Write(Write { range, content, .. }) => {
            let bytes = &mut memory[range.offset() as usize..range.end() as usize];
            match content {
                Content::Data(data) => bytes.copy_from_slice(data),
                Content::Zeroes { .. } | Content::Trim => bytes.fill(0),
            }
            Completion::Done
        }
        Operation::Flush | Operation::Cache { .. } => Completion::Done,
    }
}
