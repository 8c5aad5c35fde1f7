//! A volume's thread of a node: one turn at a time, in the order of the production loop: letters,
//! the data link, hosts, completions, one sample of clock and gate, `settle`, actions, sockets.
//!
//! A stopped process stops anywhere in a turn and goes on there.
//! Not here: what must be true of it (`checks.rs`).

use base::request::Completion;
use base::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};
use datapath::outbox::Action;
use datapath::port::VolumeReport;
use datapath::storage::{IoCompletion, IoId, IoOperation};
use datapath::wire::{LinkDecoder, LinkEncoder};
use rand::Rng;

use super::event::{Event, Letter, Side};
use super::net::{ConnId, Segment};
use super::process::{Incoming, Link, MidTurn, VolumeThread};
use super::world::World;

type Thread = Box<VolumeThread>;

/// However slow a disk is, it is no slower.
const SLOWEST: Duration = Duration::from_secs(6);

impl World {
    /// Makes sure that the thread has a turn soon.
    pub(super) fn wake(&mut self, side: Side, volume: usize) {
        let life = self.nodes[side].life;
        let delay = self.hop() / 4;
        let Some(process) = self.nodes[side].process.as_mut() else { return };
        let Some(thread) = process.volumes[volume].as_mut() else { return };
        if !thread.awake {
            thread.awake = true;
            self.after(delay, Event::Turn { side, life, volume });
        }
    }

    pub(super) fn turn(&mut self, side: Side, volume: usize) {
        let mut thread = self.process(side).volumes[volume].take().expect("one turn at a time");
        thread.awake = false;
        self.collect(side, volume, &mut thread);
        let pause = self.nodes[side].freeze_in_turn.take();
        match pause {
            None => self.settle_and_act(side, volume, &mut thread),
            Some(length) => self.stop_in_turn(side, volume, &mut thread, length),
        }
        self.put_back(side, volume, thread);
    }

    fn put_back(&mut self, side: Side, volume: usize, mut thread: Thread) {
        let life = self.nodes[side].life;
        // The group may have been told something that ended the process.
        if self.nodes[side].process.is_none() {
            return;
        }
        let deadline = thread.core.next_deadline().map(|at| at + Duration::from_micros(100));
        if thread.deadline_at != deadline {
            thread.deadline_at = deadline;
            if let Some(at) = deadline {
                self.queue.push(at.max(self.now), Event::Turn { side, life, volume });
            }
        }
        if thread.stopped_in.is_none() {
            self.check_volume_queues(side, volume, &thread);
        }
        self.process(side).volumes[volume] = Some(thread);
    }

    fn collect(&mut self, side: Side, volume: usize, thread: &mut Thread) {
        let now = self.now;
        while let Some(letter) = thread.letters.pop_front() {
            match letter {
                Letter::Command(command) => {
                    self.check_command(side, volume, thread, &command);
                    thread.core.handle_command(now, command);
                }
                Letter::Link(conn) => self.attach_link(side, thread, conn),
            }
            self.carry_out(side, volume, thread);
        }
        self.receive_link(side, thread);
        if thread.core.takes_requests() {
            while let Some(incoming) = thread.requests.pop_front() {
                match incoming {
                    // What comes on a closed connection is never read.
                    Incoming::Request(id, _) if thread.watch.has_closed(id.client) => {}
                    Incoming::Request(id, operation) => thread.core.handle_request(id, *operation),
                    Incoming::Gone(client) => thread.core.handle_client_gone(client),
                }
            }
        }
        for completion in std::mem::take(&mut thread.completions) {
            thread.core.handle_completion(now, completion);
        }
    }

    fn attach_link(&mut self, side: Side, thread: &mut Thread, conn: ConnId) {
        let why = "a newer data connection replaces it";
        self.drop_link(side, thread, why);
        let nonce = self.conns[conn].nonce;
        thread.core.handle_link_up(nonce);
        thread.link = Some(Link {
            conn,
            nonce,
            decoder: LinkDecoder::new(1),
            encoder: LinkEncoder::new(nonce, 1),
            pieces: Vec::new(),
        });
    }

