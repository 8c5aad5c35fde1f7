//! From what was read at a start to what the node may claim about itself (PROTOCOL 2.2, 2.4).
//!
//! Invariants: I5, I10. Everything that cannot be explained by one crash of this node makes it forget
//! its rights: it is healed by the other copy, never the other way round.
//! Not here: what the two nodes conclude from it together (`polarization::choose`).

use std::fmt;

use base::ids::{BootId, DiskId, Incarnation, MachineId, NodeName, VolumeId};
use base::rules::{Rule, Rules};

use super::{Continuity, NodeRecord, PlaceRead, RecordState, Stamp, VolumeHeader, slots};

/// Everything that was read, and who reads.
#[derive(Clone, Debug)]
pub struct StartInput {
    /// This node's name in its configuration.
    pub node: NodeName,
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
    /// Since the machine started a disk has failed, and no record says so (D11).
    pub run_tells_of_failure: bool,
}

/// What was found of one volume.
#[derive(Clone, Debug)]
pub struct VolumeFound {
    /// Its id in the configuration; counts only if the header is lost.
    pub id: VolumeId,
    /// Its data file or device, for messages.
    pub path: String,
    /// Its size in the configuration; counts only if the header is lost.
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
    /// Its data file or device, for messages.
    pub path: String,
    /// Its header as it is to be written next, with the round of the stamp.
    pub header: VolumeHeader,
    /// Its stamp, if it is ahead of the header that was found: it may be in memory only, and has to
    /// be durable before the header says its round.
    pub stamp: Option<Stamp>,
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
    /// There is no record: the node was never initialised, or its folders are not there.
    #[error(
        "there is no record in either place. If this node ran before, do not run `stretch init`: \
         its record folders are not mounted, or lost: mount them, or put back a backup of them, \
         and start it again. Only a node that never ran needs `stretch init`, once"
    )]
    NoRecord,
    /// No slot of any place can be read.
    #[error(
        "no record can be read in either place: this node does not know any more what its copy is \
         and cannot join; the other node's copy is not affected. Put back a backup of this node's \
         whole folder (data, .meta, records), or begin anew with the other node's copy: \
         docs/OPERATIONS.md, \"When something is wrong\""
    )]
    RecordLost,
    /// The record is another node's.
    #[error(
        "the record belongs to node {found}, the configuration says {expected}: check record_dirs"
    )]
    Foreign {
        /// In the record.
        found: NodeName,
        /// In the configuration.
        expected: NodeName,
    },
}

impl fmt::Display for Amnesia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlaceLost { place, why } => {
                write!(
                    f,
                    "record directory {} holds no usable record ({why}): this node goes on with \
                     the other one and makes this one again; find out why it was lost",
                    place + 1
                )
            }
            Self::BadSlots => f.write_str("the record is damaged in both places"),
            Self::OlderThanRun { found, newest } => write!(
                f,
                "the record is an older copy (number {found}; this machine has written {newest})"
            ),
            Self::OtherMachine => f.write_str("the record was written on another machine"),
            Self::ForeignHeaders => {
                f.write_str("the volumes' .meta files are not the ones that the record speaks of")
            }
            Self::Recorded => f.write_str("an earlier start found its record or data not usable"),
            Self::Volume => f.write_str("a volume's data or .meta file is not usable"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataReplaced { why } => write!(f, "data replaced or rolled back: {why}"),
            Self::HeaderLost { why } => write!(
                f,
                "its .meta file is lost ({why}): it is made again, and the whole copy compared \
                 with the other node's"
            ),
            Self::BitmapOld { why } => {
                write!(f, "its .meta file is old ({why}): it is made again, the copy still counts")
            }
            Self::DeviceReattached => f.write_str("the device was attached again"),
        }
    }
}

impl Finding {
    /// Whether the copy is no longer known to be what the record says.
    pub const fn forfeits(&self) -> bool {
        match self {
            Self::DataReplaced { .. } | Self::HeaderLost { .. } => true,
            Self::BitmapOld { .. } | Self::DeviceReattached => false,
        }
    }
}

impl StartState {
    /// What is wrong, for status and log; one sentence each, naming the file.
    pub fn texts(&self) -> Vec<String> {
        let group = self.amnesia.iter().filter(|a| **a != Amnesia::Volume).map(Amnesia::to_string);
        let volumes = self.volumes.iter().flat_map(|volume| {
            volume.findings.iter().map(|finding| format!("{}: {finding}", volume.path))
        });
        group.chain(volumes).collect()
    }
}

