//! What the hosts asked and were told, and what a run may lose.
//!
//! Owns: every operation; which faults have hit which copy since both were last in a session.
//! Invariants checked here: every value read was written there; what was acknowledged and flushed
//! (or FUA) is there after any loss of power (P1, P2); what was acknowledged is there unless both
//! copies were hit (P3); D1 over the whole run.
//!
//! When both copies have lost what was volatile, acknowledged writes that were not flushed may be
//! gone: as after a power cut of one disk. The history then gets a *restore* of each block: a
//! write of its own with what the copies hold as the next session begins. Reads after it see the
//! restore's id, so that one check of the whole history covers both sides of the loss.

use std::collections::BTreeMap;

use base::limits::BLOCK_BYTES;
use base::range::ByteRange;
use client::linearizability::{Kind, Operation, Value, check};
use client::stamp::{self, Content};

use super::event::Side;
use super::finding::{Finding, FindingKind};

/// What a host wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Read,
    Write,
    Zero,
    Flush,
    Cache,
}

/// One request of a host.
#[derive(Clone, Debug)]
pub(super) struct HostOperation {
    pub(super) side: Side,
    pub(super) volume: usize,
    pub(super) asked: Asked,
    pub(super) range: ByteRange,
    pub(super) fua: bool,
    pub(super) invoke: u64,
    pub(super) end: Option<u64>,
    values: Vec<Value>,
    /// It went to the other node.
    pub(super) sent: bool,
    /// Its node closed the connection that it came on.
    pub(super) given_up: bool,
    /// Another one at the other node overlapped it in range and time.
    pub(super) contended: bool,
}

impl HostOperation {
    fn changes(&self) -> bool {
        matches!(self.asked, Asked::Write | Asked::Zero)
    }

    fn blocks(&self) -> std::ops::Range<u64> {
        self.range.offset() / BLOCK_BYTES..self.range.end() / BLOCK_BYTES
    }
}

/// A block whose content was taken over from before a loss.
#[derive(Clone, Copy)]
struct Restored {
    original: u64,
    alias: u64,
}

/// One volume.
#[derive(Default)]
struct VolumeTruth {
    /// What was acknowledged before this moment was flushed on both nodes.
    flushed_before: u64,
    restored: BTreeMap<u64, Restored>,
    /// When.
    restored_at: u64,
}

/// The whole run.
pub(super) struct History {
    pub(super) operations: Vec<HostOperation>,
    restores: Vec<Operation>,
    volumes: Vec<VolumeTruth>,
    clock: u64,
    next_alias: u64,
    /// A copy that may lack acknowledged writes which were not flushed.
    pub(super) hit: [bool; 2],
    /// When a copy last lost something that it had.
    pub(super) lost_at: [u64; 2],
    /// The source that a join has settled on: the other node says of itself that it is none.
    settled: Option<Side>,
    /// Un-flushed writes may be gone from both copies.
    pub(super) may_lose: bool,
    pub(super) losses: u64,
}

/// Ids of restores are beyond those of operations.
const FIRST_ALIAS: u64 = 1 << 40;

impl History {
    pub(super) fn new(volumes: usize) -> Self {
        Self {
            operations: Vec::new(),
            restores: Vec::new(),
            volumes: (0..volumes).map(|_| VolumeTruth::default()).collect(),
            clock: 1,
            next_alias: FIRST_ALIAS,
            hit: [false; 2],
            lost_at: [0; 2],
            settled: None,
            may_lose: false,
            losses: 0,
        }
    }

    /// A moment that is later than all before it.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The image that a volume is adopted with holds these blocks.
    pub(super) fn adopt(&mut self, volume: usize, range: ByteRange) -> u64 {
        let index = self.begin(0, volume, Asked::Write, range, true);
        self.operations[index].end = Some(self.clock);
        index as u64 + 1
    }

    pub(super) fn begin(
        &mut self,
        side: Side,
        volume: usize,
        asked: Asked,
        range: ByteRange,
        fua: bool,
    ) -> usize {
        let invoke = self.tick();
        self.operations.push(HostOperation {
            side,
            volume,
            asked,
            range,
            fua,
            invoke,
            end: None,
            values: Vec::new(),
            sent: false,
            given_up: false,
            contended: false,
        });
        self.operations.len() - 1
    }

