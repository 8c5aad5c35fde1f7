//! What a node remembers until its machine restarts: as long as the page cache lasts.
//!
//! Small files in memory: the number of the newest record, which shows that a record was rolled
//! back, and two marks (D11). One says that a disk has failed; it is made at once, long before the
//! record can say so. The other stands while a disk does not answer: what becomes of a flush that is
//! under way when the process ends, nobody learns. Without them the next process would believe a
//! page cache that shows what the disk does not have.
//! They only ever make a node more careful: where there is no such folder, or it cannot be written,
//! the node goes on without.

use std::fs::{self, File};
use std::path::PathBuf;

use base::ids::NodeName;
use rustix::fs::Access;

use super::record_files::Places;
use crate::record::NodeRecord;
use crate::record::slots::choose;

const FAILED: &str = "failed";
const LATE: &str = "late";

/// The files of one node; none if there is no folder for them.
#[derive(Clone, Debug, Default)]
pub struct RunFiles(Option<PathBuf>);

impl RunFiles {
    /// In /run/stretch where that can be written (root, or the user of the service), else in the
    /// user's own folder below /run. Two nodes of one name on a machine (a demo beside another) are
    /// told apart by their volumes' disk ids, which a restored copy of the record has, too.
    pub fn of(node: &NodeName, volumes_digest: &[u8; 16]) -> Self {
        Self(stem(node, volumes_digest))
    }

    /// Those of the node whose record is there.
    pub fn of_record(node: &NodeName, record_dirs: &[PathBuf; 2]) -> Self {
        let (_, reads) = Places::read(record_dirs);
        choose(&reads).map_or(Self(None), |chosen| Self::of(node, &chosen.record.volumes_digest))
    }

    /// The number of the newest record written since the machine started, if known.
    pub fn newest_record(&self) -> Option<u64> {
        fs::read_to_string(self.sequence()?).ok()?.trim().parse().ok()
    }

    /// A record is durable. What it says of a failed disk itself needs no mark any more; one that
    /// was under way when the disk failed says nothing of it, and the mark stays.
    pub fn note_record(&self, record: &NodeRecord) {
        if let Some(path) = self.sequence() {
            let _ = fs::write(path, record.record_seq.to_string());
        }
        if record.io_failed {
            self.marks().for_each(remove);
        }
    }

    /// A write or a flush of a disk has failed.
    pub fn note_failure(&self) {
        if let Some(path) = self.path(FAILED) {
            let _ = File::create(path);
        }
    }

    /// A disk does not answer, or all of them do again.
    pub fn note_late(&self, late: bool) {
        match self.path(LATE) {
            Some(path) if late => drop(File::create(path)),
            Some(path) => remove(path),
            None => {}
        }
    }

    /// Whether a disk has failed, or may have, and no record says so.
    pub fn tells_of_failure(&self) -> bool {
        self.marks().any(|path| path.exists())
    }

    /// Removes the number; for a node that is down.
    pub fn forget_sequence(&self) {
        self.sequence().into_iter().for_each(remove);
    }

    /// Where the number is.
    pub fn sequence(&self) -> Option<PathBuf> {
        self.path("seq")
    }

    fn marks(&self) -> impl Iterator<Item = PathBuf> {
        [FAILED, LATE].into_iter().filter_map(|extension| self.path(extension))
    }

    fn path(&self, extension: &str) -> Option<PathBuf> {
        let mut name = self.0.clone()?.into_os_string();
        name.push(".");
        name.push(extension);
        Some(name.into())
    }
}

/// There is no need: it is gone at the next start of the machine in any case.
fn remove(path: PathBuf) {
    let _ = fs::remove_file(path);
}

fn stem(node: &NodeName, volumes_digest: &[u8; 16]) -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.filter(|folder| folder.starts_with("/run")).map(|folder| folder.join("stretch"));
    let usable = |folder: &PathBuf| {
        fs::create_dir_all(folder).is_ok() && rustix::fs::access(folder, Access::WRITE_OK).is_ok()
    };
    let folder = [Some(PathBuf::from("/run/stretch")), own].into_iter().flatten().find(usable)?;
    let digest = u128::from_be_bytes(*volumes_digest);
    Some(folder.join(format!("{node}-{digest:032x}")))
}
