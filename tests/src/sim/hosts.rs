//! Hosts: each keeps one connection to one node and asks for reads, writes, zeroes and flushes over
//! a small hot area that all of them share.
//!
//! Owns: what each host waits for. A host whose connection was closed does not know what became of
//! its requests, and connects again.
//! Not here: what may be answered (`history.rs`).

use std::collections::{BTreeMap, VecDeque};

use base::ids::ClientId;
use base::limits::BLOCK_BYTES;
use base::range::ByteRange;
use base::request::{Content, Operation, Write};
use base::time::Instant;
use bytes::{Bytes, BytesMut};
use client::stamp;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::event::Side;
use super::history::Asked;

/// What one host asks next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) asked: Asked,
    pub(super) range: ByteRange,
    pub(super) fua: bool,
    pub(super) trim: bool,
}

/// One host.
pub(super) struct Host {
    pub(super) side: Side,
    pub(super) volume: usize,
    /// Its connection, if it has one.
    pub(super) client: Option<ClientId>,
    /// By tag: the operation's index.
    pub(super) outstanding: BTreeMap<u32, usize>,
    /// When the newest of its requests was made.
    pub(super) asked_at: Instant,
    /// Requests it is still to make of its own.
    pub(super) budget: u32,
    /// Reads it is told to make.
    pub(super) told: VecDeque<ByteRange>,
    pub(super) depth: usize,
    pub(super) next_tag: u32,
    /// A `Think` is scheduled.
    pub(super) thinking: bool,
    /// When its last request reaches the node: a connection keeps its order.
    pub(super) last_arrival: Instant,
}

impl Host {
    pub(super) fn new(side: Side, volume: usize, depth: usize) -> Self {
        Self {
            side,
            volume,
            client: None,
            outstanding: BTreeMap::new(),
            asked_at: Instant::ZERO,
            budget: 0,
            told: VecDeque::new(),
            depth,
            next_tag: 0,
            thinking: false,
            last_arrival: Instant::ZERO,
        }
    }

    pub(super) fn wants(&self) -> bool {
        self.budget > 0 || !self.told.is_empty()
    }

    /// Nothing to ask and nothing to wait for.
    pub(super) fn is_idle(&self) -> bool {
        !self.wants() && self.outstanding.is_empty()
    }

    /// The connection is gone; what was asked is not known to have happened.
    pub(super) fn disconnected(&mut self) {
        self.client = None;
        self.outstanding.clear();
    }
}

/// What all hosts of a volume do.
#[derive(Clone, Copy)]
pub(super) struct Workload {
    pub(super) size: u64,
    pub(super) hot: ByteRange,
    pub(super) large: bool,
}

impl Workload {
    pub(super) fn draw(self, rng: &mut ChaCha8Rng) -> Wish {
        let (asked, trim) = match rng.random_range(0..100) {
            0..=49 => (Asked::Write, false),
            50..=85 => (Asked::Read, false),
            86..=90 => (Asked::Zero, false),
            91..=93 => (Asked::Zero, true),
            94..=98 => (Asked::Flush, false),
            _ => (Asked::Cache, false),
        };
        let changes = matches!(asked, Asked::Write | Asked::Zero);
        let fua = changes && rng.random_bool(0.12);
        let range = match asked {
            Asked::Flush => ByteRange::default(),
            Asked::Read | Asked::Write | Asked::Zero | Asked::Cache => self.range(rng),
        };
        Wish { asked, range, fua, trim }
    }

    fn range(self, rng: &mut ChaCha8Rng) -> ByteRange {
        if self.large && rng.random_range(0..400) == 0 {
            // More than one frame between the nodes.
            let length = ((1 << 20) + 512 * rng.random_range(1..512)).min(self.size);
            let offset = (self.size - length) / BLOCK_BYTES * BLOCK_BYTES;
            return ByteRange::between(offset, offset + length);
        }
        let hot = self.hot.length() / BLOCK_BYTES;
        let blocks = match rng.random_range(0..16) {
            0..=5 => rng.random_range(1..=4),
            6..=13 => 8,
            14 => rng.random_range(1..=64),
            _ => rng.random_range(1..=128),
        };
        let blocks: u64 = hot.min(blocks);
        let mut start = rng.random_range(0..=hot - blocks);
        if rng.random_bool(0.5) {
            start = start / 8 * 8;
        }
        let offset = self.hot.offset() + start * BLOCK_BYTES;
        ByteRange::between(offset, offset + blocks * BLOCK_BYTES)
    }
}

/// The request for a wish; a write's blocks carry `id`.
pub(super) fn request(wish: Wish, volume: usize, id: u64) -> Operation {
    let Wish { asked, range, fua, trim } = wish;
    let content = match asked {
        Asked::Read => return Operation::Read { range },
        Asked::Flush => return Operation::Flush,
        Asked::Cache => return Operation::Cache { range },
        Asked::Write => Content::Data(stamped(volume, id, range)),
        Asked::Zero if trim => Content::Trim,
        Asked::Zero => Content::Zeroes { allocate: id.is_multiple_of(2) },
    };
    Operation::Write(Write { range, content, fua })
}

/// The bytes of a write.
pub(super) fn stamped(volume: usize, id: u64, range: ByteRange) -> Bytes {
    let mut data = BytesMut::zeroed(range.length() as usize);
    stamp::fill_blocks(&mut data, volume as u64, id, range.offset() / BLOCK_BYTES);
    data.freeze()
}
