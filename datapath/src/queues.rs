//! How long a queue is and how long it may be: for those who look at a core from outside.

use base::limits::{CLIENT_PIECE_MAX, NBD_REQUEST_BYTES, REQUEST_BYTES_MAX};
use base::limits::{VOLUME_BYTES_MAX, WRITES_MAX};

/// Requests of hosts at one volume: the limit, and what one piece of input may bring above it.
pub(crate) const REQUESTS_MAX: usize = WRITES_MAX + CLIENT_PIECE_MAX / NBD_REQUEST_BYTES;
/// Their bytes, likewise.
pub(crate) const REQUEST_BYTES_SUM_MAX: u64 = VOLUME_BYTES_MAX + REQUEST_BYTES_MAX as u64;

/// Something that fills and empties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// What waits there.
    pub name: &'static str,
    /// How much there is now, in pieces or bytes as the name says.
    pub length: u64,
    /// How much there may be after a turn.
    pub max: u64,
}

impl Queue {
    /// Of things that are counted.
    pub fn of(name: &'static str, length: usize, max: usize) -> Self {
        Self { name, length: length as u64, max: max as u64 }
    }

    /// Of bytes.
    pub const fn of_bytes(name: &'static str, length: u64, max: u64) -> Self {
        Self { name, length, max }
    }
}
