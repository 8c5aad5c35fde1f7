//! A node that serves while its copy goes to a target, and that target.

use base::limits::REGION_BYTES;

use super::*;

const NEXT: Session = Session(SESSION.0 + 1);
const REGION_BLOCKS: u64 = REGION_BYTES / 512;

impl Bench {
    /// Alone, then with a target: regions that differ everywhere, or nowhere.
    fn with_target(regions: u64, scope: Scope) -> Self {
        let mut bench = Self::of_size(regions * REGION_BYTES);
        bench.enter_solo(SESSION);
        bench.turn();
        bench.attach(scope);
        bench
    }

    fn attach(&mut self, scope: Scope) {
        let (session, conn_nonce, seed, granule_bytes) = (NEXT, NONCE, 0, 512);
        let serve_gen = self.gate.serve_gen + 1;
        self.gate = Gate { serve_gen, session, read_until: Instant::NEVER };
        self.command(VolumeCommand::Attach { session, conn_nonce, scope, seed, granule_bytes });
    }

    fn target_says(&mut self, message: DataMessage) {
        let incoming = Incoming { session: NEXT, conn_nonce: NONCE, message };
        self.volume.handle_message(self.now, incoming);
        self.turn();
    }

    /// Everything that a turn wants, over several turns.
    fn take(&mut self, copies: &mut Vec<(u64, u64, IoId)>) {
        let ids: Vec<_> = self
            .sent
            .iter()
            .filter_map(|message| match message {
                DataMessage::DigestRequest { id, range } => Some((*id, range.offset())),
                _ => None,
            })
            .collect();
        let reads: Vec<_> = self
            .submitted
            .iter()
            .filter(|(_, io)| io.range().length() == REGION_BYTES && io.name() == "read")
            .map(|(io, operation)| (*io, operation.range().offset()))
            .collect();
        assert_eq!(ids.len(), reads.len(), "each region is read here and there");
        for ((id, offset), (io, read)) in ids.into_iter().zip(reads) {
            assert_eq!(offset, read);
            copies.push((id, offset / REGION_BYTES, io));
        }
    }

    /// This node has read a region for its copy.
    fn region_read(&mut self, io: IoId, copies: &mut Vec<(u64, u64, IoId)>) {
        self.complete(io, Ok(IoDone::Data(Bytes::from(vec![0; REGION_BYTES as usize]))));
        self.take(copies);
    }

    /// The target has read it, too, and has the same.
    fn region_equal(&mut self, id: u64, copies: &mut Vec<(u64, u64, IoId)>) {
        let digest = xxhash_rust::xxh3::xxh3_128_with_seed(&[0; 64 << 10], 0);
        self.target_says(DataMessage::Digests { id, digests: vec![digest; 16] });
        self.take(copies);
    }

    /// Copies all regions, but for those of `but`.
    fn copy_all(&mut self, but: &[u64]) -> Vec<(u64, u64, IoId)> {
        let mut copies = Vec::new();
        self.take(&mut copies);
        let mut kept = Vec::new();
        while let Some((id, region, io)) = copies.pop() {
            if but.contains(&region) {
                kept.push((id, region, io));
                continue;
            }
            self.region_read(io, &mut copies);
            self.region_equal(id, &mut copies);
        }
        kept
    }

    fn is_compared(&self) -> bool {
        self.reports.iter().any(|report| matches!(report, VolumeReport::Compared { .. }))
    }

    fn repls(&self) -> Vec<(u64, ByteRange)> {
        let repl = |message: &DataMessage| match message {
            DataMessage::Repl { seq, write } => Some((*seq, write.range)),
            _ => None,
        };
        self.sent.iter().filter_map(repl).collect()
    }
}

#[test]
fn a_target_with_nothing_to_copy_is_equal_at_once_and_counts_when_told() {
    let mut bench = Bench::with_target(8, Scope::Nothing);
    assert_eq!(
        bench.reports.last(),
        Some(&VolumeReport::Compared { session: NEXT, copied_bytes: 0 })
    );
    bench.ask(1, write(0, 8));
    assert_eq!(bench.repls().len(), 1);
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert!(bench.replies.is_empty(), "W4: the target does not have it");
    let (session, conn_nonce, role, granule_bytes) = (NEXT, NONCE, Role::Orderer, 512);
    bench.command(VolumeCommand::Enter { session, conn_nonce, role, granule_bytes });
    assert_eq!(bench.reports, [VolumeReport::Entered { session }]);
    bench.target_says(DataMessage::Ack(vec![1]));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    assert_eq!(bench.sent, [commit(1, &[])]);
    bench.ask(2, Operation::Flush);
    assert_eq!(bench.sent, [DataMessage::Flush { id: 0 }]);
}

