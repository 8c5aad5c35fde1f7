//! From what was read at a start to what the node may claim about itself.

use base::ids::{BootId, DiskId, Incarnation, MachineId, NodeName, PairId, VolumeId, VolumeName};
use base::rules::Rules;

use super::{NodeRecord, PlaceRead, Stamp, VolumeHeader};

/// Everything that was read, and who reads.
#[derive(Clone, Debug)]
pub struct StartInput {
    /// This node's name in its configuration.
    pub node: NodeName,
    /// The pair in its configuration.
    pub pair_id: PairId,
    /// The two places, in the order of `record_dirs`.
    pub places: [PlaceRead; 2],
    /// The volumes, in the order of the pair configuration.
    pub volumes: Vec<VolumeFound>,
    /// The boot.
    pub boot_id: BootId,
    /// The machine.
    pub machine_id: MachineId,
    /// VM generation id, zero where none is shown.
    pub vm_generation_id: [u8; 16],
    /// This process.
    pub incarnation: Incarnation,
    /// record_seq of the newest record written since the machine started, if known.
    pub run_record_seq: Option<u64>,
}

/// What was found of one volume.
#[derive(Clone, Debug)]
pub struct VolumeFound {
    /// Its name, for messages.
    pub name: VolumeName,
    /// Its id in the configuration.
    pub id: VolumeId,
    /// Its data file or device, for messages.
    pub path: String,
    /// Its size in the configuration.
    pub size: u64,
    /// The newest valid slot of its header, or why there is none.
    pub header: Result<VolumeHeader, String>,
    /// Its stamp, or why there is none.
    pub stamp: Result<Stamp, String>,
    /// A regular file without a single data extent.
    pub empty: bool,
    /// Sequence number of the block device now; 0 for a file.
    pub diskseq: u64,
}

/// Why a node does not trust its own record or data. Its copy is never a source then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Amnesia {
    /// One place is gone or unreadable although the other does not know of it.
    PlaceLost {
        /// 0 or 1.
        place: usize,
        /// What was found.
        why: String,
    },
    /// Both places have a bad slot, or the only good place has one.
    BadSlots,
    /// Older than a record that this machine has written since its start.
    OlderThanRun {
        /// In the record.
        found: u64,
        /// Known to have been written.
        newest: u64,
    },
    /// Written by another machine, or before a snapshot of this one was restored.
    OtherMachine,
    /// The volumes' headers are not the ones that the record speaks of.
    ForeignHeaders,
    /// The record itself says so, from an earlier start.
    Recorded,
    /// A volume's data or header is not what it should be: see the volume's findings.
    Volume,
}

/// What is wrong with one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Its data was replaced or rolled back.
    DataReplaced {
        /// How that is seen.
        why: String,
    },
    /// Its bitmap file was lost.
    HeaderLost {
        /// What was found.
        why: String,
    },
    /// Its bitmap file is old: every region counts as dirty.
    BitmapOld {
        /// How that is seen.
        why: String,
    },
    /// The block device was attached again since the record was written.
    DeviceReattached,
}

/// One volume at a start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStart {
    /// Its header; `round` is already the stamp's where that counts.
    pub header: VolumeHeader,
    /// A regular file without a single data extent.
    pub empty: bool,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// What a node may claim about itself: the input of the group core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartState {
    /// The record as it is to be written next (F0): continuity raised, this boot and process.
    pub record: NodeRecord,
    /// Why it is in amnesia; empty if it is not.
    pub amnesia: Vec<Amnesia>,
    /// Its volumes.
    pub volumes: Vec<VolumeStart>,
}

/// A node that cannot start at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssessError {
    /// There is no record: the node was never initialised.
    #[error("no record in either place: run `stretch init` once on this node")]
    NoRecord,
    /// No slot of any place can be read.
    #[error("no readable record in either place")]
    RecordLost,
    /// The record is of another pair or node.
    #[error("the record belongs to {found}, the configuration says {expected}")]
    Foreign {
        /// In the record.
        found: String,
        /// In the configuration.
        expected: String,
    },
    /// A volume of the configuration is not the one that was initialised.
    #[error("volume {volume}: {what}")]
    Volume {
        /// Which.
        volume: VolumeName,
        /// What differs.
        what: String,
    },
}

/// Judges what was read.
///
/// # Errors
/// Only where there is nothing to judge: no record, or a record of something else.
pub fn assess(input: &StartInput, rules: Rules) -> Result<StartState, AssessError> {
    let _ = (input, rules, DiskId::NONE);
    Err(AssessError::NoRecord)
}
