//! The header of a volume's bitmap file: what belongs to one volume, so that a flush round never
//! touches the group's record (PROTOCOL 2.2).
//!
//! The file holds two slots as a record does, at 0 and [`SLOT_DISTANCE`]; the bitmap begins at
//! [`BITMAP_OFFSET`].

use base::ids::{DiskId, Generation, VolumeId};
use base::limits::VOLUME_SIZE_MAX;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::{BLOCK_BYTES, LayoutError, SLOT_DISTANCE, check_block};

/// Where the dirty-region bitmap begins in the file.
pub const BITMAP_OFFSET: u64 = 2 * SLOT_DISTANCE;

const MAGIC: [u8; 4] = *b"STRH";

/// What this program writes, as a number.
pub const VERSION: u32 = HeaderVersion::First as u32;

/// Version of the header. 1: the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum HeaderVersion {
    First = 1,
}

/// Header of `volN.meta`; two slots, the newer valid one counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeHeader {
    /// Raised by every write of the header.
    pub header_seq: u64,
    /// The volume.
    pub volume_id: VolumeId,
    /// This node's copy.
    pub disk_id: DiskId,
    /// The peer's copy; none until the first session.
    pub peer_disk_id: DiskId,
    /// Generation that the bitmap is relative to.
    pub bitmap_base: Generation,
    /// Generation about to be written to stamps and record.
    pub next_generation: Generation,
    /// Flush rounds that this copy has seen.
    pub round: u64,
    /// The newest round that the peer is known to have durable.
    pub peer_round: u64,
    /// `NodeRecord::start_seq` of the last start.
    pub start_seq: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Sequence number of the block device (a re-attached device has another one); 0 for a file.
    pub diskseq: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    version: U32,
    magic: [u8; 4],
    header_seq: U64,
    volume_id: [u8; 16],
    disk_id: [u8; 16],
    peer_disk_id: [u8; 16],
    bitmap_base: [u8; 16],
    next_generation: [u8; 16],
    round: U64,
    peer_round: U64,
    start_seq: U64,
    size: U64,
    diskseq: U64,
    reserved: [u8; RESERVED_BYTES],
    crc: U32,
}

const RESERVED_BYTES: usize = 3956;
const _: () = assert!(size_of::<RawHeader>() == BLOCK_BYTES);
const _: () = assert!(std::mem::offset_of!(RawHeader, crc) == BLOCK_BYTES - 4);
const _: () = assert!(BITMAP_OFFSET >= SLOT_DISTANCE + BLOCK_BYTES as u64);

impl VolumeHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        assert!(self.size <= VOLUME_SIZE_MAX, "a volume's size is bounded");
        let mut raw = RawHeader {
            version: (HeaderVersion::First as u32).into(),
            magic: MAGIC,
            header_seq: self.header_seq.into(),
            volume_id: self.volume_id.0,
            disk_id: self.disk_id.0,
            peer_disk_id: self.peer_disk_id.0,
            bitmap_base: self.bitmap_base.0,
            next_generation: self.next_generation.0,
            round: self.round.into(),
            peer_round: self.peer_round.into(),
            start_seq: self.start_seq.into(),
            size: self.size.into(),
            diskseq: self.diskseq.into(),
            reserved: [0; RESERVED_BYTES],
            crc: 0.into(),
        };
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..BLOCK_BYTES - 4]).into();
        let mut bytes = [0; BLOCK_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// Anything that this version cannot have written.
    pub fn decode(bytes: &[u8; BLOCK_BYTES]) -> Result<Self, LayoutError> {
        check_block(bytes, MAGIC, HeaderVersion::First as u32)?;
        let raw = RawHeader::ref_from_bytes(bytes).expect("the length is the header's");
        if raw.reserved.iter().any(|b| *b != 0) {
            return Err(LayoutError::Field { field: "reserved" });
        }
        if raw.size.get() > VOLUME_SIZE_MAX {
            return Err(LayoutError::Field { field: "size" });
        }
        Ok(Self {
            header_seq: raw.header_seq.get(),
            volume_id: VolumeId(raw.volume_id),
            disk_id: DiskId(raw.disk_id),
            peer_disk_id: DiskId(raw.peer_disk_id),
            bitmap_base: Generation(raw.bitmap_base),
            next_generation: Generation(raw.next_generation),
            round: raw.round.get(),
            peer_round: raw.peer_round.get(),
            start_seq: raw.start_seq.get(),
            size: raw.size.get(),
            diskseq: raw.diskseq.get(),
        })
    }
}

/// Which of two slots counts: the valid one with the higher `header_seq`. Its slot is returned,
/// too, so that the next header goes over the other one.
pub fn choose_header(
    slots: [Result<VolumeHeader, LayoutError>; 2],
) -> Result<(usize, VolumeHeader), LayoutError> {
    match slots {
        [Ok(first), Ok(second)] if second.header_seq > first.header_seq => Ok((1, second)),
        [Ok(first), _] => Ok((0, first)),
        [Err(_), Ok(second)] => Ok((1, second)),
        [Err(why), Err(_)] => Err(why),
    }
}
