//! Disks that can be filled, frozen, shut down, or made to fail, for one node's folder or image.
//! Owns: what it mounts, in the mount namespace of the test, and the programs that serve it.
//! Not here: power cuts of whole machines (`power`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::chaos::netns::run;

/// How long a mount may take to come or go.
const MOUNT_LIMIT: Duration = Duration::from_secs(10);
/// How long a file system stays frozen at most, whatever becomes of the test: nobody who waits for
/// it can be killed.
const FROZEN_MAX: Duration = Duration::from_secs(60);

/// A folder on an ext4 of its own on a loop device. Needs root.
#[derive(Debug)]
pub struct Disk {
    file: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    /// Moves the folder of node `name` of a demo that does not run to a disk of `bytes`.
    ///
    /// # Panics
    /// If this is not done as root, or a tool is missing (e2fsprogs, mount).
    pub fn install(folder: &Path, name: &str, bytes: u64) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a disk of its own needs root: loop devices");
        let disk = Self { file: folder.join(format!("{name}.disk")), mounted: folder.join(name) };
        let file = fs::File::create(&disk.file).expect("a file");
        file.set_len(bytes).expect("a sparse file");
        drop(file);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&disk.file)]);
        let before = folder.join(format!("{name}.before"));
        fs::rename(&disk.mounted, &before).expect("the pair does not run");
        fs::create_dir(&disk.mounted).expect("a mount point");
        disk.mount();
        // Extended attributes too: the stamp is one.
        run("cp", &["-a", "--sparse=always", &format!("{}/.", text(&before)), text(&disk.mounted)]);
        run("sync", &["-f", text(&disk.mounted)]);
        disk
    }

    /// Leaves about `bytes` free, by a file beside the node's.
    pub fn fill(&self, bytes: u64) {
        let free = rustix::fs::statvfs(&self.mounted).expect("mounted");
        let free = free.f_bavail * free.f_frsize;
        let mut length = free.checked_sub(bytes).expect("there is more than that");
        // The file's own extents, and what the node has not yet allocated, take some of it.
        while !allocate(&self.filler(), length) {
            length = length.checked_sub(64 << 10).expect("some of it can be had");
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }

    /// Stops the file system without writing anything back.
    pub fn shut_down(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.mounted)]);
    }

    /// Every write to it, and every flush, waits from now on until the value returned is dropped;
    /// none, and a word about it, on a machine that does not allow that.
    ///
    /// # Panics
    /// If it fails for another reason, or fsfreeze (util-linux) is missing.
    pub fn freeze(&self) -> Option<Frozen> {
        let output = fsfreeze("-f", &self.mounted);
        if output.status.success() {
            return Some(Frozen::new(&self.mounted));
        }
        let told = String::from_utf8_lossy(&output.stderr);
        let refused = ["Operation not permitted", "Operation not supported", "Inappropriate ioctl"];
        assert!(refused.iter().any(|words| told.contains(words)), "fsfreeze failed: {told}");
        eprintln!("SKIPPED: this machine does not allow to freeze a file system: {told}");
        None
    }

    /// Unmounts and mounts it; nobody has anything open.
    pub fn remount(&self) {
        unmount(&self.mounted);
        self.mount();
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", text(&self.file), text(&self.mounted)]);
    }
}

/// A file system that stands still; dropped, it goes on. A node that is killed while it is frozen
/// is gone only afterwards: declare this after the node.
#[derive(Debug)]
pub struct Frozen {
    /// Dropped, it thaws.
    thaw: Option<mpsc::Sender<()>>,
    thawing: Option<JoinHandle<()>>,
}

impl Frozen {
    fn new(mounted: &Path) -> Self {
        let (thaw, wanted) = mpsc::channel();
        let mounted = mounted.to_owned();
        let thawing = thread::spawn(move || {
            let late = wanted.recv_timeout(FROZEN_MAX) == Err(mpsc::RecvTimeoutError::Timeout);
            let output = fsfreeze("-u", &mounted);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(!late, "frozen for longer than {FROZEN_MAX:?}");
        });
        Self { thaw: Some(thaw), thawing: Some(thawing) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.thaw.take());
        let ended = self.thawing.take().expect("dropped once").join();
        assert!(ended.is_ok() || thread::panicking(), "it was thawed when this was dropped");
    }
}

