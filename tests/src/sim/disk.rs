//! A data disk with a volatile cache over durable sectors of 512 bytes.
//!
//! One with larger blocks writes whole blocks: of a block that changes in part the rest is what it
//! held when the operation began, whatever was written there since.
//! Faults assumed: at power loss any part of what was not flushed survives, sector by sector; an
//! operation that was under way may have taken effect in part; a write or flush may fail; a failed
//! flush loses part of the cache, and reads may go on to show what is lost, as a page cache does.
//! Not here: latency (`volume_side.rs`), stamps and records (`medium.rs`).

use std::collections::{BTreeMap, VecDeque};

use base::limits::BLOCK_BYTES;
use base::range::ByteRange;
use bytes::Bytes;
use datapath::storage::{IoDone, IoFault, IoId, IoOperation};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What is wrong with a disk now.
#[derive(Clone, Copy, Default)]
pub(super) struct DiskFaults {
    pub(super) write: Option<IoFault>,
    pub(super) flush: Option<IoFault>,
    /// Of this many reads of hosts the next ones fail.
    pub(super) reads: u32,
}

struct Cached {
    range: ByteRange,
    data: Option<Bytes>,
    durable: bool,
}

struct UnderWay {
    operation: IoOperation,
    /// For a flush: everything up to here is covered.
    covers: u64,
}

/// A copy of one volume.
pub(super) struct DataDisk {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What the medium does not have for sure yet, oldest first.
    log: VecDeque<Cached>,
    /// Number of the oldest entry in `log`.
    log_start: u64,
    under_way: BTreeMap<IoId, UnderWay>,
    /// Size of its blocks.
    granule_bytes: u64,
    pub(super) faults: DiskFaults,
    /// A flush has failed, and neither the machine nor a durable record says so.
    pub(super) failed_untold: bool,
}

/// Two operations on the same blocks were under way together and one of them writes (W9).
pub(super) struct Overlap(pub(super) ByteRange);

impl DataDisk {
    pub(super) fn new(image: Vec<u8>, granule_bytes: u64) -> Self {
        Self {
            durable: image.clone(),
            current: image,
            log: VecDeque::new(),
            log_start: 0,
            under_way: BTreeMap::new(),
            granule_bytes,
            faults: DiskFaults::default(),
            failed_untold: false,
        }
    }

    /// What a read sees.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Whether everything would survive power loss.
    pub(super) fn is_flushed(&self) -> bool {
        self.log.iter().all(|cached| cached.durable)
    }

    /// Another image at the same path; nothing of it is volatile.
    pub(super) fn replace(&mut self, image: Vec<u8>) {
        let faults = self.faults;
        *self = Self::new(image, self.granule_bytes);
        self.faults = faults;
    }

    pub(super) fn submit(&mut self, id: IoId, operation: IoOperation) -> Result<(), Overlap> {
        let changes =
            |op: &IoOperation| matches!(op, IoOperation::Write { .. } | IoOperation::Zero { .. });
        let operation = self.whole_blocks(operation);
        let blocks = |op: &IoOperation| op.range().round_out(self.granule_bytes);
        let range = blocks(&operation);
        // Reading ahead is a hint: what it returns goes nowhere.
        let hint = matches!(operation, IoOperation::Prefetch { .. });
        let clash = !hint
            && self.under_way.values().any(|other| {
                blocks(&other.operation).overlaps(range)
                    && !matches!(other.operation, IoOperation::Prefetch { .. })
                    && (changes(&operation) || changes(&other.operation))
            });
        let covers = self.log_start + self.log.len() as u64;
        let before = self.under_way.insert(id, UnderWay { operation, covers });
        assert!(before.is_none(), "an I/O id is used once");
        if clash { Err(Overlap(range)) } else { Ok(()) }
    }

    /// The operation as the disk carries it out.
    fn whole_blocks(&self, operation: IoOperation) -> IoOperation {
        let (range, data, durable) = match &operation {
            IoOperation::Write { range, data, durable } => (*range, Some(data), *durable),
            IoOperation::Zero { range, durable, .. } => (*range, None, *durable),
            IoOperation::Read { .. } | IoOperation::Flush | IoOperation::Prefetch { .. } => {
                return operation;
            }
        };
        let whole = range.round_out(self.granule_bytes);
        if whole == range {
            return operation;
        }
        let mut blocks = self.current[bounds(whole)].to_vec();
        let inside =
            ByteRange::between(range.offset() - whole.offset(), range.end() - whole.offset());
        put(&mut blocks, inside, data.map(|data| &data[..]));
        IoOperation::Write { range: whole, data: blocks.into(), durable }
    }

    /// The operation takes effect and ends. `None` if it is not under way.
    pub(super) fn complete(
        &mut self,
        id: IoId,
        rng: &mut ChaCha8Rng,
    ) -> Option<(&'static str, Result<IoDone, IoFault>)> {
        let UnderWay { operation, covers } = self.under_way.remove(&id)?;
        let name = operation.name();
        let result = match operation {
            IoOperation::Read { range } => self.read(range),
            IoOperation::Write { range, data, durable } => {
                self.change(range, Some(data), durable, rng)
            }
            IoOperation::Zero { range, durable, .. } => self.change(range, None, durable, rng),
            IoOperation::Flush => self.flush(covers, rng),
            IoOperation::Prefetch { .. } => Ok(IoDone::Done),
        };
        Some((name, result))
    }

