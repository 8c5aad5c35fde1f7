//! The demo's folder (CONTRACT "The demo folder"): made once, kept and used again.
//!
//! Every step leaves alone what is there, so a folder whose making was interrupted is completed.
//! Invariant: `a.toml` is written after the files it belongs with; without it they are made anew.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base::identity::{Identity, Kind};
use base::ids::{PairId, VolumeId};
use base::io::clock;
use base::io::tls::CA_CERT;
use base::limits;
use bytesize::ByteSize;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Options;
use crate::config::NodeConfig;
use crate::io::config_file::load_pair;
use crate::io::run_files::RunFiles;
use crate::io::{init, pki_files};
use crate::pki::{DAYS_DEFAULT, Request, Validity};

/// The nodes, by name.
pub(super) const NODES: [&str; 2] = ["a", "b"];
const WITNESS: &str = "w";
/// A host and an operator to try TLS with.
pub(super) const HOST: &str = "host1";
const OPERATOR: &str = "operator";

const SIZE_DEFAULT: u64 = 1 << 30;
const ADDRESSES_DEFAULT: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 13)),
];
const NBD_PORT: u16 = 10809;
const PEER_PORT: u16 = 10810;
const ADMIN_PORT: u16 = 10811;
const WITNESS_PORT: u16 = 10812;
const METRICS_PORT: u16 = 10813;

const LOCK: &str = "demo.lock";
/// What is in a demo's folder.
const OURS: [&str; 8] = [LOCK, "pki", "a", "b", "w", "a.toml", "b.toml", "witness.toml"];
/// The lock of a node, held while it runs.
const NODE_LOCK: &str = "node.lock";

/// A demo's folder that nobody else uses.
#[derive(Debug)]
pub(super) struct Folder {
    /// Absolute, so that what is printed can be pasted anywhere.
    pub(super) dir: PathBuf,
    /// Of a and of b.
    pub(super) nodes: [NodeConfig; 2],
    /// Of the volume, in bytes.
    pub(super) size: u64,
    /// Held while this process lives.
    _lock: File,
}

impl Folder {
    /// Makes the folder, or takes it as it is.
    pub(super) fn take(options: &Options) -> anyhow::Result<Self> {
        let dir_is_new = !options.dir.exists();
        fs::create_dir_all(&options.dir)
            .with_context(|| format!("cannot make {}", options.dir.display()))?;
        let dir = options.dir.canonicalize()?;
        let lock_is_new = !dir.join(LOCK).exists();
        let lock = lock(&dir)?;
        if toml_of(&dir, NODES[0]).exists() {
            return Self::load(dir, lock, options);
        }
        let making = Making::begin(&dir, dir_is_new, lock_is_new);
        refuse_foreign(&dir)?;
        if !options.prepare {
            let addresses = options.addresses.unwrap_or(ADDRESSES_DEFAULT);
            let advice = "give three others with --addresses A,B,W";
            check_free(&listeners_of_new(addresses), advice)?;
        }
        let folder = make(&dir, options)
            .and_then(|()| Self::load(dir.clone(), lock, options))
            .with_context(|| format!("no demo was made in {}", dir.display()))?;
        making.keep();
        Ok(folder)
    }

    /// Takes a folder that is made; what an interrupted making has left out is added.
    fn load(dir: PathBuf, lock: File, options: &Options) -> anyhow::Result<Self> {
        let [a, b] = NODES.map(|name| NodeConfig::load(&toml_of(&dir, name)));
        let nodes = [a?, b?];
        for node in &nodes {
            init_once(node)?;
        }
        let size = agreed_size(&nodes[0])?;
        check_options(options, &dir, &nodes, size)?;
        if !options.prepare {
            let advice = "stop what uses it, or make another demo with --dir and --addresses";
            check_free(&listeners(&nodes), advice)?;
        }
        Ok(Self { dir, nodes, size, _lock: lock })
    }

    /// The TOML file of a node.
    pub(super) fn toml(&self, index: usize) -> PathBuf {
        toml_of(&self.dir, NODES[index])
    }

    /// Where a node's process writes what it has to say.
    pub(super) fn log(&self, index: usize) -> PathBuf {
        self.nodes[index].node.data_dir.join("log")
    }

    /// Both logs, for a message.
    pub(super) fn logs(&self) -> String {
        format!("{} and {}", self.log(0).display(), self.log(1).display())
    }

    /// The nodes' names.
    pub(super) fn names(&self) -> [&'static str; 2] {
        NODES
    }

    /// The folder of an identity.
    pub(super) fn identity(&self, name: &str) -> PathBuf {
        self.dir.join("pki").join(name)
    }
}

impl Drop for Folder {
    /// The nodes are down: what they keep outside the folder until the machine restarts would
    /// only pile up, because a demo's folder is moved, copied and removed at will.
    fn drop(&mut self) {
        for node in &self.nodes {
            RunFiles::of_record(&node.node.name, &node.node.record_dirs).forget_sequence();
        }
    }
}

/// A first run; one that fails takes away what it has made, and nothing else.
struct Making {
    dir: PathBuf,
    dir_is_new: bool,
    /// Of `OURS`, those that were not there.
    new: Vec<&'static str>,
    kept: bool,
}

