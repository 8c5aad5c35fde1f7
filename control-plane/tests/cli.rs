//! The program `stretch` as scripts see it: exit codes, what it prints and where.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use base::ids::Session;
use control_plane::io::config_file::store_pair;
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

/// A folder with pki, `a.toml` and an operator.
fn deployment() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    authority(&dir.path().join("pki"));
    issue(&dir.path().join("pki"), "stretch:node/a", valid());
    issue(&dir.path().join("pki"), "stretch:operator/alice", valid());
    configure(dir.path());
    dir
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
        (&["wait", "--config", "a.toml", "--state", "solo", "--timeout", "9"], "--timeout"),
        (&["demo", "--size", "1G"], "allowed: bytes, or one of the units"),
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
    let (code, out, err) = run(dir.path(), &issue_a);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "made stretch:node/a in p/a\n");
    for again in [&["pki", "ca", "--dir", "p"][..], &issue_a[..]] {
        let (code, _, err) = run(dir.path(), again);
        assert_eq!(code, 1);
        assert!(err.contains("is never overwritten"), "{err}");
    }
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
    assert_eq!(out, "a.toml: good: node a, peer b, 1 volume(s)\n");

    let text = fs::read_to_string(dir.path().join("a.toml")).expect("there");
    for (from, to, expected) in [
        ("listen =", "lissen =", "a.toml:10: nbd.lissen: unknown field `lissen`"),
        ("pki/a", "pki/b", "tls.dir = pki/b: the identity cannot be used: cannot read pki/b"),
        ("pki/a", "pki/alice", "is for stretch:operator/alice, this node needs one for"),
        ("a/vol0.img", "c/vol0.img", "volume[0].path: c does not exist"),
    ] {
        fs::write(dir.path().join("bad.toml"), text.replace(from, to)).expect("written");
        let (code, _, err) = run(dir.path(), &["config", "check", "bad.toml"]);
        assert_eq!(code, 2, "{to}: {err}");
        let err = err.replace("bad.toml", "a.toml");
        assert!(err.contains(expected), "{to}: {err}");
    }
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