#[test]
#[should_panic(expected = "D15")]
fn a_target_that_is_not_equal_does_not_count() {
    let mut bench = Bench::with_target(8, Scope::Everything);
    let (session, conn_nonce, role, granule_bytes) = (NEXT, NONCE, Role::Orderer, 512);
    bench.command(VolumeCommand::Enter { session, conn_nonce, role, granule_bytes });
}

/// Somebody found that the copies are equal, and a host wrote before the target came.
#[test]
fn what_was_written_alone_is_copied_whatever_the_scope() {
    let mut bench = Bench::of_size(8 * REGION_BYTES);
    bench.enter_solo(SESSION);
    bench.ask(1, write(0, 8));
    bench.complete_it();
    bench.attach(Scope::Nothing);
    assert!(!bench.is_compared());
    assert_eq!(bench.copy_all(&[]).len(), 0);
    assert!(bench.is_compared());
}

#[test]
fn a_write_goes_to_the_target_where_the_target_has_the_copy() {
    let mut bench = Bench::with_target(20, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    assert_eq!(copies.len(), 8, "so many at once");
    // Not begun: here only.
    bench.ask(1, write(19 * REGION_BLOCKS, 8));
    assert!(bench.repls().is_empty());
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    // Being read: it waits for the read, then it is written here only, and copied again.
    let (id, region, io) = copies[0];
    bench.ask(2, write(region * REGION_BLOCKS, 8));
    assert!(bench.submitted.is_empty());
    let mut more = Vec::new();
    bench.region_read(io, &mut more);
    assert!(bench.repls().is_empty());
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(2, Completion::Done)], "D12");
    bench.region_equal(id, &mut more);
    bench.ask(3, write(region * REGION_BLOCKS, 8));
    assert!(bench.repls().is_empty(), "it has to be copied again");
    // Copied: to both. The reply does not wait, the lock does.
    let (id, region, io) = copies[1];
    bench.region_read(io, &mut more);
    bench.region_equal(id, &mut more);
    bench.ask(4, write(region * REGION_BLOCKS, 8));
    let [(seq, _)] = bench.repls()[..] else { panic!("{:?}", bench.sent) };
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(4, Completion::Done)]);
    bench.ask(5, read(region * REGION_BLOCKS, 1));
    assert!(bench.submitted.is_empty(), "W3, D14: the target does not have it");
    bench.target_says(DataMessage::Ack(vec![seq]));
    assert_eq!(bench.submitted.len(), 1);
    assert!(bench.replies.is_empty(), "once is enough");
    assert_eq!(bench.sent, [commit(seq, &[])]);
}

#[test]
fn a_write_over_several_regions_is_split_at_their_borders() {
    let mut bench = Bench::with_target(20, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    let mut more = Vec::new();
    for (id, region, io) in copies {
        if region != 1 && region < 5 {
            bench.region_read(io, &mut more);
            bench.region_equal(id, &mut more);
        } else if region == 1 {
            bench.region_read(io, &mut more);
        }
    }
    // Regions 0, 2, 3 are clean, 1 is copying.
    let first = REGION_BLOCKS - 2;
    bench.ask(1, write(first, 3 * REGION_BLOCKS));
    let parts = [range(first, 2), range(2 * REGION_BLOCKS, 2 * REGION_BLOCKS - 2)];
    let repls = bench.repls();
    assert_eq!(repls.iter().map(|(_, range)| *range).collect::<Vec<_>>(), parts);
    let [(io, _)] = bench.submitted[..] else { panic!("one lock, one I/O") };
    bench.complete(io, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    bench.target_says(DataMessage::Ack(vec![repls[1].0]));
    assert!(bench.sent.is_empty());
    bench.target_says(DataMessage::Ack(vec![repls[1].0]));
    assert!(matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]), "said twice");
}

