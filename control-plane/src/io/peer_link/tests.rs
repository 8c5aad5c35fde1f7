use std::path::Path;

use base::io::clock;
use tokio::task::LocalSet;

use super::*;
use crate::io::pki_files::{issue, make_authority};
use crate::pki::{Request, Validity};

/// More than all places for connections that have shown no certificate.
const SILENT: usize = 200;
const _: () = assert!(SILENT > 2 * HANDSHAKES_MAX);

fn identity(pki: &Path, name: &str) -> TlsIdentity {
    identity_at(pki, name, clock::unix_seconds())
}

/// Valid for a day from `begin` on.
fn identity_at(pki: &Path, name: &str, begin: i64) -> TlsIdentity {
    identity_of(pki, &format!("stretch:node/{name}"), begin)
}

fn identity_of(pki: &Path, holder: &str, begin: i64) -> TlsIdentity {
    let request = Request {
        holder: holder.parse().expect("a holder"),
        addresses: vec!["127.0.0.1".parse().expect("an address")],
        dns_names: Vec::new(),
        validity: Validity::days(begin, 1),
    };
    if !pki.exists() {
        make_authority(pki, Validity::days(clock::unix_seconds(), 1)).expect("an authority");
    }
    TlsIdentity::load(&issue(pki, &request).expect("issued")).expect("loaded")
}

/// Node `own`, which talks to `peer` at `remote`, and what happens on its connections.
fn node(
    pki: &Path,
    (own, peer): (&str, &str),
    remote: SocketAddr,
) -> (Rc<PeerLinks>, mpsc::Receiver<PeerEvent>) {
    node_with(identity(pki, own), peer, remote)
}

fn node_with(
    identity: TlsIdentity,
    peer: &str,
    remote: SocketAddr,
) -> (Rc<PeerLinks>, mpsc::Receiver<PeerEvent>) {
    let (events, happened) = mpsc::channel(16);
    let local = "127.0.0.1:0".parse().expect("an address");
    let peer = peer.parse().expect("a name");
    let alive = Duration::from_secs(3);
    (PeerLinks::new(identity, local, remote, peer, alive, events), happened)
}

async fn control_link(events: &mut mpsc::Receiver<PeerEvent>) -> ControlLink {
    let event = tokio::time::timeout(SETUP_TIMEOUT / 2, events.recv());
    match event.await.expect("before the silent connections are out of time") {
        Some(PeerEvent::Up(link)) => link,
        other => panic!("a control connection comes up, not {other:?}"),
    }
}

#[tokio::test]
async fn silent_connections_do_not_keep_the_peer_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dir.path().join("pki");
    let listener = tcp::listen("127.0.0.1:0".parse().expect("an address")).expect("listening");
    let address = listener.local_addr().expect("an address");
    let (b, mut at_b) = node(&pki, ("b", "a"), address);
    let (a, mut at_a) = node(&pki, ("a", "b"), address);
    let story = async {
        spawn_local(b.accept(listener));
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(address).await.expect("the port is open"));
        }
        a.dial();
        let from_a = control_link(&mut at_a).await;
        assert!(from_a.send(ControlMessage::Refuse { reason: "a first frame".to_owned() }));
        let from_b = control_link(&mut at_b).await;
        assert_eq!(from_b.conn_nonce, from_a.conn_nonce);
        // Others come and go: who has shown the certificate keeps its connection.
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(address).await.expect("the port is open"));
        }
        let mut byte = [0];
        for closed in &mut silent[..2 * SILENT - HANDSHAKES_MAX] {
            assert_eq!(closed.read(&mut byte).await.unwrap_or(0), 0, "the oldest have to go");
        }
        assert!(from_b.send(ControlMessage::Refuse { reason: "an answer".to_owned() }));
        match at_a.recv().await {
            Some(PeerEvent::Message { message: ControlMessage::Refuse { reason }, .. }) => {
                assert_eq!(reason, "an answer");
            }
            other => panic!("the connection goes on, not {other:?}"),
        }
    };
    LocalSet::new().run_until(story).await;
}

async fn data_link(events: &mut mpsc::Receiver<PeerEvent>) -> DataLink {
    match events.recv().await {
        Some(PeerEvent::Data(link)) => link,
        other => panic!("a data connection is bound, not {other:?}"),
    }
}

#[tokio::test]
async fn what_a_peer_does_not_read_counts_until_the_kernel_has_taken_it() {
    const BYTES: usize = 64 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dir.path().join("pki");
    let listener = tcp::listen("127.0.0.1:0".parse().expect("an address")).expect("listening");
    let address = listener.local_addr().expect("an address");
    let (b, mut at_b) = node(&pki, ("b", "a"), address);
    let (a, mut at_a) = node(&pki, ("a", "b"), address);
    let story = async {
        spawn_local(b.accept(listener));
        a.dial_data(ConnNonce(random_bytes()), VolumeIndex(0), VolumeId::default());
        (data_link(&mut at_a).await.socket, data_link(&mut at_b).await.socket)
    };
    let (mut sender, mut receiver) = LocalSet::new().run_until(story).await;
    sender.queue(bytes::Bytes::from(vec![5; BYTES]));
    assert_eq!(sender.backlog(), BYTES);
    assert!(!sender.flush().expect("sent"), "the kernel does not take all of it");
    assert_eq!(sender.backlog(), BYTES, "encrypted, and yet not sent");
    let (mut scratch, mut received) = (vec![0; 1 << 20], 0);
    while received < BYTES {
        let count = receiver.receive(&mut scratch, BYTES, |bytes| {
            assert!(bytes.iter().all(|byte| *byte == 5));
        });
        received += count.expect("received").bytes;
        sender.flush().expect("sent");
    }
    assert_eq!((received, sender.backlog()), (BYTES, 0));
}

