//! What has waited too long in a session, and for which of the two copies.
//!
//! Too long is T_io and what a slow disk needs for everything that was under way before: a disk that
//! is busy is not hung, and a zeroing of 4 GiB takes what it takes.
//! Not here: what is done about it (the group).

use base::limits::{SLOW_DISK_BYTES_PER_S, SLOW_DISK_REQUEST};
use base::time::{Duration, Instant};

use super::live::Owner;
use super::mirror::Mirror;
use crate::resync::WaitsFor;

/// A copy that has not done its half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// This node's: its backing store has not completed something.
    Here,
    /// The peer's, or its word of it.
    There,
}

/// What the disks of both nodes have to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    requests: u32,
    bytes: u64,
}

impl Work {
    pub(super) fn begin(&mut self, bytes: u64) {
        self.requests += 1;
        self.bytes += bytes;
    }

    pub(super) fn end(&mut self, bytes: u64) {
        self.requests -= 1;
        self.bytes -= bytes;
    }

    /// How much longer than T_io what has begun last may take.
    pub(super) fn patience(&self) -> Duration {
        SLOW_DISK_REQUEST * self.requests.saturating_sub(1) + time_for(self.bytes)
    }
}

/// How long a slow disk needs for so many bytes.
pub(super) fn time_for(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / SLOW_DISK_BYTES_PER_S)
}

/// Something that waits for a copy.
#[derive(Clone, Copy)]
struct Waiting {
    what: What,
    since: Instant,
    patience: Duration,
}

#[derive(Clone, Copy)]
enum What {
    Write(usize),
    Read,
    Flush,
    Copy(u64),
}

impl Mirror {
    /// When the first request will have waited too long.
    pub(crate) fn late_at(&self, io_timeout: Duration) -> Option<Instant> {
        self.first_late().map(|waiting| waiting.since + waiting.patience + io_timeout)
    }

    /// How long that request has waited, and for which copy.
    pub(crate) fn late_half(&self, now: Instant) -> Option<(Duration, Half)> {
        let Waiting { what, since, .. } = self.first_late()?;
        let half = match what {
            What::Write(slot) => self.half_of(Owner::Write(slot)),
            What::Flush if self.flushes.waits_here() => Half::Here,
            What::Flush => Half::There,
            What::Read => Half::Here,
            What::Copy(id) => self.half_of(Owner::Copy(id)),
        };
        Some((now.since(since), half))
    }

    fn first_late(&self) -> Option<Waiting> {
        let own = self.own.first_key_value().map(|(_, slot)| *slot);
        let unordered = self.unordered.first_key_value().map(|(_, slot)| *slot);
        let peers = self.peers.first_key_value().map(|(_, slot)| *slot);
        let writes = [own, unordered, peers].into_iter().flatten().map(|slot| {
            let live = &self.writes[slot];
            Waiting { what: What::Write(slot), since: live.since, patience: live.patience }
        });
        let flush = self.flushes.waiting_since();
        let flush = flush.map(|(since, patience)| Waiting { what: What::Flush, since, patience });
        let read = self.reads_begun.first().map(|(since, slot)| {
            let patience = self.reads[*slot].patience;
            Waiting { what: What::Read, since: *since, patience }
        });
        let first = earliest(writes.chain(flush).chain(read));
        let Some(resync) = self.resync() else { return first };
        let copies = resync.waiting().map(|(id, since, patience)| Waiting {
            what: What::Copy(id),
            since,
            patience,
        });
        earliest(first.into_iter().chain(copies))
    }

    /// Which copy a write or the copy of a region waits for: one that waits for its range waits
    /// for what the oldest before it waits for.
    fn half_of(&self, mut owner: Owner) -> Half {
        while let Some(before) = self.oldest_before(owner) {
            owner = before;
        }
        match owner {
            Owner::Write(slot) if self.writes[slot].submitted && !self.writes[slot].here => {
                Half::Here
            }
            Owner::Write(_) => Half::There,
            Owner::Read(_) | Owner::Late => Half::Here,
            Owner::Copy(id) => match self.resync().map(|resync| resync.waits_for(id)) {
                Some(WaitsFor::Target) => Half::There,
                Some(WaitsFor::Lock | WaitsFor::Read) | None => Half::Here,
            },
        }
    }

    fn oldest_before(&self, owner: Owner) -> Option<Owner> {
        let lock = match owner {
            Owner::Write(slot) if self.writes[slot].submitted => None,
            Owner::Write(slot) => self.writes[slot].lock,
            Owner::Read(slot) if self.reads[slot].submitted => None,
            Owner::Read(slot) => Some(self.reads[slot].lock),
            Owner::Late => None,
            Owner::Copy(id) => self.resync().and_then(|resync| resync.waiting_lock(id)),
        };
        self.locks.oldest_before(lock?)
    }
}

fn earliest(waiting: impl Iterator<Item = Waiting>) -> Option<Waiting> {
    waiting.min_by_key(|waiting| waiting.since + waiting.patience)
}
