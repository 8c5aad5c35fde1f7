//! The group: decides who serves, and what the record says (PROTOCOL 2.2 to 2.12).
//!
//! Owns: node state, session, votes, grants, claim, the barrier over all volumes, the record's
//! contents. In: connections, control messages, volume reports, witness events, durable tickets,
//! stop, clocks. Out: [`Action`]s.
//! Invariants: I1 to I8; F0 to F8b and F12 by the order of [`DurableStep`]s.
//! Not here: how a volume makes the copies equal (datapath), how bytes become durable
//! (`io::record_writer`), what a witness decides (`witness::arbiter`), sockets and clocks
//! (`io::group_thread`).

mod claim;
mod durable;
mod failure;
mod grant;
mod group;
mod hand_off;
mod hello;
mod join;
mod leave;
mod link;
mod message;
mod mode;
mod port;
pub mod renumber;
mod settle;
mod solo;
mod start;
mod state;
mod table;
mod timers;
mod vote;

pub use grant::{AskedIds, Moment, ReadRight};
pub use group::{Group, GroupConfig};
pub use message::{Give, GiveFrom, GrantRequest, Health, Hello, Message};
pub use port::{Action, Decision, WitnessEvent, WitnessWish};
pub use state::State;
pub use vote::Mode;