/// The reason for which a connection ends, from this side or in the other's words.
async fn trouble(events: &mut mpsc::Receiver<PeerEvent>, links: &mut Vec<ControlLink>) -> Trouble {
    loop {
        match events.recv().await {
            // The first frame goes out at once, into a connection that is already refused.
            Some(PeerEvent::Up(link)) => {
                link.send(ControlMessage::Refuse { reason: "a first frame".to_owned() });
                links.push(link);
            }
            Some(PeerEvent::Message { message: ControlMessage::Refuse { reason }, .. }) => {
                return Trouble { why: reason, advice: String::new() };
            }
            Some(
                PeerEvent::DialFailed { trouble }
                | PeerEvent::Lost { trouble, .. }
                | PeerEvent::Refused { trouble },
            ) => return trouble,
            other => panic!("the connection is refused, not {other:?}"),
        }
    }
}

/// What node a, which dials, and node b are told when a connects with these identities.
async fn refusals(a: TlsIdentity, b: TlsIdentity) -> [Trouble; 2] {
    let listener = tcp::listen("127.0.0.1:0".parse().expect("an address")).expect("listening");
    let address = listener.local_addr().expect("an address");
    let (b, mut at_b) = node_with(b, "a", address);
    let (a, mut at_a) = node_with(a, "b", address);
    let story = async {
        spawn_local(b.accept(listener));
        a.dial();
        let mut links = Vec::new();
        let dialled = trouble(&mut at_a, &mut links).await;
        let accepted = trouble(&mut at_b, &mut links).await;
        [dialled, accepted]
    };
    LocalSet::new().run_until(story).await
}

#[tokio::test]
async fn both_nodes_are_told_whose_certificate_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (pki, foreign) = (dir.path().join("pki"), dir.path().join("foreign"));
    let yesterday = clock::unix_seconds() - 2 * 24 * 3600;
    let [dialled, accepted] =
        refusals(identity(&pki, "a"), identity_at(&pki, "b", yesterday)).await;
    assert_eq!(dialled.why, "a refuses the certificate of b: it has expired");
    assert!(dialled.advice.contains("issue node b a new certificate"), "{dialled:?}");
    assert!(accepted.why.starts_with("a refuses the certificate of b: it has exp"), "{accepted:?}");
    assert!(accepted.advice.contains("issue node b a new certificate"), "{accepted:?}");

    let pki = dir.path().join("pki-2");
    let [dialled, accepted] =
        refusals(identity_at(&pki, "a", yesterday), identity(&pki, "b")).await;
    assert!(dialled.why.starts_with("b refuses the certificate of a: it has exp"), "{dialled:?}");
    assert!(dialled.advice.contains("issue node a a new certificate"), "{dialled:?}");
    assert_eq!(accepted.why, "b refuses the certificate of a: it has expired");

    let pki = dir.path().join("pki-3");
    for trouble in refusals(identity(&pki, "a"), identity(&foreign, "b")).await {
        let expected = "a refuses the certificate of b: it is not from the CA that a knows";
        assert_eq!(trouble.why, expected);
        assert!(trouble.advice.contains("from one CA"), "{trouble:?}");
    }
}

/// A name or a kind that does not belong at this port, whoever shows it.
#[tokio::test]
async fn another_nodes_and_other_kinds_of_certificates_are_refused_on_both_sides() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dir.path().join("pki");
    let now = clock::unix_seconds();
    let (a, b) = (identity(&pki, "a"), identity(&pki, "b"));
    let wrong = ["stretch:node/c", "stretch:host/h", "stretch:operator/o", "stretch:witness/w"];
    for holder in wrong {
        let wrong = identity_of(&pki, holder, now);
        for trouble in refusals(wrong.clone(), b.clone()).await {
            assert!(trouble.why.contains(holder), "{trouble:?}");
            assert!(trouble.why.contains("stretch:node/a"), "{trouble:?}");
        }
        for trouble in refusals(a.clone(), wrong).await {
            assert!(trouble.why.contains(holder), "{trouble:?}");
            assert!(trouble.why.contains("stretch:node/b"), "{trouble:?}");
        }
    }
    // Swapped: each is good, and in the other's place.
    for trouble in refusals(b.clone(), a).await {
        assert!(trouble.why.contains("stretch:node/"), "{trouble:?}");
    }
    // A foreign one at the node that dials.
    let foreign = dir.path().join("foreign");
    for trouble in refusals(identity(&foreign, "a"), b).await {
        assert!(trouble.why.contains("is not from the CA"), "{trouble:?}");
    }
}
