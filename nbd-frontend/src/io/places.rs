//! The places of hosts as threads share them: taken where a client is granted GO, given back where
//! its connection ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::io::clock;

use crate::hosts::{Host, Hosts, RefusalLog};

/// A handle to the places of all hosts; clones are the same places.
#[derive(Clone, Debug)]
pub(super) struct SharedPlaces {
    hosts: Arc<Mutex<Hosts>>,
    refusals: Arc<Mutex<RefusalLog>>,
}

impl SharedPlaces {
    pub(super) fn new(host_max: usize) -> Self {
        Self { hosts: Arc::new(Mutex::new(Hosts::new(host_max))), refusals: Arc::default() }
    }

    /// A place for a client of `host`, or what to tell it.
    pub(super) fn take(&self, host: &Host) -> Result<HostPlace, String> {
        lock(&self.hosts).take(host)?;
        Ok(HostPlace { hosts: self.hosts.clone(), host: host.clone() })
    }

    /// A client was refused for want of a place. `Some`: it is time for a line in the log, about so
    /// many.
    pub(super) fn note_refusal(&self) -> Option<u64> {
        lock(&self.refusals).note(clock::now())
    }
}

/// One place of a host; dropped, it is free.
#[derive(Debug)]
pub(super) struct HostPlace {
    hosts: Arc<Mutex<Hosts>>,
    host: Host,
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        lock(&self.hosts).give_back(&self.host);
    }
}

/// Nothing panics with the counts half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
