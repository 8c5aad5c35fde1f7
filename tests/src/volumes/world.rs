//! Both nodes, their disks, hosts and the connection between them, in virtual time.

use std::collections::VecDeque;

use base::ids::{ConnNonce, VolumeIndex};
use base::limits::REGION_BYTES;
use base::range::ByteRange;
use base::request::Completion;
use base::rules::Rules;
use base::time::{Duration, Instant};
use datapath::gate::Gate;
use datapath::outbox::Action;
use datapath::port::{VolumeCommand, VolumeReport};
use datapath::volume::{Volume, VolumeConfig};
use datapath::wire::{DataMessage, Incoming};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk::Disk;
use super::hosts::Hosts;
use super::{Counts, Finding, FindingKind};

/// Of each volume.
pub(super) const REGIONS: u64 = 12;
const GRANULE_BYTES: u32 = 512;
const IO_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Node {
    pub(super) volume: Volume,
    pub(super) disk: Disk,
    pub(super) gate: Gate,
    pub(super) reports: Vec<VolumeReport>,
    /// It has left its session and is in no other.
    left: bool,
    /// Its gate has been open, in whatever session.
    served_since: Option<Instant>,
}

pub(super) struct Link {
    pub(super) nonce: ConnNonce,
    /// On their way to each node.
    queues: [VecDeque<(Instant, Incoming)>; 2],
    /// Mirrored writes that their sender does not know to be applied.
    unacked: [Vec<(u64, ByteRange)>; 2],
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: ChaCha8Rng,
    pub(super) nodes: [Node; 2],
    pub(super) link: Option<Link>,
    pub(super) hosts: Hosts,
    pub(super) counts: Counts,
    rules: Rules,
    order: bool,
    finding: Option<Finding>,
}

fn volume(rules: Rules) -> Volume {
    Volume::new(VolumeConfig {
        index: VolumeIndex(0),
        size: REGIONS * REGION_BYTES,
        granule_bytes: GRANULE_BYTES,
        io_timeout: IO_TIMEOUT,
        rules,
    })
}

impl World {
    /// The copy of node 0 is blank, the other one full of what nobody wrote.
    pub(super) fn new(seed: u64, rules: Rules, order: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut node = |fill| Node {
            volume: volume(rules),
            disk: Disk::new(
                vec![fill; (REGIONS * REGION_BYTES) as usize],
                [0.02, 0.05, 0.2][rng.random_range(0..3)],
            ),
            gate: Gate::CLOSED,
            reports: Vec::new(),
            left: false,
            served_since: None,
        };
        Self {
            now: Instant::from_nanos(1),
            nodes: [node(0), node(0xee)],
            rng,
            link: None,
            hosts: Hosts::new(),
            counts: Counts::default(),
            rules,
            order,
            finding: None,
        }
    }

    pub(super) fn command(&mut self, node: usize, command: VolumeCommand) {
        let left = &mut self.nodes[node].left;
        *left &=
            !matches!(command, VolumeCommand::EnterSolo { .. } | VolumeCommand::Prepare { .. });
        if matches!(command, VolumeCommand::Leave { .. }) {
            *left = true;
            self.nodes[node].served_since = None;
        }
        self.nodes[node].volume.handle_command(self.now, command);
        self.turn(node);
    }

    /// Hosts of the node are served in this session from here on.
    pub(super) fn open(&mut self, node: usize, session: base::ids::Session) {
        let serve_gen = self.nodes[node].gate.serve_gen + 1;
        self.nodes[node].gate = Gate { serve_gen, session, read_until: Instant::NEVER };
        self.nodes[node].served_since.get_or_insert(self.now);
        self.turn(node);
    }

    pub(super) fn close(&mut self, node: usize) {
        let gate = &mut self.nodes[node].gate;
        gate.read_until = Instant::ZERO;
        gate.serve_gen += 1;
        self.nodes[node].served_since = None;
    }

