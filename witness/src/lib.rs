//! The arbiter on a third site. Of it there is only what a node and a witness say to each other:
//! until the rest is built, nobody serves while the pair is not whole.
#![forbid(unsafe_code)]

pub mod wire;