#[test]
fn a_write_of_too_many_parts_is_copied_instead() {
    const REGIONS: u64 = 140;
    let mut bench = Bench::with_target(REGIONS, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    let mut tag = 0;
    // Each second region is overtaken by a write.
    for turn in 0..REGIONS {
        let (id, region, io) = copies[turn as usize];
        assert_eq!(region, turn);
        bench.region_read(io, &mut copies);
        if region % 2 == 1 {
            tag += 1;
            bench.ask(tag, write(region * REGION_BLOCKS, 1));
            bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
        }
        bench.region_equal(id, &mut copies);
    }
    let zeroes = |regions: u64| {
        let content = Content::Zeroes { allocate: false };
        Operation::Write(Write { content, ..change(0, regions * REGION_BLOCKS, false) })
    };
    let queues = bench.volume.queues();
    assert!(queues.iter().all(|queue| queue.max == 0 || queue.length <= queue.max));
    // Those being read again have their locks first.
    for (_, _, io) in &copies[REGIONS as usize..] {
        bench.region_read(*io, &mut Vec::new());
    }
    bench.ask(1000, zeroes(REGIONS));
    assert_eq!((bench.repls().len(), bench.submitted.len()), (0, 1), "70 parts");
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1000, Completion::Done)]);
}

/// There is an end however often a host writes.
#[test]
fn a_region_that_is_overtaken_again_and_again_is_held() {
    let mut bench = Bench::with_target(7, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    assert_eq!(copies.len(), 7, "too many for the last step");
    let mut copy = copies[0];
    for tag in 1..=2 {
        let (id, region, io) = copy;
        assert_eq!(region, 0);
        let mut again = Vec::new();
        bench.region_read(io, &mut again);
        bench.ask(tag, write(0, 8));
        bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
        assert_eq!(bench.replies, [(tag, Completion::Done)]);
        bench.region_equal(id, &mut again);
        copy = again[0];
    }
    let (id, _, io) = copy;
    bench.region_read(io, &mut Vec::new());
    bench.ask(3, write(0, 8));
    assert!(bench.submitted.is_empty(), "the copy has the range");
    bench.region_equal(id, &mut Vec::new());
    assert_eq!((bench.repls().len(), bench.submitted.len()), (1, 1));
}

/// The gate of the session before is not the gate of the one that begins.
#[test]
fn a_read_under_way_when_a_target_comes_is_read_again() {
    let mut bench = Bench::of_size(8 * REGION_BYTES);
    bench.enter_solo(SESSION);
    bench.ask(1, read(0, 8));
    let io = bench.submitted[0].0;
    bench.attach(Scope::Nothing);
    bench.complete(io, Ok(IoDone::Data(Bytes::from(vec![0; 4096]))));
    assert!(bench.replies.is_empty(), "I9");
    // At once: nothing else may happen for long.
    bench.complete_it();
    assert!(matches!(bench.replies.as_slice(), [(1, Completion::Data(_))]));
}

#[test]
fn one_copy_is_held_at_a_time_and_not_for_longer_than_t_io() {
    let mut bench = Bench::with_target(3, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    let [(_, region, io)] = copies[..] else { panic!("one at a time: {copies:?}") };
    bench.region_read(io, &mut copies);
    bench.ask(1, write(region * REGION_BLOCKS, 8));
    assert!(bench.submitted.is_empty());
    let deadline = bench.volume.next_deadline().expect("the target has it");
    assert!(deadline < bench.now + IO_TIMEOUT + Duration::from_millis(100));
    bench.now = deadline;
    bench.turn();
    assert!(matches!(bench.reports[..], [.., VolumeReport::PeerStuck { session: NEXT, .. }]));
    bench.command(VolumeCommand::Detach { session: NEXT });
    assert_eq!(bench.submitted.len(), 1, "the write goes on");
}

#[test]
fn when_few_regions_are_left_everything_needs_both() {
    let mut bench = Bench::with_target(10, Scope::Everything);
    let mut left = bench.copy_all(&[6, 7, 8, 9]);
    assert_eq!(left.len(), 4);
    assert!(!bench.is_compared());
    // Not begun under the last step's rule yet: an earlier copy goes on.
    bench.ask(1, write(0, 8));
    let [(seq, _)] = bench.repls()[..] else { panic!("{:?}", bench.sent) };
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert!(bench.replies.is_empty(), "W4");
    bench.ask(2, Operation::Flush);
    assert_eq!(bench.sent, [DataMessage::Flush { id: 0 }]);
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert!(bench.replies.is_empty(), "P1");
    bench.target_says(DataMessage::Ack(vec![seq]));
    bench.target_says(DataMessage::FlushAck { id: 0 });
    assert_eq!(bench.replies, [(2, Completion::Done)]);
    // A copy that is overtaken now is held until the target has it.
    let (id, region, io) = left.pop().expect("one of them");
    bench.region_read(io, &mut left);
    bench.ask(3, write(region * REGION_BLOCKS, 8));
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(3, Completion::Done)]);
    let mut again = Vec::new();
    bench.region_equal(id, &mut again);
    let [(id, _, io)] = again[..] else { panic!("it is copied again: {again:?}") };
    bench.region_read(io, &mut Vec::new());
    bench.ask(4, write(region * REGION_BLOCKS, 8));
    assert!(bench.submitted.is_empty(), "the copy has the range");
    bench.region_equal(id, &mut Vec::new());
    assert_eq!(bench.repls().len(), 1, "and then the target has it");
    for (id, _, io) in left {
        bench.region_read(io, &mut Vec::new());
        bench.region_equal(id, &mut Vec::new());
    }
    assert!(bench.is_compared(), "a write that waits for both is no obstacle");
}

