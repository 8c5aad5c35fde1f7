//! At a source that goes on serving: which regions the target has, and the copies under way
//! (PROTOCOL 2.8.2 steps 4 and 5).
//!
//! Owns: the state of each region, copies under way. In: what the session says of its writes, the
//! target's digests and acknowledgements. Out: messages; the session does the rest.
//! Invariants: D12 only what the target has is mirrored. D13 a region is read again only when every
//! block of its earlier copy is acknowledged. D8 and D10 as in `compare.rs`.
//! Not here: range locks and the I/O (`order/copy.rs`), the target (`compare.rs`).
//!
//! A region is *dirty* when its bit is set, *copying* when it has a copy under way, else *clean*. A
//! copy takes the bit away when it has its lock; a write that is not mirrored sets it again. So a
//! copy that ends without the bit has brought the target what this node has.
//!
//! First come *passes*: a copy holds its lock until it has read, and writes that come later make
//! their regions dirty again. A region that was overtaken like that a few times is *held*: its copy
//! keeps the lock until the target has acknowledged it, so that the passes end under any load. When
//! few regions are left the *last* step begins: every copy is held, and nothing is answered that
//! the target does not have. One copy is held at a time: writes of hosts wait for it, and for no
//! longer than T_io, however slow the link is.

mod regions;

use std::collections::BTreeMap;

use base::limits::REGION_BYTES;
use base::range::ByteRange;
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};
use bytes::Bytes;

use crate::compare::{self, PIECE_BYTES, WINDOW};
use crate::order::ranges::LockId;
use crate::outbox::Outbox;
use crate::port::{Progress, Scope};
use crate::resync::regions::Regions;
use crate::wire::DataMessage;

/// Regions that are left when the last step begins, at most.
const LAST_REGIONS: u64 = 4;
/// Copies of a region that writes overtook, after which the next one is held.
const TRIES_MAX: u32 = 2;

const _: () = assert!(REGION_BYTES == PIECE_BYTES, "the target takes a region as one piece");

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The reply of a mirrored write does not wait for the target.
    Passes,
    /// It does, and FLUSH goes to both.
    Last,
}

/// One copy of one region.
#[derive(Debug)]
struct RegionCopy {
    region: u64,
    range: ByteRange,
    /// Until the data is read, or until all is acknowledged if `held`.
    lock: Option<LockId>,
    held: bool,
    /// When it got its lock.
    began: Option<Instant>,
    patience: Duration,
    data: Option<Bytes>,
    digests: Option<Vec<u128>>,
    sent: bool,
    acks_missing: usize,
}

/// What a copy waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitsFor {
    /// Its lock.
    Lock,
    /// This node's disk.
    Read,
    /// The target.
    Target,
}

/// A copy that came to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lock: Option<LockId>,
    pub(crate) bytes: u64,
}

/// An answer of the target to something that was not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unasked;

/// What is given with a target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResyncInfo {
    pub(crate) scope: Scope,
    pub(crate) seed: u64,
    pub(crate) size: u64,
    pub(crate) rules: Rules,
}

/// One target being made equal.
#[derive(Debug)]
pub(crate) struct Resync {
    info: ResyncInfo,
    regions: Regions,
    copies: BTreeMap<u64, RegionCopy>,
    /// How often writes overtook the copy of a region.
    tries: BTreeMap<u64, u32>,
    step: Step,
    /// What there was to copy in the beginning.
    total_bytes: u64,
    copied_bytes: u64,
    /// When the target last said something of a copy.
    heard: Instant,
    /// This node could not read its copy: nothing more is begun.
    failed: bool,
    told: bool,
}

impl Resync {
    pub(crate) fn new(info: ResyncInfo) -> Self {
        let mut regions = Regions::new(info.size, info.scope != Scope::Nothing);
        if !info.rules.hold(Rule::CompareEverything) {
            regions.clear(0);
        }
        let total_bytes = if info.scope == Scope::Nothing { 0 } else { info.size };
        Self {
            info,
            regions,
            copies: BTreeMap::new(),
            tries: BTreeMap::new(),
            step: Step::Passes,
            total_bytes,
            copied_bytes: 0,
            heard: Instant::ZERO,
            failed: false,
            told: false,
        }
    }

    /// What is written here and not there.
    pub(crate) fn mark(&mut self, range: ByteRange) {
        Regions::touched(range).for_each(|region| self.regions.mark(region));
    }

    /// Whether replies and flushes wait for the target.
    pub(crate) fn is_last_step(&self) -> bool {
        self.step == Step::Last
    }

    /// Whether `Compared` was said.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Copies under way or waiting for their locks.
    pub(crate) fn copies(&self) -> usize {
        self.copies.len()
    }

