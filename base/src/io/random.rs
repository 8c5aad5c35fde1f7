//! The only source of chance.

use rustix::rand::{GetRandomFlags, getrandom};

/// 128 random bits.
///
/// # Panics
/// If the kernel gives none.
pub fn random_bytes() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    let count =
        getrandom(&mut bytes, GetRandomFlags::empty()).expect("the kernel gives random bytes");
    assert_eq!(count.min(16), 16, "sixteen bytes are given whole");
    bytes
}
