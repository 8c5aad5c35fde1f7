//! First-come range locks: the whole range at once, shared for reads, exclusive for writes.
//!
//! Owns: which entries wait for which. An entry is granted when no older overlapping entry that
//! conflicts with it is left; as entries wait for older ones only, nothing can wait in a circle.
//! Not here: what a lock is held for (`writes.rs`, `reads.rs`).

use std::collections::BTreeMap;

use base::range::ByteRange;

/// Entries are found by the pieces of this many bytes that they touch.
const BUCKET_BYTES: u64 = 1 << 20;
/// An entry that touches more pieces than this is kept in a list of its own.
const BUCKETS_MAX: u64 = 64;

/// One entry, by age: a younger entry has a larger id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockId(u64);

#[derive(Debug)]
struct Entry<T> {
    range: ByteRange,
    exclusive: bool,
    /// Older conflicting entries still there.
    blockers: usize,
    owner: T,
}

/// The locks of one volume at one node. `T` says whose an entry is.
#[derive(Debug)]
pub struct RangeLocks<T> {
    entries: BTreeMap<LockId, Entry<T>>,
    buckets: BTreeMap<u64, Vec<LockId>>,
    wide: Vec<LockId>,
    next: u64,
}

impl<T: Copy> RangeLocks<T> {
    /// No entries.
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), buckets: BTreeMap::new(), wide: Vec::new(), next: 0 }
    }

    /// Adds an entry behind all others; `true` if it is granted at once.
    pub fn enter(&mut self, range: ByteRange, exclusive: bool, owner: T) -> (LockId, bool) {
        assert!(!range.is_empty(), "a lock covers at least one byte");
        let id = LockId(self.next);
        self.next += 1;
        let mut blockers = 0;
        self.visit_conflicts(range, exclusive, |_| blockers += 1);
        self.index(id, range);
        self.entries.insert(id, Entry { range, exclusive, blockers, owner });
        (id, blockers == 0)
    }

    /// Removes an entry, granted or not, and hands the owners it leaves granted to `granted`, the
    /// oldest first.
    pub fn leave(&mut self, id: LockId, granted: &mut Vec<T>) {
        let entry = self.entries.remove(&id).expect("an entry leaves once");
        self.unindex(id, entry.range);
        let mut waiting = Vec::new();
        self.visit_conflicts(entry.range, entry.exclusive, |other| {
            if other > id {
                waiting.push(other);
            }
        });
        waiting.sort_unstable();
        for other in waiting {
            let other = self.entries.get_mut(&other).expect("the index names entries");
            other.blockers -= 1;
            if other.blockers == 0 {
                granted.push(other.owner);
            }
        }
    }

    /// Whether the entry is granted.
    pub fn is_granted(&self, id: LockId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.blockers == 0)
    }

    /// Whose the oldest of the entries is that this one waits for; none if it is granted.
    pub fn oldest_before(&self, id: LockId) -> Option<T> {
        let entry = self.entries.get(&id).filter(|entry| entry.blockers > 0)?;
        let mut oldest = id;
        self.visit_conflicts(entry.range, entry.exclusive, |other| oldest = oldest.min(other));
        self.entries.get(&oldest).map(|entry| entry.owner)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn visit_conflicts(&self, range: ByteRange, exclusive: bool, mut visit: impl FnMut(LockId)) {
        let mut check = |id: LockId, bucket: Option<u64>| {
            let entry = &self.entries[&id];
            let conflicts = (exclusive || entry.exclusive) && entry.range.overlaps(range);
            // An entry that shares several buckets with the range counts in the first of them.
            let first = first_bucket(entry.range).max(first_bucket(range));
            if conflicts && bucket.is_none_or(|bucket| bucket == first) {
                visit(id);
            }
        };
        for id in &self.wide {
            check(*id, None);
        }
        for (bucket, ids) in self.buckets.range(first_bucket(range)..=last_bucket(range)) {
            for id in ids {
                check(*id, Some(*bucket));
            }
        }
    }

    fn index(&mut self, id: LockId, range: ByteRange) {
        if is_wide(range) {
            self.wide.push(id);
            return;
        }
        for bucket in first_bucket(range)..=last_bucket(range) {
            self.buckets.entry(bucket).or_default().push(id);
        }
    }

    fn unindex(&mut self, id: LockId, range: ByteRange) {
        if is_wide(range) {
            self.wide.retain(|other| *other != id);
            return;
        }
        for bucket in first_bucket(range)..=last_bucket(range) {
            let ids = self.buckets.get_mut(&bucket).expect("an entry is in its buckets");
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.buckets.remove(&bucket);
            }
        }
    }
}

