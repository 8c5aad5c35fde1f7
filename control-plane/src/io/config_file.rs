//! Reads and writes what `config` describes: the node's TOML and the pair configuration.
//!
//! Faults assumed: a crash at any moment leaves the old or the new pair file in each place, never
//! a mixture (written beside, made durable, renamed).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base::identity::{Identity, Kind};
use base::io::clock;
use base::io::tls::TlsIdentity;

use datapath::io::backing::{self, Backing, BackingError};

use super::record_files::RECORD_FILE;
use crate::config::pair::{FILE_BYTES_MAX, FILE_NAME, choose};
use crate::config::{
    ConfigError, Direct, NodeConfig, PairConfig, PairFileError, Problem, VolumeSection,
};
use crate::pki::day;

/// Largest TOML file that is read, in bytes.
const TOML_BYTES_MAX: u64 = 1 << 20;

/// Why the pair configuration cannot be kept or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairStoreError {
    /// Neither place holds a usable file.
    #[error(
        "no pair configuration in {first} or {second} ({why}). If this node ran before, do not run \
         `stretch init`: its record folders are not mounted, or lost: mount them, or put back a \
         backup of them, and start it again. Only a node that never ran needs `stretch init`, once"
    )]
    Nowhere {
        /// The first place.
        first: PathBuf,
        /// The second place.
        second: PathBuf,
        /// What was found in each.
        why: String,
    },
    /// Both are usable, have one `config_seq` and differ.
    #[error(
        "{first} and {second} hold two different pair configurations with config_seq {config_seq}; \
         one of the folders belongs to another node or another time"
    )]
    Contradiction {
        /// The first place.
        first: PathBuf,
        /// The second place.
        second: PathBuf,
        /// What both claim.
        config_seq: u64,
    },
    /// The system refuses.
    #[error("{path}: cannot be written")]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NodeConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// File, line, key, what was found and what is allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { file: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(read)?;
        file.take(TOML_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
        Self::parse(path, &text)
    }

    /// Loads the node's identity and checks that it is this node's and still valid.
    ///
    /// # Errors
    /// A file is missing or unusable, or the certificate is somebody else's or over.
    pub fn load_identity(&self) -> Result<TlsIdentity, ConfigError> {
        let key = format!("tls.dir = {}", self.tls.dir.display());
        let refused = |problem| ConfigError::refused(&self.file, None, key.clone(), problem);
        let loaded =
            TlsIdentity::load(&self.tls.dir).map_err(|error| refused(Problem::Identity(error)))?;
        let wanted = Identity { kind: Kind::Node, name: self.node.name.clone() };
        if loaded.identity != wanted {
            return Err(refused(Problem::WrongIdentity { found: loaded.identity, wanted }));
        }
        let over = clock::unix_seconds().saturating_sub(loaded.not_after);
        if let Ok(seconds) = u64::try_from(over)
            && seconds > 0
        {
            let ago = humantime::format_duration(std::time::Duration::from_secs(seconds));
            return Err(refused(Problem::Expired { ago: ago.to_string() }));
        }
        Ok(loaded)
    }

    /// Everything that can be checked without starting: identity, folders, what `init` needs if
    /// it has not been run, and the volumes' files and devices. Returns the identity.
    ///
    /// # Errors
    /// The first thing that would keep the node from starting.
    pub fn check_files(&self) -> Result<TlsIdentity, ConfigError> {
        let identity = self.load_identity()?;
        let now = clock::unix_seconds();
        if let Some(term) = identity.terms.iter().find(|term| term.begin > now) {
            let key = format!("tls.dir = {}", self.tls.dir.display());
            let problem = Problem::NotYet { path: term.path.clone(), begin: day(term.begin) };
            return Err(ConfigError::refused(&self.file, None, key, problem));
        }
        self.check_folders()?;
        let initialised = self.node.record_dirs.iter().any(|dir| dir.join(RECORD_FILE).exists());
        let agreement = match load_pair(&self.node.record_dirs) {
            Ok(pair) => pair,
            Err(_) => self.agreement()?,
        };
        for (volume, local) in agreement.volumes.iter().zip(self.local_volumes(&agreement)?) {
            self.check_volume(local, volume.size, initialised)?;
        }
        Ok(identity)
    }

    /// Whether the folders are there in which the node's own folders and images are or will be: a
    /// folder made where a disk is not mounted would fill the wrong disk, or hide a node's record.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check_folders(&self) -> Result<(), ConfigError> {
        let data_dir = &self.node.data_dir;
        self.check_parent("node.data_dir".to_owned(), data_dir)?;
        for (index, dir) in self.node.record_dirs.iter().enumerate() {
            self.check_parent(format!("node.record_dirs[{index}]"), dir)?;
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            self.check_parent(format!("volume[{index}].path"), &volume.path)?;
        }
        Ok(())
    }

    fn check_parent(&self, key: String, path: &Path) -> Result<(), ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        // data_dir itself is made by init, and so is a record's folder.
        if path.is_dir() || folder.is_dir() || folder == self.node.data_dir {
            return Ok(());
        }
        let problem = Problem::Missing {
            path: folder.to_owned(),
            hint: "; make the folder, or mount what belongs there",
        };
        Err(ConfigError::refused(&self.file, None, key, problem))
    }

    fn check_volume(
        &self,
        local: &VolumeSection,
        size: u64,
        initialised: bool,
    ) -> Result<(), ConfigError> {
        let index = self.volumes.iter().position(|volume| volume.name == local.name);
        let key = format!("volume[{}].path", index.expect("a volume of this file"));
        let refused = |problem| Err(ConfigError::refused(&self.file, None, key, problem));
        let path = local.path.clone();
        match (path.exists(), initialised) {
            (false, true) => return refused(Problem::ImageGone { path, size }),
            (false, false) => return Ok(()),
            (true, _) => {}
        }
        let direct =
            if local.direct == Direct::On { backing::Direct::On } else { backing::Direct::Off };
        match Backing::open(&path, size, direct) {
            // The node runs.
            Ok(_) | Err(BackingError::Busy { .. }) => Ok(()),
            Err(error) => refused(Problem::Backing(error)),
        }
    }
}

