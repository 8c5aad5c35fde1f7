//! Opening what holds a volume's bytes: a file or a block device, checked, locked and ready for an
//! [`super::engine::Engine`].
//!
//! Owns: the open file description, its lock and the decision for or against direct I/O.
//! Invariants: the lock is on the description that does the I/O, so it lasts exactly as long as
//! something may still be written through it, operations under way included.
//! Faults assumed: a wrong path, size or owner; a file system without direct I/O, holes or extent
//! maps. Not: somebody who ignores the lock.
//! Not here: doing I/O (`engine`), the stamp (control-plane), creating files.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::limits::{BLOCK_BYTES, GRANULE_BYTES_MAX, PAGE_BYTES};
use base::payload::PayloadBuf;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::store::{Abilities, Ability, Store};

/// What a device has behind the volume: room for the stamp (PROTOCOL 2.2).
pub const DEVICE_TAIL_BYTES: u64 = 1 << 20;
/// `f_type` of tmpfs in statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// And of FUSE.
const FUSE_MAGIC: u64 = 0x6573_5546;
/// The finest and the coarsest blocks in which direct I/O is used.
const GRANULE_MIN: u32 = BLOCK_BYTES as u32;
const GRANULE_MAX: u32 = GRANULE_BYTES_MAX as u32;

/// Whether the page cache is passed by (configuration key `direct`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// Where it is possible in blocks of at most 4096 bytes.
    Auto,
    /// Or the volume is not opened.
    On,
    /// Never.
    Off,
}

/// Why a backing store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackingError {
    /// It cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file or device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be examined.
    #[error("cannot examine {path}")]
    Examine {
        /// The file or device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, pipe or the like.
    #[error("{path} is neither a regular file nor a block device")]
    Kind {
        /// What was named.
        path: PathBuf,
    },
    /// A file has exactly the volume's bytes.
    #[error(
        "{path} has {actual} bytes, the volume has {expected}: the file must be exactly as long"
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        actual: u64,
        /// The volume's size.
        expected: u64,
    },
    /// A device has room for the stamp behind the volume.
    #[error("{path} has {actual} bytes, needed are {needed}: the volume and 1 MiB behind it")]
    DeviceSize {
        /// The device.
        path: PathBuf,
        /// Its size.
        actual: u64,
        /// The volume's size and 1 MiB.
        needed: u64,
    },
    /// Somebody else holds it.
    #[error("{path} is in use by another process (a running node, or a mounted device)")]
    Busy {
        /// The file or device.
        path: PathBuf,
    },
    /// `direct = "on"` cannot be had.
    #[error("{path} cannot be used with direct I/O ({why}); use direct = \"auto\"")]
    NotDirect {
        /// The file or device.
        path: PathBuf,
        /// Which part is missing.
        why: &'static str,
    },
}

/// An opened, locked backing store.
#[derive(Debug)]
pub struct Backing {
    pub(super) store: Arc<Store>,
    path: PathBuf,
    device: bool,
    fuse: bool,
    granule_bytes: u32,
    description: String,
}

