//! Requests of the transmission phase: header, commands and their flags (NBD proto: "Request
//! message", "Command flags", "Request types").

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Bytes of a compact request before its payload.
pub const REQUEST_BYTES: usize = size_of::<RawRequest>();
const _: () = assert!(REQUEST_BYTES == 28);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    length: U32,
}

/// What a client can ask for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Command {
    /// Bytes of a range.
    Read,
    /// New bytes for a range; the only command with a payload.
    Write,
    /// Finish what is under way, then close.
    Disconnect,
    /// Make everything acknowledged durable.
    Flush,
    /// The range holds nothing of value.
    Trim,
    /// The range will be read soon.
    Cache,
    /// Zeros for a range.
    WriteZeroes,
    /// What is allocated; needs a metadata context.
    BlockStatus,
    /// Anything else.
    Other(u16),
}

impl Command {
    /// The command of this number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// For metrics and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Disconnect => "disconnect",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Cache => "cache",
            Self::WriteZeroes => "write_zeroes",
            Self::BlockStatus => "block_status",
            Self::Other(_) => "other",
        }
    }
}

/// The flags of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    /// Durable before the reply; accepted on every command.
    pub const FUA: Self = Self(1 << 0);
    /// WRITE_ZEROES: keep the space allocated.
    pub const NO_HOLE: Self = Self(1 << 1);
    /// READ: one content chunk at most.
    pub const DF: Self = Self(1 << 2);
    /// WRITE_ZEROES: only if it is faster than writing zeros.
    pub const FAST_ZERO: Self = Self(1 << 4);

    /// Whether `flag` is set.
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Whether nothing outside `allowed` is set.
    pub const fn only(self, allowed: Self) -> bool {
        self.0 & !allowed.0 == 0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One request as it was sent; nothing in it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Flags.
    pub flags: CommandFlags,
    /// Command.
    pub command: Command,
    /// The client's name for it, echoed in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl Request {
    /// The request.
    ///
    /// # Errors
    /// The first word, if it is not the magic number: the two sides have lost each other and the
    /// connection must end.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, u32> {
        let raw: RawRequest = zerocopy::transmute!(*bytes);
        if raw.magic.get() != REQUEST_MAGIC {
            return Err(raw.magic.get());
        }
        Ok(Self {
            flags: CommandFlags(raw.flags.get()),
            command: Command::from_number(raw.command.get()),
            cookie: raw.cookie.get(),
            offset: raw.offset.get(),
            length: raw.length.get(),
        })
    }

    /// Bytes of payload that follow it.
    pub const fn payload_bytes(&self) -> u32 {
        match self.command {
            Command::Write => self.length,
            Command::Read
            | Command::Disconnect
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::WriteZeroes
            | Command::BlockStatus
            | Command::Other(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_golden_bytes() {
        let golden = b"\x25\x60\x95\x13\x00\x12\x00\x06\x01\x02\x03\x04\x05\x06\x07\x08\
                       \x11\x12\x13\x14\x15\x16\x17\x18\xa1\xa2\xa3\xa4";
        let request = Request {
            flags: CommandFlags::NO_HOLE.with(CommandFlags::FAST_ZERO),
            command: Command::WriteZeroes,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1112_1314_1516_1718,
            length: 0xa1a2_a3a4,
        };
        assert_eq!(Request::parse(golden), Ok(request));
    }

    #[test]
    fn another_magic_number_is_an_error_also_the_extended_one() {
        for magic in [0u32, REQUEST_MAGIC ^ 1, 0x21e4_1c71] {
            let mut bytes = [0; REQUEST_BYTES];
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            assert_eq!(Request::parse(&bytes), Err(magic));
        }
    }

    #[test]
    fn commands_have_their_numbers_and_only_a_write_has_a_payload() {
        let rows = [
            (0, Command::Read, "read"),
            (1, Command::Write, "write"),
            (2, Command::Disconnect, "disconnect"),
            (3, Command::Flush, "flush"),
            (4, Command::Trim, "trim"),
            (5, Command::Cache, "cache"),
            (6, Command::WriteZeroes, "write_zeroes"),
            (7, Command::BlockStatus, "block_status"),
            (8, Command::Other(8), "other"),
            (0xffff, Command::Other(0xffff), "other"),
        ];
        for (number, command, name) in rows {
            assert_eq!(Command::from_number(number), command);
            assert_eq!(command.name(), name);
            let request = Request {
                flags: CommandFlags::default(),
                command,
                cookie: 0,
                offset: 0,
                length: 7,
            };
            assert_eq!(request.payload_bytes() == 7, command == Command::Write);
        }
    }
}
