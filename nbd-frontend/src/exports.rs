//! What can be attached here: a plain table that the node fills and replaces.
//!
//! Not here: how threads share it (`io::shared_exports`), whether a volume may serve.

use base::ids::VolumeName;
use base::limits::{BLOCK_BYTES, VOLUME_SIZE_MAX, VOLUMES_MAX};

use crate::proto::transmission::transmission_flags;

/// Whether new clients are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Availability {
    /// They are.
    Accepting,
    /// They are not, for the reason that is told to them; the export is listed all the same.
    Refused(String),
}

/// One export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// The volume's name.
    pub name: VolumeName,
    /// Bytes; a multiple of 512.
    pub size: u64,
    /// For people; may be empty.
    pub description: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// Seeking costs.
    pub rotational: bool,
    /// TRIM is offered.
    pub trim: bool,
    /// Every WRITE_ZEROES is done without writing the zeros, so FAST_ZERO never has to be refused.
    pub fast_zero: bool,
    /// Whether new clients are taken.
    pub availability: Availability,
}

impl ExportInfo {
    /// A writable export that takes clients, with TRIM and without anything else that is optional.
    pub fn new(name: VolumeName, size: u64) -> Self {
        Self {
            name,
            size,
            description: String::new(),
            read_only: false,
            rotational: false,
            trim: true,
            fast_zero: false,
            availability: Availability::Accepting,
        }
    }
}

/// What one attached client was promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The export.
    pub export: ExportInfo,
    /// Structured replies were negotiated.
    pub structured: bool,
}

impl Terms {
    /// The transmission flags it was told.
    pub fn transmission_flags(&self) -> u16 {
        transmission_flags(&self.export, self.structured)
    }
}

/// All exports of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExportTable {
    exports: Vec<ExportInfo>,
    shutting_down: bool,
}

impl ExportTable {
    /// A table of these exports. Panics on two of the same name or a size that cannot be served:
    /// the configuration was checked before.
    pub fn new(mut exports: Vec<ExportInfo>) -> Self {
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(exports.len() <= VOLUMES_MAX, "the number of volumes is bounded");
        for pair in exports.windows(2) {
            assert!(pair[0].name != pair[1].name, "export names are unique");
        }
        for export in &exports {
            let fits = export.size.is_multiple_of(BLOCK_BYTES) && export.size <= VOLUME_SIZE_MAX;
            assert!(fits, "an export is a whole number of blocks");
        }
        Self { exports, shutting_down: false }
    }

    /// The same table, in which everything but leaving is answered with "shutting down".
    #[must_use]
    pub fn with_shutdown(mut self) -> Self {
        self.shutting_down = true;
        self
    }

    /// Whether the node is stopping.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &ExportInfo> {
        self.exports.iter()
    }

    /// The export of exactly this name. The empty name is the only export there is.
    pub fn find(&self, name: &str) -> Option<&ExportInfo> {
        match (name, self.exports.as_slice()) {
            ("", [only]) => Some(only),
            _ => self.exports.iter().find(|export| export.name.as_str() == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str]) -> ExportTable {
        let info = |name: &&str| ExportInfo::new(name.parse().expect("a name"), 1 << 20);
        ExportTable::new(names.iter().map(info).collect())
    }

    #[test]
    fn the_empty_name_is_the_only_export() {
        assert!(table(&[]).find("").is_none());
        assert_eq!(table(&["a"]).find("").map(|e| e.name.as_str()), Some("a"));
        assert!(table(&["a", "b"]).find("").is_none());
    }

    #[test]
    fn a_name_is_found_whole_or_not_at_all() {
        let table = table(&["vol1", "vol0"]);
        assert_eq!(table.find("vol1").map(|e| e.name.as_str()), Some("vol1"));
        for name in ["vol", "vol1\0junk", "VOL1", "vol1 ", "\0"] {
            assert!(table.find(name).is_none(), "{name:?}");
        }
        let order: Vec<_> = table.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(order, ["vol0", "vol1"]);
    }

    #[test]
    #[should_panic(expected = "export names are unique")]
    fn two_exports_of_one_name_are_a_bug() {
        table(&["a", "a"]);
    }
}
