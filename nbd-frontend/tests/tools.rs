//! Other people's clients against the front end: nbdinfo, nbdcopy, qemu-io and their kind, which
//! `tests/run` installs.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use base::io::tls::TlsIdentity;
use support::pki::Deployment;
use support::server::{SIZE, Server};

/// Runs a tool, which must succeed, and returns what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().expect("the tool is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {text}{errors}");
    text + &errors
}

fn image(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("image");
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n ^ n >> 9) as u8).collect();
    fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let server = Server::plain();
    let text = run("nbdinfo", &[&format!("nbd://{}/disk", server.address)]);
    for line in [
        "export-size: 16777216",
        "can_multi_conn: true",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_fast_zero: true",
        "can_cache: true",
        "can_df: true",
        "is_read_only: false",
        "is_rotational: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    let text = run("nbdinfo", &["--list", &format!("nbd://{}", server.address)]);
    assert!(text.contains("export=\"disk\"") && text.contains("a volume in memory"), "{text}");
}

#[test]
fn nbdcopy_takes_an_image_in_and_out() {
    let server = Server::plain();
    let dir = tempfile::tempdir().expect("a folder");
    let (image, back) = (image(dir.path()), dir.path().join("back"));
    let uri = format!("nbd://{}/disk", server.address);
    let parallel = ["--connections=4", "--requests=16"];
    run("nbdcopy", &[parallel[0], parallel[1], image.to_str().expect("UTF-8"), &uri]);
    assert!(fs::read(&image).expect("read") == *server.memory.lock().expect("not poisoned"));
    run("nbdcopy", &[&uri, back.to_str().expect("UTF-8")]);
    assert!(fs::read(&image).expect("read") == fs::read(&back).expect("read"));
}

const QEMU_IO: [&str; 10] = [
    "write -P 0xab 0 1M",
    "read -P 0xab 0 1M",
    "write -z -u 64k 128k",
    "read -P 0 64k 128k",
    "write -z 256k 64k",
    "discard 512k 64k",
    "flush",
    "write -f -P 1 2M 4k",
    "read -P 1 2M 4k",
    "aio_read -q 0 15M",
];

fn qemu_io(arguments: &[&str]) {
    let commands = QEMU_IO.iter().flat_map(|command| ["-c", command]);
    let arguments: Vec<&str> = commands.chain(arguments.iter().copied()).collect();
    let text = run("qemu-io", &arguments);
    for word in ["rror", "ailed"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn qemu_io_reads_back_what_it_wrote() {
    let server = Server::plain();
    qemu_io(&["-f", "raw", &format!("nbd://{}/disk", server.address)]);
}

#[test]
fn qemu_io_works_inside_tls() {
    let deployment = Deployment::new();
    let node = TlsIdentity::load(&deployment.issue("stretch:node/a")).expect("a node's folder");
    let host = deployment.issue("stretch:host/host1");
    let server = Server::tls(&node);
    let credentials =
        format!("tls-creds-x509,id=t0,dir={},endpoint=client", host.to_str().expect("UTF-8"));
    let (ip, port) = (server.address.ip(), server.address.port());
    let node = format!("driver=nbd,host={ip},port={port},export=disk,tls-creds=t0");
    qemu_io(&["--object", &credentials, "--image-opts", &node]);
}

#[test]
fn nbdsh_works_inside_tls() {
    let deployment = Deployment::new();
    let node = TlsIdentity::load(&deployment.issue("stretch:node/a")).expect("a node's folder");
    let server = Server::tls(&node);
    let script = |folder: &Path| {
        format!(
            "h.set_tls(nbd.TLS_REQUIRE); h.set_tls_certificates('{}'); \
             h.connect_uri('nbds://localhost:{}/disk'); h.pwrite(b'x' * 4096, 0, nbd.CMD_FLAG_FUA); \
             print(h.pread(512, 0)[:4], h.get_structured_replies_negotiated()); h.shutdown()",
            folder.display(),
            server.address.port()
        )
    };
    let host = deployment.issue("stretch:host/host1");
    // Debian's nbdsh takes `python3` from PATH and needs the system's.
    let text = run("env", &["PATH=/usr/bin", "nbdsh", "-c", &script(&host)]);
    assert!(text.contains("bytearray(b'xxxx') True"), "{text}");
    let operator = deployment.issue("stretch:operator/x");
    let refused = Command::new("env")
        .args(["PATH=/usr/bin", "nbdsh", "-c", &script(&operator)])
        .output()
        .expect("nbdsh is installed");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("policy"), "{text}");
}
