//! The front end under test, with a volume in memory.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::thread;

use base::io::clock;
use base::io::socket::Socket;
use base::io::tls::TlsIdentity;
use base::limits::{TURN_BYTES_MAX, Timers};
use base::request::{Completion, Content, Operation, Write};
use bytes::Bytes;
use nbd_frontend::admission::Caps;
use nbd_frontend::budget::Budget;
use nbd_frontend::client::{Client, End};
use nbd_frontend::exports::{ExportInfo, ExportTable};
use nbd_frontend::io::acceptor::{Acceptor, AcceptorConfig, Attached, Place};
use nbd_frontend::io::shared_exports::SharedExports;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
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
    threads: Vec<thread::JoinHandle<()>>,
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
        let (arrive, arrivals) = blocking::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"));
        let door = Door { arrivals, bell: bell.clone() };
        let volume = memory.clone();
        let volume_thread = thread::spawn(move || serve_all(&door, &volume, &ended_out));
        let ring = move || rustix::io::write(&bell, &1u64.to_ne_bytes()).expect("an eventfd");
        let shared = exports.clone();
        let control_thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let (sink, mut attached) = mpsc::channel(8);
                let acceptor = Acceptor::listen(config, shared, sink).expect("listening");
                address_out.send(acceptor.local_address().expect("an address")).expect("sent");
                let carry = async {
                    while let Some(attached) = attached.recv().await {
                        arrive.send(attached).expect("the volume thread is there");
                        ring();
                    }
                };
                tokio::select! {
                    () = acceptor.run() => {}
                    _ = stopped => {}
                    () = carry => {}
                }
            });
            drop(arrive);
            ring();
        });
        let address = address_in.recv().expect("the server listens");
        let (stop, threads) = (Some(stop), vec![control_thread, volume_thread]);
        Self { address, exports, memory, ended: Mutex::new(ended), stop, threads }
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
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One attached client.
struct Served {
    socket: Socket,
    client: Client,
    host: Option<String>,
    input_open: bool,
    place: Option<Place>,
}

/// What the volume thread shares with the acceptor's.
struct Door {
    arrivals: blocking::Receiver<Attached>,
    bell: Arc<OwnedFd>,
}

/// Serves every attached client on one thread, as a node does, until the acceptor is gone.
fn serve_all(door: &Door, memory: &Mutex<Vec<u8>>, ended: &blocking::Sender<Ended>) {
    let mut clients: Vec<Served> = Vec::new();
    let mut scratch = vec![0; 64 << 10];
    loop {
        loop {
            match door.arrivals.try_recv() {
                Ok(attached) => clients.push(Served::new(attached)),
                Err(blocking::TryRecvError::Empty) => break,
                Err(blocking::TryRecvError::Disconnected) => return,
            }
        }
        clients.retain_mut(|served| match served.turn(&mut scratch, memory) {
            None => true,
            Some(end) => {
                // Whoever hears of the end finds the place free.
                drop(served.place.take());
                let _ = ended.send(Ended { end, host: served.host.take() });
                false
            }
        });
        wait(&door.bell, &clients);
    }
}

fn wait(bell: &OwnedFd, clients: &[Served]) {
    let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
    fds.extend(clients.iter().map(|served| {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, served.reads());
        events.set(PollFlags::OUT, served.socket.wants_write());
        PollFd::from_borrowed_fd(served.socket.fd(), events)
    }));
    poll(&mut fds, None).expect("poll");
    if fds[0].revents().contains(PollFlags::IN) {
        let _ = rustix::io::read(bell, &mut [0; 8]);
    }
}

impl Served {
    fn new(attached: Attached) -> Self {
        let Attached { socket, terms, leftover, host, place, .. } = attached;
        let mut client = Client::new(terms, &Budget::default());
        client.handle_bytes(clock::now(), &leftover);
        let host = host.map(|host| host.to_string());
        Self { socket, client, host, input_open: true, place: Some(place) }
    }

    fn reads(&self) -> bool {
        self.input_open && self.client.wants_input()
    }

    /// Receives, asks the volume and sends until nothing is left to do. `Some`: it is over.
    fn turn(&mut self, scratch: &mut [u8], memory: &Mutex<Vec<u8>>) -> Option<End> {
        let Self { socket, client, input_open, .. } = self;
        if *input_open && client.wants_input() {
            let feed = |bytes: &[u8]| client.handle_bytes(clock::now(), bytes);
            match socket.receive(scratch, TURN_BYTES_MAX, feed) {
                Ok(received) if received.closed => {
                    *input_open = false;
                    client.handle_peer_closed();
                }
                Ok(_) => {}
                Err(_) => client.handle_connection_lost(),
            }
        }
        loop {
            client.resume(clock::now());
            while let Some((tag, operation)) = client.poll_request() {
                client.handle_completion(tag, perform(&operation, memory));
            }
            while let Some(piece) = client.poll_output() {
                socket.queue(piece);
            }
            if socket.flush().is_err() {
                client.handle_connection_lost();
            }
            client.handle_backlog(socket.backlog());
            if client.is_quiet() {
                break;
            }
        }
        let end = client.ended()?;
        if end.is_orderly() {
            if socket.wants_write() {
                return None;
            }
            socket.finish();
        }
        Some(end)
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