impl Making {
    fn begin(dir: &Path, dir_is_new: bool, lock_is_new: bool) -> Self {
        let is_new = |name: &&str| {
            if *name == LOCK { lock_is_new } else { dir.join(name).symlink_metadata().is_err() }
        };
        let new = OURS.into_iter().filter(is_new).collect();
        Self { dir: dir.to_owned(), dir_is_new, new, kept: false }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Best effort: the reason for the failure may be in the way here, too.
        for path in self.new.iter().map(|name| self.dir.join(name)) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if self.dir_is_new {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Where the nodes of a new folder will listen.
fn listeners_of_new([a, b, _]: [IpAddr; 3]) -> Vec<SocketAddr> {
    let ports = [NBD_PORT, ADMIN_PORT, METRICS_PORT];
    let both = [a, b].into_iter().flat_map(|ip| ports.map(|port| SocketAddr::new(ip, port)));
    // The node with the smaller name only dials its peer.
    both.chain([SocketAddr::new(b, PEER_PORT)]).collect()
}

/// Where the nodes of a folder listen.
fn listeners(nodes: &[NodeConfig; 2]) -> Vec<SocketAddr> {
    let mut all = vec![nodes[1].node.address];
    for node in nodes {
        all.push(node.nbd.listen);
        all.extend(node.admin.listen);
        all.extend(node.metrics.listen);
    }
    all
}

fn check_free(listeners: &[SocketAddr], advice: &str) -> anyhow::Result<()> {
    for address in listeners {
        // Closed again at once.
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                bail!("{address} is in use, perhaps by another demo; {advice}")
            }
            Err(error) => bail!("cannot listen at {address}: {error}; {advice}"),
        }
    }
    Ok(())
}

fn toml_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.toml"))
}

/// Takes the folder for this process.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let mut pids = Vec::new();
    let path = dir.join(LOCK);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    let mine = take_lock(&file, "demo", &mut pids)?;
    for name in NODES {
        let path = dir.join(name).join(NODE_LOCK);
        if let Ok(file) = File::open(&path) {
            // Taken only to see whether it is free; closing it gives it back.
            take_lock(&file, name, &mut pids)?;
        }
    }
    if !pids.is_empty() {
        bail!(
            "{} is in use: {}; stop the demo there first, or give another folder with --dir",
            dir.display(),
            pids.join(", ")
        );
    }
    assert!(mine, "a lock that is not ours has named its holder");
    Ok(file)
}

/// Whether the lock is ours now; if not, its holder is added to `holders`.
fn take_lock(file: &File, who: &str, holders: &mut Vec<String>) -> anyhow::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => {
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            let pid = lock_holder(&locks, file.metadata()?.ino());
            let pid = pid.map_or("that is not visible here".to_owned(), |pid| pid.to_string());
            holders.push(format!("{who} runs as process {pid}"));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The process that holds a flock on the file with this inode, as `/proc/locks` tells it:
/// `1: FLOCK  ADVISORY  WRITE 4711 fe:01:123456 0 EOF`.
pub(super) fn lock_holder(locks: &str, inode: u64) -> Option<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        let found: u64 = place.rsplit(':').next()?.parse().ok()?;
        pid.parse::<u32>().ok().filter(|pid| found == inode && *pid != 0)
    };
    locks.lines().find_map(holder)
}

/// A folder with other things in it is somebody else's.
fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if OURS.iter().all(|known| name != *known) {
            bail!(
                "{} holds {} and no demo; give an empty or a new folder with --dir",
                dir.display(),
                name.display()
            );
        }
    }
    Ok(())
}

fn make(dir: &Path, options: &Options) -> anyhow::Result<()> {
    let size = options.size.unwrap_or(SIZE_DEFAULT);
    if size == 0 || !size.is_multiple_of(limits::BLOCK_BYTES) || size > limits::VOLUME_SIZE_MAX {
        bail!(
            "--size: {size} bytes cannot be a volume's size; allowed: a multiple of {} up to 1PiB",
            limits::BLOCK_BYTES
        );
    }
    let addresses = options.addresses.unwrap_or(ADDRESSES_DEFAULT);
    make_pki(&dir.join("pki"), addresses)?;
    for name in [NODES[0], NODES[1], WITNESS] {
        fs::create_dir_all(dir.join(name))?;
    }
    let agreement = Agreement { pair: PairId(random_id()?), volume: VolumeId(random_id()?), size };
    let [a, b, w] = addresses;
    write_whole(&dir.join("witness.toml"), &witness_toml(w))?;
    write_whole(&toml_of(dir, NODES[1]), &node_toml([1, 0], [b, a], &agreement))?;
    write_whole(&toml_of(dir, NODES[0]), &node_toml([0, 1], [a, b], &agreement))
}

