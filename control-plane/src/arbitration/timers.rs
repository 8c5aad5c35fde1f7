//! All instants of the group core in one table, but for grants and promises.

use base::time::{Duration, Instant};

use super::renumber::{NOW, relative_instant};

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// The next GRANT_REQ is due.
    Ask,
    /// The peer has been silent for T_sus.
    Suspect,
    /// Requests have been held for T_hold.
    Hold,
    /// A volume has not become quiet within T_io.
    Quiet,
    /// A durable job has flushed data for longer than T_io.
    Flush,
    /// A step that needs the peer takes too long.
    Step,
    /// The witness may be asked for its vote.
    Claim,
    /// The promise to the peer may be over.
    Promise,
    /// The lease from the peer may be over.
    Lapse,
    /// A node that was alone has looked long enough for a successor.
    Probe,
    /// A failed disk may be tried again.
    Retry,
    /// The next join may begin (2.8.3).
    HoldOff,
    /// The peer has not answered a HANDOFF_REQ, or not given what it announced.
    HandOff,
    /// A stop ends, clean or not.
    StopBy,
}

impl Timer {
    const ALL: [Self; 14] = [
        Self::Ask,
        Self::Suspect,
        Self::Hold,
        Self::Quiet,
        Self::Flush,
        Self::Step,
        Self::Claim,
        Self::Promise,
        Self::Lapse,
        Self::Probe,
        Self::Retry,
        Self::HoldOff,
        Self::HandOff,
        Self::StopBy,
    ];
}

/// What is further away is not told apart by a renumbered table.
const FAR: Duration = Duration::from_secs(500);

/// When each is due; `Instant::NEVER` if it is not set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct TimerTable {
    due: [Instant; Timer::ALL.len()],
}

impl TimerTable {
    pub(super) const EMPTY: Self = Self { due: [Instant::NEVER; Timer::ALL.len()] };

    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.due[timer as usize] = at;
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.set(timer, Instant::NEVER);
    }

    pub(super) fn at(&self, timer: Timer) -> Instant {
        self.due[timer as usize]
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.at(timer) != Instant::NEVER
    }

    /// Takes a timer that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|t| self.is_set(*t) && self.at(*t) <= now)?;
        self.clear(timer);
        Some(timer)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.into_iter().filter(|at| *at != Instant::NEVER).min()
    }

    /// See `renumber`.
    pub(super) fn renumber(&mut self, clock: Instant) {
        for at in &mut self.due {
            *at = relative_instant(*at, clock, NOW.time);
            if *at != Instant::NEVER && at.since(NOW.time) > FAR {
                // Never due before something else has happened.
                *at = NOW.time + FAR * 2;
            }
        }
    }
}
