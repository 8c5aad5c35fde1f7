//! Requests that wait for a session with an open gate, oldest first, and what they keep in memory.

use std::collections::VecDeque;

use base::range::ByteRange;
use base::request::Operation;

use crate::order::mirror::Arrival;

/// A queue of arrivals that knows its payload bytes.
#[derive(Debug, Default)]
pub(crate) struct Held {
    arrivals: VecDeque<Arrival>,
    payload_bytes: u64,
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.arrivals.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    pub(crate) fn push_back(&mut self, arrival: Arrival) {
        self.payload_bytes += payload_bytes(&arrival);
        self.arrivals.push_back(arrival);
    }

    /// These came before all that are held, in this order.
    pub(crate) fn put_before(&mut self, earlier: Vec<Arrival>) {
        for arrival in earlier.into_iter().rev() {
            self.payload_bytes += payload_bytes(&arrival);
            self.arrivals.push_front(arrival);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.pop_front()?;
        self.payload_bytes -= payload_bytes(&arrival);
        Some(arrival)
    }

    /// Takes the reads of `wanted` ranges out of what arrived last, with numbers from `seen` on.
    pub(crate) fn take_reads(
        &mut self,
        seen: u64,
        wanted: impl Fn(ByteRange) -> bool,
    ) -> Vec<Arrival> {
        let fresh = self.arrivals.iter().rev().take_while(|arrival| arrival.number >= seen);
        let start = self.arrivals.len() - fresh.count();
        let is_wanted = |arrival: &Arrival| matches!(arrival.operation, Operation::Read { range } if wanted(range));
        let (taken, left): (Vec<_>, Vec<_>) =
            self.arrivals.split_off(start).into_iter().partition(is_wanted);
        self.arrivals.extend(left);
        taken
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Arrival) -> bool) {
        self.arrivals.retain(keep);
        self.payload_bytes = self.arrivals.iter().map(payload_bytes).sum();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn payload_bytes(arrival: &Arrival) -> u64 {
    match &arrival.operation {
        Operation::Write(write) => write.payload_bytes(),
        Operation::Read { .. } | Operation::Flush | Operation::Cache { .. } => 0,
    }
}
