//! The trial behind the choice of the hot loop: what two shapes of one thread per node cost for a
//! mirrored write, with everything else left out. No bitmap, range locks or grants.
//!
//! host --plain TCP--> node A --mutual TLS 1.3--> node B, payloads written by pwrite on tmpfs at
//! both, an answer to each when both have it. `own`: epoll and `base::io::socket::Socket`, which
//! drives the TLS library directly. `tokio`: a current_thread runtime with tokio-rustls. Both take
//! everything that has come in before they send anything, and send once per socket and turn.
//!
//!     cargo run --release -p stretch-bench --bin loop_trial -- compare --rounds 3 --seconds 5
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use base::io::socket::Socket;
use base::io::tls::{TlsIdentity, server_name};
use base::limits::TURN_BYTES_MAX;
use base::payload::PayloadBuf;
use bytes::{Bytes, BytesMut};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::event::epoll;
use stretch_bench::pki;
use stretch_bench::process::{Quiet, Server, cpu_us};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HEADER_BYTES: usize = 32;
const SCRATCH_BYTES: usize = 256 << 10;
const VOLUME_BYTES: u64 = 256 << 20;
const KIND_WRITE: u32 = 1;
const KIND_DONE: u32 = 2;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures both shapes, interleaved, and prints a table of medians.
    Compare {
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Bytes of a write.
        #[arg(long, default_value_t = 4096)]
        bytes: usize,
        #[arg(long, value_delimiter = ',', default_value = "1,32")]
        depths: Vec<usize>,
        #[command(flatten)]
        quiet: Quiet,
    },
    /// One node, started by `compare`.
    Node {
        #[arg(long)]
        shape: Shape,
        #[arg(long)]
        node: Name,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        host_port: u16,
        #[arg(long)]
        link_port: u16,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Shape {
    Own,
    Tokio,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Name {
    A,
    B,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare { rounds, seconds, bytes, depths, quiet } => {
            compare(rounds, seconds, bytes, &depths, quiet)
        }
        Command::Node { shape, node, dir, host_port, link_port } => {
            let setup = Setup::new(node, &dir, host_port, link_port)?;
            match shape {
                Shape::Own => own_loop(setup),
                Shape::Tokio => tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(tokio_loop(setup)),
            }
        }
    }
}

// --- what both shapes share ---------------------------------------------------------------------

struct Setup {
    node: Name,
    identity: TlsIdentity,
    image: File,
    host: SocketAddr,
    link: SocketAddr,
}

impl Setup {
    fn new(node: Name, dir: &Path, host_port: u16, link_port: u16) -> Result<Self> {
        let name = if node == Name::A { "a" } else { "b" };
        let image = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join(format!("{name}.img")))?;
        image.set_len(VOLUME_BYTES)?;
        let local = |port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let identity = TlsIdentity::load(&dir.join(name))?;
        Ok(Self { node, identity, image, host: local(host_port), link: local(link_port) })
    }
}

struct Frame {
    kind: u32,
    tag: u64,
    offset: u64,
    payload: Bytes,
}

fn header(kind: u32, length: usize, tag: u64, offset: u64) -> Bytes {
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&kind.to_be_bytes());
    header.extend_from_slice(&(length as u32).to_be_bytes());
    header.extend_from_slice(&tag.to_be_bytes());
    header.extend_from_slice(&offset.to_be_bytes());
    header.resize(HEADER_BYTES, 0);
    header.freeze()
}

/// Cuts a stream of bytes into frames; payloads are copied once, to page-aligned memory.
#[derive(Default)]
struct FrameReader {
    header: Vec<u8>,
    payload: Option<PayloadBuf>,
}

impl FrameReader {
    fn feed(&mut self, mut input: &[u8], frames: &mut Vec<Frame>) {
        while !input.is_empty() {
            if self.payload.is_none() {
                let count = input.len().min(HEADER_BYTES - self.header.len());
                self.header.extend_from_slice(&input[..count]);
                input = &input[count..];
                if self.header.len() < HEADER_BYTES {
                    return;
                }
                self.payload = Some(PayloadBuf::with_length(self.number32(4) as usize));
            }
            let payload = self.payload.as_mut().expect("just made");
            let count = payload.fill_from(input);
            input = &input[count..];
            if payload.missing() > 0 {
                return;
            }
            let payload = self.payload.take().expect("there").freeze();
            let (kind, tag, offset) = (self.number32(0), self.number64(8), self.number64(16));
            self.header.clear();
            frames.push(Frame { kind, tag, offset, payload });
        }
    }

