//! One volume core, message by message: what it says, submits and answers, and when.
//!
//! Not here: two cores together (`pair.rs`), faults in any order (the simulator).

use base::ids::{ClientId, ConnNonce, Session, VolumeIndex};
use base::limits::{PEER_BYTES_MAX, PEER_WRITES_MAX, SLOW_DISK_BYTES_PER_S, SLOW_DISK_REQUEST};
use base::range::ByteRange;
use base::request::{Completion, Content, Operation, RequestError, RequestId, Write};
use base::rules::Rules;
use base::time::{Duration, Instant};
use bytes::Bytes;
use datapath::gate::Gate;
use datapath::outbox::{Action, CloseReason, Stages};
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};
use datapath::storage::{IoCompletion, IoDone, IoFault, IoId, IoOperation};
use datapath::volume::{Volume, VolumeConfig};
use datapath::wire::{DataMessage, Incoming};

#[path = "volume/alone.rs"]
mod alone;
#[path = "volume/late_reads.rs"]
mod late_reads;
#[path = "volume/target.rs"]
mod target;

const NONCE: ConnNonce = ConnNonce([7; 16]);
const SESSION: Session = Session(5);
const SIZE: u64 = 1 << 20;
const IO_TIMEOUT: Duration = Duration::from_secs(2);

/// A core and what it wanted done in the last turn.
struct Bench {
    volume: Volume,
    gate: Gate,
    now: Instant,
    sent: Vec<DataMessage>,
    replies: Vec<(u32, Completion)>,
    stages: Vec<Stages>,
    submitted: Vec<(IoId, IoOperation)>,
    reports: Vec<VolumeReport>,
    closed: Vec<(Option<ClientId>, CloseReason)>,
}

impl Bench {
    fn idle() -> Self {
        Self::of_size(SIZE)
    }

    fn of_size(size: u64) -> Self {
        let config = VolumeConfig {
            index: VolumeIndex(0),
            size,
            granule_bytes: 512,
            io_timeout: IO_TIMEOUT,
            rules: Rules::ALL_HOLD,
        };
        let mut bench = Self {
            volume: Volume::new(config),
            gate: Gate::CLOSED,
            now: Instant::from_nanos(1),
            sent: Vec::new(),
            replies: Vec::new(),
            stages: Vec::new(),
            submitted: Vec::new(),
            reports: Vec::new(),
            closed: Vec::new(),
        };
        bench.volume.handle_link_up(NONCE);
        bench.turn();
        bench
    }

    /// In a session with an open gate.
    fn serving(role: Role) -> Self {
        let mut bench = Self::idle();
        let sync = match role {
            Role::Orderer => SyncRole::Source,
            Role::Follower => SyncRole::Target,
        };
        bench.join(SESSION, sync);
        bench.enter(SESSION, role);
        bench.turn();
        bench
    }

    fn join(&mut self, session: Session, role: SyncRole) {
        self.command(VolumeCommand::Prepare { session, role, rewrite: false });
        let (conn_nonce, scope, seed) = (NONCE, Scope::Nothing, 0);
        self.command(VolumeCommand::Compare { session, conn_nonce, role, scope, seed });
    }

    fn enter(&mut self, session: Session, role: Role) {
        self.enter_with(session, role, 512);
    }

    fn enter_with(&mut self, session: Session, role: Role, granule_bytes: u32) {
        self.command(VolumeCommand::Enter { session, conn_nonce: NONCE, role, granule_bytes });
        let serve_gen = self.gate.serve_gen + 1;
        self.gate = Gate { serve_gen, session, read_until: Instant::NEVER };
    }

    fn leave(&mut self, session: Session) {
        self.gate = Gate { read_until: Instant::ZERO, ..self.gate };
        self.command(VolumeCommand::Leave { session });
    }

    fn command(&mut self, command: VolumeCommand) {
        self.volume.handle_command(self.now, command);
        self.turn();
    }

    fn ask(&mut self, tag: u32, operation: Operation) {
        self.volume.handle_request(id(tag), operation);
        self.turn();
    }

    fn hear(&mut self, message: DataMessage) {
        let incoming = Incoming { session: SESSION, conn_nonce: NONCE, message };
        self.volume.handle_message(self.now, incoming);
        self.turn();
    }

