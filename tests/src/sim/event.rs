//! Everything that can happen in a simulated world.

use base::ids::{ClientId, ConnNonce, VolumeIndex};
use base::request::{Operation, RequestId};
use datapath::port::{VolumeCommand, VolumeReport};
use datapath::storage::IoId;

use super::net::ConnId;

/// Which of the two nodes: 0 is the one with the smaller name.
pub(super) type Side = usize;

/// One event. `life` is the number of the process that it belongs to: events of a process that has
/// ended are nobody's.
pub(super) enum Event {
    /// A segment reaches one end of a connection.
    Deliver { conn: ConnId, to: Side },
    /// The dialling node tries to connect.
    Dial { side: Side, life: u64 },
    /// Its attempt succeeds, if the peer is still there.
    Dialled { side: Side, life: u64, peer_life: u64, nonce: ConnNonce },
    /// A data connection is established.
    DataDialled { side: Side, life: u64, peer_life: u64, nonce: ConnNonce, volume: VolumeIndex },
    /// The group's timer.
    GroupTimer { side: Side, life: u64 },
    /// A volume's letter reaches the group.
    Report { side: Side, life: u64, volume: usize, report: VolumeReport },
    /// The group's letter reaches a volume.
    Letter { side: Side, life: u64, volume: usize, letter: Letter },
    /// A volume thread wakes.
    Turn { side: Side, life: u64, volume: usize },
    /// One part of a durable job is done.
    Durable { side: Side, life: u64 },
    /// The group's process ends by itself.
    Exit { side: Side, life: u64 },
    /// An I/O of a data disk is done.
    DiskDone { side: Side, life: u64, volume: usize, io: IoId },
    /// A host's request reaches its node.
    Request { side: Side, life: u64, volume: usize, id: RequestId, operation: Box<Operation> },
    /// A host closes its connection.
    ClientLeft { side: Side, life: u64, volume: usize, client: ClientId },
    /// A host does the next thing.
    Think { host: usize },
    /// A burst of requests begins.
    Burst { length: u32 },
    /// The n-th fault of the plan.
    Fault { index: usize },
    /// The n-th follow-up action becomes due.
    Action { action: Box<super::faults::Step> },
    /// A stopped process goes on.
    Thaw { side: Side, life: u64 },
    /// The faults are over: everything heals.
    HealAll,
    /// Held requests are looked at.
    Look,
    /// The end of the run is looked at again.
    Closing,
}

/// From the group's thread, or the acceptor's, to a volume thread.
pub(super) enum Letter {
    Command(VolumeCommand),
    Link(ConnId),
}

impl Event {
    /// Whose it is: the node, and the process if it dies with it.
    pub(super) fn belongs(&self) -> (Option<Side>, Option<u64>) {
        match self {
            Self::Dial { side, life }
            | Self::Dialled { side, life, .. }
            | Self::DataDialled { side, life, .. }
            | Self::GroupTimer { side, life }
            | Self::Report { side, life, .. }
            | Self::Letter { side, life, .. }
            | Self::Turn { side, life, .. }
            | Self::Durable { side, life }
            | Self::Exit { side, life }
            | Self::DiskDone { side, life, .. }
            | Self::Request { side, life, .. }
            | Self::ClientLeft { side, life, .. }
            | Self::Thaw { side, life } => (Some(*side), Some(*life)),
            Self::Deliver { to, .. } => (Some(*to), None),
            Self::Think { .. }
            | Self::Burst { .. }
            | Self::Fault { .. }
            | Self::Action { .. }
            | Self::HealAll
            | Self::Look
            | Self::Closing => (None, None),
        }
    }

    /// Whether a stopped process sees it only when it goes on.
    pub(super) fn waits_while_frozen(&self) -> bool {
        !matches!(self, Self::Thaw { .. } | Self::DiskDone { .. })
    }

    /// For the hash of the trace.
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Deliver { conn, .. } => 1 | (*conn as u64) << 8,
            Self::Dial { .. } => 2,
            Self::Dialled { .. } => 3,
            Self::DataDialled { .. } => 4,
            Self::GroupTimer { .. } => 5,
            Self::Report { volume, .. } => 6 | (*volume as u64) << 8,
            Self::Letter { volume, .. } => 7 | (*volume as u64) << 8,
            Self::Turn { volume, .. } => 8 | (*volume as u64) << 8,
            Self::Durable { .. } => 9,
            Self::Exit { .. } => 10,
            Self::DiskDone { io, .. } => 11 | io.0 << 8,
            Self::Request { id, .. } => 12 | u64::from(id.tag) << 8,
            Self::ClientLeft { client, .. } => 13 | client.0 << 8,
            Self::Think { host } => 14 | (*host as u64) << 8,
            Self::Burst { length } => 15 | u64::from(*length) << 8,
            Self::Fault { index } => 16 | (*index as u64) << 8,
            Self::Action { .. } => 17,
            Self::Thaw { .. } => 18,
            Self::HealAll => 19,
            Self::Closing => 20,
            Self::Look => 21,
        }
    }
}
