//! The I/O engine of one volume: operations in, completions out, never waiting. Three of them,
//! chosen once at start: calls in place on tmpfs, io_uring, or a pool of blocking threads where
//! io_uring is forbidden, and on FUSE, where it would wait for a hung server.
//!
//! A turn of the loop: `begin_turn`, then `poll_completions`, feed the core, `submit` what it asks
//! for, `flush_submissions`, again while `has_completions` says so; wait for `event_fd` only while
//! `has_unfinished` says no, too.
//! Owns: which operations are under way, and their memory.
//! Not here: what may overlap what (the core), opening and locking (`backing`).

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use tracing::info;

use super::backing::Backing;
use super::inline::Inline;
use super::pool::Pool;
use super::ring::Ring;
use crate::storage::{IoCompletion, IoId, IoOperation};

/// How I/O is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// Calls in place; on tmpfs only.
    Inline,
    /// io_uring.
    Ring,
    /// Blocking calls on threads of their own.
    Pool,
}

impl EngineKind {
    /// The word for it in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline calls",
            Self::Ring => "io_uring",
            Self::Pool => "blocking threads",
        }
    }
}

/// The engine of one volume. It stays on the thread that started it.
#[derive(Debug)]
pub struct Engine {
    variant: Variant,
    in_flight: usize,
    /// io_uring takes submissions from one thread only.
    stays_here: PhantomData<*const ()>,
}

#[derive(Debug)]
enum Variant {
    Inline(Inline),
    Ring(Box<Ring>),
    Pool(Pool),
}

impl Engine {
    /// Starts the best engine for `backing` and says in the log which one it is and why.
    ///
    /// # Errors
    /// Not even threads can be had.
    pub fn start(backing: &Backing) -> io::Result<Self> {
        let (kind, why, engine) = if backing.is_on_tmpfs() {
            let engine = Self::start_as(backing, EngineKind::Inline)?;
            (EngineKind::Inline, "tmpfs answers at once".to_owned(), engine)
        } else if backing.is_on_fuse() {
            let engine = Self::start_as(backing, EngineKind::Pool)?;
            (EngineKind::Pool, "on FUSE io_uring may wait in place".to_owned(), engine)
        } else {
            match Self::start_as(backing, EngineKind::Ring) {
                Ok(engine) => (EngineKind::Ring, "it is available".to_owned(), engine),
                Err(error) => {
                    let why = format!("io_uring cannot be had: {error}");
                    let engine = Self::start_as(backing, EngineKind::Pool)?;
                    (EngineKind::Pool, why, engine)
                }
            }
        };
        info!(
            path = %backing.path().display(),
            "backing store: {}; I/O by {} ({why})",
            backing.description(),
            kind.name(),
        );
        Ok(engine)
    }

    /// Starts the engine of the given kind.
    ///
    /// # Errors
    /// The kernel refuses it. Panics for calls in place anywhere but on tmpfs.
    pub fn start_as(backing: &Backing, kind: EngineKind) -> io::Result<Self> {
        let store = backing.store.clone();
        let variant = match kind {
            EngineKind::Inline => Variant::Inline(Inline::start(store)?),
            EngineKind::Ring => Variant::Ring(Box::new(Ring::start(store)?)),
            EngineKind::Pool => Variant::Pool(Pool::start(store)?),
        };
        Ok(Self { variant, in_flight: 0, stays_here: PhantomData })
    }

    /// A turn of the loop begins: what waited for it because of its length goes on.
    pub fn begin_turn(&mut self) {
        match &mut self.variant {
            Variant::Inline(inline) => inline.begin_turn(),
            Variant::Ring(_) | Variant::Pool(_) => {}
        }
    }

    /// Starts an operation. The engine keeps its payload until it has completed. Panics if it
    /// leaves the volume or a read is larger than the largest request.
    pub fn submit(&mut self, id: IoId, operation: IoOperation) {
        self.in_flight += 1;
        match &mut self.variant {
            Variant::Inline(inline) => inline.submit(id, operation),
            Variant::Ring(ring) => ring.submit(id, operation),
            Variant::Pool(pool) => pool.submit(id, operation),
        }
    }

    /// Tells the kernel what was submitted: at the end of every turn, before waiting.
    pub fn flush_submissions(&mut self) {
        match &mut self.variant {
            Variant::Inline(_) | Variant::Pool(_) => {}
            Variant::Ring(ring) => ring.flush_submissions(),
        }
    }

    /// Appends what has completed to `completions`, in the order of completion.
    pub fn poll_completions(&mut self, completions: &mut Vec<IoCompletion>) {
        let before = completions.len();
        match &mut self.variant {
            Variant::Inline(inline) => inline.poll_completions(completions),
            Variant::Ring(ring) => ring.poll_completions(completions),
            Variant::Pool(pool) => pool.poll_completions(completions),
        }
        let completed = completions.len() - before;
        assert!(completed <= self.in_flight, "nothing completes that was not submitted");
        self.in_flight -= completed;
    }

    /// Whether another [`Self::poll_completions`] has something to do in this turn.
    pub fn has_completions(&mut self) -> bool {
        match &mut self.variant {
            Variant::Inline(inline) => inline.has_completions(),
            Variant::Ring(ring) => ring.has_completions(),
            Variant::Pool(pool) => pool.has_completions(),
        }
    }

    /// Whether something is left for the next turn that nothing announces: the loop must not wait.
    pub fn has_unfinished(&self) -> bool {
        match &self.variant {
            Variant::Inline(inline) => inline.has_unfinished(),
            Variant::Ring(_) | Variant::Pool(_) => false,
        }
    }

    /// Becomes readable when operations complete. Wait for it edge-triggered (EPOLLET): it is
    /// never read.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        match &self.variant {
            Variant::Inline(inline) => inline.event_fd(),
            Variant::Ring(ring) => ring.event_fd(),
            Variant::Pool(pool) => pool.event_fd(),
        }
    }

    /// Operations submitted and not yet reported. Dropped with some under way, an engine forgets
    /// them; they may still take effect.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How I/O is done.
    pub fn kind(&self) -> EngineKind {
        match &self.variant {
            Variant::Inline(_) => EngineKind::Inline,
            Variant::Ring(_) => EngineKind::Ring,
            Variant::Pool(_) => EngineKind::Pool,
        }
    }
}
