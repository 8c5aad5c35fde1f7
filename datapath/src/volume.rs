//! One volume at one node: all that the shell and the simulator drive.
//!
//! Owns: requests that wait, own writes carried over a lost session, reads after it, and one of:
//! nothing, a comparison, a session. In: requests, the peer's messages, completions, the group's commands, one
//! sample of clock and gate per turn. Out: actions.
//! Invariants: W7 nothing of the next session is submitted before everything of the last one has
//! completed. G1 a message of another session or connection is dead. G2a what was read from a host
//! goes to the peer before any acknowledgement of the same turn. L5 nothing is held after the
//! group said so.
//! Faults assumed: as `order/mirror.rs`; any I/O may fail: from then on nothing is acknowledged.
//! Not here: its life at the group's word (`life`), the order of writes (`order`), the comparison
//! (`compare`), reads after a session (`late_reads`), who serves (the group).
//!
//! The life of a volume: idle, then for each session Prepare, Compare, Enter, (Drain,) Leave; alone
//! EnterSolo instead of the first three, then Attach for a target that comes, and Enter when it is
//! equal or Detach when it is lost. A turn of the shell: every event since the last one, then `settle` with one sample of clock and
//! gate, then the actions; again until nothing is left to do.

mod life;

use std::collections::VecDeque;

use base::ids::{ClientId, ConnNonce, Session, VolumeIndex};
use base::limits::{PEER_WRITES_MAX, VOLUME_BYTES_MAX, WRITES_MAX};
use base::request::{Completion, Operation, RequestId};
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};
use tracing::warn;

use crate::compare::{Compare, TARGET_IO_MAX, WINDOW};
use crate::gate::Gate;
use crate::held::Held;
use crate::late_reads::LateReads;
use crate::order::late::Half;
use crate::order::leave::CarriedWrite;
use crate::order::mirror::{Arrival, Mirror, SessionInfo};
use crate::outbox::{Action, CloseReason, IoUse, Outbox, PREFETCHES_MAX};
use crate::port::{Progress, VolumeReport};
use crate::queues::{Queue, REQUEST_BYTES_SUM_MAX, REQUESTS_MAX};
use crate::rewrite::Rewrite;
use crate::storage::{IoCompletion, IoDone, IoFault};
use crate::wire::{DataMessage, Incoming};

/// Time between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Messages of the next session that may come before the group's word of it, at most.
const EARLY_MAX: usize = 2 * WINDOW;
/// I/O under way, at most: one for each request here and at the peer, its flush, and a comparison.
const IO_MAX: usize = REQUESTS_MAX + PEER_WRITES_MAX + 1 + PREFETCHES_MAX + TARGET_IO_MAX;

/// What a volume is built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Its place in the group.
    pub index: VolumeIndex,
    /// In bytes.
    pub size: u64,
    /// Unit of its direct I/O, in bytes (512 where I/O is buffered).
    pub granule_bytes: u32,
    /// Age of an un-acknowledged mirrored write after which the session is left (T_io).
    pub io_timeout: Duration,
    /// Which rules hold.
    pub rules: Rules,
}

#[derive(Debug)]
enum Phase {
    /// No session, no comparison.
    Idle,
    /// A session was left; its I/O has not completed.
    Leaving(Session),
    /// Own writes of the last session are being applied, then a copy whose disk failed is written
    /// over itself.
    Preparing(Session, Option<Rewrite>),
    /// The copies are being made equal. At a target with what the source mirrors meanwhile.
    Comparing(Compare, Option<Box<Mirror>>),
    /// In a session, or alone.
    Active(Box<Mirror>),
}

/// How far a clean stop is: from `Wanted` on no request is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    No,
    Wanted,
    Done,
}