impl<T: Copy> Default for RangeLocks<T> {
    fn default() -> Self {
        Self::new()
    }
}

const fn first_bucket(range: ByteRange) -> u64 {
    range.offset() / BUCKET_BYTES
}

const fn last_bucket(range: ByteRange) -> u64 {
    (range.end() - 1) / BUCKET_BYTES
}

const fn is_wide(range: ByteRange) -> bool {
    last_bucket(range) - first_bucket(range) >= BUCKETS_MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).expect("small")
    }

    #[test]
    fn readers_share_and_a_writer_waits_its_turn() {
        let mut locks = RangeLocks::new();
        let (r1, granted) = locks.enter(range(0, 4096), false, 1);
        assert!(granted);
        let (r2, granted) = locks.enter(range(512, 512), false, 2);
        assert!(granted);
        let (w, granted) = locks.enter(range(0, 1024), true, 3);
        assert!(!granted);
        let (r3, granted) = locks.enter(range(0, 512), false, 4);
        assert!(!granted, "a younger reader does not overtake a waiting writer");
        let mut now = Vec::new();
        locks.leave(r1, &mut now);
        assert!(now.is_empty());
        locks.leave(r2, &mut now);
        assert_eq!(now, [3]);
        now.clear();
        locks.leave(w, &mut now);
        assert_eq!(now, [4]);
        locks.leave(r3, &mut now);
        assert!(locks.is_empty() && locks.buckets.is_empty());
    }

    /// The same rule, in the plainest words.
    struct Naive(Vec<(LockId, ByteRange, bool)>);

    impl Naive {
        fn granted(&self, id: LockId) -> bool {
            let (_, range, exclusive) = *self.0.iter().find(|e| e.0 == id).expect("there");
            !self.0.iter().any(|e| e.0 < id && (e.2 || exclusive) && e.1.overlaps(range))
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model(
            steps in prop::collection::vec((0u64..40, 1u64..200, any::<bool>(), any::<u8>()), 1..120)
        ) {
            const UNIT: u64 = BUCKET_BYTES / 2;
            let mut locks = RangeLocks::new();
            let mut naive = Naive(Vec::new());
            for (offset, length, exclusive, choice) in steps {
                if choice < 100 && !naive.0.is_empty() {
                    let (id, ..) = naive.0.remove(choice as usize % naive.0.len());
                    let before: Vec<_> =
                        naive.0.iter().filter(|e| !locks.is_granted(e.0)).map(|e| e.0).collect();
                    let mut granted = Vec::new();
                    locks.leave(id, &mut granted);
                    let expected: Vec<_> =
                        before.into_iter().filter(|id| naive.granted(*id)).map(|id| id.0).collect();
                    prop_assert_eq!(granted, expected);
                } else {
                    let range = range(offset * UNIT, length * UNIT);
                    let owner = locks.next;
                    let (id, granted) = locks.enter(range, exclusive, owner);
                    naive.0.push((id, range, exclusive));
                    prop_assert_eq!(granted, naive.granted(id));
                }
                for (id, ..) in &naive.0 {
                    prop_assert_eq!(locks.is_granted(*id), naive.granted(*id));
                }
            }
        }
    }
}
