//! The NBD server front end: from a listening socket to checked requests, and from completions
//! back to replies (NBD.md 1.1 to 1.3 and 1.5).
//!
//! Cores: [`negotiation`] (bytes of the handshake), [`client`] (one attached connection),
//! [`budget`] (the memory of all clients of a volume), [`admission`] (who may negotiate, and for how
//! long), [`hosts`] (how many clients one host may have), [`exports`] (what can be attached).
//! Not here: what a volume does with a request (datapath), who fills the table of exports and
//! drives the attached connections (control-plane). EXTENDED_HEADERS and metadata contexts are not
//! offered.
#![forbid(unsafe_code)]

pub mod admission;
pub mod budget;
pub mod client;
pub mod exports;
pub mod hosts;
pub mod negotiation;

/// Pure codecs: bytes of the protocol and nothing else.
pub mod proto {
    pub mod errno;
    pub mod handshake;
    pub mod option;
    pub mod option_reply;
    pub mod reply;
    pub mod request;
    pub mod transmission;
}

/// Thin shells: sockets, TLS and the clock, up to the moment a connection is handed over.
pub mod io {
    pub mod acceptor;
    mod haggle;
    mod places;
    pub mod shared_exports;
}