    fn content_id(operation: &HostOperation, index: usize) -> u64 {
        if operation.asked == Asked::Zero { 0 } else { Self::value_id(index) }
    }

    /// The id that the blocks of operation `index` carry.
    pub(super) fn value_id(index: usize) -> u64 {
        index as u64 + 1
    }

    /// It was answered.
    pub(super) fn end(&mut self, index: usize) {
        let now = self.tick();
        let operation = &mut self.operations[index];
        assert!(operation.end.is_none(), "a request is answered once");
        operation.end = Some(now);
        if operation.asked == Asked::Flush {
            let truth = &mut self.volumes[operation.volume];
            truth.flushed_before = truth.flushed_before.max(operation.invoke);
        }
    }

    /// A read was answered with these bytes.
    pub(super) fn end_read(&mut self, index: usize, data: &[u8]) -> Result<(), Finding> {
        let operation = &self.operations[index];
        let (volume, range) = (operation.volume, operation.range);
        if data.len() as u64 != range.length() {
            return Err(Finding::history(format!(
                "a read of {range} returned {} bytes",
                data.len()
            )));
        }
        let mut values = Vec::with_capacity(data.len() / BLOCK_BYTES as usize);
        for (block, bytes) in (range.offset() / BLOCK_BYTES..).zip(data.chunks(512)) {
            let id = self.decode(volume, block, bytes)?;
            values.push(self.seen(volume, block, id));
        }
        self.end(index);
        self.operations[index].values = values;
        Ok(())
    }

    fn decode(&self, volume: usize, block: u64, bytes: &[u8]) -> Result<u64, Finding> {
        match stamp::decode(bytes) {
            Content::Zero => Ok(0),
            Content::Stamp(stamp) if stamp.writer == volume as u64 && stamp.block == block => {
                Ok(stamp.operation)
            }
            Content::Stamp(stamp) => Err(Finding::history(format!(
                "block {block} of volume {volume} holds block {} of volume {}",
                stamp.block, stamp.writer
            ))),
            Content::Damaged => Err(Finding::history(format!(
                "block {block} of volume {volume} is a mixture of two writes"
            ))),
        }
    }

    fn seen(&self, volume: usize, block: u64, id: u64) -> Value {
        match self.volumes[volume].restored.get(&block) {
            Some(restored) if restored.original == id => value(restored.alias),
            _ => value(id),
        }
    }

    /// A copy was hit: unless a join has settled on this node as its source, with everything
    /// flushed, it may lack acknowledged writes.
    pub(super) fn hit(&mut self, side: Side) {
        if self.settled != Some(side) {
            self.hit[side] = true;
        }
    }

    /// A copy lost something that it had: it was hit, and acknowledgements under way do not count.
    pub(super) fn lost(&mut self, side: Side) {
        self.lost_at[side] = self.tick();
        self.hit(side);
    }

    /// A node begins to compare as the source: its data is flushed (F6), and the other node's
    /// record says that it is a target (F5).
    pub(super) fn settle_on(&mut self, side: Side, everything: bool) {
        if self.settled.is_none() {
            self.may_lose |= self.hit == [true; 2];
        }
        if everything {
            self.settled = Some(side);
        }
    }

    /// A session begins; `images` are the equal copies of each volume.
    pub(super) fn session_begins(&mut self, images: &[&[u8]]) -> Result<(), Finding> {
        let lossy = self.may_lose;
        self.hit = [false; 2];
        self.settled = None;
        self.may_lose = false;
        if !lossy {
            return Ok(());
        }
        self.losses += 1;
        for (volume, image) in images.iter().enumerate() {
            self.restore(volume, image)?;
        }
        Ok(())
    }

    /// Both copies may have lost what was not flushed: what they hold now must be as new as what
    /// was, and is the beginning of what follows.
    fn restore(&mut self, volume: usize, image: &[u8]) -> Result<(), Finding> {
        let at = self.tick();
        let durable = self.durable_begins(volume);
        let mut restored = BTreeMap::new();
        for block in self.touched(volume) {
            let from = (block * BLOCK_BYTES) as usize;
            let id = self.decode(volume, block, &image[from..from + BLOCK_BYTES as usize])?;
            if let Some((durable_id, begin)) = durable.get(&block) {
                let newest_end = self.newest_end(volume, block, id);
                if newest_end < *begin && *durable_id != id {
                    return Err(Finding::history(format!(
                        "block {block} of volume {volume} holds value {id} after both nodes lost \
                         what was not flushed, but value {durable_id}, which was durable, was \
                         written only after {id} was acknowledged: {:?}",
                        (*durable_id).checked_sub(1).map(|index| &self.operations[index as usize])
                    )));
                }
            }
            let alias = if id == 0 { 0 } else { self.next_alias };
            self.next_alias += 1;
            restored.insert(block, Restored { original: id, alias });
            let kind = if id == 0 { Kind::Zero } else { Kind::Write(alias) };
            let blocks = block..block + 1;
            self.restores.push(Operation { kind, blocks, invoke: at, end: Some(at) });
            self.restore_volume(volume);
        }
        self.volumes[volume].restored = restored;
        self.volumes[volume].restored_at = at;
        Ok(())
    }

