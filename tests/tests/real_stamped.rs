//! The plain run: hosts on both nodes write and read the same bytes at once.

use std::time::Duration;

use stretch_tests::real::pair::Pair;
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