    fn complete(&mut self, id: IoId, result: Result<IoDone, IoFault>) {
        self.volume.handle_completion(self.now, IoCompletion { id, result });
        self.turn();
    }

    /// Completes the only I/O that the last turn submitted.
    fn complete_it(&mut self) {
        let [(id, operation)] = self.submitted.as_slice() else {
            panic!("one I/O: {:?}", self.submitted)
        };
        let done = match operation {
            IoOperation::Read { range } => {
                IoDone::Data(Bytes::from(vec![0; range.length() as usize]))
            }
            _ => IoDone::Done,
        };
        let id = *id;
        self.complete(id, Ok(done));
    }

    fn turn(&mut self) {
        self.sent.clear();
        self.replies.clear();
        self.stages.clear();
        self.submitted.clear();
        self.reports.clear();
        self.closed.clear();
        self.volume.settle(self.now, self.gate);
        while let Some(action) = self.volume.poll_action() {
            match action {
                Action::Reply { id, completion, stages } => {
                    self.replies.push((id.tag, completion));
                    self.stages.push(stages);
                }
                Action::CloseClient { client, why } => self.closed.push((Some(client), why)),
                Action::CloseAllClients { why } => self.closed.push((None, why)),
                Action::Submit { id, operation } => self.submitted.push((id, operation)),
                Action::Send(message) => self.sent.push(message),
                Action::Report(report) => self.reports.push(report),
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.sent.is_empty() && self.replies.is_empty() && self.submitted.is_empty()
    }
}

fn id(tag: u32) -> RequestId {
    RequestId { client: ClientId(u64::from(tag) / 10), tag }
}

fn range(block: u64, blocks: u64) -> ByteRange {
    ByteRange::new(block * 512, blocks * 512).expect("small")
}

fn change(block: u64, blocks: u64, fua: bool) -> Write {
    let data = Bytes::from(vec![1; blocks as usize * 512]);
    Write { range: range(block, blocks), content: Content::Data(data), fua }
}

fn write(block: u64, blocks: u64) -> Operation {
    Operation::Write(change(block, blocks, false))
}

fn read(block: u64, blocks: u64) -> Operation {
    Operation::Read { range: range(block, blocks) }
}

fn commit(watermark: u64, more: &[u64]) -> DataMessage {
    DataMessage::Commit { watermark, more: more.to_vec() }
}

#[test]
fn the_follower_applies_its_own_write_only_in_its_place() {
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, write(0, 8));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::WriteRequest { fid: 0, .. }]));
    assert!(bench.submitted.is_empty(), "W1");
    bench.hear(DataMessage::Ordered(vec![(0, 9)]));
    assert!(bench.sent.is_empty());
    bench.complete_it();
    assert!(bench.is_silent(), "W4: the orderer has not said that it has it");
    bench.hear(DataMessage::Applied(vec![9]));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert_eq!(bench.sent, [commit(9, &[])]);
}

#[test]
fn the_orderer_keeps_the_range_until_both_have_the_write() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 1, .. }]));
    bench.complete_it();
    bench.ask(2, write(7, 2));
    assert!(bench.is_silent(), "D5: it overlaps");
    bench.ask(3, write(9, 1));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 2, .. }]));
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert!(
        matches!(
            bench.sent.as_slice(),
            [DataMessage::Repl { seq: 3, .. }, DataMessage::Commit { watermark: 1, more }]
                if more.is_empty()
        ),
        "{:?}",
        bench.sent
    );
}

/// As on a disk with blocks of 4096 bytes: a write of 512 of them reads and writes the others, too.
#[test]
fn writes_and_reads_that_share_a_granule_wait_for_each_other() {
    let mut bench = Bench::idle();
    bench.join(SESSION, SyncRole::Source);
    bench.enter_with(SESSION, Role::Orderer, 4096);
    bench.turn();
    bench.ask(1, write(0, 1));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 1, .. }]));
    bench.complete_it();
    bench.ask(2, write(7, 2));
    bench.ask(3, read(15, 1));
    assert!(bench.is_silent(), "W9: each shares a granule with the one before");
    bench.ask(4, write(16, 1));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 2, .. }]));
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert!(matches!(bench.sent.first(), Some(DataMessage::Repl { seq: 3, .. })));
}

