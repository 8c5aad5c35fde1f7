//! P1, P2: after power was lost, every write acknowledged before an answered FLUSH was asked for,
//! and every acknowledged FUA write, is there, unless a later or a concurrent one overwrote it.
//!
//! Unlike in D1, an acknowledged write that no FLUSH covers may be gone. So a block may hold what a
//! write left there if no write that has to have survived began after that write's end; a write
//! without an end may always be there.
//! Not here: a process that was killed while its machine lived: nothing acknowledged may be lost,
//! and the images are read into the history (`History::add_image`) as two last reads.

use super::linearizability::{Kind, Operation, Value};
use client::history::{Action, History};

/// What happened between two looks at an image.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// Reads and changes; reads are ignored.
    pub operations: Vec<Operation>,
    /// Of each operation, whether it has to survive.
    pub durable: Vec<bool>,
}

impl Promises {
    /// Which operations have to survive: those with `fua`, and those that ended before the begin of
    /// the last of `flushes`, which were all answered.
    pub fn new(operations: Vec<(Operation, bool)>, flushes: impl Iterator<Item = u64>) -> Self {
        let covered = flushes.max().unwrap_or(0);
        let mut promises = Self::default();
        for (operation, fua) in operations {
            let survives = operation.end.is_some_and(|end| fua || end < covered);
            promises.durable.push(survives);
            promises.operations.push(operation);
        }
        promises
    }

    /// What the stamped client was promised.
    pub fn of_history(history: &History) -> Self {
        let changes = history.records.iter().filter(|record| record.action.changes());
        let fua: Vec<bool> = changes.map(|record| record.fua).collect();
        // What was there at first is no operation: the image before says what it was.
        let operations = history.operations().into_iter().skip(history.initial.len());
        let changes = operations.filter(|operation| !matches!(operation.kind, Kind::Read(_)));
        let flushes = history
            .records
            .iter()
            .filter(|record| record.action == Action::Flush && record.is_done());
        Self::new(changes.zip(fua).collect(), flushes.map(|record| record.begin_ns))
    }
}

/// A block that lost what it had to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The block.
    pub block: u64,
    /// What it holds.
    pub holds: Value,
    /// The latest of the operations that had to survive, by index.
    pub lost: Option<usize>,
}

/// What may be in one block.
#[derive(Clone, Copy, Default)]
struct Floor {
    /// The latest beginning of a change that has to have survived.
    begin: u64,
    by: Option<usize>,
}

/// Checks an image: block `first_block + i` held `before[i]` and holds `after[i]`.
///
/// # Errors
/// The first block that holds what it may not hold.
pub fn check(
    promises: &Promises,
    first_block: u64,
    before: &[Value],
    after: &[Value],
) -> Result<(), Loss> {
    assert_eq!(before.len(), after.len(), "two looks at the same blocks");
    let blocks = first_block..first_block + before.len() as u64;
    let inside = |operation: &Operation| {
        let range = &operation.blocks;
        (range.start.max(blocks.start)..range.end.min(blocks.end))
            .map(|block| usize::try_from(block - first_block).expect("inside the image"))
    };
    let mut floors = vec![Floor::default(); before.len()];
    for (index, operation) in promises.operations.iter().enumerate() {
        let certain = matches!(operation.kind, Kind::Write(_) | Kind::Zero);
        if certain && promises.durable[index] {
            for at in inside(operation) {
                if operation.invoke > floors[at].begin {
                    floors[at] = Floor { begin: operation.invoke, by: Some(index) };
                }
            }
        }
    }
    let mut allowed: Vec<bool> = floors
        .iter()
        .zip(before)
        .zip(after)
        .map(|((floor, b), a)| floor.begin == 0 && a == b)
        .collect();
    for operation in &promises.operations {
        let value = match operation.kind {
            Kind::Write(id) => Value::written(id),
            Kind::Zero | Kind::MayZero => Value::ZERO,
            Kind::Read(_) => continue,
        };
        for at in inside(operation) {
            let survives = operation.end.is_none_or(|end| end >= floors[at].begin);
            allowed[at] |= after[at] == value && survives;
        }
    }
    match allowed.iter().position(|allowed| !allowed) {
        Some(at) => {
            let block = first_block + at as u64;
            Err(Loss { block, holds: after[at], lost: floors[at].by })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, invoke: u64, end: Option<u64>) -> Operation {
        Operation { kind: Kind::Write(id), blocks: 10..11, invoke, end }
    }

    fn value(id: u64) -> Value {
        if id == 0 { Value::ZERO } else { Value::written(id) }
    }

    fn may_hold(promises: &Promises) -> Vec<u64> {
        let holds = |id: &u64| check(promises, 10, &[value(9)], &[value(*id)]).is_ok();
        (0..10).filter(holds).collect()
    }

    #[test]
    fn without_a_flush_anything_may_be_lost() {
        let operations = vec![(write(1, 1, Some(2)), false), (write(2, 3, Some(4)), false)];
        assert_eq!(may_hold(&Promises::new(operations, [].into_iter())), [1, 2, 9]);
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_asked_for() {
        let operations = [(1, 1, Some(2)), (2, 3, Some(4)), (3, 5, Some(7)), (4, 8, None)];
        let operations =
            operations.map(|(id, invoke, end)| (write(id, invoke, end), false)).to_vec();
        let promises = Promises::new(operations.clone(), [6].into_iter());
        // 2 is covered; 1 is older, 3 was not acknowledged yet, 4 never was, 9 was there before.
        assert_eq!(may_hold(&promises), [2, 3, 4]);
        assert_eq!(may_hold(&Promises::new(operations, [3, 1].into_iter())), [1, 2, 3, 4]);
    }

    #[test]
    fn fua_needs_no_flush_and_a_concurrent_write_may_win() {
        let operations = vec![
            (write(1, 1, Some(2)), false),
            (write(2, 3, Some(8)), false),
            (write(3, 4, Some(6)), true),
        ];
        let promises = Promises::new(operations, [].into_iter());
        assert_eq!(may_hold(&promises), [2, 3]);
        let loss = check(&promises, 10, &[value(9)], &[value(1)]).expect_err("3 is lost");
        assert_eq!(loss, Loss { block: 10, holds: value(1), lost: Some(2) });
    }

    #[test]
    fn a_trim_that_may_have_done_nothing_promises_nothing_and_may_have_happened() {
        let trim = Operation { kind: Kind::MayZero, ..write(1, 3, Some(4)) };
        let operations = vec![(write(1, 1, Some(2)), true), (trim, true)];
        assert_eq!(may_hold(&Promises::new(operations, [].into_iter())), [0, 1]);
        let zero = Operation { kind: Kind::Zero, ..write(1, 3, Some(4)) };
        let operations = vec![(write(1, 1, Some(2)), true), (zero, true)];
        assert_eq!(may_hold(&Promises::new(operations, [].into_iter())), [0]);
    }
}
