//! Two nodes in one folder, the link between them, and clients for both.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use client::connection::{Connection, Target};
use client::driver::{Config, now_ns, read_area};
use client::history::{Counts, History};
use tempfile::TempDir;

use super::node::Node;
use super::program;
use crate::chaos::link::Link;
use crate::chaos::proxy::Proxy;
use crate::checkers::copies::file_difference;

/// How long a pair may take until both serve after a start, with a small volume to compare.
pub const ACTIVE_LIMIT: Duration = Duration::from_secs(20);
/// Name of the volume and of its export.
pub const VOLUME: &str = "vol0";
const NBD_PORT: u16 = 10809;
const PEER_PORT: u16 = 10810;

/// See the module.
#[derive(Debug)]
pub struct Pair {
    /// The node whose name is the smaller one.
    pub a: Node,
    /// The other node.
    pub b: Node,
    /// What lies between them.
    pub link: Link,
    images: [PathBuf; 2],
    folder: PathBuf,
    // Dropped last, when nobody writes into it any more.
    _temporary: Option<TempDir>,
}

impl Pair {
    /// Addresses of a and b, in the network of the test.
    pub const ADDRESSES: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12))];

    /// A new pair with a volume of `size` bytes, in a folder of its own. Nothing runs.
    pub fn prepare(size: u64) -> Self {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = temporary.path().join("demo");
        Self { _temporary: Some(temporary), ..Self::prepare_in(&folder, size) }
    }

    /// As [`Self::prepare`], in `folder`.
    ///
    /// # Panics
    /// If `stretch demo --prepare` fails.
    pub fn prepare_in(folder: &Path, size: u64) -> Self {
        let output = Command::new(program())
            .args(["demo", "--prepare", "--dir"])
            .arg(folder)
            .args(["--size", &format!("{size}B")])
            .output()
            .expect("the program can be started");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stretch demo --prepare failed: {told}");
        let [a, b] = Self::ADDRESSES;
        Self {
            a: Node::new(folder, "a"),
            b: Node::new(folder, "b"),
            link: Link::new(a, b),
            images: ["a", "b"].map(|name| folder.join(name).join(format!("{VOLUME}.img"))),
            folder: folder.to_owned(),
            _temporary: None,
        }
    }

    /// A new pair that serves.
    pub fn running(size: u64) -> Self {
        let mut pair = Self::prepare(size);
        pair.start();
        pair
    }

    /// Starts both nodes and waits until both serve.
    pub fn start(&mut self) {
        self.a.start();
        self.b.start();
        self.wait_active();
    }

    /// Waits until both nodes say that both serve.
    ///
    /// # Panics
    /// If they do not within [`ACTIVE_LIMIT`].
    pub fn wait_active(&self) {
        for node in [&self.a, &self.b] {
            assert!(
                node.wait_state("active-active", ACTIVE_LIMIT),
                "{} is not active after {ACTIVE_LIMIT:?}: {:?}\n{}{}",
                node.name,
                node.status(),
                self.a.log_tail(),
                self.b.log_tail()
            );
        }
    }

    /// Stops both nodes cleanly.
    pub fn stop(&mut self) {
        for node in [&self.a, &self.b] {
            node.signal(rustix::process::Signal::TERM);
        }
        for node in [&mut self.a, &mut self.b] {
            let status = node.wait_end(super::node::STOP_LIMIT);
            assert!(status.success(), "{} did not stop cleanly: {status}", node.name);
        }
    }

    /// Changes a node's TOML file, which holds `from` once.
    ///
    /// # Panics
    /// If it does not.
    pub fn edit_config(&self, node: usize, from: &str, to: &str) {
        let path = self.folder.join(["a.toml", "b.toml"][node]);
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text.matches(from).count(), 1, "{from} in\n{text}");
        fs::write(&path, text.replace(from, to)).expect("it can be written");
    }

    /// The demo's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The image of a node, by index.
    pub fn image(&self, node: usize) -> PathBuf {
        self.images[node].clone()
    }

    /// Puts the image of a node elsewhere: it is at `path` already.
    pub fn move_image(&mut self, node: usize, path: &Path) {
        let name = ["a", "b"][node];
        let from = format!("path = \"{name}/{VOLUME}.img\"");
        self.edit_config(node, &from, &format!("path = \"{}\"", path.display()));
        self.images[node] = path.to_owned();
    }

    /// Leads the connections between the nodes through a proxy: a, which dials them, is told that
    /// b is there.
    ///
    /// # Panics
    /// If the proxy cannot listen.
    pub fn interpose(&self) -> Proxy {
        let between = SocketAddr::from(([127, 0, 0, 14], PEER_PORT));
        let b = SocketAddr::new(Self::ADDRESSES[1], PEER_PORT);
        self.edit_config(0, &format!("address = \"{b}\""), &format!("address = \"{between}\""));
        Proxy::start(between, b).expect("the address is free in a network of our own")
    }

    /// The NBD address of a node, by index.
    pub fn nbd(node: usize) -> SocketAddr {
        SocketAddr::new(Self::ADDRESSES[node], NBD_PORT)
    }

    /// A connection to a node, by index.
    ///
    /// # Panics
    /// If the node does not serve.
    pub fn connect(node: usize) -> Connection {
        Connection::open(&Target::new(Self::nbd(node), VOLUME)).expect("the node serves")
    }

    /// A stamped client over both nodes.
    pub fn client(seed: u64) -> Config {
        let mut config = Config::new(vec![Self::nbd(0), Self::nbd(1)], VOLUME);
        config.seed = seed;
        config
    }

    /// Waits until both serve, reads everything through both, stops both cleanly, reads both
    /// images, and checks all of it: every answer right, nothing acknowledged lost, copies equal.
    ///
    /// # Panics
    /// If anything is not as it must be.
    pub fn close(mut self, config: &Config, mut history: History) -> Counts {
        self.wait_active();
        for node in 0..2 {
            read_area(config, node, &mut history).expect("both serve");
        }
        self.stop();
        self.check_at_rest(config, history)
    }

    /// The last part of [`Self::close`]: with no node running.
    ///
    /// # Panics
    /// If anything is not as it must be.
    pub fn check_at_rest(&self, config: &Config, mut history: History) -> Counts {
        let first_block = config.area.blocks().start;
        for node in 0..2 {
            history.add_image(node, now_ns(), first_block, &self.area_of_image(config, node));
        }
        let counts = history.check().unwrap_or_else(|finding| {
            let path = self.folder.join("history.jsonl");
            history.save(&path).expect("the history can be written");
            let kept = std::env::temp_dir().join("stretch-history.jsonl");
            let _kept = fs::rename(&path, &kept).or_else(|_| fs::copy(&path, &kept).map(|_| ()));
            panic!("{finding}\nhistory kept as {}", kept.display())
        });
        self.assert_equal();
        counts
    }

    /// What a node's image holds in the area of a client.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn area_of_image(&self, config: &Config, node: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(config.area.length).expect("a small area")];
        let file = File::open(self.image(node)).expect("the image is there");
        file.read_exact_at(&mut bytes, config.area.offset).expect("the image is whole");
        bytes
    }

    /// The two images are equal, byte by byte.
    ///
    /// # Panics
    /// If they are not.
    pub fn assert_equal(&self) {
        let difference = file_difference(&self.image(0), &self.image(1)).expect("both are there");
        assert_eq!(difference, None, "the copies differ");
    }
}
