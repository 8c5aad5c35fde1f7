//! D1: every host sees one volume, over both nodes, through every fail-over.
//!
//! The check lives in the `client` crate, so that the stamped client alone can say whether what it
//! was told is right.

pub use client::linearizability::{Kind, Operation, Summary, Value, Violation, check};
