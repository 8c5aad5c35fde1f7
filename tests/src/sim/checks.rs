//! What must be true at every moment, checked as it happens.
//!
//! Two kinds: bytes and histories, which are all that a host can see, and the order of things
//! (which record is durable before what, what is said after leaving), which the first kind notices
//! only when the right fault follows.
//! Checked: W7 and D5 by the disk (no overlapping I/O), D2 and D4 at every reply and every session
//! start, F5 to F8b, I7, I8, one session at a time.

use base::range::ByteRange;
use base::request::{Completion, Content, RequestError, RequestId};
use base::time::Instant;
use control_plane::polarization::{Action, DurableStep};
use control_plane::record::{NodeRecord, RecordState};
use control_plane::wire::ControlMessage;
use datapath::gate::Gate;
use datapath::port::{Scope, SyncRole, VolumeCommand, VolumeReport};
use datapath::storage::IoOperation;
use datapath::wire::DataMessage;

use super::event::Side;
use super::faults::Trigger;
use super::finding::Finding;
use super::history::{Asked, History};
use super::process::VolumeThread;
use super::world::World;
use crate::checkers::copies::difference;

impl World {
    pub(super) fn check_group_action(&mut self, side: Side, action: &Action) {
        if let Action::PublishGate(gate) = action {
            self.check_gate(side, *gate);
        }
    }

    fn check_gate(&mut self, side: Side, gate: Gate) {
        if gate.read_until == Instant::ZERO {
            self.open[side] = None;
            self.nodes[side].unserved_since = self.now;
            return;
        }
        let session = gate.session.0;
        if self.open[side].replace(session).is_some() {
            return;
        }
        self.trace.line(self.now, || format!("{side} serves in session {session}"));
        if self.open[1 - side].is_some_and(|other| other != session) {
            self.report(Finding::order(format!("two sessions are served: {:?}", self.open)));
        }
        self.check_record(side, "serves", |state| state == RecordState::Active, session);
        if session > self.last_session_begun {
            self.last_session_begun = session;
            self.session_begins(session);
        }
        self.trigger(Trigger::GateOpens);
    }

    fn session_begins(&mut self, session: u64) {
        self.sessions += 1;
        self.put_aside = None;
        for volume in 0..self.plan.volumes.len() {
            self.check_equal(volume, &format!("as session {session} begins"));
        }
        let images: Vec<&[u8]> =
            self.nodes[0].disks.iter().map(super::disk::DataDisk::current).collect();
        let lossy = self.history.may_lose;
        let begun = self.history.session_begins(&images);
        for node in &mut self.nodes {
            node.stash = None;
            node.machine.empty.fill(false);
        }
        if lossy {
            self.coverage.count("session", "after a loss on both nodes");
        } else {
            self.coverage.count("session", "nothing lost");
        }
        if let Err(finding) = begun {
            self.report(finding);
        }
    }

    /// D4: both copies are the same bytes.
    pub(super) fn check_equal(&mut self, volume: usize, when: &str) {
        let [a, b] = [0, 1].map(|side| self.nodes[side].disks[volume].current());
        if let Some(difference) = difference(a, b) {
            let text = format!("the copies of volume {volume} differ {when}: {difference:?}");
            self.report(Finding::bytes(text));
        }
    }

    fn check_record(
        &mut self,
        side: Side,
        what: &str,
        right: impl Fn(RecordState) -> bool,
        session: u64,
    ) {
        let record = self.durable_record(side);
        let good = record.as_ref().is_some_and(|r| right(r.state) && r.session.0 == session);
        if !good {
            let state = record.map(|record| (record.state, record.session));
            self.report(Finding::order(format!(
                "node {side} {what} in session {session}, its durable record says {state:?}"
            )));
        }
    }