    fn number32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }

    fn number64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.header[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// The node itself: which frame leads to which. `to_host` and `to_link` are what a turn sends.
struct Core {
    node: Name,
    image: File,
    to_host: Vec<Bytes>,
    to_link: Vec<Bytes>,
}

impl Core {
    fn new(node: Name, image: File) -> Self {
        Self { node, image, to_host: Vec::new(), to_link: Vec::new() }
    }

    fn handle(&mut self, frame: Frame) -> Result<()> {
        match (self.node, frame.kind) {
            (Name::A, KIND_WRITE) => {
                self.apply(&frame)?;
                let length = frame.payload.len();
                self.to_link.push(header(KIND_WRITE, length, frame.tag, frame.offset));
                self.to_link.push(frame.payload);
            }
            (Name::B, KIND_WRITE) => {
                self.apply(&frame)?;
                self.to_link.push(header(KIND_DONE, 0, frame.tag, 0));
            }
            (Name::A, KIND_DONE) => self.to_host.push(header(KIND_DONE, 0, frame.tag, 0)),
            (_, kind) => bail!("frame of kind {kind}"),
        }
        Ok(())
    }

    fn apply(&self, frame: &Frame) -> Result<()> {
        let count = rustix::io::pwrite(&self.image, &frame.payload, frame.offset)?;
        assert_eq!(count, frame.payload.len(), "tmpfs writes whole payloads");
        Ok(())
    }
}

// --- our own loop -------------------------------------------------------------------------------

const HOST: usize = 0;
const LINK: usize = 1;

/// A connection of our own loop.
struct Port {
    socket: Socket,
    reader: FrameReader,
    waits_to_send: bool,
}

impl Port {
    fn new(stream: TcpStream, tls: Option<rustls::Connection>) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let socket = Socket::new(OwnedFd::from(stream), tls);
        Ok(Self { socket, reader: FrameReader::default(), waits_to_send: false })
    }
}

fn own_loop(setup: Setup) -> Result<()> {
    let mut ports = own_connect(&setup)?;
    let mut core = Core::new(setup.node, setup.image);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, port) in ports.iter().enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, port.socket.fd(), data, epoll::EventFlags::IN)?;
    }
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut events = Vec::with_capacity(8);
    let mut frames = Vec::new();
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let port = &mut ports[event.data.u64() as usize];
            let reader = &mut port.reader;
            let received = port.socket.receive(&mut scratch, TURN_BYTES_MAX, |bytes| {
                reader.feed(bytes, &mut frames);
            })?;
            if received.closed {
                return Ok(());
            }
        }
        for frame in frames.drain(..) {
            core.handle(frame)?;
        }
        let last = ports.len() - 1;
        core.to_link.drain(..).for_each(|bytes| ports[last].socket.queue(bytes));
        core.to_host.drain(..).for_each(|bytes| ports[HOST].socket.queue(bytes));
        for (index, port) in ports.iter_mut().enumerate() {
            flush_port(&epoll, index, port)?;
        }
    }
}

fn flush_port(epoll: &OwnedFd, index: usize, port: &mut Port) -> Result<()> {
    let left = !port.socket.flush()?;
    if left != port.waits_to_send {
        port.waits_to_send = left;
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, left);
        epoll::modify(epoll, port.socket.fd(), epoll::EventData::new_u64(index as u64), flags)?;
    }
    Ok(())
}

/// Node A: host, link. Node B: link only.
fn own_connect(setup: &Setup) -> Result<Vec<Port>> {
    match setup.node {
        Name::B => {
            let (mut stream, _) = TcpListener::bind(setup.link)?.accept()?;
            let mut tls = rustls::ServerConnection::new(setup.identity.server.clone())?;
            shake_hands(&mut tls, &mut stream)?;
            Ok(vec![Port::new(stream, Some(tls.into()))?])
        }
        Name::A => {
            let mut stream = TcpStream::connect(setup.link)?;
            let config = setup.identity.client.clone();
            let mut tls = rustls::ClientConnection::new(config, server_name())?;
            shake_hands(&mut tls, &mut stream)?;
            let link = Port::new(stream, Some(tls.into()))?;
            let (host, _) = TcpListener::bind(setup.host)?.accept()?;
            let ports = vec![Port::new(host, None)?, link];
            assert_eq!(ports.len() - 1, LINK, "the link is the last one");
            Ok(ports)
        }
    }
}

fn shake_hands<D>(tls: &mut rustls::ConnectionCommon<D>, stream: &mut TcpStream) -> Result<()> {
    while tls.is_handshaking() {
        tls.complete_io(stream)?;
    }
    while tls.wants_write() {
        tls.write_tls(stream)?;
    }
    Ok(())
}

// --- tokio --------------------------------------------------------------------------------------