    pub(super) fn connect(&mut self, number: u64) -> ConnNonce {
        let nonce = ConnNonce((u128::from(number) + 1).to_le_bytes());
        self.link = Some(Link { nonce, queues: Default::default(), unacked: Default::default() });
        for node in 0..2 {
            self.nodes[node].volume.handle_link_up(nonce);
            self.drain(node);
        }
        nonce
    }

    /// The connection ends, with all that is on its way.
    pub(super) fn cut(&mut self) {
        let Some(link) = self.link.take() else { return };
        for node in 0..2 {
            self.nodes[node].volume.handle_link_lost(link.nonce, "cut".to_owned());
            self.drain(node);
            self.nodes[node].reports.retain(|r| !matches!(r, VolumeReport::LinkLost { .. }));
        }
    }

    /// The process of a node ends and begins again.
    pub(super) fn restart(&mut self, node: usize) {
        for client in self.hosts.clients(node) {
            self.hosts.close(client);
        }
        let Self { rng, nodes, rules, .. } = self;
        let node = &mut nodes[node];
        node.disk.kill(rng);
        node.volume = volume(*rules);
        node.gate.read_until = Instant::ZERO;
        node.reports.clear();
        node.left = false;
        node.served_since = None;
    }

    pub(super) fn run_for(&mut self, micros: u64) -> Result<(), Finding> {
        let until = self.now + Duration::from_micros(micros);
        while self.step(until)? {}
        self.now = self.now.max(until);
        Ok(())
    }

    /// Until `done`, but not for ever.
    pub(super) fn run_until(
        &mut self,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), Finding> {
        let until = self.now + Duration::from_secs(20);
        while !done(self) {
            if !self.step(until)? {
                let left = self.nodes.each_ref().map(|node| node.volume.queues());
                let text = format!("no end of: {what}; left: {left:?}");
                return Err(Finding::new(FindingKind::Stuck, text));
            }
        }
        Ok(())
    }

    pub(super) fn has_reported(&self, node: usize, report: &VolumeReport) -> bool {
        self.nodes[node].reports.contains(report)
    }

    /// Whatever is next, if it is due by `until`.
    fn step(&mut self, until: Instant) -> Result<bool, Finding> {
        let queues = self.link.iter().flat_map(|link| &link.queues);
        let arrivals = queues.filter_map(|queue| queue.front().map(|(at, _)| *at));
        let disks = self.nodes.iter().filter_map(|node| node.disk.next_at());
        let next = arrivals.chain(disks).chain(self.hosts.next_at()).min();
        let Some(next) = next.filter(|next| *next <= until) else { return Ok(false) };
        self.now = self.now.max(next);
        for (node, id, operation) in self.hosts.ask(self.now, &mut self.rng) {
            self.nodes[node].volume.handle_request(id, operation);
        }
        for node in 0..2 {
            self.turn(node);
        }
        self.finding.take().map_or(Ok(true), Err)
    }