#[test]
fn the_copies_are_equal_when_the_target_has_what_was_answered_without_it() {
    let mut bench = Bench::with_target(10, Scope::Everything);
    let left = bench.copy_all(&[2, 3, 4, 5, 6]);
    bench.ask(1, write(0, 8));
    let [(seq, _)] = bench.repls()[..] else { panic!("{:?}", bench.sent) };
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
    for (id, _, io) in left {
        bench.region_read(io, &mut Vec::new());
        bench.region_equal(id, &mut Vec::new());
        assert!(!bench.is_compared(), "D15");
    }
    bench.target_says(DataMessage::Ack(vec![seq]));
    assert!(bench.is_compared());
}

#[test]
fn a_target_that_is_lost_takes_nothing_with_it() {
    let mut bench = Bench::with_target(10, Scope::Everything);
    let left = bench.copy_all(&[6, 7, 8, 9]);
    let reading = left[0];
    bench.ask(1, write(0, 8));
    let applied = bench.submitted[0].0;
    bench.complete(applied, Ok(IoDone::Done));
    bench.ask(2, write(8, 8));
    let applying = bench.submitted[0].0;
    bench.ask(3, Operation::Flush);
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    bench.ask(4, read(0, 8));
    bench.ask(5, write(reading.1 * REGION_BLOCKS, 8));
    assert!(bench.replies.is_empty() && bench.submitted.is_empty());
    bench.volume.handle_link_lost(NONCE, "gone".to_owned());
    bench.command(VolumeCommand::Detach { session: NEXT });
    assert_eq!(bench.replies, [(1, Completion::Done), (3, Completion::Done)], "D16");
    assert_eq!(bench.submitted.len(), 1, "the read of what is committed now");
    bench.complete(applying, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(2, Completion::Done)]);
    // What is being read for nobody is not written.
    let data = Bytes::from(vec![0; REGION_BYTES as usize]);
    bench.complete(reading.2, Ok(IoDone::Data(data)));
    assert!(matches!(bench.submitted.as_slice(), [(_, IoOperation::Write { .. })]));
    assert!(bench.sent.is_empty());
}

#[test]
fn a_target_that_says_nothing_is_reported_and_a_disk_that_does_not_as_well() {
    let stuck = |read: bool| {
        let mut bench = Bench::with_target(1, Scope::Everything);
        let mut copies = Vec::new();
        bench.take(&mut copies);
        if read {
            bench.region_read(copies[0].2, &mut copies);
        }
        bench.now = bench.volume.next_deadline().expect("it waits");
        bench.turn();
        bench.reports.clone()
    };
    assert!(matches!(stuck(true)[..], [.., VolumeReport::PeerStuck { session: NEXT, .. }]));
    assert!(matches!(stuck(false)[..], [.., VolumeReport::DiskStuck { session: NEXT, .. }]));
}