    fn drop_link(&mut self, side: Side, thread: &mut Thread, why: &str) {
        if let Some(link) = thread.link.take() {
            thread.core.handle_link_lost(link.nonce, why.to_owned());
            if self.plan.late_links {
                thread.old_links.push(link);
            } else {
                self.close_end(side, link.conn, "the peer closed the data connection");
            }
        }
    }

    fn receive_link(&mut self, side: Side, thread: &mut Thread) {
        // A link that was replaced, but whose thread has not noticed: its messages are dead.
        for mut old in std::mem::take(&mut thread.old_links) {
            if self.receive(side, thread, &mut old).is_ok() && self.rng.random_range(0..500) > 0 {
                thread.old_links.push(old);
            } else {
                self.close_end(side, old.conn, "the peer closed the data connection");
            }
        }
        let Some(mut link) = thread.link.take() else { return };
        let received = self.receive(side, thread, &mut link);
        thread.link = Some(link);
        if let Err(why) = received {
            self.drop_link(side, thread, &why);
        }
    }

    fn receive(&mut self, side: Side, thread: &mut Thread, link: &mut Link) -> Result<(), String> {
        let now = self.now;
        while let Some(segment) = self.conns[link.conn].to[side].arrived.pop_front() {
            match segment {
                Segment::Bytes(bytes) => {
                    let fed = link.decoder.handle_bytes(&bytes);
                    while let Some(incoming) = link.decoder.poll_message() {
                        self.trace.line(now, || {
                            format!("{side} gets {:?}", super::text::message(&incoming.message))
                        });
                        if thread.link.is_some() {
                            // The current link is taken out while it is read.
                            let when = if thread.watch.left { "between" } else { "in a session" };
                            self.coverage.count("late message", when);
                        }
                        thread.core.handle_message(now, incoming);
                    }
                    fed.map_err(|error| error.to_string())?;
                }
                Segment::End(why) => return Err(why.to_owned()),
                Segment::Bind | Segment::Control(_) => unreachable!("not for a volume"),
            }
        }
        Ok(())
    }

    /// Sample, settle, act.
    fn settle_and_act(&mut self, side: Side, volume: usize, thread: &mut Thread) {
        let gate = self.process(side).gate;
        thread.watch.open = gate.usable(self.now);
        thread.core.settle(self.now, gate);
        self.carry_out(side, volume, thread);
        self.flush_link(side, thread);
    }

    fn stop_in_turn(&mut self, side: Side, volume: usize, thread: &mut Thread, length: Duration) {
        let gate = self.process(side).gate;
        thread.watch.open = gate.usable(self.now);
        thread.stopped_in = Some(match self.rng.random_range(0..3) {
            0 => MidTurn::Sample,
            1 => MidTurn::Settle(self.now, gate),
            _ => {
                thread.core.settle(self.now, gate);
                MidTurn::Actions
            }
        });
        self.trace.line(self.now, || {
            format!("{side} volume {volume} stops in a turn: {:?}", thread.stopped_in)
        });
        self.freeze(side, length);
    }

    pub(super) fn freeze(&mut self, side: Side, length: Duration) {
        let life = self.nodes[side].life;
        self.nodes[side].frozen = true;
        self.after(length, Event::Thaw { side, life });
    }

    /// The process goes on: first what was stopped in the middle of a turn, then everything that
    /// came meanwhile, timers last.
    pub(super) fn thaw(&mut self, side: Side) {
        self.trace.line(self.now, || format!("{side} goes on"));
        self.nodes[side].frozen = false;
        self.nodes[side].unserved_since = self.now;
        for volume in 0..self.plan.volumes.len() {
            let mut thread = self.process(side).volumes[volume].take().expect("one turn at a time");
            match thread.stopped_in.take() {
                None => {}
                Some(MidTurn::Sample) => self.settle_and_act(side, volume, &mut thread),
                Some(MidTurn::Settle(now, gate)) => {
                    thread.core.settle(now, gate);
                    self.carry_out(side, volume, &mut thread);
                    self.flush_link(side, &mut thread);
                }
                Some(MidTurn::Actions) => {
                    self.carry_out(side, volume, &mut thread);
                    self.flush_link(side, &mut thread);
                }
            }
            self.put_back(side, volume, thread);
            self.wake(side, volume);
        }
        let deferred = std::mem::take(&mut self.nodes[side].deferred);
        let (timers, rest): (Vec<_>, Vec<_>) =
            deferred.into_iter().partition(|event| matches!(event, Event::GroupTimer { .. }));
        for event in rest {
            self.queue.push(self.now, event);
        }
        let later: Instant = self.now + Duration::from_micros(50);
        for event in timers {
            self.queue.push(later, event);
        }
    }