#[test]
#[should_panic(expected = "W9")]
fn a_lock_unit_finer_than_the_blocks_of_this_node_is_a_defect() {
    let mut bench = Bench::idle();
    bench.join(SESSION, SyncRole::Target);
    bench.enter_with(SESSION, Role::Follower, 256);
}

#[test]
fn the_range_of_a_followers_write_stays_locked_until_its_commit() {
    let mut bench = Bench::serving(Role::Orderer);
    let wanted = change(0, 8, false);
    bench.hear(DataMessage::WriteRequest { fid: 0, write: wanted });
    assert_eq!(bench.sent, [DataMessage::Ordered(vec![(0, 1)])], "at once, no disk wait");
    bench.complete_it();
    assert_eq!(bench.sent, [DataMessage::Applied(vec![1])]);
    bench.ask(1, write(4, 8));
    bench.ask(2, read(0, 1));
    assert!(bench.is_silent(), "W2, W3: it is not known to be on both");
    bench.hear(commit(1, &[]));
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 2, .. }]));
    assert_eq!(bench.submitted.len(), 2, "the write, and the read that does not overlap it");
}

#[test]
fn a_read_sees_only_what_both_have() {
    let mut bench = Bench::serving(Role::Follower);
    bench.hear(DataMessage::Repl { seq: 1, write: change(0, 8, false) });
    bench.complete_it();
    assert_eq!(bench.sent, [DataMessage::Ack(vec![1])]);
    bench.ask(1, read(7, 2));
    assert!(bench.is_silent(), "W3: applied, and not committed");
    bench.hear(commit(1, &[]));
    bench.complete_it();
    assert!(
        matches!(bench.replies.as_slice(), [(1, Completion::Data(data))] if data.len() == 1024)
    );
}

#[test]
fn one_slow_write_does_not_hold_back_what_is_said_of_the_others() {
    let mut bench = Bench::serving(Role::Orderer);
    for tag in 1..=3 {
        bench.ask(tag, write(u64::from(tag) * 8, 8));
        if tag > 1 {
            bench.complete_it();
        }
    }
    bench.hear(DataMessage::Ack(vec![2, 3]));
    assert_eq!(bench.replies.len(), 2);
    assert_eq!(bench.sent, [commit(0, &[2, 3])]);
}

#[test]
fn what_a_peer_may_not_say_ends_the_connection_and_nothing_else() {
    let outside = Write { range: range(SIZE / 512, 1), ..change(0, 1, false) };
    let odd = Write { range: ByteRange::new(1, 512).expect("small"), ..change(0, 1, false) };
    let sync = DataMessage::DigestRequest { id: 0, range: range(0, 1) };
    let orderer = [
        DataMessage::Repl { seq: 1, write: change(0, 1, false) },
        DataMessage::Ordered(vec![(0, 1)]),
        DataMessage::Applied(vec![1]),
        DataMessage::Ack(vec![1]),
        DataMessage::WriteRequest { fid: 1, write: change(0, 1, false) },
        DataMessage::WriteRequest { fid: 0, write: outside.clone() },
        DataMessage::WriteRequest { fid: 0, write: odd },
        DataMessage::FlushAck { id: 0 },
        commit(0, &[1]),
        sync.clone(),
    ];
    let follower = [
        DataMessage::WriteRequest { fid: 0, write: change(0, 1, false) },
        DataMessage::Ack(vec![1]),
        DataMessage::Ordered(vec![(0, 1)]),
        DataMessage::Applied(vec![1]),
        DataMessage::Repl { seq: 0, write: change(0, 1, false) },
        DataMessage::Repl { seq: 1, write: outside },
        DataMessage::SyncBlockAck { id: 3 },
        sync,
    ];
    let cases = orderer.map(|m| (Role::Orderer, m)).into_iter();
    for (role, message) in cases.chain(follower.map(|m| (Role::Follower, m))) {
        let mut bench = Bench::serving(role);
        let text = format!("{role:?} {message:?}");
        bench.hear(message);
        assert!(bench.is_silent(), "{text}");
        assert!(matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]), "{text}");
    }
}

