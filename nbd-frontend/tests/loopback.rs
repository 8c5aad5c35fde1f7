//! The front end over real sockets, in plain text.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};

use base::time::Duration;
use nbd_frontend::admission::Caps;
use nbd_frontend::client::End;
use support::client::*;
use support::server::{SIZE, Server, table};

#[test]
fn a_client_attaches_works_and_leaves() {
    let server = Server::plain();
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, STRUCTURED, b"x").0, (1 << 31) + 3);
    assert_eq!(ask(&mut stream, LIST, b"").0, ACK);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut stream, 1, 8192);
    stream.write_all(&request(2, 0, 0, 0)).expect("sent");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    let ended = server.next_end();
    assert_eq!((ended.end, ended.host), (End::Disconnected, None));
}

#[test]
fn requests_sent_together_with_go_are_answered() {
    let server = Server::plain();
    let mut stream = connect(server.address);
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option(GO, &go_data("disk")));
    bytes.extend(request(3, 7, 0, 0));
    bytes.extend(request(1, 8, 0, 512));
    bytes.extend([9; 512]);
    stream.write_all(&bytes).expect("sent");
    read(&mut stream, 18).expect("a greeting");
    while option_reply(&mut stream).expect("a reply").0 != ACK {}
    assert_eq!(simple_reply(&mut stream), (0, 7));
    assert_eq!(simple_reply(&mut stream), (0, 8));
    assert!(server.memory.lock().expect("not poisoned")[..512].iter().all(|byte| *byte == 9));
}

#[test]
fn outstanding_requests_are_answered_after_a_goodbye() {
    let server = Server::plain();
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    let mut bytes = Vec::new();
    for cookie in 0..20 {
        bytes.extend(request(1, cookie, cookie * 512, 512));
        bytes.extend([cookie as u8 + 1; 512]);
    }
    bytes.extend(request(2, 0, 0, 0));
    stream.write_all(&bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("a socket");
    for cookie in 0..20 {
        assert_eq!(simple_reply(&mut stream), (0, cookie));
    }
    assert!(is_closed(&mut stream));
    assert_eq!(server.next_end().end, End::Disconnected);
}

#[test]
fn a_reset_at_every_byte_of_a_write_leaves_the_server_well() {
    let server = Server::plain();
    let mut bytes = request(1, 1, 0, 512);
    bytes.extend([1; 512]);
    for length in (0..40).chain([100, 539]) {
        let mut stream = greeted(server.address);
        assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
        stream.write_all(&bytes[..length]).expect("sent");
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
        drop(stream);
        let end = server.next_end().end;
        assert!(matches!(end, End::ConnectionLost | End::PeerClosed), "{end:?}");
    }
    assert!(server.memory.lock().expect("not poisoned").iter().all(|byte| *byte == 0));
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut stream, 1, 0);
}

#[test]
fn requests_cut_into_single_bytes_are_understood() {
    let server = Server::plain();
    let mut stream = connect(server.address);
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option(STRUCTURED, b"data it must not have"));
    bytes.extend(option(GO, &go_data("disk")));
    bytes.extend(request(1, 8, 0, 512));
    bytes.extend([9; 512]);
    bytes.extend(request(0, 9, SIZE, 512));
    for byte in bytes {
        stream.write_all(&[byte]).expect("sent");
    }
    read(&mut stream, 18).expect("a greeting");
    while option_reply(&mut stream).expect("a reply").0 != ACK {}
    // A refusal may overtake what the volume works on.
    let mut replies = [simple_reply(&mut stream), simple_reply(&mut stream)];
    replies.sort_unstable();
    assert_eq!(replies, [(0, 8), (22, 9)]);
}

/// Many times the bytes and requests that one client may have in flight.
#[test]
fn a_client_that_sends_much_and_reads_late_gets_every_answer() {
    const READS: u64 = 600;
    let server = Server::plain();
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
    let mut sender = stream.try_clone().expect("a socket");
    let sent = std::thread::spawn(move || {
        for cookie in 0..READS {
            sender.write_all(&request(0, cookie, 0, 1 << 20)).expect("sent");
            sender.write_all(&request(99, READS + cookie, 0, 0)).expect("sent");
        }
    });
    sent.join().expect("the requests fit the socket's buffers and ours");
    let mut seen = vec![0u8; 2 * READS as usize];
    for _ in 0..2 * READS {
        let (errno, cookie) = simple_reply(&mut stream);
        seen[cookie as usize] += 1;
        match cookie < READS {
            true => assert!((errno, read(&mut stream, 1 << 20).is_ok()) == (0, true)),
            false => assert_eq!(errno, 22),
        }
    }
    assert!(seen.iter().all(|count| *count == 1));
}

