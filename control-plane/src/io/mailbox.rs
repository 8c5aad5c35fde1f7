//! What crosses threads: a bounded queue with an eventfd that wakes its reader, and the gate as
//! atomics.
//!
//! Not here: what the letters mean (`datapath::port`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::ids::Session;
use base::time::Instant;
use crossbeam::queue::ArrayQueue;
use datapath::gate::Gate;
use rustix::event::{EventfdFlags, eventfd};

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    wake: OwnedFd,
}

/// The writing end; clones write to the same reader.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `capacity` letters.
///
/// # Errors
/// No descriptor is to be had.
pub fn mailbox<T>(capacity: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { queue: ArrayQueue::new(capacity), wake });
    Ok((Sender(shared.clone()), Receiver(shared)))
}

impl<T> Sender<T> {
    /// Adds a letter and wakes the reader.
    ///
    /// # Errors
    /// The letter, if the queue is full.
    pub fn send(&self, letter: T) -> Result<(), T> {
        self.0.queue.push(letter)?;
        self.wake();
        Ok(())
    }

    /// Wakes the reader: something that it samples has changed.
    pub fn wake(&self) {
        // A full counter is a reader that is awake already.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}

impl<T> Receiver<T> {
    /// The next letter.
    pub fn poll(&self) -> Option<T> {
        self.0.queue.pop()
    }

    /// Whether a letter waits.
    pub fn has_mail(&self) -> bool {
        !self.0.queue.is_empty()
    }

    /// Becomes readable when a letter comes. Wait for it edge-triggered: it is never read.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

/// The right to serve as the group publishes it and every volume thread samples it.
///
/// Closing stores `read_until = 0` first and the new generation second; opening the other way
/// round. A sample that sees the generation change is a closed one.
#[derive(Debug, Default)]
pub struct SharedGate {
    serve_gen: AtomicU64,
    session: AtomicU64,
    read_until: AtomicU64,
}

impl SharedGate {
    /// Called by the group thread alone. One that is only kept open for longer is open meanwhile:
    /// nobody would come back to what a closed sample has held.
    pub fn publish(&self, gate: Gate) {
        if self.serve_gen.load(Ordering::SeqCst) == gate.serve_gen {
            self.read_until.store(gate.read_until.as_nanos(), Ordering::SeqCst);
            return;
        }
        self.read_until.store(0, Ordering::SeqCst);
        self.session.store(gate.session.0, Ordering::SeqCst);
        self.serve_gen.store(gate.serve_gen, Ordering::SeqCst);
        self.read_until.store(gate.read_until.as_nanos(), Ordering::SeqCst);
    }

    /// The gate now; closed while it is being changed.
    pub fn sample(&self) -> Gate {
        let serve_gen = self.serve_gen.load(Ordering::SeqCst);
        let session = Session(self.session.load(Ordering::SeqCst));
        let read_until = Instant::from_nanos(self.read_until.load(Ordering::SeqCst));
        if self.serve_gen.load(Ordering::SeqCst) != serve_gen {
            return Gate::CLOSED;
        }
        Gate { serve_gen, session, read_until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_arrive_in_order_and_a_full_box_gives_them_back() {
        let (sender, receiver) = mailbox(2).expect("an eventfd");
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Err(3));
        assert!(receiver.has_mail());
        assert_eq!((receiver.poll(), receiver.poll(), receiver.poll()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_gate_that_is_kept_open_is_never_seen_closed() {
        let gate = Arc::new(SharedGate::default());
        let until = |n| {
            let read_until = Instant::from_nanos(n);
            Gate { serve_gen: 7, session: Session(3), read_until }
        };
        gate.publish(until(1));
        let publisher = gate.clone();
        let thread =
            std::thread::spawn(move || (2..50_000).for_each(|n| publisher.publish(until(n))));
        while !thread.is_finished() {
            assert!(gate.sample().read_until > Instant::ZERO);
        }
        thread.join().expect("publisher");
        assert_eq!(gate.sample(), until(49_999));
    }

    #[test]
    fn a_sample_is_one_that_was_published_or_closed() {
        let gate = Arc::new(SharedGate::default());
        let open =
            |n: u64| Gate { serve_gen: n, session: Session(n), read_until: Instant::from_nanos(n) };
        let publisher = gate.clone();
        let thread =
            std::thread::spawn(move || (1..20_000).for_each(|n| publisher.publish(open(n))));
        while !thread.is_finished() {
            let seen = gate.sample();
            let closed = seen.read_until == Instant::ZERO;
            assert!(closed || seen == open(seen.serve_gen), "{seen:?}");
        }
        thread.join().expect("publisher");
        assert_eq!(gate.sample(), open(19_999));
    }
}
