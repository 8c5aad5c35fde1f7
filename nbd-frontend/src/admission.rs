//! Who may negotiate, and for how long.
//!
//! Owns: the connections that are not attached yet.   In: a connection came, left or was attached;
//! time.   Out: take it, take it instead of another one, refuse it; whose time is up.
//! Invariants: at most `NEGOTIATING_MAX` connections negotiate; none is added to `CLIENTS_MAX`
//! negotiating and attached ones; none negotiates longer than `HANDSHAKE_TIMEOUT`.
//!
//! Over a cap the OLDEST negotiating connection has to go and the newcomer is taken: an honest
//! client is through in a few round trips, one that holds a place is the slow or silent one. To
//! refuse newcomers instead would let a few hundred silent connections lock everybody out for the
//! whole time limit. An attached client never has to go for a newcomer: when all places are held
//! by attached clients, the newcomer is refused. That no single host holds them all is seen to when a
//! client is attached (`hosts`): before, its host may not be known.

use std::collections::BTreeMap;

use base::limits::{CLIENTS_MAX, HANDSHAKE_TIMEOUT, HOST_CLIENTS_MAX, NEGOTIATING_MAX};
use base::time::{Duration, Instant};

/// One connection that was accepted. Grows with time and is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(u64);

/// The bounds; values of their own so that a test can reach them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Negotiating and attached connections together.
    pub clients_max: usize,
    /// Attached clients of one host.
    pub host_max: usize,
    /// Negotiating connections.
    pub negotiating_max: usize,
    /// Time from accept to GO.
    pub handshake_timeout: Duration,
}

impl Caps {
    /// What ships.
    pub const DEFAULT: Self = Self {
        clients_max: CLIENTS_MAX,
        host_max: HOST_CLIENTS_MAX,
        negotiating_max: NEGOTIATING_MAX,
        handshake_timeout: HANDSHAKE_TIMEOUT,
    };
}

/// What happens to a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It negotiates.
    Taken(ConnectionId),
    /// It negotiates, and the other one is closed.
    TakenInstead {
        /// The new one.
        taken: ConnectionId,
        /// The one to close; it is forgotten here.
        closed: ConnectionId,
    },
    /// It is closed: every place is held by an attached client.
    Refused,
}

/// The table of negotiating connections.
#[derive(Debug)]
pub struct Admissions {
    caps: Caps,
    next: u64,
    /// In the order of arrival, which is also the order of deadlines.
    deadlines: BTreeMap<ConnectionId, Instant>,
}

impl Admissions {
    /// Nobody is there.
    pub fn new(caps: Caps) -> Self {
        assert!(caps.clients_max > 0 && caps.negotiating_max > 0, "a cap lets somebody in");
        Self { caps, next: 0, deadlines: BTreeMap::new() }
    }

    /// A connection came, while so many clients are attached.
    pub fn handle_accept(&mut self, now: Instant, attached: usize) -> Admission {
        let full = self.deadlines.len() >= self.caps.negotiating_max
            || self.deadlines.len() + attached >= self.caps.clients_max;
        let closed = if full {
            match self.deadlines.pop_first() {
                Some((oldest, _)) => Some(oldest),
                None => return Admission::Refused,
            }
        } else {
            None
        };
        let taken = ConnectionId(self.next);
        self.next += 1;
        self.deadlines.insert(taken, now + self.caps.handshake_timeout);
        assert!(self.deadlines.len() <= self.caps.negotiating_max, "negotiating is capped");
        match closed {
            None => Admission::Taken(taken),
            Some(closed) => Admission::TakenInstead { taken, closed },
        }
    }

    /// A connection was attached or is gone. One that was closed from here is unknown already.
    pub fn handle_end(&mut self, connection: ConnectionId) {
        self.deadlines.remove(&connection);
    }

    /// A connection whose time is up: it is closed and forgotten here.
    pub fn poll_expired(&mut self, now: Instant) -> Option<ConnectionId> {
        let (connection, deadline) = self.deadlines.first_key_value()?;
        let connection = (*deadline <= now).then_some(*connection)?;
        self.deadlines.remove(&connection);
        Some(connection)
    }

    /// When [`Self::poll_expired`] has something next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|(_, deadline)| *deadline)
    }

    /// Connections that negotiate.
    pub fn negotiating(&self) -> usize {
        self.deadlines.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Caps = Caps { clients_max: 5, negotiating_max: 3, ..Caps::DEFAULT };

    fn id(admission: Admission) -> ConnectionId {
        match admission {
            Admission::Taken(taken) | Admission::TakenInstead { taken, .. } => taken,
            Admission::Refused => panic!("refused"),
        }
    }

    #[test]
    fn over_the_cap_the_oldest_negotiating_one_goes() {
        let mut table = Admissions::new(SMALL);
        let ids: Vec<_> = (0..3).map(|_| id(table.handle_accept(Instant::ZERO, 0))).collect();
        let next = table.handle_accept(Instant::ZERO, 0);
        assert!(matches!(next, Admission::TakenInstead { closed, .. } if closed == ids[0]));
        table.handle_end(ids[1]);
        assert!(matches!(table.handle_accept(Instant::ZERO, 0), Admission::Taken(_)));
    }

    #[test]
    fn attached_clients_keep_their_places() {
        let mut table = Admissions::new(SMALL);
        assert_eq!(table.handle_accept(Instant::ZERO, 5), Admission::Refused);
        let first = id(table.handle_accept(Instant::ZERO, 4));
        let second = table.handle_accept(Instant::ZERO, 4);
        assert!(matches!(second, Admission::TakenInstead { closed, .. } if closed == first));
        assert_eq!(table.negotiating(), 1);
    }

    #[test]
    fn time_is_up_after_the_limit_and_not_before() {
        let mut table = Admissions::new(SMALL);
        let late = Instant::ZERO + Duration::from_secs(3);
        let first = id(table.handle_accept(Instant::ZERO, 0));
        let second = id(table.handle_accept(late, 0));
        assert_eq!(table.next_deadline(), Some(Instant::ZERO + HANDSHAKE_TIMEOUT));
        let just_before = Instant::from_nanos((Instant::ZERO + HANDSHAKE_TIMEOUT).as_nanos() - 1);
        assert_eq!(table.poll_expired(just_before), None);
        assert_eq!(table.poll_expired(Instant::ZERO + HANDSHAKE_TIMEOUT), Some(first));
        assert_eq!(table.poll_expired(Instant::ZERO + HANDSHAKE_TIMEOUT), None);
        assert_eq!(table.poll_expired(late + HANDSHAKE_TIMEOUT), Some(second));
        assert_eq!(table.next_deadline(), None);
    }

    proptest! {
        #[test]
        fn caps_hold_whatever_happens(
            events in proptest::collection::vec((0u8..4, 0usize..7), 0..200)
        ) {
            let mut table = Admissions::new(SMALL);
            let mut now = Instant::ZERO;
            let mut known = Vec::new();
            for (event, number) in events {
                match event {
                    0 | 1 => match table.handle_accept(now, number) {
                        Admission::Refused => prop_assert!(number >= SMALL.clients_max),
                        taken => known.push(id(taken)),
                    },
                    2 => if !known.is_empty() {
                        table.handle_end(known[number % known.len()]);
                    },
                    _ => {
                        now = now + Duration::from_secs(number as u64);
                        while table.poll_expired(now).is_some() {}
                        prop_assert!(table.next_deadline().is_none_or(|deadline| deadline > now));
                    }
                }
                prop_assert!(table.negotiating() <= SMALL.negotiating_max);
            }
        }
    }
}
