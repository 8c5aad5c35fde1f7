//! One `stretch-witness` process with certificates for those who speak with it, and a connection to
//! it as a node makes one.
//! Owns: the process; it is killed when this is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::frame::{HEADER_BYTES, Header};
use base::identity::{Identity, Kind};
use base::ids::{ConnNonce, NodeName, PairId, TokenNonce, WitnessRun, WitnessToken};
use base::io::clock;
use base::io::tls::{TlsIdentity, server_name};
use control_plane::io::pki_files::{issue, make_authority};
use control_plane::pki::{Request as PkiRequest, Validity};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use witness::wire::{ANSWER_BYTES_MAX, Answer, Question, Reply, Request, TokenState, Verdict};

use super::witness_program;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Witness {
    folder: PathBuf,
    child: Option<Child>,
}

impl Witness {
    /// Where it listens.
    pub const ADDRESS: &str = "127.0.0.13:10812";
    /// Its metrics.
    pub const METRICS: &str = "127.0.0.13:10813";

    /// Makes its files in `folder`, a CA and its certificate among them. Not started.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn prepare(folder: &Path) -> Self {
        let validity = Validity::days(clock::unix_seconds(), 1);
        make_authority(&folder.join("pki"), validity).expect("a CA");
        fs::create_dir(folder.join("w")).expect("a folder");
        let text = format!(
            "[witness]\nname = \"w\"\nlisten = \"{}\"\ndata_dir = \"w\"\n\n[tls]\ndir = \
             \"pki/w\"\n\n[metrics]\nlisten = \"{}\"\n",
            Self::ADDRESS,
            Self::METRICS
        );
        let witness = Self { folder: folder.to_owned(), child: None };
        fs::write(witness.config(), text).expect("a configuration");
        witness.issue(Kind::Witness, "w");
        witness
    }

    /// Its TOML file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("witness.toml")
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("w.log")).unwrap_or_default()
    }

    /// Waits until its log says this: it is written by a thread of its own.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait_for_log(&self, says: &str) {
        let begun = Instant::now();
        while !self.log().contains(says) {
            assert!(begun.elapsed() < LIMIT, "no \"{says}\" in {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The folder of its log of events.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("w")
    }

    /// Makes a certificate of its CA and returns what dials with it.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn issue(&self, kind: Kind, name: &str) -> Arc<ClientConfig> {
        let name: NodeName = name.parse().expect("a name");
        let request = PkiRequest {
            holder: Identity { kind, name },
            addresses: Vec::<IpAddr>::new(),
            dns_names: Vec::new(),
            validity: Validity::days(clock::unix_seconds(), 1),
        };
        let folder = issue(&self.folder.join("pki"), &request).expect("a certificate");
        TlsIdentity::load_client(&folder).expect("it was just made")
    }

    /// Starts the process and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("w.log"));
        self.spawn(log.expect("a log").into());
        let begun = Instant::now();
        while TcpStream::connect(Self::ADDRESS).is_err() {
            assert!(begun.elapsed() < LIMIT, "it does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts the process with this as its stderr.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&mut self, stderr: Stdio) {
        let child = Command::new(witness_program())
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        self.child = Some(child.expect("the program can be started"));
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).expect("our own child");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resident memory, in KiB.
    ///
    /// # Panics
    /// If it does not run.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Of [`Self::memory_kib`] what is its own: the rest are pages of programs and libraries that
    /// the system has in memory anyhow, and shows as it has read them.
    ///
    /// # Panics
    /// If it does not run.
    pub fn own_memory_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Processor time used so far.
    ///
    /// # Panics
    /// If it does not run.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
        let ticks: u64 =
            fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection as a node makes one.
#[derive(Debug)]
pub struct WitnessConnection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    pair_id: PairId,
    peer: NodeName,
    run: WitnessRun,
    seen_counter: u64,
    sent: u64,
    received: u64,
}

const NONCE: ConnNonce = ConnNonce([5; 16]);

