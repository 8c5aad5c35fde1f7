//! The nodes lose each other for a moment and for longer: link dropped silently, one way, reset,
//! and a node that stands still. Nobody answers while they are apart; after 1 s they are back by
//! themselves; after 8 s their clients were closed at T_hold.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base::limits::Timers;
use bytes::Bytes;
use client::connection::Connection;
use client::driver::{now_ns, start};
use client::history::History;
use client::wire::Request;
use stretch_tests::real::isolated;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(20);
/// Silence is noticed after T_sus; the rest is for a machine with other things to do.
const NOTICED: Duration = Duration::from_millis(800);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Dropped,
    TowardsA,
    TowardsB,
    Reset,
    Frozen(usize),
}

impl Fault {
    fn begin(self, pair: &Pair) {
        match self {
            Self::Dropped => pair.link.cut(),
            Self::TowardsA => pair.link.cut_towards(Pair::ADDRESSES[0]),
            Self::TowardsB => pair.link.cut_towards(Pair::ADDRESSES[1]),
            Self::Reset => pair.link.refuse(),
            Self::Frozen(node) => [&pair.a, &pair.b][node].freeze(),
        }
    }

    fn end(self, pair: &Pair) {
        match self {
            Self::Dropped | Self::TowardsA | Self::TowardsB | Self::Reset => pair.link.heal(),
            Self::Frozen(node) => [&pair.a, &pair.b][node].thaw(),
        }
    }
}

/// Requests that were acknowledged although the nodes were apart.
fn answered_apart(history: &History, begin_ns: u64, end_ns: u64) -> usize {
    let noticed_ns = begin_ns + u64::try_from(NOTICED.as_nanos()).expect("small");
    let apart = |at: u64| at > noticed_ns && at < end_ns;
    history.records.iter().filter(|r| r.is_done() && r.end_ns.is_some_and(apart)).count()
}

/// An idle client of each node that asks for something while the nodes are apart.
struct Held([Connection; 2]);

impl Held {
    const AT: u64 = 8 << 20;

    fn connect() -> Self {
        Self([0, 1].map(|node| {
            let mut connection = Pair::connect(node);
            connection.stream().set_read_timeout(Some(LIMIT)).expect("set");
            connection
        }))
    }

    fn ask(&mut self) {
        for (offset, connection) in (Self::AT..).step_by(4096).zip(&mut self.0) {
            let data = Bytes::from_static(&[0x5a; 4096]);
            let write = Request::Write { offset, data, fua: false };
            connection.send(&write).expect("taken by the kernel");
            connection.send(&Request::Read { offset: 0, length: 512 }).expect("taken");
        }
    }

    /// What was asked is answered.
    fn check(self, fault: Fault) {
        for (node, mut connection) in self.0.into_iter().enumerate() {
            for _ in 0..2 {
                match connection.receive() {
                    Ok(reply) => assert_eq!(reply.error, 0, "{fault:?}: node {node}"),
                    Err(error) => panic!("{fault:?}: node {node}: {error}"),
                }
            }
            let at = Self::AT + 4096 * node as u64;
            let seen = connection.read(at, 4096).expect("it serves");
            assert!(seen.iter().all(|byte| *byte == 0x5a), "{fault:?}: a held write is gone");
        }
    }
}

fn for_a_moment(fault: Fault) {
    let pair = Pair::running(SIZE);
    let config = Pair::client(21);
    let running = start(config.clone()).expect("both serve");
    assert!(running.wait_for_progress(1, 200, LIMIT));
    let mut held = Held::connect();
    let (begin, begin_ns) = (Instant::now(), now_ns());
    fault.begin(&pair);
    running.let_run(NOTICED);
    held.ask();
    running.let_run(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    let end_ns = now_ns();
    fault.end(&pair);
    held.check(fault);
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 200, LIMIT), "{fault:?}: node {node}");
    }
    let history = running.stop();
    assert_eq!(answered_apart(&history, begin_ns, end_ns), 0, "{fault:?}: answered while apart");
    let counts = pair.close(&config, history);
    println!("{fault:?} for a moment: {counts:?}");
}

/// Asks for a read and waits until the node closes the connection instead of answering: how long
/// after `begin`.
fn closed_unanswered(node: usize, begin: Instant) -> JoinHandle<Duration> {
    let mut connection = Pair::connect(node);
    connection.stream().set_read_timeout(Some(LIMIT)).expect("set");
    thread::spawn(move || {
        connection.send(&Request::Read { offset: 0, length: 512 }).expect("taken by the kernel");
        let error = connection.receive().expect_err("nobody may answer");
        assert!(error.is_closed(), "{error}");
        begin.elapsed()
    })
}

fn for_long(fault: Fault) {
    let pair = Pair::running(SIZE);
    let config = Pair::client(22);
    let running = start(config.clone()).expect("both serve");
    assert!(running.wait_for_progress(1, 200, LIMIT));
    let (begin, begin_ns) = (Instant::now(), now_ns());
    fault.begin(&pair);
    running.let_run(NOTICED);
    let alive = [0, 1].into_iter().filter(|node| fault != Fault::Frozen(*node));
    let probes: Vec<_> = alive.map(|node| closed_unanswered(node, begin)).collect();
    running.let_run(Duration::from_secs(8).saturating_sub(begin.elapsed()));
    let end_ns = now_ns();
    fault.end(&pair);
    for probe in probes {
        let after = probe.join().expect("closed");
        let hold = Timers::DEFAULT.hold;
        assert!(after >= hold && after < hold + Duration::from_secs(2), "{fault:?}: {after:?}");
    }
    for node in 0..2 {
        assert!(running.wait_for_progress(node, 200, LIMIT), "{fault:?}: node {node}");
    }
    let history = running.stop();
    assert_eq!(answered_apart(&history, begin_ns, end_ns), 0, "{fault:?}: answered while apart");
    let counts = pair.close(&config, history);
    // One that stood still closes its clients as it wakes up.
    for node in 0..2 {
        let lost = counts.connections_lost[node];
        assert!(lost >= config.connections, "{fault:?}: node {node} kept clients: {counts:?}");
    }
    println!("{fault:?} for long: {counts:?}");
}

macro_rules! faults {
    ($($name:ident: $fault:expr, $span:ident;)*) => {
        $(
            #[test]
            fn $name() {
                isolated(stringify!($name), || $span($fault));
            }
        )*
    };
}

faults! {
    link_dropped_for_a_moment: Fault::Dropped, for_a_moment;
    link_dropped_for_long: Fault::Dropped, for_long;
    link_dropped_towards_a_for_a_moment: Fault::TowardsA, for_a_moment;
    link_dropped_towards_a_for_long: Fault::TowardsA, for_long;
    link_dropped_towards_b_for_a_moment: Fault::TowardsB, for_a_moment;
    link_dropped_towards_b_for_long: Fault::TowardsB, for_long;
    link_reset_for_a_moment: Fault::Reset, for_a_moment;
    link_reset_for_long: Fault::Reset, for_long;
    node_a_frozen_for_a_moment: Fault::Frozen(0), for_a_moment;
    node_a_frozen_for_long: Fault::Frozen(0), for_long;
    node_b_frozen_for_a_moment: Fault::Frozen(1), for_a_moment;
    node_b_frozen_for_long: Fault::Frozen(1), for_long;
}
