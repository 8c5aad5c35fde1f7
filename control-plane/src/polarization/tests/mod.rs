//! Two group cores joined by a tiny network.

mod faults;
mod random;
mod sessions;
mod world;
