//! What every crate of Stretch shares: identifiers, time, ranges, limits, the frame envelope,
//! host requests, payloads, identities, the form of configuration files and the switchable safety
//! rules.
//!
//! Not here: anything that knows what a volume, a session or an NBD client does. This crate
//! depends on no other crate of the workspace.
#![forbid(unsafe_code)]

pub mod body;
pub mod frame;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod payload;
pub mod range;
pub mod request;
pub mod rules;
pub mod said;
pub mod time;
pub mod toml_text;

/// Thin shells: the clock, TLS, sockets, logs. The only part of this crate that touches the world.
pub mod io {
    pub mod clock;
    pub mod log_file;
    pub mod process_log;
    pub mod random;
    pub mod socket;
    pub mod tcp;
    pub mod threads;
    pub mod tls;
}
