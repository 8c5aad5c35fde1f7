//! Hosts, each with one request at a time, and the history of what they were told.

use std::collections::BTreeSet;

use base::ids::ClientId;
use base::limits::{BLOCK_BYTES, REGION_BYTES};
use base::range::ByteRange;
use base::request::{Completion, Content, Operation, RequestId, Write};
use base::time::{Duration, Instant};
use bytes::Bytes;
use client::linearizability::{self, Kind, Value};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::disk::{Disk, block_id};
use super::world::REGIONS;
use super::{Finding, FindingKind};

/// At each node.
const HOSTS: usize = 5;

struct Host {
    node: usize,
    client: ClientId,
    /// What it waits for: the tag, and which operation of the history if it is one.
    waits: Option<(u32, Option<usize>)>,
    asked_at: Instant,
    next_at: Instant,
}

pub(super) struct Hosts {
    hosts: Vec<Host>,
    history: Vec<linearizability::Operation>,
    tick: u64,
    next_client: u64,
    next_tag: u32,
    pub(super) stopped: bool,
    pub(super) answered: u64,
    /// How long a request has waited at a node that served all the while.
    pub(super) longest: Duration,
}

impl Hosts {
    pub(super) fn new() -> Self {
        let mut hosts = Self {
            hosts: Vec::new(),
            history: Vec::new(),
            tick: 0,
            next_client: 0,
            next_tag: 0,
            stopped: false,
            answered: 0,
            longest: Duration::ZERO,
        };
        for index in 0..2 * HOSTS {
            let client = hosts.new_client();
            hosts.hosts.push(Host {
                node: index % 2,
                client,
                waits: None,
                asked_at: Instant::ZERO,
                next_at: Instant::from_nanos(1),
            });
        }
        hosts
    }

    fn new_client(&mut self) -> ClientId {
        self.next_client += 1;
        ClientId(self.next_client)
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        let idle = self.hosts.iter().filter(|host| host.waits.is_none() && !self.stopped);
        idle.map(|host| host.next_at).min()
    }

