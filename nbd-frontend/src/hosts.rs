//! How many of a node's places for clients one host may hold.
//!
//! Owns: how many each host holds.   In: a client of a host is to be attached, or is gone.
//! Out: whether there is a place for it; when to say in the log that there was none.
//! Invariants: no host holds more than `Caps::host_max`, so that none keeps all others out.
//! Not here: places of connections that negotiate, whose host may not be known yet (`admission`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use base::identity::Identity;
use base::ids::NodeName;
use base::time::{Duration, Instant};

/// Time between two lines in the log about clients that were refused.
const REFUSALS_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The machine behind a client, as far as it can be told from others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// By the name in its certificate.
    Named(NodeName),
    /// By its address, where there is no certificate.
    At(IpAddr),
}

impl Host {
    /// Who shows this certificate, or connects from this address.
    pub fn of(identity: Option<&Identity>, address: IpAddr) -> Self {
        match identity {
            Some(identity) => Self::Named(identity.name.clone()),
            None => Self::At(address.to_canonical()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The places that hosts hold.
#[derive(Debug)]
pub struct Hosts {
    host_max: usize,
    /// Never zero.
    held: BTreeMap<Host, usize>,
}

impl Hosts {
    /// Nobody holds any; each may hold `host_max`.
    pub fn new(host_max: usize) -> Self {
        assert!(host_max > 0, "a cap lets somebody in");
        Self { host_max, held: BTreeMap::new() }
    }

    /// Gives `host` one more place.
    ///
    /// # Errors
    /// It holds as many as it may: what to tell it.
    pub fn take(&mut self, host: &Host) -> Result<(), String> {
        let held = self.held(host);
        if held >= self.host_max {
            return Err(format!(
                "this host ({host}) has {held} clients attached at this node, and no host may have \
                 more: those go on; detach one of them first, or attach at the other node"
            ));
        }
        self.held.insert(host.clone(), held + 1);
        Ok(())
    }

    /// One client of `host` is gone. Panics if it had none.
    pub fn give_back(&mut self, host: &Host) {
        let held = self.held.get_mut(host).expect("a place is given back once");
        *held -= 1;
        if *held == 0 {
            self.held.remove(host);
        }
    }

    /// Places of `host`.
    pub fn held(&self, host: &Host) -> usize {
        self.held.get(host).copied().unwrap_or(0)
    }
}

/// When refusals are told in the log: whoever is refused can come again at once.
#[derive(Debug, Default)]
pub struct RefusalLog {
    silent_until: Instant,
    untold: u64,
}

impl RefusalLog {
    /// Somebody was refused. `Some`: say so, and how many were refused since the last time.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if now < self.silent_until {
            return None;
        }
        self.silent_until = now + REFUSALS_LOG_INTERVAL;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::Caps;

    fn at(address: &str) -> Host {
        Host::of(None, address.parse().expect("an address"))
    }

    #[test]
    fn a_host_holds_a_quarter_of_the_places_and_keeps_nobody_out() {
        let Caps { clients_max, host_max, .. } = Caps::DEFAULT;
        assert_eq!(4 * host_max, clients_max);
        let mut hosts = Hosts::new(host_max);
        let greedy = at("127.0.0.1");
        let taken = (0..clients_max).filter(|_| hosts.take(&greedy).is_ok()).count();
        assert_eq!((taken, hosts.held(&greedy)), (host_max, host_max));
        assert_eq!(hosts.take(&at("127.0.0.2")), Ok(()));
        let told = hosts.take(&greedy).expect_err("it is full");
        assert!(told.contains("127.0.0.1") && told.contains("256"), "{told}");
        hosts.give_back(&greedy);
        assert_eq!(hosts.take(&greedy), Ok(()));
    }

    #[test]
    fn a_certificate_says_more_than_an_address() {
        let identity: Identity = "stretch:host/h".parse().expect("an identity");
        let address = "::ffff:127.0.0.1".parse().expect("an address");
        assert_eq!(Host::of(Some(&identity), address), Host::Named("h".parse().expect("a name")));
        assert_eq!(Host::of(None, address), at("127.0.0.1"), "one address, one host");
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn a_place_given_back_twice_is_a_bug() {
        Hosts::new(1).give_back(&at("127.0.0.1"));
    }

    #[test]
    fn many_refusals_are_one_line() {
        let mut log = RefusalLog::default();
        assert_eq!(log.note(Instant::ZERO), Some(1));
        for _ in 0..1000 {
            assert_eq!(log.note(Instant::ZERO + Duration::from_secs(9)), None);
        }
        assert_eq!(log.note(Instant::ZERO + REFUSALS_LOG_INTERVAL), Some(1001));
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_taken(
            events in proptest::collection::vec((any::<bool>(), 0usize..3), 0..200)
        ) {
            let names = ["10.0.0.1", "10.0.0.2", "::1"].map(at);
            let mut hosts = Hosts::new(4);
            let mut model = [0usize; 3];
            for (takes, index) in events {
                let host = &names[index];
                if takes {
                    prop_assert_eq!(hosts.take(host).is_ok(), model[index] < 4);
                    model[index] = (model[index] + 1).min(4);
                } else if model[index] > 0 {
                    hosts.give_back(host);
                    model[index] -= 1;
                }
                for (host, held) in names.iter().zip(model) {
                    prop_assert_eq!(hosts.held(host), held);
                }
            }
            let holders = model.iter().filter(|held| **held > 0).count();
            prop_assert_eq!(hosts.held.len(), holders, "nobody without a place is remembered");
        }
    }
}
