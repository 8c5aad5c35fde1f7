//! The right to answer hosts: a value that the group publishes and that is handed in once per turn
//! of the loop, never looked up (PROTOCOL 2.5.3).

use base::ids::Session;
use base::time::Instant;

/// What a volume may do at the moment of the sample.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gate {
    /// Changes whenever the node enters or leaves a serving state or session.
    pub serve_gen: u64,
    /// The session it speaks of.
    pub session: Session,
    /// Local reads may be answered before this instant; zero while the gate is closed.
    pub read_until: Instant,
}

impl Gate {
    /// Nobody is served.
    pub const CLOSED: Self = Self { serve_gen: 0, session: Session(0), read_until: Instant::ZERO };

    /// Whether hosts are served at `now`.
    pub fn usable(self, now: Instant) -> bool {
        now < self.read_until
    }
}
