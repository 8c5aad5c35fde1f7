//! The first bytes of a connection, and the answer to EXPORT_NAME (NBD proto: "Newstyle
//! negotiation").

use bytes::{BufMut, BytesMut};

/// `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: second word of the greeting and first word of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Bytes of the client's flags.
pub const CLIENT_FLAGS_BYTES: usize = 4;

const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;
/// Zero bytes after the answer to EXPORT_NAME, unless both sides agreed to leave them out.
const EXPORT_NAME_PADDING: usize = 124;

/// What the client says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientFlags {
    /// Understands option replies. Without it only EXPORT_NAME is legal.
    pub fixed_newstyle: bool,
    /// The answer to EXPORT_NAME ends without padding.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// The flags, or `None` if the client sets one that was not offered: the connection must be
    /// dropped then.
    pub fn parse(bytes: [u8; CLIENT_FLAGS_BYTES]) -> Option<Self> {
        let bits = u32::from_be_bytes(bytes);
        if bits & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return None;
        }
        Some(Self {
            fixed_newstyle: bits & u32::from(FIXED_NEWSTYLE) != 0,
            no_zeroes: bits & u32::from(NO_ZEROES) != 0,
        })
    }
}

/// What the server says first.
pub fn put_greeting(out: &mut BytesMut) {
    out.put_u64(INIT_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(FIXED_NEWSTYLE | NO_ZEROES);
}

/// The answer to a granted EXPORT_NAME.
pub fn put_export_name_answer(
    out: &mut BytesMut,
    size: u64,
    transmission_flags: u16,
    no_zeroes: bool,
) {
    out.put_u64(size);
    out.put_u16(transmission_flags);
    if !no_zeroes {
        out.put_bytes(0, EXPORT_NAME_PADDING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_fixed_newstyle_and_offers_no_zeroes() {
        let mut out = BytesMut::new();
        put_greeting(&mut out);
        assert_eq!(&out[..], b"NBDMAGICIHAVEOPT\x00\x03");
    }

    #[test]
    fn client_flags_that_were_not_offered_are_refused() {
        let parse = |bits: u32| ClientFlags::parse(bits.to_be_bytes());
        for bits in 0..4u32 {
            let flags = parse(bits).expect("offered");
            assert_eq!(flags.fixed_newstyle, bits & 1 != 0);
            assert_eq!(flags.no_zeroes, bits & 2 != 0);
        }
        for bit in 2..32 {
            assert_eq!(parse(1 | 1 << bit), None, "bit {bit}");
        }
    }

    #[test]
    fn the_answer_to_export_name_is_padded_unless_agreed() {
        for (no_zeroes, length) in [(false, 134), (true, 10)] {
            let mut out = BytesMut::new();
            put_export_name_answer(&mut out, 0x0102_0304_0506_0708, 0x0a0b, no_zeroes);
            assert_eq!(&out[..10], [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
            assert_eq!(out.len(), length);
            assert!(out[10..].iter().all(|b| *b == 0));
        }
    }
}
