//! The arbiter on a third site (PROTOCOL 2.9): which of two nodes that do not see each other goes on.
//!
//! [`arbiter`] is what a witness is, [`client`] how a node speaks to the witnesses of its list,
//! [`journal`] what both may look up and nothing is decided from, [`wire`] the bytes between them.
//! **The witness never decides anything from a disk**, and losing what it knows costs availability
//! only.
//! Not here: what a node does with a verdict (control-plane).
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod client;
pub mod config;
pub mod journal;
pub mod wire;

/// Thin shells: the process of a witness, and a node's connections to one.
pub mod io {
    mod config_file;
    mod event_log;
    mod generation;
    pub mod links;
    pub mod main;
    mod metrics;
    mod server;
}