impl Backing {
    /// Opens the file or device at `path` for a volume of `size` bytes and locks it.
    ///
    /// # Errors
    /// Wrong kind, wrong size, in use, or direct I/O demanded and not possible.
    pub fn open(path: &Path, size: u64, direct: Direct) -> Result<Self, BackingError> {
        let examine = |source| BackingError::Examine { path: path.to_owned(), source };
        let (fd, device) = open_description(path)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(BackingError::Busy { path: path.to_owned() }),
            Err(error) => return Err(examine(error.into())),
        }
        let actual = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|e| examine(e.into()))?;
        check_size(path, device, actual, size)?;
        // A device node lies on devtmpfs, which calls itself tmpfs: only a file can be on tmpfs.
        let on = |magic| Ok(!device && is_filesystem(fd.as_fd(), magic).map_err(examine)?);
        let (tmpfs, fuse) = (on(TMPFS_MAGIC)?, on(FUSE_MAGIC)?);
        let outcome = decide_direct(fd.as_fd(), size, tmpfs, direct);
        if let (Direct::On, Err(why)) = (direct, outcome.direct) {
            return Err(BackingError::NotDirect { path: path.to_owned(), why });
        }
        let able = Abilities::all();
        probe_zeroing(fd.as_fd(), device, actual, &able);
        let kind = match (device, tmpfs) {
            (true, _) => "block device",
            (false, true) => "file on tmpfs",
            (false, false) => "file",
        };
        let description = format!("{kind}, {}", outcome.words());
        let block_bytes = outcome.direct.map_or(1, |()| u64::from(outcome.granule_bytes));
        let sector_bytes = rustix::fs::ioctl_blksszget(&fd).map_or(1, u64::from);
        let store = Store {
            fd,
            size,
            direct: outcome.direct.is_ok(),
            block_bytes,
            zero_block_bytes: block_bytes.max(sector_bytes),
            memory_align: outcome.memory_align,
            tmpfs,
            able,
        };
        assert!(
            (GRANULE_MIN..=GRANULE_MAX).contains(&outcome.granule_bytes),
            "the peer can lock in such units"
        );
        Ok(Self {
            store: Arc::new(store),
            path: path.to_owned(),
            device,
            fuse,
            granule_bytes: outcome.granule_bytes,
            description,
        })
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.store.size
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device: its stamp lies behind the volume, a file's in an attribute.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Whether it lies on FUSE, where a write waits in place for a flush of the file, also one
    /// that was asked not to.
    pub fn is_on_fuse(&self) -> bool {
        self.fuse
    }

    /// Whether it lies on tmpfs, where I/O never waits.
    pub fn is_on_tmpfs(&self) -> bool {
        self.store.tmpfs
    }

    /// Two writes that do not overlap but share such a unit may not be under way together: the
    /// least lock unit (W9).
    pub fn granule_bytes(&self) -> u32 {
        self.granule_bytes
    }

    /// Whether zeroing is quicker than writing zeros, as far as is known by now.
    pub fn zero_is_fast(&self) -> bool {
        self.store.able.has(Ability::PunchHole)
    }

    /// What it is and how it is used, for the log.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The open file description: extended attributes and fsync of the stamp go through it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.store.fd.as_fd()
    }

    /// Whether the volume may hold data: it has an extent, or nobody can tell.
    pub fn has_data_extents(&self) -> bool {
        match rustix::fs::seek(&self.store.fd, SeekFrom::Data(0)) {
            Ok(offset) => offset < self.store.size,
            Err(Errno::NXIO) => false,
            // Devices and some file systems have no map of extents.
            Err(_) => true,
        }
    }
}

fn open_description(path: &Path) -> Result<(std::os::fd::OwnedFd, bool), BackingError> {
    let open = |source| BackingError::Open { path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(open)?.file_type();
    let device = kind.is_block_device();
    if !device && !kind.is_file() {
        return Err(BackingError::Kind { path: path.to_owned() });
    }
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    if device {
        flags |= OFlags::EXCL;
    }
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok((fd, device)),
        Err(Errno::BUSY) => Err(BackingError::Busy { path: path.to_owned() }),
        Err(error) => Err(open(error.into())),
    }
}

fn check_size(path: &Path, device: bool, actual: u64, size: u64) -> Result<(), BackingError> {
    if !device && actual != size {
        return Err(BackingError::FileSize { path: path.to_owned(), actual, expected: size });
    }
    let needed = size.saturating_add(DEVICE_TAIL_BYTES);
    if device && actual < needed {
        return Err(BackingError::DeviceSize { path: path.to_owned(), actual, needed });
    }
    Ok(())
}

fn is_filesystem(fd: BorrowedFd<'_>, magic: u64) -> io::Result<bool> {
    let stat = rustix::fs::fstatfs(fd)?;
    Ok(u64::try_from(stat.f_type).is_ok_and(|kind| kind == magic))
}

/// How the question of direct I/O was answered.
struct DirectOutcome {
    direct: Result<(), &'static str>,
    granule_bytes: u32,
    memory_align: usize,
}

impl DirectOutcome {
    fn buffered(why: &'static str) -> Self {
        Self { direct: Err(why), granule_bytes: GRANULE_MIN, memory_align: 1 }
    }

    fn words(&self) -> String {
        match self.direct {
            Ok(()) => format!("direct I/O in blocks of {} bytes", self.granule_bytes),
            Err(why) => format!("through the page cache ({why})"),
        }
    }
}

