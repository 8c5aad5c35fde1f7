//! The order of overlapping writes and what may be read meanwhile (PROTOCOL 2.6).

pub mod leave;
pub mod mirror;
pub mod peer;
pub mod ranges;

pub(crate) mod copy;
mod flush;
pub(crate) mod late;
mod live;
pub(crate) mod reads;
mod told;
pub(crate) mod writes;
