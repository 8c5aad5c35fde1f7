//! Memory for reads: page-aligned, not cleared before the kernel fills it, and used again.
//!
//! Owns: blocks of memory that are free. A large read into fresh memory costs a page fault every
//! 4 KiB, which is dearer than the copy itself; so blocks come back here when the last `Bytes` that
//! looks into them is dropped, on whatever thread that is.
//! Invariants: a byte can be read from a block only after the kernel or a copy has written it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use base::limits::{PAGE_BYTES, WHOLE_BLOCKS_BYTES_MAX};
use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

/// Blocks of 4 KiB, 8 KiB and so on up to 1 MiB are kept; larger ones go back to the allocator.
const CLASSES: usize = 9;
/// Bytes kept of each small class, at most.
const CLASS_BYTES_MAX: usize = 1 << 20;
/// Blocks kept of each class, at least: a queue of 1 MiB reads is 8 deep in common tools.
const CLASS_BLOCKS_MIN: usize = 12;
/// What one volume keeps, at most: all classes full.
const KEPT_BYTES_MAX: usize = 28 << 20;
const _: () = {
    let (mut class, mut bytes) = (0, 0);
    while class < CLASSES {
        bytes += class_blocks_max(class) * class_bytes(class);
        class += 1;
    }
    assert!(bytes <= KEPT_BYTES_MAX, "what is kept has a bound in bytes");
};

/// The free blocks of one engine.
#[derive(Debug)]
pub(super) struct BufferPool {
    classes: [ArrayQueue<Block>; CLASSES],
}

impl BufferPool {
    pub(super) fn new() -> Arc<Self> {
        let classes = std::array::from_fn(|class| ArrayQueue::new(class_blocks_max(class)));
        Arc::new(Self { classes })
    }

    /// Room for a read of `length` bytes, which is at most the largest request in whole blocks.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> ReadBuffer {
        assert!(
            0 < length && length <= WHOLE_BLOCKS_BYTES_MAX as usize,
            "a read has a checked length"
        );
        let capacity = length.next_power_of_two().max(PAGE_BYTES);
        let kept = self.class(capacity).and_then(ArrayQueue::pop);
        let block = kept.unwrap_or_else(|| Block::new(capacity));
        ReadBuffer { block, length, filled: 0, pool: self.clone() }
    }

    fn give_back(&self, block: Block) {
        if let Some(class) = self.class(block.capacity) {
            // A full class refuses the block, which frees it.
            let _ = class.push(block);
        }
    }

    fn class(&self, capacity: usize) -> Option<&ArrayQueue<Block>> {
        let class = (capacity / PAGE_BYTES).trailing_zeros() as usize;
        self.classes.get(class)
    }
}

const fn class_bytes(class: usize) -> usize {
    PAGE_BYTES << class
}

const fn class_blocks_max(class: usize) -> usize {
    let blocks = CLASS_BYTES_MAX / class_bytes(class);
    if blocks < CLASS_BLOCKS_MIN { CLASS_BLOCKS_MIN } else { blocks }
}

/// A read's destination while the read is under way.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    block: Block,
    length: usize,
    filled: usize,
    pool: Arc<BufferPool>,
}

impl ReadBuffer {
    /// What is still to be read.
    pub(super) fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the block has at least `length` bytes and belongs to us alone; `MaybeUninit`
        // asks for no initialised contents.
        let whole = unsafe {
            slice::from_raw_parts_mut(
                self.block.start.as_ptr().cast::<MaybeUninit<u8>>(),
                self.length,
            )
        };
        &mut whole[self.filled..]
    }

    /// Bytes read so far.
    pub(super) const fn filled(&self) -> usize {
        self.filled
    }

    /// Counts `count` more bytes as read.
    ///
    /// # Safety
    /// The first `count` bytes of [`Self::space`] have been written.
    pub(super) unsafe fn advance(&mut self, count: usize) {
        assert!(count <= self.length - self.filled, "no more is read than was asked for");
        self.filled += count;
    }

    pub(super) const fn is_full(&self) -> bool {
        self.filled == self.length
    }

    /// The bytes read. Panics if some are missing.
    pub(super) fn freeze(self) -> Bytes {
        assert!(self.is_full(), "a read is whole before it is used");
        let Self { block, length, pool, .. } = self;
        Bytes::from_owner(Filled { block: Some(block), length, pool })
    }
}

/// A whole read, owned by the `Bytes` that were made from it.
struct Filled {
    block: Option<Block>,
    length: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        let block = self.block.as_ref().expect("the block is there until drop");
        // SAFETY: `freeze` made sure that all `length` bytes are initialised, the block lives as
        // long as `self`, and nobody writes to it any more.
        unsafe { slice::from_raw_parts(block.start.as_ptr(), self.length) }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block);
        }
    }
}

/// Page-aligned memory with unknown contents.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is the only owner of its memory and gives out no references by itself.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` allows nothing.
unsafe impl Sync for Block {}

impl Block {
    fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero: capacities are at least a page.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        assert!(capacity >= PAGE_BYTES, "a block has at least a page");
        Layout::from_size_align(capacity, PAGE_BYTES).expect("the largest request fits a layout")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut ReadBuffer, count: usize, value: u8) {
        for byte in &mut buffer.space()[..count] {
            byte.write(value);
        }
        // SAFETY: just written.
        unsafe { buffer.advance(count) }
    }

    #[test]
    fn a_buffer_is_aligned_and_filled_in_steps() {
        let pool = BufferPool::new();
        for length in [1usize, 512, 4096, 4097, 1 << 20, 3 << 20] {
            let mut buffer = pool.take(length);
            fill(&mut buffer, length / 2, 7);
            fill(&mut buffer, length - length / 2, 9);
            let bytes = buffer.freeze();
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes.as_ptr().align_offset(PAGE_BYTES), 0);
            assert!(bytes[..length / 2].iter().all(|b| *b == 7));
            assert!(bytes[length / 2..].iter().all(|b| *b == 9));
        }
    }

    #[test]
    fn memory_comes_back_when_the_last_reader_is_gone() {
        let pool = BufferPool::new();
        let mut buffer = pool.take(4096);
        let address = buffer.space().as_ptr() as usize;
        fill(&mut buffer, 4096, 1);
        let whole = buffer.freeze();
        let part = whole.slice(100..200);
        drop(whole);
        assert_ne!(pool.take(4096).space().as_ptr() as usize, address, "still looked at");
        assert_eq!(part[0], 1);
        drop(part);
        assert_eq!(pool.take(4096).space().as_ptr() as usize, address);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = BufferPool::new();
        let many: Vec<_> = (0..1000)
            .map(|_| {
                let mut buffer = pool.take(4096);
                fill(&mut buffer, 4096, 0);
                buffer.freeze()
            })
            .collect();
        drop(many);
        assert_eq!(pool.classes[0].len(), CLASS_BYTES_MAX / PAGE_BYTES);
    }

    #[test]
    #[should_panic(expected = "a read is whole before it is used")]
    fn a_half_read_is_never_shown() {
        let pool = BufferPool::new();
        let mut buffer = pool.take(8192);
        fill(&mut buffer, 4096, 3);
        buffer.freeze();
    }
}
