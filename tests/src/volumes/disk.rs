//! A disk whose operations take effect when they end, in any order.

use std::collections::BTreeMap;

use base::limits::BLOCK_BYTES;
use base::range::ByteRange;
use base::time::{Duration, Instant};
use bytes::Bytes;
use datapath::storage::{IoCompletion, IoDone, IoId, IoOperation};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

pub(super) struct Disk {
    pub(super) image: Vec<u8>,
    /// How many of its operations take long.
    slow: f64,
    under_way: BTreeMap<IoId, (Instant, IoOperation)>,
}

impl Disk {
    pub(super) fn new(image: Vec<u8>, slow: f64) -> Self {
        Self { image, slow, under_way: BTreeMap::new() }
    }

    /// Whether it overlaps one that is under way, and one of them writes (W9).
    pub(super) fn submit(
        &mut self,
        now: Instant,
        id: IoId,
        operation: IoOperation,
        rng: &mut ChaCha8Rng,
    ) -> bool {
        let changes =
            |op: &IoOperation| matches!(op, IoOperation::Write { .. } | IoOperation::Zero { .. });
        let clash = self.under_way.values().any(|(_, other)| {
            other.range().overlaps(operation.range()) && (changes(other) || changes(&operation))
        });
        let micros = if rng.random_bool(self.slow) {
            rng.random_range(2_000..40_000)
        } else {
            rng.random_range(10..1_500)
        };
        let before = self.under_way.insert(id, (now + Duration::from_micros(micros), operation));
        assert!(before.is_none(), "an I/O id is used once");
        clash
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.under_way.values().map(|(at, _)| *at).min()
    }

    /// What has ended by now.
    pub(super) fn complete(&mut self, now: Instant) -> Vec<IoCompletion> {
        let due =
            |(id, (at, _)): (&IoId, &(Instant, IoOperation))| (*at <= now).then_some((*at, *id));
        let mut ids: Vec<_> = self.under_way.iter().filter_map(due).collect();
        ids.sort_unstable();
        ids.into_iter()
            .map(|(_, id)| {
                let (_, operation) = self.under_way.remove(&id).expect("just found");
                IoCompletion { id, result: Ok(self.execute(operation)) }
            })
            .collect()
    }

    fn execute(&mut self, operation: IoOperation) -> IoDone {
        let bytes = bounds(operation.range());
        match operation {
            IoOperation::Read { .. } => {
                return IoDone::Data(Bytes::copy_from_slice(&self.image[bytes]));
            }
            IoOperation::Write { data, .. } => self.image[bytes].copy_from_slice(&data),
            IoOperation::Zero { .. } => self.image[bytes].fill(0),
            IoOperation::Flush | IoOperation::Prefetch { .. } => {}
        }
        IoDone::Done
    }

    /// The process is gone: what was under way happens or not.
    pub(super) fn kill(&mut self, rng: &mut ChaCha8Rng) {
        for (_, operation) in std::mem::take(&mut self.under_way).into_values() {
            if rng.random_bool(0.5) {
                self.execute(operation);
            }
        }
    }

    /// The id in a block; 0 for zeros.
    pub(super) fn id_at(&self, block: u64) -> u64 {
        block_id(&self.image[(block * BLOCK_BYTES) as usize..])
    }
}

pub(super) fn block_id(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("a block"))
}

fn bounds(range: ByteRange) -> std::ops::Range<usize> {
    range.offset() as usize..range.end() as usize
}
