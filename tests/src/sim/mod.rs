//! The simulator: two nodes with the production cores, their disks, the network between them and
//! hosts on both, from one seed, on one thread, in virtual time (STYLE 7.2, PROTOCOL 3.2).
//!
//! A run has faults for its first 15 seconds; then everything heals, both nodes must be active
//! again, the hosts work in peace, everything is read through both nodes, and the copies must be
//! equal. What hosts were told must be linearizable over the whole run.
//! Not here: real processes (`chaos`).

mod answered;
mod bounds;
mod checks;
mod coverage;
mod disk;
mod event;
mod faults;
mod finding;
mod group_side;
mod history;
mod host_side;
mod hosts;
mod inject;
mod medium;
mod net;
mod network;
mod plan;
mod process;
mod queue;
mod run;
mod text;
mod trace;
mod volume_side;
mod world;

pub use coverage::Coverage;
pub use faults::FaultKind;
pub use finding::{Finding, FindingKind};
pub use run::{NEEDS_ORDER, Options, Outcome, replay_command, run, run_many};