/// A peer that never commits does not fill this node's memory.
#[test]
fn a_peer_with_more_under_way_than_a_node_takes_from_its_hosts_loses_its_connection() {
    let zeroes = Write { content: Content::Zeroes { allocate: false }, ..change(0, 1, false) };
    let largest = change(0, SIZE / 512, false);
    for (write, allowed) in [(zeroes, PEER_WRITES_MAX as u64), (largest, PEER_BYTES_MAX / SIZE)] {
        for role in [Role::Orderer, Role::Follower] {
            let mut bench = Bench::serving(role);
            for n in 0..=allowed {
                let write = write.clone();
                bench.hear(match role {
                    Role::Orderer => DataMessage::WriteRequest { fid: n, write },
                    Role::Follower => DataMessage::Repl { seq: n + 1, write },
                });
                let lost = matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]);
                assert_eq!(lost, n == allowed, "{role:?}: write {n}");
            }
        }
    }
}

#[test]
fn a_peer_flushes_once_at_a_time() {
    let mut bench = Bench::serving(Role::Follower);
    for id in 0..2 {
        bench.hear(DataMessage::Flush { id });
        bench.complete_it();
        assert_eq!(bench.sent, [DataMessage::FlushAck { id }]);
    }
    bench.hear(DataMessage::Flush { id: 2 });
    bench.hear(DataMessage::Flush { id: 3 });
    assert!(matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]));
}

#[test]
fn a_commit_of_what_is_not_applied_and_a_second_ack_end_the_connection() {
    let mut bench = Bench::serving(Role::Follower);
    bench.hear(DataMessage::Repl { seq: 1, write: change(0, 8, false) });
    bench.hear(commit(1, &[]));
    assert!(matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]));
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.hear(DataMessage::Ack(vec![1]));
    assert!(bench.is_silent(), "this copy does not have it yet");
    bench.hear(DataMessage::Ack(vec![1]));
    assert!(matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]));
}

#[test]
fn messages_of_another_session_or_connection_are_dead() {
    let mut bench = Bench::serving(Role::Follower);
    let message = DataMessage::Repl { seq: 1, write: change(0, 8, false) };
    let earlier = Session(SESSION.0 - 1);
    for (session, conn_nonce) in [(earlier, NONCE), (SESSION, ConnNonce([8; 16]))] {
        let message = message.clone();
        bench.volume.handle_message(bench.now, Incoming { session, conn_nonce, message });
        bench.turn();
        assert!(bench.is_silent() && bench.reports.is_empty(), "G1");
    }
    bench.leave(SESSION);
    bench.hear(message);
    assert!(bench.is_silent(), "G1: the session was left");
}

#[test]
fn a_peer_that_is_ahead_is_heard_when_the_group_has_said_so() {
    let mut bench = Bench::idle();
    bench.join(SESSION, SyncRole::Target);
    bench.leave(SESSION);
    let next = SESSION.next();
    let message = DataMessage::DigestRequest { id: 0, range: range(0, 8) };
    let incoming = Incoming { session: next, conn_nonce: NONCE, message };
    bench.volume.handle_message(bench.now, incoming);
    bench.turn();
    assert!(bench.is_silent());
    let role = SyncRole::Target;
    bench.command(VolumeCommand::Prepare { session: next, role, rewrite: false });
    let (conn_nonce, scope, seed) = (NONCE, Scope::Everything, 0);
    bench.command(VolumeCommand::Compare { session: next, conn_nonce, role, scope, seed });
    assert!(matches!(bench.submitted.as_slice(), [(_, IoOperation::Read { .. })]));
}

#[test]
fn held_requests_wait_for_the_gate_and_are_discarded_when_told() {
    let mut bench = Bench::idle();
    bench.ask(11, write(0, 8));
    bench.ask(21, read(0, 8));
    assert!(bench.is_silent());
    bench.command(VolumeCommand::DiscardHeld);
    assert_eq!(bench.closed, [(None, CloseReason::HeldTooLong)]);
    bench.ask(31, read(0, 8));
    assert_eq!(bench.closed, [(Some(ClientId(3)), CloseReason::NotServing)]);
    bench.join(SESSION, SyncRole::Source);
    bench.enter(SESSION, Role::Orderer);
    bench.turn();
    assert!(bench.is_silent(), "what was discarded is gone");
    bench.ask(41, read(0, 8));
    assert_eq!(bench.submitted.len(), 1);
}

