//! Measuring Stretch: what the binaries of this package share.
#![forbid(unsafe_code)]

pub mod alternatives;
pub mod compare;
pub mod fio;
pub mod pki;
pub mod process;
pub mod qmp;
