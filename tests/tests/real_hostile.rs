//! Bad input beside a running stamped client: hosts that break every rule, peers that send
//! garbage, connections by the thousand, slow and half-open ones, resets at every byte. The client
//! notices nothing, and the nodes' descriptors and memory come back to where they were.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base::frame::Header;
use base::ids::{ConnNonce, Session, VolumeId, VolumeIndex};
use base::io::tls::{TlsIdentity, server_name};
use client::connection::{Connection, Haggling, dial};
use client::driver::{Running, start};
use client::wire::{
    GREETING_MAGIC, OPTION_MAGIC, RequestHeader, command, encode_info_request, encode_option,
    errno, option, reply,
};
use control_plane::wire::ControlMessage;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::net::{connect_unspec, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConnection, StreamOwned};
use stretch_tests::real::node::Node;
use stretch_tests::real::pair::{Pair, VOLUME};
use stretch_tests::real::{isolated, soak};

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(15);
/// Longest time without an answer that the client may see.
const GAP_MS: u64 = 500;
/// Outside what the stamped client uses and checks.
const ELSEWHERE: u64 = 16 << 20;
const ABSURD: u32 = 0xffff_ffff;

#[test]
fn bad_input_beside_a_running_client() {
    isolated("bad_input_beside_a_running_client", || {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to there");
        let pair = Pair::running(SIZE);
        let mut config = Pair::client(61);
        config.silence = LIMIT;
        let running = start(config.clone()).expect("both serve");
        for node in 0..2 {
            assert!(running.wait_for_progress(node, 100, LIMIT));
        }
        let descriptors = [&pair.a, &pair.b].map(descriptor_count);
        let mut memory = Vec::new();
        for round in 0..3 {
            one_round(&pair, &running);
            for (node, before) in [&pair.a, &pair.b].into_iter().zip(descriptors) {
                wait_for_descriptors(node, before);
            }
            memory.push([&pair.a, &pair.b].map(resident_kib));
            println!("round {round}: resident {:?} KiB", memory[round]);
        }
        for (second, third) in memory[1].into_iter().zip(memory[2]) {
            assert!(third <= second + (4 << 10), "memory grows: {memory:?} KiB");
        }
        let counts = pair.close(&config, running.stop());
        println!("{counts:?}");
        assert_eq!((counts.errors, counts.unknown, counts.connections_lost_total()), (0, 0, 0));
        assert!(counts.longest_gap_ms.iter().all(|gap| *gap <= GAP_MS), "{counts:?}");
    });
}

fn one_round(pair: &Pair, running: &Running) {
    let steps: [(&str, &dyn Fn(SocketAddr)); 7] = [
        ("haggling", &break_haggling),
        ("requests", &break_requests),
        ("ends", &end_at_every_byte),
        ("slow", &|address| slow_and_half_open(address, running)),
        ("stopped hosts", &|address| hosts_that_stop(address, running)),
        ("many", &many_connections),
        ("garbage", &|address| {
            // The node with the smaller name dials its peer and does not listen for it.
            let peer_port = (address == Pair::nbd(1)).then_some(10810);
            for port in [10809, 10811, 10813].into_iter().chain(peer_port) {
                garbage_at(SocketAddr::new(address.ip(), port));
            }
        }),
    ];
    for (name, step) in steps {
        let began = Instant::now();
        for node in 0..2 {
            step(Pair::nbd(node));
            assert!(running.wait_for_progress(node, 20, LIMIT), "after {name}: node {node}");
        }
        println!("{name}: {:?}", began.elapsed());
    }
    garbage_from_a_peer(pair);
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 20, LIMIT), "after a peer's garbage: node {node}");
    }
}

fn haggling(address: SocketAddr) -> Haggling {
    Haggling::begin(address, None, LIMIT).expect("a greeting")
}

/// Every answer of the haggling phase to something that is against its rules.
fn break_haggling(address: SocketAddr) {
    let name_too_long = [&ABSURD.to_be_bytes()[..], b"vol0", &[0, 0]].concat();
    let refused: [(u32, &[u8], u32); 8] = [
        (0x77, b"data", reply::ERR_UNSUP),
        (option::LIST, b"data", reply::ERR_INVALID),
        (option::STRUCTURED_REPLY, b"data", reply::ERR_INVALID),
        (option::GO, b"", reply::ERR_INVALID),
        (option::GO, &name_too_long, reply::ERR_INVALID),
        (option::INFO, &name_too_long, reply::ERR_INVALID),
        (option::GO, &encode_info_request("no such volume", &[]), reply::ERR_UNKNOWN),
        (option::INFO, &encode_info_request("vol0\0junk", &[]), reply::ERR_INVALID),
    ];
    let mut connection = haggling(address);
    connection.answer_usual().expect("taken");
    for (option, data, expected) in refused {
        let answer = connection.ask(option, data).expect("the connection stays");
        let kind = answer.last().expect("an answer").kind;
        assert_eq!(kind, expected, "option {option} with {data:?}");
    }
    let answer = connection.ask(option::ABORT, b"").expect("an answer");
    assert_eq!(answer.last().expect("an answer").kind, reply::ACK);

    let closing: [Vec<u8>; 4] = [
        4u32.to_be_bytes().to_vec(),
        [&3u32.to_be_bytes()[..], &GREETING_MAGIC.to_be_bytes(), &[0; 8]].concat(),
        [&3u32.to_be_bytes()[..], &encode_option(option::EXPORT_NAME, b"no such")].concat(),
        [&1u32.to_be_bytes()[..], &[0xff; 64]].concat(),
    ];
    for bytes in closing {
        let mut connection = haggling(address);
        connection.stream().write_all(&bytes).expect("taken");
        assert_closed(connection.stream(), &bytes);
    }
    // An option of 4 GiB: skipped or refused, but never waited for in memory.
    let mut connection = haggling(address);
    connection.answer_usual().expect("taken");
    let head = [&OPTION_MAGIC.to_be_bytes()[..], &7u32.to_be_bytes(), &ABSURD.to_be_bytes()];
    connection.stream().write_all(&head.concat()).expect("taken");
    // It may be closed in the middle.
    let _closed = connection.stream().write_all(&[0; 1 << 20]);
}

