//! Whether a history of reads and writes of blocks is linearizable (PROTOCOL D1).
//!
//! The contract is per 512-byte block: a request over several blocks is as many operations, one on
//! each block's register, that begin and end together. Two requests may therefore be seen in one
//! order on one block and in the other order on another; no more is promised, and no disk promises
//! more.
//!
//! Every write has an id of its own, so a read says which write it saw, and the question is not the
//! exponential one. All operations on one such value form a *cluster*, which must stand together
//! in any order; cluster X must come before Y if an operation of X ended before one of Y began.
//! That is X.first_end < Y.last_begin, so two numbers are all that is needed of a cluster. (Gibbons
//! and Korach, "Testing shared memories", 1997, solve this with their zones.) Zeros have no id:
//! a read of zeros may have seen any zeroing. Zeroings and reads of zeros stay operations of their
//! own, and [`order`] builds an order from left to right by steps each of which is shown to lose
//! nothing, so that getting stuck means that there is none. n log n per block.
//!
//! An operation without an end may take effect at any time after its beginning, or never.
//! Times are any numbers that grow; operations of which one ends when the other begins are taken as
//! concurrent, so a caller with a coarse clock passes a counter of events instead.

mod order;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

/// What a block holds: zeros, or the id of the write that it comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u64);

impl Value {
    /// Zeros: a blank volume, WRITE_ZEROES, TRIM.
    pub const ZERO: Self = Self(0);

    /// The value of the write `id`, which is not 0.
    pub fn written(id: u64) -> Self {
        assert_ne!(id, 0, "id 0 stands for zeros");
        Self(id)
    }

    /// The id of the write, or `None` for zeros.
    pub fn id(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id() {
            Some(id) => write!(f, "#{id}"),
            None => f.write_str("zeros"),
        }
    }
}

/// What an operation does to each of its blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Returned these values, one a block. A read without an end says nothing and is left out.
    Read(Vec<Value>),
    /// Wrote the value of this id, which no other write of these blocks has.
    Write(u64),
    /// Wrote zeros.
    Zero,
    /// Wrote zeros between its beginning and its end, or did nothing, even if it was acknowledged:
    /// a TRIM of which it is not known whether the volume zeroes these blocks.
    MayZero,
}

/// One request of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// On which blocks.
    pub blocks: Range<u64>,
    /// When it was asked for; greater than 0.
    pub invoke: u64,
    /// When it was answered. `None` if never, or with an error: it may still take effect.
    pub end: Option<u64>,
}

/// Why a history is not linearizable. The numbers are indices of operations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A value that nobody wrote there.
    FromNowhere {
        /// The block.
        block: u64,
        /// Who read it.
        read: usize,
        /// What it read.
        value: Value,
    },
    /// A read that ended before the write that it saw began.
    FromTheFuture {
        /// The block.
        block: u64,
        /// Who read it.
        read: usize,
        /// Who wrote it.
        write: usize,
    },
    /// Both operations, or the operations on the same values, had to come before each other: a
    /// stale read, a lost write, or two reads that saw two writes in different orders.
    Crossed {
        /// The block.
        block: u64,
        /// Operations on one value: the one that ended first and the one that began last.
        one: [usize; 2],
        /// Likewise for the other value.
        other: [usize; 2],
    },
    /// A read of zeros that nothing can have put there at that time.
    NoZeroes {
        /// The block.
        block: u64,
        /// Who read them.
        read: usize,
        /// An operation on the value that the block had instead, if it ever had one.
        instead: Option<usize>,
    },
}

impl Violation {
    /// The block it was found on.
    pub fn block(&self) -> u64 {
        match self {
            Self::FromNowhere { block, .. }
            | Self::FromTheFuture { block, .. }
            | Self::Crossed { block, .. }
            | Self::NoZeroes { block, .. } => *block,
        }
    }

    /// The operations that contradict each other.
    pub fn operations(&self) -> Vec<usize> {
        let mut indices = match self {
            Self::FromNowhere { read, .. } => vec![*read],
            Self::FromTheFuture { read, write, .. } => vec![*read, *write],
            Self::Crossed { one, other, .. } => [*one, *other].concat(),
            Self::NoZeroes { read, instead, .. } => [*read].into_iter().chain(*instead).collect(),
        };
        indices.sort_unstable();
        indices.dedup();
        indices
    }

    /// The finding for people, with the operations it speaks of.
    pub fn describe(&self, operations: &[Operation]) -> String {
        let block = self.block();
        let what = match self {
            Self::FromNowhere { value, .. } => format!("read {value:?}, which nobody wrote there"),
            Self::FromTheFuture { .. } => "read before it was written".to_owned(),
            Self::Crossed { .. } => {
                "each of two values had to be there before the other".to_owned()
            }
            Self::NoZeroes { .. } => "read zeros that nothing put there then".to_owned(),
        };
        let mut text = format!("block {block}: {what}");
        for index in self.operations() {
            let operation = &operations[index];
            let did = match &operation.kind {
                Kind::Read(values) => {
                    let at = usize::try_from(block - operation.blocks.start).expect("in range");
                    format!("read {:?}", values[at])
                }
                Kind::Write(id) => format!("wrote {:?}", Value::written(*id)),
                Kind::Zero => "wrote zeros".to_owned(),
                Kind::MayZero => "trimmed".to_owned(),
            };
            let end = operation.end.map_or("never".to_owned(), |end| end.to_string());
            text.push_str(&format!(
                "\n  operation {index} {did} (blocks {:?}, from {} to {end})",
                operation.blocks, operation.invoke
            ));
        }
        text
    }
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Blocks that were touched.
    pub blocks: usize,
    /// Operations on single blocks.
    pub block_operations: usize,
}

/// Checks `operations`, in any order, on blocks that hold zeros at first.
///
/// # Errors
/// The first violation, by block number.
///
/// # Panics
/// If the history is not one: an end before its beginning, a read with more or fewer values than
/// blocks, an id written twice to one block.
pub fn check(operations: &[Operation]) -> Result<Summary, Violation> {
    let keys = block_keys(operations);
    let mut summary = Summary { blocks: 0, block_operations: keys.len() };
    let mut register = order::Register::default();
    for group in keys.chunk_by(|a, b| a.block == b.block) {
        summary.blocks += 1;
        register.load(
            operations,
            group[0].block,
            group.iter().map(|key| key.operation as usize),
        )?;
        register.order()?;
    }
    Ok(summary)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BlockKey {
    block: u64,
    operation: u32,
}

/// One entry for each block of each operation that counts, by block.
fn block_keys(operations: &[Operation]) -> Vec<BlockKey> {
    let mut keys = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        assert!(operation.invoke > 0, "operation {index} begins at 0, which is the initial state");
        assert!(
            operation.end.is_none_or(|end| operation.invoke <= end),
            "operation {index} ends before it begins"
        );
        if let Kind::Read(values) = &operation.kind {
            if operation.end.is_none() {
                continue;
            }
            let count = operation.blocks.end - operation.blocks.start;
            assert_eq!(values.len() as u64, count, "operation {index}: one value a block");
        }
        let operation_number = u32::try_from(index).expect("at most 2^32 operations");
        for block in operation.blocks.clone() {
            keys.push(BlockKey { block, operation: operation_number });
        }
    }
    keys.sort_unstable();
    keys
}
