//! What a host asks of a volume and what it is told: the words between the NBD front end and the
//! data path, which do not know each other.

use bytes::Bytes;

use crate::ids::ClientId;
use crate::range::ByteRange;

/// One request of one attached client, unique while it is unanswered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// Who asks.
    pub client: ClientId,
    /// Which of its requests: chosen by the front end, echoed in the completion.
    pub tag: u32,
}

/// A request that the front end has checked: ranges lie inside the volume, are not empty and, for
/// reads and writes, at most `limits::REQUEST_BYTES_MAX` long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Bytes of the range.
    Read {
        /// What to read.
        range: ByteRange,
    },
    /// A change of the volume.
    Write(Write),
    /// Everything acknowledged before, on either node, survives power loss of both afterwards.
    Flush,
    /// A hint that the range will be read soon.
    Cache {
        /// What to read ahead.
        range: ByteRange,
    },
}

/// A change of the volume: WRITE, WRITE_ZEROES and TRIM (PROTOCOL 2.6 W5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Which bytes change.
    pub range: ByteRange,
    /// What they become.
    pub content: Content,
    /// Durable on both nodes before the reply.
    pub fua: bool,
}

impl Write {
    /// Bytes that it keeps in memory.
    pub fn payload_bytes(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeroes { .. } | Content::Trim => 0,
        }
    }
}

/// What a write puts there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// These bytes, as many as the range has.
    Data(Bytes),
    /// Zeros; the space stays allocated if `allocate`.
    Zeroes {
        /// NBD_CMD_FLAG_NO_HOLE.
        allocate: bool,
    },
    /// Nothing of value; reads as zeros on both nodes, or is left as it is on both.
    Trim,
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Done; nothing to return.
    Done,
    /// The bytes of a read.
    Data(Bytes),
    /// Refused or failed; nothing was promised.
    Failed(RequestError),
}

/// Why a request failed. The front end maps it to an NBD error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The backing store failed to read.
    #[error("input/output error")]
    Io,
    /// This node is stopping.
    #[error("this node is shutting down")]
    ShuttingDown,
}
