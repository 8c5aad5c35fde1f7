//! The program `stretch` as scripts see it: exit codes, what it prints and where.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use base::ids::Session;
use control_plane::io::config_file::store_pair;
use control_plane::io::run_files::RunFiles;
use control_plane::state_word::StateWord;
use control_plane::status::NodeStatus;
use support::{FakeNode, authority, configure, issue, starting, valid};

fn stretch(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stretch"));
    command.current_dir(dir).env_remove("STRETCH_CONFIG").env_remove("STRETCH_IDENTITY");
    command.timeout(Duration::from_secs(20));
    command
}

/// Runs `stretch arguments` in `dir`; exit code, stdout, stderr.
fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = stretch(dir).args(arguments).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let code = output.status.code().expect("it was not killed");
    (code, text(&output.stdout), text(&output.stderr))
}

/// The folder of a node; what it keeps below /run goes with it.
struct Deployment(tempfile::TempDir);

impl Deployment {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let places = ["a/record-1", "a/record-2"].map(|place| self.path().join(place));
        RunFiles::of_record(&"a".parse().expect("a name"), &places).forget_sequence();
    }
}

/// A folder with pki, `a.toml` and an operator.
fn deployment() -> Deployment {
    let dir = tempfile::tempdir().expect("a folder");
    authority(&dir.path().join("pki"));
    issue(&dir.path().join("pki"), "stretch:node/a", valid());
    issue(&dir.path().join("pki"), "stretch:operator/alice", valid());
    configure(dir.path());
    Deployment(dir)
}

