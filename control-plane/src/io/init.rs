//! `stretch init`: the only thing that makes a record, and the pair configuration beside it. Adopts
//! an image that is there, makes one that is not, and never touches a node that was initialised
//! before.
//!
//! The order protects a crash: the pair configuration first, the record last. A node without a
//! record refuses to start, and `init` may then be given again.
//! Not here: certificates (`pki_files`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::ids::{BootId, DiskId, Generation, Incarnation, Session};
use datapath::io::backing::{Backing, BackingError, Direct};

use super::config_file::store_pair;
use super::peer_link::random_bytes;
use super::record_files::{HeaderFile, Places, RECORD_FILE, StampFile, sync_folder};
use super::record_writer::{StartError, lock_node, machine_id, meta_path};
use super::run_files::RunFiles;
use crate::config::{NodeConfig, PairConfig, PairVolume, VolumeSection};
use crate::record::assess::volumes_digest;
use crate::record::{Continuity, NodeRecord, RecordState, Stamp, VolumeHeader, Vote};

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InitReport {
    /// Images that were made.
    pub made: Vec<PathBuf>,
    /// Images and devices that were there and are kept as they are.
    pub adopted: Vec<PathBuf>,
}

/// Why nothing was initialised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There is a record already.
    #[error(
        "{path} is there: this node was initialised before; nothing was changed. \
         Start it with `stretch node`; to begin anew with both nodes see docs/OPERATIONS.md, \
         Replacing a node"
    )]
    Exists {
        /// The record.
        path: PathBuf,
    },
    /// An image that holds data, without `--source`.
    #[error(
        "{path} holds data; nothing was changed. If this copy is the one that counts, run init \
         with --source here and without it at the other node; if it does not count, remove it"
    )]
    HoldsData {
        /// The image.
        path: PathBuf,
    },
    /// `--source` for an image that is not there.
    #[error(
        "{path} is not there; nothing was changed. --source keeps an image that exists: put it \
         there; or leave --source out, and a blank one is made"
    )]
    SourceAbsent {
        /// The image.
        path: PathBuf,
    },
    /// The configuration lacks something.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The pair configuration cannot be stored.
    #[error(transparent)]
    Pair(#[from] super::config_file::PairStoreError),
    /// The file or device cannot be used.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The folder is in use.
    #[error(transparent)]
    Locked(#[from] StartError),
    /// The system refuses.
    #[error("cannot {what} {path}")]
    Io {
        /// Make, write ...
        what: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the record of `config`'s node is or will be.
pub fn record_files(config: &NodeConfig) -> [PathBuf; 2] {
    config.node.record_dirs.each_ref().map(|dir| dir.join(RECORD_FILE))
}

/// Initialises one node. With `source`, its volumes hold the data to begin with.
///
/// # Errors
/// What is in the way, and what to do about it; nothing that was there is changed.
pub fn init(
    config: &NodeConfig,
    agreement: &PairConfig,
    source: bool,
) -> Result<InitReport, InitError> {
    if let Some(path) = record_files(config).into_iter().find(|path| path.exists()) {
        return Err(InitError::Exists { path });
    }
    config.check_folders()?;
    let locals = config.local_volumes(agreement)?;
    if let Some(absent) = locals.iter().find(|local| source && !local.path.exists()) {
        return Err(InitError::SourceAbsent { path: absent.path.clone() });
    }
    let data_dir = &config.node.data_dir;
    fs::create_dir_all(data_dir).map_err(io_error("make", data_dir))?;
    let _lock = lock_node(data_dir)?;
    let mut report = InitReport::default();
    let done = make_node(config, agreement, source, &mut report);
    if done.is_err() {
        // Best effort: neither was there before, and half a node cannot be used. Records first, so
        // that none is left that names a lost image.
        for path in record_files(config).iter().chain(&report.made) {
            let _ = fs::remove_file(path);
        }
    }
    done.map(|()| report)
}

fn make_node(
    config: &NodeConfig,
    agreement: &PairConfig,
    source: bool,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let data_dir = &config.node.data_dir;
    let mut opened = Vec::new();
    for (volume, local) in agreement.volumes.iter().zip(config.local_volumes(agreement)?) {
        opened.push(open_volume(volume, local, source, report)?);
    }
    store_pair(&config.node.record_dirs, agreement)?;
    let mut disks = Vec::new();
    // This node's own: the data of two nodes is related only after their first join.
    let generation = Generation(random_bytes());
    for (volume, backing) in agreement.volumes.iter().zip(opened) {
        disks.push((volume.id, write_volume(data_dir, volume, backing, generation)?));
    }
    write_record(config, agreement, source, generation, volumes_digest(disks.into_iter()))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    move |source| InitError::Io { what, path, source }
}

fn open_volume(
    volume: &PairVolume,
    local: &VolumeSection,
    source: bool,
    report: &mut InitReport,
) -> Result<Backing, InitError> {
    let path = &local.path;
    let made = !path.exists();
    if made {
        report.made.push(path.clone());
        make_image(path, volume.size).map_err(io_error("make", path))?;
    }
    let backing = Backing::open(path, volume.size, Direct::Off)?;
    // A device's extents cannot be told: what it holds is compared, and --source decides.
    if !made && !source && !backing.is_device() && backing.has_data_extents() {
        return Err(InitError::HoldsData { path: path.clone() });
    }
    if !made {
        report.adopted.push(path.clone());
    }
    Ok(backing)
}

/// A sparse file of exactly the volume's size.
fn make_image(path: &Path, size: u64) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(size)?;
    file.sync_all()?;
    sync_folder(folder)
}

fn write_volume(
    data_dir: &Path,
    volume: &PairVolume,
    backing: Backing,
    generation: Generation,
) -> Result<DiskId, InitError> {
    let disk_id = DiskId(random_bytes());
    let path = backing.path().to_owned();
    let (mut stamp_file, _) = StampFile::read(Arc::new(backing));
    let stamp = Stamp { volume_id: volume.id, disk_id, generation, round: 0 };
    stamp_file.write(&stamp).map_err(io_error("write the stamp of", &path))?;
    let meta = meta_path(data_dir, &volume.name);
    let (mut header_file, _) = HeaderFile::read(meta.clone());
    let header = VolumeHeader {
        header_seq: 0,
        volume_id: volume.id,
        disk_id,
        peer_disk_id: DiskId::NONE,
        bitmap_base: generation,
        next_generation: generation,
        round: 0,
        peer_round: 0,
        start_seq: 0,
        size: volume.size,
        diskseq: 0,
    };
    // Both slots: a single one would look like a torn write.
    for _ in 0..2 {
        header_file.write(&header).map_err(io_error("write", &meta))?;
    }
    Ok(disk_id)
}

fn write_record(
    config: &NodeConfig,
    agreement: &PairConfig,
    source: bool,
    generation: Generation,
    volumes_digest: [u8; 16],
) -> Result<(), InitError> {
    let record = NodeRecord {
        pair_id: agreement.id,
        node: config.node.name.clone(),
        volumes_digest,
        record_seq: 0,
        start_seq: 0,
        session: Session(0),
        votes: [Vote::default(); 2],
        witness_won: false,
        witness_token: None,
        state: RecordState::Virgin,
        continuity: Continuity::Continuous,
        by_reset: false,
        session_boot_id: BootId::NONE,
        generation,
        ancestors: Vec::new(),
        boot_id: BootId::NONE,
        machine_id: machine_id(),
        vm_generation_id: [0; 16],
        incarnation: Incarnation::NONE,
        clean: false,
        io_failed: false,
        single: false,
        source,
        forced: false,
        solo_io_count: 0,
        grant_ttl_max_ms: 0,
        drift_ppm: 0,
        preferred: Some(agreement.preferred.clone()),
        config_seq: agreement.config_seq,
    };
    let record_dirs = &config.node.record_dirs;
    let mut places = Places::create(record_dirs).map_err(io_error("make", &record_dirs[0]))?;
    let mut record = record;
    for record_seq in 1..=2 {
        record.record_seq = record_seq;
        places.write(&record).map_err(|lost| InitError::Io {
            what: "write",
            path: lost.path,
            source: lost.error,
        })?;
    }
    RunFiles::of(&config.node.name, &volumes_digest).note_record(&record);
    Ok(())
}
