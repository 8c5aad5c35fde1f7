//! A node that serves alone.

use super::*;

impl Bench {
    /// Alone, with an open gate.
    fn alone() -> Self {
        let mut bench = Self::idle();
        bench.enter_solo(SESSION);
        bench.turn();
        bench
    }

    pub(super) fn enter_solo(&mut self, session: Session) {
        self.gate.read_until = Instant::ZERO;
        self.command(VolumeCommand::EnterSolo { session, granule_bytes: 512 });
        assert!(self.reports.contains(&VolumeReport::Entered { session }));
        let serve_gen = self.gate.serve_gen + 1;
        self.gate = Gate { serve_gen, session, read_until: Instant::NEVER };
    }
}

#[test]
fn alone_a_write_is_answered_when_this_copy_has_it() {
    let mut bench = Bench::alone();
    bench.ask(1, write(0, 8));
    assert!(bench.sent.is_empty() && bench.replies.is_empty());
    bench.complete_it();
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert!(bench.sent.is_empty(), "there is nobody to tell");
    assert_eq!(bench.volume.load(), (0, 0));
}

#[test]
fn alone_overlapping_requests_wait_for_each_other() {
    let mut bench = Bench::alone();
    bench.ask(1, write(0, 8));
    bench.ask(2, write(4, 8));
    bench.ask(3, read(4, 1));
    assert!(bench.is_silent(), "W2, W3");
    bench.complete(IoId(0), Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    bench.complete_it();
    assert_eq!(bench.replies, [(2, Completion::Done)]);
    assert!(matches!(bench.submitted.as_slice(), [(_, IoOperation::Read { .. })]));
}

#[test]
fn alone_a_flush_needs_this_copy_only() {
    let mut bench = Bench::alone();
    bench.ask(1, Operation::Flush);
    assert!(bench.sent.is_empty());
    bench.complete_it();
    assert_eq!(bench.replies, [(1, Completion::Done)]);
}

#[test]
fn what_a_session_left_unanswered_is_answered_first_and_then_what_was_held() {
    for role in [Role::Orderer, Role::Follower] {
        let mut bench = Bench::serving(role);
        bench.ask(1, write(0, 8));
        let begun = bench.submitted.clone();
        bench.ask(2, read(64, 8));
        let reading = bench.submitted[0].0;
        bench.leave(SESSION);
        bench.ask(3, write(4, 8));
        for (io, _) in &begun {
            bench.complete(*io, Ok(IoDone::Done));
        }
        bench.complete(reading, Ok(IoDone::Data(Bytes::from(vec![0; 4096]))));
        assert!(bench.replies.is_empty(), "I7");
        bench.enter_solo(SESSION);
        if role == Role::Follower {
            // It had no place in its session: it is applied now, and answered then.
            assert!(matches!(bench.submitted.as_slice(), [(_, IoOperation::Write { .. })]));
            bench.complete_it();
        } else {
            assert!(bench.submitted.is_empty(), "it is applied already");
            bench.turn();
        }
        assert_eq!(bench.replies, [(1, Completion::Done)]);
        let kinds: Vec<_> = bench.submitted.iter().map(|(_, operation)| operation.name()).collect();
        assert_eq!(kinds, ["read", "write"], "{role:?}");
    }
}

/// The gate is closed until all volumes have entered.
#[test]
fn alone_nothing_is_admitted_before_the_gate_is_open() {
    let mut bench = Bench::idle();
    bench.ask(1, write(0, 8));
    bench.command(VolumeCommand::EnterSolo { session: SESSION, granule_bytes: 512 });
    bench.turn();
    assert!(bench.is_silent());
    bench.gate = Gate { serve_gen: 1, session: SESSION, read_until: Instant::NEVER };
    bench.turn();
    assert_eq!(bench.submitted.len(), 1);
}

#[test]
fn alone_a_disk_that_hangs_is_named() {
    let mut bench = Bench::alone();
    bench.ask(1, write(0, 8));
    assert_eq!(late(&mut bench), [DISK_STUCK]);
}

#[test]
fn a_volume_that_serves_alone_is_drained_and_left() {
    let mut bench = Bench::alone();
    bench.ask(1, write(0, 8));
    bench.ask(2, write(4, 8));
    bench.command(VolumeCommand::Drain { session: SESSION });
    bench.complete(IoId(0), Ok(IoDone::Done));
    assert!(bench.reports.is_empty());
    bench.complete(IoId(1), Ok(IoDone::Done));
    assert_eq!(bench.reports, [VolumeReport::Drained { session: SESSION }]);
    bench.ask(3, write(0, 8));
    bench.leave(SESSION);
    let uncommitted = Vec::new();
    let left = VolumeReport::Left { session: SESSION, uncommitted };
    assert_eq!(bench.reports, [left, VolumeReport::Quiet { session: SESSION }]);
    // The other node came back, and this one is the source.
    bench.join(SESSION.next(), SyncRole::Source);
    bench.enter(SESSION.next(), Role::Orderer);
    bench.turn();
    assert!(matches!(bench.sent.as_slice(), [DataMessage::Repl { seq: 1, .. }]));
}

/// A write that is under way when a lone node must stop is neither lost nor answered.
#[test]
fn a_write_under_way_alone_is_carried_out_of_the_session() {
    let mut bench = Bench::alone();
    bench.ask(1, write(0, 8));
    bench.ask(2, write(4, 8));
    bench.leave(SESSION);
    let left = VolumeReport::Left { session: SESSION, uncommitted: vec![range(0, 8)] };
    assert_eq!(bench.reports, [left]);
    bench.complete(IoId(0), Ok(IoDone::Done));
    assert!(bench.replies.is_empty());
    assert_eq!(bench.reports, [VolumeReport::Quiet { session: SESSION }]);
    bench.enter_solo(SESSION.next());
    bench.turn();
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert_eq!(bench.submitted.len(), 1, "the one that waited for it");
}
