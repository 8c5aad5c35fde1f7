//! First-come range locks: the whole range at once, shared for reads, exclusive for writes.
//!
//! Owns: which entries wait for which. An entry is granted when no older overlapping entry that
//! conflicts with it is left; as entries wait for older ones only, nothing can wait in a circle.
//! An entry that is not granted is looked at again only when the youngest of those that it waits
//! for leaves: with first come, first served that is mostly the last of them.
//! Not here: what a lock is held for (`writes.rs`, `reads.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use base::range::ByteRange;

/// One entry, by age: a younger entry has a larger id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockId(u64);

#[derive(Debug)]
struct Entry<T> {
    range: ByteRange,
    exclusive: bool,
    /// The youngest of the older conflicting entries when it was looked for; none if granted.
    waits_for: Option<LockId>,
    owner: T,
}

/// The locks of one volume at one node. `T` says whose an entry is.
#[derive(Debug)]
pub struct RangeLocks<T> {
    entries: BTreeMap<LockId, Entry<T>>,
    exclusive: Index,
    shared: Index,
    /// Who is waited for, and by whom.
    waiting: BTreeSet<(LockId, LockId)>,
    next: u64,
}

impl<T: Copy> RangeLocks<T> {
    /// No entries.
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            exclusive: Index::default(),
            shared: Index::default(),
            waiting: BTreeSet::new(),
            next: 0,
        }
    }

    /// Adds an entry behind all others; `true` if it is granted at once.
    pub fn enter(&mut self, range: ByteRange, exclusive: bool, owner: T) -> (LockId, bool) {
        assert!(!range.is_empty(), "a lock covers at least one byte");
        let id = LockId(self.next);
        self.next += 1;
        let waits_for = self.youngest_conflict(range, exclusive, id);
        self.waiting.extend(waits_for.map(|older| (older, id)));
        self.index(exclusive).keys.insert(Key::new(range, id));
        self.entries.insert(id, Entry { range, exclusive, waits_for, owner });
        (id, waits_for.is_none())
    }

    /// Removes an entry, granted or not, and hands the owners it leaves granted to `granted`, the
    /// oldest first.
    pub fn leave(&mut self, id: LockId, granted: &mut Vec<T>) {
        let entry = self.entries.remove(&id).expect("an entry leaves once");
        self.index(entry.exclusive).keys.remove(&Key::new(entry.range, id));
        if let Some(older) = entry.waits_for {
            self.waiting.remove(&(older, id));
        }
        for waiter in self.waiting_for(id).collect::<Vec<_>>() {
            self.waiting.remove(&(id, waiter));
            let Entry { range, exclusive, .. } = self.entries[&waiter];
            let waits_for = self.youngest_conflict(range, exclusive, waiter);
            self.waiting.extend(waits_for.map(|older| (older, waiter)));
            let entry = self.entries.get_mut(&waiter).expect("just found");
            entry.waits_for = waits_for;
            if waits_for.is_none() {
                granted.push(entry.owner);
            }
        }
    }

    /// Whether the entry is granted.
    pub fn is_granted(&self, id: LockId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.waits_for.is_none())
    }

    /// Whose the oldest of the entries is that this one waits for; none if it is granted.
    pub fn oldest_before(&self, id: LockId) -> Option<T> {
        let entry = self.entries.get(&id).filter(|entry| entry.waits_for.is_some())?;
        let conflicts = self.indexes(entry.exclusive);
        let oldest = conflicts.filter_map(|index| index.oldest(entry.range)).min()?;
        assert!(oldest < id, "who waits, waits for an older one");
        self.entries.get(&oldest).map(|entry| entry.owner)
    }

    /// Whether an exclusive entry, granted or not, overlaps `range`.
    pub fn is_changing(&self, range: ByteRange) -> bool {
        self.exclusive.oldest(range).is_some()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn youngest_conflict(&self, range: ByteRange, exclusive: bool, than: LockId) -> Option<LockId> {
        self.indexes(exclusive).filter_map(|index| index.youngest_before(range, than)).max()
    }

    /// Who is looked at again when `id` leaves, the oldest first.
    fn waiting_for(&self, id: LockId) -> impl Iterator<Item = LockId> {
        let end = LockId(id.0 + 1);
        self.waiting.range((id, LockId(0))..(end, LockId(0))).map(|(_, waiter)| *waiter)
    }

    /// Where conflicts are found.
    fn indexes(&self, exclusive: bool) -> impl Iterator<Item = &Index> {
        iter::once(&self.exclusive).chain(exclusive.then_some(&self.shared))
    }

    fn index(&mut self, exclusive: bool) -> &mut Index {
        if exclusive { &mut self.exclusive } else { &mut self.shared }
    }
}

impl<T: Copy> Default for RangeLocks<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Entries by size class, place and age. An entry that reaches into a range begins less than its
/// class's size before it, so that of each class only a window is looked at, and of entries with
/// equal ranges only one.
#[derive(Default, Debug)]
struct Index {
    keys: BTreeSet<Key>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    /// The power of two that is not below the length.
    class: u32,
    offset: u64,
    length: u64,
    id: LockId,
}

impl Key {
    const MIN: Self = Self { class: 0, offset: 0, length: 0, id: LockId(0) };

