//! What must be true of every run, one checker a file. They look at histories and bytes only, so
//! the simulator and runs of real processes share them.
//! Not here: making the histories (`sim`, the `client` crate).

pub mod copies;
pub mod durability;
pub mod linearizability;
