use std::io::{Read, Write};

use super::*;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn volume() -> VolumeName {
    "vol0".parse().expect("a name")
}

/// The value of the line that begins with `start` in the text of `GET /metrics`.
fn value(text: &str, start: &str) -> f64 {
    let mut found = text.lines().filter(|line| line.starts_with(start));
    let line = found.next().unwrap_or_else(|| panic!("no {start} in\n{text}"));
    assert_eq!(found.next(), None, "{start} is there twice");
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn latencies_become_classic_buckets() {
    let mut metrics = Metrics::new(&name("a"));
    let mut measured = Latencies::default();
    for _ in 0..3 {
        measured.record(Op::Write, Phase::Total, Duration::from_micros(80));
    }
    measured.record(Op::Write, Phase::Total, Duration::from_millis(3));
    measured.record(Op::Write, Phase::Peer, Duration::from_secs(1000));
    measured.count_bytes(Op::Write, 4096);
    measured.count_error(Op::Read);
    metrics.fold(&volume(), &mut measured);
    let text = metrics.page().render();
    let bucket = |le: &str| {
        let key = "stretch_request_seconds_bucket";
        value(
            &text,
            &format!(
                "{key}{{node=\"a\",op=\"write\",phase=\"total\",volume=\"vol0\",le=\"{le}\"}}"
            ),
        )
    };
    assert_eq!(bucket("0.00005"), 0.0);
    assert_eq!(bucket("0.0001"), 3.0);
    assert_eq!(bucket("0.0025"), 3.0);
    assert_eq!(bucket("0.005"), 4.0);
    assert_eq!(bucket("+Inf"), 4.0);
    let labels = "{node=\"a\",op=\"write\",phase=\"peer\",volume=\"vol0\"}";
    assert_eq!(value(&text, &format!("stretch_request_seconds_count{labels}")), 1.0);
    let labels = "{node=\"a\",op=\"write\",volume=\"vol0\"}";
    assert_eq!(value(&text, &format!("stretch_request_bytes_total{labels}")), 4096.0);
    let labels = "{node=\"a\",op=\"read\",volume=\"vol0\"}";
    assert_eq!(value(&text, &format!("stretch_request_errors_total{labels}")), 1.0);
}

#[test]
fn a_request_is_recorded_by_phase() {
    let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
    let mut metrics = Metrics::new(&name("a"));
    let mut measured = Latencies::default();
    let stages = Stages {
        admitted: Some(at(3)),
        ordered: Some(at(10)),
        here: Some(at(40)),
        there: Some(at(110)),
    };
    measured.record_request(Op::Write, at(2), stages, at(200));
    // It waited for a session and was answered by the next one.
    measured.record_request(Op::Write, at(0), Stages::default(), at(5000));
    metrics.fold(&volume(), &mut measured);
    let text = metrics.page().render();
    let phases = [
        ("queue", 1.0, 0.001),
        ("order", 1.0, 0.007),
        ("local", 1.0, 0.03),
        ("peer", 1.0, 0.1),
        ("total", 2.0, 5.198),
    ];
    for (phase, count, seconds) in phases {
        let labels = format!("{{node=\"a\",op=\"write\",phase=\"{phase}\",volume=\"vol0\"}}");
        assert_eq!(value(&text, &format!("stretch_request_seconds_count{labels}")), count);
        let sum = value(&text, &format!("stretch_request_seconds_sum{labels}"));
        assert!((sum - seconds).abs() < seconds * 0.02, "{phase}: {sum}");
    }
}

#[test]
fn what_was_folded_in_is_not_counted_again() {
    let mut metrics = Metrics::new(&name("a"));
    let mut measured = Latencies::default();
    let labels = "{node=\"a\",op=\"read\",phase=\"total\",volume=\"vol0\"}";
    for round in 1..=3 {
        measured.record(Op::Read, Phase::Total, Duration::from_millis(1));
        metrics.fold(&volume(), &mut measured);
        metrics.fold(&volume(), &mut measured);
        let text = metrics.page().render();
        let count = value(&text, &format!("stretch_request_seconds_count{labels}"));
        assert_eq!(count, f64::from(round));
    }
}

#[test]
fn exactly_one_state_is_shown() {
    let metrics = Metrics::new(&name("a"));
    let mut status = NodeStatus::starting(name("a"), name("b"), name("a"), 1);
    for state in StateWord::ALL {
        status.state = state;
        metrics.show_status(&status);
        let text = metrics.page().render();
        for other in StateWord::ALL {
            let line = format!("stretch_state{{node=\"a\",state=\"{other}\"}}");
            let expected = if other == state { 1.0 } else { 0.0 };
            assert_eq!(value(&text, &line), expected, "{line}");
        }
    }
}

#[test]
fn silent_connections_make_room() {
    let page = Metrics::new(&name("a")).page();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.expect("a runtime").block_on(async move {
        let address = "127.0.0.11:0".parse().expect("an address");
        let listener = base::io::tcp::listen(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let client = tokio::task::spawn_blocking(move || {
            let connect = || std::net::TcpStream::connect(address).expect("it listens");
            let silent: Vec<_> =
                (0..base::limits::ADMIN_CONNECTIONS_MAX).map(|_| connect()).collect();
            let mut stream = connect();
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            drop(silent);
            answer
        });
        tokio::select! {
            never = serve_metrics(listener, page) => match never {},
            answer = client => answer.expect("no panic"),
            () = tokio::time::sleep(2 * base::limits::ADMIN_STEP_TIMEOUT) => {
                panic!("silent connections keep everybody out")
            }
        }
    });
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

#[test]
fn the_page_is_served_over_http() {
    let metrics = Metrics::new(&name("a"));
    let transitions = metrics.transitions();
    transitions.count(StateWord::Deciding, StateWord::Limbo);
    transitions.count(StateWord::Starting, StateWord::ResyncSource);
    transitions.count(StateWord::Deciding, StateWord::Limbo);
    let page = metrics.page();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.expect("a runtime").block_on(async move {
        let address = "127.0.0.11:0".parse().expect("an address");
        let listener = base::io::tcp::listen(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            answer
        });
        tokio::select! {
            never = serve_metrics(listener, page) => match never {},
            answer = client => answer.expect("no panic"),
        }
    });
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let labels = "{node=\"a\",from=\"deciding\",to=\"limbo\"}";
    assert_eq!(value(&answer, &format!("stretch_state_transitions_total{labels}")), 2.0);
}