/// Judges what was read.
///
/// # Errors
/// Only where there is nothing to judge: no record, or another node's.
pub fn assess(input: &StartInput, rules: Rules) -> Result<StartState, AssessError> {
    let Some(chosen) = slots::choose(&input.places) else {
        let absent = input.places.iter().all(|place| *place == PlaceRead::Absent);
        return Err(if absent { AssessError::NoRecord } else { AssessError::RecordLost });
    };
    let (mut record, mut amnesia) = (chosen.record, chosen.amnesia);
    if record.node != input.node {
        return Err(AssessError::Foreign { found: record.node, expected: input.node.clone() });
    }
    if let Some(newest) = input.run_record_seq.filter(|newest| record.record_seq < *newest) {
        amnesia.push(Amnesia::OlderThanRun { found: record.record_seq, newest });
    }
    if is_other_machine(&record, input) {
        amnesia.push(Amnesia::OtherMachine);
    }
    let failed = input.run_tells_of_failure && rules.hold(Rule::FailureRemembered);
    record.io_failed |= failed;
    record.clean &= !failed;
    let volumes: Vec<VolumeStart> =
        input.volumes.iter().map(|found| assess_volume(&record, found, rules)).collect();
    let headers = volumes.iter().map(|v| (v.header.volume_id, v.header.disk_id));
    if volumes_digest(headers) != record.volumes_digest {
        amnesia.push(Amnesia::ForeignHeaders);
    }
    if volumes.iter().any(|v| v.findings.iter().any(Finding::forfeits)) {
        amnesia.push(Amnesia::Volume);
    }
    let recorded = record.continuity == Continuity::Amnesia && rules.hold(Rule::ContinuityKept);
    if recorded && amnesia.is_empty() {
        amnesia.push(Amnesia::Recorded);
    }
    let reattached = volumes.iter().any(|v| v.findings.contains(&Finding::DeviceReattached));
    raise_continuity(&mut record, input, !amnesia.is_empty(), reattached, rules);
    assert!(
        !failed || (record.io_failed && record.continuity >= Continuity::Unclean),
        "D11: a start after a failed disk claims no whole copy"
    );
    Ok(StartState { record: prepare_start(record, input), amnesia, volumes })
}

/// Digest of all (volume id, disk id); the order of the volumes does not matter.
pub fn volumes_digest(ids: impl Iterator<Item = (VolumeId, DiskId)>) -> [u8; 16] {
    let mut ids: Vec<(VolumeId, DiskId)> = ids.collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|(v, d)| v.0.into_iter().chain(d.0)).collect();
    xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes()
}

fn is_other_machine(record: &NodeRecord, input: &StartInput) -> bool {
    let machine = !record.machine_id.is_none()
        && !input.machine_id.is_none()
        && record.machine_id != input.machine_id;
    let known = record.vm_generation_id != [0; 16] && input.vm_generation_id != [0; 16];
    machine || (known && record.vm_generation_id != input.vm_generation_id)
}

/// F0: what this start adds to what earlier ones found; never taken back but by a join.
fn raise_continuity(
    record: &mut NodeRecord,
    input: &StartInput,
    amnesia: bool,
    reattached: bool,
    rules: Rules,
) {
    let stopped_cleanly = record.state == RecordState::Stopped && record.clean;
    let same_boot = !input.boot_id.is_none() && record.session_boot_id == input.boot_id;
    let mut by_reset = false;
    let mut computed = if record.state == RecordState::Virgin {
        Continuity::Continuous
    } else if stopped_cleanly || (same_boot && !reattached) {
        Continuity::ProcessRestart
    } else {
        by_reset = true;
        Continuity::Unclean
    };
    if record.io_failed {
        computed = computed.max(Continuity::Unclean);
    }
    if amnesia {
        computed = Continuity::Amnesia;
    }
    if rules.hold(Rule::ContinuityKept) {
        computed = computed.max(record.continuity);
        by_reset |= record.by_reset;
    }
    record.continuity = computed;
    record.by_reset = by_reset;
    record.clean &= !amnesia;
}

/// The rest of what F0 writes. `record_seq` is raised when the record is written.
fn prepare_start(mut record: NodeRecord, input: &StartInput) -> NodeRecord {
    record.start_seq = record.record_seq.max(input.run_record_seq.unwrap_or(0)) + 1;
    record.record_seq = record.start_seq - 1;
    record.boot_id = input.boot_id;
    record.machine_id = input.machine_id;
    record.vm_generation_id = input.vm_generation_id;
    record.incarnation = input.incarnation;
    record.single = false;
    record
}