fn assert_closed(stream: &mut TcpStream, because: &[u8]) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "not closed after {because:?}: {error}"
        ),
    }
}

/// Every answer to a request that is against the rules; the connection stays in step.
fn break_requests(address: SocketAddr) {
    let target = client::connection::Target::new(address, VOLUME);
    let mut connection = Connection::open(&target).expect("it serves");
    let refused: [(u16, u16, u64, u32, &[u32]); 12] = [
        (command::READ, 0, SIZE, 512, &[errno::EINVAL]),
        (command::READ, 0, SIZE - 512, 1024, &[errno::EINVAL]),
        (command::READ, 0, u64::MAX - 511, 512, &[errno::EINVAL]),
        (command::READ, 0x8000, 0, 512, &[errno::EINVAL]),
        (command::READ, 0, 0, (32 << 20) + 512, &[errno::EINVAL, errno::EOVERFLOW]),
        (command::TRIM, 0, SIZE, 512, &[errno::EINVAL]),
        (command::WRITE_ZEROES, 0, SIZE, 512, &[errno::ENOSPC]),
        (command::WRITE_ZEROES, 0, 0, ABSURD, &[errno::ENOSPC]),
        (command::CACHE, 0, SIZE, 512, &[errno::EINVAL]),
        (command::BLOCK_STATUS, 0, 0, 512, &[errno::EINVAL]),
        (99, 0, 0, 512, &[errno::EINVAL]),
        (0xffff, 0xffff, u64::MAX, ABSURD, &[errno::EINVAL]),
    ];
    for (cookie, (command, flags, offset, length, expected)) in (1000..).zip(refused) {
        let header = RequestHeader { flags, command, cookie, offset, length };
        connection.send_raw(header, &[]).expect("taken");
        let reply = connection.receive().expect("the connection stays");
        assert!(expected.contains(&reply.error), "{header:?} is answered by {}", reply.error);
    }
    // The payload of a refused write is consumed.
    let beyond = RequestHeader {
        flags: 0,
        command: command::WRITE,
        cookie: 2000,
        offset: SIZE - 512,
        length: 1024,
    };
    connection.send_raw(beyond, &[7; 1024]).expect("taken");
    assert_eq!(connection.receive().expect("the connection stays").error, errno::ENOSPC);
    connection.read(0, 512).expect("still in step");
    connection.disconnect().expect("closed");

    let mut connection = Connection::open(&target).expect("it serves");
    connection.stream().write_all(&[0xee; 28]).expect("taken");
    assert_closed(connection.stream(), b"a wrong magic");
    // A write of 4 GiB: closed or refused, but never waited for in memory.
    let mut connection = Connection::open(&target).expect("it serves");
    let absurd = RequestHeader { offset: 0, length: ABSURD, ..beyond };
    connection.send_raw(absurd, &[]).expect("taken");
    let _closed = connection.stream().write_all(&[0; 1 << 20]);
}

/// A whole life of a connection as bytes, sent up to each of them and then reset, or closed.
fn end_at_every_byte(address: SocketAddr) {
    let write = RequestHeader {
        flags: 0,
        command: command::WRITE,
        cookie: 1,
        offset: ELSEWHERE,
        length: 512,
    };
    let read = RequestHeader { command: command::READ, cookie: 2, ..write };
    let haggling = [
        &3u32.to_be_bytes()[..],
        &encode_option(option::STRUCTURED_REPLY, &[]),
        &encode_option(option::GO, &encode_info_request(VOLUME, &[3])),
    ]
    .concat();
    let life = [&haggling[..], &write.encode(), &[0x77; 512], &read.encode()].concat();
    for end in 0..=life.len() {
        for reset in [true, false] {
            let mut stream = dial(address, None, LIMIT).expect("accepted");
            // The server may have closed already; then there is nothing to end.
            let _closed = stream.write_all(&life[..end]);
            end_it(&mut stream, reset);
        }
    }
    // The same with a server that has answered everything before: it waits for the next byte.
    let target = client::connection::Target::new(address, VOLUME);
    let requests = &life[haggling.len()..];
    for end in 0..=requests.len() {
        let mut connection = Connection::open(&target).expect("it serves");
        connection.stream().write_all(&requests[..end]).expect("taken");
        end_it(connection.stream(), end % 2 == 0);
    }
}

