//! How messages get from one node to the other.
//!
//! Not here: what they mean; the state of a connection (`net.rs`).

use base::frame::{HEADER_BYTES, Header};
use base::ids::{ConnNonce, VolumeIndex};
use bytes::Bytes;
use control_plane::wire::ControlMessage;
use datapath::port::VolumeReport;
use rand::Rng;

use super::event::{Event, Letter, Side};
use super::net::{Conn, ConnId, ConnKind, End, Segment};
use super::world::World;

impl World {
    /// Puts a segment on its way, behind all earlier ones of its direction.
    fn put(&mut self, conn: ConnId, to: Side, segment: Segment) {
        let delay = self.jitter(self.plan.latencies.net * self.slow_link);
        let direction = &mut self.conns[conn].to[to];
        let at = (self.now + delay).max(direction.last_arrival);
        direction.last_arrival = at;
        direction.under_way.push_back(segment);
        self.queue.push(at, Event::Deliver { conn, to });
    }

    pub(super) fn send_control(&mut self, side: Side, nonce: ConnNonce, message: ControlMessage) {
        let Some(conn) = self.process(side).controls.get(&nonce).copied() else { return };
        self.check_control(side, &message);
        if self.conns[conn].is_open(1 - side) {
            self.check_heard(&message);
        }
        self.coverage.count("control message", message.name());
        if self.conns[conn].is_open(side) {
            let direction = &mut self.conns[conn].to[1 - side];
            let frame = message.encode(nonce, direction.sent);
            direction.sent += 1;
            self.put(conn, 1 - side, Segment::Control(frame));
        }
    }

    pub(super) fn send_bytes(&mut self, side: Side, conn: ConnId, bytes: Bytes) {
        if !self.conns[conn].is_open(side) {
            return;
        }
        // Now and then a frame arrives in two pieces.
        if bytes.len() > 1 && self.rng.random_range(0..16) == 0 {
            let at = self.rng.random_range(1..bytes.len());
            self.put(conn, 1 - side, Segment::Bytes(bytes.slice(..at)));
            self.put(conn, 1 - side, Segment::Bytes(bytes.slice(at..)));
        } else {
            self.put(conn, 1 - side, Segment::Bytes(bytes));
        }
    }

    /// This end closes; the other one is told, behind what is under way.
    pub(super) fn close_end(&mut self, side: Side, conn: ConnId, why: &'static str) {
        if self.conns[conn].is_open(side) {
            self.conns[conn].ends[side] = End::Closed;
            self.conns[conn].to[side].arrived.clear();
            self.put(conn, 1 - side, Segment::End(why));
        }
    }

    /// A process has ended: its kernel closes all its connections, unless it is gone as well.
    pub(super) fn close_all_ends(&mut self, side: Side, silently: bool) {
        for conn in 0..self.conns.len() {
            if !self.conns[conn].is_open(side) {
                continue;
            }
            if silently {
                self.conns[conn].ends[side] = End::Vanished;
                self.conns[conn].to[side].arrived.clear();
            } else {
                self.close_end(side, conn, "the peer's process has ended");
            }
        }
    }

    pub(super) fn close_control(&mut self, side: Side, nonce: ConnNonce) {
        let Some(conn) = self.process(side).controls.remove(&nonce) else { return };
        self.close_end(side, conn, "the peer closed it");
        // Data connections of it that no volume has taken.
        for conn in 0..self.conns.len() {
            let data = matches!(self.conns[conn].kind, ConnKind::Data(_));
            if data && self.conns[conn].nonce == nonce && !self.is_taken(side, conn) {
                self.close_end(side, conn, "nobody takes it");
            }
        }
    }

    fn is_taken(&mut self, side: Side, conn: ConnId) -> bool {
        self.process(side).volumes.iter().flatten().any(|thread| {
            thread.link.as_ref().is_some_and(|link| link.conn == conn)
                || thread.old_links.iter().any(|link| link.conn == conn)
                || thread.letters.iter().any(|l| matches!(l, Letter::Link(c) if *c == conn))
        })
    }

    /// Both ends learn that the connection is broken; some of what is under way is lost.
    pub(super) fn reset(&mut self, conn: ConnId) {
        for to in [0, 1] {
            if self.conns[conn].is_open(1 - to) {
                self.conns[conn].ends[1 - to] = End::Vanished;
                let under_way = self.conns[conn].to[to].under_way.len();
                let kept = self.rng.random_range(0..=under_way);
                for segment in self.conns[conn].to[to].under_way.iter_mut().skip(kept) {
                    *segment = Segment::End("it was reset");
                }
                self.put(conn, to, Segment::End("it was reset"));
            }
        }
    }

