//! What the group knows, for status, wait, metrics and the demo.

use base::ids::{NodeName, Session};

use crate::wire::PeerState;

/// The group at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupView {
    /// The state word of CONTRACT.
    pub state: &'static str,
    /// Whether hosts are served by this node.
    pub serving: bool,
    /// The session, or the last one.
    pub session: Session,
    /// Who orders writes in the running session.
    pub orderer: Option<NodeName>,
    /// What happened and what still works; empty when all is well.
    pub cause: String,
    /// What to do; empty when nothing is to be done.
    pub advice: String,
    /// The peer.
    pub peer: PeerView,
    /// The volumes, in order.
    pub volumes: Vec<VolumeView>,
}

/// The peer as seen from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Its name.
    pub name: NodeName,
    /// A control connection is up and not silent.
    pub reachable: bool,
    /// Its last report.
    pub state: Option<PeerState>,
    /// Age of its last message.
    pub last_seen_ms: Option<u64>,
}

/// A volume as the group sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeView {
    /// A comparison under way.
    pub resync: Option<ResyncView>,
}

/// A comparison under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResyncView {
    /// "source" or "target".
    pub role: &'static str,
    /// Compared.
    pub done_bytes: u64,
    /// Still to compare.
    pub todo_bytes: u64,
    /// Differed and was copied.
    pub copied_bytes: u64,
    /// Average since the join began.
    pub bytes_per_s: u64,
    /// Estimate from that average; none while it is unknown.
    pub eta_ms: Option<u64>,
}
