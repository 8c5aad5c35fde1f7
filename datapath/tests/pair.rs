//! Two volume cores joined by their wire codec, with disks that are vectors: the plain story of a
//! session, without faults. Faults are the simulator's.

use base::ids::{ClientId, ConnNonce, Session, VolumeIndex};
use base::range::ByteRange;
use base::request::{Completion, Content, Operation, RequestId, Write};
use base::rules::Rules;
use base::time::{Duration, Instant};
use bytes::Bytes;
use datapath::gate::Gate;
use datapath::outbox::Action;
use datapath::port::{Role, Scope, SyncRole, VolumeCommand, VolumeReport};
use datapath::storage::{IoCompletion, IoDone, IoOperation};
use datapath::volume::{Volume, VolumeConfig};
use datapath::wire::{DataMessage, Incoming, LinkDecoder, LinkEncoder};

const SIZE: usize = 4 << 20;
const NONCE: ConnNonce = ConnNonce([7; 16]);
const SESSION: Session = Session(1);

struct Side {
    volume: Volume,
    disk: Vec<u8>,
    /// Bytes read from it and written to it.
    reads: usize,
    written: usize,
    encoder: LinkEncoder,
    decoder: LinkDecoder,
    reports: Vec<VolumeReport>,
    replies: Vec<(RequestId, Completion)>,
    gate: Gate,
}

impl Side {
    fn new(fill: u8) -> Self {
        let config = VolumeConfig {
            index: VolumeIndex(0),
            size: SIZE as u64,
            granule_bytes: 512,
            io_timeout: Duration::from_secs(2),
            rules: Rules::ALL_HOLD,
        };
        Self {
            volume: Volume::new(config),
            disk: vec![fill; SIZE],
            reads: 0,
            written: 0,
            encoder: LinkEncoder::new(NONCE, 0),
            decoder: LinkDecoder::new(0),
            reports: Vec::new(),
            replies: Vec::new(),
            gate: Gate::CLOSED,
        }
    }

    /// One turn; the bytes for the peer.
    fn turn(&mut self, now: Instant) -> Vec<u8> {
        while let Some(message) = self.decoder.poll_message() {
            self.volume.handle_message(now, message);
        }
        let mut out = Vec::new();
        loop {
            self.volume.settle(now, self.gate);
            let mut completions = Vec::new();
            while let Some(action) = self.volume.poll_action() {
                match action {
                    Action::Reply { id, completion, .. } => self.replies.push((id, completion)),
                    Action::Submit { id, operation } => {
                        let bytes = operation.range().length() as usize;
                        match operation {
                            IoOperation::Read { .. } => self.reads += bytes,
                            IoOperation::Write { .. } | IoOperation::Zero { .. } => {
                                self.written += bytes;
                            }
                            IoOperation::Flush | IoOperation::Prefetch { .. } => {}
                        }
                        let result = Ok(execute(&mut self.disk, operation));
                        completions.push(IoCompletion { id, result });
                    }
                    Action::Send(message) => {
                        self.encoder.encode(self.volume.session(), &message, &mut out);
                    }
                    Action::Report(report) => self.reports.push(report),
                    Action::CloseClient { .. } | Action::CloseAllClients { .. } => {}
                }
            }
            if completions.is_empty() {
                self.encoder.finish(&mut out);
                return out.concat();
            }
            for completion in completions {
                self.volume.handle_completion(now, completion);
            }
        }
    }

    fn command(&mut self, command: VolumeCommand) {
        self.volume.handle_command(Instant::ZERO, command);
    }
}

fn execute(disk: &mut [u8], operation: IoOperation) -> IoDone {
    let range = operation.range();
    let bytes = range.offset() as usize..range.end() as usize;
    match operation {
        IoOperation::Read { .. } => return IoDone::Data(Bytes::copy_from_slice(&disk[bytes])),
        IoOperation::Write { data, .. } => disk[bytes].copy_from_slice(&data),
        IoOperation::Zero { .. } => disk[bytes].fill(0),
        IoOperation::Flush | IoOperation::Prefetch { .. } => {}
    }
    IoDone::Done
}

/// Turns of both sides until neither has anything to say.
fn run(a: &mut Side, b: &mut Side) {
    let now = Instant::from_nanos(1);
    loop {
        let to_b = a.turn(now);
        b.decoder.handle_bytes(&to_b).expect("our own frames");
        let to_a = b.turn(now);
        a.decoder.handle_bytes(&to_a).expect("our own frames");
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
    }
}

