//! Faults for runs of real processes: a network of their own, a link that is cut, a TCP proxy that
//! holds, delays and resets.
//! Not here: starting nodes (`real`), faults of the simulated world (`sim`).

pub mod link;
pub mod netns;
pub mod proxy;
