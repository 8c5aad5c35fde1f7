//! The front end over real sockets, inside TLS.

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use base::io::tls::{CA_CERT, CLIENT_CERT, CLIENT_KEY, TlsIdentity};
use base::time::Duration;
use nbd_frontend::admission::Caps;
use nbd_frontend::client::End;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use support::client::*;
use support::pki::Deployment;
use support::server::{SIZE, Server};

struct Setting {
    deployment: Deployment,
    server: Server,
    host: Arc<ClientConfig>,
}

fn setting() -> Setting {
    let deployment = Deployment::new();
    let node = TlsIdentity::load(&deployment.issue("stretch:node/a")).expect("a node's folder");
    let host = client_config(&deployment.issue("stretch:host/host1"));
    Setting { server: Server::tls(&node), deployment, host }
}

fn client_config(dir: &Path) -> Arc<ClientConfig> {
    TlsIdentity::load_client(dir).expect("a host's folder")
}

#[test]
fn a_host_attaches_works_and_is_said_goodbye_to() {
    let setting = setting();
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut stream, 1, 8192);
    stream.write_all(&request(2, 0, 0, 0)).expect("sent");
    // Without close_notify this would be an unexpected end.
    assert_eq!(stream.read(&mut [0]).expect("close_notify"), 0);
    let ended = setting.server.next_end();
    assert_eq!(ended.end, End::Disconnected);
    assert_eq!(ended.host.as_deref(), Some("stretch:host/host1"));
}

#[test]
fn a_client_limited_to_tls_1_2_attaches() {
    let setting = setting();
    let dir = setting.deployment.issue("stretch:host/old");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join(CA_CERT)).expect("PEM")).expect("a CA");
    let cert = CertificateDer::from_pem_file(dir.join(CLIENT_CERT)).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(dir.join(CLIENT_KEY)).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let older = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("TLS 1.2 is there")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![cert], key)
        .expect("a host's certificate");
    let mut stream = start_tls(greeted(setting.server.address), Arc::new(older));
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut stream, 1, 0);
    assert_eq!(stream.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
}

#[test]
fn requests_in_the_same_record_as_go_are_answered() {
    let setting = setting();
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    let mut bytes = option(GO, &go_data("disk"));
    for cookie in 0..30 {
        bytes.extend(request(1, cookie, cookie * 4096, 4096));
        bytes.extend([cookie as u8 + 1; 4096]);
    }
    stream.write_all(&bytes).expect("sent");
    while option_reply(&mut stream).expect("a reply").0 != ACK {}
    for cookie in 0..30 {
        assert_eq!(simple_reply(&mut stream), (0, cookie));
    }
    let memory = setting.server.memory.lock().expect("not poisoned");
    assert!(memory[..30 * 4096].iter().enumerate().all(|(n, byte)| *byte == (n / 4096 + 1) as u8));
}

/// What the TLS library has decrypted but nobody has read is announced by no readiness event.
#[test]
fn a_request_in_the_rest_of_the_record_of_go_is_answered_without_another_byte() {
    let setting = setting();
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    let mut bytes = option(GO, &go_data("disk"));
    bytes.extend(request(1, 5, 0, 12_288));
    bytes.extend([3; 12_288]);
    stream.write_all(&bytes).expect("sent");
    while option_reply(&mut stream).expect("a reply").0 != ACK {}
    assert_eq!(simple_reply(&mut stream), (0, 5));
}

#[test]
fn nothing_but_starttls_and_abort_is_there_in_plain_text() {
    let setting = setting();
    let mut stream = greeted(setting.server.address);
    for code in [3, 4, 6, 7, 8, 9, 10, 11, 77] {
        for data in [&b""[..], &go_data("disk")] {
            assert_eq!(ask(&mut stream, code, data).0, ERR_TLS_REQD, "option {code}");
        }
    }
    assert_eq!(ask(&mut stream, ABORT, b"").0, ACK);
    assert!(is_closed(&mut stream));
    let mut stream = greeted(setting.server.address);
    stream.write_all(&option(1, b"disk")).expect("sent");
    assert!(is_closed(&mut stream), "EXPORT_NAME cannot be refused in another way");
}