fn joined(scope: Scope) -> (Side, Side) {
    let (mut a, mut b) = (Side::new(1), Side::new(1));
    a.disk[70_000..70_100].fill(9);
    a.disk[1 << 20..2 << 20].fill(0);
    for (side, role) in [(&mut a, SyncRole::Source), (&mut b, SyncRole::Target)] {
        side.volume.handle_link_up(NONCE);
        side.command(VolumeCommand::Prepare { session: SESSION, role, rewrite: false });
        let seed = 77;
        let conn_nonce = NONCE;
        side.command(VolumeCommand::Compare { session: SESSION, conn_nonce, role, scope, seed });
    }
    run(&mut a, &mut b);
    for (side, role) in [(&mut a, Role::Orderer), (&mut b, Role::Follower)] {
        let (session, conn_nonce, granule_bytes) = (SESSION, NONCE, 512);
        side.command(VolumeCommand::Enter { session, conn_nonce, role, granule_bytes });
        side.gate = Gate { serve_gen: 1, session: SESSION, read_until: Instant::NEVER };
    }
    run(&mut a, &mut b);
    (a, b)
}

fn id(tag: u32) -> RequestId {
    RequestId { client: ClientId(1), tag }
}

fn write(offset: u64, data: Vec<u8>, fua: bool) -> Operation {
    let range = ByteRange::new(offset, data.len() as u64).expect("small");
    Operation::Write(Write { range, content: Content::Data(data.into()), fua })
}

fn read(offset: u64, length: u64) -> Operation {
    Operation::Read { range: ByteRange::new(offset, length).expect("small") }
}

#[test]
fn a_comparison_copies_what_differs_and_nothing_else() {
    let (a, b) = joined(Scope::Everything);
    assert_eq!(a.disk, b.disk);
    let copied = a.reports.iter().find_map(|report| match report {
        VolumeReport::Compared { copied_bytes, .. } => Some(*copied_bytes),
        _ => None,
    });
    assert_eq!(copied, Some((64 << 10) + (1 << 20)));
}

/// D10: what a failed disk shows may not be what it has, so that equal digests mean nothing.
#[test]
fn a_target_whose_disk_failed_gets_every_block_and_is_not_read() {
    let (a, b) = joined(Scope::Rewrite);
    assert_eq!(a.disk, b.disk);
    assert_eq!((b.reads, b.written), (0, SIZE));
    let copied_bytes = SIZE as u64;
    assert!(a.reports.contains(&VolumeReport::Compared { session: SESSION, copied_bytes }));
}

/// D10: the source as well, before anything else is done with its copy.
#[test]
fn a_source_whose_disk_failed_writes_its_copy_over_itself() {
    let mut a = Side::new(3);
    a.disk[1 << 20..2 << 20].fill(0);
    let before = a.disk.clone();
    let (session, role) = (SESSION, SyncRole::Source);
    a.command(VolumeCommand::Prepare { session, role, rewrite: true });
    assert!(!a.reports.contains(&VolumeReport::Prepared { session }));
    a.turn(Instant::from_nanos(1_000_000_000));
    assert_eq!((a.reads, a.written), (SIZE, SIZE));
    assert_eq!(a.disk, before);
    assert!(a.reports.contains(&VolumeReport::Prepared { session }));
    assert!(a.reports.iter().any(|report| matches!(report, VolumeReport::Progress(_))));
}

/// Nothing that a peer sends makes a node panic.
#[test]
fn a_source_that_goes_on_comparing_loses_its_connection() {
    let mut b = Side::new(1);
    let (session, role, conn_nonce) = (SESSION, SyncRole::Target, NONCE);
    b.volume.handle_link_up(NONCE);
    b.command(VolumeCommand::Prepare { session, role, rewrite: false });
    let (scope, seed) = (Scope::Everything, 1);
    b.command(VolumeCommand::Compare { session, conn_nonce, role, scope, seed });
    let range = ByteRange::new(0, 1 << 20).expect("a piece");
    let message = DataMessage::DigestRequest { id: 0, range };
    b.volume.handle_message(Instant::ZERO, Incoming { session, conn_nonce, message });
    let (role, granule_bytes) = (Role::Follower, 512);
    b.command(VolumeCommand::Enter { session, conn_nonce, role, granule_bytes });
    b.turn(Instant::from_nanos(1));
    assert!(b.reports.iter().any(|report| matches!(report, VolumeReport::LinkLost { .. })));
    b.command(VolumeCommand::Leave { session });
    b.turn(Instant::from_nanos(2));
    assert!(b.reports.contains(&VolumeReport::Quiet { session }));
}