/// Direct I/O is used in the blocks that the place asks for, up to those of 4Kn disks: what does not
/// cover whole ones is read, changed and written (`patch`), under locks of whole blocks (W9).
fn decide_direct(fd: BorrowedFd<'_>, size: u64, tmpfs: bool, direct: Direct) -> DirectOutcome {
    if direct == Direct::Off {
        return DirectOutcome::buffered("as configured");
    }
    if tmpfs {
        return DirectOutcome::buffered("tmpfs is memory");
    }
    let (granules, memory_align) = match direct_alignment(fd) {
        Alignment::None => return DirectOutcome::buffered("the file system has no direct I/O"),
        Alignment::Granule { bytes, .. } if bytes > GRANULE_MAX || !bytes.is_power_of_two() => {
            return DirectOutcome::buffered("direct I/O here needs blocks larger than 4096 bytes");
        }
        Alignment::Granule { bytes, memory } => {
            let granule_bytes = bytes.max(GRANULE_MIN);
            (granule_bytes..=granule_bytes, memory)
        }
        // Payloads are page-aligned.
        Alignment::Unknown => (GRANULE_MIN..=GRANULE_MAX, PAGE_BYTES),
    };
    if !size.is_multiple_of(u64::from(*granules.start())) {
        return DirectOutcome::buffered("the volume does not end with a block of direct I/O");
    }
    let Ok(flags) = rustix::fs::fcntl_getfl(fd) else {
        return DirectOutcome::buffered("the descriptor's flags cannot be read");
    };
    if rustix::fs::fcntl_setfl(fd, flags | OFlags::DIRECT).is_err() {
        return DirectOutcome::buffered("the file system has no direct I/O");
    }
    let works = |bytes: &u32| granules.contains(bytes) && direct_read_works(fd, size, *bytes);
    match [512, 1024, 2048, 4096].into_iter().find(works) {
        Some(granule_bytes) => DirectOutcome { direct: Ok(()), granule_bytes, memory_align },
        None => {
            let _ = rustix::fs::fcntl_setfl(fd, flags);
            DirectOutcome::buffered("a trial read of one block failed")
        }
    }
}

/// What the kernel says about direct I/O.
enum Alignment {
    /// It is not possible.
    None,
    /// It goes in blocks of so many bytes, from and to memory aligned so.
    Granule { bytes: u32, memory: usize },
    /// Only a trial tells: a file before Linux 6.1.
    Unknown,
}

fn direct_alignment(fd: BorrowedFd<'_>) -> Alignment {
    if let Ok(sector) = rustix::fs::ioctl_blksszget(fd) {
        return Alignment::Granule { bytes: sector, memory: sector as usize };
    }
    match rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            match stat.stx_dio_offset_align {
                0 => Alignment::None,
                bytes => Alignment::Granule { bytes, memory: stat.stx_dio_mem_align as usize },
            }
        }
        _ => Alignment::Unknown,
    }
}

/// Whether one such block of a volume of whole ones can be read: the second one, where no larger
/// block begins.
fn direct_read_works(fd: BorrowedFd<'_>, size: u64, granule_bytes: u32) -> bool {
    let length = u64::from(granule_bytes);
    if size < 2 * length || !size.is_multiple_of(length) {
        return false;
    }
    let mut block = PayloadBuf::with_length(granule_bytes as usize);
    let read = block.fill_with(|space| rustix::io::pread(fd, space, length));
    read.is_ok_and(|count| count == granule_bytes as usize)
}

/// Learns whether holes can be made, without touching the volume.
fn probe_zeroing(fd: BorrowedFd<'_>, device: bool, actual: u64, able: &Abilities) {
    let holes = if device {
        device_zeroes_fast(fd)
    } else {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Behind the end of the file there is nothing to lose.
        let behind = actual.next_multiple_of(PAGE_BYTES as u64);
        rustix::fs::fallocate(fd, flags, behind, PAGE_BYTES as u64).is_ok()
    };
    if !holes {
        able.refuse(Ability::PunchHole);
    }
}

fn device_zeroes_fast(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    // A partition has its queue at the disk it is a part of.
    ["queue", "../queue"].iter().any(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/write_zeroes_max_bytes");
        fs::read_to_string(path).is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|n| n > 0))
    })
}