fn make_pki(dir: &Path, [a, b, w]: [IpAddr; 3]) -> anyhow::Result<()> {
    let validity = Validity::days(clock::unix_seconds(), DAYS_DEFAULT);
    if !dir.join(CA_CERT).exists() {
        // A key without its certificate is a rest of an interrupted making: nobody has used it.
        let _ = fs::remove_file(dir.join(pki_files::CA_KEY));
        pki_files::make_authority(dir, validity)?;
    }
    let holders = [
        (Kind::Node, NODES[0], vec![a]),
        (Kind::Node, NODES[1], vec![b]),
        (Kind::Witness, WITNESS, vec![w]),
        (Kind::Host, HOST, vec![]),
        (Kind::Operator, OPERATOR, vec![]),
    ];
    for (kind, name, addresses) in holders {
        if !dir.join(name).exists() {
            let holder = Identity { kind, name: name.parse()? };
            let request = Request { holder, addresses, dns_names: Vec::new(), validity };
            pki_files::issue(dir, &request)?;
        }
    }
    Ok(())
}

fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    assert_eq!(filled, id.len(), "the system gives up to 256 bytes at once");
    // As a random UUID has it (RFC 9562, version 4).
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(id)
}

fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text).with_context(|| format!("cannot write {}", beside.display()))?;
    Ok(fs::rename(&beside, path)?)
}

/// What the TOML files of both nodes say alike.
struct Agreement {
    pair: PairId,
    volume: VolumeId,
    size: u64,
}

fn node_toml([me, peer]: [usize; 2], [mine, other]: [IpAddr; 2], agreed: &Agreement) -> String {
    let (name, peer) = (NODES[me], NODES[peer]);
    let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    format!(
        "# Node {name} of a demo, made by `stretch demo`. Every key is explained in docs/CONFIG.md.\n\
         \n[node]\nname = \"{name}\"\nsite = \"demo\"\ndata_dir = \"{name}\"\n\
         record_dirs = [\"{name}/record-1\", \"{name}/record-2\"]\naddress = \"{peer_link}\"\n\
         log = \"info\"\n\
         \n[tls]\ndir = \"pki/{name}\"\n\
         \n# \"required\" makes every client show a certificate such as pki/{HOST}.\n\
         [nbd]\nlisten = \"{nbd}\"\ntls = \"off\"\n\
         \n[peer]\nname = \"{peer}\"\naddress = \"{peer_address}\"\n\
         \n# Read by `stretch init` only: [pair], and id and size of each volume.\n\
         [pair]\nid = \"{pair}\"\npreferred = \"{preferred}\"\ntimers = \"default\"\n\
         read_mode = \"grant\"\nwitnesses = []\n\
         \n[[volume]]\nname = \"vol0\"\nid = \"{volume}\"\nsize = {size}\n\
         path = \"{name}/vol0.img\"\ndirect = \"auto\"\n\
         \n[admin]\nlisten = \"{admin}\"\nsocket = \"{name}/admin.sock\"\n\
         \n[metrics]\nlisten = \"{metrics}\"\n",
        peer_link = at(mine, PEER_PORT),
        nbd = at(mine, NBD_PORT),
        peer_address = at(other, PEER_PORT),
        pair = agreed.pair,
        preferred = NODES[0],
        volume = agreed.volume,
        size = agreed.size,
        admin = at(mine, ADMIN_PORT),
        metrics = at(mine, METRICS_PORT),
    )
}

fn witness_toml(ip: IpAddr) -> String {
    format!(
        "# The witness of a demo. The pair does not use one yet: nothing is started from this.\n\
         \n[witness]\nname = \"{WITNESS}\"\ndata_dir = \"{WITNESS}\"\nlisten = \"{listen}\"\n\
         log = \"info\"\n\
         \n[tls]\ndir = \"pki/{WITNESS}\"\n\
         \n[metrics]\nlisten = \"{metrics}\"\n",
        listen = SocketAddr::new(ip, WITNESS_PORT),
        metrics = SocketAddr::new(ip, METRICS_PORT),
    )
}

fn init_once(node: &NodeConfig) -> anyhow::Result<()> {
    if init::record_files(node).iter().any(|path| path.exists()) {
        return Ok(());
    }
    init::init(node, &node.agreement()?, false)?;
    Ok(())
}

fn agreed_size(node: &NodeConfig) -> anyhow::Result<u64> {
    let pair = load_pair(&node.node.record_dirs)?;
    let volume = pair.volumes.first().context("the pair has no volume")?;
    Ok(volume.size)
}

/// What was asked for must be what is there: the data is kept, not made anew.
fn check_options(
    options: &Options,
    dir: &Path,
    nodes: &[NodeConfig; 2],
    size: u64,
) -> anyhow::Result<()> {
    let dir = dir.display();
    if let Some(wanted) = options.size
        && wanted != size
    {
        let (wanted, size) = (ByteSize(wanted), ByteSize(size));
        bail!(
            "{dir} has a volume of {size}, not {wanted}; leave --size out, or give another --dir"
        );
    }
    let mine = nodes.each_ref().map(|node| node.ip());
    if let Some([a, b, _]) = options.addresses
        && [a, b] != mine
    {
        let [first, second] = mine;
        bail!(
            "{dir} has the addresses {first} and {second}; leave --addresses out, or give another \
             --dir"
        );
    }
    Ok(())
}
