//! Makes bytes durable and returns the ticket, on a thread of its own so that nobody waits; and
//! reads everything that a starting node needs.
//!
//! Owns: node lock, record, headers, stamps. In: jobs. Out: their ends, in order.
//! Invariants: each step is durable before the next begins (the fsync orders F0 to F8b are the
//! order of steps in a job); after a failed step the rest of its job is not tried.
//! Not here: what is written (`polarization`), formats (`record`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;

use base::ids::{
    BootId, Incarnation, MachineId, NodeName, Ticket, VolumeId, VolumeIndex, VolumeName,
};
use base::rules::Rules;
use datapath::io::backing::Backing;
use datapath::storage::IoFault;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::record_files::{HeaderFile, Places, PlacesLost, RECORD_FILE, StampFile};
use super::run_files::RunFiles;
use crate::polarization::{DurableDone, DurableFault, DurableStep};
use crate::record::assess::AssessError;
use crate::record::slots::choose;
use crate::record::{Amnesia, StartInput, StartState, VolumeFound, assess};

/// Jobs under way or done and not fetched, at most; the group core has one at a time.
const JOBS_MAX: usize = 16;

/// A volume to open.
#[derive(Debug)]
pub struct VolumeParts {
    /// Its name.
    pub name: VolumeName,
    /// Its id in the pair configuration.
    pub id: VolumeId,
    /// Its data, opened and locked.
    pub backing: Arc<Backing>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process runs on the same folder.
    #[error("another process runs this node (it holds {path}): stop that one, or leave it alone")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The lock cannot be made.
    #[error(
        "cannot lock {path}: data_dir must be there and writable; if this node ran before, mount \
         it; `stretch init` makes it for a node that never ran"
    )]
    Lock {
        /// The lock.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to start from.
    #[error(transparent)]
    Assess(#[from] AssessError),
}

/// A job's end.
#[derive(Debug)]
pub struct JobDone {
    /// Which job.
    pub ticket: Ticket,
    /// How it ended.
    pub result: Result<DurableDone, DurableFault>,
}

/// The writer, as the group thread holds it.
#[derive(Debug)]
pub struct RecordWriter {
    jobs: std_mpsc::SyncSender<(Ticket, Vec<DurableStep>)>,
    done: mpsc::Receiver<JobDone>,
    run_files: RunFiles,
    _lock: File,
}

/// What a starting node found.
#[derive(Debug)]
pub struct Started {
    /// Judged.
    pub state: StartState,
    /// Ready for jobs.
    pub writer: RecordWriter,
}

/// Under the lock of the node's folder: reads everything, judges it, starts the writer's thread.
///
/// # Errors
/// There is no record to start from.
pub fn start(
    node: &NodeName,
    data_dir: &Path,
    record_dirs: &[PathBuf; 2],
    volumes: &[VolumeParts],
    incarnation: Incarnation,
    rules: Rules,
    lock: File,
) -> Result<Started, StartError> {
    let (mut places, reads) = Places::read(record_dirs);
    let chosen = choose(&reads);
    let mut run_files = RunFiles::default();
    if let Some(chosen) = chosen {
        places.set_plan(chosen.plan);
        run_files = RunFiles::of(node, &chosen.record.volumes_digest);
    }
    let mut files = Vec::new();
    let mut found = Vec::new();
    for volume in volumes {
        let (header_file, header) = HeaderFile::read(meta_path(data_dir, &volume.name));
        let (stamp_file, stamp) = StampFile::read(volume.backing.clone());
        found.push(VolumeFound {
            id: volume.id,
            path: volume.backing.path().display().to_string(),
            size: volume.backing.size(),
            header,
            stamp,
            empty: !volume.backing.is_device() && !volume.backing.has_data_extents(),
            diskseq: diskseq(&volume.backing),
        });
        let backing = volume.backing.clone();
        files.push(VolumeFiles { backing, header: header_file, stamp: stamp_file });
    }
    let input = StartInput {
        node: node.clone(),
        places: reads,
        volumes: found,
        boot_id: boot_id(),
        machine_id: machine_id(),
        vm_generation_id: [0; 16],
        incarnation,
        run_record_seq: run_files.newest_record(),
        run_tells_of_failure: run_files.tells_of_failure(),
    };
    let mut state = assess(&input, rules)?;
    for amnesia in &mut state.amnesia {
        if let Amnesia::PlaceLost { place, why } = amnesia {
            *why = format!("{}: {why}", record_dirs[*place].join(RECORD_FILE).display());
        }
    }
    let (jobs, job_queue) = std_mpsc::sync_channel(JOBS_MAX);
    let (done_sender, done) = mpsc::channel(JOBS_MAX);
    let worker = Worker { places, volumes: files, run_files: run_files.clone() };
    thread::Builder::new()
        .name("record".to_owned())
        .spawn(move || worker.run(&job_queue, &done_sender))
        .map_err(|source| StartError::Lock { path: data_dir.to_owned(), source })?;
    Ok(Started { state, writer: RecordWriter { jobs, done, run_files, _lock: lock } })
}

impl RecordWriter {
    /// Starts a job.
    pub fn submit(&self, ticket: Ticket, steps: Vec<DurableStep>) {
        let sent = self.jobs.try_send((ticket, steps));
        assert!(sent.is_ok(), "the record's thread lives and has one job at a time");
    }

    /// What is remembered until the machine restarts.
    pub fn run_files(&self) -> &RunFiles {
        &self.run_files
    }

    /// The next end of a job.
    pub async fn next_done(&mut self) -> Option<JobDone> {
        self.done.recv().await
    }

    /// The next end of a job, if there is one already.
    pub fn try_done(&mut self) -> Option<JobDone> {
        self.done.try_recv().ok()
    }
}

#[derive(Debug)]
struct VolumeFiles {
    backing: Arc<Backing>,
    header: HeaderFile,
    stamp: StampFile,
}

#[derive(Debug)]
struct Worker {
    places: Places,
    volumes: Vec<VolumeFiles>,
    run_files: RunFiles,
}

impl Worker {
    fn run(
        mut self,
        jobs: &std_mpsc::Receiver<(Ticket, Vec<DurableStep>)>,
        done: &mpsc::Sender<JobDone>,
    ) {
        while let Ok((ticket, steps)) = jobs.recv() {
            let result = self.execute(&steps);
            if done.blocking_send(JobDone { ticket, result }).is_err() {
                return;
            }
        }
    }

    fn execute(&mut self, steps: &[DurableStep]) -> Result<DurableDone, DurableFault> {
        let mut done = DurableDone::default();
        for step in steps {
            match step {
                DurableStep::SyncData(volume) => {
                    let files = self.files(*volume);
                    let result = rustix::fs::fdatasync(files.backing.fd()).map_err(io::Error::from);
                    let path = files.backing.path().to_owned();
                    result.map_err(|e| self.data_fault(*volume, "flush the data", &path, &e))?;
                }
                DurableStep::WriteStamp(volume, stamp) => {
                    let files = self.files(*volume);
                    let result = files.stamp.write(stamp);
                    let path = files.backing.path().to_owned();
                    result.map_err(|e| self.data_fault(*volume, "write the stamp", &path, &e))?;
                }
                DurableStep::WriteHeader(volume, header) => {
                    let files = self.files(*volume);
                    let result = files.header.write(header);
                    let path = files.header.path.clone();
                    result.map_err(|e| fault(Some(*volume), "write the header", &path, &e))?;
                }
                DurableStep::WriteRecord(record) => {
                    let lost = self.places.write(record).map_err(|lost| {
                        let PlacesLost { path, error } = lost;
                        fault(None, "write the record", &path, &error)
                    })?;
                    done.lost_place = lost.or(done.lost_place);
                    self.run_files.note_record(record);
                }
            }
        }
        Ok(done)
    }

    fn files(&mut self, volume: VolumeIndex) -> &mut VolumeFiles {
        &mut self.volumes[usize::from(volume.0)]
    }

    /// A flush of the data has failed: what it lost is in no page that is still to be written (D10).
    fn data_fault(
        &self,
        volume: VolumeIndex,
        operation: &'static str,
        path: &Path,
        error: &io::Error,
    ) -> DurableFault {
        self.run_files.note_failure();
        fault(Some(volume), operation, path, error)
    }
}

fn fault(
    volume: Option<VolumeIndex>,
    operation: &'static str,
    path: &Path,
    error: &io::Error,
) -> DurableFault {
    let errno = Errno::from_io_error(error);
    let fault = match errno {
        Some(Errno::NOSPC | Errno::DQUOT) => IoFault::NoSpace,
        other => IoFault::System(other.map_or(0, Errno::raw_os_error)),
    };
    DurableFault { volume, operation, path: path.display().to_string(), fault }
}

/// The bitmap file of a volume.
pub fn meta_path(data_dir: &Path, volume: &VolumeName) -> PathBuf {
    data_dir.join(format!("{volume}.meta"))
}

/// Takes the lock of a node's folder.
///
/// # Errors
/// Somebody else holds it, or it cannot be made.
pub fn lock_node(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("node.lock");
    let failed = |source| StartError::Lock { path: path.clone(), source };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StartError::Locked { path }),
        Err(error) => Err(failed(error.into())),
    }
}

/// The boot of this machine; none where the kernel does not say.
pub fn boot_id() -> BootId {
    read_id("/proc/sys/kernel/random/boot_id").map(BootId).unwrap_or_default()
}

/// This machine; none in a root without one.
pub fn machine_id() -> MachineId {
    read_id("/etc/machine-id").map(MachineId).unwrap_or_default()
}

fn read_id(path: &str) -> Option<[u8; 16]> {
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse::<BootId>().ok().map(|id| id.0)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn diskseq(backing: &Backing) -> u64 {
    if !backing.is_device() {
        return 0;
    }
    let Ok(stat) = rustix::fs::fstat(backing.fd()) else { return 0 };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    read_number(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}/diskseq"))).unwrap_or(0)
}

#[cfg(test)]
#[path = "record_writer/tests.rs"]
mod tests;
