//! `GET /metrics` of both nodes: what was done is there, under the names that the documents say.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use stretch_tests::real::isolated;
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 16 << 20;
const PORT: u16 = 10813;
/// What is measured is shown about a second later.
const LIMIT: Duration = Duration::from_secs(10);
/// Documented, but not shown by a node that does not track it.
const LATER: &str = "stretch_dirty_bytes";

/// The text of one scrape.
fn scrape(node: usize) -> String {
    let address = SocketAddr::new(Pair::ADDRESSES[node], PORT);
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.0 200 OK"), "{head}");
    body.to_owned()
}

/// The value of a sample, by its name and all its labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// Scrapes until `sample` has at least this value.
fn wait_for(node: usize, sample: &str, at_least: f64) -> String {
    let until = Instant::now() + LIMIT;
    loop {
        let text = scrape(node);
        if value(&text, sample).is_some_and(|value| value >= at_least) {
            return text;
        }
        assert!(Instant::now() < until, "no {sample} of {at_least} in\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The names of all metrics that are described.
fn names(text: &str) -> BTreeSet<String> {
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    described.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

/// The names in the table of OPERATIONS.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = fs::read_to_string(path).expect("it is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `stretch_"));
    rows.filter_map(|row| Some(format!("stretch_{}", row.split_once('`')?.0))).collect()
}

#[test]
fn metrics_show_what_was_done_under_their_documented_names() {
    isolated("metrics_show_what_was_done_under_their_documented_names", || {
        let mut pair = Pair::running(SIZE);
        for node in 0..2 {
            let mut host = Pair::connect(node);
            for block in 0..8 {
                host.write(block * 8192, &[7; 8192]).expect("it serves");
            }
            host.read(0, 4096).expect("it serves");
            host.write_zeroes(0, 4096).expect("it serves");
            host.trim(4096, 4096).expect("it serves");
            host.cache(0, 4096).expect("it serves");
            host.flush().expect("it serves");
            host.disconnect().expect("it serves");
            let name = ["a", "b"][node];
            let count = |op: &str, phase: &str| {
                let labels =
                    format!("node=\"{name}\",op=\"{op}\",phase=\"{phase}\",volume=\"vol0\"");
                format!("stretch_request_seconds_count{{{labels}}}")
            };
            let text = wait_for(node, &count("flush", "total"), 1.0);
            for op in ["write", "read", "write_zeroes", "trim", "flush", "cache"] {
                let expected = if op == "write" { 8.0 } else { 1.0 };
                for phase in ["queue", "order", "local", "peer", "total"] {
                    let there = match phase {
                        "peer" => !["read", "cache"].contains(&op),
                        // It is answered before the disk is asked.
                        "local" => op != "cache",
                        _ => true,
                    };
                    let expected = if there { expected } else { 0.0 };
                    let found = value(&text, &count(op, phase)).unwrap_or_default();
                    assert_eq!(found, expected, "{op} {phase} in\n{text}");
                }
            }
            let sum = |phase| {
                let sample = count("write", phase).replace("_count", "_sum");
                value(&text, &sample).expect("it is there")
            };
            assert!(sum("peer") > 0.0 && sum("local") > 0.0);
            let parts = sum("queue") + sum("order") + sum("local").max(sum("peer"));
            // Microseconds, two digits of them, and the end of the turn.
            assert!(sum("total") > parts * 0.95, "{} {parts}", sum("total"));
            let bytes = |op: &str| {
                format!(
                    "stretch_request_bytes_total{{node=\"{name}\",op=\"{op}\",volume=\"vol0\"}}"
                )
            };
            assert_eq!(value(&text, &bytes("write")), Some(65536.0));
            assert_eq!(value(&text, &bytes("read")), Some(4096.0));
        }
        check_states_and_names(&pair);
        pair.stop();
    });
}

fn check_states_and_names(pair: &Pair) {
    let active = |node: &str| format!("stretch_state{{node=\"{node}\",state=\"active-active\"}}");
    let went = |node: &str, from: &str, to: &str| {
        format!("stretch_state_transitions_total{{node=\"{node}\",from=\"{from}\",to=\"{to}\"}}")
    };
    let text = wait_for(0, &active("a"), 1.0);
    assert_eq!(value(&text, &went("a", "starting", "resync-source")), Some(1.0), "{text}");
    let joined = value(&text, &went("a", "resync-source", "active-active")).expect("it did");
    let mut documented = documented();
    assert!(documented.remove(LATER));
    assert_eq!(names(&text), documented);
    pair.b.freeze();
    wait_for(0, &went("a", "active-active", "deciding"), 1.0);
    pair.b.thaw();
    wait_for(0, &went("a", "resync-source", "active-active"), joined + 1.0);
    let text = wait_for(1, &active("b"), 1.0);
    assert_eq!(names(&text), documented);
    assert_eq!(value(&text, &went("b", "starting", "resync-target")), Some(1.0), "{text}");
}