/// The pair configuration of the record's two places. A place whose file is missing, damaged or
/// old is named in the log; the other one counts.
///
/// # Errors
/// Neither is usable, or they contradict each other.
pub fn load_pair(record_dirs: &[PathBuf; 2]) -> Result<PairConfig, PairStoreError> {
    let [in_first, in_second] = record_dirs.each_ref().map(|dir| read_place(dir));
    let [first, second] = record_dirs.clone();
    match (in_first, in_second) {
        (Err(one), Err(other)) => {
            Err(PairStoreError::Nowhere { first, second, why: format!("{one}; {other}") })
        }
        (Ok(pair), Err(why)) => {
            tracing::warn!("{why}; going on with {}", first.join(FILE_NAME).display());
            Ok(pair)
        }
        (Err(why), Ok(pair)) => {
            tracing::warn!("{why}; going on with {}", second.join(FILE_NAME).display());
            Ok(pair)
        }
        (Ok(one), Ok(other)) => {
            let config_seq = one.config_seq;
            choose(Some(one), Some(other)).ok_or(PairStoreError::Contradiction {
                first,
                second,
                config_seq,
            })
        }
    }
}

/// What one place holds, or why nothing.
fn read_place(dir: &Path) -> Result<PairConfig, String> {
    let path = dir.join(FILE_NAME);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    PairConfig::decode(&bytes).map_err(|error: PairFileError| format!("{} {error}", path.display()))
}

/// Makes `pair` durable in both places, one after the other. The folders are made if need be.
///
/// # Errors
/// The system refuses; the first place may have the new one already.
pub fn store_pair(record_dirs: &[PathBuf; 2], pair: &PairConfig) -> Result<(), PairStoreError> {
    let bytes = pair.encode();
    for dir in record_dirs {
        fs::create_dir_all(dir)
            .map_err(|source| PairStoreError::Write { path: dir.clone(), source })?;
        let path = dir.join(FILE_NAME);
        replace_file(&path, &bytes)
            .map_err(|source| PairStoreError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(config_seq: u64) -> PairConfig {
        PairConfig {
            config_seq,
            id: base::ids::PairId([1; 16]),
            preferred: "a".parse().unwrap(),
            timers: Default::default(),
            read_mode: Default::default(),
            witnesses: Vec::new(),
            volumes: Vec::new(),
        }
    }

    fn places() -> (tempfile::TempDir, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let places = [dir.path().join("r1"), dir.path().join("r2")];
        (dir, places)
    }

    #[test]
    fn one_good_place_is_enough_and_the_newer_counts() {
        let (_dir, places) = places();
        let error = load_pair(&places).unwrap_err().to_string();
        for expected in ["r1/pair: No such file", "r2/pair: No such file", "not mounted"] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(error.contains("If this node ran before, do not run `stretch init`"), "{error}");
        store_pair(&places, &pair(1)).unwrap();
        store_pair(&places, &pair(2)).unwrap();
        fs::write(places[0].join(FILE_NAME), b"stretch-pair 1 torn").unwrap();
        assert_eq!(load_pair(&places).unwrap(), pair(2));
        fs::write(places[0].join(FILE_NAME), pair(1).encode()).unwrap();
        assert_eq!(load_pair(&places).unwrap(), pair(2));
        fs::remove_file(places[1].join(FILE_NAME)).unwrap();
        assert_eq!(load_pair(&places).unwrap(), pair(1));
    }

    #[test]
    fn two_different_files_of_one_number_are_refused() {
        let (_dir, places) = places();
        store_pair(&places, &pair(3)).unwrap();
        let other = PairConfig { preferred: "b".parse().unwrap(), ..pair(3) };
        fs::write(places[1].join(FILE_NAME), other.encode()).unwrap();
        let error = load_pair(&places).unwrap_err();
        assert!(matches!(error, PairStoreError::Contradiction { config_seq: 3, .. }));
    }
}
