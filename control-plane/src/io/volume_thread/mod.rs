//! The hot path of one volume on one thread: its NBD clients after GO, its core, its backing store,
//! its data link. Collect, feed, drain, flush each socket once; nothing is decided here.
//!
//! Owns: every descriptor of the hot path. In: readiness, letters of the group. Out: bytes, I/O,
//! reports.
//! Invariants: one sample of clock and gate per settled turn, after the last receive and the last
//! reaped completion. G2a hosts' bytes are received only while the data link can take them.
//! Not here: negotiation (nbd-frontend), control link and timers (`group_thread`).

mod clients;
#[cfg(test)]
mod hosts;
mod link;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::ids::{ConnNonce, VolumeIndex};
use base::io::clock;
use base::io::socket::Socket;
use base::limits::{LINK_BACKLOG_MAX, TURN_BYTES_MAX};
use base::request::{Operation, RequestId};
use base::time::{Duration, Instant};
use datapath::io::engine::Engine;
use datapath::outbox::Action;
use datapath::port::{VolumeCommand, VolumeReport};
use datapath::storage::IoCompletion;
use datapath::volume::{Volume, VolumeConfig};
use nbd_frontend::io::acceptor::Attached;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use tokio::sync::mpsc;

use super::mailbox::{Receiver, Sender, SharedGate, mailbox};
use super::metrics::Latencies;
use super::run_files::RunFiles;
use clients::{Clients, Intake};
use link::Link;

/// Letters that wait for a volume thread, at most.
const LETTERS_MAX: usize = 1024;
/// Clients that wait for a volume thread, at most; with more the front thread waits.
const ARRIVALS_MAX: usize = 64;
/// Bytes taken by one receive call.
const SCRATCH_BYTES: usize = 256 << 10;
/// How often measurements are handed on.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Time that attached clients get to take their last replies when the process ends.
const GOODBYE: Duration = Duration::from_secs(1);

const TOKEN_LETTERS: u64 = 0;
const TOKEN_ENGINE: u64 = 1;
const TOKEN_LINK: u64 = 2;
const TOKEN_ARRIVALS: u64 = 3;
/// Clients' tokens begin here.
const TOKEN_CLIENTS: u64 = 16;

/// To a volume thread.
#[derive(Debug)]
pub enum Letter {
    /// The group decided.
    Command(VolumeCommand),
    /// The data connection of a control connection, its binding exchanged.
    Link {
        /// Non-blocking, with its TLS state.
        socket: Socket,
        /// Which control connection.
        conn_nonce: ConnNonce,
        /// Frames sent and received before.
        sequence: (u64, u64),
        /// Plain text received with the binding.
        leftover: Vec<u8>,
    },
    /// End when the clients are gone.
    Exit,
}

/// Where a volume thread is written to. Clients come by a box of their own: however many there
/// are, they take no place that the group needs.
#[derive(Debug)]
pub struct Mail {
    letters: Receiver<Letter>,
    arrivals: Receiver<Box<Attached>>,
}

impl Mail {
    /// Empty boxes, with the ends for the group thread and for the front thread.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new() -> io::Result<(Self, Sender<Letter>, Sender<Box<Attached>>)> {
        let (to_letters, letters) = mailbox(LETTERS_MAX)?;
        let (to_arrivals, arrivals) = mailbox(ARRIVALS_MAX)?;
        Ok((Self { letters, arrivals }, to_letters, to_arrivals))
    }

    fn is_empty(&self) -> bool {
        !self.letters.has_mail() && !self.arrivals.has_mail()
    }
}

/// From a volume thread to the group thread.
#[derive(Debug)]
pub struct Report {
    /// Which volume.
    pub volume: VolumeIndex,
    /// What it says.
    pub report: VolumeReport,
}

/// What people may see of a volume thread.
#[derive(Debug, Default)]
pub struct VolumeCounters {
    /// Attached clients.
    pub clients: AtomicU64,
    /// Requests answered.
    pub requests: AtomicU64,
    /// Turns of the loop.
    pub turns: AtomicU64,
}

/// What a volume thread is started with.
#[derive(Debug)]
pub struct Parts {
    /// For the core.
    pub config: VolumeConfig,
    /// Where letters and clients come from.
    pub mail: Mail,
    /// Where reports go.
    pub reports: mpsc::Sender<Report>,
    /// The right to serve.
    pub gate: Arc<SharedGate>,
    /// For status and metrics.
    pub counters: Arc<VolumeCounters>,
    /// Where measurements go once a second.
    pub measured: mpsc::Sender<(usize, Box<Latencies>)>,
    /// Where a failed disk is remembered at once.
    pub run_files: RunFiles,
}