/// One volume.
#[derive(Debug)]
pub struct Volume {
    config: VolumeConfig,
    phase: Phase,
    /// Session and connection of the messages that count.
    current: Option<(Session, ConnNonce)>,
    link: Option<ConnNonce>,
    early: VecDeque<Incoming>,
    /// Requests that wait for a session with an open gate, oldest first.
    held: Held,
    carried: Vec<CarriedWrite>,
    /// Reads after a session, and in which generation its gate was open last.
    late_reads: LateReads,
    open_gen: Option<u64>,
    next_arrival: u64,
    drain: Drain,
    /// After `DiscardHeld`: nobody came back in time, new requests are not held.
    refusing: bool,
    failed: bool,
    stuck_reported: bool,
    progress_at: Instant,
    out: Outbox,
}

impl Volume {
    /// Idle.
    pub fn new(config: VolumeConfig) -> Self {
        Self {
            config,
            phase: Phase::Idle,
            current: None,
            link: None,
            early: VecDeque::new(),
            held: Held::default(),
            carried: Vec::new(),
            late_reads: LateReads::default(),
            open_gen: None,
            next_arrival: 0,
            drain: Drain::No,
            refusing: false,
            failed: false,
            stuck_reported: false,
            progress_at: Instant::ZERO,
            out: Outbox::default(),
        }
    }

