//! Reads after a session was left, while its gate is open.

use super::*;

impl Bench {
    /// The group leaves the session; the right to read goes on.
    fn leave_open(&mut self) {
        self.command(VolumeCommand::Leave { session: SESSION });
    }

    fn data(&mut self, io: IoId, bytes: usize) {
        self.complete(io, Ok(IoDone::Data(Bytes::from(vec![7; bytes]))));
    }

    fn is_answered_with_data(&self, tag: u32) -> bool {
        matches!(self.replies.as_slice(), [(of, Completion::Data(_))] if *of == tag)
    }
}

#[test]
fn reads_go_on_after_a_session_and_nothing_waits_for_them() {
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, read(0, 8));
    let under_way = bench.submitted[0].0;
    bench.leave_open();
    let left = VolumeReport::Left { session: SESSION, uncommitted: Vec::new() };
    assert_eq!(bench.reports, [left, VolumeReport::Quiet { session: SESSION }]);
    bench.data(under_way, 4096);
    assert!(bench.is_answered_with_data(1));
    bench.ask(2, read(8, 8));
    bench.complete_it();
    assert!(bench.is_answered_with_data(2));
    bench.ask(3, write(0, 8));
    bench.ask(4, Operation::Flush);
    bench.ask(5, read(0, 8));
    bench.complete_it();
    assert!(bench.is_answered_with_data(5), "no write is under way");
    assert_eq!(bench.volume.load().0, 2, "writes and flushes are held");
}

#[test]
fn what_is_uncommitted_is_not_read_after_a_session() {
    let mut bench = Bench::idle();
    bench.join(SESSION, SyncRole::Target);
    bench.enter_with(SESSION, Role::Follower, 4096);
    bench.turn();
    bench.hear(DataMessage::Repl { seq: 1, write: change(8, 1, false) });
    bench.complete_it();
    bench.ask(1, read(8, 1));
    bench.leave_open();
    for (tag, blocks) in [(2, range(0, 9)), (3, range(15, 4)), (4, range(9, 1))] {
        bench.ask(tag, Operation::Read { range: blocks });
        assert!(bench.is_silent(), "W3, W9: {blocks}");
    }
    for (tag, blocks) in [(5, range(0, 8)), (6, range(16, 4))] {
        bench.ask(tag, Operation::Read { range: blocks });
        bench.complete_it();
        assert!(bench.is_answered_with_data(tag));
    }
    bench.enter_solo(SESSION);
    bench.turn();
    assert_eq!(bench.submitted.len(), 4, "alone there is one copy");
}

#[test]
fn a_late_read_is_answered_under_its_own_gate_only() {
    let mut bench = Bench::serving(Role::Orderer);
    let open = bench.gate;
    bench.ask(1, read(0, 8));
    let io = bench.submitted[0].0;
    bench.leave_open();
    // The grant has run out, then another one comes.
    bench.gate.read_until = Instant::ZERO;
    bench.data(io, 4096);
    bench.ask(2, read(8, 8));
    assert!(bench.is_silent(), "I9");
    bench.gate = open;
    bench.turn();
    assert_eq!(bench.submitted.len(), 2);
    let (first, second) = (bench.submitted[0].0, bench.submitted[1].0);
    bench.data(first, 4096);
    assert!(bench.is_answered_with_data(1));
    // Another time has begun.
    bench.gate.serve_gen += 1;
    bench.data(second, 4096);
    assert!(bench.is_silent(), "I9");
    bench.gate = open;
    bench.turn();
    assert!(bench.is_silent(), "the time of that session is over");
    bench.enter_solo(SESSION);
    bench.turn();
    assert_eq!(bench.submitted.len(), 1, "it is asked again");
}

/// Alone a read of the time before still reads.
#[test]
fn a_late_read_keeps_its_range_until_it_has_ended_and_is_asked_again() {
    let mut bench = Bench::serving(Role::Orderer);
    bench.ask(1, read(0, 8));
    let late = bench.submitted[0].0;
    bench.ask(2, write(4, 8));
    bench.leave_open();
    bench.enter_solo(SESSION);
    bench.turn();
    let [(again, IoOperation::Read { .. })] = bench.submitted[..] else {
        panic!("W9: the write waits: {:?}", bench.submitted)
    };
    bench.data(late, 4096);
    assert!(bench.is_silent(), "I9: of another time; the write waits for the read of this one");
    bench.data(again, 4096);
    assert!(bench.is_answered_with_data(1));
    assert!(matches!(bench.submitted.as_slice(), [(_, IoOperation::Write { .. })]));
}

#[test]
fn a_join_waits_for_late_reads() {
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, read(0, 8));
    let late = bench.submitted[0].0;
    bench.leave_open();
    let (session, role) = (SESSION.next(), SyncRole::Target);
    bench.command(VolumeCommand::Prepare { session, role, rewrite: false });
    assert!(bench.reports.is_empty(), "W7: blocks are about to be written");
    bench.data(late, 4096);
    assert!(bench.replies.is_empty(), "I9");
    assert_eq!(bench.reports, [VolumeReport::Prepared { session }]);
}

#[test]
fn nobody_is_answered_who_has_gone_since() {
    let mut bench = Bench::serving(Role::Follower);
    bench.ask(1, read(0, 8));
    bench.ask(11, read(8, 8));
    bench.leave_open();
    bench.volume.handle_client_gone(id(1).client);
    bench.data(IoId(0), 4096);
    assert!(bench.is_silent());
    bench.command(VolumeCommand::DiscardHeld);
    bench.data(IoId(1), 4096);
    assert!(bench.is_silent());
    assert_eq!(bench.volume.load(), (0, 0));
}