/// Runs until it is told to exit. The engine is made by the thread itself.
///
/// # Errors
/// The kernel refuses epoll, or waiting fails.
pub fn run(parts: Parts, engine: Engine) -> io::Result<()> {
    VolumeThread::new(parts, engine)?.run()
}

struct VolumeThread {
    volume: Volume,
    engine: Engine,
    index: VolumeIndex,
    mail: Mail,
    reports: mpsc::Sender<Report>,
    gate: Arc<SharedGate>,
    counters: Arc<VolumeCounters>,
    measured: mpsc::Sender<(usize, Box<Latencies>)>,
    run_files: RunFiles,
    latencies: Box<Latencies>,
    /// When what was measured is handed on; none while there is nothing.
    measured_at: Option<Instant>,
    /// The newest sample of the clock.
    now: Instant,
    epoll: std::os::fd::OwnedFd,
    clients: Clients,
    link: Option<Link>,
    scratch: Box<[u8]>,
    completions: Vec<IoCompletion>,
    exit_at: Option<Instant>,
}

impl VolumeThread {
    fn new(parts: Parts, engine: Engine) -> io::Result<Self> {
        let Parts { config, mail, reports, gate, counters, measured, run_files } = parts;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, mail.letters.event_fd(), TOKEN_LETTERS)?;
        watch(&epoll, mail.arrivals.event_fd(), TOKEN_ARRIVALS)?;
        watch(&epoll, engine.event_fd(), TOKEN_ENGINE)?;
        Ok(Self {
            volume: Volume::new(config),
            engine,
            index: config.index,
            mail,
            reports,
            gate,
            counters,
            measured,
            run_files,
            latencies: Box::default(),
            measured_at: None,
            now: clock::now(),
            epoll,
            clients: Clients::default(),
            link: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            completions: Vec::new(),
            exit_at: None,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            self.wait(&mut events)?;
            for event in &events {
                self.note_readiness(event);
            }
            self.counters.turns.fetch_add(1, Ordering::Relaxed);
            self.read_mail();
            self.receive_link();
            self.receive_clients();
            self.work();
            self.flush_sockets();
            self.hand_on_measured();
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn hand_on_measured(&mut self) {
        if self.measured_at.is_some_and(|at| self.now >= at) {
            self.measured_at = None;
            let full = std::mem::take(&mut self.latencies);
            // Nobody waits for a measurement: one that finds no room is lost.
            let _ = self.measured.try_send((usize::from(self.index.0), full));
        }
    }

    fn is_done(&self) -> bool {
        self.exit_at.is_some_and(|at| self.clients.is_empty() || clock::now() >= at)
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        let timeout = if self.has_work() { Some(Duration::ZERO) } else { self.time_left() };
        let timeout = timeout.map(|d| rustix::time::Timespec {
            tv_sec: d.as_secs().min(3600) as i64,
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the next turn has something to do without anything happening.
    fn has_work(&mut self) -> bool {
        !self.mail.is_empty()
            || self.engine.has_completions()
            || self.engine.has_unfinished()
            || self.link.as_ref().is_some_and(Link::is_readable)
            || (self.takes_requests() && self.clients.has_input())
    }

    fn time_left(&self) -> Option<Duration> {
        let deadline = [self.volume.next_deadline(), self.exit_at, self.measured_at];
        let deadline = deadline.into_iter().flatten().min()?;
        // Rounded up: an early wake-up would spin.
        Some(deadline.since(clock::now()) + Duration::from_micros(100))
    }

    fn note_readiness(&mut self, event: &epoll::Event) {
        let flags = event.flags;
        let gone = flags
            .intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let readable = gone || flags.contains(epoll::EventFlags::IN);
        match event.data.u64() {
            TOKEN_LETTERS | TOKEN_ENGINE | TOKEN_ARRIVALS => {}
            TOKEN_LINK => {
                if let Some(link) = &mut self.link {
                    link.note(readable, gone);
                }
            }
            token => self.clients.note(token - TOKEN_CLIENTS, readable, gone),
        }
    }

    fn read_mail(&mut self) {
        while let Some(letter) = self.mail.letters.poll() {
            match letter {
                Letter::Command(command) => {
                    self.now = clock::now();
                    self.volume.handle_command(self.now, command);
                }
                Letter::Link { socket, conn_nonce, sequence, leftover } => {
                    self.attach_link(socket, conn_nonce, sequence, &leftover);
                }
                Letter::Exit => self.exit_at = Some(clock::now() + GOODBYE),
            }
            // What a command causes happens before the next letter is read.
            self.drain_actions();
        }
        while let Some(attached) = self.mail.arrivals.poll() {
            self.attach_client(*attached);
        }
    }

    fn attach_link(
        &mut self,
        socket: Socket,
        conn_nonce: ConnNonce,
        sequence: (u64, u64),
        leftover: &[u8],
    ) {
        self.drop_link("a newer data connection replaces it".to_owned());
        if let Err(error) = watch(&self.epoll, socket.fd(), TOKEN_LINK) {
            tracing::error!(%error, "cannot watch a data connection");
            return;
        }
        let mut link = Link::new(socket, conn_nonce, sequence);
        self.volume.handle_link_up(conn_nonce);
        let fed = link.feed(leftover);
        self.link = Some(link);
        if let Err(why) = fed {
            self.drop_link(why);
        }
    }

    fn attach_client(&mut self, attached: Attached) {
        let id = self.clients.next_id();
        let peer = attached.peer;
        if let Err(error) = watch(&self.epoll, attached.socket.fd(), TOKEN_CLIENTS + id.0) {
            tracing::error!(%error, %peer, "cannot watch an NBD client; closing it");
            return;
        }
        self.clients.attach(id, attached);
        self.counters.clients.store(self.clients.len() as u64, Ordering::Relaxed);
    }

    fn drop_link(&mut self, why: String) {
        if let Some(link) = self.link.take() {
            self.volume.handle_link_lost(link.conn_nonce(), why);
        }
    }

    fn receive_link(&mut self) {
        let Some(link) = &mut self.link else { return };
        let received = link.receive(&mut self.scratch, TURN_BYTES_MAX);
        self.now = clock::now();
        while let Some(message) = link.poll_message() {
            self.volume.handle_message(self.now, message);
        }
        if let Err(why) = received {
            self.drop_link(why);
        }
    }

    fn takes_requests(&self) -> bool {
        takes_requests(&self.volume, self.link.as_ref())
    }

    fn receive_clients(&mut self) {
        let Self { clients, volume, link, scratch, .. } = self;
        clients.receive(scratch, &mut VolumeIntake { volume, link: link.as_ref() });
    }

    /// Feeds completions, settles, carries out actions, until nothing is left that needs no waiting
    /// or is too long for one turn.
    fn work(&mut self) {
        self.engine.begin_turn();
        loop {
            self.completions.clear();
            self.engine.poll_completions(&mut self.completions);
            // The sample: after the last receive and the last reaped completion.
            let gate = self.gate.sample();
            self.now = clock::now();
            for completion in self.completions.drain(..) {
                self.volume.handle_completion(self.now, completion);
            }
            self.volume.settle(self.now, gate);
            self.drain_actions();
            self.engine.flush_submissions();
            if !self.engine.has_completions() {
                return;
            }
        }
    }

    fn drain_actions(&mut self) {
        while let Some(action) = self.volume.poll_action() {
            match action {
                Action::Reply { id, completion, stages } => {
                    self.counters.requests.fetch_add(1, Ordering::Relaxed);
                    let latencies = &mut self.latencies;
                    self.clients.complete(id, completion, stages, self.now, latencies);
                    if self.measured_at.is_none() {
                        self.measured_at = Some(self.now + MEASURE_INTERVAL);
                    }
                }
                Action::Submit { id, operation } => self.engine.submit(id, operation),
                Action::Send(message) => {
                    if let Some(link) = &mut self.link {
                        link.send(self.volume.session(), &message);
                    }
                }
                Action::Report(report) => {
                    let volume = self.index;
                    if matches!(report, VolumeReport::DiskFailed { .. }) {
                        self.run_files.note_failure();
                    }
                    // A group thread that is gone ends the process.
                    let _ = self.reports.blocking_send(Report { volume, report });
                }
                Action::CloseClient { client, why } => {
                    self.clients.close(client, &why);
                    self.volume.handle_client_gone(client);
                }
                Action::CloseAllClients { why } => self.clients.close_all(why),
            }
        }
    }

    fn flush_sockets(&mut self) {
        if let Some(link) = &mut self.link
            && let Err(why) = link.flush()
        {
            self.drop_link(why);
            self.drain_actions();
        }
        for gone in self.clients.flush() {
            self.volume.handle_client_gone(gone);
        }
        self.drain_actions();
        self.counters.clients.store(self.clients.len() as u64, Ordering::Relaxed);
    }
}

/// G2a, and the bound on writes under way.
fn takes_requests(volume: &Volume, link: Option<&Link>) -> bool {
    link.map_or(0, Link::backlog) < LINK_BACKLOG_MAX && volume.takes_requests()
}

struct VolumeIntake<'a> {
    volume: &'a mut Volume,
    link: Option<&'a Link>,
}

impl Intake for VolumeIntake<'_> {
    fn is_open(&self) -> bool {
        takes_requests(self.volume, self.link)
    }

    fn take(&mut self, id: RequestId, operation: Operation) {
        self.volume.handle_request(id, operation);
    }
}

fn watch(epoll: &std::os::fd::OwnedFd, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    use epoll::EventFlags;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use base::ids::VolumeName;
    use base::range::ByteRange;
    use datapath::io::backing::{Backing, Direct};
    use datapath::storage::{IoId, IoOperation};

    use super::*;
    use crate::io::front_thread::{FrontVolume, forward};

    #[test]
    fn a_turn_does_not_last_as_long_as_what_is_to_be_zeroed() {
        const LENGTH: u64 = 64 << 20;
        let dir = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let path = dir.path().join("vol.img");
        let file = std::fs::File::create(&path).expect("an image");
        file.set_len(4 * LENGTH).expect("an image");
        let backing = Backing::open(&path, 4 * LENGTH, Direct::Auto).expect("it opens");
        let config = VolumeConfig {
            index: VolumeIndex(0),
            size: backing.size(),
            granule_bytes: backing.granule_bytes(),
            io_timeout: Duration::from_secs(2),
            rules: base::rules::Rules::ALL_HOLD,
        };
        let parts = Parts {
            config,
            mail: Mail::new().expect("descriptors").0,
            reports: mpsc::channel(1).0,
            gate: Arc::default(),
            counters: Arc::default(),
            measured: mpsc::channel(1).0,
            run_files: RunFiles::default(),
        };
        let engine = Engine::start(&backing).expect("an engine");
        let mut thread = VolumeThread::new(parts, engine).expect("an epoll");
        for number in 0..4 {
            let range = ByteRange::new(number * LENGTH, LENGTH).expect("in range");
            let zero = IoOperation::Zero { range, allocate: true, durable: false };
            thread.engine.submit(IoId(number), zero);
        }
        thread.work();
        let zeroed = file.metadata().expect("there").blocks() * 512;
        assert!(zeroed < LENGTH / 2, "{zeroed} bytes in one turn");
        assert!(thread.has_work(), "the next turn comes at once");
    }

    #[test]
    fn a_flood_of_clients_takes_no_place_of_a_letter_and_none_of_another_volume() {
        let (mail, letters, arrivals) = Mail::new().expect("descriptors");
        let (other_mail, _, other_arrivals) = Mail::new().expect("descriptors");
        let other = "other".parse::<VolumeName>().expect("a name");
        let volumes = [
            FrontVolume { name: hosts::NAME.parse().expect("a name"), arrivals },
            FrontVolume { name: other.clone(), arrivals: other_arrivals },
        ];
        let (mut attached, _hosts) = hosts::attached(ARRIVALS_MAX + 2);
        attached.last_mut().expect("it is there").terms.export.name = other;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let (sink, queue) = mpsc::channel(attached.len());
            for client in attached {
                assert!(sink.try_send(client).is_ok(), "there is room for all");
            }
            let arrives = async {
                while !other_mail.arrivals.has_mail() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = forward(&volumes, queue) => panic!("clients still come"),
                () = arrives => {}
            }
        });
        for _ in 0..LETTERS_MAX {
            letters.send(Letter::Exit).expect("every place is a letter's");
        }
        let waiting = std::iter::from_fn(|| mail.arrivals.poll()).count();
        assert_eq!(waiting, ARRIVALS_MAX);
    }
}
