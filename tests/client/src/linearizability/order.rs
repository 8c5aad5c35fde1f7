//! Orders the operations on one block, or shows that they have no order.
//! Owns: the operations and clusters of the block at hand.
//! Not here: splitting requests into blocks, what a violation says (the parent).
//!
//! An *item* is a cluster (one value: its write and its reads), a zeroing, or a read of zeros. Item
//! X must come before Y if X.first_end < Y.last_begin; Y is *free* when no unplaced item has to come
//! before it. Placing a free item never makes another one less free. Steps, with the reason why
//! none of them can turn a history that has an order into one that has none:
//! 1. The block holds zeros: place free reads of zeros (they change nothing).
//! 2. Holds anything else: place free clusters. Taken out of their later place they
//!    disturb nothing there, and here they disturb nothing.
//! 3. Holds zeros and no read is free: place a free cluster, before any zeroing. An order that
//!    spends a zeroing here instead is as good with the clusters moved in front of that zeroing.
//! 4. Holds something else and no cluster is free: only a zeroing can follow. All free zeroings are
//!    equal but for when they have to be placed, so the one that has to be placed first.
//!    One that never ended comes last of all.
//! 5. Holds zeros and only zeroings are free: place the one that has to be placed first.
//!
//! A zeroing that may not have happened (`Kind::MayZero`) holds nobody up, but is lost once an item
//! is placed that began after its end. So while one is free, only items that do not lose it are
//! placed; when those are used up it is spent if the block holds something else (an additional
//! zeroing harms nobody), and forgotten if the block holds zeros.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Kind, Operation, Value, Violation};

const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Cluster,
    ZeroRead,
    Zeroing,
    MayZero,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    role: Role,
    /// The earliest end of its operations.
    first_end: u64,
    /// The latest beginning of its operations.
    last_begin: u64,
    /// The operations of these two times.
    first_end_by: usize,
    last_begin_by: usize,
    placed: bool,
}

/// The part of an operation that lies on one block.
#[derive(Clone, Copy)]
struct Access {
    value: Value,
    is_read: bool,
    operation: usize,
    invoke: u64,
    end: u64,
}

/// Free items by the time that decides among them, earliest first.
type ByTime = BinaryHeap<Reverse<(u64, usize)>>;

/// See the module. Reused from block to block for its buffers.
#[derive(Default)]
pub(super) struct Register {
    block: u64,
    items: Vec<Item>,
    valued: Vec<Access>,
    /// Items by `last_begin`, the order in which they become free.
    by_begin: Vec<usize>,
    next_begin: usize,
    /// Items that hold others up, by `first_end`.
    by_end: Vec<usize>,
    next_end: usize,
    after_next_end: usize,
    free_reads: ByTime,
    free_clusters: ByTime,
    free_zeroings: ByTime,
    free_may_zero: ByTime,
    /// The latest `last_begin` placed so far.
    latest_placed: u64,
    zero: bool,
    last_cluster: Option<usize>,
}

impl Register {
    /// Takes the accesses of `operations[indices]` to `block`, in place of whatever it held.
    pub(super) fn load(
        &mut self,
        operations: &[Operation],
        block: u64,
        indices: impl Iterator<Item = usize>,
    ) -> Result<(), Violation> {
        self.block = block;
        self.items.clear();
        self.valued.clear();
        for index in indices {
            self.load_one(&operations[index], index);
        }
        self.build_clusters()?;
        self.reset_order();
        Ok(())
    }

    fn load_one(&mut self, operation: &Operation, index: usize) {
        let invoke = operation.invoke;
        let end = operation.end.unwrap_or(NEVER);
        let access = |value, is_read| Access { value, is_read, operation: index, invoke, end };
        let role = match &operation.kind {
            Kind::Write(id) => {
                self.valued.push(access(Value::written(*id), false));
                return;
            }
            Kind::Read(values) => {
                let at = usize::try_from(self.block - operation.blocks.start).expect("in range");
                if values[at] != Value::ZERO {
                    self.valued.push(access(values[at], true));
                    return;
                }
                Role::ZeroRead
            }
            Kind::Zero => Role::Zeroing,
            Kind::MayZero if end == NEVER => Role::Zeroing,
            Kind::MayZero => Role::MayZero,
        };
        self.items.push(Item {
            role,
            first_end: end,
            last_begin: invoke,
            first_end_by: index,
            last_begin_by: index,
            placed: false,
        });
    }

    fn build_clusters(&mut self) -> Result<(), Violation> {
        let block = self.block;
        self.valued.sort_unstable_by_key(|access| (access.value, access.is_read));
        for cluster in self.valued.chunk_by(|a, b| a.value == b.value) {
            let (write, reads) = (cluster[0], &cluster[1..]);
            if write.is_read {
                let (read, value) = (write.operation, write.value);
                return Err(Violation::FromNowhere { block, read, value });
            }
            assert!(reads.iter().all(|read| read.is_read), "{:?} is written twice", write.value);
            if reads.is_empty() && write.end == NEVER {
                // Nobody saw it and nobody was told of it: it need not have happened.
                continue;
            }
            if let Some(read) = reads.iter().find(|read| read.end < write.invoke) {
                let (read, write) = (read.operation, write.operation);
                return Err(Violation::FromTheFuture { block, read, write });
            }
            let first = cluster.iter().min_by_key(|access| access.end).expect("not empty");
            let last = cluster.iter().max_by_key(|access| access.invoke).expect("not empty");
            self.items.push(Item {
                role: Role::Cluster,
                first_end: first.end,
                last_begin: last.invoke,
                first_end_by: first.operation,
                last_begin_by: last.operation,
                placed: false,
            });
        }
        Ok(())
    }

