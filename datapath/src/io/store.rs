//! What the engines share of one opened backing store: the descriptor and what it can do.
//!
//! Owns: the open file description that holds the lock and does all I/O of the volume.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use base::range::ByteRange;

/// One opened backing store.
#[derive(Debug)]
pub(super) struct Store {
    /// The open file description.
    pub(super) fd: OwnedFd,
    /// Bytes of the volume; nothing at or behind this is ever touched by an operation.
    pub(super) size: u64,
    /// Opened with O_DIRECT.
    pub(super) direct: bool,
    /// Reads and writes are whole blocks of so many bytes: the granule of direct I/O, else 1.
    pub(super) block_bytes: u64,
    /// What zeroes without writing takes whole blocks of so many bytes: a device those of its
    /// sectors, also through the page cache.
    pub(super) zero_block_bytes: u64,
    /// The alignment in memory that direct I/O asks for.
    pub(super) memory_align: usize,
    /// On tmpfs: the memory is the disk.
    pub(super) tmpfs: bool,
    /// What has not been refused yet.
    pub(super) able: Abilities,
}

impl Store {
    /// Whether one call can read or write `range`.
    pub(super) fn takes(&self, range: ByteRange) -> bool {
        (range.offset() | range.length()) & (self.block_bytes - 1) == 0
    }
}

/// What the file system or device has not refused so far; each is cleared at its first EOPNOTSUPP
/// and never set again.
#[derive(Debug)]
pub(super) struct Abilities {
    punch_hole: AtomicBool,
    zero_range: AtomicBool,
    allocate: AtomicBool,
    dsync: AtomicBool,
}

/// One of the [`Abilities`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ability {
    /// FALLOC_FL_PUNCH_HOLE.
    PunchHole,
    /// FALLOC_FL_ZERO_RANGE.
    ZeroRange,
    /// fallocate(2) without a mode.
    Allocate,
    /// RWF_DSYNC.
    Dsync,
}

impl Abilities {
    pub(super) const fn all() -> Self {
        Self {
            punch_hole: AtomicBool::new(true),
            zero_range: AtomicBool::new(true),
            allocate: AtomicBool::new(true),
            dsync: AtomicBool::new(true),
        }
    }

    pub(super) fn has(&self, ability: Ability) -> bool {
        self.flag(ability).load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self, ability: Ability) {
        self.flag(ability).store(false, Ordering::Relaxed);
    }

    const fn flag(&self, ability: Ability) -> &AtomicBool {
        match ability {
            Ability::PunchHole => &self.punch_hole,
            Ability::ZeroRange => &self.zero_range,
            Ability::Allocate => &self.allocate,
            Ability::Dsync => &self.dsync,
        }
    }
}
