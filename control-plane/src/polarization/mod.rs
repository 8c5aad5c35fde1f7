//! The group: decides who serves, and what the record says.
//!
//! Owns: node state, session, the barrier over all volumes, the record's contents.
//! In: connections, control messages, volume reports, durable tickets, stop, time.
//! Out: [`Action`]s.
//! Invariants: I3, I5, I7, I8, P6; F0 and F5 to F8b by the order of [`DurableStep`]s.
//! Not here: how a volume makes the copies equal (datapath), how bytes become durable
//! (`io::record_writer`), sockets and clocks (`io::group_thread`).

mod choose;
mod durable;
mod group;
mod hello;
mod join;
mod leave;
mod link;
mod port;
mod state;
mod stop;
mod timers;
mod view;

pub use group::Group;
pub use port::{
    Action, Decision, DurableDone, DurableFault, DurableStep, GroupConfig, GroupVolume,
};
pub use view::{GroupView, PeerView, ResyncView, VolumeView};

#[cfg(test)]
mod tests;
