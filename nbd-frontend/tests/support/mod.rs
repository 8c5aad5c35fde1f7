//! A front end on loopback with a volume in memory behind it, certificates, and clients that send
//! raw bytes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod client;
pub mod pki;
pub mod server;
