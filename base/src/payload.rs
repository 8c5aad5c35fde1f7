//! Payload buffers: page-aligned, filled once, then shared without copying.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::{PAGE_BYTES, WHOLE_BLOCKS_BYTES_MAX};

/// A payload being received: room for exactly `length` bytes whose first byte lies on a page
/// boundary, so that it can be written with direct I/O as it is.
#[derive(Debug)]
pub struct PayloadBuf {
    bytes: BytesMut,
    length: usize,
}

impl PayloadBuf {
    /// Room for `length` bytes. Panics above the largest request in whole blocks: callers check what
    /// a client or peer asks for before they allocate.
    pub fn with_length(length: usize) -> Self {
        assert!(
            length <= WHOLE_BLOCKS_BYTES_MAX as usize,
            "a payload is checked before it is allocated"
        );
        let mut bytes = BytesMut::with_capacity(length + PAGE_BYTES);
        let offset = bytes.as_ptr().align_offset(PAGE_BYTES);
        bytes.put_bytes(0, offset);
        let _ = bytes.split_to(offset);
        debug_assert!(bytes.capacity() >= length);
        Self { bytes, length }
    }

    /// Bytes still missing.
    pub fn missing(&self) -> usize {
        self.length - self.bytes.len()
    }

    /// Takes from `input` what still fits and returns how much that was.
    pub fn fill_from(&mut self, input: &[u8]) -> usize {
        let count = input.len().min(self.missing());
        self.bytes.extend_from_slice(&input[..count]);
        count
    }

    /// Lets `fill` write into the missing part; it returns how many bytes it wrote.
    ///
    /// # Errors
    /// Whatever `fill` returns; nothing is added then.
    pub fn fill_with<E>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.bytes.len();
        self.bytes.resize(self.length, 0);
        match fill(&mut self.bytes[start..]) {
            Ok(count) => {
                self.bytes.truncate(start + count);
                Ok(count)
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// The whole payload. Panics if bytes are missing.
    pub fn freeze(self) -> Bytes {
        assert_eq!(self.missing(), 0, "a payload is whole before it is used");
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_aligned_and_filled_in_steps() {
        for length in [0usize, 1, 511, 4096, 70_000] {
            let mut buf = PayloadBuf::with_length(length);
            let half = vec![7u8; length / 2];
            assert_eq!(buf.fill_from(&half), half.len());
            let count = buf.fill_with(|space| {
                space.fill(9);
                Ok::<_, ()>(space.len())
            });
            assert_eq!(count, Ok(length - half.len()));
            let bytes = buf.freeze();
            assert_eq!(bytes.len(), length);
            assert!(length == 0 || bytes.as_ptr().align_offset(PAGE_BYTES) == 0);
            assert!(bytes[..half.len()].iter().all(|b| *b == 7));
            assert!(bytes[half.len()..].iter().all(|b| *b == 9));
        }
    }
}