async fn tokio_loop(setup: Setup) -> Result<()> {
    match setup.node {
        Name::B => {
            let listener = tokio::net::TcpListener::bind(setup.link).await?;
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let acceptor = TlsAcceptor::from(setup.identity.server.clone());
            let link = acceptor.accept(stream).await?;
            let core = Core::new(setup.node, setup.image);
            tokio_turns(core, None::<tokio::net::TcpStream>, link).await
        }
        Name::A => {
            let stream = tokio::net::TcpStream::connect(setup.link).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(setup.identity.client.clone());
            let link = connector.connect(server_name(), stream).await?;
            let listener = tokio::net::TcpListener::bind(setup.host).await?;
            let (host, _) = listener.accept().await?;
            host.set_nodelay(true)?;
            tokio_turns(Core::new(setup.node, setup.image), Some(host), link).await
        }
    }
}

async fn tokio_turns<H, L>(mut core: Core, mut host: Option<H>, mut link: L) -> Result<()>
where
    H: AsyncRead + AsyncWrite + Unpin,
    L: AsyncRead + AsyncWrite + Unpin,
{
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut readers = [FrameReader::default(), FrameReader::default()];
    let mut frames = Vec::new();
    loop {
        let [host_reader, link_reader] = &mut readers;
        let open = poll_fn(|context| {
            let mut turn = Turn { context, scratch: &mut scratch, frames: &mut frames };
            let host = host.as_mut().map(|host| turn.take_all(host, host_reader));
            let link = turn.take_all(&mut link, link_reader);
            match (host.unwrap_or(Ok(Taken::Nothing)), link) {
                (Err(error), _) | (_, Err(error)) => Poll::Ready(Err(error)),
                (Ok(Taken::Closed), _) | (_, Ok(Taken::Closed)) => Poll::Ready(Ok(false)),
                (Ok(Taken::Nothing), Ok(Taken::Nothing)) => Poll::Pending,
                _ => Poll::Ready(Ok(true)),
            }
        })
        .await?;
        if !open {
            return Ok(());
        }
        for frame in frames.drain(..) {
            core.handle(frame)?;
        }
        tokio_send(&mut link, &mut core.to_link).await?;
        if let Some(host) = &mut host {
            tokio_send(host, &mut core.to_host).await?;
        }
    }
}

enum Taken {
    Nothing,
    Something,
    Closed,
}

struct Turn<'a, 'b> {
    context: &'a mut Context<'b>,
    scratch: &'a mut [u8],
    frames: &'a mut Vec<Frame>,
}

impl Turn<'_, '_> {
    fn take_all(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        reader: &mut FrameReader,
    ) -> std::io::Result<Taken> {
        let mut total = 0;
        while total < TURN_BYTES_MAX {
            let mut buffer = ReadBuf::new(self.scratch);
            match Pin::new(&mut *stream).poll_read(self.context, &mut buffer) {
                Poll::Pending if total == 0 => return Ok(Taken::Nothing),
                Poll::Pending => return Ok(Taken::Something),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Ok(Taken::Closed),
                Poll::Ready(Ok(())) => {
                    total += buffer.filled().len();
                    reader.feed(buffer.filled(), self.frames);
                }
            }
        }
        Ok(Taken::Something)
    }
}

async fn tokio_send(stream: &mut (impl AsyncWrite + Unpin), pieces: &mut Vec<Bytes>) -> Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    // One piece of memory: tokio-rustls sends after every write it is given.
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.drain(..).for_each(|bytes| whole.extend_from_slice(&bytes));
    stream.write_all(&whole).await?;
    stream.flush().await?;
    Ok(())
}

// --- the measurement ----------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    others_percent: f64,
}

fn compare(
    rounds: usize,
    seconds: u64,
    bytes: usize,
    depths: &[usize],
    quiet: Quiet,
) -> Result<()> {
    let mut samples: BTreeMap<(usize, Shape), Vec<Sample>> = BTreeMap::new();
    for round in 0..rounds {
        for &depth in depths {
            for shape in [Shape::Own, Shape::Tokio] {
                let sample = measure(shape, depth, bytes, seconds, quiet)?;
                eprintln!(
                    "round {} depth {depth} {shape:?}: {:.0}/s, p50 {:.0} us, CPU {:.1} us, \
                     others {:.0} %",
                    round + 1,
                    sample.per_second,
                    sample.p50_us,
                    sample.cpu_us,
                    sample.others_percent
                );
                samples.entry((depth, shape)).or_default().push(sample);
            }
        }
    }
    println!(
        "| depth | shape | writes/s (min-max) | p50 us | p99 us | CPU us/write, both nodes | others % |"
    );
    println!("|---|---|---|---|---|---|---|");
    for ((depth, shape), samples) in &samples {
        let of = |field: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            (values[0], values[values.len() / 2], values[values.len() - 1])
        };
        let (low, rate, high) = of(|s| s.per_second);
        println!(
            "| {depth} | {} | {rate:.0} ({low:.0}-{high:.0}) | {:.0} | {:.0} | {:.1} | {:.0} |",
            if *shape == Shape::Own { "own loop" } else { "tokio" },
            of(|s| s.p50_us).1,
            of(|s| s.p99_us).1,
            of(|s| s.cpu_us).1,
            of(|s| s.others_percent).1
        );
    }
    Ok(())
}

