//! The two copies of one volume and how bytes reach both.
//!
//! Cores: [`port`] and [`storage`] are the words they use. Shell: [`io`].
//! Not here: who may serve (control-plane), what an NBD client is (nbd-frontend).

mod compare;
pub mod gate;
mod held;
mod late_reads;
pub mod order;
pub mod outbox;
pub mod port;
pub mod queues;
mod resync;
mod rewrite;
pub mod storage;
pub mod volume;
pub mod wire;

pub mod io {
    //! The shell: the only place of the workspace with `unsafe` code.

    pub mod backing;
    mod blocking;
    mod buffer;
    pub mod engine;
    mod inline;
    mod job;
    pub mod memory;
    mod patch;
    mod pool;
    mod ring;
    mod store;

    #[cfg(test)]
    mod tests;
}