    /// A segment arrives.
    pub(super) fn deliver(&mut self, conn: ConnId, to: Side) {
        if self.cut[to] || self.conns[conn].held {
            self.conns[conn].to[to].stalled += 1;
            return;
        }
        let life = self.nodes[to].life;
        let Some(segment) = self.conns[conn].to[to].under_way.pop_front() else { return };
        let ours = &self.conns[conn];
        let alive = self.nodes[to].process.is_some() && ours.lives[to] == life;
        if ours.ends[to] == End::Closed || !alive {
            // A machine that has started again knows nothing of it and says so.
            let answers = self.nodes[to].process.is_some() && !matches!(segment, Segment::End(_));
            if answers && self.conns[conn].ends[to] == End::Vanished {
                self.conns[conn].ends[to] = End::Closed;
                self.put(conn, 1 - to, Segment::End("the machine was started again"));
            }
            return;
        }
        match self.conns[conn].kind {
            ConnKind::Control => self.deliver_control(conn, to, segment),
            ConnKind::Data(volume) => self.deliver_data(conn, to, volume, segment),
        }
    }

    fn deliver_control(&mut self, conn: ConnId, to: Side, segment: Segment) {
        let (now, nonce) = (self.now, self.conns[conn].nonce);
        match segment {
            Segment::Control(frame) => {
                let message = self.decode(conn, to, &frame);
                if !self.conns[conn].known {
                    // The accepting end learns the nonce from the first frame.
                    self.conns[conn].known = true;
                    self.process(to).controls.insert(nonce, conn);
                    self.process(to).group.handle_control_up(now, nonce);
                    self.drain_group(to);
                }
                if self.process(to).controls.contains_key(&nonce) {
                    self.process(to).group.handle_control(now, nonce, message);
                }
            }
            Segment::End(why) => {
                self.conns[conn].ends[to] = End::Closed;
                if self.process(to).controls.remove(&nonce).is_some() {
                    self.trace.line(now, || format!("{to} lost the control connection: {why}"));
                    self.process(to).group.handle_control_lost(now, nonce, why);
                }
            }
            Segment::Bind | Segment::Bytes(_) => unreachable!("a data segment"),
        }
        self.drain_group(to);
    }

    /// The production codec, both ways.
    fn decode(&mut self, conn: ConnId, to: Side, frame: &[u8]) -> ControlMessage {
        let (head, body) = frame.split_first_chunk::<HEADER_BYTES>().expect("a whole frame");
        let header = Header::decode(head).expect("our own header");
        let direction = &mut self.conns[conn].to[to];
        assert_eq!(header.sequence, direction.taken, "frames come in order");
        direction.taken += 1;
        assert_eq!(header.conn_nonce, self.conns[conn].nonce, "frames name their connection");
        ControlMessage::decode(&header, body).expect("our own message")
    }

    fn deliver_data(&mut self, conn: ConnId, to: Side, volume: VolumeIndex, segment: Segment) {
        let volume = usize::from(volume.0);
        if matches!(segment, Segment::Bind) {
            let welcome = self.process(to).group.conn_nonce() == Some(self.conns[conn].nonce);
            if welcome {
                self.post(to, volume, Letter::Link(conn));
            } else {
                self.close_end(to, conn, "it belongs to another control connection");
            }
            return;
        }
        self.conns[conn].to[to].arrived.push_back(segment);
        self.wake(to, volume);
    }

    /// The link's directions change; what was held up goes on.
    pub(super) fn set_cut(&mut self, cut: [bool; 2]) {
        let before = std::mem::replace(&mut self.cut, cut);
        for to in [0, 1] {
            if !before[to] || cut[to] {
                continue;
            }
            for conn in 0..self.conns.len() {
                if self.conns[conn].to[to].stalled == 0 || self.conns[conn].held {
                    continue;
                }
                // TCP tries again the more rarely the longer it has failed.
                let base = if self.rng.random_bool(0.3) { 800_000_000 } else { 20_000_000 };
                self.release(conn, to, base);
            }
        }
    }