#[test]
fn a_region_that_cannot_be_read_stops_the_copy_and_not_the_service() {
    let mut bench = Bench::with_target(10, Scope::Everything);
    let mut copies = Vec::new();
    bench.take(&mut copies);
    let fault = IoFault::System(5);
    bench.complete(copies[0].2, Err(fault));
    assert_eq!(bench.reports, [VolumeReport::CopyFailed { session: NEXT, fault }]);
    assert!(bench.sent.is_empty(), "nothing more is copied");
    bench.ask(1, write(0, 8));
    bench.complete(bench.submitted[0].0, Ok(IoDone::Done));
    assert_eq!(bench.replies, [(1, Completion::Done)]);
}

/// What a source may be told of its copies, and what not.
#[test]
fn a_target_that_answers_what_nobody_asked_loses_its_connection() {
    for message in [
        DataMessage::Digests { id: 99, digests: Vec::new() },
        DataMessage::Digests { id: 0, digests: Vec::new() },
        DataMessage::SyncBlockAck { id: 0 },
        DataMessage::SyncBlock { id: 0, range: range(0, 8), data: None },
        DataMessage::Ack(vec![1]),
    ] {
        let mut bench = Bench::with_target(10, Scope::Everything);
        bench.target_says(message.clone());
        let lost = matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]);
        assert!(lost, "{message:?}: {:?}", bench.reports);
    }
}

/// At the target.
fn target() -> Bench {
    let mut bench = Bench::idle();
    let (session, role, scope) = (SESSION, SyncRole::Target, Scope::Everything);
    bench.command(VolumeCommand::Prepare { session, role, rewrite: false });
    let (conn_nonce, seed) = (NONCE, 0);
    bench.command(VolumeCommand::Compare { session, conn_nonce, role, scope, seed });
    bench
}

#[test]
fn a_target_takes_what_is_mirrored_and_keeps_it_unread() {
    let mut bench = target();
    bench.ask(1, read(0, 8));
    bench.hear(DataMessage::Repl { seq: 1, write: change(0, 8, false) });
    bench.complete_it();
    assert_eq!(bench.sent, [DataMessage::Ack(vec![1])]);
    bench.hear(DataMessage::Flush { id: 0 });
    bench.complete_it();
    assert_eq!(bench.sent, [DataMessage::FlushAck { id: 0 }]);
    assert!(bench.replies.is_empty(), "a target serves nobody");
    bench.enter(SESSION, Role::Follower);
    bench.turn();
    assert!(bench.is_silent(), "W3: nobody said that both have it");
    bench.hear(commit(1, &[]));
    assert_eq!(bench.submitted.len(), 1);
}

#[test]
fn a_target_refuses_a_write_in_the_middle_of_a_copy_and_the_other_way_round() {
    let repl = DataMessage::Repl { seq: 1, write: change(0, 8, false) };
    let digest = DataMessage::DigestRequest { id: 0, range: range(0, 128) };
    let block = DataMessage::SyncBlock { id: 0, range: range(0, 128), data: None };
    let block_again = DataMessage::SyncBlock { id: 1, range: range(0, 128), data: None };
    for (first, second) in [
        (&repl, &digest),
        (&repl, &block),
        (&digest, &repl),
        (&block, &repl),
        (&block, &block_again),
    ] {
        let mut bench = target();
        bench.hear(first.clone());
        assert!(bench.reports.is_empty());
        bench.hear(second.clone());
        let lost = matches!(bench.reports.as_slice(), [VolumeReport::LinkLost { .. }]);
        assert!(lost, "{first:?} {second:?}: {:?}", bench.reports);
    }
}

#[test]
fn a_target_that_leaves_says_what_is_uncommitted() {
    let mut bench = target();
    bench.hear(DataMessage::Repl { seq: 1, write: change(0, 8, false) });
    let io = bench.submitted[0].0;
    bench.command(VolumeCommand::Leave { session: SESSION });
    let left = VolumeReport::Left { session: SESSION, uncommitted: vec![range(0, 8)] };
    assert_eq!(bench.reports, [left]);
    bench.complete(io, Ok(IoDone::Done));
    assert_eq!(bench.reports, [VolumeReport::Quiet { session: SESSION }]);
    assert!(bench.sent.is_empty(), "I7");
}