    pub(super) fn check_control(&mut self, side: Side, message: &ControlMessage) {
        match message {
            ControlMessage::AaGo { session } => {
                self.check_record(side, "says AA_GO", |s| s == RecordState::Active, session.0);
            }
            ControlMessage::AaGoAck { session } => {
                self.check_record(side, "says AA_GO_ACK", |s| s == RecordState::Active, session.0);
            }
            ControlMessage::SyncDoneAck { session } => {
                self.check_record(side, "is ready", |s| s == RecordState::Ready, session.0);
                self.check_flushed(side, "says that it is done (F7)");
            }
            ControlMessage::Left { .. } => {
                let process = self.nodes[side].process.as_ref().expect("it speaks");
                if !process.volumes.iter().flatten().all(|thread| thread.watch.left) {
                    self.report(Finding::order(format!("node {side} says LEFT too early")));
                }
            }
            _ => {}
        }
    }

    /// What the peer it was meant for may still hear: a node that was frozen says it to nobody.
    pub(super) fn check_heard(&mut self, message: &ControlMessage) {
        if matches!(message, ControlMessage::SyncStart { scope: Scope::Nothing, .. }) {
            self.check_nothing();
        }
    }

    /// Nothing is compared only if both were stopped cleanly in one session, or are new.
    fn check_nothing(&mut self) {
        let [a, b] = [0, 1].map(|side| self.durable_record(side));
        let (Some(a), Some(b)) = (a, b) else { return };
        let clean = |r: &NodeRecord| r.state == RecordState::Stopped && r.clean;
        let both_clean = clean(&a) && clean(&b) && a.session == b.session;
        let both_new = a.state == RecordState::Virgin && b.state == RecordState::Virgin;
        if !both_clean && !both_new {
            let states = [a, b].map(|r| (r.state, r.session, r.clean));
            self.report(Finding::order(format!("nothing is compared between {states:?} (I12)")));
        }
    }

    fn check_flushed(&mut self, side: Side, what: &str) {
        if !self.nodes[side].disks.iter().all(super::disk::DataDisk::is_flushed) {
            self.report(Finding::order(format!("node {side} {what} with unflushed data")));
        }
    }

    pub(super) fn check_command(
        &mut self,
        side: Side,
        volume: usize,
        thread: &mut VolumeThread,
        command: &VolumeCommand,
    ) {
        if let VolumeCommand::Prepare { rewrite: true, .. } = command {
            self.coverage.count("compare", "own copy rewritten");
        }
        if let VolumeCommand::Enter { granule_bytes, .. } = command {
            self.coverage.count("lock unit", granule_bytes.to_string());
        }
        let VolumeCommand::Compare { role, scope, .. } = command else { return };
        self.coverage.count("compare", format!("{role:?} {scope:?}"));
        match role {
            SyncRole::Target => thread.watch.target = true,
            SyncRole::Source => {
                thread.watch.source = true;
                if !self.nodes[side].disks[volume].is_flushed() {
                    let text = format!("node {side} compares as source with unflushed data (F6)");
                    self.report(Finding::order(text));
                }
                let target = matches!(
                    self.durable_record(side).map(|record| record.state),
                    Some(RecordState::Target { .. })
                );
                if target {
                    self.report(Finding::order(format!("node {side} is a source and a target")));
                }
                self.history.settle_on(side, *scope != Scope::Nothing);
                self.trigger(Trigger::CompareBegins);
            }
        }
    }

    pub(super) fn check_submit(
        &mut self,
        side: Side,
        volume: usize,
        thread: &VolumeThread,
        operation: &IoOperation,
    ) {
        let changes = matches!(operation, IoOperation::Write { .. } | IoOperation::Zero { .. });
        if !changes || !thread.watch.target {
            return;
        }
        self.coverage.count("compare", "block copied");
        let target = matches!(
            self.durable_record(side).map(|record| record.state),
            Some(RecordState::Target { .. })
        );
        if !target {
            let text = format!("node {side} overwrites volume {volume} before its record says so");
            self.report(Finding::order(text));
        }
        self.trigger_copy_write();
    }

