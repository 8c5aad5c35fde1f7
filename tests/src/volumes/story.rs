//! What a group does with its volumes: serve alone, get a target, lose it or go on with it, lose
//! the session, serve alone again.

use base::ids::Session;
use base::rules::Rules;
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};
use rand::Rng;

use super::world::World;
use super::{Counts, Finding, FindingKind};

/// Targets that come.
const ROUNDS: u64 = 5;
const GRANULE_BYTES: u32 = 512;

pub(super) struct Story {
    world: World,
    /// Who serves, and in which session.
    source: usize,
    session: Session,
}

impl Story {
    pub(super) fn new(seed: u64, rules: Rules, order: bool) -> Self {
        Self { world: World::new(seed, rules, order), source: 0, session: Session(1) }
    }

    pub(super) fn tell(mut self) -> Result<Counts, Finding> {
        self.enter_solo()?;
        for round in 0..ROUNDS {
            self.wait(0..30_000)?;
            self.attach(round)?;
            if round + 1 < ROUNDS && self.world.rng.random_bool(0.4) {
                self.wait(0..60_000)?;
                self.world.counts.lost_early += 1;
                self.lose_target()?;
                continue;
            }
            self.be_equal()?;
            if round + 1 < ROUNDS && self.world.rng.random_bool(0.3) {
                self.wait(0..5_000)?;
                self.world.counts.lost_late += 1;
                self.lose_target()?;
                continue;
            }
            if round + 1 < ROUNDS && self.world.rng.random_bool(0.15) {
                // While the record that makes the target count is being written.
                self.wait(0..2_000)?;
                self.lose_session()?;
                continue;
            }
            self.serve_both()?;
            if round + 1 < ROUNDS {
                self.lose_session()?;
            }
        }
        self.end()
    }

    fn wait(&mut self, micros: std::ops::Range<u64>) -> Result<(), Finding> {
        let micros = self.world.rng.random_range(micros);
        self.world.run_for(micros)
    }

    fn enter_solo(&mut self) -> Result<(), Finding> {
        let (session, granule_bytes) = (self.session, GRANULE_BYTES);
        self.world.command(self.source, VolumeCommand::EnterSolo { session, granule_bytes });
        self.await_report(self.source, VolumeReport::Entered { session })?;
        self.wait(0..500)?;
        self.world.open(self.source, session);
        Ok(())
    }

    fn await_report(&mut self, node: usize, report: VolumeReport) -> Result<(), Finding> {
        self.world.run_until(&format!("{report:?}"), |world| world.has_reported(node, &report))
    }

    /// A target comes. Its record says Target before anything is sent to it.
    fn attach(&mut self, round: u64) -> Result<(), Finding> {
        self.world.counts.attached += 1;
        self.session = self.session.next();
        let (session, target) = (self.session, 1 - self.source);
        let conn_nonce = self.world.connect(round);
        let role = SyncRole::Target;
        self.world.command(target, VolumeCommand::Prepare { session, role, rewrite: false });
        self.await_report(target, VolumeReport::Prepared { session })?;
        let scope =
            if self.world.rng.random_bool(0.2) { Scope::Rewrite } else { Scope::Everything };
        let (seed, granule_bytes) = (round, GRANULE_BYTES);
        let compare = VolumeCommand::Compare { session, conn_nonce, role, scope, seed };
        let attach = VolumeCommand::Attach { session, conn_nonce, scope, seed, granule_bytes };
        let mut commands = [(target, compare), (self.source, attach)];
        if self.world.rng.random_bool(0.3) {
            commands.reverse();
        }
        for (node, command) in commands {
            if node == self.source {
                self.world.open(node, session);
            }
            self.world.command(node, command);
            self.wait(0..500)?;
        }
        Ok(())
    }

    /// Before it counts.
    fn lose_target(&mut self) -> Result<(), Finding> {
        let (session, target) = (self.session, 1 - self.source);
        self.world.cut();
        let restart = self.world.rng.random_bool(0.3);
        if restart {
            self.world.restart(target);
        } else {
            self.world.command(target, VolumeCommand::Leave { session });
        }
        self.wait(0..3_000)?;
        self.world.command(self.source, VolumeCommand::Detach { session });
        if !restart {
            self.await_report(target, VolumeReport::Quiet { session })?;
        }
        Ok(())
    }

    fn be_equal(&mut self) -> Result<(), Finding> {
        let (session, source) = (self.session, self.source);
        let compared = move |world: &World| {
            let is_it = |r: &VolumeReport| matches!(r, VolumeReport::Compared { session: of, .. } if *of == session);
            world.nodes[source].reports.iter().any(is_it)
        };
        self.world.run_until("Compared", compared)?;
        // From here on the target may be the copy that is left.
        let World { hosts, nodes, .. } = &mut self.world;
        hosts.check(&nodes[1 - source].disk)
    }

    fn serve_both(&mut self) -> Result<(), Finding> {
        self.world.counts.sessions += 1;
        let (session, granule_bytes) = (self.session, GRANULE_BYTES);
        let conn_nonce = self.world.link.as_ref().expect("there is one").nonce;
        for (node, role) in [(self.source, Role::Orderer), (1 - self.source, Role::Follower)] {
            self.wait(0..2_000)?;
            let enter = VolumeCommand::Enter { session, conn_nonce, role, granule_bytes };
            self.world.command(node, enter);
            self.await_report(node, VolumeReport::Entered { session })?;
        }
        self.world.open(1 - self.source, session);
        self.wait(0..30_000)
    }

    /// Both leave; whoever wins serves alone.
    fn lose_session(&mut self) -> Result<(), Finding> {
        let session = self.session;
        self.world.cut();
        // Each may read for as long as its grant lasts; nobody is alone before both have ended.
        let reads_on = self.world.rng.random_bool(0.6);
        for node in 0..2 {
            self.wait(0..1_000)?;
            if !reads_on {
                self.world.close(node);
            }
            self.world.command(node, VolumeCommand::Leave { session });
        }
        for node in 0..2 {
            self.await_report(node, VolumeReport::Quiet { session })?;
        }
        if reads_on {
            for node in 0..2 {
                self.wait(0..5_000)?;
                self.world.close(node);
            }
        }
        self.source = self.world.rng.random_range(0..2);
        self.world.nodes.iter_mut().for_each(|node| node.reports.clear());
        self.enter_solo()
    }

    /// Hosts stop asking; what is under way ends.
    fn end(mut self) -> Result<Counts, Finding> {
        self.world.hosts.stopped = true;
        let idle = |world: &World| {
            let quiet = |node: usize| {
                !world.hosts.is_waiting(node)
                    && world.nodes[node].disk.next_at().is_none()
                    && world.nodes[node].volume.load() == (0, 0)
            };
            quiet(0) && quiet(1)
        };
        self.world.run_until("the last requests", idle)?;
        let World { hosts, nodes, counts, .. } = &mut self.world;
        for node in nodes.iter() {
            hosts.check(&node.disk)?;
        }
        if nodes[0].disk.image != nodes[1].disk.image {
            return Err(Finding::new(FindingKind::Seen, "the copies differ in the end"));
        }
        counts.answered = hosts.answered;
        counts.longest_us = hosts.longest.as_micros().try_into().expect("short");
        Ok(*counts)
    }
}
