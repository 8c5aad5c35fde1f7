//! Power: both nodes on one machine that loses it, and everything that was not flushed with it.
//!
//! Each node's folder lies on an ext4 of its own on a loop device. A cut kills both nodes, shuts
//! both file systems down without writing anything back, mounts them again, empties /run and gives
//! the machine a new boot id. Needs root, and the mount namespace that every test has
//! (`chaos::netns`).
//! Not here: what must be there afterwards (`checkers::durability`).

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::{Disk, text};
use super::pair::Pair;
use crate::chaos::netns::run;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// See the module.
#[derive(Debug)]
pub struct Power {
    disks: [Disk; 2],
    boot_id: PathBuf,
}

impl Power {
    /// Moves the folders of a pair that does not run to file systems of their own, of
    /// `disk_bytes` each.
    ///
    /// # Panics
    /// As [`Disk::install`].
    pub fn install(pair: &Pair, disk_bytes: u64) -> Self {
        let disks = ["a", "b"].map(|name| Disk::install(pair.folder(), name, disk_bytes));
        run("mount", &["-t", "tmpfs", "run", "/run"]);
        let boot_id = pair.folder().join("boot_id");
        new_boot(&boot_id);
        run("mount", &["--bind", text(&boot_id), BOOT_ID]);
        Self { disks, boot_id }
    }

    /// Cuts the power under the running pair and gives it back; nothing runs then.
    pub fn cut(&self, pair: &mut Pair) {
        for node in [&mut pair.a, &mut pair.b] {
            node.signal(rustix::process::Signal::KILL);
        }
        for disk in &self.disks {
            disk.shut_down();
        }
        for node in [&mut pair.a, &mut pair.b] {
            node.wait_killed();
        }
        for disk in &self.disks {
            disk.remount();
        }
        for entry in fs::read_dir("/run").expect("it is there").flatten() {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            gone.expect("our own /run");
        }
        new_boot(&self.boot_id);
    }
}

/// In place: the file is what the kernel's own is covered with.
fn new_boot(path: &Path) {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes ids");
    fs::write(path, id).expect("a small file");
}