#[test]
fn a_stopping_node_tells_those_who_negotiate() {
    let server = Server::plain();
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, LIST, b"").0, ACK);
    server.exports.replace(table().with_shutdown());
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ERR_SHUTDOWN);
    assert_eq!(ask(&mut stream, ABORT, b"").0, ACK);
    assert!(is_closed(&mut stream));
    server.exports.replace(table());
    let mut stream = greeted(server.address);
    assert_eq!(ask(&mut stream, GO, &go_data("disk")).0, ACK);
}

#[test]
fn silent_and_slow_clients_are_closed_at_the_deadline() {
    let caps = Caps { handshake_timeout: Duration::from_secs(1), ..Caps::DEFAULT };
    let server = Server::start(None, caps);
    let mut attached = greeted(server.address);
    assert_eq!(ask(&mut attached, GO, &go_data("disk")).0, ACK);
    let mut silent = connect(server.address);
    let mut half = greeted(server.address);
    half.write_all(b"IHAVEOP").expect("sent");
    // Asks for lists for ever and reads none of the answers.
    let mut deaf = greeted(server.address);
    let lists: Vec<u8> = (0..1000).flat_map(|_| option(LIST, b"")).collect();
    while deaf.write_all(&lists).is_ok() {}
    assert!(is_closed(&mut silent) && is_closed(&mut half));
    write_and_read_back(&mut attached, 1, 0);
}

#[test]
fn over_the_cap_the_oldest_goes_and_the_newcomer_works() {
    let caps = Caps { negotiating_max: 4, clients_max: 5, ..Caps::DEFAULT };
    let server = Server::start(None, caps);
    let mut waiting: Vec<_> = (0..4).map(|_| greeted(server.address)).collect();
    let mut newcomer = greeted(server.address);
    assert_eq!(ask(&mut newcomer, GO, &go_data("disk")).0, ACK);
    assert!(is_closed(&mut waiting[0]));
    for stream in &mut waiting[1..] {
        assert_eq!(ask(stream, GO, &go_data("disk")).0, ACK);
        write_and_read_back(stream, 1, 0);
    }
    let mut last = greeted(server.address);
    assert_eq!(ask(&mut last, GO, &go_data("disk")).0, ACK);
    let mut refused = connect(server.address);
    assert!(is_closed(&mut refused), "five are attached");
    last.write_all(&request(2, 0, 0, 0)).expect("sent");
    assert!(is_closed(&mut last));
    server.next_end();
    let mut again = greeted(server.address);
    assert_eq!(ask(&mut again, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut newcomer, 1, 0);
}

/// As many connections as there are places, all of one host, that only say GO.
#[test]
fn no_host_keeps_another_one_out() {
    const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const MODEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
    let caps = Caps { clients_max: 16, host_max: 4, ..Caps::DEFAULT };
    let server = Server::start(None, caps);
    let from = |source| greet(connect_from(source, server.address));
    let mut attached = Vec::new();
    let mut refused = Vec::new();
    for number in 0..caps.clients_max {
        let mut stream = from(GREEDY);
        let (kind, text) = ask(&mut stream, GO, &go_data("disk"));
        if kind == ACK {
            attached.push(stream);
            continue;
        }
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!((kind, attached.len()), (ERR_POLICY, caps.host_max), "number {number}: {text}");
        assert!(text.contains("(127.0.0.2) has 4 clients attached"), "{text}");
        refused.push(stream);
    }
    assert_eq!((attached.len(), refused.len()), (4, 12));
    let mut modest = from(MODEST);
    assert_eq!(ask(&mut modest, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut modest, 1, 0);
    for stream in &mut attached {
        write_and_read_back(stream, 2, 4096);
    }
    // Who was refused may look around, has no place by EXPORT_NAME either, and has one as soon as
    // one is free.
    // The oldest of them had to go for the newcomers.
    let mut late = refused.pop().expect("twelve");
    let mut later = refused.pop().expect("eleven");
    assert_eq!(ask(&mut late, LIST, b"").0, ACK);
    let mut old = from(GREEDY);
    old.write_all(&option(1, b"disk")).expect("sent");
    assert!(is_closed(&mut old));
    drop(attached.pop());
    server.next_end();
    assert_eq!(ask(&mut late, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut late, 3, 8192);
    assert_eq!(ask(&mut later, GO, &go_data("disk")).0, ERR_POLICY);
}