#[test]
fn a_target_gives_up_its_own_sent_writes_and_a_source_answers_them() {
    for role in [SyncRole::Source, SyncRole::Target] {
        let mut bench = Bench::serving(Role::Orderer);
        bench.ask(11, write(0, 8));
        bench.ask(12, write(0, 8));
        bench.leave(SESSION);
        assert!(
            !bench.reports.iter().any(|report| matches!(report, VolumeReport::Quiet { .. })),
            "W7: a write is under way"
        );
        let first = IoId(0);
        bench.complete(first, Ok(IoDone::Done));
        assert_eq!(bench.reports, [VolumeReport::Quiet { session: SESSION }]);
        let next = SESSION.next();
        bench.join(next, role);
        match role {
            SyncRole::Source => {
                bench.enter(next, Role::Orderer);
                bench.turn();
                assert_eq!(bench.replies, [(11, Completion::Done)]);
                assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 1, .. }]));
            }
            SyncRole::Target => {
                bench.enter(next, Role::Follower);
                bench.turn();
                assert!(bench.is_silent(), "its client was closed, and what it held with it");
            }
        }
    }
}

#[test]
fn the_client_of_a_write_that_was_given_up_is_closed() {
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(11, write(0, 8));
    bench.ask(21, read(100, 8));
    bench.leave(SESSION);
    let read = IoId(0);
    bench.complete(read, Ok(IoDone::Data(Bytes::from(vec![0; 4096]))));
    assert!(bench.replies.is_empty(), "I7");
    bench.command(VolumeCommand::Prepare {
        session: SESSION.next(),
        role: SyncRole::Target,
        rewrite: false,
    });
    assert_eq!(bench.closed, [(Some(ClientId(1)), CloseReason::WriteGivenUp)]);
}

#[test]
fn a_drained_volume_has_answered_what_it_took_and_takes_no_more() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.command(VolumeCommand::Drain { session: SESSION });
    bench.ask(2, write(8, 8));
    assert!(bench.is_silent());
    bench.complete(IoId(0), Ok(IoDone::Done));
    assert!(bench.reports.is_empty());
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert_eq!(bench.reports, [VolumeReport::Drained { session: SESSION }]);
}

#[test]
fn a_failed_write_is_told_to_the_group_first_and_never_acknowledged() {
    let mut bench = Bench::serving(Role::Follower);
    bench.hear(DataMessage::Repl { seq: 1, write: change(0, 8, false) });
    bench.hear(DataMessage::Repl { seq: 2, write: change(8, 8, false) });
    bench.complete(IoId(0), Err(IoFault::NoSpace));
    let fault = IoFault::NoSpace;
    assert_eq!(bench.reports, [VolumeReport::DiskFailed { fault, operation: "write" }]);
    assert!(bench.sent.is_empty(), "W8: the record comes first");
    bench.complete(IoId(1), Ok(IoDone::Done));
    assert!(bench.sent.is_empty(), "nothing is acknowledged from here on");
    bench.command(VolumeCommand::FailureRecorded);
    assert_eq!(bench.sent, [DataMessage::Nak { seq: 1 }]);
}

#[test]
fn a_failed_read_is_an_error_of_its_host_alone() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, read(0, 8));
    let [(io, _)] = bench.submitted.as_slice() else { panic!("one read") };
    let io = *io;
    bench.complete(io, Err(IoFault::System(5)));
    assert_eq!(bench.replies, [(1, Completion::Failed(RequestError::Io))]);
    assert!(bench.reports.is_empty());
}

#[test]
fn a_silent_peer_is_reported_once_after_its_time() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.complete_it();
    let deadline = bench.volume.next_deadline().expect("it waits for the peer");
    assert_eq!(deadline, bench.now + IO_TIMEOUT);
    bench.now = deadline;
    bench.turn();
    assert_eq!(bench.reports, [VolumeReport::PeerStuck { session: SESSION, waited_ms: 2000 }]);
    bench.turn();
    assert!(bench.reports.is_empty() && bench.volume.next_deadline().is_none());
}

/// What is reported after T_io.
fn late(bench: &mut Bench) -> Vec<VolumeReport> {
    bench.now = bench.now + IO_TIMEOUT;
    bench.turn();
    bench.reports.clone()
}

const DISK_STUCK: VolumeReport = VolumeReport::DiskStuck { session: SESSION, waited_ms: 2000 };
const PEER_STUCK: VolumeReport = VolumeReport::PeerStuck { session: SESSION, waited_ms: 2000 };

