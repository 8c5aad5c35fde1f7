//! Which regions of a volume the target does not have, as far as the source knows.
//!
//! Owns: one bit a region, and where the search for the next one goes on.
//! Not here: copies under way (`resync.rs`), what is durable of it (nothing).

use std::ops::RangeInclusive;

use base::limits::REGION_BYTES;
use base::range::ByteRange;

const WORD_BITS: u64 = u64::BITS as u64;

/// The dirty regions of one volume.
#[derive(Debug)]
pub(crate) struct Regions {
    size: u64,
    words: Vec<u64>,
    dirty: u64,
    /// Where the search begins, so that each gets its turn.
    next: u64,
}

impl Regions {
    /// All of them dirty, or none.
    pub(crate) fn new(size: u64, all: bool) -> Self {
        let count = size.div_ceil(REGION_BYTES);
        let words = usize::try_from(count.div_ceil(WORD_BITS)).expect("a volume is not that large");
        let mut regions = Self { size, words: vec![0; words], dirty: 0, next: 0 };
        if all {
            (0..count).for_each(|region| regions.mark(region));
        }
        regions
    }

    /// The bytes of a region; the last one may be short.
    pub(crate) fn range(&self, region: u64) -> ByteRange {
        let start = region * REGION_BYTES;
        ByteRange::between(start, self.size.min(start + REGION_BYTES))
    }

    /// The regions that a range has bytes in.
    pub(crate) fn touched(range: ByteRange) -> RangeInclusive<u64> {
        assert!(!range.is_empty(), "a write changes at least one byte");
        range.offset() / REGION_BYTES..=(range.end() - 1) / REGION_BYTES
    }

    /// How many are dirty.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty
    }

    pub(crate) fn is_dirty(&self, region: u64) -> bool {
        let (word, bit) = place(region);
        self.words[word] & bit != 0
    }

    pub(crate) fn mark(&mut self, region: u64) {
        let (word, bit) = place(region);
        self.dirty += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    pub(crate) fn clear(&mut self, region: u64) {
        let (word, bit) = place(region);
        self.dirty -= u64::from(self.words[word] & bit != 0);
        self.words[word] &= !bit;
    }

    /// The next dirty region that `skip` does not name, round and round.
    pub(crate) fn next_dirty(&mut self, skip: impl Fn(u64) -> bool) -> Option<u64> {
        if self.dirty == 0 {
            return None;
        }
        let all = self.words.len() as u64 * WORD_BITS;
        let found = self
            .dirty_from(self.next, all)
            .find(|region| !skip(*region))
            .or_else(|| self.dirty_from(0, self.next).find(|region| !skip(*region)))?;
        self.next = found + 1;
        Some(found)
    }

    fn dirty_from(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let first = from / WORD_BITS;
        let words = first..to.div_ceil(WORD_BITS);
        words.flat_map(move |index| {
            let mut word = self.words[index as usize];
            if index == first {
                word &= u64::MAX << (from % WORD_BITS);
            }
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| u64::from(word.trailing_zeros()))?;
                word &= word - 1;
                Some(index * WORD_BITS + bit)
            })
        })
    }
}

fn place(region: u64) -> (usize, u64) {
    let word = usize::try_from(region / WORD_BITS).expect("a region of the volume");
    (word, 1 << (region % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_region_is_as_long_as_the_volume() {
        let regions = Regions::new(2 * REGION_BYTES + 512, true);
        assert_eq!(regions.dirty(), 3);
        assert_eq!(regions.range(2), ByteRange::between(2 * REGION_BYTES, 2 * REGION_BYTES + 512));
        let both = ByteRange::between(REGION_BYTES - 512, REGION_BYTES + 512);
        assert_eq!(Regions::touched(both), 0..=1);
        assert_eq!(Regions::touched(ByteRange::between(0, REGION_BYTES)), 0..=0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec((0u64..200, 0u8..4), 1..200)) {
            let mut regions = Regions::new(200 * REGION_BYTES, false);
            let mut set = BTreeSet::new();
            let mut next = 0;
            for (region, step) in steps {
                match step {
                    0 | 1 => {
                        regions.mark(region);
                        set.insert(region);
                    }
                    2 => {
                        regions.clear(region);
                        set.remove(&region);
                    }
                    _ => {
                        let skipped = |found: &u64| *found % 7 == region % 7;
                        let after = set.range(next..).chain(set.range(..next));
                        let expected = after.copied().find(|found| !skipped(found));
                        prop_assert_eq!(regions.next_dirty(|found| skipped(&found)), expected);
                        next = expected.map_or(next, |found| found + 1);
                    }
                }
                prop_assert_eq!(regions.dirty(), set.len() as u64);
                prop_assert_eq!(regions.is_dirty(region), set.contains(&region));
            }
        }
    }
}
