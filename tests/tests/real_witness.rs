//! A witness as a real process: first claim, restart, wrong certificates, broken frames, floods,
//! logs that hang; and what it costs, with `STRETCH_SOAK=1` at 1, 100 and 1,000 pairs.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::frame::Header;
use base::identity::Kind;
use base::ids::{ConnNonce, Generation, PairId, Session, TokenNonce};
use base::io::clock;
use base::limits::WitnessTimers;
use base::rules::Rules;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustls::ClientConfig;
use stretch_tests::real::witness::{Witness, WitnessConnection, full_pipe, metric};
use stretch_tests::real::{isolated, soak, witness_program};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use witness::client::{Client, ClientConfig as ClientConfiguration, Event, Loss, TokenAt};
use witness::io::links::{LinkEvent, WitnessAddress, WitnessLinks};
use witness::wire::{Note, Question, Reply, TokenState, Verdict};

const PAIR: PairId = PairId([1; 16]);

/// A witness and the certificates of both nodes.
struct Setup {
    witness: Witness,
    nodes: [Arc<ClientConfig>; 2],
    _folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let witness = Witness::prepare(folder.path());
        let nodes = ["a", "b"].map(|name| witness.issue(Kind::Node, name));
        Self { witness, nodes, _folder: folder }
    }

    fn started() -> Self {
        let mut setup = Self::new();
        setup.witness.start();
        setup
    }

    fn open(&self, node: usize) -> WitnessConnection {
        self.open_pair(node, PAIR)
    }

    fn open_pair(&self, node: usize, pair_id: PairId) -> WitnessConnection {
        let peer = ["b", "a"][node];
        WitnessConnection::open(&self.nodes[node], pair_id, peer).expect("a connection")
    }

    fn both(&self) -> [WitnessConnection; 2] {
        [0, 1].map(|node| self.open(node))
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.witness.data_dir().join("events.jsonl"));
        let text = text.expect("it was written");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn lost_to(winner: &str) -> Verdict {
    Verdict::Lost { winner: winner.parse().expect("a name") }
}

fn note(session: u64) -> Note {
    let (session, generation) = (Session(session), Generation([2; 16]));
    Note { session, generation, winner: "a".parse().expect("a name"), forced: false }
}

#[test]
fn the_first_claim_wins_and_a_restart_forgets_all_but_the_notes() {
    isolated("the_first_claim_wins_and_a_restart_forgets_all_but_the_notes", || {
        let mut setup = Setup::started();
        let [mut a, mut b] = setup.both();
        let token = a.create(1);
        assert_eq!(b.ping(Some(token)), TokenState::Open);
        assert_eq!(b.ping(None), TokenState::Unknown);
        for _ in 0..2 {
            assert_eq!(a.claim(token), Verdict::Won);
            assert_eq!(b.claim(token), lost_to("a"));
        }
        assert_eq!(a.ask(Question::Note(note(7))).expect("an answer"), Reply::Noted);
        let status = setup.witness.end(Signal::TERM);
        assert_eq!(status.code(), Some(0), "{}", setup.witness.log());
        assert!(a.is_closed() && b.is_closed());
        setup.witness.start();
        let [mut a, mut b] = setup.both();
        for node in [&mut b, &mut a] {
            assert_eq!(node.ping(Some(token)), TokenState::Unknown);
            assert_eq!(node.claim(token), Verdict::Unknown);
        }
        assert_eq!(b.ask(Question::Who).expect("an answer"), Reply::Journal(vec![note(7)]));
        assert_eq!(setup.witness.end(Signal::INT).code(), Some(0));
        let events = setup.events();
        let told: Vec<(&str, &str)> = events
            .iter()
            .map(|event| {
                let text = |key: &str| event[key].as_str().unwrap_or_default();
                (text("event"), text("verdict"))
            })
            .collect();
        let first = [("run-begun", ""), ("created", ""), ("claimed", "won"), ("claimed", "lost")];
        assert_eq!(told[..4], first);
        let unknown = ("claimed", "unknown");
        let rest = [("noted", ""), ("stopped", ""), ("run-begun", ""), unknown, unknown];
        assert_eq!(told[4..], [&rest[..], &[("stopped", "")]].concat());
        assert!(events.iter().all(|event| !event["cause"].as_str().unwrap_or("").is_empty()));
    });
}