#[test]
fn the_copy_that_has_not_done_its_half_of_an_own_write_is_named() {
    for acknowledged in [false, true] {
        let mut bench = Bench::serving(Role::Orderer);
        bench.ask(1, write(0, 8));
        if acknowledged {
            bench.hear(DataMessage::Ack(vec![1]));
        }
        assert_eq!(late(&mut bench), [DISK_STUCK], "this node's apply has not completed");
    }
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, write(0, 8));
    assert_eq!(late(&mut bench), [PEER_STUCK], "it got no place");
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, write(0, 8));
    bench.hear(DataMessage::Ordered(vec![(0, 1)]));
    bench.hear(DataMessage::Applied(vec![1]));
    assert_eq!(late(&mut bench), [DISK_STUCK]);
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, write(0, 8));
    bench.hear(DataMessage::Ordered(vec![(0, 1)]));
    bench.complete_it();
    assert_eq!(late(&mut bench), [PEER_STUCK]);
}

#[test]
fn the_copy_that_has_not_done_its_half_of_the_peers_write_is_named() {
    let repl = DataMessage::Repl { seq: 1, write: change(0, 8, false) };
    let mut bench = Bench::serving(Role::Follower);
    bench.hear(repl.clone());
    assert_eq!(late(&mut bench), [DISK_STUCK]);
    let mut bench = Bench::serving(Role::Follower);
    bench.hear(repl);
    bench.complete_it();
    assert_eq!(bench.sent, [DataMessage::Ack(vec![1])]);
    assert_eq!(late(&mut bench), [PEER_STUCK], "it never said that it has it");
}

#[test]
fn a_write_that_waits_for_its_range_waits_for_what_holds_the_range() {
    // The follower's own write was asked for before the peer's came, which was ordered first.
    let stuck_behind = |peers_write_is_here: bool| {
        let mut bench = Bench::serving(Role::Follower);
        bench.ask(1, write(0, 8));
        let asked_at = bench.now;
        bench.now = bench.now + Duration::from_millis(1);
        bench.hear(DataMessage::Repl { seq: 1, write: change(4, 8, false) });
        if peers_write_is_here {
            bench.complete_it();
        }
        bench.hear(DataMessage::Ordered(vec![(0, 2)]));
        bench.now = asked_at;
        late(&mut bench)
    };
    assert_eq!(stuck_behind(false), [DISK_STUCK]);
    assert_eq!(stuck_behind(true), [PEER_STUCK]);
    // A read that does not come back holds the range of a write.
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, read(0, 8));
    bench.hear(DataMessage::Repl { seq: 1, write: change(4, 8, false) });
    assert!(bench.submitted.is_empty());
    bench.ask(2, read(8, 8));
    bench.hear(DataMessage::Repl { seq: 2, write: change(12, 8, false) });
    assert_eq!(late(&mut bench), [DISK_STUCK]);
}

#[test]
fn a_read_that_does_not_come_back_is_noticed() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, read(0, 8));
    bench.complete_it();
    assert_eq!(bench.volume.next_deadline(), None);
    bench.ask(2, read(0, 8));
    assert_eq!(late(&mut bench), [DISK_STUCK]);
}

/// A disk that is busy is not one that hangs.
#[test]
fn what_was_under_way_before_makes_patient() {
    let time = |requests: u64, bytes: u64| {
        IO_TIMEOUT
            + SLOW_DISK_REQUEST * u32::try_from(requests - 1).expect("few")
            + Duration::from_millis(bytes * 1000 / SLOW_DISK_BYTES_PER_S)
    };
    let mut bench = Bench::serving(Role::Orderer);
    let trim = Write { content: Content::Trim, ..change(0, SIZE / 512, false) };
    bench.ask(1, Operation::Write(trim));
    assert_eq!(bench.volume.next_deadline(), Some(bench.now + time(1, SIZE)));
    bench.complete_it();
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.volume.next_deadline(), None);
    // A queue: the first one has the least time, and what is done makes no later one patient.
    for tag in 2..12 {
        bench.ask(tag, write(u64::from(tag) * 8, 8));
    }
    assert_eq!(bench.volume.next_deadline(), Some(bench.now + time(1, 4096)));
    bench.hear(DataMessage::Ack((2..11).collect()));
    for io in 1..10 {
        bench.complete(IoId(io), Ok(IoDone::Done));
    }
    assert_eq!(bench.volume.next_deadline(), Some(bench.now + time(10, 10 * 4096)));
    // A flush has to write what was written.
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, SIZE / 512));
    bench.complete_it();
    bench.hear(DataMessage::Ack(vec![1]));
    for (tag, bytes) in [(2, SIZE), (3, 0)] {
        bench.ask(tag, Operation::Flush);
        assert_eq!(bench.volume.next_deadline(), Some(bench.now + time(1, bytes)));
        bench.hear(DataMessage::FlushAck { id: u64::from(tag) - 2 });
        let io = IoId(u64::from(tag) - 1);
        bench.complete(io, Ok(IoDone::Done));
    }
}

