//! SIGTERM and SIGINT, which stop a node cleanly.
//!
//! Owns: the signals' handlers, from the first moment of `stretch node` on: a signal that comes
//! while the node still starts is not lost and ends it like any other.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that are caught from now on.
#[derive(Debug)]
pub struct StopSignals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Sets the handlers.
    ///
    /// # Errors
    /// The kernel refuses a descriptor or a handler.
    pub fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Returns when one has come, now or before.
    pub fn wait(&mut self) {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
    }
}