/// nbdkit loses its place here: it skips the payload on the bare socket.
#[test]
fn refused_writes_keep_both_sides_in_step() {
    let setting = setting();
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    for (offset, length, errno) in
        [(SIZE, 512, 28), (1, 77, 22), (SIZE - 512, 70_000, 28), (0, 33 << 20, 28)]
    {
        stream.write_all(&request(1, 3, offset, length)).expect("sent");
        stream.write_all(&vec![0x25; length as usize]).expect("sent");
        assert_eq!(simple_reply(&mut stream), (errno, 3));
        write_and_read_back(&mut stream, 4, 512);
    }
    stream.write_all(&request(1, 9, 0, u32::MAX)).expect("sent");
    assert!(is_closed(&mut stream));
    assert_eq!(setting.server.next_end().end, End::AbsurdLength(u32::MAX));
}

#[test]
fn the_largest_payloads_go_through() {
    let setting = setting();
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    assert_eq!(ask(&mut stream, STRUCTURED, b"").0, ACK);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    let data: Vec<u8> = (0..SIZE).map(|n| ((n * 31) >> 7) as u8).collect();
    let length = u32::try_from(SIZE).expect("small");
    stream.write_all(&request(1, 1, 0, length)).expect("sent");
    stream.write_all(&data).expect("sent");
    assert_eq!(simple_reply(&mut stream), (0, 1));
    stream.write_all(&request(0, 2, 0, length)).expect("sent");
    let header = read(&mut stream, 28).expect("a chunk");
    assert_eq!(header[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
    assert!(read(&mut stream, data.len()).expect("data") == data);
}

#[test]
fn noise_in_the_tls_stream_of_an_attached_client_ends_it_and_nobody_else() {
    let setting = setting();
    let attach = || {
        let mut stream = start_tls(greeted(setting.server.address), setting.host.clone());
        assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
        stream
    };
    let mut other = attach();
    for noise in [&[0x17, 3, 3, 0, 20][..], &[0; 64], &[0xff; 20_000], b"\x17\x03\x03\xff\xff"] {
        let mut stream = attach();
        // The server may end it at any of these bytes.
        let _ = stream.sock.write_all(noise);
        let _ = stream.sock.write_all(&[0x55; 30]);
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
        assert!(is_closed(&mut stream.sock));
        let end = setting.server.next_end().end;
        assert!(matches!(end, End::ConnectionLost | End::PeerClosed), "{end:?}");
        write_and_read_back(&mut other, 1, 4096);
    }
}

/// The certificate says which host it is, not the address.
#[test]
fn a_host_has_its_places_by_name_whatever_its_address() {
    let deployment = Deployment::new();
    let node = TlsIdentity::load(&deployment.issue("stretch:node/a")).expect("a node's folder");
    let server = Server::start(Some(&node), Caps { host_max: 1, ..Caps::DEFAULT });
    let first = client_config(&deployment.issue("stretch:host/host1"));
    let second = client_config(&deployment.issue("stretch:host/host2"));
    let attach = |source: [u8; 4], config: &Arc<ClientConfig>| {
        let stream = greet(connect_from(source.into(), server.address));
        let mut stream = start_tls(stream, config.clone());
        let (kind, text) = ask(&mut stream, GO, &go_data("disk"));
        (kind, String::from_utf8_lossy(&text).into_owned(), stream)
    };
    let (kind, _, mut held) = attach([127, 0, 0, 2], &first);
    assert_eq!(kind, ACK);
    let (kind, text, _) = attach([127, 0, 0, 3], &first);
    assert!(kind == ERR_POLICY && text.contains("(host1) has 1 clients"), "{text}");
    let (kind, text, _other) = attach([127, 0, 0, 2], &second);
    assert_eq!(kind, ACK, "{text}");
    write_and_read_back(&mut held, 1, 0);
    drop(held);
    server.next_end();
    assert_eq!(attach([127, 0, 0, 3], &first).0, ACK);
}

/// CVE-2021-3716: an attacker sends STRUCTURED_REPLY in plain text before the client's STARTTLS.
#[test]
fn nothing_from_before_starttls_is_in_force_inside() {
    let setting = setting();
    let mut stream = greeted(setting.server.address);
    ask(&mut stream, STRUCTURED, b"");
    let mut stream = start_tls(stream, setting.host);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    stream.write_all(&request(0, 5, 0, 512)).expect("sent");
    assert_eq!(simple_reply(&mut stream), (0, 5), "a chunk would begin with another number");
    assert_eq!(read(&mut stream, 512).expect("data").len(), 512);
}

#[test]
fn plain_text_injected_behind_starttls_is_never_read_inside() {
    let setting = setting();
    // In the same segment: the connection ends at once.
    for injected in [option(STRUCTURED, b""), vec![b'I'], option(GO, &go_data("disk"))] {
        let mut stream = greeted(setting.server.address);
        stream.write_all(&[option(STARTTLS, b""), injected].concat()).expect("sent");
        let mut stream = wrap(stream, setting.host.clone());
        assert!(option_reply(&mut stream.sock).is_ok_and(|reply| reply.0 == ACK));
        assert!(stream.write_all(&option(LIST, b"")).and_then(|()| read(&mut stream, 1)).is_err());
    }
    // Later: the TLS library meets it, and it is no TLS.
    let mut stream = greeted(setting.server.address);
    assert_eq!(ask(&mut stream, STARTTLS, b"").0, ACK);
    stream.write_all(&option(STRUCTURED, b"")).expect("sent");
    assert!(is_closed(&mut stream));
}

#[test]
fn a_certificate_of_the_wrong_kind_gets_the_reason() {
    let setting = setting();
    for identity in ["stretch:node/b", "stretch:operator/x", "stretch:witness/w"] {
        let config = client_config(&setting.deployment.issue(identity));
        let mut stream = start_tls(greeted(setting.server.address), config);
        for code in [LIST, GO, STRUCTURED, 77] {
            let (kind, text) = ask(&mut stream, code, &go_data("disk"));
            let text = String::from_utf8(text).expect("UTF-8");
            assert_eq!(kind, ERR_POLICY);
            assert!(text.contains(identity) && text.contains("stretch:host/"), "{text}");
        }
        assert_eq!(ask(&mut stream, ABORT, b"").0, ACK);
        assert_eq!(stream.read(&mut [0]).expect("close_notify"), 0);
    }
    let unnamed = setting.deployment.issue_with("stretch:host/unnamed", |params| {
        params.subject_alt_names.remove(0);
    });
    let mut stream = start_tls(greeted(setting.server.address), client_config(&unnamed));
    let (kind, text) = ask(&mut stream, GO, &go_data("disk"));
    assert_eq!(kind, ERR_POLICY);
    assert!(String::from_utf8(text).expect("UTF-8").contains("stretch:host/NAME"));
}

#[test]
fn foreign_expired_and_missing_certificates_fail_the_handshake() {
    let setting = setting();
    let other = Deployment::new();
    let foreign = other.issue("stretch:host/host1");
    // The foreign host trusts the real CA, so it is the server that refuses.
    let ca = setting.deployment.issue("stretch:host/other").join(CA_CERT);
    std::fs::copy(ca, foreign.join(CA_CERT)).expect("copied");
    let expired = setting.deployment.issue_with("stretch:host/late", |params| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let mut bare = (*setting.host).clone();
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    for config in [client_config(&foreign), client_config(&expired), Arc::new(bare)] {
        let mut stream = start_tls(greeted(setting.server.address), config);
        let result = stream.write_all(&option(LIST, b"")).and_then(|()| read(&mut stream, 1));
        assert!(result.is_err());
    }
    let mut stream = start_tls(greeted(setting.server.address), setting.host);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
}

#[test]
fn a_client_that_stops_inside_the_tls_handshake_is_closed_at_the_deadline() {
    let deployment = Deployment::new();
    let node = TlsIdentity::load(&deployment.issue("stretch:node/a")).expect("a node's folder");
    let caps = Caps { handshake_timeout: Duration::from_secs(1), ..Caps::DEFAULT };
    let server = Server::start(Some(&node), caps);
    let host = client_config(&deployment.issue("stretch:host/host1"));
    let mut hello = Vec::new();
    wrap(connect(server.address), host).conn.write_tls(&mut hello).expect("a ClientHello");
    let stuck = |length: usize| {
        let mut stream = greeted(server.address);
        assert_eq!(ask(&mut stream, STARTTLS, b"").0, ACK);
        stream.write_all(&hello[..length]).expect("sent");
        stream
    };
    for mut stream in [0, 1, 5, 40, hello.len()].map(stuck) {
        assert!(is_closed(&mut stream));
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
