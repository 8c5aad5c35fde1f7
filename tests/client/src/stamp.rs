//! What stands in a 512-byte block: who wrote it, in which operation, where, and a checksum.
//!
//! A block is written and read whole (PROTOCOL D1 is per 512-byte block), so any mixture of two
//! writes inside one block is damage.
//! Not here: which stamp may be read when (`linearizability`).

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512;

const MAGIC: u64 = 0x5354_414d_5045_4421;
const CRC_AT: usize = 32;
const FILL_AT: usize = 36;

/// Which write a block comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The run that wrote it.
    pub writer: u64,
    /// The operation inside the run; never 0.
    pub operation: u64,
    /// The block's number in the volume.
    pub block: u64,
}

/// What a block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing but zeros.
    Zero,
    /// A whole stamp.
    Stamp(Stamp),
    /// Neither: torn, damaged or written by something else.
    Damaged,
}

impl Stamp {
    /// Fills `block`, which is one block long.
    pub fn fill(self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a stamp fills one block");
        assert_ne!(self.operation, 0, "operation 0 means zeros");
        block[..8].copy_from_slice(&MAGIC.to_le_bytes());
        block[8..16].copy_from_slice(&self.writer.to_le_bytes());
        block[16..24].copy_from_slice(&self.operation.to_le_bytes());
        block[24..32].copy_from_slice(&self.block.to_le_bytes());
        block[CRC_AT..FILL_AT].fill(0);
        // The rest differs from block to block and write to write, so that no part of a block can
        // come from another one unnoticed.
        let mix = self.operation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.block.rotate_left(32);
        for (index, chunk) in block[FILL_AT..].chunks_mut(8).enumerate() {
            let word = mix.wrapping_add(index as u64).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        let crc = crc32c::crc32c(block);
        block[CRC_AT..FILL_AT].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Fills `data`, whole blocks from `first_block` on, with stamps of one operation.
pub fn fill_blocks(data: &mut [u8], writer: u64, operation: u64, first_block: u64) {
    for (block, bytes) in (first_block..).zip(data.chunks_mut(BLOCK_BYTES)) {
        Stamp { writer, operation, block }.fill(bytes);
    }
}

/// What `block`, one block long, says.
pub fn decode(block: &[u8]) -> Content {
    assert_eq!(block.len(), BLOCK_BYTES, "a stamp is one block long");
    let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
    if word(0) != MAGIC {
        let zero = block.iter().all(|byte| *byte == 0);
        return if zero { Content::Zero } else { Content::Damaged };
    }
    let crc = crc32c::crc32c(&block[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; FILL_AT - CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &block[FILL_AT..]);
    if crc.to_le_bytes() != block[CRC_AT..FILL_AT] || word(16) == 0 {
        return Content::Damaged;
    }
    Content::Stamp(Stamp { writer: word(8), operation: word(16), block: word(24) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_every_flipped_bit_is_damage() {
        let stamp = Stamp { writer: 7, operation: 9, block: 11 };
        let mut block = [0; BLOCK_BYTES];
        assert_eq!(decode(&block), Content::Zero);
        stamp.fill(&mut block);
        assert_eq!(decode(&block), Content::Stamp(stamp));
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&block), Content::Damaged, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_block_torn_between_two_writes_is_damage() {
        let (mut old, mut new) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
        Stamp { writer: 1, operation: 1, block: 3 }.fill(&mut old);
        Stamp { writer: 1, operation: 2, block: 3 }.fill(&mut new);
        for at in 1..BLOCK_BYTES {
            let mut torn = old;
            torn[..at].copy_from_slice(&new[..at]);
            let whole = torn == old || torn == new;
            assert_eq!(decode(&torn) == Content::Damaged, !whole, "torn at {at}");
        }
    }
}
