//! Exhaustive search through what two group cores and a witness can do together.

pub mod check;
pub mod configs;
pub mod explore;
pub mod steps;
pub mod world;
