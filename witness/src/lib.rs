//! The arbiter on a third site. Nothing of it is built yet: until it is, nobody serves while the
//! pair is not whole.
#![forbid(unsafe_code)]
