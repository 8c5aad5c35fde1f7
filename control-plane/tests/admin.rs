//! The admin API over its socket and over TLS: who is answered and who is refused, with the reason
//! on both sides.

mod support;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base::ids::Session;
use base::time::Instant;
use control_plane::io::admin_client::{self, ClientError, Target};
use control_plane::pki::Validity;
use control_plane::state_word::StateWord;
use control_plane::status::{NodeStatus, StatusReport};
use support::{FakeNode, authority, configure, issue, starting, valid};

/// In 2020.
const OVER: Validity = Validity { begin: 1_577_836_800, end: 1_577_923_200 };
/// In 2100.
const NOT_YET: Validity = Validity { begin: 4_102_444_800, end: 4_102_531_200 };

fn ask(target: &Target) -> Result<NodeStatus, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(admin_client::status(target))
}

fn remote(node: &FakeNode, identity: &Path) -> Target {
    Target::Remote { address: node.admin.to_string(), identity: identity.to_owned() }
}

/// An error with all that caused it.
fn chain(error: ClientError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// What was logged by every thread of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_socket_answers_its_owner() {
    let dir = tempfile::tempdir().expect("a folder");
    // Longer than a socket address may be.
    let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).expect("a folder");
    authority(&deep.join("pki"));
    let tls = issue(&deep.join("pki"), "stretch:node/a", valid());
    let config = configure(&deep);
    let target = Target::Socket(config.admin.socket.clone());
    let absent = ask(&target).expect_err("nobody is there");
    assert!(absent.unreachable(), "{absent}");
    // What a killed process leaves behind is no obstacle.
    drop(FakeNode::start(&config, &tls));
    assert!(ask(&target).expect_err("nobody is there any more").unreachable());
    let node = FakeNode::start(&config, &tls);
    let mode = std::fs::metadata(&config.admin.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(ask(&target).expect("an answer"), starting());
    let active = NodeStatus { state: StateWord::ActiveActive, session: Session(3), ..starting() };
    node.say(active.clone());
    assert_eq!(ask(&target).expect("an answer"), active);
}

#[test]
fn a_hung_node_does_not_pass_on_what_was_true_once() {
    let dir = tempfile::tempdir().expect("a folder");
    authority(&dir.path().join("pki"));
    let tls = issue(&dir.path().join("pki"), "stretch:node/a", valid());
    let config = configure(dir.path());
    let node = FakeNode::start(&config, &tls);
    let active = NodeStatus { state: StateWord::ActiveActive, ..starting() };
    node.status.send_replace(Arc::new(StatusReport { at: Instant::ZERO, status: active }));
    let error = ask(&Target::Socket(config.admin.socket)).expect_err("old");
    assert!(error.unreachable());
    assert!(error.to_string().contains("has not reported for"), "{error}");
}

#[test]
fn only_operators_are_answered_over_tls() {
    let log = Log::begin();
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dir.path().join("pki");
    authority(&pki);
    let tls = issue(&pki, "stretch:node/a", valid());
    let config = configure(dir.path());
    let node = FakeNode::start(&config, &tls);
    let operator = issue(&pki, "stretch:operator/alice", valid());
    assert_eq!(ask(&remote(&node, &operator)).expect("an answer"), starting());
    assert!(!log.text().contains("alice"), "{}", log.text());

    // Kind, what the client says, what the server's log says.
    for (holder, client_says) in [
        ("stretch:host/host1", "stretch:host/host1 is not an operator"),
        ("stretch:node/b", "stretch:node/b is not an operator"),
        ("stretch:witness/w", "stretch:witness/w is not an operator"),
    ] {
        let identity = issue(&pki, holder, valid());
        let error = ask(&remote(&node, &identity)).expect_err("no operator");
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        assert!(chain(error).contains(client_says));
        assert!(log.text().contains(client_says), "{}", log.text());
    }
    assert_distrusted(
        &node,
        &log,
        &issue(&pki, "stretch:operator/old", OVER),
        ["certificate expired", "pki/old, because it has ended or is not valid yet; issue"],
    );
    assert_distrusted(
        &node,
        &log,
        &issue(&pki, "stretch:operator/new", NOT_YET),
        ["not valid before", "pki/new, because it has ended or is not valid yet; issue another"],
    );
    let elsewhere = dir.path().join("elsewhere");
    authority(&elsewhere);
    let foreign = issue(&elsewhere, "stretch:operator/alice", valid());
    // With our CA's certificate in its folder the foreigner trusts us; we do not trust it.
    std::fs::copy(pki.join("ca-cert.pem"), foreign.join("ca-cert.pem")).expect("copied");
    let said = "because another ca issued it; use one that the node's ca issued";
    assert_distrusted(&node, &log, &foreign, ["UnknownIssuer", said]);
}

/// Both sides say why: the node's log and the operator's program.
fn assert_distrusted(node: &FakeNode, log: &Log, identity: &Path, [reason, told]: [&str; 2]) {
    let before = log.text().len();
    let error = ask(&remote(node, identity)).expect_err("must be refused");
    assert!(matches!(error, ClientError::Certificate { .. }), "{}", chain(error));
    let said = chain(error).to_lowercase();
    assert!(said.contains("alert") && said.contains(told), "{told}: {said}");
    let logged = log.text()[before..].to_owned();
    assert!(logged.contains("its certificate is refused"), "{logged}");
    assert!(logged.contains(reason), "{reason}: {logged}");
}

#[test]
fn a_client_refuses_what_is_no_node() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dir.path().join("pki");
    authority(&pki);
    issue(&pki, "stretch:node/a", valid());
    let operator = issue(&pki, "stretch:operator/alice", valid());
    let config = configure(dir.path());

    let host = issue(&pki, "stretch:host/host1", valid());
    let node = FakeNode::start(&config, &host);
    let error = ask(&remote(&node, &operator)).expect_err("a host");
    assert!(matches!(error, ClientError::NotANode { .. }), "{error}");
    assert!(error.to_string().contains("stretch:host/host1, not a node"), "{error}");
    drop(node);

    // Swapped: b's certificate, a's answers.
    let swapped = issue(&pki, "stretch:node/b", valid());
    let node = FakeNode::start(&config, &swapped);
    let error = ask(&remote(&node, &operator)).expect_err("the wrong node");
    assert!(matches!(error, ClientError::WrongName { .. }), "{error}");
    drop(node);

    let old = issue(&pki, "stretch:node/old", OVER);
    let node = FakeNode::start(&config, &old);
    let error = ask(&remote(&node, &operator)).expect_err("over");
    assert!(matches!(error, ClientError::Certificate { .. }), "{error}");
    let said = chain(error);
    assert!(
        said.contains("expired") && said.contains("the node's certificate has ended"),
        "{said}"
    );
    drop(node);

    let elsewhere = dir.path().join("elsewhere");
    authority(&elsewhere);
    let foreign = issue(&elsewhere, "stretch:node/a", valid());
    std::fs::copy(pki.join("ca-cert.pem"), foreign.join("ca-cert.pem")).expect("copied");
    let node = FakeNode::start(&config, &foreign);
    let error = ask(&remote(&node, &operator)).expect_err("foreign");
    assert!(matches!(error, ClientError::Certificate { .. }), "{error}");
    assert!(error.to_string().contains("was issued by another CA than the one in"), "{error}");
    drop(node);
}