fn fsfreeze(option: &str, mounted: &Path) -> std::process::Output {
    let output = Command::new("fsfreeze").args([option, text(mounted)]).output();
    output.expect("fsfreeze (package util-linux) can be started")
}

/// An image file whose writes fail while a switch is on: nbdkit's error filter behind nbdfuse.
#[derive(Debug)]
pub struct FailingImage {
    image: PathBuf,
    switch: PathBuf,
    programs: Vec<Child>,
}

impl FailingImage {
    /// Serves an image of `bytes`, all zeros, in `folder`, which exists and is empty.
    ///
    /// # Panics
    /// If a tool is missing (nbdkit, libnbd-bin, fuse3).
    pub fn serve(folder: &Path, bytes: u64) -> Self {
        let path = |name: &str| folder.join(name);
        let (image, socket, switch) = (path("vol0.img"), path("socket"), path("switch"));
        fs::File::create(path("bytes")).and_then(|file| file.set_len(bytes)).expect("a file");
        fs::File::create(&image).expect("a mount point");
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["--foreground", "--unix", text(&socket), "--filter=error", "file"]);
        nbdkit.args([text(&path("bytes")), "error=EIO", "error-pread-rate=0"]);
        for kind in ["pwrite", "zero", "trim"] {
            nbdkit.arg(format!("error-{kind}-rate=100%"));
        }
        nbdkit.arg(format!("error-file={}", text(&switch)));
        let nbdkit = nbdkit.stderr(Stdio::null()).spawn().expect("nbdkit can be started");
        let mut failing = Self { image, switch, programs: vec![nbdkit] };
        wait_until("nbdkit", || socket.exists());
        let nbdfuse = Command::new("nbdfuse")
            .args([text(&failing.image), "--unix", text(&socket)])
            .spawn()
            .expect("nbdfuse (package libnbd-bin) can be started");
        failing.programs.push(nbdfuse);
        let length = || fs::metadata(&failing.image).is_ok_and(|found| found.len() == bytes);
        wait_until("nbdfuse", length);
        failing
    }

    /// Where the image is.
    pub fn path(&self) -> &Path {
        &self.image
    }

    /// From now on every write fails.
    pub fn fail(&self) {
        fs::File::create(&self.switch).expect("a file");
    }

    /// From now on nothing is answered.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// What hangs goes on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// To the server behind the mount.
    fn signal(&self, signal: Signal) {
        let server = i32::try_from(self.programs[0].id()).ok().and_then(Pid::from_raw);
        kill_process(server.expect("a process id"), signal).expect("our own child");
    }

    /// Writes succeed again.
    pub fn mend(&self) {
        fs::remove_file(&self.switch).expect("it was failing");
    }
}

impl Drop for FailingImage {
    fn drop(&mut self) {
        // nbdfuse first: without its server it would report errors. It may be in use by a node
        // that a failed test has not stopped yet.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.image).output();
        for program in self.programs.iter_mut().rev() {
            let _ended = program.kill();
            let _reaped = program.wait();
        }
    }
}

fn wait_until(who: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + MOUNT_LIMIT;
    while !done() {
        assert!(Instant::now() < until, "{who} is not ready after {MOUNT_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The I/O of a killed process may hold files open for a moment.
fn unmount(path: &Path) {
    let umount = || Command::new("umount").arg(path).output().expect("umount can be started");
    wait_until("umount", || umount().status.success());
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn allocate(file: &Path, length: u64) -> bool {
    let status = Command::new("fallocate").args(["-l", &length.to_string(), text(file)]).status();
    status.expect("fallocate (package util-linux) can be started").success()
}