fn assess_volume(record: &NodeRecord, found: &VolumeFound, rules: Rules) -> VolumeStart {
    let path = found.path.clone();
    let header = match &found.header {
        Ok(header) => *header,
        Err(why) => {
            let findings = vec![Finding::HeaderLost { why: why.clone() }];
            return VolumeStart {
                path,
                header: rebuilt_header(record, found),
                stamp: found.stamp.clone().ok(),
                empty: found.empty,
                findings,
            };
        }
    };
    let mut findings = Vec::new();
    if rules.hold(Rule::StampChecked) {
        findings.extend(stamp_finding(record, &header, &found.stamp));
    }
    let mut next = header;
    // The round is that of the data: an old bitmap file says nothing against the copy.
    let ahead = found.stamp.as_ref().ok().filter(|stamp| stamp.round > header.round).copied();
    let stamp = ahead.filter(|_| findings.is_empty());
    next.round = stamp.map_or(next.round, |stamp| stamp.round);
    findings.extend(bitmap_finding(record, &header, &found.stamp));
    if header.diskseq != 0 && header.diskseq != found.diskseq {
        findings.push(Finding::DeviceReattached);
    }
    next.diskseq = found.diskseq;
    VolumeStart { path, header: next, stamp, empty: found.empty, findings }
}

/// The data was replaced or rolled back.
fn stamp_finding(
    record: &NodeRecord,
    header: &VolumeHeader,
    stamp: &Result<Stamp, String>,
) -> Option<Finding> {
    let stamp = match stamp {
        Ok(stamp) => stamp,
        Err(why) => return Some(Finding::DataReplaced { why: format!("no stamp ({why})") }),
    };
    // A target's stamp may already be the source's: F7 writes it before the record.
    let of_source = match record.state {
        RecordState::Target { source_generation, .. } => stamp.generation == source_generation,
        RecordState::Virgin
        | RecordState::Active
        | RecordState::Solo
        | RecordState::Ready
        | RecordState::Stopped
        | RecordState::Broken => false,
    };
    let known = stamp.generation == record.generation
        || stamp.generation == header.next_generation
        || of_source;
    let why = if (stamp.volume_id, stamp.disk_id) != (header.volume_id, header.disk_id) {
        format!("its stamp is that of volume {} disk {}", stamp.volume_id, stamp.disk_id)
    } else if stamp.round < header.round {
        format!("its stamp is of round {}, the node has seen round {}", stamp.round, header.round)
    } else if !known {
        format!("its stamp is of generation {}, unknown here", stamp.generation)
    } else {
        return None;
    };
    Some(Finding::DataReplaced { why })
}

/// The bitmap file is an older copy: every region counts as dirty, the node stays eligible.
fn bitmap_finding(
    record: &NodeRecord,
    header: &VolumeHeader,
    stamp: &Result<Stamp, String>,
) -> Option<Finding> {
    let is_target = !record.is_whole();
    let round = stamp.as_ref().map_or(0, |stamp| stamp.round);
    let predecessor = record.ancestors.first().copied();
    let base_known =
        header.bitmap_base == record.generation || Some(header.bitmap_base) == predecessor;
    let why = if round > header.round.saturating_add(1) && !is_target {
        format!("round {}, the data has seen round {round}", header.round)
    } else if header.start_seq != record.start_seq {
        format!("it is of start {}, the record of start {}", header.start_seq, record.start_seq)
    } else if !base_known && !is_target {
        format!("it is relative to generation {}", header.bitmap_base)
    } else {
        return None;
    };
    Some(Finding::BitmapOld { why })
}

/// The header of a volume that lost its own: nothing is known but what stamp and configuration
/// say, so the copy is healed by a full resync.
fn rebuilt_header(record: &NodeRecord, found: &VolumeFound) -> VolumeHeader {
    let stamp = found.stamp.as_ref().ok();
    VolumeHeader {
        header_seq: 0,
        volume_id: stamp.map_or(found.id, |s| s.volume_id),
        disk_id: stamp.map_or(DiskId::NONE, |s| s.disk_id),
        peer_disk_id: DiskId::NONE,
        bitmap_base: record.generation,
        next_generation: record.generation,
        round: stamp.map_or(0, |s| s.round),
        peer_round: 0,
        start_seq: 0,
        size: found.size,
        diskseq: found.diskseq,
    }
}

#[cfg(test)]
#[path = "assess/tests.rs"]
mod tests;
