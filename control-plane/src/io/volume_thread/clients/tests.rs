use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use base::limits::{REQUEST_BYTES_MAX, VOLUME_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, poll};

use super::super::hosts::attached;
use super::*;

/// `count` clients, with the hosts' ends of their connections.
fn attach(clients: &mut Clients, count: usize) -> Vec<TcpStream> {
    let (attached, hosts) = attached(count);
    for client in attached {
        let id = clients.next_id();
        clients.attach(id, client);
    }
    hosts
}

fn header(command: u16, cookie: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(0u64.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Notes and keeps; open while `turns` are left.
struct Book {
    turns: Option<usize>,
    taken: Vec<RequestId>,
}

impl Intake for Book {
    fn is_open(&self) -> bool {
        self.turns != Some(0)
    }

    fn take(&mut self, id: RequestId, _: Operation) {
        self.turns = self.turns.map(|turns| turns - 1);
        self.taken.push(id);
    }
}

/// Waits until a connection can be received from, as epoll does for the loop.
fn wait_readable(clients: &mut Clients) {
    let ids: Vec<_> = clients.connections.keys().copied().collect();
    let revents: Vec<_> = {
        let sockets = clients.connections.values();
        let mut fds: Vec<_> =
            sockets.map(|c| PollFd::from_borrowed_fd(c.socket.fd(), PollFlags::IN)).collect();
        poll(&mut fds, None).expect("poll");
        fds.iter().map(PollFd::revents).collect()
    };
    for (id, revents) in ids.iter().zip(revents) {
        clients.note(id.0, revents.contains(PollFlags::IN), false);
    }
}

#[test]
fn many_large_writes_stay_within_the_memory_of_a_volume_and_all_are_served() {
    const HOSTS: usize = 14;
    const WRITES: u64 = 2;
    let mut clients = Clients::default();
    let hosts = attach(&mut clients, HOSTS);
    let data = Arc::new(vec![7; REQUEST_BYTES_MAX as usize]);
    let threads: Vec<_> = hosts
        .into_iter()
        .map(|mut host| {
            let data = data.clone();
            thread::spawn(move || {
                for cookie in 0..WRITES {
                    host.write_all(&header(1, cookie, REQUEST_BYTES_MAX)).expect("sent");
                    host.write_all(&data).expect("sent");
                }
                let mut replies = [0; 16 * WRITES as usize];
                host.read_exact(&mut replies).expect("every write is answered");
            })
        })
        .collect();
    let mut scratch = vec![0; 256 << 10];
    let mut book = Book { turns: None, taken: Vec::new() };
    let mut latencies = Latencies::default();
    let (mut answered, mut most) = (0, 0);
    while answered < HOSTS as u64 * WRITES {
        clients.receive(&mut scratch, &mut book);
        most = most.max(clients.budget.used_bytes());
        if !clients.has_input() {
            if book.taken.is_empty() {
                wait_readable(&mut clients);
            } else {
                // The volume completes the oldest one only when nothing more is taken.
                let (id, now) = (book.taken.remove(0), clock::now());
                clients.complete(id, Completion::Done, Stages::default(), now, &mut latencies);
                answered += 1;
            }
        }
        clients.flush();
    }
    for thread in threads {
        thread.join().expect("a host");
    }
    assert!(most >= VOLUME_BYTES_MAX, "there was more than the bound to have: {most}");
    assert!(most <= VOLUME_BYTES_MAX + u64::from(REQUEST_BYTES_MAX), "{most} bytes");
}

#[test]
fn a_busy_client_does_not_take_the_turn_of_the_others() {
    let mut clients = Clients::default();
    let mut hosts = attach(&mut clients, 5);
    let mut scratch = vec![0; 64 << 10];
    let mut book = Book { turns: None, taken: Vec::new() };
    for host in &mut hosts {
        host.write_all(&header(3, 0, 0)).expect("sent");
    }
    for pass in 1..=5 {
        wait_readable(&mut clients);
        book.turns = Some(1);
        clients.receive(&mut scratch, &mut book);
        assert_eq!(book.taken.len(), pass, "one client has its turn");
        // The first one always has more.
        hosts[0].write_all(&header(3, pass as u64, 0)).expect("sent");
    }
    let mut served: Vec<_> = book.taken.iter().map(|id| id.client).collect();
    served.sort();
    assert!(served.iter().eq(clients.connections.keys()), "each had one: {served:?}");
}