fn measure(shape: Shape, depth: usize, bytes: usize, seconds: u64, quiet: Quiet) -> Result<Sample> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    pki::write(dir.path(), &["a", "b"])?;
    let ports = [free_port()?, free_port()?];
    let b = start_node(shape, "b", dir.path(), ports)?;
    wait_for_listener(ports[1])?;
    let a = start_node(shape, "a", dir.path(), ports)?;
    wait_for_listener(ports[0])?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0]))?;
    stream.set_nodelay(true)?;
    let mut load = Load::new(stream, depth, bytes);
    load.run(1.0, &mut Vec::new())?;
    let servers = || -> Result<u64> { Ok(cpu_us(a.pid())? + cpu_us(b.pid())?) };
    let (mut sample, others_percent) = quiet.measure(|| {
        let (begin, cpu, own) = (Instant::now(), servers()?, cpu_us(std::process::id())?);
        let mut latencies = Vec::new();
        load.run(seconds as f64, &mut latencies)?;
        let elapsed = begin.elapsed().as_secs_f64();
        let (cpu, own) = (servers()? - cpu, cpu_us(std::process::id())? - own);
        Ok((summarize(&mut latencies, elapsed, cpu), cpu + own))
    })?;
    sample.others_percent = others_percent;
    Ok(sample)
}

fn summarize(latencies: &mut [f32], elapsed: f64, cpu_us: u64) -> Sample {
    latencies.sort_by(f32::total_cmp);
    let count = latencies.len();
    Sample {
        per_second: count as f64 / elapsed,
        p50_us: f64::from(latencies[count / 2]),
        p99_us: f64::from(latencies[count * 99 / 100]),
        cpu_us: cpu_us as f64 / count as f64,
        others_percent: 0.0,
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Waits without connecting: a node takes the first connection as its only one.
fn wait_for_listener(port: u16) -> Result<()> {
    let wanted = format!("0100007F:{port:04X} 00000000:0000 0A");
    for _ in 0..1000 {
        if std::fs::read_to_string("/proc/net/tcp")?.contains(&wanted) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    bail!("nobody listens on port {port}")
}

fn start_node(shape: Shape, node: &str, dir: &Path, ports: [u16; 2]) -> Result<Server> {
    let shape = if shape == Shape::Own { "own" } else { "tokio" };
    let args = [
        "node".to_owned(),
        format!("--shape={shape}"),
        format!("--node={node}"),
        format!("--dir={}", dir.display()),
        format!("--host-port={}", ports[0]),
        format!("--link-port={}", ports[1]),
    ];
    let program = std::env::current_exe().context("the path of this program")?;
    Server::start(&program, &args, &dir.join(format!("{node}.log")))
}

/// A host that keeps `depth` writes under way; each is sent by a call of its own, as libnbd does.
struct Load {
    stream: TcpStream,
    depth: usize,
    message: Vec<u8>,
    sent_at: Vec<Instant>,
    random: u64,
}

impl Load {
    fn new(stream: TcpStream, depth: usize, bytes: usize) -> Self {
        let mut message = vec![0xa5; HEADER_BYTES + bytes];
        message[..HEADER_BYTES].copy_from_slice(&header(KIND_WRITE, bytes, 0, 0));
        Self { stream, depth, message, sent_at: vec![Instant::now(); depth], random: 1 }
    }

    fn send(&mut self, tag: usize) -> Result<()> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let bytes = (self.message.len() - HEADER_BYTES) as u64;
        let offset = self.random % (VOLUME_BYTES / bytes) * bytes;
        self.message[8..16].copy_from_slice(&(tag as u64).to_be_bytes());
        self.message[16..24].copy_from_slice(&offset.to_be_bytes());
        self.sent_at[tag] = Instant::now();
        self.stream.write_all(&self.message)?;
        Ok(())
    }

    fn run(&mut self, seconds: f64, latencies: &mut Vec<f32>) -> Result<()> {
        let begin = Instant::now();
        let mut reader = FrameReader::default();
        let mut scratch = vec![0; 64 << 10];
        let mut under_way = self.depth;
        (0..self.depth).try_for_each(|tag| self.send(tag))?;
        while under_way > 0 {
            let count = self.stream.read(&mut scratch)?;
            if count == 0 {
                bail!("node A closed the connection");
            }
            let mut frames = Vec::new();
            reader.feed(&scratch[..count], &mut frames);
            let go_on = begin.elapsed().as_secs_f64() < seconds;
            for frame in frames {
                let tag = frame.tag as usize;
                latencies.push(self.sent_at[tag].elapsed().as_secs_f32() * 1e6);
                if go_on {
                    self.send(tag)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }
}
