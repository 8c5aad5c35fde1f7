//! Why a request fails, and the one table that turns it into an error number and a text (NBD
//! proto: "Error values").

use base::request::RequestError;

/// The error numbers that are used. The protocol allows no others than these and a few more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Errno {
    /// EPERM
    NotPermitted = 1,
    /// EIO
    Io = 5,
    /// EINVAL
    Invalid = 22,
    /// ENOSPC
    NoSpace = 28,
    /// ESHUTDOWN
    ShuttingDown = 108,
}

/// What the front end itself refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A command that does not exist, or not here.
    #[error("unknown command")]
    UnknownCommand,
    /// A command that the transmission flags do not offer.
    #[error("this command was not offered")]
    NotOffered,
    /// A flag that does not exist, does not belong to the command or was not offered.
    #[error("a flag is unknown, not for this command or not offered")]
    UnknownFlag,
    /// A write to a read-only export.
    #[error("the export is read-only")]
    ReadOnly,
    /// A range that ends behind the export.
    #[error("the range ends beyond the end of the export")]
    BeyondEnd,
    /// The same of WRITE and WRITE_ZEROES, which have an error of their own.
    #[error("the write ends beyond the end of the export")]
    WriteBeyondEnd,
    /// A payload over the advertised maximum.
    #[error("longer than the advertised maximum payload")]
    TooLong,
    /// Not in whole blocks of the advertised minimum.
    #[error("offset and length must be multiples of the advertised minimum block")]
    Misaligned,
    /// A flush of a range.
    #[error("offset and length of a flush must be zero")]
    FlushRange,
    /// BLOCK_STATUS without a metadata context.
    #[error("no metadata context was selected")]
    NoContext,
}

/// Why a request fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The volume says so.
    #[error(transparent)]
    Volume(#[from] RequestError),
    /// The request never reached the volume.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Failure {
    /// The number on the wire.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Volume(RequestError::ShuttingDown) => Errno::ShuttingDown,
            // A failure without a row of its own is an I/O error: it promises nothing.
            Self::Volume(_) => Errno::Io,
            Self::Refused(Refusal::UnknownCommand) => Errno::Invalid,
            Self::Refused(Refusal::NotOffered) => Errno::Invalid,
            Self::Refused(Refusal::UnknownFlag) => Errno::Invalid,
            Self::Refused(Refusal::ReadOnly) => Errno::NotPermitted,
            Self::Refused(Refusal::BeyondEnd) => Errno::Invalid,
            Self::Refused(Refusal::WriteBeyondEnd) => Errno::NoSpace,
            Self::Refused(Refusal::TooLong) => Errno::Invalid,
            Self::Refused(Refusal::Misaligned) => Errno::Invalid,
            Self::Refused(Refusal::FlushRange) => Errno::Invalid,
            Self::Refused(Refusal::NoContext) => Errno::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_number_and_a_short_text() {
        let rows: [(Failure, u32); 12] = [
            (RequestError::Io.into(), 5),
            (RequestError::ShuttingDown.into(), 108),
            (Refusal::UnknownCommand.into(), 22),
            (Refusal::NotOffered.into(), 22),
            (Refusal::UnknownFlag.into(), 22),
            (Refusal::ReadOnly.into(), 1),
            (Refusal::BeyondEnd.into(), 22),
            (Refusal::WriteBeyondEnd.into(), 28),
            (Refusal::TooLong.into(), 22),
            (Refusal::Misaligned.into(), 22),
            (Refusal::FlushRange.into(), 22),
            (Refusal::NoContext.into(), 22),
        ];
        for (failure, number) in rows {
            assert_eq!(failure.errno() as u32, number, "{failure}");
            assert!((1..200).contains(&failure.to_string().len()));
        }
    }
}