/// What a host that is gone has left behind keeps its memory.
#[test]
fn the_load_counts_what_is_in_memory_whoever_asked() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.ask(2, read(64, 16));
    assert_eq!(bench.volume.load(), (2, 4096 + 8192));
    bench.volume.handle_client_gone(id(1).client);
    bench.turn();
    assert_eq!(bench.volume.load(), (2, 4096 + 8192), "both are under way");
    bench.leave(SESSION);
    bench.volume.handle_client_gone(id(1).client);
    assert_eq!(bench.volume.load(), (2, 4096 + 8192), "both are under way");
    bench.complete(IoId(0), Ok(IoDone::Done));
    bench.complete(IoId(1), Ok(IoDone::Data(Bytes::from(vec![0; 8192]))));
    let mut bench = Bench::idle();
    bench.ask(1, write(0, 8));
    assert_eq!(bench.volume.load(), (1, 4096));
    bench.volume.handle_client_gone(id(1).client);
    assert_eq!(bench.volume.load(), (0, 0));
}

/// D7: what failed at this node is not tried again for a client that is gone.
#[test]
fn a_failed_write_of_a_client_that_is_gone_is_forgotten() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.complete(IoId(0), Err(IoFault::NoSpace));
    bench.leave(SESSION);
    assert_eq!(bench.volume.load(), (1, 4096));
    bench.volume.handle_client_gone(id(1).client);
    assert_eq!(bench.volume.load(), (0, 0));
}

#[test]
fn the_copy_that_has_not_flushed_is_named() {
    for (there, here, expected) in
        [(true, false, DISK_STUCK), (false, false, DISK_STUCK), (false, true, PEER_STUCK)]
    {
        let mut bench = Bench::serving(Role::Orderer);
        bench.ask(1, Operation::Flush);
        let flush = bench.submitted[0].0;
        if there {
            bench.hear(DataMessage::FlushAck { id: 0 });
        }
        if here {
            bench.complete(flush, Ok(IoDone::Done));
        }
        assert_eq!(late(&mut bench), [expected]);
    }
}

#[test]
fn flushes_of_one_turn_are_one_and_later_ones_the_next() {
    let mut bench = Bench::serving(Role::Follower);
    bench.volume.handle_request(id(1), Operation::Flush);
    bench.ask(2, Operation::Flush);
    assert_eq!(bench.sent, [DataMessage::Flush { id: 0 }]);
    let [(first, IoOperation::Flush)] = bench.submitted.as_slice() else { panic!("one flush") };
    let first = *first;
    bench.ask(3, Operation::Flush);
    assert!(bench.is_silent());
    bench.complete(first, Ok(IoDone::Done));
    assert!(bench.replies.is_empty(), "P1: the peer has not flushed");
    bench.hear(DataMessage::FlushAck { id: 0 });
    assert_eq!(bench.replies.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(bench.sent, [DataMessage::Flush { id: 1 }]);
}

#[test]
fn a_flush_covers_what_was_acknowledged_while_another_one_was_under_way() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, Operation::Flush);
    let flush = bench.submitted[0].0;
    bench.ask(2, write(0, 8));
    bench.complete_it();
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.replies, [(2, Completion::Done)]);
    bench.ask(3, Operation::Flush);
    bench.complete(flush, Ok(IoDone::Done));
    bench.hear(DataMessage::FlushAck { id: 0 });
    assert_eq!(bench.replies, [(1, Completion::Done)], "the third has its own flush");
    assert_eq!(bench.submitted.len(), 1);
}

