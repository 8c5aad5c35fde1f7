//! All instants of the group core in one table.

use base::time::Instant;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// The next HEARTBEAT is due.
    Heartbeat,
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
    /// A failed disk may be tried again.
    Retry,
    /// A stop ends, clean or not.
    StopBy,
}

impl Timer {
    const ALL: [Self; 8] = [
        Self::Heartbeat,
        Self::Suspect,
        Self::Hold,
        Self::Quiet,
        Self::Flush,
        Self::Step,
        Self::Retry,
        Self::StopBy,
    ];
}

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_and_the_earliest_is_next() {
        let mut table = TimerTable::EMPTY;
        assert_eq!(table.next(), None);
        table.set(Timer::Hold, Instant::from_nanos(9));
        table.set(Timer::Retry, Instant::from_nanos(5));
        assert_eq!(table.next(), Some(Instant::from_nanos(5)));
        assert_eq!(table.take_due(Instant::from_nanos(4)), None);
        assert_eq!(table.take_due(Instant::from_nanos(5)), Some(Timer::Retry));
        assert_eq!(table.take_due(Instant::from_nanos(5)), None);
        assert_eq!(table.next(), Some(Instant::from_nanos(9)));
    }
}