    fn restore_volume(&mut self, volume: usize) {
        // Volumes are told apart by their block numbers in the check.
        let last = self.restores.last_mut().expect("called after a push");
        let base = volume as u64 * VOLUME_STRIDE;
        last.blocks = last.blocks.start + base..last.blocks.end + base;
    }

    /// When the operations that may have put this value there ended, at the latest.
    fn newest_end(&self, volume: usize, block: u64, id: u64) -> u64 {
        if id != 0 {
            let operation = &self.operations[id as usize - 1];
            return operation.end.unwrap_or(u64::MAX);
        }
        let zeroes = self.operations.iter().filter(|operation| {
            operation.asked == Asked::Zero
                && operation.volume == volume
                && operation.blocks().contains(&block)
        });
        zeroes.map(|operation| operation.end.unwrap_or(u64::MAX)).max().unwrap_or(0)
    }

    /// For each block the durable change that began last: its value and when it began. What came
    /// before an earlier loss counts as it was found then.
    fn durable_begins(&self, volume: usize) -> BTreeMap<u64, (u64, u64)> {
        let truth = &self.volumes[volume];
        let (flushed, since) = (truth.flushed_before, truth.restored_at);
        let found = |(block, found): (&u64, &Restored)| (*block, (found.original, since));
        let mut begins: BTreeMap<u64, (u64, u64)> = truth.restored.iter().map(found).collect();
        for (index, operation) in self.operations.iter().enumerate() {
            let durable =
                operation.end.is_some_and(|end| end > since && (operation.fua || end < flushed));
            if operation.volume != volume || !operation.changes() || !durable {
                continue;
            }
            for block in operation.blocks() {
                // Operations are in the order of their beginnings.
                begins.insert(block, (Self::content_id(operation, index), operation.invoke));
            }
        }
        begins
    }

    fn touched(&self, volume: usize) -> Vec<u64> {
        let mut blocks: Vec<u64> = self
            .operations
            .iter()
            .filter(|operation| operation.volume == volume && operation.changes())
            .flat_map(HostOperation::blocks)
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// D1: the whole run is linearizable, every volume by itself.
    pub(super) fn check(&self) -> Result<(), Finding> {
        let mut operations: Vec<Operation> = self.restores.clone();
        let mut origin: Vec<Option<usize>> = vec![None; operations.len()];
        for (index, operation) in self.operations.iter().enumerate() {
            let kind = match operation.asked {
                Asked::Read if operation.end.is_some() => Kind::Read(operation.values.clone()),
                Asked::Write => Kind::Write(Self::value_id(index)),
                Asked::Zero => Kind::Zero,
                Asked::Read | Asked::Flush | Asked::Cache => continue,
            };
            let base = operation.volume as u64 * VOLUME_STRIDE;
            let blocks = operation.blocks();
            operations.push(Operation {
                kind,
                blocks: blocks.start + base..blocks.end + base,
                invoke: operation.invoke,
                end: operation.end,
            });
            origin.push(Some(index));
        }
        let Err(violation) = check(&operations) else { return Ok(()) };
        let mut text = violation.describe(&operations);
        for index in violation.operations() {
            if let Some(index) = origin[index] {
                text.push_str(&format!(
                    "\n  = host operation {index} {:?}",
                    self.operations[index]
                ));
            }
        }
        Err(Finding { kind: FindingKind::History, text })
    }
}

/// Blocks of one volume are so far from those of the next one.
const VOLUME_STRIDE: u64 = 1 << 32;

fn value(id: u64) -> Value {
    if id == 0 { Value::ZERO } else { Value::written(id) }
}
