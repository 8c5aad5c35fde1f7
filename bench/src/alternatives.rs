//! What Stretch is measured against, and Stretch itself: each started on images of its own, ready
//! for fio, ended when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::fio::Target;
use crate::process::{Server, cpu_us};

/// Who serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Contender {
    /// A pair of Stretch nodes.
    Stretch,
    /// nbdkit's file plugin: one copy, no TLS.
    Nbdkit,
    /// The same with TLS towards the host.
    NbdkitTls,
    /// QEMU's quorum over two copies, the second one behind TLS, aio=io_uring.
    QuorumRing,
    /// The same with aio=threads and the page cache.
    QuorumThreads,
    /// QEMU's mirror in write-blocking mode, the copy behind TLS, aio=threads.
    Mirror,
}

impl Contender {
    /// As in the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stretch => "Stretch",
            Self::Nbdkit => "nbdkit, one copy",
            Self::NbdkitTls => "nbdkit, one copy, TLS to the host",
            Self::QuorumRing => "QEMU quorum, TLS link, io_uring",
            Self::QuorumThreads => "QEMU quorum, TLS link, threads",
            Self::Mirror => "QEMU mirror, TLS link, threads",
        }
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Stretch => "stretch",
            Self::Nbdkit => "nbdkit",
            Self::NbdkitTls => "nbdkit-tls",
            Self::QuorumRing => "quorum-ring",
            Self::QuorumThreads => "quorum-threads",
            Self::Mirror => "mirror",
        }
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Images and logs.
    pub dir: PathBuf,
    /// Certificates as `pki::write` makes them, with the identity `bench`.
    pub pki: PathBuf,
    /// Bytes of the volume.
    pub size: u64,
    /// The `stretch` executable.
    pub stretch: PathBuf,
}

/// A contender that serves.
#[derive(Debug)]
pub struct Running {
    /// Where fio goes.
    pub target: Target,
    /// Every process that serves it.
    pub pids: Vec<u32>,
    _processes: Vec<Process>,
}

#[derive(Debug)]
enum Process {
    Server { _server: Server },
    Demo { child: Child },
}

impl Running {
    /// Something that was started by somebody else.
    pub fn external(target: Target, pids: Vec<u32>) -> Self {
        Self { target, pids, _processes: Vec::new() }
    }

    /// CPU time of all its processes, in microseconds.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_us(&self) -> Result<u64> {
        self.pids.iter().map(|pid| cpu_us(*pid)).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Demo { child } = self {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// Starts `contender` on new images.
///
/// # Errors
/// A program is missing, or does not come up; its log is in the folder.
pub fn start(contender: Contender, place: &Place) -> Result<Running> {
    let dir = place.dir.join(contender.folder());
    fs::create_dir_all(&dir)?;
    let starter = Starter { place, dir };
    match contender {
        Contender::Stretch => starter.stretch(),
        Contender::Nbdkit => starter.nbdkit(false),
        Contender::NbdkitTls => starter.nbdkit(true),
        Contender::QuorumRing => starter.quorum(AIO_RING),
        Contender::QuorumThreads => starter.quorum(AIO_THREADS),
        Contender::Mirror => starter.mirror(),
    }
    .with_context(|| format!("starting {}", contender.name()))
}

const AIO_RING: &str = "aio=io_uring,cache.direct=on";
const AIO_THREADS: &str = "aio=threads,cache.direct=off";

struct Starter<'a> {
    place: &'a Place,
    dir: PathBuf,
}

impl Starter<'_> {
    fn image(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        File::create(&path)?.set_len(self.place.size)?;
        Ok(path.display().to_string())
    }

    fn identity(&self) -> PathBuf {
        self.place.pki.join("bench")
    }

