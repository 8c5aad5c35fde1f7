//! The stamp: a few bytes that live with a volume's data and show that the data is the one which
//! record and header speak of (PROTOCOL 2.2).
//!
//! An image carries it as extended attribute `user.stretch`, which moves and is copied with the
//! data by tools that keep attributes and is missing after all others: both is what we want. A
//! device carries it in its last [`DEVICE_TAIL_BYTES`], in two slots [`DEVICE_SLOT_DISTANCE`]
//! apart that are written alternately.

use base::ids::{DiskId, Generation, VolumeId};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::LayoutError;

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 80;
/// What a volume on a device leaves free at the device's end.
pub const DEVICE_TAIL_BYTES: u64 = 1 << 20;
/// Distance of the two slots in that tail.
pub const DEVICE_SLOT_DISTANCE: u64 = 64 << 10;

const MAGIC: [u8; 4] = *b"STRS";

/// What this program writes, as a number.
pub const VERSION: u32 = StampVersion::First as u32;

/// Version of the stamp. 1: the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum StampVersion {
    First = 1,
}

/// Stored as an extended attribute of the image, or behind the volume on a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// The volume.
    pub volume_id: VolumeId,
    /// This node's copy.
    pub disk_id: DiskId,
    /// Generation of the data.
    pub generation: Generation,
    /// The last flush round that the data has seen.
    pub round: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawStamp {
    version: U32,
    magic: [u8; 4],
    sequence: U64,
    volume_id: [u8; 16],
    disk_id: [u8; 16],
    generation: [u8; 16],
    round: U64,
    reserved: U32,
    crc: U32,
}

const CRC_OFFSET: usize = STAMP_BYTES - 4;
const _: () = assert!(size_of::<RawStamp>() == STAMP_BYTES);
const _: () = assert!(std::mem::offset_of!(RawStamp, crc) == CRC_OFFSET);

impl Stamp {
    /// The stamp's bytes. `sequence` orders the two slots of a device and is 0 elsewhere.
    pub fn encode(&self, sequence: u64) -> [u8; STAMP_BYTES] {
        let mut raw = RawStamp {
            version: (StampVersion::First as u32).into(),
            magic: MAGIC,
            sequence: sequence.into(),
            volume_id: self.volume_id.0,
            disk_id: self.disk_id.0,
            generation: self.generation.0,
            round: self.round.into(),
            reserved: 0.into(),
            crc: 0.into(),
        };
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..CRC_OFFSET]).into();
        let mut bytes = [0; STAMP_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks a stamp; returns its sequence, too.
    ///
    /// # Errors
    /// Anything that this version cannot have written.
    pub fn decode(bytes: &[u8; STAMP_BYTES]) -> Result<(u64, Self), LayoutError> {
        if bytes.iter().all(|b| *b == 0) {
            return Err(LayoutError::Blank);
        }
        let raw = RawStamp::ref_from_bytes(bytes).expect("the length is the stamp's");
        if raw.magic != MAGIC {
            return Err(LayoutError::Magic);
        }
        if raw.crc.get() != crc32c::crc32c(&bytes[..CRC_OFFSET]) {
            return Err(LayoutError::Crc);
        }
        let known = StampVersion::First as u32;
        if raw.version.get() != known {
            return Err(LayoutError::Version { found: raw.version.get(), known });
        }
        if raw.reserved.get() != 0 {
            return Err(LayoutError::Field { field: "reserved" });
        }
        let stamp = Self {
            volume_id: VolumeId(raw.volume_id),
            disk_id: DiskId(raw.disk_id),
            generation: Generation(raw.generation),
            round: raw.round.get(),
        };
        Ok((raw.sequence.get(), stamp))
    }
}

/// Which of a device's two slots counts: the valid one with the higher sequence.
pub fn choose_stamp(
    slots: [Result<(u64, Stamp), LayoutError>; 2],
) -> Result<(usize, u64, Stamp), LayoutError> {
    match slots {
        [Ok((first, _)), Ok((second, stamp))] if second > first => Ok((1, second, stamp)),
        [Ok((sequence, stamp)), _] => Ok((0, sequence, stamp)),
        [Err(_), Ok((sequence, stamp))] => Ok((1, sequence, stamp)),
        [Err(why), Err(_)] => Err(why),
    }
}