impl WitnessConnection {
    /// Connects and shows its certificate.
    ///
    /// # Errors
    /// No connection.
    pub fn open(config: &Arc<ClientConfig>, pair_id: PairId, peer: &str) -> io::Result<Self> {
        let address: SocketAddr = Witness::ADDRESS.parse().expect("an address");
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let tls = ClientConnection::new(config.clone(), server_name()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let (run, peer) = (WitnessRun::NONE, peer.parse().expect("a name"));
        Ok(Self { stream, pair_id, peer, run, seen_counter: 0, sent: 0, received: 0 })
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The frame of a request.
    pub fn frame(&mut self, question: Question) -> Vec<u8> {
        let request = Request {
            id: self.sent + 1,
            pair_id: self.pair_id,
            peer: self.peer.clone(),
            run: self.run,
            seen_counter: self.seen_counter,
            question,
        };
        self.sent += 1;
        request.encode(NONCE, self.sent - 1)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, question: Question) -> io::Result<()> {
        let frame = self.frame(question);
        self.send_bytes(&frame)
    }

    /// The next answer.
    ///
    /// # Errors
    /// The connection is broken, or says something else.
    pub fn receive(&mut self) -> io::Result<Answer> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head).map_err(io::Error::other)?;
        let mut body = [0; ANSWER_BYTES_MAX];
        let body = body.get_mut(..header.body_bytes as usize).ok_or(io::ErrorKind::InvalidData)?;
        self.stream.read_exact(body)?;
        let answer = Answer::decode(&header, body).map_err(io::Error::other)?;
        if header.sequence != self.received {
            return Err(io::Error::other("an answer is missing"));
        }
        self.received += 1;
        (self.run, self.seen_counter) = (answer.run, answer.counter);
        Ok(answer)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The connection is broken, or says something else.
    pub fn ask(&mut self, question: Question) -> io::Result<Reply> {
        self.send(question)?;
        let answer = self.receive()?;
        match answer.reply {
            Reply::Refused { reason } => Err(io::Error::other(reason)),
            reply if answer.id == self.sent => Ok(reply),
            reply => Err(io::Error::other(format!("{reply:?} to another request"))),
        }
    }

    /// CREATE.
    ///
    /// # Panics
    /// If that is not answered.
    pub fn create(&mut self, nonce: u8) -> WitnessToken {
        match self.ask(Question::Create { nonce: TokenNonce([nonce; 16]) }) {
            Ok(Reply::Created { token }) => token,
            other => panic!("{other:?}"),
        }
    }

    /// CLAIM.
    ///
    /// # Panics
    /// If that is not answered.
    pub fn claim(&mut self, token: WitnessToken) -> Verdict {
        match self.ask(Question::Claim { token }) {
            Ok(Reply::Verdict(verdict)) => verdict,
            other => panic!("{other:?}"),
        }
    }

    /// PING.
    ///
    /// # Panics
    /// If that is not answered.
    pub fn ping(&mut self, token: Option<WitnessToken>) -> TokenState {
        match self.ask(Question::Ping { token }) {
            Ok(Reply::Pong(state)) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the witness has closed the connection, now or within the limit.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            }
        }
    }

    /// Waits no longer than this for an answer from now on.
    ///
    /// # Panics
    /// If it is zero.
    pub fn set_limit(&mut self, limit: Duration) {
        self.stream.sock.set_read_timeout(Some(limit)).expect("a limit");
    }
}

/// A metric by its name and labels, as the witness shows it now.
///
/// # Panics
/// If it does not show any.
pub fn metric(sample: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(Witness::METRICS).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let line = answer.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// A file that nobody can write to without waiting: a pipe whose buffer is full.
///
/// # Panics
/// If there can be none.
pub fn full_pipe() -> (File, io::PipeReader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let bytes = rustix::pipe::fcntl_getpipe_size(&writer).expect("its size");
    let mut file = File::from(std::os::fd::OwnedFd::from(writer));
    file.write_all(&vec![b'.'; bytes]).expect("there is room");
    (file, reader)
}