    /// The locks of all copies, each with whether its read is under way.
    pub(crate) fn into_locks(self) -> impl Iterator<Item = (u64, LockId, bool)> {
        self.copies.into_iter().filter_map(|(id, copy)| {
            let reading = copy.began.is_some() && copy.data.is_none() && !copy.sent;
            copy.lock.map(|lock| (id, lock, reading))
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        let left = self.left() * REGION_BYTES;
        Progress {
            done_bytes: self.total_bytes.saturating_sub(left),
            todo_bytes: left.min(self.info.size),
            copied_bytes: self.copied_bytes,
        }
    }

    /// Regions that are not clean.
    fn left(&self) -> u64 {
        let copying = self.copies.values().filter(|copy| !self.regions.is_dirty(copy.region));
        self.regions.dirty() + copying.count() as u64
    }

    fn is_copying(&self, region: u64) -> bool {
        self.copies.values().any(|copy| copy.region == region)
    }

    /// Whether a write there is mirrored.
    fn is_mirrored(&self, region: u64) -> bool {
        let overtakes = !self.info.rules.hold(Rule::MirroredWhenCopied);
        !self.regions.is_dirty(region) && (overtakes || !self.is_copying(region))
    }

    /// A write got its place: the parts of it that are mirrored, in order. Where they would be more
    /// than `parts_max` nothing is: that is copied once more.
    pub(crate) fn admit(&mut self, range: ByteRange, parts_max: usize) -> Vec<ByteRange> {
        let mut parts: Vec<ByteRange> = Vec::new();
        for region in Regions::touched(range) {
            if !self.is_mirrored(region) {
                self.regions.mark(region);
                continue;
            }
            let bytes = self.regions.range(region);
            let start = bytes.offset().max(range.offset());
            let end = bytes.end().min(range.end());
            match parts.last_mut().filter(|part| part.end() == start) {
                Some(part) => *part = ByteRange::between(part.offset(), end),
                None => parts.push(ByteRange::between(start, end)),
            }
        }
        if parts.len() > parts_max {
            self.mark(range);
            return Vec::new();
        }
        let clean = |part: &ByteRange| {
            Regions::touched(*part).all(|r| !self.regions.is_dirty(r) && !self.is_copying(r))
        };
        assert!(
            parts.iter().all(clean) || !self.info.rules.hold(Rule::MirroredWhenCopied),
            "D12: a write is mirrored only where the target has acknowledged the copy"
        );
        parts
    }

    /// The next region to copy, and whether its lock is held until it is acknowledged.
    pub(crate) fn next(&mut self) -> Option<(ByteRange, bool)> {
        if self.failed {
            return None;
        }
        if self.step == Step::Passes && self.left() <= LAST_REGIONS {
            self.step = Step::Last;
        }
        let reread = !self.info.rules.hold(Rule::RereadWhenAcked);
        let copies = &self.copies;
        // One that waits for its lock has its bit still.
        let under_way = |region: u64| {
            copies.values().any(|copy| copy.region == region && (!reread || copy.began.is_none()))
        };
        let (tries, last) = (&self.tries, self.step == Step::Last);
        let is_held = |region| last || tries.get(&region).is_some_and(|tries| *tries >= TRIES_MAX);
        let one_is_held = copies.values().any(|copy| copy.held);
        if last && one_is_held {
            return None;
        }
        let waits = |region| under_way(region) || (one_is_held && is_held(region));
        let region = self.regions.next_dirty(waits)?;
        Some((self.regions.range(region), is_held(region)))
    }

    /// That region waits for its lock.
    pub(crate) fn begin(&mut self, id: u64, range: ByteRange, lock: LockId, held: bool) {
        let region = range.offset() / REGION_BYTES;
        assert!(
            !self.is_copying(region) || !self.info.rules.hold(Rule::RereadWhenAcked),
            "D13: a region is read again when every block of its earlier copy is acknowledged"
        );
        assert!(self.copies.len() < WINDOW, "copies under way are bounded");
        let copy = RegionCopy {
            region,
            range,
            lock: Some(lock),
            held,
            began: None,
            patience: Duration::ZERO,
            data: None,
            digests: None,
            sent: false,
            acks_missing: 0,
        };
        self.copies.insert(id, copy);
    }

    /// It has it: what is to be read.
    pub(crate) fn granted(&mut self, id: u64, now: Instant, patience: Duration) -> ByteRange {
        let copy = self.copies.get_mut(&id).expect("it waits for its lock");
        copy.began = Some(now);
        copy.patience = patience;
        self.regions.clear(copy.region);
        copy.range
    }

    /// Its data. Returns the lock if it goes now.
    pub(crate) fn read(&mut self, id: u64, data: Bytes) -> Option<LockId> {
        let copy = self.copies.get_mut(&id).expect("it is being read");
        copy.data = Some(data);
        if copy.held { None } else { copy.lock.take() }
    }

    /// It could not be read.
    pub(crate) fn read_failed(&mut self, id: u64) -> Ended {
        self.failed = true;
        let copy = self.copies.remove(&id).expect("it is being read");
        self.regions.mark(copy.region);
        Ended { lock: copy.lock, bytes: copy.range.length() }
    }

    /// The target's digests of it.
    pub(crate) fn digests(
        &mut self,
        id: u64,
        digests: Vec<u128>,
        now: Instant,
    ) -> Result<(), Unasked> {
        let scope = self.info.scope;
        let copy = self.copies.get_mut(&id).filter(|copy| copy.began.is_some()).ok_or(Unasked)?;
        if copy.digests.is_some() || digests.len() != compare::digests_due(scope, copy.range) {
            return Err(Unasked);
        }
        copy.digests = Some(digests);
        self.heard = now;
        Ok(())
    }

    /// The target has a block of it.
    pub(crate) fn acknowledged(&mut self, id: u64, now: Instant) -> Result<(), Unasked> {
        let copy = self.copies.get_mut(&id).filter(|copy| copy.acks_missing > 0).ok_or(Unasked)?;
        copy.acks_missing -= 1;
        self.heard = now;
        Ok(())
    }

    /// Sends what differs, once both halves are known, and says so when all is acknowledged.
    pub(crate) fn go_on(&mut self, id: u64, out: &mut Outbox) -> Option<Ended> {
        let copy = self.copies.get_mut(&id).expect("it is under way");
        if !copy.sent {
            let (Some(data), Some(theirs)) = (&copy.data, &copy.digests) else { return None };
            copy.sent = true;
            // What a write has overtaken will be read again.
            if !self.regions.is_dirty(copy.region) {
                for (range, data) in compare::differing(copy.range, data, theirs, self.info.seed) {
                    copy.acks_missing += 1;
                    self.copied_bytes += range.length();
                    out.send(DataMessage::SyncBlock { id, range, data });
                }
            }
            copy.data = None;
        }
        (copy.acks_missing == 0).then(|| self.end(id))
    }

    fn end(&mut self, id: u64) -> Ended {
        let copy = self.copies.remove(&id).expect("it is under way");
        if self.regions.is_dirty(copy.region) {
            *self.tries.entry(copy.region).or_default() += 1;
        } else {
            self.tries.remove(&copy.region);
        }
        Ended { lock: copy.lock, bytes: copy.range.length() }
    }

    /// `true` once: the target has all that this node has, but for the mirrored writes that it has
    /// not acknowledged and that were answered before the last step.
    pub(crate) fn is_equal(&mut self, answered_alone: usize) -> bool {
        let acks = answered_alone == 0 || !self.info.rules.hold(Rule::ComparedWhenAcked);
        if self.told || self.failed || self.step == Step::Passes || self.left() > 0 || !acks {
            return false;
        }
        assert!(
            self.copies.is_empty() && self.regions.dirty() == 0,
            "D8: every region was compared before the copies count as equal"
        );
        assert!(
            answered_alone == 0 || !self.info.rules.hold(Rule::ComparedWhenAcked),
            "D15: the target has acknowledged every write that was answered without it"
        );
        assert!(
            self.info.scope != Scope::Rewrite
                || self.copied_bytes >= self.info.size
                || !self.info.rules.hold(Rule::CompareEverything),
            "D10: a copy whose disk failed gets every byte"
        );
        self.told = true;
        true
    }

    pub(crate) fn waits_for(&self, id: u64) -> WaitsFor {
        let copy = &self.copies[&id];
        if copy.began.is_none() {
            WaitsFor::Lock
        } else if copy.data.is_none() && !copy.sent {
            WaitsFor::Read
        } else {
            WaitsFor::Target
        }
    }

    /// The lock of a copy that waits for it.
    pub(crate) fn waiting_lock(&self, id: u64) -> Option<LockId> {
        let copy = self.copies.get(&id).filter(|copy| copy.began.is_none())?;
        copy.lock
    }

    /// Copies that wait for a disk or for the target: since when, and how much longer than T_io
    /// they may. For one that is not held any word of the target is progress.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (u64, Instant, Duration)> {
        self.copies.iter().filter_map(|(id, copy)| {
            let began = copy.began?;
            let since = match self.waits_for(*id) {
                WaitsFor::Target if !copy.held => began.max(self.heard),
                WaitsFor::Target | WaitsFor::Lock | WaitsFor::Read => began,
            };
            Some((*id, since, copy.patience))
        })
    }
}
