//! The only reader of clocks.
//!
//! PROTOCOL 2.1 asks for two: a grant ends by the larger elapsed time of CLOCK_BOOTTIME and
//! CLOCK_MONOTONIC_RAW, a promise by the smaller. Until grants exist one is enough: everything
//! that is timed here only suspects or gives up waiting, and errs on neither side of safety.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Instant;

/// The time since the machine started, suspend included.
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// The wall clock in nanoseconds of UNIX time, for people: the time of a log entry.
pub fn unix_nanos() -> i128 {
    let t = clock_gettime(ClockId::Realtime);
    i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
}

/// The wall clock in seconds of UNIX time. For certificates and for people: nothing that is safe
/// or timed may rest on it.
pub fn unix_seconds() -> i64 {
    clock_gettime(ClockId::Realtime).tv_sec
}
