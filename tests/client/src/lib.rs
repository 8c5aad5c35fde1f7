//! An NBD client of our own for tests, and on top of it the stamped client: a workload whose every
//! block says who wrote it, a history of what was asked and answered, and the check of that history.
//!
//! It shares no code with the server, so that a misreading of the specification in one of the two
//! is noticed by the other. Pure parts: [`wire`], [`session`], [`stamp`], [`workload`],
//! [`linearizability`], [`history`]. Parts that touch sockets, threads and clocks: [`connection`],
//! [`transport`], [`driver`].
//! Not here: what must be true of the two images (`stretch-tests`, `checkers`).
#![forbid(unsafe_code)]

pub mod connection;
pub mod driver;
pub mod history;
pub mod linearizability;
pub mod session;
pub mod stamp;
pub mod transport;
pub mod wire;
pub mod workload;

#[cfg(test)]
mod testing;
