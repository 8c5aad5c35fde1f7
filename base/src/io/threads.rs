//! The threads of a process, as whoever waits for their end sees them.
//!
//! Invariants: nobody waits longer than he means to. A thread is over when its work is: one whose
//! I/O a hung disk has not completed is kept by the kernel until it has, and pthread_join with it.
//! Not here: failures. A panic ends the process (`process_log`).

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// A thread that was started.
#[derive(Debug)]
pub struct Thread {
    /// Its other end goes with the thread's work.
    ended: Receiver<Infallible>,
}

impl Thread {
    /// Starts one.
    ///
    /// # Errors
    /// As thread::spawn.
    pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (alive, ended) = channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            work();
            drop(alive);
        })?;
        Ok(Self { ended })
    }

    /// Waits for its end; whether that came within `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Ok(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_waited_for_and_no_longer_than_wanted() {
        let (go_on, wait) = channel::<()>();
        let thread = Thread::spawn("test", move || {
            let _ = wait.recv();
        });
        let thread = thread.expect("a thread");
        assert!(!thread.wait(Duration::from_millis(10)));
        drop(go_on);
        assert!(thread.wait(Duration::from_secs(60)));
        assert!(thread.wait(Duration::ZERO), "once over, it stays over");
    }
}