    /// The next effect to carry out.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.poll()
    }

    /// The session of everything that is sent.
    pub fn session(&self) -> Session {
        self.current.map(|(session, _)| session).unwrap_or_default()
    }

    /// When `settle` is due even if nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)) if !self.stuck_reported => {
                mirror.late_at(self.config.io_timeout)
            }
            _ => None,
        }
    }

    /// Whether more may be received from hosts: what is under way or held, whether its host is
    /// still there or not, is bounded in number and in memory.
    pub fn takes_requests(&self) -> bool {
        let (requests, bytes) = self.load();
        requests < WRITES_MAX && bytes < VOLUME_BYTES_MAX
    }

    /// Requests under way or held, and the bytes that they keep in memory.
    pub fn load(&self) -> (usize, u64) {
        let (requests, bytes) = match &self.phase {
            Phase::Active(mirror) => (mirror.load(), mirror.own_bytes()),
            _ => (0, 0),
        };
        let carried: u64 = self.carried.iter().map(|carried| carried.write.payload_bytes()).sum();
        let held = self.held.payload_bytes();
        let (late, late_bytes) = self.late_reads.load();
        let requests = requests + self.held.len() + self.carried.len() + late;
        (requests, bytes + held + carried + late_bytes)
    }

    /// Everything that waits here, with what there may be of it after a turn.
    pub fn queues(&self) -> Vec<Queue> {
        let (requests, bytes) = self.load();
        let mut queues = vec![
            Queue::of("requests under way or held", requests, REQUESTS_MAX),
            Queue::of_bytes("bytes of requests", bytes, REQUEST_BYTES_SUM_MAX),
            Queue::of("messages of the next session", self.early.len(), EARLY_MAX),
            Queue::of("actions", self.out.len(), 0),
            Queue::of("I/O under way", self.out.in_flight(), IO_MAX),
        ];
        match &self.phase {
            Phase::Active(mirror) => queues.extend(mirror.queues()),
            Phase::Comparing(compare, mirror) => {
                queues.extend(compare.queues());
                queues.extend(mirror.iter().flat_map(|mirror| mirror.queues()));
            }
            Phase::Idle | Phase::Leaving(_) | Phase::Preparing(..) => {}
        }
        queues
    }

    /// A host asks; the range was checked by the front end.
    pub fn handle_request(&mut self, id: RequestId, operation: Operation) {
        if self.refusing {
            self.out.close(id.client, CloseReason::NotServing);
            return;
        }
        let number = self.arrival_number();
        self.held.push_back(Arrival { number, id, operation });
    }

    /// A client's connection is closed: what waits is forgotten (D7).
    pub fn handle_client_gone(&mut self, client: ClientId) {
        self.held.retain(|arrival| arrival.id.client != client);
        self.late_reads.forget(Some(client));
        self.carried.retain(|c| c.id.client != client || c.applied || c.in_flight);
        if let Phase::Active(mirror) = &mut self.phase {
            mirror.client_gone(client, &mut self.out);
        }
        self.prepare_next();
    }

    /// The data connection that belongs to this control connection is attached.
    pub fn handle_link_up(&mut self, conn_nonce: ConnNonce) {
        self.link = Some(conn_nonce);
        self.early.clear();
        self.out.report(VolumeReport::LinkUp { conn_nonce });
    }

    /// That connection is gone.
    pub fn handle_link_lost(&mut self, conn_nonce: ConnNonce, why: String) {
        if self.link == Some(conn_nonce) {
            self.link = None;
            self.early.clear();
            self.out.report(VolumeReport::LinkLost { conn_nonce, why });
        }
    }

    /// The peer says something.
    pub fn handle_message(&mut self, now: Instant, incoming: Incoming) {
        let belongs = (incoming.session, incoming.conn_nonce);
        if self.config.rules.hold(Rule::SessionCheckedAtApply) && self.current != Some(belongs) {
            let newer = self.current.is_none_or(|(session, _)| incoming.session > session);
            if newer && self.link == Some(incoming.conn_nonce) {
                self.keep_early(incoming);
            }
            return;
        }
        if self.link != Some(incoming.conn_nonce)
            && self.config.rules.hold(Rule::SessionCheckedAtApply)
        {
            // The connection broke a rule; what it still says is not obeyed.
            return;
        }
        if self.failed && self.config.rules.hold(Rule::FailedWriteNeverAcked) {
            return;
        }
        if let Phase::Active(mirror) = &self.phase {
            let SessionInfo { session, conn_nonce, .. } = mirror.info();
            assert_eq!(
                self.current,
                conn_nonce.map(|conn_nonce| (session, conn_nonce)),
                "G1: only messages of the session under way count"
            );
        }
        let result = match (&mut self.phase, incoming.message) {
            (Phase::Active(mirror), DataMessage::Nak { .. }) => {
                let session = mirror.info().session;
                self.out.report(VolumeReport::PeerDiskFailed { session });
                Ok(())
            }
            (Phase::Active(mirror), message) => {
                mirror.handle_message(now, message, &mut self.out).map_err(|e| e.to_string())
            }
            (Phase::Comparing(compare, Some(mirror)), message) => {
                take_as_target(now, compare, mirror, message, &mut self.out)
            }
            (Phase::Comparing(compare, None), message) => {
                compare.handle_message(message, &mut self.out).map_err(|e| e.to_string())
            }
            // Left, or between a comparison and its session: dead, or a peer that is ahead of us.
            (Phase::Idle | Phase::Leaving(_) | Phase::Preparing(..), _) => Ok(()),
        };
        if let Err(why) = result {
            self.handle_link_lost(belongs.1, format!("the peer broke the protocol: {why}"));
        }
    }

    /// A message of the session that the group is about to tell of.
    fn keep_early(&mut self, incoming: Incoming) {
        if self.early.len() == EARLY_MAX {
            let why = "more messages of the next session than may come before it".to_owned();
            self.handle_link_lost(incoming.conn_nonce, why);
            return;
        }
        self.early.push_back(incoming);
    }

    /// An I/O has completed; `now` is the turn's.
    pub fn handle_completion(&mut self, now: Instant, completion: IoCompletion) {
        let IoCompletion { id, result } = completion;
        if let Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)) = &mut self.phase {
            mirror.note_time(now);
        }
        let used_for = self.out.complete(id);
        match used_for {
            IoUse::Read { slot } => self.read_done(slot, result),
            IoUse::LateRead { slot } => self.late_read_done(now, slot, result),
            IoUse::Prefetch => {}
            IoUse::Apply { .. }
            | IoUse::LocalFlush
            | IoUse::PeerFlush { .. }
            | IoUse::Carried { .. }
            | IoUse::SourceRead { .. }
            | IoUse::TargetRead { .. }
            | IoUse::TargetWrite { .. }
            | IoUse::RewriteRead { .. }
            | IoUse::RewriteWrite { .. }
            | IoUse::Orphan => self.disk_done(&used_for, result),
        }
        self.report_quiet();
    }

    /// A read of the comparison, or anything that changes the copy or makes it durable.
    fn disk_done(&mut self, used_for: &IoUse, result: Result<IoDone, IoFault>) {
        let done = match result {
            Ok(done) => done,
            Err(fault) if self.is_copy_only(used_for, fault) => return,
            Err(fault) => {
                self.disk_failed(used_for, fault);
                if self.config.rules.hold(Rule::FailedWriteNeverAcked) {
                    return;
                }
                IoDone::Done
            }
        };
        if self.failed && self.config.rules.hold(Rule::FailedWriteNeverAcked) {
            return;
        }
        let out = &mut self.out;
        match (&mut self.phase, used_for, done) {
            (
                Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)),
                IoUse::Apply { slot },
                _,
            ) => mirror.applied(*slot, out),
            (Phase::Active(mirror), IoUse::LocalFlush, _) => mirror.flushed(out),
            (
                Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)),
                IoUse::PeerFlush { id },
                _,
            ) => {
                mirror.flushed_for_peer(*id, out);
            }
            (Phase::Active(mirror), IoUse::SourceRead { id }, IoDone::Data(data)) => {
                mirror.copy_read(*id, data, out);
            }
            (Phase::Comparing(compare, _), IoUse::SourceRead { id }, IoDone::Data(data)) => {
                compare.source_read(*id, data, out);
            }
            (Phase::Comparing(compare, _), IoUse::TargetRead { id, range }, IoDone::Data(data)) => {
                compare.target_read(*id, *range, &data, out);
            }
            (Phase::Comparing(compare, _), IoUse::TargetWrite { id, range }, _) => {
                compare.target_wrote(*id, *range, out);
            }
            (
                Phase::Preparing(_, Some(rewrite)),
                IoUse::RewriteRead { range },
                IoDone::Data(data),
            ) => {
                rewrite.piece_read(*range, data, out);
            }
            (Phase::Preparing(_, Some(rewrite)), IoUse::RewriteWrite { range }, _) => {
                rewrite.piece_written(*range);
                self.prepare_next();
            }
            (_, IoUse::Carried { arrival }, _) => {
                let arrival = *arrival;
                for carried in self.carried.iter_mut().filter(|c| c.arrival == arrival) {
                    carried.applied = true;
                    carried.in_flight = false;
                }
                self.prepare_next();
            }
            _ => {}
        }
    }

    fn late_read_done(&mut self, now: Instant, slot: usize, result: Result<IoDone, IoFault>) {
        warn_of_read(&result);
        let lock = self.late_reads.done(slot, result, now);
        if let (Some(lock), Phase::Active(mirror)) = (lock, &mut self.phase) {
            mirror.release(now, lock, &mut self.out);
        }
        self.prepare_next();
    }

    fn read_done(&mut self, slot: usize, result: Result<IoDone, IoFault>) {
        warn_of_read(&result);
        match &mut self.phase {
            Phase::Active(mirror) => mirror.read_done(slot, result),
            _ => unreachable!("reads of a session that was left are late ones"),
        }
    }

    /// A read for a target that failed: the target does not get it, hosts are not affected.
    fn is_copy_only(&mut self, used_for: &IoUse, fault: IoFault) -> bool {
        let (Phase::Active(mirror), IoUse::SourceRead { id }) = (&mut self.phase, used_for) else {
            return false;
        };
        if mirror.copy_read_failed(*id, &mut self.out) {
            let session = mirror.info().session;
            warn!(%fault, %session, "this node's copy could not be read for the other one");
            self.out.report(VolumeReport::CopyFailed { session, fault });
        }
        true
    }

    fn disk_failed(&mut self, used_for: &IoUse, fault: IoFault) {
        if let Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)) = &mut self.phase
            && let IoUse::Apply { slot } = used_for
        {
            mirror.apply_failed(*slot);
        }
        if self.failed {
            return;
        }
        self.failed = true;
        let operation = match used_for {
            IoUse::LocalFlush | IoUse::PeerFlush { .. } => "flush",
            IoUse::SourceRead { .. } | IoUse::TargetRead { .. } | IoUse::RewriteRead { .. } => {
                "read for the comparison"
            }
            _ => "write",
        };
        self.out.report(VolumeReport::DiskFailed { fault, operation });
    }

    /// The end of a turn, with one sample of clock and gate taken after its last event: admits
    /// requests, answers reads, tells the peer, notices what waits too long.
    pub fn settle(&mut self, now: Instant, gate: Gate) {
        // A copy that failed may have lost what it had: nothing is read from it any more.
        let gate = if self.failed { Gate::CLOSED } else { gate };
        if !self.late_reads.is_idle() {
            let with = (self.config.rules, &mut self.out);
            self.late_reads.settle(now, gate, self.next_arrival, &mut self.held, with);
        }
        match &mut self.phase {
            Phase::Active(_) => self.settle_session(now, gate),
            Phase::Comparing(..) => self.settle_comparison(now),
            Phase::Preparing(_, Some(rewrite)) => {
                let progress = rewrite.progress();
                self.report_progress(now, progress);
            }
            Phase::Idle | Phase::Leaving(_) | Phase::Preparing(_, None) => {}
        }
    }

    fn settle_comparison(&mut self, now: Instant) {
        let Phase::Comparing(compare, mirror) = &mut self.phase else {
            unreachable!("checked by the caller")
        };
        if let Some(mirror) = mirror {
            let mut held = Vec::new();
            mirror.settle(now, Gate::CLOSED, &mut held, &mut self.out);
            assert!(held.is_empty(), "a target serves nobody");
        }
        let is_equal = compare.advance(&mut self.out);
        let progress = compare.progress();
        let Some((session, _)) = self.current else { return };
        if is_equal {
            let copied_bytes = progress.copied_bytes;
            self.out.report(VolumeReport::Progress(progress));
            self.out.report(VolumeReport::Compared { session, copied_bytes });
        } else {
            self.report_progress(now, progress);
        }
        self.report_late(now, session);
    }

    fn report_progress(&mut self, now: Instant, progress: Progress) {
        if now.since(self.progress_at) >= PROGRESS_INTERVAL {
            self.progress_at = now;
            self.out.report(VolumeReport::Progress(progress));
        }
    }

    fn settle_session(&mut self, now: Instant, gate: Gate) {
        let Phase::Active(mirror) = &mut self.phase else { unreachable!("checked by the caller") };
        let session = mirror.info().session;
        let open = gate.usable(now) && gate.session == session;
        if open {
            self.open_gen = Some(gate.serve_gen);
            for carried in self.carried.drain(..) {
                assert!(carried.applied, "the source of a join has its own writes");
                self.out.reply(carried.id, Completion::Done);
            }
        }
        let admits = open && self.drain == Drain::No;
        let before = self.config.rules.hold(Rule::WriteRequestBeforeAck);
        if admits && before {
            while let Some(arrival) = self.held.pop_front() {
                mirror.admit(now, gate, arrival, &mut self.out);
            }
        }
        assert!(
            self.held.is_empty() || !admits || !before,
            "G2a: what was read from hosts goes to the peer before any acknowledgement of the turn"
        );
        let mut held = Vec::new();
        mirror.settle(now, gate, &mut held, &mut self.out);
        if admits && !before {
            while let Some(arrival) = self.held.pop_front() {
                mirror.admit(now, gate, arrival, &mut self.out);
            }
        }
        if admits {
            // Reads of the gate before are asked again under this one; nothing else may wake us.
            for arrival in held {
                mirror.admit(now, gate, arrival, &mut self.out);
            }
        } else {
            self.held.put_before(held);
        }
        if !self.failed {
            self.copy_on(now, session);
        }
        self.report_drained(session);
        self.report_late(now, session);
    }

    /// With a target: goes on copying.
    fn copy_on(&mut self, now: Instant, session: Session) {
        let Phase::Active(mirror) = &mut self.phase else { unreachable!("checked by the caller") };
        let is_equal = mirror.copy_on(&mut self.out);
        let Some(progress) = mirror.copy_progress() else { return };
        if is_equal {
            let copied_bytes = progress.copied_bytes;
            self.out.report(VolumeReport::Progress(progress));
            self.out.report(VolumeReport::Compared { session, copied_bytes });
        } else {
            self.report_progress(now, progress);
        }
    }

    fn report_drained(&mut self, session: Session) {
        let Phase::Active(mirror) = &mut self.phase else { unreachable!("checked by the caller") };
        if self.drain == Drain::Wanted && mirror.is_drained() {
            self.drain = Drain::Done;
            self.out.report(VolumeReport::Drained { session });
        }
    }

    fn report_late(&mut self, now: Instant, session: Session) {
        let (Phase::Active(mirror) | Phase::Comparing(_, Some(mirror))) = &mut self.phase else {
            return;
        };
        let is_late = mirror.late_at(self.config.io_timeout).is_some_and(|late| late <= now);
        if is_late
            && !self.stuck_reported
            && let Some((waited, half)) = mirror.late_half(now)
        {
            self.stuck_reported = true;
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            self.out.report(match half {
                Half::Here => VolumeReport::DiskStuck { session, waited_ms },
                Half::There => VolumeReport::PeerStuck { session, waited_ms },
            });
        }
    }

    fn arrival_number(&mut self) -> u64 {
        let number = self.next_arrival;
        self.next_arrival += 1;
        number
    }
}

