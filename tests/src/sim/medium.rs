//! Where a node keeps its record, headers and stamps: bytes, written by the production codecs.
//!
//! Faults assumed: a block that is being written when the power fails is torn anywhere between
//! two sectors; a whole place may be gone; all of it may be an older copy.
//! Not here: when what is written (`group_side.rs` follows the group's durable steps).

use base::ids::{BootId, Incarnation, MachineId};
use control_plane::polarization::GroupConfig;
use control_plane::record::header::choose_header;
use control_plane::record::layout::BLOCK_BYTES;
use control_plane::record::slots::{SlotPlan, SlotWrite};
use control_plane::record::stamp::STAMP_BYTES;
use control_plane::record::{
    NodeRecord, PlaceRead, SlotRead, Stamp, StartInput, VolumeFound, VolumeHeader,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A block of a record or a header.
pub(super) type Block = [u8; BLOCK_BYTES];

/// The files of a node beside its images.
#[derive(Clone)]
pub(super) struct Medium {
    /// The two places, each with two slots; `None` when the file is gone.
    pub(super) places: [Option<[Block; 2]>; 2],
    pub(super) headers: Vec<[Block; 2]>,
    pub(super) stamps: Vec<Option<[u8; STAMP_BYTES]>>,
}

/// One write that happens whole or torn.
pub(super) enum MediumWrite {
    Record { to: SlotWrite, bytes: Box<Block> },
    Header { volume: usize, slot: usize, bytes: Box<Block> },
    Stamp { volume: usize, bytes: [u8; STAMP_BYTES] },
}

impl Medium {
    /// What `stretch init` leaves.
    pub(super) fn fresh(record: &NodeRecord, volumes: &[(VolumeHeader, Stamp)]) -> Self {
        let slots = [record.encode(); 2];
        Self {
            places: [Some(slots), Some(slots)],
            headers: volumes.iter().map(|(header, _)| [header.encode(); 2]).collect(),
            stamps: volumes.iter().map(|(_, stamp)| Some(stamp.encode(0))).collect(),
        }
    }

    pub(super) fn write(&mut self, write: &MediumWrite) {
        match write {
            MediumWrite::Record { to, bytes } => {
                if let Some(slots) = &mut self.places[to.place] {
                    slots[to.slot] = **bytes;
                }
            }
            MediumWrite::Header { volume, slot, bytes } => self.headers[*volume][*slot] = **bytes,
            MediumWrite::Stamp { volume, bytes } => self.stamps[*volume] = Some(*bytes),
        }
    }

    /// The power fails during the write.
    pub(super) fn tear(&mut self, write: &MediumWrite, rng: &mut ChaCha8Rng) {
        let (old, new) = match write {
            MediumWrite::Record { to, bytes } => match &mut self.places[to.place] {
                Some(slots) => (&mut slots[to.slot], bytes),
                None => return,
            },
            MediumWrite::Header { volume, slot, bytes } => {
                (&mut self.headers[*volume][*slot], bytes)
            }
            MediumWrite::Stamp { .. } => {
                // An extended attribute changes with the file system's journal: all or nothing.
                if rng.random_bool(0.5) {
                    self.write(write);
                }
                return;
            }
        };
        for (old, new) in old.chunks_mut(512).zip(new.chunks(512)) {
            if rng.random_bool(0.5) {
                old.copy_from_slice(new);
            }
        }
    }

    pub(super) fn read_places(&self) -> [PlaceRead; 2] {
        std::array::from_fn(|place| match &self.places[place] {
            None => PlaceRead::Absent,
            Some(slots) => PlaceRead::Slots(std::array::from_fn(|slot| {
                match NodeRecord::decode(&slots[slot]) {
                    Ok(record) => SlotRead::Valid(Box::new(record)),
                    Err(_) => SlotRead::Bad,
                }
            })),
        })
    }

    /// The record that would be found, if any.
    pub(super) fn record(&self) -> Option<NodeRecord> {
        control_plane::record::slots::choose(&self.read_places()).map(|chosen| chosen.record)
    }

    pub(super) fn plan(&self) -> Option<SlotPlan> {
        control_plane::record::slots::choose(&self.read_places()).map(|chosen| chosen.plan)
    }

    /// The slot that the next header goes to.
    pub(super) fn next_header_slot(&self, volume: usize) -> usize {
        let slots = self.headers[volume].each_ref().map(VolumeHeader::decode);
        choose_header(slots).map_or(0, |(slot, _)| 1 - slot)
    }

    /// Everything that a starting process reads.
    pub(super) fn start_input(
        &self,
        config: &GroupConfig,
        machine: &Machine,
        incarnation: Incarnation,
    ) -> StartInput {
        let volumes = config.volumes.iter().enumerate().map(|(index, volume)| {
            let slots = self.headers[index].each_ref().map(VolumeHeader::decode);
            let seen = machine.unsynced_stamps[index].as_ref();
            let stamp = match seen.or(self.stamps[index].as_ref()) {
                None => Err("there is no attribute".to_owned()),
                Some(bytes) => {
                    Stamp::decode(bytes).map(|(_, stamp)| stamp).map_err(|e| e.to_string())
                }
            };
            VolumeFound {
                id: volume.id,
                path: volume.path.clone(),
                size: volume.size,
                header: choose_header(slots).map(|(_, h)| h).map_err(|e| e.to_string()),
                stamp,
                empty: machine.empty[index],
                diskseq: 0,
            }
        });
        StartInput {
            node: config.node.clone(),
            places: self.read_places(),
            volumes: volumes.collect(),
            boot_id: machine.boot_id,
            machine_id: machine.machine_id,
            vm_generation_id: [0; 16],
            incarnation,
            run_record_seq: machine.run_record_seq,
            run_tells_of_failure: machine.tells_of_failing(),
        }
    }
}

/// What belongs to the machine and not to its disks.
pub(super) struct Machine {
    pub(super) boot_id: BootId,
    pub(super) machine_id: MachineId,
    /// Newest record written since the machine started.
    pub(super) run_record_seq: Option<u64>,
    /// A disk has failed since then, and no record says so.
    pub(super) tells_of_failure: bool,
    /// A disk did not answer when the process was last heard.
    pub(super) tells_of_late_disk: bool,
    /// Stamps that are in its memory only, or never were: their process ended before the write
    /// was durable.
    pub(super) unsynced_stamps: Vec<Option<[u8; STAMP_BYTES]>>,
    /// Images without a single data extent.
    pub(super) empty: Vec<bool>,
}

impl Machine {
    /// A start counts the copy as one whose disk failed.
    pub(super) fn tells_of_failing(&self) -> bool {
        self.tells_of_failure || self.tells_of_late_disk
    }

    /// It starts again: what it kept in memory is gone.
    pub(super) fn reboot(&mut self, boot_id: BootId) {
        self.boot_id = boot_id;
        self.run_record_seq = None;
        self.tells_of_failure = false;
        self.tells_of_late_disk = false;
        self.unsynced_stamps.fill(None);
    }
}