    pub(super) fn check_send(
        &mut self,
        side: Side,
        volume: usize,
        thread: &mut VolumeThread,
        message: &DataMessage,
    ) {
        let (name, of_session) = match message {
            DataMessage::Repl { .. } => ("REPL", true),
            DataMessage::WriteRequest { .. } => ("WREQ", true),
            DataMessage::Ordered(_) => ("ORDERED", true),
            DataMessage::Ack(_) => ("ACK", true),
            DataMessage::Applied(_) => ("APPLIED", true),
            DataMessage::Commit { .. } => ("COMMIT", true),
            DataMessage::Nak { .. } => ("NAK", true),
            DataMessage::Flush { .. } => ("FLUSH", true),
            DataMessage::FlushAck { .. } => ("FLUSH_ACK", true),
            DataMessage::DigestRequest { .. } => ("DIGEST_REQUEST", false),
            DataMessage::Digests { .. } => ("DIGESTS", false),
            DataMessage::SyncBlock { .. } => ("SYNC_BLOCK", false),
            DataMessage::SyncBlockAck { .. } => ("SYNC_BLOCK_ACK", false),
        };
        self.coverage.count("data message", name);
        self.check_sent(side, message);
        if of_session && thread.watch.left {
            let text = format!("node {side} sends {name} of volume {volume} after it left (I7)");
            self.report(Finding::order(text));
        }
        if name == "WREQ" && thread.watch.acknowledged {
            let text = format!("node {side} acknowledges before it sends what it has read (G2a)");
            self.report(Finding::order(text));
        }
        thread.watch.acknowledged |= name == "ACK";
        if matches!(message, DataMessage::Nak { .. })
            && !self.durable_record(side).is_some_and(|record| record.io_failed)
        {
            self.report(Finding::order(format!("node {side} sends NAK before its record (W8)")));
        }
    }

    /// D7: a write whose connection the node has closed is not sent for the first time.
    fn check_sent(&mut self, side: Side, message: &DataMessage) {
        let (DataMessage::Repl { write, .. } | DataMessage::WriteRequest { write, .. }) = message
        else {
            return;
        };
        let Content::Data(data) = &write.content else { return };
        let Ok(id) = data[16..24].try_into().map(u64::from_le_bytes) else { return };
        let operation = &mut self.history.operations[id as usize - 1];
        if operation.given_up && !operation.sent {
            let text = format!("node {side} sends {operation:?}, whose client it closed (D7)");
            self.report(Finding::order(text));
            return;
        }
        operation.sent = true;
    }

    pub(super) fn check_report(
        &mut self,
        side: Side,
        volume: usize,
        thread: &mut VolumeThread,
        report: &VolumeReport,
    ) {
        let name = match report {
            VolumeReport::LinkUp { .. } => "LinkUp",
            VolumeReport::LinkLost { .. } => "LinkLost",
            VolumeReport::Prepared { .. } => "Prepared",
            VolumeReport::Progress(_) => "Progress",
            VolumeReport::Compared { .. } => "Compared",
            VolumeReport::Entered { .. } => {
                thread.watch.left = false;
                thread.watch.entered = self.history.tick();
                (thread.watch.source, thread.watch.target) = (false, false);
                "Entered"
            }
            VolumeReport::Left { .. } => {
                thread.watch.left = true;
                (thread.watch.source, thread.watch.target) = (false, false);
                "Left"
            }
            VolumeReport::Quiet { .. } => "Quiet",
            VolumeReport::Drained { .. } => "Drained",
            VolumeReport::CopyFailed { .. } => "CopyFailed",
            VolumeReport::PeerStuck { .. } => "PeerStuck",
            VolumeReport::DiskStuck { .. } => "DiskStuck",
            VolumeReport::PeerDiskFailed { .. } => "PeerDiskFailed",
            VolumeReport::DiskFailed { .. } => "DiskFailed",
        };
        self.coverage.count("report", name);
        self.trace.fold(&[side as u64, volume as u64]);
    }

