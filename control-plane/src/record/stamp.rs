//! The stamp: a few bytes that live with a volume's data and show that the data is the one which
//! record and header speak of (PROTOCOL 2.2).

use base::ids::{DiskId, Generation, VolumeId};

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
