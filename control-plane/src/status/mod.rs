//! What a node says about itself: ONE model for admin API, command line, demo and tests.
//!
//! The order of the fields is the order of the keys of `stretch status --json`.
//! Not here: who fills it (the group thread), how it travels (`io/admin_server.rs`).

mod text;

use std::fmt;
use std::str::FromStr;

use base::ids::{NodeName, Session, VolumeName};
use base::time::{Duration, Instant};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use text::{change_line, render};

use crate::state_word::StateWord;

/// Version of the object.
pub const SCHEMA: u32 = 1;

/// A status older than this is not passed on: the thread that decides no longer reports.
pub const REPORT_AGE_MAX: Duration = Duration::from_secs(2);

/// What decides who is left when the nodes lose each other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// The witness.
    Witnessed,
    /// This node goes on, the other one stops.
    Preferred(NodeName),
    /// Nothing: nobody serves while the pair is not whole.
    None,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Witnessed => f.write_str("witnessed"),
            Self::Preferred(name) => write!(f, "preferred:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// A text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allowed: witnessed, preferred:NAME, none")]
pub struct ModeError;

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text.split_once(':') {
            None if text == "witnessed" => Ok(Self::Witnessed),
            None if text == "none" => Ok(Self::None),
            Some(("preferred", name)) => name.parse().map(Self::Preferred).map_err(|_| ModeError),
            _ => Err(ModeError),
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The object of `stretch status --json`. Integers are bytes or milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Who speaks.
    pub node: NodeName,
    /// What it does.
    pub state: StateWord,
    /// What decides who is left.
    pub mode: Mode,
    /// The node the pair leans to.
    pub preferred: NodeName,
    /// Whether hosts are answered right now.
    pub serving: bool,
    /// The newest session this node was part of; 0 before the first.
    pub session: Session,
    /// Who gives every write its place; none while there is no session.
    pub orderer: Option<NodeName>,
    /// Sum over the volumes; none until it is tracked.
    pub dirty_bytes: Option<u64>,
    /// Why it is not active-active; empty when all is well.
    pub cause: String,
    /// What to do about it; empty when all is well.
    pub advice: String,
    /// The single faults that leave a node serving right now.
    pub survives: Vec<Fault>,
    /// Since the process began.
    pub uptime_ms: u64,
    /// The processes.
    pub pids: Pids,
    /// The other node.
    pub peer: PeerStatus,
    /// The arbiter; none if none is configured.
    pub witness: Option<WitnessStatus>,
    /// In the order of the pair configuration.
    pub volumes: Vec<VolumeStatus>,
}

/// A single fault.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The loss of this node.
    Node(NodeName),
    /// The loss of all connections between the nodes.
    Link,
    /// The loss of the witness.
    Witness,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => fmt::Display::fmt(name, f),
            Self::Link => f.write_str("link"),
            Self::Witness => f.write_str("witness"),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.as_str() {
            "link" => Ok(Self::Link),
            "witness" => Ok(Self::Witness),
            name => name.parse().map(Self::Node).map_err(serde::de::Error::custom),
        }
    }
}

/// Process ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pids {
    /// The node.
    pub node: u32,
    /// What restarts it; none if it runs by itself.
    pub supervisor: Option<u32>,
}

/// The other node, as this one sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Whether the control connection is up and not silent.
    pub reachable: bool,
    /// What it last said it does; none if it was not heard since the process began.
    pub state: Option<StateWord>,
    /// Since its last message; none if there was none.
    pub last_seen_ms: Option<u64>,
    /// What is left of the grant that this node holds; none without one.
    pub grant_ms: Option<u64>,
}

/// The arbiter, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// Its name.
    pub name: NodeName,
    /// Whether it answers.
    pub reachable: bool,
    /// Since its last message; none if there was none.
    pub last_seen_ms: Option<u64>,
}

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: VolumeName,
    /// In bytes.
    pub size: u64,
    /// Differs or may differ now; none until it is tracked.
    pub dirty_bytes: Option<u64>,
    /// Would be compared after a crash; none until it is tracked.
    pub marked_bytes: Option<u64>,
    /// Attached NBD connections at this node.
    pub clients: u32,
    /// The copy under way.
    pub resync: Option<ResyncStatus>,
}

/// A copy under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResyncStatus {
    /// Which end this node is.
    pub role: ResyncRole,
    /// Compared, and copied where needed.
    pub done_bytes: u64,
    /// Still to compare.
    pub todo_bytes: u64,
    /// Speed; none until it can be told.
    pub bytes_per_s: Option<u64>,
    /// When it will be done; none until it can be told.
    pub eta_ms: Option<u64>,
}

/// An end of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResyncRole {
    /// Its copy is the one that counts.
    Source,
    /// Is overwritten where it differs.
    Target,
}

impl NodeStatus {
    /// A node that has just begun: the base that the group thread changes.
    pub fn starting(node: NodeName, peer: NodeName, preferred: NodeName, pid: u32) -> Self {
        Self {
            schema: SCHEMA,
            node,
            state: StateWord::Starting,
            mode: Mode::None,
            preferred,
            serving: false,
            session: Session(0),
            orderer: None,
            dirty_bytes: None,
            cause: String::new(),
            advice: String::new(),
            survives: Vec::new(),
            uptime_ms: 0,
            pids: Pids { node: pid, supervisor: None },
            peer: PeerStatus {
                name: peer,
                reachable: false,
                state: None,
                last_seen_ms: None,
                grant_ms: None,
            },
            witness: None,
            volumes: Vec::new(),
        }
    }

    /// Whether it is what `stretch wait` was asked for.
    pub fn is(&self, wanted: &Wanted) -> bool {
        self.state == wanted.state && wanted.mode.as_ref().is_none_or(|mode| *mode == self.mode)
    }
}

/// What `stretch wait` waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The node's state.
    pub state: StateWord,
    /// And its mode, if that matters.
    pub mode: Option<Mode>,
}

/// A status and when it was true. The group thread publishes one at least every
/// [`REPORT_AGE_MAX`]/4, so that an old one means that the thread hangs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusReport {
    /// When.
    pub at: Instant,
    /// What.
    pub status: NodeStatus,
}

impl StatusReport {
    /// Whether it may be passed on at `now`.
    pub fn fresh(&self, now: Instant) -> bool {
        now.since(self.at) <= REPORT_AGE_MAX
    }
}

#[cfg(test)]
mod tests;
