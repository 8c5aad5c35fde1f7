//! The header of a volume's bitmap file: what belongs to one volume, so that a flush round never
//! touches the group's record (PROTOCOL 2.2).

use base::ids::{DiskId, Generation, VolumeId};

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