#[test]
fn a_kill_forgets_everything_and_a_node_of_another_pair_has_no_say() {
    isolated("a_kill_forgets_everything_and_a_node_of_another_pair_has_no_say", || {
        let mut setup = Setup::started();
        let mut a = setup.open(0);
        let token = a.create(1);
        let stranger = setup.witness.issue(Kind::Node, "c");
        for peer in ["a", "b"] {
            let mut c = WitnessConnection::open(&stranger, PAIR, peer).expect("a connection");
            assert_eq!(c.claim(token), Verdict::Unknown);
            c.create(1);
        }
        assert_eq!(a.ping(Some(token)), TokenState::Open);
        setup.witness.end(Signal::KILL);
        setup.witness.start();
        assert_eq!(setup.open(1).claim(token), Verdict::Unknown);
    });
}

#[test]
fn certificates_of_another_kind_or_ca_are_refused_with_the_reason() {
    isolated("certificates_of_another_kind_or_ca_are_refused_with_the_reason", || {
        let setup = Setup::started();
        for (kind, name) in [(Kind::Host, "h"), (Kind::Operator, "o"), (Kind::Witness, "v")] {
            let config = setup.witness.issue(kind, name);
            let mut connection = WitnessConnection::open(&config, PAIR, "b").expect("TLS works");
            let answer = connection.receive().expect("an answer");
            let Reply::Refused { reason } = answer.reply else { panic!("{answer:?}") };
            let says = format!("the certificate is of stretch:{}/{name}", kind.word());
            assert!(reason.contains(&says) && reason.contains("pki issue"), "{reason}");
            assert!(connection.is_closed());
            setup.witness.wait_for_log(&says);
        }
        let other = Setup::new();
        let foreign = WitnessConnection::open(&other.nodes[0], PAIR, "b");
        // In TLS 1.3 the client learns of it with the first answer.
        let refused = foreign.and_then(|mut connection| connection.receive());
        assert!(refused.is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
        let refused = metric("stretch_witness_refused_total{witness=\"w\"}");
        assert_eq!(refused, Some(4.0));
    });
}

#[test]
fn broken_frames_end_their_connection_and_nobody_elses() {
    isolated("broken_frames_end_their_connection_and_nobody_elses", || {
        let setup = Setup::started();
        let mut a = setup.open(0);
        let token = a.create(1);
        let header = Header {
            kind: 0x302,
            body_bytes: 96,
            payload_bytes: 0,
            session: Session(0),
            conn_nonce: ConnNonce([5; 16]),
            sequence: 0,
        };
        let long = Header { body_bytes: 64 << 10, ..header };
        let payload = Header { payload_bytes: 1 << 20, ..header };
        let second = Header { sequence: 1, ..header };
        let session = Header { session: Session(1), ..header };
        let answer = Header { kind: 0x303, ..header };
        let with_body = |header: Header| [&header.encode()[..], &[0; 96]].concat();
        let frames: [(Vec<u8>, &str); 7] = [
            (vec![b'x'; 200], "a frame starts with"),
            (long.encode().to_vec(), "a frame of 65536 bytes"),
            (payload.encode().to_vec(), "a frame of 1048672 bytes"),
            (with_body(second), "frame 1 where 0 was due"),
            (with_body(session), "of no session"),
            (with_body(answer), "unknown message kind"),
            (with_body(header), "names no peer"),
        ];
        for (bytes, says) in frames {
            let mut b = setup.open(1);
            b.send_bytes(&bytes).expect("it is taken");
            let refused = b.receive().expect("a reason");
            assert!(
                matches!(&refused.reply, Reply::Refused { reason } if reason.contains(says)),
                "{refused:?}"
            );
            assert!(b.is_closed(), "{says}");
            assert_eq!(a.ping(Some(token)), TokenState::Open);
        }
        // Half a frame, then the end.
        let mut b = setup.open(1);
        let frame = b.frame(Question::Who);
        b.send_bytes(&frame[..80]).expect("it is taken");
        drop(b);
        let plain = TcpStream::connect(Witness::ADDRESS).expect("it listens");
        (&plain).write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is taken");
        let _ = (&plain).read(&mut [0; 16]);
        assert_eq!(a.claim(token), Verdict::Won);
    });
}

#[test]
fn a_connection_is_of_one_pair_and_a_newer_one_takes_its_place() {
    isolated("a_connection_is_of_one_pair_and_a_newer_one_takes_its_place", || {
        let setup = Setup::started();
        let mut first = setup.open(0);
        let token = first.create(1);
        let mut other_pair = setup.open_pair(0, PairId([2; 16]));
        other_pair.create(1);
        let mut second = setup.open(0);
        assert_eq!(second.ping(Some(token)), TokenState::Open);
        assert!(first.is_closed());
        other_pair.ping(None);
        // A request about another pair than the first.
        let mut third = setup.open_pair(1, PairId([3; 16]));
        let strange = third.frame(Question::Who);
        let mut second_b = setup.open(1);
        second_b.send(Question::Ping { token: Some(token) }).expect("it is taken");
        second_b.receive().expect("an answer");
        let header = Header { sequence: 1, ..head_of(&strange) };
        second_b.send_bytes(&[&header.encode()[..], &strange[56..]].concat()).expect("taken");
        let refused = second_b.receive().expect("a reason");
        assert!(matches!(&refused.reply, Reply::Refused { reason } if reason.contains("pair")));
        assert!(second_b.is_closed());
    });
}

fn head_of(frame: &[u8]) -> Header {
    Header::decode(frame.first_chunk().expect("a header")).expect("our own")
}

#[test]
fn silent_connections_and_a_node_that_asks_without_end_hold_up_nobody() {
    isolated("silent_connections_and_a_node_that_asks_without_end_hold_up_nobody", || {
        let setup = Setup::started();
        allow_many_files();
        let mut a = setup.open(0);
        let token = a.create(1);
        let silent: Vec<TcpStream> = (0..600)
            .map(|_| TcpStream::connect(Witness::ADDRESS).expect("the kernel takes it"))
            .collect();
        let begun = Instant::now();
        let mut b = setup.open(1);
        assert_eq!(b.ping(Some(token)), TokenState::Open);
        println!("through after {:?}", begun.elapsed());
        drop(silent);
        // Everything at once: 100 are answered in the first second, and the next one waits.
        let flood = Instant::now();
        for _ in 0..150 {
            b.send(Question::Ping { token: Some(token) }).expect("it is taken");
        }
        for _ in 0..50 {
            b.receive().expect("an answer");
        }
        let begun = Instant::now();
        assert_eq!(a.ping(Some(token)), TokenState::Open);
        let waited = begun.elapsed();
        assert!(waited < Duration::from_millis(500), "{waited:?}");
        for _ in 50..150 {
            b.receive().expect("an answer");
        }
        assert!(flood.elapsed() >= Duration::from_millis(900), "{:?}", flood.elapsed());
    });
}

#[test]
fn logs_that_hang_stop_nothing() {
    isolated("logs_that_hang_stop_nothing", || {
        let mut setup = Setup::new();
        // stderr is full, and events.jsonl a pipe that nobody opens: whoever touches them waits.
        let (stderr, _reader) = full_pipe();
        let events = setup.witness.data_dir().join("events.jsonl");
        let status = Command::new("mkfifo").arg(&events).status().expect("coreutils");
        assert!(status.success());
        setup.witness.spawn(Stdio::from(stderr));
        let begun = Instant::now();
        while TcpStream::connect(Witness::ADDRESS).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let [mut a, mut b] = setup.both();
        let token = a.create(1);
        assert_eq!(b.claim(token), Verdict::Won);
        for _ in 0..50 {
            assert_eq!(a.claim(token), lost_to("b"));
            a.ask(Question::Note(note(8))).expect("an answer");
        }
        assert_eq!(setup.witness.end(Signal::TERM).code(), Some(0));
    });
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_and_the_code_is_2() {
    isolated("what_is_wrong_with_the_configuration_is_said_and_the_code_is_2", || {
        let setup = Setup::new();
        let file = setup.witness.config();
        let good = fs::read_to_string(&file).expect("it was made");
        let run = |text: &str| {
            fs::write(&file, text).expect("it can be written");
            let output = Command::new(witness_program()).arg("--config").arg(&file).output();
            let output = output.expect("it can be started");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for (from, to, code, says) in [
            ("name", "nmae", 2, "witness.toml:2: witness.nmae: unknown field"),
            ("\"pki/w\"", "\"pki/x\"", 2, "tls.dir: the identity cannot be used"),
            ("\"w\"\nlisten", "\"v\"\nlisten", 2, "this witness needs one for stretch:witness/v"),
            ("data_dir = \"w\"", "data_dir = \"none\"", 2, "none is no folder"),
            ("127.0.0.13:10812", "192.0.2.1:10812", 1, "cannot listen on 192.0.2.1:10812"),
        ] {
            let (status, stderr) = run(&good.replacen(from, to, 1));
            assert_eq!(status, Some(code), "{stderr}");
            assert!(stderr.contains(says), "{stderr}");
        }
        fs::remove_file(&file).expect("it is there");
        let output = Command::new(witness_program()).arg("--config").arg(&file).output();
        let output = output.expect("it can be started");
        assert_eq!(output.status.code(), Some(2));
    });
}

/// A node's client core on real connections.
struct Side {
    client: Client,
    links: WitnessLinks,
    events: mpsc::Receiver<LinkEvent>,
    lost: Vec<String>,
}

impl Side {
    fn new(tls: &Arc<ClientConfig>, peer: &str, witness: &str) -> Self {
        let (send, events) = mpsc::channel(16);
        let name = |text: &str| text.parse().expect("a name");
        let config = ClientConfiguration {
            pair_id: PAIR,
            peer: name(peer),
            witnesses: vec![name(witness)],
            timers: WitnessTimers::DEFAULT,
            rules: Rules::ALL_HOLD,
        };
        let address = Witness::ADDRESS.parse().expect("an address");
        let witnesses = vec![WitnessAddress { name: name(witness), address }];
        let local = "127.0.0.11:0".parse().expect("an address");
        let links = WitnessLinks::new(tls.clone(), local, witnesses, send);
        let client = Client::new(clock::now(), config);
        Self { client, links, events, lost: Vec::new() }
    }

    /// Turns until the group is told something that `wanted` takes.
    async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            while let Some(action) = self.client.poll_action() {
                if let Some(found) = self.links.carry_out(action).and_then(&mut wanted) {
                    return found;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "lost: {:?}", self.lost);
            let due = self.client.next_deadline().expect("there is always a next ping");
            let wait = tokio::time::timeout(due.since(clock::now()), self.events.recv()).await;
            let now = clock::now();
            match wait {
                Ok(Some(LinkEvent::Connected { attempt })) => {
                    self.client.handle_connected(now, attempt);
                }
                Ok(Some(LinkEvent::Answer { attempt, answer })) => {
                    self.client.handle_answer(now, attempt, answer);
                }
                Ok(Some(LinkEvent::Lost { attempt, why })) => {
                    self.lost.push(why);
                    self.client.handle_lost(now, attempt);
                }
                Ok(None) => panic!("the links hold the other end"),
                Err(_) => self.client.handle_time(now),
            }
        }
    }

    async fn state_of_token(&mut self) -> TokenState {
        self.until(|event| match event {
            Event::Token { state, .. } => Some(state),
            _ => None,
        })
        .await
    }

    async fn verdict(&mut self, token: &TokenAt) -> Verdict {
        self.client.claim(clock::now(), Some(token.clone()));
        self.until(|event| match event {
            Event::Verdict { verdict, .. } => Some(verdict),
            _ => None,
        })
        .await
    }
}

/// Runs on one thread, as a group does.
fn on_a_local_set(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, work);
}

#[test]
fn a_node_keeps_to_its_witness_through_loss_and_restart() {
    isolated("a_node_keeps_to_its_witness_through_loss_and_restart", || {
        let mut setup = Setup::started();
        on_a_local_set(async {
            let mut a = Side::new(&setup.nodes[0], "b", "w");
            let mut b = Side::new(&setup.nodes[1], "a", "w");
            for side in [&mut a, &mut b] {
                side.until(|event| matches!(event, Event::Stable { .. }).then_some(())).await;
            }
            a.client.create(clock::now(), Some(TokenNonce([1; 16])));
            let token = a.until(|event| match event {
                Event::Created { token, .. } => Some(token),
                _ => None,
            });
            let token = token.await;
            b.client.watch(clock::now(), Some(token.clone()));
            assert_eq!(b.state_of_token().await, TokenState::Open);
            assert_eq!(a.verdict(&token).await, Verdict::Won);
            let decided = TokenState::Decided("a".parse().expect("a name"));
            assert_eq!(b.state_of_token().await, decided);
            assert_eq!(b.verdict(&token).await, lost_to("a"));
            setup.witness.end(Signal::KILL);
            let killed = Instant::now();
            let lost = |event| matches!(event, Event::Lost { why: Loss::Silent, .. }).then_some(());
            b.until(lost).await;
            let after = killed.elapsed();
            assert!(
                after > Duration::from_millis(600) && after < Duration::from_secs(2),
                "{after:?}"
            );
            setup.witness.start();
            assert_eq!(b.state_of_token().await, TokenState::Unknown);
            assert_eq!(b.verdict(&token).await, Verdict::Unknown);
            assert!(!b.client.is_stable() && b.client.is_reachable());
        });
    });
}

#[test]
fn a_node_does_not_speak_with_somebody_else_and_hears_why_it_is_refused() {
    isolated("a_node_does_not_speak_with_somebody_else_and_hears_why_it_is_refused", || {
        let setup = Setup::started();
        let host = setup.witness.issue(Kind::Host, "h");
        on_a_local_set(async {
            let mut refused = Side::new(&host, "b", "w");
            let reason = refused.until(|event| match event {
                Event::Refused { reason, .. } => Some(reason),
                _ => None,
            });
            assert!(reason.await.contains("the certificate is of stretch:host/h"));
            assert!(!refused.client.is_reachable());
            let mut other = Side::new(&setup.nodes[0], "b", "v");
            let told = tokio::time::timeout(Duration::from_secs(1), other.until(Some)).await;
            assert!(told.is_err(), "{told:?}");
            let why = "its certificate is of stretch:witness/w, not of stretch:witness/v";
            assert!(other.lost[0].contains(why), "{:?}", other.lost);
        });
    });
}

/// Raises this process's own limit.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(Some(16384), |maximum| Some(maximum.min(16384)));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).expect("below the hard limit");
}

