//! Three times ten thousand connections, most of them hostile: descriptors come back to where they
//! were, memory does not grow, and a client that was there before notices nothing. Alone in its
//! process, because it counts descriptors and pages.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use base::time::Duration;
use nbd_frontend::admission::Caps;
use support::client::*;
use support::server::Server;

const CONNECTIONS: usize = 10_000;
/// Hostile connections that are open at the same time.
const AT_ONCE: usize = 200;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// What a hostile client sends before it goes, stays silent, or resets.
fn bytes_of(number: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option(LIST, b""));
    bytes.extend(option(GO, &go_data("disk")));
    bytes.extend(request(1, 1, 0, 512));
    match number % 3 {
        0 => bytes.truncate(number % bytes.len()),
        1 => bytes[number % 24] ^= 1 << (number % 8),
        _ => bytes = (0..number % 300).map(|n| (n * number) as u8).collect(),
    }
    bytes
}

/// Memory of our own; pages of the program's file come and go with the kernel's mood.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

fn flood(server: &Server, attached: &mut TcpStream) {
    let mut open: Vec<TcpStream> = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = connect(server.address);
        // The server may have closed it already: that is its right.
        let _ = stream.write_all(&bytes_of(number));
        if number % 5 == 0 {
            let now = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&stream, now).expect("a socket");
        }
        open.push(stream);
        if open.len() == AT_ONCE {
            open.clear();
            write_and_read_back(attached, number as u64, 4096);
        }
    }
}

/// Each round trip through the acceptor gives it the time to see that the others have gone.
fn settle(server: &Server, before: usize) {
    for _ in 0..2_000 {
        if descriptors() <= before {
            return;
        }
        let mut probe = greeted(server.address);
        assert_eq!(ask(&mut probe, ABORT, b"").0, ACK);
        assert!(is_closed(&mut probe));
    }
    panic!("{before} descriptors before, {} after", descriptors());
}

#[test]
fn descriptors_and_memory_come_back_after_a_flood() {
    let server = Server::start(None, Caps { negotiating_max: 64, ..Caps::DEFAULT });
    let mut attached = greeted(server.address);
    assert_eq!(ask(&mut attached, GO, &go_data("disk")).0, ACK);
    write_and_read_back(&mut attached, 1, 0);
    let before = descriptors();
    let mut resident = Vec::new();
    for _ in 0..3 {
        flood(&server, &mut attached);
        settle(&server, before);
        let ends = server.ended.lock().expect("not poisoned").try_iter().count();
        assert!(ends > 0, "some of them were attached");
        resident.push(resident_bytes());
    }
    println!("resident after each flood: {resident:?}");
    assert!(resident[2] <= resident[1] + (4 << 20), "memory grows: {resident:?}");
    write_and_read_back(&mut attached, 7, 8192);
}