    /// I7: no reply of a session that was left, but to reads while its gate is open.
    pub(super) fn check_reply(
        &mut self,
        side: Side,
        volume: usize,
        thread: &VolumeThread,
        id: RequestId,
        completion: &Completion,
    ) {
        if matches!(completion, Completion::Data(_)) && !thread.watch.open {
            let text = format!("node {side} answers a read of volume {volume} while closed (I9)");
            self.report(Finding::order(text));
        }
        if !thread.watch.left || *completion == Completion::Failed(RequestError::ShuttingDown) {
            return;
        }
        let asked = self
            .hosts
            .iter()
            .find(|host| host.client == Some(id.client))
            .and_then(|host| host.outstanding.get(&id.tag))
            .map(|index| self.history.operations[*index].asked);
        let reads_on = asked == Some(Asked::Read) && thread.watch.open;
        if asked.is_some_and(|asked| asked != Asked::Cache) && !reads_on {
            self.report(Finding::order(format!(
                "node {side} answers {asked:?} of volume {volume} outside a session (I7)"
            )));
        }
    }

    /// D2: what is acknowledged is on both copies.
    pub(super) fn check_copies(&mut self, index: usize, entered: u64) {
        let operation = &self.history.operations[index];
        // One of an earlier session is answered after all that followed it was applied.
        if operation.invoke < entered {
            return;
        }
        let (volume, range) = (operation.volume, operation.range);
        let asked = operation.asked;
        if !matches!(asked, Asked::Write | Asked::Zero) {
            return;
        }
        let invoke = operation.invoke;
        // What lost power since may have it no more; its acknowledgement was under way.
        for side in [0, 1].into_iter().filter(|side| self.history.lost_at[*side] < invoke) {
            let bounds = range.offset() as usize..range.end() as usize;
            let bytes = &self.nodes[side].disks[volume].current()[bounds];
            let there = match asked {
                Asked::Zero => bytes.iter().all(|byte| *byte == 0),
                _ => bytes
                    .chunks(512)
                    .all(|block| block[16..24] == History::value_id(index).to_le_bytes()),
            };
            if !there {
                let text = format!(
                    "operation {index} ({operation:?}) is acknowledged, but not on the copy of \
                     node {side} (D2)"
                );
                self.report(Finding::bytes(text));
                return;
            }
        }
    }

    /// The storage's contract: a core never has two overlapping operations under way if one of
    /// them writes (D5, W7).
    pub(super) fn overlap(&mut self, side: Side, volume: usize, range: ByteRange) {
        let text = format!("node {side} has overlapping I/O on volume {volume} at {range}");
        self.report(Finding::order(text));
    }

    /// I8, as each step of a durable job becomes durable.
    pub(super) fn check_step_done(&mut self, side: Side, step: &DurableStep) {
        let name = match step {
            DurableStep::SyncData(_) => "data",
            DurableStep::WriteStamp(..) => "stamp",
            DurableStep::WriteHeader(..) => "header",
            DurableStep::WriteRecord(_) => "record",
        };
        self.coverage.count("durable", name);
        let DurableStep::WriteRecord(record) = step else { return };
        if record.io_failed {
            self.history.hit(side);
            self.nodes[side].machine.tells_of_failure = false;
            self.nodes[side].machine.tells_of_late_disk = false;
            self.nodes[side].disks.iter_mut().for_each(|disk| disk.failed_untold = false);
        }
        self.coverage.count("record", format!("{:?}", StateName(record.state)));
        let node = &mut self.nodes[side];
        let (seq, session) = (record.record_seq, record.session.0);
        let back = seq <= node.record_seq || session < node.record_session;
        (node.record_seq, node.record_session) = (seq, session);
        if self.plan.run_files {
            node.machine.run_record_seq = Some(seq);
        }
        if back {
            self.report(Finding::order(format!("the record of node {side} went back (I8)")));
        }
    }
}

struct StateName(RecordState);

impl std::fmt::Debug for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            RecordState::Virgin => "Virgin",
            RecordState::Active => "Active",
            RecordState::Solo => "Solo",
            RecordState::Target { .. } => "Target",
            RecordState::Ready => "Ready",
            RecordState::Stopped => "Stopped",
            RecordState::Broken => "Broken",
        })
    }
}