    fn carry_out(&mut self, side: Side, volume: usize, thread: &mut Thread) {
        thread.watch.acknowledged = false;
        while let Some(action) = thread.core.poll_action() {
            match action {
                Action::Reply { id, completion, .. } => {
                    self.reply(side, volume, thread, id, completion);
                }
                Action::CloseClient { client, why } => {
                    self.trace.line(self.now, || format!("{side} closes {client:?}: {why}"));
                    self.coverage.count("client closed", format!("{why:?}"));
                    thread.watch.closed.insert(client);
                    self.close_client(side, client);
                    thread.core.handle_client_gone(client);
                }
                Action::CloseAllClients { why } => {
                    self.trace.line(self.now, || format!("{side} closes all clients: {why}"));
                    self.coverage.count("all clients closed", format!("{why:?}"));
                    thread.watch.closed_until = self.next_client;
                    self.close_clients(side, volume);
                }
                Action::Submit { id, operation } => {
                    self.check_submit(side, volume, thread, &operation);
                    self.submit(side, volume, id, operation);
                }
                Action::Send(message) => {
                    self.check_send(side, volume, thread, &message);
                    self.trace.line(self.now, || {
                        format!("{side} sends {:?}", super::text::message(&message))
                    });
                    let session = thread.core.session();
                    if let Some(link) = &mut thread.link {
                        link.encoder.encode(session, &message, &mut link.pieces);
                    }
                }
                Action::Report(report) => {
                    self.check_report(side, volume, thread, &report);
                    if matches!(report, VolumeReport::DiskFailed { .. }) {
                        self.remember_failure(side);
                    }
                    self.send_report(side, volume, report);
                }
            }
        }
    }

    fn flush_link(&mut self, side: Side, thread: &mut Thread) {
        let Some(link) = &mut thread.link else { return };
        link.encoder.finish(&mut link.pieces);
        let pieces = std::mem::take(&mut link.pieces);
        let conn = link.conn;
        let bytes = match pieces.len() {
            0 => return,
            1 => pieces.into_iter().next().expect("one piece"),
            _ => {
                let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        };
        self.send_bytes(side, conn, bytes);
    }

    fn submit(&mut self, side: Side, volume: usize, id: IoId, operation: IoOperation) {
        let base = self.plan.latencies.disk;
        let base = match &operation {
            IoOperation::Flush => self.plan.latencies.sync,
            IoOperation::Write { durable: true, .. } | IoOperation::Zero { durable: true, .. } => {
                base + self.plan.latencies.sync / 2
            }
            _ => base,
        };
        let delay = (self.jitter(base) * self.nodes[side].slowness).min(SLOWEST);
        if let Err(overlap) = self.nodes[side].disks[volume].submit(id, operation) {
            self.overlap(side, volume, overlap.0);
        }
        let life = self.nodes[side].life;
        self.after(delay, Event::DiskDone { side, life, volume, io: id });
    }

    pub(super) fn disk_done(&mut self, side: Side, volume: usize, io: IoId) {
        if let Some(waiting) = &mut self.nodes[side].hung {
            waiting.push((volume, io));
            return;
        }
        let done = self.nodes[side].disks[volume].complete(io, &mut self.rng);
        let (name, result) = done.expect("an I/O completes once");
        if result.is_err() {
            self.coverage.count("disk", format!("{name} failed"));
            match name {
                "read" => {}
                "flush" => self.history.lost(side),
                _ => self.history.hit(side),
            }
        }
        let completion = IoCompletion { id: io, result };
        let process = self.process(side);
        let thread = process.volumes[volume].as_mut().expect("no turn is under way");
        thread.completions.push(completion);
        self.wake(side, volume);
    }

    fn reply(
        &mut self,
        side: Side,
        volume: usize,
        thread: &mut Thread,
        id: base::request::RequestId,
        completion: Completion,
    ) {
        self.check_reply(side, volume, thread, id, &completion);
        self.answered(side, id, completion, thread.watch.entered);
    }
}
