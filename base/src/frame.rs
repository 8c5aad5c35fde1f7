//! The envelope of every message between nodes: control and data connections alike.
//!
//! A frame is a header of [`HEADER_BYTES`], a body and a payload. The header's CRC guards against
//! a peer that lost its place in the stream; the payload is protected by TLS (PROTOCOL 2.13).
//! Layout and version are in `docs/WIRE.md`.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{ConnNonce, Session};
use crate::limits::{FRAME_BODY_MAX, FRAME_PAYLOAD_MAX};

/// First four bytes of every frame: "STR1" on the wire.
pub const MAGIC: u32 = u32::from_le_bytes(*b"STR1");
/// Version of the envelope and of every body.
pub const WIRE_VERSION: u16 = 2;
/// Size of the header, in bytes.
pub const HEADER_BYTES: usize = 56;

/// The header as it lies on the wire; little endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U16,
    kind: U16,
    body_bytes: U32,
    payload_bytes: U32,
    session: U64,
    conn_nonce: [u8; 16],
    sequence: U64,
    reserved: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const CRC_OFFSET: usize = HEADER_BYTES - 4;

/// What a frame says before its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which message; the number spaces of control (from 1), data (from 0x100), sync (0x200) and witness (0x300) do not meet.
    pub kind: u16,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Bytes of the payload, after the body.
    pub payload_bytes: u32,
    /// The sender's session.
    pub session: Session,
    /// The control connection this frame belongs to.
    pub conn_nonce: ConnNonce,
    /// 0, 1, 2 ... on each connection and direction.
    pub sequence: u64,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not "STR1": the stream is out of step, or the sender is not a node.
    #[error("a frame starts with {found:#010x}, not with {MAGIC:#010x}")]
    Magic {
        /// What stands there.
        found: u32,
    },
    /// Made by another version of Stretch.
    #[error("frame of wire version {found}, this node speaks {WIRE_VERSION}")]
    Version {
        /// The sender's version.
        found: u16,
    },
    /// The header was damaged.
    #[error("frame header fails its CRC")]
    Crc,
    /// A reserved field is not zero.
    #[error("reserved bytes of a frame header are not zero")]
    Reserved,
    /// Longer than the limits allow.
    #[error("frame of {body_bytes} + {payload_bytes} bytes exceeds the limits")]
    TooLong {
        /// Announced body.
        body_bytes: u32,
        /// Announced payload.
        payload_bytes: u32,
    },
    /// A frame is missing, repeated or out of order.
    #[error("frame {found} where {expected} was due")]
    Sequence {
        /// The next number.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// No message has this number.
    #[error("unknown message kind {kind:#06x}")]
    Kind {
        /// The number.
        kind: u16,
    },
    /// The body does not fit its message.
    #[error("malformed body of message kind {kind:#06x}: {what}")]
    Body {
        /// The message.
        kind: u16,
        /// Which rule is broken.
        what: &'static str,
    },
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        assert!(
            self.body_bytes <= FRAME_BODY_MAX && self.payload_bytes <= FRAME_PAYLOAD_MAX,
            "a frame is within the limits"
        );
        let mut raw = RawHeader {
            magic: MAGIC.into(),
            version: WIRE_VERSION.into(),
            kind: self.kind.into(),
            body_bytes: self.body_bytes.into(),
            payload_bytes: self.payload_bytes.into(),
            session: self.session.0.into(),
            conn_nonce: self.conn_nonce.0,
            sequence: self.sequence.into(),
            reserved: 0.into(),
            crc: 0.into(),
        };
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..CRC_OFFSET]).into();
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// Every rule of the envelope but the sequence, which the connection checks.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let raw = RawHeader::ref_from_bytes(bytes).expect("the length is the header's");
        if raw.magic.get() != MAGIC {
            return Err(FrameError::Magic { found: raw.magic.get() });
        }
        if raw.crc.get() != crc32c::crc32c(&bytes[..CRC_OFFSET]) {
            return Err(FrameError::Crc);
        }
        if raw.version.get() != WIRE_VERSION {
            return Err(FrameError::Version { found: raw.version.get() });
        }
        if raw.reserved.get() != 0 {
            return Err(FrameError::Reserved);
        }
        let (body_bytes, payload_bytes) = (raw.body_bytes.get(), raw.payload_bytes.get());
        if body_bytes > FRAME_BODY_MAX || payload_bytes > FRAME_PAYLOAD_MAX {
            return Err(FrameError::TooLong { body_bytes, payload_bytes });
        }
        Ok(Self {
            kind: raw.kind.get(),
            body_bytes,
            payload_bytes,
            session: Session(raw.session.get()),
            conn_nonce: ConnNonce(raw.conn_nonce),
            sequence: raw.sequence.get(),
        })
    }
}

/// A whole frame without payload: envelope and body.
pub fn frame_of(
    kind: u16,
    session: Session,
    conn_nonce: ConnNonce,
    sequence: u64,
    body: &[u8],
) -> Vec<u8> {
    let body_bytes = u32::try_from(body.len()).expect("bodies are bounded");
    let header = Header { kind, body_bytes, payload_bytes: 0, session, conn_nonce, sequence };
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: 0x0102,
            body_bytes: 24,
            payload_bytes: 4096,
            session: Session(7),
            conn_nonce: ConnNonce(*b"0123456789abcdef"),
            sequence: 9,
        }
    }

    #[test]
    fn golden_bytes_of_the_header() {
        let hex: String = header().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "535452310200020118000000001000000700000000000000\
             30313233343536373839616263646566090000000000000000000000312ba890"
        );
    }

    #[test]
    fn a_header_reads_back_and_every_damaged_bit_is_noticed() {
        let good = header().encode();
        assert_eq!(Header::decode(&good), Ok(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_allocated() {
        let mut raw = RawHeader::read_from_bytes(&header().encode()).expect("length");
        raw.payload_bytes = u32::MAX.into();
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..CRC_OFFSET]).into();
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        assert!(matches!(Header::decode(&bytes), Err(FrameError::TooLong { .. })));
    }
}