    fn read(&mut self, range: ByteRange) -> Result<IoDone, IoFault> {
        if self.faults.reads > 0 {
            self.faults.reads -= 1;
            return Err(IoFault::System(5));
        }
        Ok(IoDone::Data(Bytes::copy_from_slice(&self.current[bounds(range)])))
    }

    fn change(
        &mut self,
        range: ByteRange,
        data: Option<Bytes>,
        durable: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<IoDone, IoFault> {
        let Some(fault) = self.faults.write else {
            self.apply(range, data, durable);
            return Ok(IoDone::Done);
        };
        self.apply_part(range, data, rng);
        Err(fault)
    }

    fn apply(&mut self, range: ByteRange, data: Option<Bytes>, durable: bool) {
        put(&mut self.current, range, data.as_deref());
        self.log.push_back(Cached { range, data, durable });
    }

    /// The first sectors of a write that failed or was cut short.
    fn apply_part(&mut self, range: ByteRange, data: Option<Bytes>, rng: &mut ChaCha8Rng) {
        let sectors = range.length() / BLOCK_BYTES;
        let length = rng.random_range(0..=sectors) * BLOCK_BYTES;
        if length > 0 {
            let part = ByteRange::between(range.offset(), range.offset() + length);
            self.apply(part, data.map(|data| data.slice(..length as usize)), false);
        }
    }

    fn flush(&mut self, covers: u64, rng: &mut ChaCha8Rng) -> Result<IoDone, IoFault> {
        if let Some(fault) = self.faults.flush {
            self.lose_part_of_cache(rng);
            return Err(fault);
        }
        self.flush_until(covers);
        Ok(IoDone::Done)
    }

    /// Everything up to now is on the medium: fdatasync outside of the core.
    pub(super) fn sync(&mut self, rng: &mut ChaCha8Rng) -> Result<(), IoFault> {
        let covers = self.log_start + self.log.len() as u64;
        self.flush(covers, rng).map(|_| ())
    }

    fn flush_until(&mut self, covers: u64) {
        while self.log_start < covers
            && let Some(cached) = self.log.pop_front()
        {
            put(&mut self.durable, cached.range, cached.data.as_deref());
            self.log_start += 1;
        }
    }

    /// A failed flush: any sector may be back at what the medium has, at once or, as the pages
    /// count as clean and stay in memory, when power is lost.
    fn lose_part_of_cache(&mut self, rng: &mut ChaCha8Rng) {
        self.failed_untold = true;
        self.settle_medium(0.5, rng);
        if rng.random_bool(0.5) {
            self.current.clone_from(&self.durable);
        }
    }

    /// A flush is under way, and will fail.
    pub(super) fn is_flush_failing(&self) -> bool {
        let flushes = |under_way: &UnderWay| matches!(under_way.operation, IoOperation::Flush);
        self.faults.flush.is_some() && self.under_way.values().any(flushes)
    }

    /// The process is gone: what was under way takes effect in part or not at all, and a flush may
    /// have failed.
    pub(super) fn kill(&mut self, flush_fails: bool, rng: &mut ChaCha8Rng) {
        for (_, under_way) in std::mem::take(&mut self.under_way) {
            match under_way.operation {
                IoOperation::Write { range, data, .. } => {
                    self.apply_part(range, Some(data), rng);
                }
                IoOperation::Zero { range, .. } => self.apply_part(range, None, rng),
                IoOperation::Flush if flush_fails => self.lose_part_of_cache(rng),
                IoOperation::Read { .. } | IoOperation::Flush | IoOperation::Prefetch { .. } => {}
            }
        }
    }

    /// Power loss, after [`Self::kill`]: the medium keeps any part of the cache.
    pub(super) fn cut_power(&mut self, rng: &mut ChaCha8Rng) {
        self.failed_untold = false;
        let kept = [0.0, 0.0, 0.3, 0.9][rng.random_range(0..4)];
        self.settle_medium(kept, rng);
        self.current.clone_from(&self.durable);
    }

    fn settle_medium(&mut self, kept: f64, rng: &mut ChaCha8Rng) {
        for Cached { range, data, durable } in std::mem::take(&mut self.log) {
            self.log_start += 1;
            let mut at = range.offset();
            while at < range.end() {
                let sector = ByteRange::between(at, at + BLOCK_BYTES);
                if durable || (kept > 0.0 && rng.random_bool(kept)) {
                    let from = (at - range.offset()) as usize;
                    let part = data.as_ref().map(|data| &data[from..from + BLOCK_BYTES as usize]);
                    put(&mut self.durable, sector, part);
                }
                at += BLOCK_BYTES;
            }
        }
    }
}

fn put(image: &mut [u8], range: ByteRange, data: Option<&[u8]>) {
    match data {
        Some(data) => image[bounds(range)].copy_from_slice(data),
        None => image[bounds(range)].fill(0),
    }
}

fn bounds(range: ByteRange) -> std::ops::Range<usize> {
    range.offset() as usize..range.end() as usize
}