    fn new(range: ByteRange, id: LockId) -> Self {
        let (offset, length) = (range.offset(), range.length());
        Self { class: length.next_power_of_two().trailing_zeros(), offset, length, id }
    }

    const fn overlaps(&self, range: ByteRange) -> bool {
        self.offset < range.end() && range.offset() < self.offset + self.length
    }
}

impl Index {
    fn oldest(&self, range: ByteRange) -> Option<LockId> {
        self.near(range).filter(|key| key.overlaps(range)).map(|key| key.id).min()
    }

    fn youngest_before(&self, range: ByteRange, than: LockId) -> Option<LockId> {
        let older = self.near(range).filter(|key| key.overlaps(range) && key.id < than);
        let youngest = |oldest| self.keys.range(oldest..Key { id: than, ..oldest }).next_back();
        older.filter_map(youngest).map(|key| key.id).max()
    }

    /// All that is looked at to find what overlaps `range`: the oldest of each range that does,
    /// and of few that do not.
    fn near(&self, range: ByteRange) -> impl Iterator<Item = Key> {
        let mut from = Key::MIN;
        iter::from_fn(move || {
            let found = *self.keys.range(from..).next()?;
            let lowest = (range.offset() + 1).saturating_sub(1 << found.class);
            from = if found.offset < lowest {
                Key { class: found.class, offset: lowest, ..Key::MIN }
            } else if found.offset >= range.end() {
                Key { class: found.class + 1, ..Key::MIN }
            } else {
                Key { length: found.length + 1, id: LockId(0), ..found }
            };
            Some(found)
        })
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
        assert!(
            locks.is_empty()
                && locks.waiting.is_empty()
                && locks.exclusive.keys.is_empty()
                && locks.shared.keys.is_empty()
        );
    }

    /// The same rule, in the plainest words.
    struct Naive(Vec<(LockId, ByteRange, bool)>);

    impl Naive {
        fn granted(&self, id: LockId) -> bool {
            let (_, range, exclusive) = *self.0.iter().find(|e| e.0 == id).expect("there");
            !self.0.iter().any(|e| e.0 < id && (e.2 || exclusive) && e.1.overlaps(range))
        }
    }

    impl Naive {
        fn oldest_before(&self, id: LockId) -> Option<u64> {
            let (_, range, exclusive) = *self.0.iter().find(|e| e.0 == id).expect("there");
            let conflicts = |e: &&(LockId, ByteRange, bool)| {
                e.0 < id && (e.2 || exclusive) && e.1.overlaps(range)
            };
            self.0.iter().find(conflicts).map(|e| e.0.0)
        }
    }

    type Step = (u64, u64, bool, u8);

    fn steps(offsets: u64, lengths: u64) -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec((0..offsets, 1..lengths, any::<bool>(), any::<u8>()), 1..120)
    }

    fn agrees(steps: Vec<Step>, unit: u64) -> Result<(), TestCaseError> {
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
                let range = range(offset * unit, length * unit);
                let owner = locks.next;
                let (id, granted) = locks.enter(range, exclusive, owner);
                naive.0.push((id, range, exclusive));
                prop_assert_eq!(granted, naive.granted(id));
            }
            for (id, ..) in &naive.0 {
                prop_assert_eq!(locks.is_granted(*id), naive.granted(*id));
                prop_assert_eq!(locks.oldest_before(*id), naive.oldest_before(*id));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model(steps in steps(40, 200)) {
            agrees(steps, 1 << 19)?;
        }

        #[test]
        fn agrees_with_the_naive_model_about_small_ranges(steps in steps(24, 6)) {
            agrees(steps, 512)?;
        }
    }

    const MANY: u64 = 8000;

    /// How many entries are looked at for one that enters and leaves, on average, when all
    /// `ranges` enter and then leave, the oldest first.
    fn looked_at(ranges: impl Iterator<Item = ByteRange>) -> u64 {
        let mut locks = RangeLocks::new();
        let (mut looked, mut count) = (0, 0);
        let mut ids = Vec::new();
        for range in ranges {
            looked += locks.exclusive.near(range).count();
            ids.push(locks.enter(range, true, count).0);
            count += 1;
        }
        for id in ids {
            assert!(locks.is_granted(id), "the oldest is granted");
            let again = locks.waiting_for(id).map(|id| locks.entries[&id].range);
            looked += again.map(|range| locks.exclusive.near(range).count()).sum::<usize>();
            locks.leave(id, &mut Vec::new());
        }
        assert!(locks.is_empty());
        looked as u64 / count
    }

    #[test]
    fn what_is_looked_at_does_not_grow_with_what_is_there() {
        let blocks = looked_at((0..MANY).map(|n| range(n * 7 % 2048 * 512, 512)));
        assert!(blocks <= 8, "{blocks} for 8,000 blocks in one MiB");
        let pages = looked_at((0..MANY).map(|n| range(n * 7 % 2048 * 512, 4096)));
        assert!(pages <= 60, "{pages} for 8,000 pages that overlap 15 places each");
        let same = looked_at((0..MANY).map(|_| range(4096, 3072)));
        assert!(same <= 8, "{same} for 8,000 equal ranges");
        let mixed = looked_at((0..MANY).map(|n| range(n * 7 % 2000 * 512, 512 << (n % 4))));
        assert!(mixed <= 60, "{mixed} for 8,000 ranges of four sizes");
    }
}