fn end_it(stream: &mut TcpStream, reset: bool) {
    if reset {
        let _closed = connect_unspec(&*stream);
    } else {
        let _closed = stream.shutdown(std::net::Shutdown::Write);
        assert_closed(stream, b"the end of what we say");
    }
}

/// Connections that say nothing, half of something, or a byte now and then.
fn slow_and_half_open(address: SocketAddr, running: &Running) {
    let mut streams: Vec<TcpStream> =
        (0..60).map(|_| dial(address, None, LIMIT).expect("accepted")).collect();
    let bytes = [&3u32.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &[0; 3]].concat();
    for byte in &bytes {
        for stream in &mut streams[20..] {
            let _closed = stream.write_all(&[*byte]);
        }
        running.let_run(Duration::from_millis(20));
    }
    for stream in &streams[40..] {
        let _closed = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Attached hosts that stop in the middle of large writes or do not read what they asked for:
/// more than a volume gives room to.
fn hosts_that_stop(address: SocketAddr, running: &Running) {
    let target = client::connection::Target::new(address, VOLUME);
    let length = 16 << 20;
    let write =
        RequestHeader { flags: 0, command: command::WRITE, cookie: 1, offset: ELSEWHERE, length };
    let read = RequestHeader { command: command::READ, ..write };
    let stopped: Vec<Connection> = (0..48)
        .map(|number| {
            let mut connection = Connection::open(&target).expect("it serves");
            let request = if number % 2 == 0 { read } else { write };
            connection.send_raw(request, &[7; 4096][..4096 * (number % 2)]).expect("taken");
            connection
        })
        .collect();
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 500, LIMIT), "beside stopped hosts: node {node}");
    }
    drop(stopped);
}

/// More connections than a node takes, at once; each is greeted or closed.
fn many_connections(address: SocketAddr) {
    let mut streams = Vec::new();
    for _ in 0..soak(2_000, 10_000) {
        if let Ok(stream) = dial(address, None, LIMIT) {
            streams.push(stream);
        }
    }
    assert!(streams.len() > 1_000, "only {} connections", streams.len());
}

fn garbage_at(address: SocketAddr) {
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(address.port()));
    for length in [1, 5, 16, 100, 1000, 100_000] {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        let mut stream = dial(address, None, LIMIT).expect("accepted");
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
        let _closed = stream.write_all(&bytes);
    }
}

/// What somebody with a's certificate sends to b, where the real a is connected.
fn garbage_from_a_peer(pair: &Pair) {
    let identity = pair.folder().join("pki").join("a");
    let config = TlsIdentity::load_client(&identity).expect("the demo made it");
    let nonce = ConnNonce([7; 16]);
    let good = ControlMessage::AaGo { session: Session(1) }.encode(nonce, 0);
    let mut damaged = good.clone();
    damaged[9] ^= 1;
    let header = |kind, body_bytes| Header {
        kind,
        body_bytes,
        payload_bytes: 0,
        session: Session(1),
        conn_nonce: nonce,
        sequence: 0,
    };
    let mut endless = header(1, 0).encode();
    endless[8..16].fill(0xff);
    let unknown = header(0x7777, 4).encode();
    let bind = |volume, id| {
        let volume_id = VolumeId([id; 16]);
        ControlMessage::DataBind { volume: VolumeIndex(volume), volume_id, conn_nonce: nonce }
            .encode(nonce, 0)
    };
    let frames: [Vec<u8>; 9] = [
        good[..10].to_vec(),
        good[..good.len() - 1].to_vec(),
        damaged,
        [good.clone(), good].concat(),
        endless.to_vec(),
        [&unknown[..], &[0; 4]].concat(),
        header(1, 60_000).encode().to_vec(),
        bind(0, 1),
        [&bind(9_999, 0)[..], &[0xff; 5000]].concat(),
    ];
    let address = SocketAddr::new(Pair::ADDRESSES[1], 10810);
    for frame in frames {
        let stream = dial(address, None, LIMIT).expect("accepted");
        let tls = ClientConnection::new(config.clone(), server_name()).expect("a configuration");
        let mut stream = StreamOwned::new(tls, stream);
        stream.write_all(&frame).expect("the certificate is good");
        stream.flush().expect("sent");
        stream.conn.send_close_notify();
        let _closed = stream.flush();
    }
}

fn descriptor_count(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it runs").count()
}

fn wait_for_descriptors(node: &Node, before: usize) {
    let until = Instant::now() + LIMIT;
    while descriptor_count(node) > before {
        assert!(
            Instant::now() < until,
            "{} keeps {} descriptors, before it were {before}",
            node.name,
            descriptor_count(node)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
