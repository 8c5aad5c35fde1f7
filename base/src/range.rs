//! Byte ranges of a volume.

use std::fmt;

/// `length` bytes from `offset`. May be empty; `offset + length` never overflows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// The range, or `None` if its end does not fit 64 bits.
    pub const fn new(offset: u64, length: u64) -> Option<Self> {
        match offset.checked_add(length) {
            Some(_) => Some(Self { offset, length }),
            None => None,
        }
    }

    /// From `start` up to, not including, `end`. Panics if `end < start`.
    pub const fn between(start: u64, end: u64) -> Self {
        assert!(start <= end, "a range ends after it starts");
        Self { offset: start, length: end - start }
    }

    /// First byte.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes.
    pub const fn length(self) -> u64 {
        self.length
    }

    /// One past the last byte.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Whether it has no byte.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Whether the two have a byte in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end()
            && other.offset < self.end()
            && !self.is_empty()
            && !other.is_empty()
    }

    /// Whether every byte of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The smallest range of whole `unit`s that contains this one. `unit` is a power of two.
    pub const fn round_out(self, unit: u64) -> Self {
        debug_assert!(unit.is_power_of_two());
        let start = self.offset & !(unit - 1);
        let end = match self.end().checked_add(unit - 1) {
            Some(end) => end & !(unit - 1),
            None => u64::MAX,
        };
        Self::between(start, end)
    }

    /// The largest range of whole `unit`s inside this one; empty if there is none.
    pub const fn round_in(self, unit: u64) -> Self {
        debug_assert!(unit.is_power_of_two());
        let end = self.end() & !(unit - 1);
        match self.offset.checked_add(unit - 1) {
            Some(start) if (start & !(unit - 1)) < end => Self::between(start & !(unit - 1), end),
            _ => Self { offset: self.offset, length: 0 },
        }
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}+{:#x}]", self.offset, self.length)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}", self.offset, self.end())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_overflowing_range_is_refused() {
        assert!(ByteRange::new(u64::MAX, 1).is_none());
        assert!(ByteRange::new(u64::MAX, 0).is_some());
    }

    proptest! {
        #[test]
        fn overlap_is_a_common_byte(a in 0u64..40, al in 0u64..20, b in 0u64..40, bl in 0u64..20) {
            let x = ByteRange::new(a, al).expect("small");
            let y = ByteRange::new(b, bl).expect("small");
            let common = (a..a + al).any(|byte| (b..b + bl).contains(&byte));
            prop_assert_eq!(x.overlaps(y), common);
        }

        #[test]
        fn rounding_keeps_its_promise(offset in 0u64..5000, length in 0u64..5000) {
            let range = ByteRange::new(offset, length).expect("small");
            let out = range.round_out(512);
            prop_assert!(out.contains(range));
            prop_assert!(out.offset().is_multiple_of(512) && out.end().is_multiple_of(512));
            let inner = range.round_in(512);
            prop_assert!(inner.is_empty() || range.contains(inner));
            prop_assert!(inner.is_empty() || inner.offset().is_multiple_of(512) && inner.end().is_multiple_of(512));
        }
    }
}