/// A source asks for a few pieces at once; more would only fill the target's memory.
#[test]
fn a_source_that_asks_for_too_much_at_once_loses_its_connection() {
    let mut b = Side::new(1);
    let (session, role) = (SESSION, SyncRole::Target);
    b.volume.handle_link_up(NONCE);
    b.command(VolumeCommand::Prepare { session, role, rewrite: false });
    let (conn_nonce, scope, seed) = (NONCE, Scope::Everything, 1);
    b.command(VolumeCommand::Compare { session, conn_nonce, role, scope, seed });
    let range = ByteRange::new(0, 1 << 20).expect("a piece");
    for id in 0..9 {
        let lost = |report: &VolumeReport| matches!(report, VolumeReport::LinkLost { .. });
        assert!(!b.reports.iter().any(lost), "after {id} pieces");
        let message = DataMessage::DigestRequest { id, range };
        b.volume.handle_message(Instant::ZERO, Incoming { session, conn_nonce, message });
        while let Some(action) = b.volume.poll_action() {
            if let Action::Report(report) = action {
                b.reports.push(report);
            }
        }
    }
    let Some(VolumeReport::LinkLost { why, .. }) = b.reports.last() else { panic!("it is lost") };
    assert!(why.contains("8 pieces"), "{why}");
}

#[test]
fn a_write_through_either_side_is_on_both_and_read_at_both() {
    let (mut a, mut b) = joined(Scope::Everything);
    a.volume.handle_request(id(1), write(0, vec![5; 4096], false));
    b.volume.handle_request(id(1), write(8192, vec![6; 512], true));
    a.volume.handle_request(id(2), Operation::Flush);
    b.volume.handle_request(id(2), write(3 << 20, vec![8; 1 << 20], false));
    run(&mut a, &mut b);
    assert_eq!(a.disk, b.disk);
    for side in [&mut a, &mut b] {
        assert_eq!(side.replies.len(), 2);
        assert!(side.replies.drain(..).all(|(_, completion)| completion == Completion::Done));
        side.volume.handle_request(id(3), read(0, 12288));
    }
    run(&mut a, &mut b);
    for side in [a, b] {
        let [(_, Completion::Data(data))] = side.replies.as_slice() else { panic!("one read") };
        assert!(data[..4096].iter().all(|byte| *byte == 5));
        assert!(data[8192..8704].iter().all(|byte| *byte == 6));
    }
}

#[test]
fn overlapping_writes_from_both_sides_end_equal() {
    let (mut a, mut b) = joined(Scope::Everything);
    for round in 0..200u32 {
        for side in [&mut a, &mut b] {
            for n in 0..4u64 {
                let offset = (u64::from(round) * 7 + n * 3) % 16 * 512;
                let data = vec![(round % 250) as u8; 512 * (1 + n as usize)];
                side.volume.handle_request(id(round), write(offset, data, false));
            }
        }
        if round % 3 == 0 {
            run(&mut a, &mut b);
            assert_eq!(a.disk, b.disk, "round {round}");
        }
    }
    run(&mut a, &mut b);
    assert_eq!(a.disk, b.disk);
    assert_eq!((a.replies.len(), b.replies.len()), (800, 800));
    assert_eq!((a.volume.load(), b.volume.load()), ((0, 0), (0, 0)));
}

