//! Faults of every kind at random moments, also while the pair still recovers from the last one,
//! under load: whatever happens, every answer is right and the copies end up equal.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use client::driver::{Running, start};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use stretch_tests::real::node::{Node, STOP_LIMIT};
use stretch_tests::real::pair::Pair;
use stretch_tests::real::{isolated, soak};

const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(30);

struct Storm {
    pair: Pair,
    random: ChaCha8Rng,
}

impl Storm {
    fn node(&mut self, index: usize) -> &mut Node {
        [&mut self.pair.a, &mut self.pair.b][index]
    }

    fn any_node(&mut self) -> usize {
        self.random.random_range(0..2)
    }

    /// Mostly shorter than anything notices, sometimes longer than T_hold.
    fn some_time(&mut self) -> Duration {
        let scale = [20, 200, 1000, 6000][self.random.random_range(0..4)];
        Duration::from_millis(self.random.random_range(0..scale))
    }

    /// SIGTERM. One that comes before the node has got as far as listening to it ends it, too.
    fn stop(&mut self, node: usize) {
        self.node(node).signal(Signal::TERM);
        let status = self.node(node).wait_end(STOP_LIMIT);
        let early = status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || early, "the stop of node {node} is not clean: {status}");
    }

    /// One fault from its begin to its end.
    fn strike(&mut self, running: &Running) -> String {
        let (time, node) = (self.some_time(), self.any_node());
        let other = 1 - node;
        let kind = self.random.random_range(0..8);
        match kind {
            0 => self.pair.link.cut(),
            1 => self.pair.link.cut_towards(Pair::ADDRESSES[node]),
            2 => self.pair.link.refuse(),
            3 => self.node(node).freeze(),
            4 => self.node(node).kill(),
            5 => {
                self.node(node).kill();
                self.node(other).kill();
            }
            6 => self.stop(node),
            _ => {
                // The survivor of a kill stands still.
                self.node(node).kill();
                self.node(other).freeze();
            }
        }
        running.let_run(time);
        match kind {
            0..3 => self.pair.link.heal(),
            3 => self.node(node).thaw(),
            4 | 6 => self.node(node).start(),
            5 => {
                self.node(node).start();
                self.node(other).start();
            }
            _ => {
                self.node(node).start();
                self.node(other).thaw();
            }
        }
        format!("fault {kind} at node {node} for {time:?}")
    }
}

#[test]
fn a_storm_of_faults_leaves_every_answer_right() {
    isolated("a_storm_of_faults_leaves_every_answer_right", || {
        let random = ChaCha8Rng::seed_from_u64(soak(71, 72));
        let mut storm = Storm { pair: Pair::running(SIZE), random };
        let mut config = Pair::client(71);
        config.patience = LIMIT;
        let running = start(config.clone()).expect("both serve");
        for round in 0..soak(3, 60) {
            for node in 0..2 {
                let progress = running.wait_for_progress(node, 50, LIMIT);
                assert!(progress, "round {round}: node {node} answers nothing");
            }
            // The next one often strikes while the pair recovers.
            for _ in 0..storm.random.random_range(1..4) {
                println!("round {round}: {}", storm.strike(&running));
                let pause = storm.some_time() / 4;
                running.let_run(pause);
            }
            storm.pair.wait_active();
        }
        let counts = storm.pair.close(&config, running.stop());
        println!("{counts:?}");
        // L5: a held request is answered or its connection closed within T_hold.
        assert_eq!(counts.connections_silent, 0, "requests were left unanswered: {counts:?}");
    });
}