    /// Requests that are due, with the node they go to.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(usize, RequestId, Operation)> {
        let mut asked = Vec::new();
        if self.stopped {
            return asked;
        }
        for index in 0..self.hosts.len() {
            let host = &self.hosts[index];
            if host.waits.is_some() || host.next_at > now {
                continue;
            }
            let (node, client) = (host.node, host.client);
            self.next_tag += 1;
            let tag = self.next_tag;
            let (operation, entry) = self.choose(rng);
            self.hosts[index].waits = Some((tag, entry));
            self.hosts[index].asked_at = now;
            asked.push((node, RequestId { client, tag }, operation));
        }
        asked
    }

    fn choose(&mut self, rng: &mut ChaCha8Rng) -> (Operation, Option<usize>) {
        let range = choose_range(rng);
        let blocks = range.offset() / BLOCK_BYTES..range.end() / BLOCK_BYTES;
        let id = self.history.len() as u64 + 1;
        let dice = rng.random_range(0..100);
        let fua = rng.random_bool(0.1);
        let (kind, operation) = match dice {
            0..5 => return (Operation::Flush, None),
            5..40 => (Kind::Read(Vec::new()), Operation::Read { range }),
            40..50 => {
                let content = Content::Zeroes { allocate: false };
                (Kind::Zero, Operation::Write(Write { range, content, fua }))
            }
            _ => {
                let mut data = vec![0; range.length() as usize];
                for block in data.chunks_mut(BLOCK_BYTES as usize) {
                    block[..8].copy_from_slice(&id.to_le_bytes());
                }
                let content = Content::Data(data.into());
                (Kind::Write(id), Operation::Write(Write { range, content, fua }))
            }
        };
        self.tick += 1;
        let entry = linearizability::Operation { kind, blocks, invoke: self.tick, end: None };
        self.history.push(entry);
        (operation, Some(self.history.len() - 1))
    }

    /// The node has served since `served_since`.
    pub(super) fn answer(
        &mut self,
        (now, served_since): (Instant, Option<Instant>),
        id: RequestId,
        completion: Completion,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), Finding> {
        let Some(host) = self.hosts.iter_mut().find(|host| host.client == id.client) else {
            return Ok(());
        };
        let Some((tag, entry)) = host.waits.take() else {
            return Err(seen(format!("request {} is answered twice", id.tag)));
        };
        if tag != id.tag {
            return Err(seen(format!("request {} is answered when {tag} is due", id.tag)));
        }
        host.next_at = now + Duration::from_micros(rng.random_range(0..1_500));
        if served_since.is_some_and(|since| host.asked_at >= since) {
            self.longest = self.longest.max(now.since(host.asked_at));
        }
        self.answered += 1;
        self.tick += 1;
        let entry = entry.map(|entry| &mut self.history[entry]);
        match (completion, entry) {
            (Completion::Failed(error), _) => {
                return Err(seen(format!("request {} fails: {error}", id.tag)));
            }
            (Completion::Data(data), Some(entry)) => {
                entry.kind = Kind::Read(values(&data));
                entry.end = Some(self.tick);
            }
            (Completion::Done, Some(entry)) => entry.end = Some(self.tick),
            (Completion::Done | Completion::Data(_), None) => {}
        }
        Ok(())
    }

    /// The node closed a client; its host opens another one.
    pub(super) fn close(&mut self, client: ClientId) {
        let fresh = self.new_client();
        for host in self.hosts.iter_mut().filter(|host| host.client == client) {
            host.client = fresh;
            host.waits = None;
        }
    }

    /// Clients of a node.
    pub(super) fn clients(&self, node: usize) -> Vec<ClientId> {
        self.hosts.iter().filter(|host| host.node == node).map(|host| host.client).collect()
    }

    /// Whether a host of this node waits.
    pub(super) fn is_waiting(&self, node: usize) -> bool {
        self.hosts.iter().any(|host| host.node == node && host.waits.is_some())
    }

    /// The history, and what hosts would read now if `disk` took over.
    pub(super) fn check(&mut self, disk: &Disk) -> Result<(), Finding> {
        let touched: BTreeSet<u64> =
            self.history.iter().flat_map(|operation| operation.blocks.clone()).collect();
        let mut operations = self.history.clone();
        self.tick += 1;
        let (invoke, end) = (self.tick, Some(self.tick));
        for block in 0..disk.image.len() as u64 / BLOCK_BYTES {
            let id = disk.id_at(block);
            if touched.contains(&block) {
                let kind = Kind::Read(vec![value(id)]);
                let blocks = block..block + 1;
                operations.push(linearizability::Operation { kind, blocks, invoke, end });
            } else if id != 0 {
                return Err(seen(format!("block {block} has {id}, and nobody wrote it")));
            }
        }
        match linearizability::check(&operations) {
            Ok(_) => Ok(()),
            Err(violation) => Err(seen(violation.describe(&operations))),
        }
    }
}

fn seen(text: String) -> Finding {
    Finding::new(FindingKind::Seen, text)
}

fn value(id: u64) -> Value {
    if id == 0 { Value::ZERO } else { Value::written(id) }
}

fn values(data: &Bytes) -> Vec<Value> {
    data.chunks(BLOCK_BYTES as usize).map(|block| value(block_id(block))).collect()
}

/// Mostly a few blocks at the border of two regions or near it, so that they meet.
fn choose_range(rng: &mut ChaCha8Rng) -> ByteRange {
    let blocks_max = REGIONS * REGION_BYTES / BLOCK_BYTES;
    let border = rng.random_range(0..=REGIONS) * REGION_BYTES / BLOCK_BYTES;
    let away = if rng.random_bool(0.5) { 100 } else { 0 };
    let first = (border + away + rng.random_range(0..12)).saturating_sub(8).min(blocks_max - 1);
    let count = match rng.random_range(0..100) {
        0 => rng.random_range(1_000..5_000),
        _ => rng.random_range(1..10),
    };
    let end = (first + count).min(blocks_max);
    ByteRange::between(first * BLOCK_BYTES, end * BLOCK_BYTES)
}
