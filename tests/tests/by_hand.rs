//! A pair set up by hand, as docs/OPERATIONS.md says: two network namespaces joined by a veth pair,
//! two volumes of different size, one of them on a loop device at b, which has blocks of 4096 bytes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use stretch_tests::chaos::netns::{isolated, run};
use stretch_tests::real::program;

const SMALL: u64 = 24 << 20;
const LARGE: u64 = 40 << 20;
const PAIR: &str = "5f0c1b1e-7a55-4d39-9f61-3a6d1f0a9b01";
const VOLUMES: [(&str, &str, u64); 2] = [
    ("small", "5f0c1b1e-7a55-4d39-9f61-3a6d1f0a9b02", SMALL),
    ("large", "5f0c1b1e-7a55-4d39-9f61-3a6d1f0a9b03", LARGE),
];
const NODES: [(&str, &str, &str); 2] = [("a", "left", "10.0.0.1"), ("b", "right", "10.0.0.2")];

struct Site {
    folder: PathBuf,
    node: usize,
}

impl Site {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("a plain path").to_owned()
    }

    fn config(&self) -> String {
        self.path(&format!("{}.toml", NODES[self.node].0))
    }

    /// Runs `stretch` in the node's network.
    fn stretch(&self, arguments: &[&str]) -> String {
        let program = program();
        let program = program.to_str().expect("a plain path");
        let (_, network, _) = NODES[self.node];
        run("ip", &[&["netns", "exec", network, program], arguments].concat())
    }

    fn start(&self) -> Child {
        let log = File::create(self.path(&format!("{}.log", NODES[self.node].0))).expect("made");
        let program = program();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NODES[self.node].1]).arg(program);
        command.args(["node", "--config", &self.config()]);
        command.stdout(Stdio::null()).stderr(log).spawn().expect("ip can be started")
    }

    fn write_config(&self, images: [&str; 2]) {
        let (name, _, address) = NODES[self.node];
        let (peer, _, peer_address) = NODES[1 - self.node];
        let mut text = format!(
            "[node]\nname = \"{name}\"\nsite = \"site {name}\"\ndata_dir = \"{name}\"\n\
             record_dirs = [\"{name}/record-1\", \"{name}/record-2\"]\n\
             address = \"{address}:10810\"\n\n\
             [tls]\ndir = \"pki/{name}\"\n\n\
             [nbd]\nlisten = \"{address}:10809\"\ntls = \"off\"\n\n\
             [peer]\nname = \"{peer}\"\naddress = \"{peer_address}:10810\"\n\n\
             [pair]\nid = \"{PAIR}\"\npreferred = \"a\"\n\n\
             [admin]\nlisten = \"{address}:10811\"\nsocket = \"{name}/admin.sock\"\n\n\
             [metrics]\nlisten = \"{address}:10813\"\n"
        );
        for ((volume, id, size), path) in VOLUMES.iter().zip(images) {
            text.push_str(&format!(
                "\n[[volume]]\nname = \"{volume}\"\nid = \"{id}\"\nsize = \"{size}B\"\n\
                 path = \"{path}\"\n"
            ));
        }
        fs::write(self.config(), text).expect("written");
    }
}

fn network() {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    for (_, network, _) in NODES {
        run("ip", &["netns", "add", network]);
        run("ip", &["-n", network, "link", "set", "lo", "up"]);
    }
    let link = ["link", "add", "veth-left", "netns", "left", "type", "veth"];
    run("ip", &[&link[..], &["peer", "name", "veth-right", "netns", "right"]].concat());
    for (_, network, address) in NODES {
        let device = format!("veth-{network}");
        run("ip", &["-n", network, "addr", "add", &format!("{address}/24"), "dev", &device]);
        run("ip", &["-n", network, "link", "set", &device, "up"]);
    }
}

fn certificates(site: &Site) {
    let pki = site.path("pki");
    site.stretch(&["pki", "ca", "--dir", &pki]);
    for (name, _, address) in NODES {
        let issue = ["pki", "issue", "--dir", &pki, "--kind", "node", name];
        site.stretch(&[&issue[..], &["--address", address]].concat());
    }
    site.stretch(&["pki", "issue", "--dir", &pki, "--kind", "operator", "alice"]);
}

/// A loop device with room for the volume and its stamp.
fn device(folder: &Path) -> String {
    let file = folder.join("device");
    File::create(&file).and_then(|f| f.set_len(LARGE + (1 << 20))).expect("made");
    let file = file.to_str().expect("plain");
    run("losetup", &["-f", "--show", "--sector-size", "4096", file]).trim().to_owned()
}

#[test]
fn a_pair_made_by_hand_in_two_networks_with_a_device_at_b() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: loop devices and named network namespaces need root");
        return;
    }
    isolated("a_pair_made_by_hand_in_two_networks_with_a_device_at_b", || {
        let folder = tempfile::tempdir().expect("a folder");
        let sites = [0, 1].map(|node| Site { folder: folder.path().to_owned(), node });
        network();
        certificates(&sites[0]);
        let device = device(folder.path());
        sites[0].write_config(["a/small.img", "a/large.img"]);
        sites[1].write_config(["b/small.img", &device]);
        for site in &sites {
            fs::create_dir(site.path(NODES[site.node].0)).expect("made");
            site.stretch(&["config", "check", &site.config()]);
            site.stretch(&["init", "--config", &site.config()]);
        }
        let mut nodes = [sites[0].start(), sites[1].start()];
        for site in &sites {
            site.stretch(&["wait", "--state", "active-active", "--config", &site.config()]);
        }
        // The operator's certificate, over the network, at the other node.
        let alice = sites[0].path("pki/alice");
        let wait = ["wait", "--state", "active-active", "--node", "10.0.0.2:10811"];
        sites[0].stretch(&[&wait[..], &["--identity", &alice]].concat());
        let status = ["status", "--json", "--node", "10.0.0.2:10811", "--identity", &alice];
        let status: serde_json::Value =
            serde_json::from_str(&sites[0].stretch(&status)).expect("JSON");
        assert_eq!(status["node"], "b");
        assert_eq!(status["volumes"][1]["size"], LARGE);
        let log = fs::read_to_string(sites[1].path("b.log")).expect("the log");
        assert!(log.contains("block device, direct I/O in blocks of 4096 bytes"), "{log}");
        // The last one begins and ends inside blocks of the device.
        for (volume, node, place) in
            [("small", 0, "1M 1M"), ("large", 1, "3M 1M"), ("large", 0, "3584 1024")]
        {
            let uri = |node: usize| format!("nbd://{}:10809/{volume}", NODES[node].2);
            let write = format!("write -P 0x77 {place}");
            let read = format!("read -P 0x77 {place}");
            for (node, command) in [(node, write), (1 - node, read)] {
                let arguments = ["netns", "exec", NODES[node].1, "qemu-io", "-f", "raw", "-c"];
                let told = run("ip", &[&arguments[..], &[&command, &uri(node)]].concat());
                assert!(!told.contains("verification failed"), "{told}");
            }
        }
        for (child, (name, ..)) in nodes.iter_mut().zip(NODES) {
            // `ip netns exec` becomes the program: the child is the node.
            kill_process(Pid::from_child(child), Signal::TERM).expect("our own child");
            assert!(child.wait().expect("it ends").success(), "{name} stops cleanly");
        }
        run("cmp", &[&sites[0].path("a/small.img"), &sites[1].path("b/small.img")]);
        run("cmp", &["-n", &LARGE.to_string(), &sites[0].path("a/large.img"), &device]);
        run("losetup", &["-d", &device]);
    });
}
