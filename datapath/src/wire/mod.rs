//! Data frames between the two nodes of a pair: one connection per volume.
//!
//! Messages are what a volume core sees; one message is one frame, but a write larger than a
//! frame's payload is several (PROTOCOL 2.6 W5), split and joined here.
//! Layouts are in `docs/WIRE.md`. Not here: control frames (`control-plane/src/wire`).

mod decode;
mod encode;

pub use decode::{Incoming, LinkDecoder};
pub use encode::LinkEncoder;

use base::range::ByteRange;
use base::request::Write;
use bytes::Bytes;

/// A mirrored write of the orderer's own host.
pub(crate) const KIND_REPL: u16 = 0x101;
pub(crate) const KIND_WRITE_REQUEST: u16 = 0x102;
pub(crate) const KIND_ORDERED: u16 = 0x103;
pub(crate) const KIND_ACK: u16 = 0x104;
pub(crate) const KIND_APPLIED: u16 = 0x105;
pub(crate) const KIND_COMMIT: u16 = 0x106;
pub(crate) const KIND_NAK: u16 = 0x107;
pub(crate) const KIND_FLUSH: u16 = 0x108;
pub(crate) const KIND_FLUSH_ACK: u16 = 0x109;
pub(crate) const KIND_DIGEST_REQUEST: u16 = 0x201;
pub(crate) const KIND_DIGESTS: u16 = 0x202;
pub(crate) const KIND_SYNC_BLOCK: u16 = 0x203;
pub(crate) const KIND_SYNC_BLOCK_ACK: u16 = 0x204;

/// One message of the data link (PROTOCOL 2.13).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataMessage {
    /// Orderer to follower: apply this write of mine, it has place `seq`.
    Repl {
        /// Its place.
        seq: u64,
        /// The write.
        write: Write,
    },
    /// Follower to orderer: give this write of mine a place.
    WriteRequest {
        /// The follower's own number for it: 0, 1, 2 ... in a session.
        fid: u64,
        /// The write.
        write: Write,
    },
    /// Orderer to follower: these writes of yours have these places: (fid, seq).
    Ordered(Vec<(u64, u64)>),
    /// Follower to orderer: these writes of yours are applied here.
    Ack(Vec<u64>),
    /// Orderer to follower: these writes of yours are applied here.
    Applied(Vec<u64>),
    /// About the sender's own writes: all up to `watermark` and those in `more` are on both copies.
    Commit {
        /// All of the sender's own writes up to this place.
        watermark: u64,
        /// Later ones.
        more: Vec<u64>,
    },
    /// The sender's disk failed on this write of the receiver, and its record says so (W8).
    Nak {
        /// The write's place.
        seq: u64,
    },
    /// Make everything applied so far durable.
    Flush {
        /// Echoed in the answer.
        id: u64,
    },
    /// It is.
    FlushAck {
        /// Of the request.
        id: u64,
    },
    /// Source to target: the digests of these bytes, per `limits::DIGEST_BLOCK_BYTES`.
    DigestRequest {
        /// Echoed in the answer.
        id: u64,
        /// Which bytes.
        range: ByteRange,
    },
    /// Target to source.
    Digests {
        /// Of the request.
        id: u64,
        /// xxh3-128 with the seed of the join.
        digests: Vec<u128>,
    },
    /// Source to target: these bytes differ, write this.
    SyncBlock {
        /// Of the digest request they belong to.
        id: u64,
        /// Which bytes.
        range: ByteRange,
        /// What to write; `None` for zeros.
        data: Option<Bytes>,
    },
    /// Target to source: written.
    SyncBlockAck {
        /// Of the block.
        id: u64,
    },
}

#[cfg(test)]
mod tests;
