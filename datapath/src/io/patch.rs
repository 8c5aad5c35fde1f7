//! Changes that begin or end inside a block. Direct I/O takes whole blocks: what such a block holds
//! beside the change is read first and written again.
//!
//! Owns: the change, and what was read, until the blocks are whole.
//! Invariants: W9 nothing else on these blocks is under way (the core's locks).
//! Not here: the calls (`job`).

use std::sync::Arc;

use base::payload::PayloadBuf;
use base::range::ByteRange;
use bytes::Bytes;

use super::buffer::{BufferPool, ReadBuffer};

/// A range as direct I/O sees it. Each part may be empty; in this order they are the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    /// Up to the first whole block, or all of it if there is none.
    pub(super) head: ByteRange,
    /// Whole blocks.
    pub(super) blocks: ByteRange,
    /// Behind the last whole block.
    pub(super) tail: ByteRange,
}

impl Parts {
    /// Cuts `range` at the blocks of `block_bytes`, a power of two.
    pub(super) fn of(range: ByteRange, block_bytes: u64) -> Self {
        let blocks = range.round_in(block_bytes);
        if blocks.is_empty() {
            let nothing = ByteRange::between(range.end(), range.end());
            return Self { head: range, blocks: nothing, tail: nothing };
        }
        let head = ByteRange::between(range.offset(), blocks.offset());
        let tail = ByteRange::between(blocks.end(), range.end());
        Self { head, blocks, tail }
    }
}

/// A block of which a part stays as it is.
#[derive(Debug)]
struct Edge {
    offset: u64,
    buffer: ReadBuffer,
}

/// A change whose first or last block is not changed as a whole.
#[derive(Debug)]
pub(super) struct Patch {
    range: ByteRange,
    blocks: ByteRange,
    data: Bytes,
    /// The first block, the last one, or both: at most two.
    edges: Vec<Edge>,
}

impl Patch {
    pub(super) fn new(
        range: ByteRange,
        data: Bytes,
        block_bytes: u64,
        pool: &Arc<BufferPool>,
    ) -> Self {
        assert_eq!(data.len() as u64, range.length(), "a change has the bytes of its range");
        let blocks = range.round_out(block_bytes);
        let first = (range.offset() > blocks.offset()).then_some(blocks.offset());
        let last = (range.end() < blocks.end()).then_some(blocks.end() - block_bytes);
        let last = last.filter(|last| first != Some(*last));
        let length = usize::try_from(block_bytes).expect("a block is small");
        let edge = |offset| Edge { offset, buffer: pool.take(length) };
        Self { range, blocks, data, edges: first.into_iter().chain(last).map(edge).collect() }
    }

    /// The whole blocks that it touches.
    pub(super) fn blocks(&self) -> ByteRange {
        self.blocks
    }

    /// What is to be read next, and where in the volume it goes on.
    pub(super) fn next_read(&mut self) -> Option<(u64, &mut ReadBuffer)> {
        let edge = self.edges.iter_mut().find(|edge| !edge.buffer.is_full())?;
        Some((edge.offset + edge.buffer.filled() as u64, &mut edge.buffer))
    }

    /// The blocks with the change in them. Panics if some of the rest was not read.
    pub(super) fn into_bytes(self) -> Bytes {
        let Self { range, blocks, data, edges } = self;
        let edges: Vec<Bytes> = edges.into_iter().map(|edge| edge.buffer.freeze()).collect();
        let before = (range.offset() - blocks.offset()) as usize;
        let behind = (blocks.end() - range.end()) as usize;
        let mut whole = PayloadBuf::with_length(before + data.len() + behind);
        if let Some(first) = edges.first().filter(|_| before > 0) {
            whole.fill_from(&first[..before]);
        }
        whole.fill_from(&data);
        if let Some(last) = edges.last().filter(|_| behind > 0) {
            whole.fill_from(&last[last.len() - behind..]);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).expect("small")
    }

    #[test]
    fn a_range_is_cut_at_its_first_and_last_whole_block() {
        // Range, then the lengths of its three parts.
        for (offset, length, parts) in [
            (0, 4096, [0, 4096, 0]),
            (512, 512, [512, 0, 0]),
            (3584, 1024, [1024, 0, 0]),
            (3584, 512, [512, 0, 0]),
            (3584, 4608, [512, 4096, 0]),
            (4096, 4608, [0, 4096, 512]),
            (512, 12288, [3584, 8192, 512]),
        ] {
            let Parts { head, blocks, tail } = Parts::of(range(offset, length), 4096);
            assert_eq!([head, blocks, tail].map(ByteRange::length), parts, "{offset}+{length}");
            assert_eq!([head.offset(), tail.end()], [offset, offset + length]);
            assert_eq!([head.end(), blocks.end()], [blocks.offset(), tail.offset()]);
        }
    }

    /// Reads what a patch asks for from `disk`, `step` bytes at a time.
    fn read_all(patch: &mut Patch, disk: &[u8], step: usize) -> usize {
        let mut reads = 0;
        while let Some((offset, buffer)) = patch.next_read() {
            let space = buffer.space();
            let count = space.len().min(step);
            for (to, from) in space[..count].iter_mut().zip(&disk[offset as usize..]) {
                to.write(*from);
            }
            // SAFETY: just written.
            unsafe { buffer.advance(count) }
            reads += 1;
        }
        reads
    }

    #[test]
    fn only_blocks_that_stay_in_part_are_read() {
        let disk = vec![9; 1 << 15];
        for (offset, length, reads) in [
            (512, 512, 1),
            (0, 512, 1),
            (3584, 512, 1),
            (3584, 1024, 2),
            (512, 8192, 2),
            (4096, 8704, 1),
            (512, 7680, 1),
        ] {
            let data = Bytes::from(vec![1; length as usize]);
            let mut patch = Patch::new(range(offset, length), data, 4096, &BufferPool::new());
            assert_eq!(read_all(&mut patch, &disk, 4096), reads, "{offset}+{length}");
        }
    }

    proptest! {
        #[test]
        fn the_blocks_hold_the_change_and_what_was_around_it(
            first in 0u64..64, count in 1u64..64, step in 1usize..5000
        ) {
            let disk: Vec<u8> = (0..1u32 << 17).map(|i| (i % 251) as u8).collect();
            let range = range(first * 512, count * 512);
            let data = Bytes::from(vec![255; range.length() as usize]);
            let mut patch = Patch::new(range, data, 4096, &BufferPool::new());
            read_all(&mut patch, &disk, step);
            let blocks = patch.blocks();
            prop_assert!(blocks.contains(range) && blocks == range.round_out(4096));
            let bytes = patch.into_bytes();
            prop_assert!((bytes.as_ptr() as usize).is_multiple_of(4096));
            let mut expected = disk[blocks.offset() as usize..blocks.end() as usize].to_vec();
            let start = (range.offset() - blocks.offset()) as usize;
            expected[start..start + range.length() as usize].fill(255);
            prop_assert!(bytes == expected);
        }
    }
}
