//! The stamped client against a server in memory, with and without mistakes.

use super::*;
use crate::testing::{Mistake, Volume, serve};

const SIZE: u64 = 128 << 10;

fn config(mistake: Mistake) -> Config {
    let volume = Volume::new(SIZE as usize, mistake);
    let nodes = vec![serve(&volume), serve(&volume)];
    let mut config = Config::new(nodes, "vol");
    config.area = Area { offset: 4096, length: 64 << 10, request_bytes_max: 16 << 10 };
    config.requests = Some(3000);
    config
}

#[test]
fn a_register_that_works_is_found_right() {
    let history = run(Config { trim: TrimMeaning::Zeroes, ..config(Mistake::None) });
    let history = history.expect("reachable");
    let counts = history.check().expect("right");
    assert_eq!(counts.done_total(), 3001);
    assert_eq!((counts.errors, counts.unknown, counts.connections_lost_total()), (0, 0, 0));
    assert!(counts.overlapping > 100, "{counts:?}");
    assert_eq!(counts.blocks, 128);
}

#[test]
fn a_lost_write_a_stale_read_and_a_flipped_bit_are_found() {
    for mistake in [Mistake::LosesWrites(50), Mistake::ReadsStale(50), Mistake::FlipsBits(50)] {
        // Little in flight: what overlaps in time may be in any order and excuses much.
        let config = Config { depth: 1, connections: 2, ..config(mistake) };
        let history = run(config).expect("reachable");
        assert!(history.check().is_err(), "{mistake:?}");
    }
}

#[test]
fn what_a_lost_connection_had_not_answered_is_unknown() {
    let history = run(config(Mistake::Closes(100))).expect("reachable");
    let counts = history.check().expect("unanswered is not wrong");
    let lost = counts.connections_lost_total();
    assert!(lost >= 10, "{counts:?}");
    assert!(counts.unknown >= lost, "{counts:?}");
    assert_eq!(counts.done_total() + counts.unknown, 3001);
}

#[test]
fn a_run_is_watched_stopped_continued_and_read_back() {
    let config = Config { requests: None, ..config(Mistake::None) };
    let running = start(config.clone()).expect("reachable");
    assert!(running.wait_for_progress(0, 100, Duration::from_secs(20)));
    assert!(running.wait_for_progress(1, 100, Duration::from_secs(20)));
    let first = running.stop();
    let next_id = first.next_id;
    let running = start_after(config.clone(), first);
    assert!(running.wait_for_progress(1, 100, Duration::from_secs(20)));
    let mut history = running.stop();
    assert!(history.next_id >= next_id + 100);
    read_area(&config, 0, &mut history).expect("reachable");
    read_area(&config, 1, &mut history).expect("reachable");
    let counts = history.check().expect("right");
    assert!(counts.done[&Action::Read] >= 2);
}

#[test]
fn a_server_that_is_gone_is_given_up_after_the_patience() {
    let mut config = config(Mistake::None);
    config.nodes[1] = "127.0.0.1:1".parse().expect("an address");
    config.requests = Some(200);
    config.patience = Duration::from_millis(100);
    let counts = run(config).expect("the first is reachable").check().expect("right");
    assert_eq!(counts.done_total(), 201);
}

#[test]
fn a_run_that_no_server_answers_any_more_ends_by_itself() {
    let mut config = config(Mistake::None);
    config.nodes = vec!["127.0.0.1:1".parse().expect("an address")];
    config.requests = None;
    config.patience = Duration::from_millis(50);
    let history = History::new(config.writer, config.trim);
    assert_eq!(start_after(config, history).finish().records, []);
}

#[test]
fn an_unknown_export_is_refused_with_the_servers_words() {
    let volume = Volume::new(4096, Mistake::None);
    let error = Connection::open(&Target::new(serve(&volume), "other")).expect_err("refused");
    assert!(error.to_string().ends_with("no such export"), "{error}");
}

#[test]
fn blocking_calls_do_what_they_say() {
    let volume = Volume::new(4096, Mistake::None);
    for structured in [false, true] {
        let target = Target { structured, ..Target::new(serve(&volume), "vol") };
        let mut connection = Connection::open(&target).expect("reachable");
        assert_eq!(connection.export().size, 4096);
        connection.write(512, &[7; 1024]).expect("written");
        connection.write_zeroes(512, 512).expect("zeroed");
        connection.flush().expect("flushed");
        connection.cache(0, 4096).expect("read ahead");
        assert_eq!(connection.read(1000, 48).expect("read")[..], [[0; 24], [7; 24]].concat()[..]);
        connection.trim(1024, 512).expect("trimmed");
        connection.disconnect().expect("closed by the server");
    }
}