#[test]
fn a_session_that_is_left_is_left_quietly_and_holds_what_was_not_sent() {
    let (mut a, mut b) = joined(Scope::Everything);
    // On its way to b when the session ends.
    a.volume.handle_request(id(1), write(0, vec![5; 4096], false));
    let _lost = a.turn(Instant::from_nanos(2));
    a.gate = Gate::CLOSED;
    a.command(VolumeCommand::Leave { session: SESSION });
    a.volume.handle_request(id(2), write(512, vec![6; 512], false));
    a.turn(Instant::from_nanos(3));
    let left = a.reports.iter().any(
        |report| matches!(report, VolumeReport::Left { uncommitted, .. } if uncommitted.len() == 1),
    );
    assert!(left && a.reports.contains(&VolumeReport::Quiet { session: SESSION }));
    assert!(a.replies.is_empty(), "W4: nothing is answered before both have it");
    b.gate = Gate::CLOSED;
    b.command(VolumeCommand::Leave { session: SESSION });
    b.turn(Instant::from_nanos(3));
    // The source of the next join answers its own write when both have it.
    let next = SESSION.next();
    for (side, role) in [(&mut a, SyncRole::Source), (&mut b, SyncRole::Target)] {
        side.volume.handle_link_up(NONCE);
        side.command(VolumeCommand::Prepare { session: next, role, rewrite: false });
        let (conn_nonce, scope, seed) = (NONCE, Scope::Everything, 3);
        side.command(VolumeCommand::Compare { session: next, conn_nonce, role, scope, seed });
        side.encoder = LinkEncoder::new(NONCE, 0);
        side.decoder = LinkDecoder::new(0);
    }
    run(&mut a, &mut b);
    assert!(a.replies.is_empty());
    for (side, role) in [(&mut a, Role::Orderer), (&mut b, Role::Follower)] {
        let (session, conn_nonce, granule_bytes) = (next, NONCE, 512);
        side.command(VolumeCommand::Enter { session, conn_nonce, role, granule_bytes });
        side.gate = Gate { serve_gen: 3, session: next, read_until: Instant::NEVER };
    }
    run(&mut a, &mut b);
    assert_eq!(a.replies.iter().map(|(id, _)| id.tag).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(a.disk, b.disk);
    assert_eq!((a.disk[0], a.disk[512]), (5, 6));
}

/// G1, D6: what the peer had sent is dead when it arrives.
#[test]
fn a_write_that_arrives_after_the_session_was_left_touches_no_disk() {
    let (mut a, mut b) = joined(Scope::Everything);
    let before = b.disk.clone();
    a.volume.handle_request(id(1), write(0, vec![5; 4096], false));
    let on_its_way = a.turn(Instant::from_nanos(2));
    assert!(!on_its_way.is_empty() && a.disk[0] == 5);
    b.gate = Gate::CLOSED;
    b.command(VolumeCommand::Leave { session: SESSION });
    b.turn(Instant::from_nanos(3));
    b.decoder.handle_bytes(&on_its_way).expect("our own frames");
    assert!(b.turn(Instant::from_nanos(4)).is_empty(), "I7: nothing is said after leaving");
    assert_eq!(b.disk, before);
}

/// D7: what was not sent is forgotten, what was sent goes on, and nobody is answered.
#[test]
fn a_client_that_is_gone_leaves_nothing_behind_that_was_not_sent() {
    let (mut a, mut b) = joined(Scope::Everything);
    let open = a.gate;
    a.volume.handle_request(id(1), write(0, vec![5; 512], false));
    let sent = a.turn(Instant::from_nanos(2));
    a.gate = Gate::CLOSED;
    a.volume.handle_request(id(2), write(512, vec![6; 512], false));
    a.turn(Instant::from_nanos(3));
    a.volume.handle_client_gone(id(2).client);
    a.gate = open;
    b.decoder.handle_bytes(&sent).expect("our own frames");
    run(&mut a, &mut b);
    assert_eq!(a.disk, b.disk);
    assert_eq!((a.disk[0], a.disk[512]), (5, 1));
    assert_eq!((a.volume.load(), b.volume.load()), ((0, 0), (0, 0)));
}

#[test]
fn the_core_costs_little() {
    let (mut a, mut b) = joined(Scope::Nothing);
    let data = Bytes::from(vec![1u8; 4096]);
    let begin = std::time::Instant::now();
    for round in 0..2000u64 {
        for n in 0..32u64 {
            let offset = (round * 31 + n * 17) % 1000 * 4096;
            let range = ByteRange::new(offset, 4096).expect("small");
            let content = Content::Data(data.clone());
            let operation = Operation::Write(Write { range, content, fua: false });
            a.volume.handle_request(id(n as u32), operation);
        }
        run(&mut a, &mut b);
    }
    let each = begin.elapsed().as_nanos() / 64_000;
    println!("{each} ns for a write at both nodes, copies and codec included");
    assert_eq!(a.replies.len(), 64_000);
}
