//! D4: after everything has healed and nothing is in flight, the two copies are byte-identical.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes compared at once.
const STEP: usize = 1 << 20;

/// Where two copies differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// In length.
    Length(u64, u64),
    /// From this byte on.
    At(u64),
}

/// The first difference of two copies in memory.
pub fn difference(a: &[u8], b: &[u8]) -> Option<Difference> {
    if a.len() != b.len() {
        return Some(Difference::Length(a.len() as u64, b.len() as u64));
    }
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(x, y)| x != y).map(|at| Difference::At(at as u64))
}

/// The first difference of two image files.
///
/// # Errors
/// A file cannot be read.
pub fn file_difference(a: &Path, b: &Path) -> io::Result<Option<Difference>> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (length_a, length_b) = (a.metadata()?.len(), b.metadata()?.len());
    if length_a != length_b {
        return Ok(Some(Difference::Length(length_a, length_b)));
    }
    let (mut buffer_a, mut buffer_b) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    while at < length_a {
        let count = STEP.min(usize::try_from(length_a - at).unwrap_or(STEP));
        a.read_exact(&mut buffer_a[..count])?;
        b.read_exact(&mut buffer_b[..count])?;
        if let Some(Difference::At(inner)) = difference(&buffer_a[..count], &buffer_b[..count]) {
            return Ok(Some(Difference::At(at + inner)));
        }
        at += count as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let mut bytes = vec![7; 3 * STEP + 5];
        fs::write(&a, &bytes).expect("written");
        let check = |bytes: &[u8]| {
            fs::write(&b, bytes).expect("written");
            file_difference(&a, &b).expect("read")
        };
        assert_eq!(check(&bytes), None);
        bytes[2 * STEP + 9] = 8;
        assert_eq!(check(&bytes), Some(Difference::At(2 * STEP as u64 + 9)));
        bytes.pop();
        assert_eq!(
            check(&bytes),
            Some(Difference::Length(3 * STEP as u64 + 5, bytes.len() as u64))
        );
    }
}
