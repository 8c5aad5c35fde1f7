//! The plain run: hosts on both nodes write and read the same bytes at once.

use std::time::Duration;

use client::connection::{ClientError, Connection, Target};
use client::driver::Config;
use client::history::History;
use client::transport::load_identity;
use client::wire::reply;
use stretch_tests::chaos::proxy::{Direction, Proxy};
use stretch_tests::real::pair::{Pair, VOLUME};
use stretch_tests::real::{isolated, soak};

const SIZE: u64 = 64 << 20;

#[test]
fn overlapping_operations_through_both_nodes_are_linearizable() {
    isolated("overlapping_operations_through_both_nodes_are_linearizable", || {
        let pair = Pair::running(SIZE);
        let mut config = Pair::client(1);
        config.time = Some(soak(Duration::from_secs(4), Duration::from_secs(60)));
        let history = client::driver::run(config.clone()).expect("both serve");
        let counts = pair.close(&config, history);
        println!("{counts:?}");
        assert_eq!((counts.errors, counts.unknown, counts.connections_lost_total()), (0, 0, 0));
        let enough = soak(2_000, 50_000);
        assert!(counts.overlapping >= enough, "only {} overlapping", counts.overlapping);
    });
}

/// On a link with some length there is time between here and there, in which a rule that does not
/// hold shows.
fn lengthen(pair: &Pair) -> Proxy {
    let proxy = pair.interpose();
    for direction in [Direction::Forth, Direction::Back] {
        proxy.delay(direction, Duration::from_millis(2));
    }
    proxy
}

fn narrow_run(seed: u64) -> (Config, History) {
    let mut config = Pair::client(seed);
    config.area.length = 64 << 10;
    config.time = Some(Duration::from_secs(2));
    let history = client::driver::run(config.clone()).expect("both serve");
    (config, history)
}

#[test]
fn a_link_with_some_length_changes_nothing() {
    isolated("a_link_with_some_length_changes_nothing", || {
        let mut pair = Pair::prepare(SIZE);
        let _proxy = lengthen(&pair);
        pair.start();
        let (config, history) = narrow_run(2);
        let counts = pair.close(&config, history);
        println!("{counts:?}");
        assert_eq!((counts.errors, counts.unknown, counts.connections_lost_total()), (0, 0, 0));
    });
}

#[test]
fn inside_tls_nothing_changes_and_nothing_is_served_outside() {
    isolated("inside_tls_nothing_changes_and_nothing_is_served_outside", || {
        let mut pair = Pair::prepare(SIZE);
        for node in 0..2 {
            pair.edit_config(node, "tls = \"off\"", "tls = \"required\"");
        }
        pair.start();
        for node in 0..2 {
            let refused = Connection::open(&Target::new(Pair::nbd(node), VOLUME));
            match refused.expect_err("not inside TLS") {
                ClientError::Refused { kind, .. } => assert_eq!(kind, reply::ERR_TLS_REQD),
                error => panic!("{error}"),
            }
        }
        let mut config = Pair::client(3);
        let identity = pair.folder().join("pki").join("host1");
        config.tls = Some(load_identity(&identity).expect("the demo made it"));
        config.time = Some(soak(Duration::from_secs(3), Duration::from_secs(60)));
        let history = client::driver::run(config.clone()).expect("both serve");
        let counts = pair.close(&config, history);
        println!("{counts:?}");
        assert_eq!((counts.errors, counts.unknown, counts.connections_lost_total()), (0, 0, 0));
        assert!(counts.overlapping >= 1_000, "only {} overlapping", counts.overlapping);
    });
}

/// The same run against nodes that break a rule: it has to be reported. Needs the program that is
/// built together with the tests, which alone can break one.
#[test]
fn a_run_against_a_sabotaged_build_is_reported() {
    isolated("a_run_against_a_sabotaged_build_is_reported", || {
        for rule in ["AckFromBoth", "OrderedBeforeApply", "ReadCommitted"] {
            let mut pair = Pair::prepare(SIZE);
            let _proxy = lengthen(&pair);
            for node in [&mut pair.a, &mut pair.b] {
                node.break_rule(rule);
            }
            pair.start();
            let told = pair.a.log();
            assert!(told.contains("broken on purpose"), "not a sabotaged build:\n{told}");
            let found = (1..6).find_map(|seed| narrow_run(seed).1.check().err());
            println!("{rule}: {found:?}");
            assert!(found.is_some(), "{rule} is broken and nobody noticed");
        }
    });
}