    fn reset_order(&mut self) {
        let items = &self.items;
        self.by_begin.clear();
        self.by_begin.extend(0..items.len());
        self.by_begin.sort_unstable_by_key(|index| items[*index].last_begin);
        self.by_end.clear();
        let holds_up = |item: &Item| item.role != Role::MayZero && item.first_end != NEVER;
        self.by_end.extend((0..items.len()).filter(|index| holds_up(&items[*index])));
        self.by_end.sort_unstable_by_key(|index| items[*index].first_end);
        self.next_begin = 0;
        self.next_end = 0;
        self.after_next_end = 1;
        for heap in [
            &mut self.free_reads,
            &mut self.free_clusters,
            &mut self.free_zeroings,
            &mut self.free_may_zero,
        ] {
            heap.clear();
        }
        self.latest_placed = 0;
        self.zero = true;
        self.last_cluster = None;
    }

    /// Places one item after the other until all that count are placed.
    pub(super) fn order(&mut self) -> Result<(), Violation> {
        loop {
            self.advance();
            let Some(first) = self.by_end.get(self.next_end).copied() else { return Ok(()) };
            self.collect_free(first);
            if !self.place_one() {
                return Err(self.explain(first));
            }
        }
    }

    /// Moves past placed items at the front of `by_end`.
    fn advance(&mut self) {
        let placed = |position: usize| {
            self.by_end.get(position).is_some_and(|index| self.items[*index].placed)
        };
        let mut next = self.next_end;
        while placed(next) {
            next += 1;
        }
        let mut after = self.after_next_end.max(next + 1);
        while placed(after) {
            after += 1;
        }
        (self.next_end, self.after_next_end) = (next, after);
    }

    /// Sorts newly free items into the heaps. `first` is the unplaced item that ended first: every
    /// other item is held up by it at most, and it by the one that ended after it.
    fn collect_free(&mut self, first: usize) {
        let bound = self.items[first].first_end;
        while let Some(index) = self.by_begin.get(self.next_begin).copied()
            && self.items[index].last_begin <= bound
        {
            self.next_begin += 1;
            self.release(index);
        }
        let second = self.by_end.get(self.after_next_end).copied();
        let second_bound = second.map_or(NEVER, |index| self.items[index].first_end);
        let begin = self.items[first].last_begin;
        if begin > bound && begin <= second_bound {
            self.release(first);
        }
    }

    fn release(&mut self, index: usize) {
        let item = self.items[index];
        match item.role {
            Role::ZeroRead => self.free_reads.push(Reverse((item.last_begin, index))),
            Role::Cluster => self.free_clusters.push(Reverse((item.last_begin, index))),
            Role::Zeroing => self.free_zeroings.push(Reverse((item.first_end, index))),
            Role::MayZero => self.free_may_zero.push(Reverse((item.first_end, index))),
        }
    }

    /// Places or forgets one free item; false if there is nothing to do.
    fn place_one(&mut self) -> bool {
        while let Some(Reverse((end, _))) = self.free_may_zero.peek()
            && *end < self.latest_placed
        {
            self.free_may_zero.pop();
        }
        // Nothing that began after this may be placed while the earliest "may zero" is kept.
        let keep = self.free_may_zero.peek().map_or(NEVER, |Reverse((end, _))| *end);
        let zeroing_due = self.free_zeroings.peek().map_or(NEVER, |Reverse((end, _))| *end);
        if self.zero && self.pop_placeable(Role::ZeroRead, keep) {
            return true;
        }
        if self.pop_placeable(Role::Cluster, keep) {
            self.zero = false;
            return true;
        }
        let spend_zeroing = if self.zero {
            zeroing_due < keep
        } else {
            zeroing_due <= keep && !self.free_zeroings.is_empty()
        };
        if spend_zeroing {
            let index = self.free_zeroings.pop().expect("not empty").0.1;
            self.place(index);
            self.zero = true;
            return true;
        }
        if let Some(Reverse((_, index))) = self.free_may_zero.pop() {
            if !self.zero {
                self.place(index);
                self.zero = true;
            }
            return true;
        }
        false
    }

    fn pop_placeable(&mut self, role: Role, keep: u64) -> bool {
        let heap =
            if role == Role::Cluster { &mut self.free_clusters } else { &mut self.free_reads };
        while let Some(Reverse((begin, index))) = heap.peek().copied() {
            if self.items[index].placed {
                heap.pop();
                continue;
            }
            if begin > keep {
                return false;
            }
            heap.pop();
            self.place(index);
            if role == Role::Cluster {
                self.last_cluster = Some(index);
            }
            return true;
        }
        false
    }

    fn place(&mut self, index: usize) {
        let item = &mut self.items[index];
        assert!(!item.placed, "an item is placed once");
        item.placed = true;
        self.latest_placed = self.latest_placed.max(item.last_begin);
    }

    /// Why nothing could follow; `first` is the unplaced item that ended first.
    fn explain(&self, first: usize) -> Violation {
        let block = self.block;
        let ends = |index: usize| [self.items[index].first_end_by, self.items[index].last_begin_by];
        // A free read of zeros, in a block that holds something else and is never zeroed.
        if let Some(Reverse((_, read))) = self.free_reads.peek() {
            let read = self.items[*read].first_end_by;
            let instead = self.last_cluster.map(|index| self.items[index].last_begin_by);
            return Violation::NoZeroes { block, read, instead };
        }
        let second = self.by_end.get(self.after_next_end).copied().unwrap_or(first);
        assert_ne!(first, second, "an item that nobody holds up is free");
        Violation::Crossed { block, one: ends(first), other: ends(second) }
    }
}
