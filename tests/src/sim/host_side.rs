//! What hosts do and what they are told.
//!
//! Not here: their state (`hosts.rs`), what may be answered (`history.rs`).

use base::ids::ClientId;
use base::request::{Completion, RequestError, RequestId};
use base::time::Duration;
use rand::Rng;

use super::event::{Event, Side};
use super::finding::Finding;
use super::history::{Asked, History};
use super::hosts::{Wish, request};
use super::world::{Stage, World};

/// Requests that hosts do not exceed in one run outside of its end.
const BUDGET_MAX: u32 = 40;

impl World {
    pub(super) fn wake_host(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.thinking || !host.wants() {
            return;
        }
        host.thinking = true;
        let delay = if host.client.is_some() {
            Duration::from_micros(self.rng.random_range(1..200))
        } else {
            Duration::from_millis(self.rng.random_range(5..150))
        };
        self.after(delay, Event::Think { host: index });
    }

    pub(super) fn burst(&mut self, length: u32) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.budget = (host.budget + length).min(BUDGET_MAX);
            self.wake_host(index);
        }
    }

    pub(super) fn think(&mut self, index: usize) {
        self.hosts[index].thinking = false;
        if self.hosts[index].client.is_none() && !self.connect(index) {
            self.wake_host(index);
            return;
        }
        let host = &mut self.hosts[index];
        if host.outstanding.len() >= host.depth || !host.wants() {
            return;
        }
        let wish = match host.told.pop_front() {
            Some(range) => Wish { asked: Asked::Read, range, fua: false, trim: false },
            None => {
                host.budget -= 1;
                self.plan.volumes[host.volume].work.draw(&mut self.rng)
            }
        };
        self.ask(index, wish);
        self.wake_host(index);
    }

    fn connect(&mut self, index: usize) -> bool {
        let side = self.hosts[index].side;
        let node = &self.nodes[side];
        if node.process.as_ref().is_none_or(|process| process.stopping) {
            return false;
        }
        self.next_client += 1;
        self.hosts[index].client = Some(ClientId(self.next_client));
        true
    }

    fn ask(&mut self, index: usize, wish: Wish) {
        let host = &mut self.hosts[index];
        let (side, volume) = (host.side, host.volume);
        let client = host.client.expect("it is connected");
        let operation = self.history.begin(side, volume, wish.asked, wish.range, wish.fua);
        let tag = host.next_tag;
        host.next_tag += 1;
        host.outstanding.insert(tag, operation);
        let id = RequestId { client, tag };
        let wanted = request(wish, volume, History::value_id(operation));
        self.trace.line(self.now, || format!("host of {side} asks {operation}: {wish:?}"));
        let delay = self.jitter(self.plan.latencies.hop);
        let host = &mut self.hosts[index];
        let at = (self.now + delay).max(host.last_arrival);
        host.last_arrival = at;
        host.asked_at = self.now;
        let life = self.nodes[side].life;
        let operation = Box::new(wanted);
        self.queue.push(at, Event::Request { side, life, volume, id, operation });
    }

    /// A node answers.
    pub(super) fn answered(
        &mut self,
        side: Side,
        id: RequestId,
        completion: Completion,
        entered: u64,
    ) {
        let found = self.hosts.iter().position(|host| host.client == Some(id.client));
        let Some(index) = found else { return };
        let Some(operation) = self.hosts[index].outstanding.remove(&id.tag) else {
            self.report(Finding::history(format!("{id:?} was answered twice")));
            return;
        };
        self.trace.line(self.now, || {
            let what = match &completion {
                Completion::Data(data) => format!("{} bytes", data.len()),
                other => format!("{other:?}"),
            };
            format!("{side} answers {operation}: {what}")
        });
        let asked = self.history.operations[operation].asked;
        let result = match completion {
            Completion::Done if asked != Asked::Read => {
                self.check_copies(operation, entered);
                self.note_contention(index, operation);
                self.history.end(operation);
                Ok(())
            }
            Completion::Data(data) if asked == Asked::Read => {
                self.note_contention(index, operation);
                self.history.end_read(operation, &data)
            }
            Completion::Failed(RequestError::ShuttingDown) => Ok(()),
            Completion::Failed(_) if asked == Asked::Read => {
                self.coverage.count("reply", "EIO");
                Ok(())
            }
            other => Err(Finding::history(format!("{asked:?} was answered {other:?}"))),
        };
        if let Err(finding) = result {
            self.report(finding);
        }
        self.trace.fold(&[operation as u64]);
        self.wake_host(index);
    }

    fn note_contention(&mut self, host: usize, operation: usize) {
        self.acknowledged += 1;
        let own = &self.history.operations[operation];
        let (side, volume, range, asked) = (own.side, own.volume, own.range, own.asked);
        let others: Vec<usize> = self
            .hosts
            .iter()
            .filter(|other| other.side != side && other.volume == volume)
            .flat_map(|other| other.outstanding.values().copied())
            .collect();
        let _ = host;
        let mut met = self.history.operations[operation].contended;
        for other in others {
            let there = &mut self.history.operations[other];
            let changes = asked != Asked::Read || there.asked != Asked::Read;
            if there.range.overlaps(range) && changes {
                there.contended = true;
                met = true;
            }
        }
        self.contended += u64::from(met);
    }

    pub(super) fn close_client(&mut self, side: Side, client: ClientId) {
        for index in 0..self.hosts.len() {
            if self.hosts[index].side == side && self.hosts[index].client == Some(client) {
                self.give_up(index);
                self.wake_host(index);
            }
        }
    }

    pub(super) fn close_clients(&mut self, side: Side, volume: usize) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if host.side == side && host.volume == volume && host.client.is_some() {
                self.give_up(index);
                self.wake_host(index);
            }
        }
    }

    /// The node has closed the host's connection.
    fn give_up(&mut self, index: usize) {
        for operation in self.hosts[index].outstanding.values() {
            self.history.operations[*operation].given_up = true;
        }
        self.hosts[index].disconnected();
    }

    /// Hosts give their connections up by themselves.
    pub(super) fn hosts_leave(&mut self, side: Side) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            let Some(client) = host.client.filter(|_| host.side == side) else { continue };
            let (volume, at) = (host.volume, host.last_arrival.max(self.now));
            host.disconnected();
            let life = self.nodes[side].life;
            self.queue.push(at, Event::ClientLeft { side, life, volume, client });
            self.wake_host(index);
        }
    }

    /// Whether every host has what it asked for.
    pub(super) fn hosts_are_idle(&self) -> bool {
        self.hosts.iter().all(super::hosts::Host::is_idle)
    }

    /// Everything that may have been written is read through both nodes.
    pub(super) fn read_everything(&mut self) {
        self.stage = Stage::Reading;
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            let work = self.plan.volumes[host.volume].work;
            let mut at = work.hot.offset();
            while at < work.hot.end() {
                let end = work.hot.end().min(at + (16 << 10));
                host.told.push_back(base::range::ByteRange::between(at, end));
                at = end;
            }
            self.wake_host(index);
        }
    }
}
