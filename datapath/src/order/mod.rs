//! The order of overlapping writes and what may be read meanwhile (PROTOCOL 2.6).

pub mod mirror;
pub mod ranges;

mod flush;
mod told;
