//! What both nodes of a pair agreed on, and the file that keeps it beside the record.
//!
//! The file is one header line with version, length and CRC-32C, then JSON. It lies in both of the
//! record's places; the valid one with the higher `config_seq` counts. The record names the
//! `config_seq` it goes with, so an older copy of both files is noticed there.
//! Faults assumed: a file may be missing, torn, damaged or old; not both at once.

use std::fmt;

use base::ids::{NodeName, PairId, VolumeId, VolumeName};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{NodeConfig, ReadMode, TimerPreset, WitnessConfig};

/// Name of the file in each of the record's places.
pub const FILE_NAME: &str = "pair";
/// Largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

const MAGIC: &str = "stretch-pair";

/// Formats of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairFileVersion {
    /// The first one.
    V1 = 1,
}

/// The agreement of a pair.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairConfig {
    /// Raised by one with every change.
    pub config_seq: u64,
    /// Equal on both nodes, different for every pair.
    pub id: PairId,
    /// Which node the pair leans to.
    pub preferred: NodeName,
    /// The preset of timers.
    pub timers: TimerPreset,
    /// What local reads rely on.
    pub read_mode: ReadMode,
    /// Third-site arbiters, best first.
    pub witnesses: Vec<WitnessConfig>,
    /// The volumes; their order is their index.
    pub volumes: Vec<PairVolume>,
}

/// A volume as both nodes see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairVolume {
    /// Its name, and the NBD export name.
    pub name: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// In bytes.
    pub size: u64,
}

/// Why the bytes of a file are no pair configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairFileError {
    /// The first line is not the header.
    #[error("does not begin with '{MAGIC}'")]
    Magic,
    /// A version that this build does not know.
    #[error("has format {0}, this build reads format {known}", known = PairFileVersion::V1 as u32)]
    Version(u32),
    /// Length or checksum do not fit.
    #[error("is damaged: its checksum does not fit")]
    Checksum,
    /// The checksum fits but the contents do not: written by something else.
    #[error("cannot be understood")]
    Contents(#[source] serde_json::Error),
}

impl PairConfig {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::to_vec_pretty(self).expect("every field has a JSON form");
        body.push(b'\n');
        let version = PairFileVersion::V1 as u32;
        let crc = crc32c::crc32c(&body);
        let mut file =
            format!("{MAGIC} {version} bytes={} crc32c={crc:08x}\n", body.len()).into_bytes();
        file.extend_from_slice(&body);
        file
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// Not such a file, of another version, or damaged.
    pub fn decode(file: &[u8]) -> Result<Self, PairFileError> {
        let end = file.iter().position(|byte| *byte == b'\n').ok_or(PairFileError::Magic)?;
        let (header, body) = (&file[..end], &file[end + 1..]);
        let header = std::str::from_utf8(header).map_err(|_| PairFileError::Magic)?;
        let mut words = header.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(PairFileError::Magic);
        }
        let version =
            words.next().and_then(|w| w.parse::<u32>().ok()).ok_or(PairFileError::Magic)?;
        if version != PairFileVersion::V1 as u32 {
            return Err(PairFileError::Version(version));
        }
        let expected = format!("bytes={} crc32c={:08x}", body.len(), crc32c::crc32c(body));
        let found: Vec<&str> = words.collect();
        if found.join(" ") != expected {
            return Err(PairFileError::Checksum);
        }
        serde_json::from_slice(body).map_err(PairFileError::Contents)
    }

    /// Where `config` says something else. Never applied, never an error: the agreement counts.
    pub fn differences(&self, config: &NodeConfig) -> Vec<Difference> {
        let mut found = Vec::new();
        if let Some(pair) = &config.pair {
            note(&mut found, "pair.id", &self.id, &pair.id);
            note(&mut found, "pair.preferred", &self.preferred, &pair.preferred);
            note(&mut found, "pair.timers", &Word(&self.timers), &Word(&pair.timers));
            note(&mut found, "pair.read_mode", &Word(&self.read_mode), &Word(&pair.read_mode));
            let (agreed, toml) = (Witnesses(&self.witnesses), Witnesses(&pair.witnesses));
            note(&mut found, "pair.witnesses", &agreed, &toml);
        }
        for volume in &self.volumes {
            let key = |name: &str| format!("volume {}.{name}", volume.name);
            match config.volumes.iter().find(|v| v.name == volume.name) {
                None => note(&mut found, format!("volume {}", volume.name), &"present", &"absent"),
                Some(local) => {
                    if let Some(id) = local.id {
                        note(&mut found, key("id"), &volume.id, &id);
                    }
                    if let Some(size) = local.size {
                        note(&mut found, key("size"), &Bytes(volume.size), &Bytes(size));
                    }
                }
            }
        }
        for local in &config.volumes {
            if self.volumes.iter().all(|volume| volume.name != local.name) {
                note(&mut found, format!("volume {}", local.name), &"absent", &"present");
            }
        }
        found
    }
}

/// The newer of what the two places hold.
///
/// # Errors
/// `None`: neither is usable, or both are and contradict each other.
pub fn choose(first: Option<PairConfig>, second: Option<PairConfig>) -> Option<PairConfig> {
    match (first, second) {
        (Some(first), Some(second)) if first.config_seq == second.config_seq => {
            (first == second).then_some(first)
        }
        (Some(first), Some(second)) => {
            Some(if first.config_seq > second.config_seq { first } else { second })
        }
        (first, second) => first.or(second),
    }
}

/// A key that the TOML now gives another value than the pair agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Which key.
    pub key: String,
    /// What the pair agreed on, and what counts.
    pub agreed: String,
    /// What the TOML says now.
    pub toml: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: agreed {}, the TOML says {}", self.key, self.agreed, self.toml)
    }
}

fn note(
    found: &mut Vec<Difference>,
    key: impl Into<String>,
    agreed: &dyn fmt::Display,
    toml: &dyn fmt::Display,
) {
    let (agreed, toml) = (agreed.to_string(), toml.to_string());
    if agreed != toml {
        found.push(Difference { key: key.into(), agreed, toml });
    }
}

/// An enum in the word that the file uses for it.
struct Word<'a, T>(&'a T);

impl<T: Serialize> fmt::Display for Word<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_json::to_value(self.0).map_err(|_| fmt::Error)?;
        f.write_str(value.as_str().unwrap_or_default())
    }
}

struct Witnesses<'a>(&'a [WitnessConfig]);

impl fmt::Display for Witnesses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, witness) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{} at {}", witness.name, witness.address)?;
        }
        Ok(())
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", ByteSize(self.0), self.0)
    }
}

impl fmt::Display for PairConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "config_seq  {}", self.config_seq)?;
        writeln!(f, "pair        {}", self.id)?;
        writeln!(f, "preferred   {}", self.preferred)?;
        writeln!(f, "timers      {}", Word(&self.timers))?;
        writeln!(f, "read_mode   {}", Word(&self.read_mode))?;
        writeln!(f, "witnesses   {}", Witnesses(&self.witnesses))?;
        for volume in &self.volumes {
            writeln!(f, "volume      {}  {}  {}", volume.name, volume.id, Bytes(volume.size))?;
        }
        Ok(())
    }
}