    fn server(&self, program: &str, args: &[String], port: u16) -> Result<Server> {
        let mut server = Server::start(Path::new(program), args, &self.dir.join("log"))?;
        server
            .wait_for_port(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .with_context(|| format!("see {}", self.dir.join("log").display()))?;
        Ok(server)
    }

    fn running(&self, uri: String, tls: bool, servers: Vec<Server>) -> Running {
        Running {
            target: Target { uri, size: self.place.size, identity: tls.then(|| self.identity()) },
            pids: servers.iter().map(Server::pid).collect(),
            _processes: servers
                .into_iter()
                .map(|server| Process::Server { _server: server })
                .collect(),
        }
    }

    fn nbdkit(&self, tls: bool) -> Result<Running> {
        let port = free_port()?;
        let mut args: Vec<String> =
            ["-f", "-i", "127.0.0.1", "-p"].iter().map(|arg| (*arg).to_owned()).collect();
        args.push(port.to_string());
        if tls {
            args.push("--tls=require".to_owned());
            args.push(format!("--tls-certificates={}", self.identity().display()));
            args.push("--tls-verify-peer".to_owned());
        }
        args.extend(["file".to_owned(), self.image("a.img")?]);
        let server = self.server("nbdkit", &args, port)?;
        let uri = if tls {
            format!("nbds://localhost:{port}/")
        } else {
            format!("nbd://127.0.0.1:{port}")
        };
        Ok(self.running(uri, tls, vec![server]))
    }

    /// The second copy: a plain export behind TLS.
    fn second_copy(&self, aio: &str) -> Result<(Server, u16)> {
        let port = free_port()?;
        let args = [
            "--object".to_owned(),
            self.credentials("server"),
            "--blockdev".to_owned(),
            format!("driver=file,node-name=fb,filename={},{aio}", self.image("b.img")?),
            "--blockdev".to_owned(),
            "driver=raw,node-name=b,file=fb".to_owned(),
            "--nbd-server".to_owned(),
            format!(
                "addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=0,tls-creds=t"
            ),
            "--export".to_owned(),
            "type=nbd,id=eb,node-name=b,writable=on,name=b".to_owned(),
        ];
        Ok((self.server("qemu-storage-daemon", &args, port)?, port))
    }

    fn credentials(&self, endpoint: &str) -> String {
        let dir = self.identity();
        format!("tls-creds-x509,id=t,endpoint={endpoint},dir={},verify-peer=on", dir.display())
    }

    /// The first copy, the connection to the second, and an export of `node`.
    fn first_copy(
        &self,
        aio: &str,
        b_port: u16,
        more: &[&str],
        node: &str,
    ) -> Result<(Server, u16)> {
        let port = free_port()?;
        let socket = self.dir.join("qmp.sock");
        let mut args = vec![
            "--object".to_owned(),
            self.credentials("client"),
            "--chardev".to_owned(),
            format!("socket,id=m,path={},server=on,wait=off", socket.display()),
            "--monitor".to_owned(),
            "chardev=m".to_owned(),
            "--blockdev".to_owned(),
            format!("driver=file,node-name=fa,filename={},{aio}", self.image("a.img")?),
            "--blockdev".to_owned(),
            "driver=raw,node-name=a,file=fa".to_owned(),
            "--blockdev".to_owned(),
            format!(
                "driver=nbd,node-name=r,server.type=inet,server.host=127.0.0.1,server.port={b_port},\
                 export=b,tls-creds=t,tls-hostname=localhost"
            ),
        ];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend([
            "--nbd-server".to_owned(),
            format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port},max-connections=0"),
            "--export".to_owned(),
            format!("type=nbd,id=ea,node-name={node},writable=on,name=d"),
        ]);
        Ok((self.server("qemu-storage-daemon", &args, port)?, port))
    }

    fn quorum(&self, aio: &str) -> Result<Running> {
        let (b, b_port) = self.second_copy(aio)?;
        let quorum = "driver=quorum,node-name=q,vote-threshold=1,read-pattern=fifo,\
                      children.0=a,children.1=r";
        let (a, port) = self.first_copy(aio, b_port, &["--blockdev", quorum], "q")?;
        Ok(self.running(format!("nbd://127.0.0.1:{port}/d"), false, vec![a, b]))
    }

    fn mirror(&self) -> Result<Running> {
        let (b, b_port) = self.second_copy(AIO_THREADS)?;
        let (a, port) = self.first_copy(AIO_THREADS, b_port, &[], "a")?;
        crate::qmp::start_mirror(&self.dir.join("qmp.sock"))?;
        Ok(self.running(format!("nbd://127.0.0.1:{port}/d"), false, vec![a, b]))
    }

    fn stretch(&self) -> Result<Running> {
        let program = &self.place.stretch;
        let log = self.dir.join("log");
        let mut child = Command::new(program)
            .args(["demo", "--dir"])
            .arg(self.demo_dir())
            .arg(format!("--size={}", self.place.size))
            .args(["--addresses", "127.0.0.31,127.0.0.32,127.0.0.33"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| {
                format!("starting {} (cargo build --release first)", program.display())
            })?;
        let output = child.stdout.take().context("the demo's output")?;
        let demo = Process::Demo { child };
        let mut lines = BufReader::new(output).lines();
        loop {
            let Some(line) = lines.next() else {
                let why = fs::read_to_string(&log).unwrap_or_default();
                bail!("the demo ended before it was ready: {}", why.trim());
            };
            let line = line?;
            if line.starts_with("ready:") {
                break;
            }
        }
        // Its further output must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let pids = ["a", "b"].map(|node| self.node_pid(node));
        Ok(Running {
            target: Target {
                uri: "nbd://127.0.0.31:10809/vol0".to_owned(),
                size: self.place.size,
                identity: None,
            },
            pids: pids.into_iter().collect::<Result<_>>()?,
            _processes: vec![demo],
        })
    }

    /// A folder of its own: a demo takes only a new or empty one.
    fn demo_dir(&self) -> PathBuf {
        self.dir.join("demo")
    }

    fn node_pid(&self, node: &str) -> Result<u32> {
        let config = self.demo_dir().join(format!("{node}.toml"));
        let output = Command::new(&self.place.stretch)
            .args(["status", "--json", "--config"])
            .arg(&config)
            .output()?;
        if !output.status.success() {
            bail!("no status of {node}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let pid = status["pids"]["node"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.with_context(|| format!("the status of {node} names no process"))
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