#[test]
fn a_read_that_outlives_its_gate_is_read_again() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, read(0, 8));
    let [(io, _)] = bench.submitted.as_slice() else { panic!("one read") };
    let io = *io;
    let open = bench.gate;
    bench.gate.read_until = Instant::ZERO;
    bench.complete(io, Ok(IoDone::Data(Bytes::from(vec![0; 4096]))));
    assert!(bench.is_silent(), "I9: the gate is closed");
    bench.gate = open;
    bench.turn();
    bench.complete_it();
    assert_eq!(bench.replies.len(), 1);
}

#[test]
fn the_end_of_the_process_answers_what_is_held() {
    let mut bench = Bench::idle();
    bench.ask(1, write(0, 8));
    bench.command(VolumeCommand::Shutdown);
    assert_eq!(bench.replies, [(1, Completion::Failed(RequestError::ShuttingDown))]);
    assert_eq!(bench.closed, [(None, CloseReason::Stopping)]);
}

/// A moment later.
fn later(bench: &mut Bench) -> Option<Instant> {
    bench.now = bench.now + Duration::from_millis(1);
    Some(bench.now)
}

#[test]
fn a_reply_says_when_a_write_passed_its_stages() {
    let mut bench = Bench::serving(Role::Orderer);
    let admitted = later(&mut bench);
    bench.ask(1, write(0, 8));
    let here = later(&mut bench);
    bench.complete_it();
    let there = later(&mut bench);
    bench.hear(DataMessage::Ack(vec![1]));
    assert_eq!(bench.stages, [Stages { admitted, ordered: admitted, here, there }]);

    let mut bench = Bench::serving(Role::Follower);
    let admitted = later(&mut bench);
    bench.ask(1, write(0, 8));
    let ordered = later(&mut bench);
    bench.hear(DataMessage::Ordered(vec![(0, 1)]));
    let apply = bench.submitted[0].0;
    let there = later(&mut bench);
    bench.hear(DataMessage::Applied(vec![1]));
    let here = later(&mut bench);
    bench.complete(apply, Ok(IoDone::Done));
    assert_eq!(bench.stages, [Stages { admitted, ordered, here, there }]);
}

#[test]
fn a_reply_says_when_reads_flushes_and_hints_passed_their_stages() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, write(0, 8));
    bench.complete_it();
    let admitted = later(&mut bench);
    bench.ask(2, read(0, 8));
    let ordered = later(&mut bench);
    bench.hear(DataMessage::Ack(vec![1]));
    let here = later(&mut bench);
    bench.complete_it();
    assert_eq!(bench.stages, [Stages { admitted, ordered, here, there: None }]);

    let (first, there) = (later(&mut bench), None);
    bench.ask(3, Operation::Flush);
    let flush = bench.submitted[0].0;
    let second = later(&mut bench);
    bench.ask(4, Operation::Flush);
    let here = later(&mut bench);
    bench.complete(flush, Ok(IoDone::Done));
    let answered = later(&mut bench);
    bench.hear(DataMessage::FlushAck { id: 0 });
    let stages = Stages { admitted: first, ordered: first, here, there };
    assert_eq!(bench.stages, [Stages { there: answered, ..stages }]);
    let next = bench.submitted[0].0;
    let next_here = later(&mut bench);
    bench.complete(next, Ok(IoDone::Done));
    bench.hear(DataMessage::FlushAck { id: 1 });
    let stages = Stages { admitted: second, ordered: answered, here: next_here, there: next_here };
    assert_eq!(bench.stages, [stages]);

    let admitted = later(&mut bench);
    bench.ask(5, Operation::Cache { range: range(0, 8) });
    assert_eq!(bench.stages, [Stages { admitted, ordered: admitted, here: None, there: None }]);
}

/// CACHE is a hint: a disk that hangs keeps nobody waiting, and no more than so many pile up.
#[test]
fn a_host_does_not_wait_for_what_it_wants_cached() {
    let mut bench = Bench::serving(Role::Orderer);
    let mut begun = Vec::new();
    for id in 0..1000 {
        bench.ask(id, Operation::Cache { range: range(0, 8) });
        assert_eq!(bench.replies, [(id, Completion::Done)]);
        begun.extend(bench.submitted.iter().map(|(id, _)| *id));
    }
    assert_eq!(begun.len(), 32);
    bench.complete(begun[0], Ok(IoDone::Done));
    bench.ask(1000, Operation::Cache { range: range(0, 8) });
    assert_eq!(bench.submitted.len(), 1, "one has ended, another may begin");
}