    /// What was held up arrives, one segment after the other.
    fn release(&mut self, conn: ConnId, to: Side, base: u64) {
        let stalled = std::mem::take(&mut self.conns[conn].to[to].stalled);
        let mut at = self.now + self.jitter(base);
        for _ in 0..stalled {
            self.queue.push(at, Event::Deliver { conn, to });
            at = at + self.jitter(20_000);
        }
        let direction = &mut self.conns[conn].to[to];
        direction.last_arrival = direction.last_arrival.max(at);
    }

    /// The data connections of now are held up until further notice.
    pub(super) fn hold_data(&mut self) {
        self.plan.late_links = true;
        for conn in &mut self.conns {
            conn.held |= conn.kind != ConnKind::Control;
        }
    }

    /// They go on.
    pub(super) fn release_data(&mut self) {
        for conn in 0..self.conns.len() {
            if std::mem::take(&mut self.conns[conn].held) && self.cut == [false; 2] {
                for to in [0, 1] {
                    self.release(conn, to, 300_000);
                }
            }
        }
    }

    /// Part of every turn of the group's thread: dials while the group wants a connection.
    pub(super) fn maybe_dial(&mut self, side: Side) {
        let life = self.nodes[side].life;
        let Some(process) = self.nodes[side].process.as_mut() else { return };
        if process.group.wants_control() && !process.dialling {
            process.dialling = true;
            let delay = self.jitter(20_000_000);
            self.after(delay, Event::Dial { side, life });
        }
    }

    pub(super) fn dial(&mut self, side: Side) {
        let (life, peer) = (self.nodes[side].life, &self.nodes[1 - side]);
        let reachable = peer.process.is_some() && !peer.frozen && !self.refusing;
        let wanted = self.process(side).group.wants_control();
        if !wanted || !reachable || self.cut != [false; 2] {
            self.process(side).dialling = false;
            if wanted {
                self.coverage.count("net", "dial failed");
                self.process(side).dialling = true;
                let delay = self.jitter(100_000_000);
                self.after(delay, Event::Dial { side, life });
            }
            return;
        }
        let peer_life = self.nodes[1 - side].life;
        let nonce = super::plan::nonce(&mut self.rng);
        let delay = self.jitter(self.plan.latencies.net * 4);
        self.after(delay, Event::Dialled { side, life, peer_life, nonce });
    }

    pub(super) fn dialled(&mut self, side: Side, peer_life: u64, nonce: ConnNonce) {
        let life = self.nodes[side].life;
        let there = self.nodes[1 - side].life == peer_life && self.cut == [false; 2];
        if !there || self.refusing || self.nodes[1 - side].frozen {
            let delay = self.jitter(100_000_000);
            self.after(delay, Event::Dial { side, life });
            return;
        }
        self.process(side).dialling = false;
        let lives = if side == 0 { [life, peer_life] } else { [peer_life, life] };
        self.conns.push(Conn::new(ConnKind::Control, nonce, lives));
        let conn = self.conns.len() - 1;
        self.coverage.count("net", "control connection");
        let now = self.now;
        self.process(side).controls.insert(nonce, conn);
        self.process(side).group.handle_control_up(now, nonce);
        self.drain_group(side);
    }

    pub(super) fn connect_data(&mut self, side: Side, nonce: ConnNonce) {
        let (life, peer_life) = (self.nodes[side].life, self.nodes[1 - side].life);
        for volume in 0..self.plan.volumes.len() {
            let delay = self.jitter(self.plan.latencies.net * 4);
            let volume = VolumeIndex(volume as u16);
            self.after(delay, Event::DataDialled { side, life, peer_life, nonce, volume });
        }
    }

    pub(super) fn data_dialled(
        &mut self,
        side: Side,
        peer_life: u64,
        nonce: ConnNonce,
        volume: VolumeIndex,
    ) {
        let life = self.nodes[side].life;
        let there = self.nodes[1 - side].life == peer_life && self.cut == [false; 2];
        if !there || self.refusing {
            let why = "it could not be made".to_owned();
            let report = VolumeReport::LinkLost { conn_nonce: nonce, why };
            let now = self.now;
            self.process(side).group.handle_volume(now, volume, report);
            self.drain_group(side);
            return;
        }
        if self.process(side).group.conn_nonce() != Some(nonce) {
            return;
        }
        let lives = if side == 0 { [life, peer_life] } else { [peer_life, life] };
        self.conns.push(Conn::new(ConnKind::Data(volume), nonce, lives));
        let conn = self.conns.len() - 1;
        self.put(conn, 1 - side, Segment::Bind);
        self.post(side, usize::from(volume.0), Letter::Link(conn));
    }
}
