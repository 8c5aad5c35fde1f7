//! All that the group's core and its shell say to each other.

use base::ids::{ConnNonce, NodeName, PairId, Session, Ticket, VolumeId, VolumeIndex, VolumeName};
use base::limits::Timers;
use base::rules::Rules;
use datapath::gate::Gate;
use datapath::port::VolumeCommand;
use datapath::storage::IoFault;

use crate::record::{NodeRecord, Stamp, VolumeHeader};
use crate::state_word::StateWord;
use crate::wire::ControlMessage;

/// A volume of the group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupVolume {
    /// Its name.
    pub name: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// Its size, in bytes.
    pub size: u64,
    /// Its data file or device, for messages.
    pub path: String,
    /// Unit of its direct I/O, in bytes (512 where I/O is buffered).
    pub granule_bytes: u32,
    /// TRIM makes a range read as zeros here.
    pub trim_zeroes: bool,
}

/// What a group is built with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupConfig {
    /// This node.
    pub node: NodeName,
    /// The other one.
    pub peer: NodeName,
    /// The pair.
    pub pair_id: PairId,
    /// The volumes, in the order of the pair configuration.
    pub volumes: Vec<GroupVolume>,
    /// The timers.
    pub timers: Timers,
    /// Which rules hold.
    pub rules: Rules,
}

impl GroupConfig {
    /// Whether this node dials every peer connection (CONTRACT: the smaller name does).
    pub fn dials(&self) -> bool {
        self.node < self.peer
    }
}

/// One thing to make durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DurableStep {
    /// fdatasync of the volume's data.
    SyncData(VolumeIndex),
    /// The stamp with the volume's data.
    WriteStamp(VolumeIndex, Stamp),
    /// The header of the volume's bitmap file.
    WriteHeader(VolumeIndex, VolumeHeader),
    /// The node's record, both places.
    WriteRecord(Box<NodeRecord>),
}

impl DurableStep {
    /// Whether it makes the data itself durable, or what is stored with it.
    pub fn flushes_data(&self) -> bool {
        matches!(self, Self::SyncData(_) | Self::WriteStamp(..))
    }
}

/// A job was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DurableDone {
    /// A place of the record that could not be written and is left out from now on, with what the
    /// system said; the other one holds the record twice.
    pub lost_place: Option<String>,
}

/// A job failed at one of its steps; those after it were not tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableFault {
    /// Which volume, none for the record.
    pub volume: Option<VolumeIndex>,
    /// Which operation, in words: "flush the data", "write the stamp" ...
    pub operation: &'static str,
    /// Which file.
    pub path: String,
    /// What the system said.
    pub fault: IoFault,
}

/// An entry of the decision log (events.jsonl).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// State before.
    pub from: StateWord,
    /// State after.
    pub to: StateWord,
    /// The session that it is about.
    pub session: Session,
    /// Why.
    pub why: String,
}

/// What the shell is to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send on this control connection.
    SendControl {
        /// Which connection.
        conn_nonce: ConnNonce,
        /// What.
        message: ControlMessage,
    },
    /// Flush and close this control connection and every data connection bound to it that no
    /// volume has taken yet.
    CloseControl {
        /// Which connection.
        conn_nonce: ConnNonce,
        /// For the log.
        why: String,
    },
    /// Only at the node that dials: open one data connection for each volume.
    ConnectData {
        /// The control connection that they belong to.
        conn_nonce: ConnNonce,
    },
    /// Tell a volume.
    Volume(VolumeIndex, VolumeCommand),
    /// Execute the steps in order, each durable before the next one begins, and answer with the
    /// ticket. Never more than one job is under way.
    Durable {
        /// Comes back in `Group::handle_durable`.
        ticket: Ticket,
        /// What to do.
        steps: Vec<DurableStep>,
    },
    /// Publish the right to serve to all volume threads.
    PublishGate(Gate),
    /// Append to the decision log.
    Decision(Decision),
    /// Remember across the end of the process that the disk does not answer, or no more (D11).
    DiskLate(bool),
    /// Nothing more comes; the process may end when its volumes have handled `Shutdown`.
    Stopped,
}
