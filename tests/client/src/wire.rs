//! The NBD protocol as bytes, from the client's side (NBD proto; compact headers only).
//!
//! Not here: which replies belong to which requests (`session`), sockets (`connection`).

use bytes::Bytes;

/// First eight bytes of a greeting, "NBDMAGIC".
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a greeting and the first of every option, "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First eight bytes of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First four bytes of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First four bytes of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// First four bytes of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag, both directions: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag, both directions: no 124 zero bytes after EXPORT_NAME.
pub const NO_ZEROES: u16 = 2;

/// Options a client may send.
pub mod option {
    /// Enter transmission without a reply that can fail.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave.
    pub const ABORT: u32 = 2;
    /// Names of the exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// What GO would say.
    pub const INFO: u32 = 6;
    /// Enter transmission.
    pub const GO: u32 = 7;
    /// Agree on structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
}

/// Types of option replies.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a LIST.
    pub const SERVER: u32 = 2;
    /// One piece of information of INFO or GO.
    pub const INFO: u32 = 3;
    /// Set in every error type.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Forbidden here.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// Malformed.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// The server is stopping.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// Longer than the server reads.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
}

/// Information items of INFO and GO.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Leave; no reply.
    pub const DISC: u16 = 2;
    /// Make durable what was acknowledged.
    pub const FLUSH: u16 = 3;
    /// Contents no longer needed.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Write zeros without sending them.
    pub const WRITE_ZEROES: u16 = 6;
    /// Extents of metadata contexts.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub mod command_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Keep the space allocated.
    pub const NO_HOLE: u16 = 2;
    /// At most one content chunk.
    pub const DF: u16 = 4;
    /// One extent only.
    pub const REQ_ONE: u16 = 8;
    /// Refuse rather than be slow.
    pub const FAST_ZERO: u16 = 16;
}

/// Transmission flags of an export.
pub mod export_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// FLUSH covers writes of other connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// FAST_ZERO is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Error numbers of replies.
pub mod errno {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// Input/output error.
    pub const EIO: u32 = 5;
    /// Not a valid request.
    pub const EINVAL: u32 = 22;
    /// Beyond the end.
    pub const ENOSPC: u32 = 28;
    /// Too large.
    pub const EOVERFLOW: u32 = 75;
    /// Not possible.
    pub const ENOTSUP: u32 = 95;
    /// The server is stopping.
    pub const ESHUTDOWN: u32 = 108;
}

/// Chunk types of structured replies.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Offset and bytes.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset and a length of zeros.
    pub const OFFSET_HOLE: u16 = 2;
    /// An error for the whole request.
    pub const ERROR: u16 = 0x8001;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = 0x8002;
    /// Set on the last chunk of a reply.
    pub const DONE: u16 = 1;
}

/// Length of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Length of a simple reply header.
pub const SIMPLE_BYTES: usize = 16;
/// Length of a chunk header.
pub const CHUNK_BYTES: usize = 20;
/// Longest option reply and chunk that a client of ours takes, in bytes.
pub const RECEIVE_BYTES_MAX: u32 = 64 << 20;

/// A request header as it stands on the wire; any value, also a forbidden one, can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// [`command_flag`]s.
    pub flags: u16,
    /// A [`command`].
    pub command: u16,
    /// Echoed in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl RequestHeader {
    /// The bytes of the header.
    pub fn encode(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// A well-formed request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// READ.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// WRITE.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Durable before the reply.
        fua: bool,
    },
    /// WRITE_ZEROES.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
    },
    /// TRIM.
    Trim {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// CACHE.
    Cache {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// FLUSH.
    Flush,
}

impl Request {
    /// The header that asks for this under `cookie`.
    pub fn header(&self, cookie: u64) -> RequestHeader {
        let fua_flag = |fua: bool| if fua { command_flag::FUA } else { 0 };
        let (command, flags, offset, length) = match self {
            Self::Read { offset, length } => (command::READ, 0, *offset, *length),
            Self::Write { offset, data, fua } => {
                let length = u32::try_from(data.len()).expect("a payload fits its length field");
                (command::WRITE, fua_flag(*fua), *offset, length)
            }
            Self::WriteZeroes { offset, length, fua, no_hole } => {
                let hole = if *no_hole { command_flag::NO_HOLE } else { 0 };
                (command::WRITE_ZEROES, fua_flag(*fua) | hole, *offset, *length)
            }
            Self::Trim { offset, length, fua } => (command::TRIM, fua_flag(*fua), *offset, *length),
            Self::Cache { offset, length } => (command::CACHE, 0, *offset, *length),
            Self::Flush => (command::FLUSH, 0, 0, 0),
        };
        RequestHeader { flags, command, cookie, offset, length }
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Write { data, .. } => data,
            Self::Read { .. }
            | Self::WriteZeroes { .. }
            | Self::Trim { .. }
            | Self::Cache { .. }
            | Self::Flush => &[],
        }
    }
}

/// The bytes of one option.
pub fn encode_option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("option data fits its length field");
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The data of INFO and GO for export `name`, asking for `items`.
pub fn encode_info_request(name: &str, items: &[u16]) -> Vec<u8> {
    let length = u32::try_from(name.len()).expect("a name fits its length field");
    let count = u16::try_from(items.len()).expect("few items");
    let mut bytes = Vec::with_capacity(6 + name.len() + 2 * items.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    for item in items {
        bytes.extend_from_slice(&item.to_be_bytes());
    }
    bytes
}

/// Takes `N` bytes from the front of `input`.
pub(crate) fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

/// What a server says of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// [`export_flag`]s.
    pub flags: u16,
    /// Minimum, preferred and maximum block size, when told.
    pub block_sizes: Option<[u32; 3]>,
}

impl ExportInfo {
    /// Takes one INFO reply in; unknown items are ignored. `None` if it is malformed.
    pub fn absorb(&mut self, mut data: &[u8]) -> Option<()> {
        match u16::from_be_bytes(take(&mut data)?) {
            info::EXPORT => {
                self.size = u64::from_be_bytes(take(&mut data)?);
                self.flags = u16::from_be_bytes(take(&mut data)?);
                data.is_empty().then_some(())
            }
            info::BLOCK_SIZE => {
                let mut sizes = [0; 3];
                for size in &mut sizes {
                    *size = u32::from_be_bytes(take(&mut data)?);
                }
                self.block_sizes = Some(sizes);
                data.is_empty().then_some(())
            }
            _ => Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stands_on_the_wire_as_the_specification_draws_it() {
        let request =
            Request::Write { offset: 0x1_0000, data: Bytes::from_static(b"ab"), fua: true };
        let bytes = request.header(7).encode();
        let golden = [
            0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0,
            0, 0, 2,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(request.payload(), b"ab");
    }

    #[test]
    fn an_export_item_of_a_wrong_length_is_refused() {
        let mut export = ExportInfo::default();
        let mut item = vec![0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 5];
        assert_eq!(export.absorb(&item), Some(()));
        assert_eq!((export.size, export.flags), (512, 5));
        item.push(0);
        assert_eq!(export.absorb(&item), None);
        assert_eq!(export.absorb(&item[..9]), None);
        assert_eq!(export.absorb(&[0, 9]), Some(()));
    }
}