    /// One turn: what has come, then what has ended, then the sample of the gate.
    fn turn(&mut self, node: usize) {
        while let Some(link) = &mut self.link
            && let Some((at, _)) = link.queues[node].front()
            && *at <= self.now
        {
            let (_, incoming) = link.queues[node].pop_front().expect("just seen");
            if let DataMessage::Ack(seqs) | DataMessage::Applied(seqs) = &incoming.message {
                link.unacked[node].retain(|(seq, _)| !seqs.contains(seq));
            }
            self.nodes[node].volume.handle_message(self.now, incoming);
        }
        for completion in self.nodes[node].disk.complete(self.now) {
            self.nodes[node].volume.handle_completion(self.now, completion);
        }
        let gate = self.nodes[node].gate;
        self.nodes[node].volume.settle(self.now, gate);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].volume.poll_action() {
            self.count(node, &action);
            self.check_left(node, &action);
            match action {
                Action::Reply { id, completion, .. } => {
                    let times = (self.now, self.nodes[node].served_since);
                    let answered = self.hosts.answer(times, id, completion, &mut self.rng);
                    self.finding = self.finding.take().or(answered.err());
                }
                Action::Submit { id, operation } => {
                    let range = operation.range();
                    let clash =
                        self.nodes[node].disk.submit(self.now, id, operation, &mut self.rng);
                    if clash && self.order {
                        self.find(format!("node {node}: two operations at {range} at once (W9)"));
                    }
                }
                Action::Send(message) => self.send(node, message),
                Action::Report(report) => self.report(node, report),
                Action::CloseClient { client, .. } => {
                    self.hosts.close(client);
                    self.nodes[node].volume.handle_client_gone(client);
                }
                Action::CloseAllClients { .. } => {
                    for client in self.hosts.clients(node) {
                        self.hosts.close(client);
                    }
                }
            }
        }
    }

    fn check_left(&mut self, node: usize, action: &Action) {
        if !self.nodes[node].left {
            return;
        }
        match action {
            Action::Reply { completion: Completion::Data(_), .. } => {
                self.counts.reads_after += 1;
                if !self.nodes[node].gate.usable(self.now) && self.order {
                    self.find(format!("node {node} answers a read while closed (I9)"));
                }
            }
            Action::Reply { .. } | Action::Send(_) if self.order => {
                self.find(format!("node {node} after it left (I7): {action:?}"));
            }
            Action::Reply { .. }
            | Action::Send(_)
            | Action::CloseClient { .. }
            | Action::CloseAllClients { .. }
            | Action::Submit { .. }
            | Action::Report(_) => {}
        }
    }

    fn find(&mut self, text: String) {
        self.finding.get_or_insert(Finding::new(FindingKind::Order, text));
    }

    fn report(&mut self, node: usize, report: VolumeReport) {
        let unexpected = match &report {
            VolumeReport::LinkLost { .. } => self.link.is_some(),
            VolumeReport::PeerStuck { .. }
            | VolumeReport::DiskStuck { .. }
            | VolumeReport::PeerDiskFailed { .. }
            | VolumeReport::DiskFailed { .. }
            | VolumeReport::CopyFailed { .. } => true,
            VolumeReport::LinkUp { .. }
            | VolumeReport::Prepared { .. }
            | VolumeReport::Progress(_)
            | VolumeReport::Compared { .. }
            | VolumeReport::Entered { .. }
            | VolumeReport::Left { .. }
            | VolumeReport::Quiet { .. }
            | VolumeReport::Drained { .. } => false,
        };
        if unexpected {
            self.find(format!("node {node}: {report:?}"));
        }
        self.nodes[node].reports.push(report);
    }

    fn send(&mut self, node: usize, message: DataMessage) {
        let session = self.nodes[node].volume.session();
        let latency = Duration::from_micros(self.rng.random_range(50..600));
        let Some(link) = &mut self.link else { return };
        let mut crossed = None;
        if let DataMessage::Repl { seq, write } = &message {
            let unacked = &mut link.unacked[node];
            crossed = unacked.iter().find(|(_, range)| range.overlaps(write.range)).copied();
            unacked.push((*seq, write.range));
        }
        let queue = &mut link.queues[1 - node];
        let at = queue.back().map_or(self.now, |(at, _)| *at).max(self.now + latency);
        queue.push_back((at, Incoming { session, conn_nonce: link.nonce, message }));
        if let Some((seq, range)) = crossed.filter(|_| self.order) {
            self.find(format!("a write overtakes number {seq} at {range}, not acknowledged (D14)"));
        }
    }

    fn count(&mut self, node: usize, action: &Action) {
        let counts = &mut self.counts;
        let kind = match action {
            Action::Reply { stages, .. } => {
                counts.answered += 1;
                let copying = self.link.is_some() && stages.ordered.is_some();
                counts.answered_alone += u64::from(copying && stages.there.is_none());
                1
            }
            Action::Send(_) => 2,
            Action::Submit { id, .. } => 3 + id.0,
            Action::Report(_) | Action::CloseClient { .. } | Action::CloseAllClients { .. } => 4,
        };
        let step = kind ^ self.now.as_nanos() ^ (node as u64) << 60;
        counts.hash = (counts.hash ^ step).wrapping_mul(0x0100_0000_01b3);
    }
}