#[test]
fn usage_errors_exit_with_2_and_say_what_is_allowed() {
    let dir = deployment();
    for (arguments, expected) in [
        (&["fly"][..], "unrecognized subcommand"),
        (&["node"], "--config <F>"),
        (&["status", "--config", "a.toml", "--node", "h:1"], "cannot be used with"),
        (&["status"], "neither --config F nor --node HOST:PORT was given, nor $STRETCH_CONFIG"),
        (&["status", "--node", "127.0.0.11:1"], "no --identity DIR (an operator's) was given"),
        (&["status", "--node", "127.0.0.11:1", "--identity", "none"], "cannot read none"),
        (&["wait", "--config", "a.toml", "--state", "happy"], "allowed: starting, active-active"),
        (&["wait", "--config", "a.toml", "--state", "solo", "--timeout", "9"], "example 30s,"),
        (&["demo", "--size", "1G"], "allowed: bytes, or one of the units"),
        (&["demo", "--size", "64m"], "did you mean 64MiB?"),
        (&["status", "--node", "10.0.0.2"], "give HOST:PORT, the node's [admin] listen"),
        (&["status", "--node", "10.0.0.2:0"], "give HOST:PORT"),
        (&["status", "--node", "fd00::2:10811"], "or [fd00::2]:10811"),
        (&["pki", "issue", "--dir", "p", "--kind", "node", "a", "--days", "0"], "1..=4294967295"),
        (&["pki", "ca", "--dir", "p", "--days", "0"], "--days"),
        (&["demo", "--addresses", "127.0.0.1"], "needs three"),
        (&["pki", "issue", "--dir", "pki", "--kind", "king", "x"], "node, witness, host, operator"),
        (&["config", "check", "none.toml"], "none.toml: cannot be read"),
        (&["node", "--config", "none.toml"], "none.toml: cannot be read"),
    ] {
        let (code, out, err) = run(dir.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

#[test]
fn version_names_formats_and_features() {
    let (code, out, err) = run(Path::new("/"), &["--version"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let keys: Vec<_> = out.lines().map(|line| line.split(' ').next().unwrap_or("")).collect();
    assert_eq!(keys, ["stretch", "commit", "wire", "disk", "features"]);
}

#[test]
fn pki_makes_a_ca_and_identities_and_overwrites_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let issue_a = ["pki", "issue", "--dir", "p", "--kind", "node", "a", "--address", "127.0.0.11"];
    let (code, _, err) = run(dir.path(), &issue_a);
    assert_eq!(code, 1);
    assert!(err.contains("stretch pki ca --dir DIR makes the CA first"), "{err}");
    let (code, out, err) = run(dir.path(), &["pki", "ca", "--dir", "p"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("keep ca-key.pem secret"), "{out}");
    assert!(out.starts_with("made a CA in p, valid until 20"), "{out}");
    let (code, out, err) = run(dir.path(), &issue_a);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("made stretch:node/a in p/a, valid until 20"), "{out}");
    for again in [&["pki", "ca", "--dir", "p"][..], &issue_a[..]] {
        let (code, _, err) = run(dir.path(), again);
        assert_eq!(code, 1);
        assert!(err.contains("is never overwritten"), "{err}");
    }
    assert_eq!(run(dir.path(), &["pki", "ca", "--dir", "short", "--days", "2"]).0, 0);
    let (code, out, err) =
        run(dir.path(), &["pki", "issue", "--dir", "short", "--kind", "host", "h"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with(", when its CA ends\n"), "{out}");
    let bad = ["pki", "issue", "--dir", "p", "--kind", "node", "b", "--dns", "a b"];
    let (code, _, err) = run(dir.path(), &bad);
    assert_eq!(code, 1);
    assert!(err.contains("'a b' is no DNS name"), "{err}");
    assert!(!dir.path().join("p/b").exists());
}

#[test]
fn config_check_tells_the_first_thing_that_is_wrong() {
    let dir = deployment();
    let (code, out, err) = run(dir.path(), &["config", "check", "a.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("a.toml: good: node a, peer b, 1 volume(s)"));
    for file in ["ca-cert", "server-cert", "client-cert"] {
        let line = lines.next().expect("a line per certificate");
        assert!(line.starts_with(&format!("  pki/a/{file}.pem: issued by Stretch CA ")), "{line}");
        assert!(line.contains(", valid until 20"), "{line}");
    }

    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    fs::write(dir.path().join("short.img"), [0; 4096]).expect("written");
    for (from, to, expected) in [
        ("listen =", "lissen =", "a.toml:10: nbd.lissen: unknown field `lissen`"),
        ("pki/a", "pki/b", "tls.dir = pki/b: the identity cannot be used: cannot read pki/b"),
        ("pki/a", "pki/alice", "is for stretch:operator/alice, this node needs one for"),
        ("a/vol0.img", "c/vol0.img", "volume[0].path: c does not exist"),
        ("a/record-2", "c/record-2", "node.record_dirs[1]: c does not exist; make the folder, or"),
        ("data_dir = \"a\"", "data_dir = \"c/a\"", "node.data_dir: c does not exist"),
        ("size = \"1MiB\"", "", "volume[0].size: missing; stretch init needs it"),
        ("[pair]\n        id = \"00112233-4455-6677-8899-aabbccddeeff\"", "", "pair: missing"),
        ("a/vol0.img", "short.img", "short.img has 4096 bytes, the volume has 1048576"),
    ] {
        fs::write(dir.path().join("bad.toml"), text.replace(from, to)).expect("written");
        let (code, _, err) = run(dir.path(), &["config", "check", "bad.toml"]);
        assert_eq!(code, 2, "{to}: {err}");
        let err = err.replace("bad.toml", "a.toml");
        assert!(err.contains(expected), "{to}: {err}");
    }
}

#[test]
fn config_check_and_init_say_what_is_kept_but_not_used_yet() {
    let keys = "[pair]\nread_mode = \"confirmed\"\n\
                witnesses = [{ name = \"w\", address = \"127.0.0.13:10812\" }]\n";
    for (keys, lines) in [("[pair]\n", 0), (keys, 2)] {
        let dir = deployment();
        let file = dir.path().join("a.toml");
        let text = fs::read_to_string(&file).expect("there");
        fs::write(&file, text.replace("[pair]\n", keys)).expect("written");
        for arguments in [["config", "check", "a.toml"], ["init", "--config", "a.toml"]] {
            let (code, out, err) = run(dir.path(), &arguments);
            assert_eq!((code, err.as_str()), (0, ""));
            let said = out.lines().filter(|line| line.contains("is kept, but not used yet"));
            assert_eq!(said.count(), lines, "{arguments:?}: {out}");
        }
    }
}

#[test]
fn an_initialised_node_needs_its_image_and_no_pair_section() {
    let dir = deployment();
    let (code, out, err) = run(dir.path(), &["init", "--config", "a.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("made a/vol0.img, which is blank\n"), "{out}");
    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    let without = text.replace("[pair]\n        id = \"00112233-4455-6677-8899-aabbccddeeff\"", "");
    assert_ne!(text, without);
    fs::write(dir.path().join("a.toml"), without).expect("written");
    let (code, _, err) = run(dir.path(), &["config", "check", "a.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    fs::remove_file(dir.path().join("a/vol0.img")).expect("there");
    let (code, _, err) = run(dir.path(), &["config", "check", "a.toml"]);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("a/vol0.img is not there, but this node was initialised with it"),
        "{err}"
    );
    assert!(err.contains("`truncate -s 1048576 a/vol0.img`"), "{err}");
}

#[test]
fn init_says_which_copy_it_keeps_and_a_failed_one_leaves_nothing() {
    let dir = deployment();
    let init = |more: &[&str]| run(dir.path(), &[&["init", "--config", "a.toml"], more].concat());
    let image = dir.path().join("a/vol0.img");
    let (code, _, err) = init(&["--source"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("a/vol0.img is not there; nothing was changed"), "{err}");
    assert!(!image.exists());

    // A file stands where the second record's folder has to be.
    fs::write(dir.path().join("a/record-2"), b"").expect("written");
    let (code, _, err) = init(&[]);
    assert_eq!(code, 1, "{err}");
    assert!(!image.exists() && !dir.path().join("a/record-1/record").exists(), "{err}");
    fs::remove_file(dir.path().join("a/record-2")).expect("there");

    fs::write(&image, vec![7; 1 << 20]).expect("written");
    let (code, out, err) = init(&["--source"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("kept a/vol0.img as it is: it is copied to the other node\n"), "{out}");
    assert_eq!(fs::read(&image).expect("there"), vec![7; 1 << 20]);
}

#[test]
fn a_blank_image_is_called_blank_and_a_missing_folder_is_not_made() {
    let dir = deployment();
    let image = dir.path().join("a/vol0.img");
    fs::File::create(&image).and_then(|file| file.set_len(1 << 20)).expect("made");
    let (code, out, err) = run(dir.path(), &["init", "--config", "a.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("uses a/vol0.img, which is blank\n"), "{out}");

    let dir = deployment();
    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    let text = text.replace("a/record-2", "disk/record-2");
    fs::write(dir.path().join("a.toml"), text).expect("written");
    let (code, _, err) = run(dir.path(), &["init", "--config", "a.toml"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("disk does not exist; make the folder, or mount"), "{err}");
    assert!(!dir.path().join("disk").exists() && !dir.path().join("a/vol0.img").exists());
}

#[test]
fn a_node_with_a_bad_certificate_is_a_matter_of_configuration() {
    let dir = deployment();
    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    fs::write(dir.path().join("a.toml"), text.replace("pki/a", "pki/alice")).expect("written");
    let (code, _, err) = run(dir.path(), &["node", "--config", "a.toml"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("is for stretch:operator/alice"), "{err}");
}

#[test]
fn help_lists_every_state() {
    let (code, out, err) = run(Path::new("/"), &["wait", "--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for state in StateWord::ALL {
        assert!(out.contains(state.word()), "{state}: {out}");
    }
}

#[test]
fn a_wrong_port_and_a_foreign_socket_are_named() {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    let dir = deployment();
    let listener = TcpListener::bind("127.0.0.11:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it asks");
        stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").expect("sent");
        // Until the client has gone: closing with unread bytes would reset the connection.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ask = ["status", "--node", &address, "--identity", "pki/alice"];
    let (code, _, err) = run(dir.path(), &ask);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("is not a node's admin port; give the address of [admin] listen"),
        "{err}"
    );
    other.join().expect("no panic");
}

#[test]
fn config_show_prints_the_agreement_and_where_the_file_differs() {
    let dir = deployment();
    let show = ["config", "show", "--config", "a.toml"];
    let (code, _, err) = run(dir.path(), &show);
    assert_eq!(code, 1);
    assert!(err.contains("no pair configuration in a/record-1 or a/record-2"), "{err}");

    let config = configure(dir.path());
    store_pair(&config.node.record_dirs, &config.agreement().expect("complete")).expect("stored");
    let (code, same, err) = run(dir.path(), &show);
    assert_eq!((code, err.as_str()), (0, ""));
    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    fs::write(dir.path().join("a.toml"), text.replace("1MiB", "2MiB")).expect("written");
    let (code, differs, err) = run(dir.path(), &show);
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!(format!("{same}--\n{differs}"));
    let (code, json, _) = run(dir.path(), &[&show[..], &["--json"]].concat());
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["pair"]["config_seq"], 1);
    assert_eq!(json["differences"][0]["key"], "volume vol0.size");
}

#[test]
fn status_and_wait_exit_with_3_while_nobody_answers() {
    let dir = deployment();
    let (code, out, err) = run(dir.path(), &["status", "--config", "a.toml"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("no node answers at a/admin.sock; is it running?"), "{err}");
    let wait = ["wait", "--config", "a.toml", "--state", "solo", "--timeout", "100ms"];
    let (code, out, err) = run(dir.path(), &wait);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("was not solo within 100ms"), "{err}");
}

#[test]
fn status_asks_the_node_by_any_way() {
    let dir = deployment();
    let config = configure(&dir.path().canonicalize().expect("there"));
    let node = FakeNode::start(&config, &dir.path().join("pki/a"));
    let (code, text, err) = run(dir.path(), &["status", "--config", "a.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(text.starts_with("node a     starting, not serving\n"), "{text}");
    let output = stretch(dir.path()).env("STRETCH_CONFIG", "a.toml").arg("status").output();
    assert_eq!(String::from_utf8_lossy(&output.expect("runs").stdout), text);
    let admin = node.admin.to_string();
    let remote = ["status", "--node", &admin, "--identity", "pki/alice", "--json"];
    let (code, json, err) = run(dir.path(), &remote);
    assert_eq!((code, err.as_str()), (0, ""));
    let status: NodeStatus = serde_json::from_str(&json).expect("a status");
    assert_eq!(status, starting());
    let refused = ["status", "--node", &admin, "--identity", "pki/a"];
    let (code, _, err) = run(dir.path(), &refused);
    assert_eq!(code, 1);
    assert!(err.contains("stretch:node/a is not an operator"), "{err}");
    let (code, out, err) =
        run(dir.path(), &["config", "show", "--node", &admin, "--identity", "pki/alice"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("config_seq  1"), "{out}");
}

#[test]
fn wait_returns_when_the_node_says_so() {
    let dir = deployment();
    let config = configure(&dir.path().canonicalize().expect("there"));
    // Nobody is there at first: waiting goes on.
    let waiting = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || run(&dir, &["wait", "--config", "a.toml", "--state", "active-active", "--json"])
    });
    let node = FakeNode::start(&config, &dir.path().join("pki/a"));
    let wrong_mode = ["wait", "--config", "a.toml", "--state", "active-active", "--mode"];
    node.say(NodeStatus { state: StateWord::ActiveActive, session: Session(5), ..starting() });
    let (code, out, err) = waiting.join().expect("no panic");
    assert_eq!((code, err.as_str()), (0, ""));
    let status: NodeStatus = serde_json::from_str(&out).expect("a status");
    assert_eq!((status.state, status.session), (StateWord::ActiveActive, Session(5)));
    node.say(NodeStatus { state: StateWord::ActiveActive, session: Session(5), ..starting() });
    let arguments = [&wrong_mode[..], &["witnessed", "--timeout", "100ms"]].concat();
    let (code, _, err) = run(dir.path(), &arguments);
    assert_eq!(code, 3);
    assert!(err.contains("active-active and witnessed within 100ms"), "{err}");
    assert!(err.contains("last: a: active-active, session 5, mode none"), "{err}");
}

#[test]
fn watch_prints_a_line_per_change_and_ends_with_its_reader() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let dir = deployment();
    let config = configure(&dir.path().canonicalize().expect("there"));
    let node = FakeNode::start(&config, &dir.path().join("pki/a"));
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_stretch"))
        .args(["status", "--watch", "--config", "a.toml"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "a: starting, session 0, mode none, 0 clients, peer b not reachable");
    node.say(NodeStatus { state: StateWord::Limbo, ..starting() });
    assert_eq!(next(), "a: limbo, session 0, mode none, 0 clients, peer b not reachable");
    drop(node);
    let gone = next();
    assert!(gone.contains("no node answers at a/admin.sock"), "{gone}");
    drop(lines);
    // Its next line meets a closed pipe: that is no error worth a message.
    let node = FakeNode::start(&config, &dir.path().join("pki/a"));
    let output = watch.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    drop(node);
}