fn warn_of_read(result: &Result<IoDone, IoFault>) {
    if let Err(fault) = result {
        warn!(
            %fault,
            "a read of this node's copy failed; its host gets EIO, the peer's copy is not affected"
        );
    }
}

/// A target takes what it is sent of its copy, and what the source mirrors of writes of hosts: the
/// source never has both under way in one place.
fn take_as_target(
    now: Instant,
    compare: &mut Compare,
    mirror: &mut Mirror,
    message: DataMessage,
    out: &mut Outbox,
) -> Result<(), String> {
    match &message {
        DataMessage::DigestRequest { range, .. } | DataMessage::SyncBlock { range, .. } => {
            compare.check_free(mirror.is_changing(*range)).map_err(|e| e.to_string())?;
        }
        DataMessage::Repl { write, .. } => {
            compare.check_free(compare.is_under_way(write.range)).map_err(|e| e.to_string())?;
        }
        DataMessage::Flush { .. }
        | DataMessage::Commit { .. }
        | DataMessage::WriteRequest { .. }
        | DataMessage::Ordered(_)
        | DataMessage::Ack(_)
        | DataMessage::Applied(_)
        | DataMessage::Nak { .. }
        | DataMessage::FlushAck { .. }
        | DataMessage::Digests { .. }
        | DataMessage::SyncBlockAck { .. } => {}
    }
    match message {
        DataMessage::DigestRequest { .. }
        | DataMessage::SyncBlock { .. }
        | DataMessage::Nak { .. }
        | DataMessage::Digests { .. }
        | DataMessage::SyncBlockAck { .. } => {
            compare.handle_message(message, out).map_err(|e| e.to_string())
        }
        other => mirror.handle_message(now, other, out).map_err(|e| e.to_string()),
    }
}
