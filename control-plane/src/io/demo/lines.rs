//! The lines that a person can paste: every one works as it is.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use rustix::process::geteuid;

use super::folder::{Folder, HOST};
use crate::config::{NbdTls, NodeConfig};

/// The tools that the lines use, and their Debian packages.
const TOOLS: [(&str, &str); 4] = [
    ("qemu-io", "qemu-utils"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("fio", "fio"),
];

/// What `--prepare` says: how to run what was prepared by hand.
pub(super) fn prepared(folder: &Folder) -> anyhow::Result<String> {
    let program = program()?;
    Ok(format!(
        "prepared {}\n{program} node --config {}\n{program} node --config {}",
        quote(&folder.dir),
        quote(&folder.toml(0)),
        quote(&folder.toml(1)),
    ))
}

/// What is said when both nodes' own status says that they serve.
/// `there` tells whether a tool is installed.
pub(super) fn ready(
    folder: &Folder,
    after: Duration,
    there: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    let [a, b] = [0, 1].map(|index| Export::new(folder, index));
    let program = program()?;
    let (toml_a, toml_b) = (quote(&folder.toml(0)), quote(&folder.toml(1)));
    let size = ByteSize(folder.size);
    let mut text = format!(
        "ready: vol0 ({size}) is one volume at {} and {}, after {:.1} s\n",
        a.place,
        b.place,
        after.as_secs_f64()
    );
    let copy = quote(&folder.dir.join("copy.img"));
    let images = folder.nodes.each_ref().map(|node| quote(&node.volumes[0].path));
    let length = folder.size.min(1 << 20);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n# write through a, read through b\n\
         {} -c 'write -P 0xab 0 {length}'\n\
         {} -c 'read -P 0xab 0 {length}'\n\
         \n# load through a (it overwrites the volume)\n\
         {}fio --name=demo --ioengine=nbd --uri={} --rw=randrw --bs={} --iodepth=32 \
         --size={} --time_based --runtime=10\n\
         \n# look at it, copy it out through b, see that both copies are the same\n\
         nbdinfo {}\n\
         nbdcopy {} {copy}\n\
         cmp {} {}\n\
         \n# what the nodes say\n\
         {program} status --config {toml_a}\n\
         {program} status --watch --config {toml_b}\n\
         {program} wait --state active-active --config {toml_b}\n",
        a.qemu_io,
        b.qemu_io,
        a.before_fio,
        a.place,
        if folder.size < 4096 { "512" } else { "4k" },
        folder.size.min(64 << 20),
        a.uri,
        b.uri,
        images[0],
        images[1],
    );
    if let Some(missing) = missing(there) {
        let _ = writeln!(text, "\n# {missing}");
    }
    text.push_str("\nCtrl-C stops both nodes; the data stays in ");
    text.push_str(&quote(&folder.dir));
    Ok(text)
}

/// How one node's volume is named to the tools.
struct Export {
    /// Its URI.
    place: String,
    /// Its URI with the certificates that a TLS client shows, for a shell.
    uri: String,
    qemu_io: String,
    /// What has to be done once before fio can reach it: whole lines.
    before_fio: String,
}

impl Export {
    fn new(folder: &Folder, index: usize) -> Self {
        let node: &NodeConfig = &folder.nodes[index];
        let listen = node.nbd.listen;
        let plain = format!("nbd://{listen}/vol0");
        match node.nbd.tls {
            NbdTls::Off => {
                let qemu_io = format!("qemu-io -f raw {plain}");
                Self { place: plain.clone(), uri: plain, qemu_io, before_fio: String::new() }
            }
            NbdTls::Required => {
                let identity = folder.identity(HOST);
                let place = format!("nbds://{listen}/vol0");
                let uri = format!("{place}?tls-certificates={}", percent_encode(&identity));
                let object = format!(
                    "tls-creds-x509,id=tls0,endpoint=client,dir={}",
                    identity.display().to_string().replace(',', ",,")
                );
                let image = format!(
                    "driver=nbd,host={},port={},export=vol0,tls-creds=tls0",
                    listen.ip(),
                    listen.port()
                );
                let qemu_io =
                    format!("qemu-io --object {} --image-opts {image}", quote(Path::new(&object)));
                // fio's engine takes no certificates from a URI, only from libnbd's own places.
                let pki = if geteuid().is_root() { "/etc/pki" } else { "~/.pki" };
                let before_fio =
                    format!("mkdir -p {pki} && ln -sn {} {pki}/libnbd\n", quote(&identity));
                Self { place, uri: quote(Path::new(&uri)), qemu_io, before_fio }
            }
        }
    }
}

fn program() -> anyhow::Result<String> {
    Ok(quote(&std::env::current_exe()?))
}

/// As a shell reads it back as one word.
pub(super) fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As a URI carries a path in its query (RFC 3986).
pub(super) fn percent_encode(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            // Writing to a string cannot fail.
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// One line that names every tool that is not `there`, and its package.
pub(super) fn missing(there: impl Fn(&str) -> bool) -> Option<String> {
    let absent: Vec<_> = TOOLS.iter().filter(|(tool, _)| !there(tool)).collect();
    if absent.is_empty() {
        return None;
    }
    let tools: Vec<&str> = absent.iter().map(|(tool, _)| *tool).collect();
    let mut packages: Vec<&str> = absent.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Some(format!(
        "not installed here: {} (Debian: apt-get install {})",
        tools.join(", "),
        packages.join(" ")
    ))
}

/// Whether `tool` is in a folder of $PATH.
pub(super) fn find_tool(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}