/// A witness's own memory without pairs and connections, at most.
const OWN_KIB: u64 = 2048;

/// What a witness costs with so many pairs, both nodes of each connected and pinging; returns what
/// is too much.
fn cost(pairs: usize, seconds: u64) -> Vec<String> {
    let setup = Setup::started();
    allow_many_files();
    let empty_kib = setup.witness.memory_kib();
    let mut connections = Vec::new();
    for pair in 0..pairs {
        let mut pair_id = PairId([9; 16]);
        pair_id.0[..8].copy_from_slice(&(pair as u64).to_le_bytes());
        let mut a = setup.open_pair(0, pair_id);
        let token = a.create(1);
        connections.push((a, token));
        connections.push((setup.open_pair(1, pair_id), token));
    }
    // Every connection pings every 300 ms, all of them evenly apart.
    let slices = 30.min(connections.len());
    let (begun, used) = (Instant::now(), setup.witness.processor_time());
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let until = begun + Duration::from_millis(300 * round / slices as u64);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let slice = round as usize % slices;
        for (connection, token) in connections.iter_mut().skip(slice).step_by(slices) {
            connection.send(Question::Ping { token: Some(*token) }).expect("it is taken");
        }
        for (connection, _) in connections.iter_mut().skip(slice).step_by(slices) {
            connection.receive().expect("an answer");
        }
        round += 1;
    }
    let took = begun.elapsed();
    let used = setup.witness.processor_time() - used;
    let pings = round as f64 * connections.len() as f64 / slices as f64;
    let wanted = took.as_secs_f64() / 0.3 * connections.len() as f64;
    let kib = setup.witness.memory_kib();
    let own_kib = setup.witness.own_memory_kib();
    let parts_kib = pairs as u64 + 40 * connections.len() as u64;
    let bound_kib = 8192 + parts_kib;
    let share = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    let each = (kib - empty_kib) as f64 / connections.len() as f64;
    println!(
        "{pairs} pairs, {} connections: {kib} KiB of {bound_kib} ({own_kib} its own, {empty_kib} without any, \
         {each:.1} for each connection), {share:.1} % of one core, {:.0} pings/s of {:.0}, {:.1} us each",
        connections.len(),
        pings / took.as_secs_f64(),
        wanted / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / pings,
    );
    let tokens = metric("stretch_witness_tokens{witness=\"w\"}").expect("it is shown");
    assert_eq!(tokens, pairs as f64);
    // Only what is released is small and quick enough to be measured.
    if !witness_program().to_string_lossy().contains("/release/") {
        return Vec::new();
    }
    let own_bound_kib = OWN_KIB + parts_kib;
    let own = (own_kib <= own_bound_kib, format!("{own_kib} KiB its own, {own_bound_kib} allowed"));
    if !soak(false, true) {
        // What a busy machine does not change.
        return Some(own).into_iter().filter(|(good, _)| !good).map(|(_, text)| text).collect();
    }
    let bounds = [
        own,
        (kib <= bound_kib, format!("{pairs} pairs: {kib} KiB, {bound_kib} allowed")),
        (share < 15.0, format!("{pairs} pairs: {share:.1} % of one core")),
        (pings > 0.95 * wanted, format!("{pairs} pairs: the load came late, {pings} of {wanted}")),
    ];
    bounds.into_iter().filter(|(good, _)| !good).map(|(_, text)| text).collect()
}

#[test]
fn memory_and_processor_time_are_small() {
    isolated("memory_and_processor_time_are_small", || {
        let pairs = soak(&[1, 20][..], &[1, 100, 1000]);
        let too_much: Vec<_> = pairs.iter().flat_map(|pairs| cost(*pairs, soak(3, 20))).collect();
        assert!(too_much.is_empty(), "{too_much:?}");
    });
}
