//! What a volume core asks of its backing store, and how that ends. The store itself is a file, a
//! device or a simulation; all three look like this.

use base::range::ByteRange;
use bytes::Bytes;

/// One operation under way; chosen by the core, unique within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// One operation on the backing store. Operations that are under way together may take effect in
/// any order: the core never has two under way that overlap, or share a block of the store's direct
/// I/O, if either of them writes (W9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IoOperation {
    /// Read the range.
    Read {
        /// Which bytes.
        range: ByteRange,
    },
    /// Write the range.
    Write {
        /// Which bytes.
        range: ByteRange,
        /// As many bytes as the range has; page-aligned in memory.
        data: Bytes,
        /// Durable before it completes (RWF_DSYNC or a following fdatasync).
        durable: bool,
    },
    /// Make the range read as zeros.
    Zero {
        /// Which bytes.
        range: ByteRange,
        /// Keep the space allocated.
        allocate: bool,
        /// Durable before it completes.
        durable: bool,
    },
    /// Everything completed before survives power loss (fdatasync).
    Flush,
    /// Read ahead; errors do not matter.
    Prefetch {
        /// Which bytes.
        range: ByteRange,
    },
}

impl IoOperation {
    /// The bytes it touches; empty for a flush.
    pub fn range(&self) -> ByteRange {
        match self {
            Self::Read { range }
            | Self::Write { range, .. }
            | Self::Zero { range, .. }
            | Self::Prefetch { range } => *range,
            Self::Flush => ByteRange::default(),
        }
    }

    /// For messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Zero { .. } => "write zeroes",
            Self::Flush => "flush",
            Self::Prefetch { .. } => "prefetch",
        }
    }
}

/// What a completed operation returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IoDone {
    /// The bytes of a read.
    Data(Bytes),
    /// Everything else.
    Done,
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoFault {
    /// ENOSPC or EDQUOT.
    #[error("no space left")]
    NoSpace,
    /// Any other error number of the system.
    #[error("error {0} of the operating system")]
    System(i32),
    /// Fewer bytes than the volume has: the file was truncated.
    #[error("the backing file is shorter than the volume")]
    Truncated,
}

/// A completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoCompletion {
    /// Which operation.
    pub id: IoId,
    /// How it ended.
    pub result: Result<IoDone, IoFault>,
}
