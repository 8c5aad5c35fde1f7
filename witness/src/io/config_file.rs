//! Reads the witness's TOML file and its identity.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use base::identity::{Identity, Kind};
use base::io::clock;
use base::io::tls::TlsIdentity;

use crate::config::{ConfigError, Problem, WitnessConfig};

/// Largest TOML file that is read, in bytes.
const TOML_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks the file at `path`.
pub(super) fn load(path: &Path) -> Result<WitnessConfig, ConfigError> {
    let read = |source| ConfigError::Read { file: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(read)?;
    file.take(TOML_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
    WitnessConfig::parse(path, &text)
}

/// Loads the witness's identity and checks that it is this witness's and still valid.
pub(super) fn load_identity(config: &WitnessConfig) -> Result<TlsIdentity, ConfigError> {
    let refused = |problem| refused(config, "tls.dir", problem);
    let loaded =
        TlsIdentity::load(&config.tls_dir).map_err(|error| refused(Problem::Identity(error)))?;
    let wanted = Identity { kind: Kind::Witness, name: config.name.clone() };
    if loaded.identity != wanted {
        return Err(refused(Problem::WrongIdentity { found: loaded.identity, wanted }));
    }
    let over = clock::unix_seconds().saturating_sub(loaded.not_after);
    if let Ok(seconds) = u64::try_from(over)
        && seconds > 0
    {
        let ago = humantime::format_duration(Duration::from_secs(seconds));
        return Err(refused(Problem::Expired { ago: ago.to_string() }));
    }
    Ok(loaded)
}

/// Whether the folder for the log is there: one made where a disk is not mounted would fill the
/// wrong disk.
pub(super) fn check_folder(config: &WitnessConfig) -> Result<(), ConfigError> {
    if config.data_dir.is_dir() {
        return Ok(());
    }
    Err(refused(config, "witness.data_dir", Problem::NoFolder(config.data_dir.clone())))
}

fn refused(config: &WitnessConfig, key: &'static str, problem: Problem) -> ConfigError {
    ConfigError::Refused { file: config.file.clone(), line: None, key, problem: Box::new(problem) }
}
