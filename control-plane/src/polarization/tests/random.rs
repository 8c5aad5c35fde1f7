//! Random orders of events: what was flushed is never lost, and everything heals.

use base::time::Duration;
use proptest::prelude::*;

use super::world::{A, B, Disk, DurableStepKind, World};
use crate::record::RecordState;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// So many events, in an order drawn from the number.
    Events(u8, u16),
    Pass(u16),
    Write(usize, bool),
    Kill(usize, usize),
    PowerCut(usize, usize),
    Start(usize),
    Stop(usize),
    Cut,
    Mend,
    Reset,
    FailStep(usize, bool),
    Blank(usize),
    Backup(usize),
    Restore(usize),
}

fn node() -> impl Strategy<Value = usize> {
    A..=B
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any::<u8>(), any::<u16>()).prop_map(|(count, seed)| Op::Events(count % 40, seed)),
        4 => (1u16..3000).prop_map(Op::Pass),
        6 => (node(), any::<bool>()).prop_map(|(n, flush)| Op::Write(n, flush)),
        2 => (node(), 0usize..6).prop_map(|(n, steps)| Op::Kill(n, steps)),
        2 => (node(), 0usize..6).prop_map(|(n, steps)| Op::PowerCut(n, steps)),
        6 => node().prop_map(Op::Start),
        2 => node().prop_map(Op::Stop),
        1 => Just(Op::Cut),
        2 => Just(Op::Mend),
        1 => Just(Op::Reset),
        1 => (node(), any::<bool>()).prop_map(|(n, data)| Op::FailStep(n, data)),
        1 => node().prop_map(Op::Blank),
        1 => node().prop_map(Op::Backup),
        1 => node().prop_map(Op::Restore),
    ]
}

struct Run {
    world: World,
    backups: [Option<Disk>; 2],
    /// A copy was taken away by hand.
    replaced: bool,
    power_lost: bool,
}

impl Run {
    fn apply(&mut self, op: Op) {
        let world = &mut self.world;
        match op {
            Op::Events(count, seed) => {
                let mut random = u64::from(seed);
                for _ in 0..count {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    world.step((random >> 33) as usize);
                }
            }
            Op::Pass(ms) => world.pass(Duration::from_millis(u64::from(ms))),
            Op::Write(node, flush) => {
                world.write(node, 0, flush);
            }
            Op::Kill(node, steps) => world.kill(node, steps),
            Op::PowerCut(node, steps) => {
                self.power_lost = true;
                world.power_cut(node, steps);
            }
            Op::Start(node) => {
                if world.nodes[node].group.is_none() {
                    world.start(node);
                }
            }
            Op::Stop(node) => world.stop(node),
            Op::Cut => world.net_up = false,
            Op::Mend => world.net_up = true,
            Op::Reset => world.reset_connections(),
            Op::FailStep(node, data) => {
                let kind = if data { DurableStepKind::Data } else { DurableStepKind::Record };
                world.nodes[node].fail_step = Some(kind);
            }
            Op::Blank(node) => self.blank(node),
            Op::Backup(node) => {
                if world.nodes[node].group.is_none() {
                    self.backups[node] = Some(world.nodes[node].disk.clone());
                }
            }
            Op::Restore(node) => self.restore(node),
        }
    }

    fn blank(&mut self, node: usize) {
        let node = &mut self.world.nodes[node];
        if node.group.is_none() {
            let volume = &mut node.disk.volumes[0];
            (volume.cached, volume.durable, volume.empty) = (0, 0, true);
            volume.stamp = Err("there is none".to_owned());
            self.replaced = true;
        }
    }

    /// A rollback within one round goes unseen (said in PROTOCOL 2.2): only one that the peer can
    /// know of is tried.
    fn restore(&mut self, node: usize) {
        let Some(backup) = self.backups[node].clone() else { return };
        let seen = self.world.nodes[1 - node].disk.volumes[0].header.peer_round;
        let running = self.world.nodes[node].group.is_some();
        if !running && backup.volumes[0].header.round < seen {
            self.world.nodes[node].disk = backup;
            self.replaced = true;
        }
    }

    fn heal(&mut self) {
        let world = &mut self.world;
        world.net_up = true;
        for node in [A, B] {
            world.nodes[node].fail_step = None;
        }
        // A node that is being stopped ends first.
        world.pass(Duration::from_secs(9));
        for node in [A, B] {
            if world.nodes[node].group.is_none() {
                world.start(node);
            }
        }
        world.pass(Duration::from_secs(13));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// P1, P3, L2: as far as the group is concerned.
    #[test]
    fn nothing_flushed_is_lost_and_everything_heals(
        ops in proptest::collection::vec(op(), 1..60),
        empty: bool,
    ) {
        let mut run = Run {
            world: World::new(1, None, empty),
            backups: [None, None],
            replaced: false,
            power_lost: false,
        };
        run.world.start(A);
        run.world.start(B);
        for op in ops {
            run.apply(op);
        }
        run.heal();
        let world = &run.world;
        if !world.view(A).serving && run.replaced {
            // Both copies were taken away, or the only whole one: nobody serves, and says so.
            let lost = [A, B].into_iter().all(|node| {
                let record = &world.group(node).record;
                let target = matches!(record.state, RecordState::Target { .. });
                target || record.continuity == crate::record::Continuity::Amnesia
                    || world.view(node).cause.contains("nobody serves")
            });
            prop_assert!(lost, "{:?} {:?}", world.view(A), world.view(B));
            return Ok(());
        }
        world.expect_active();
        let data = world.nodes[A].disk.volumes[0].cached;
        if !run.replaced {
            prop_assert!(data >= world.flushed[0], "flushed {} found {data}", world.flushed[0]);
            if !run.power_lost {
                prop_assert_eq!(data, world.acknowledged[0]);
            }
        }
    }
}
