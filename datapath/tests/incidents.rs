//! Faults that the simulator found in the volume core, each as the few steps that matter.

use base::ids::{ClientId, ConnNonce, Session, VolumeIndex};
use base::range::ByteRange;
use base::request::{Operation, RequestId};
use base::rules::Rules;
use base::time::{Duration, Instant};
use bytes::Bytes;
use datapath::gate::Gate;
use datapath::outbox::Action;
use datapath::port::{Role, Scope, SyncRole, VolumeCommand};
use datapath::storage::{IoCompletion, IoDone, IoFault, IoId, IoOperation};
use datapath::volume::{Volume, VolumeConfig};

const NONCE: ConnNonce = ConnNonce([7; 16]);
const SESSION: Session = Session(1);
const OPEN: Gate = Gate { serve_gen: 1, session: SESSION, read_until: Instant::NEVER };

/// An orderer in a session.
fn serving() -> Volume {
    let mut volume = Volume::new(VolumeConfig {
        index: VolumeIndex(0),
        size: 1 << 20,
        granule_bytes: 512,
        io_timeout: Duration::from_secs(2),
        rules: Rules::ALL_HOLD,
    });
    volume.handle_link_up(NONCE);
    let (session, conn_nonce, role) = (SESSION, NONCE, SyncRole::Source);
    let (scope, seed) = (Scope::Nothing, 0);
    let compare = VolumeCommand::Compare { session, conn_nonce, role, scope, seed };
    for command in [
        VolumeCommand::Prepare { session, role, rewrite: false },
        compare,
        VolumeCommand::Enter { session, conn_nonce, role: Role::Orderer, granule_bytes: 512 },
    ] {
        volume.handle_command(Instant::ZERO, command);
        actions(&mut volume);
    }
    volume
}

/// One settled turn and what it wants done.
fn actions(volume: &mut Volume) -> Vec<Action> {
    volume.settle(Instant::ZERO, OPEN);
    std::iter::from_fn(|| volume.poll_action()).collect()
}

fn submitted(actions: &[Action], wanted: impl Fn(&IoOperation) -> bool) -> IoId {
    let found = actions.iter().find_map(|action| match action {
        Action::Submit { id, operation } if wanted(operation) => Some(*id),
        _ => None,
    });
    found.expect("it was submitted")
}

#[test]
fn flush_fails_and_then_a_read_of_the_same_copy_completes() {
    let mut volume = serving();
    let range = ByteRange::new(0, 512).expect("small");
    let id = |tag| RequestId { client: ClientId(1), tag };
    volume.handle_request(id(1), Operation::Read { range });
    volume.handle_request(id(2), Operation::Flush);
    let begun = actions(&mut volume);
    let read = submitted(&begun, |operation| matches!(operation, IoOperation::Read { .. }));
    let flush = submitted(&begun, |operation| matches!(operation, IoOperation::Flush));
    volume.handle_completion(
        Instant::ZERO,
        IoCompletion { id: flush, result: Err(IoFault::System(5)) },
    );
    let data = IoDone::Data(Bytes::from(vec![0; 512]));
    volume.handle_completion(Instant::ZERO, IoCompletion { id: read, result: Ok(data) });
    let replies = actions(&mut volume);
    assert!(!replies.iter().any(|action| matches!(action, Action::Reply { .. })), "{replies:?}");
}
