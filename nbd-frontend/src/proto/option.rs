//! Options of the handshake: header and data (NBD proto: "Option types").

use base::limits::STRING_BYTES_MAX;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::handshake::OPTION_MAGIC;

/// Bytes of an option's header.
pub const OPTION_HEADER_BYTES: usize = size_of::<RawOption>();
const _: () = assert!(OPTION_HEADER_BYTES == 16);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOption {
    magic: U64,
    option: U32,
    length: U32,
}

/// What a client asks for during the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionCode {
    /// Attach, the old way: no reply but the export itself.
    ExportName,
    /// Leave.
    Abort,
    /// Which exports are there?
    List,
    /// Speak TLS from here on.
    StartTls,
    /// What is this export?
    Info,
    /// As `Info`, and attach.
    Go,
    /// Answer reads in chunks.
    StructuredReply,
    /// Anything else: withdrawn, not offered or unknown.
    Other(u32),
}

impl OptionCode {
    /// The option of this number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            other => Self::Other(other),
        }
    }

    /// Its number, echoed in every reply.
    pub const fn number(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::Other(number) => number,
        }
    }
}

/// An option before its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// Which option.
    pub option: OptionCode,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// The header, or `None` if it does not begin with the magic number: the two sides have lost
    /// each other and the connection must end.
    pub fn parse(bytes: &[u8; OPTION_HEADER_BYTES]) -> Option<Self> {
        let raw = RawOption::ref_from_bytes(bytes).ok()?;
        if raw.magic.get() != OPTION_MAGIC {
            return None;
        }
        Some(Self { option: OptionCode::from_number(raw.option.get()), length: raw.length.get() })
    }
}

/// Why option data cannot be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionDataError {
    /// The lengths inside do not add up.
    #[error("the lengths in the option's data do not fit its length")]
    Lengths,
    /// A name over the limit.
    #[error("an export name has at most {STRING_BYTES_MAX} bytes")]
    NameLength,
    /// A name that is not a string of the protocol.
    #[error("an export name is UTF-8 without NUL")]
    NameText,
}

/// The data of INFO and GO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoRequest<'a> {
    /// Export name; empty for the default one.
    pub name: &'a str,
    /// NBD_INFO_NAME was asked for.
    pub wants_name: bool,
    /// NBD_INFO_DESCRIPTION was asked for.
    pub wants_description: bool,
}

impl<'a> InfoRequest<'a> {
    /// Reads the data of INFO or GO. Kinds of information that are not known are passed over.
    ///
    /// # Errors
    /// Lengths that do not add up, or a name that is none.
    pub fn parse(data: &'a [u8]) -> Result<Self, OptionDataError> {
        let (length, rest) = data.split_first_chunk::<4>().ok_or(OptionDataError::Lengths)?;
        let length =
            usize::try_from(u32::from_be_bytes(*length)).map_err(|_| OptionDataError::Lengths)?;
        let (name, rest) = rest.split_at_checked(length).ok_or(OptionDataError::Lengths)?;
        let (count, kinds) = rest.split_first_chunk::<2>().ok_or(OptionDataError::Lengths)?;
        if kinds.len() != usize::from(u16::from_be_bytes(*count)) * 2 {
            return Err(OptionDataError::Lengths);
        }
        let name = parse_name(name)?;
        let wants =
            |kind: u16| kinds.chunks_exact(2).any(|asked| asked == kind.to_be_bytes().as_slice());
        Ok(Self { name, wants_name: wants(1), wants_description: wants(2) })
    }
}

/// An export name as the client sent it.
///
/// # Errors
/// Longer than a string of the protocol, not UTF-8, or with a NUL inside.
pub fn parse_name(bytes: &[u8]) -> Result<&str, OptionDataError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionDataError::NameLength);
    }
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.contains('\0') => Ok(name),
        _ => Err(OptionDataError::NameText),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(name: &[u8], kinds: &[u16]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
        for kind in kinds {
            data.extend_from_slice(&kind.to_be_bytes());
        }
        data
    }

    #[test]
    fn numbers_read_back() {
        for number in 0..300 {
            assert_eq!(OptionCode::from_number(number).number(), number);
        }
    }

    #[test]
    fn a_header_is_read_and_needs_its_magic() {
        let golden = b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x01\x02";
        let header = OptionHeader { option: OptionCode::Go, length: 0x102 };
        assert_eq!(OptionHeader::parse(golden), Some(header));
        for index in 0..8 {
            let mut bad = *golden;
            bad[index] ^= 1;
            assert_eq!(OptionHeader::parse(&bad), None);
        }
    }

    #[test]
    fn info_data_is_read() {
        let data = info(b"vol0", &[3, 1, 77]);
        let parsed = InfoRequest::parse(&data).expect("well formed");
        assert_eq!(parsed.name, "vol0");
        assert!(parsed.wants_name && !parsed.wants_description);
        let data = info(b"", &[2]);
        let parsed = InfoRequest::parse(&data).expect("well formed");
        assert_eq!((parsed.name, parsed.wants_description), ("", true));
    }

    #[test]
    fn malformed_info_data_is_refused() {
        let good = info(b"vol0", &[1, 2]);
        for length in 0..good.len() {
            assert_eq!(InfoRequest::parse(&good[..length]), Err(OptionDataError::Lengths));
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(InfoRequest::parse(&longer), Err(OptionDataError::Lengths));
        let mut absurd = good;
        absurd[..4].fill(0xff);
        assert_eq!(InfoRequest::parse(&absurd), Err(OptionDataError::Lengths));
    }

    #[test]
    fn names_are_strings_of_the_protocol() {
        assert_eq!(InfoRequest::parse(&info(&[b'a'; 4096], &[])).map(|i| i.name.len()), Ok(4096));
        let rows: [(&[u8], OptionDataError); 4] = [
            (&[b'a'; 4097], OptionDataError::NameLength),
            (b"vol0\0junk", OptionDataError::NameText),
            (b"\xff\xfe", OptionDataError::NameText),
            (b"\xc0\x80", OptionDataError::NameText),
        ];
        for (name, error) in rows {
            assert_eq!(InfoRequest::parse(&info(name, &[])), Err(error));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_data_never_panics(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(parsed) = InfoRequest::parse(&data) {
                prop_assert!(parsed.name.len() + 6 <= data.len());
            }
        }
    }
}
