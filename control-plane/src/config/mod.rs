//! What one node is told by its TOML file, and what both nodes of a pair must agree on.
//!
//! The TOML holds what is local to a node. Volumes and their sizes, the preferred node, witnesses,
//! timers and the read mode are the pair configuration: read from the TOML by `stretch init` only,
//! from then on kept beside the record ([`pair`]) and changed only by verbs on a running node.
//!
//! Not here: reading and writing files (`io/config_file.rs`).

mod check;
mod error;
mod file;
pub mod pair;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base::ids::{NodeName, PairId, VolumeId, VolumeName};
use base::limits::Timers;
use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use file::{parse_size, size_meant};
pub use pair::{Difference, PairConfig, PairFileError, PairVolume};

/// Whether NBD clients must speak TLS and show a host's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NbdTls {
    /// Plain NBD: for a network that only trusted hosts can reach.
    Off,
    /// Every client must begin with STARTTLS and show a certificate of kind host.
    Required,
}

/// How a volume's file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direct {
    /// O_DIRECT where the file system has it and it is not tmpfs.
    #[default]
    Auto,
    /// O_DIRECT, or the node refuses to start.
    On,
    /// Through the page cache.
    Off,
}

/// A preset of PROTOCOL 4.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimerPreset {
    /// For most networks.
    #[default]
    Default,
    /// Pinned threads and quiet machines on one switch.
    LanFast,
    /// Two sites some milliseconds apart.
    Metro,
    /// Overcommitted virtual machines.
    Noisy,
}

impl TimerPreset {
    /// The values.
    pub const fn timers(self) -> Timers {
        match self {
            Self::Default => Timers::DEFAULT,
            Self::LanFast => Timers::LAN_FAST,
            Self::Metro => Timers::METRO,
            Self::Noisy => Timers::NOISY,
        }
    }
}

/// What a local read relies on (PROTOCOL 2.5). Parsed and kept; each is answered while the peer was
/// heard within T_sus.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// On the peer's grant, and so on clocks that run at nearly the same rate.
    #[default]
    Grant,
    /// On a round trip to the peer for each read.
    Confirmed,
}

/// A third-site arbiter. Parsed and kept; not contacted yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Where it listens.
    pub address: SocketAddr,
}

/// One node's configuration, checked, with paths relative to the current folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// The TOML file it came from.
    pub file: PathBuf,
    /// `[node]`
    pub node: NodeSection,
    /// `[tls]`
    pub tls: TlsSection,
    /// `[nbd]`
    pub nbd: NbdSection,
    /// `[peer]`
    pub peer: PeerSection,
    /// `[pair]`: read by `stretch init` only.
    pub pair: Option<PairSection>,
    /// `[[volume]]`, in the order of the file.
    pub volumes: Vec<VolumeSection>,
    /// `[admin]`
    pub admin: AdminSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
}

/// `[node]`: who this node is and where it keeps its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSection {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Where it stands, for people.
    pub site: Option<String>,
    /// Bitmap files, lock, decision log.
    pub data_dir: PathBuf,
    /// The two places of the record; best on different disks.
    pub record_dirs: [PathBuf; 2],
    /// Its own end of the peer link: listens here (the larger name) or dials from here.
    pub address: SocketAddr,
    /// What is logged, as a `tracing` filter.
    pub log: String,
}

/// `[tls]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSection {
    /// The node's identity, as `stretch pki issue` makes it.
    pub dir: PathBuf,
}

/// `[nbd]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NbdSection {
    /// Where hosts attach volumes.
    pub listen: SocketAddr,
    /// Whether they must speak TLS.
    pub tls: NbdTls,
}

/// `[peer]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSection {
    /// The other node's name, as in its certificate.
    pub name: NodeName,
    /// The other node's `[node] address`.
    pub address: SocketAddr,
}

/// `[pair]`: what both nodes must agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PairSection {
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
}

/// `[[volume]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSection {
    /// Its name, and the NBD export name.
    pub name: VolumeName,
    /// Equal on both nodes; read by `stretch init` only.
    pub id: Option<VolumeId>,
    /// In bytes, equal on both nodes; read by `stretch init` only.
    pub size: Option<u64>,
    /// The file or device that holds this node's copy.
    pub path: PathBuf,
    /// How it is opened.
    pub direct: Direct,
}

/// `[admin]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminSection {
    /// HTTPS for operators; none: not served.
    pub listen: Option<SocketAddr>,
    /// The UNIX socket, this machine only.
    pub socket: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetricsSection {
    /// HTTP; none: not served.
    pub listen: Option<SocketAddr>,
}

impl NodeConfig {
    /// Reads `text`, the contents of `file`. Relative paths are taken from `file`'s folder.
    ///
    /// # Errors
    /// The first thing that is wrong: file, line, key, what was found and what is allowed.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config = file::parse(file, text)?;
        check::check(&config).map_err(|(key, problem)| {
            ConfigError::refused(file, base::toml_text::line_of(text, &key), key, problem)
        })?;
        Ok(config)
    }

    /// What `stretch init` records as the agreement of the pair.
    ///
    /// # Errors
    /// A key that only `init` needs is missing.
    pub fn agreement(&self) -> Result<PairConfig, ConfigError> {
        let missing =
            |key: &str| ConfigError::refused(&self.file, None, key, Problem::NeededByInit);
        let pair = self.pair.as_ref().ok_or_else(|| missing("pair"))?;
        let mut volumes = Vec::with_capacity(self.volumes.len());
        for (index, volume) in self.volumes.iter().enumerate() {
            volumes.push(PairVolume {
                name: volume.name.clone(),
                id: volume.id.ok_or_else(|| missing(&format!("volume[{index}].id")))?,
                size: volume.size.ok_or_else(|| missing(&format!("volume[{index}].size")))?,
            });
        }
        if volumes.is_empty() {
            return Err(missing("volume"));
        }
        Ok(PairConfig {
            config_seq: 1,
            id: pair.id,
            preferred: pair.preferred.clone(),
            timers: pair.timers,
            read_mode: pair.read_mode,
            witnesses: pair.witnesses.clone(),
            volumes,
        })
    }

    /// What the file asks for that this version keeps, but does not do yet: a line for each.
    pub fn not_used_yet(&self) -> Vec<&'static str> {
        let Some(pair) = &self.pair else { return Vec::new() };
        let mut lines = Vec::new();
        if pair.read_mode == ReadMode::Confirmed {
            lines.push(
                "pair.read_mode = \"confirmed\" is kept, but not used yet: reads are answered as \
                 with \"grant\"",
            );
        }
        if !pair.witnesses.is_empty() {
            lines.push("pair.witnesses is kept, but not used yet: no witness is asked");
        }
        lines
    }

    /// The address that everything of this node is bound to.
    pub fn ip(&self) -> IpAddr {
        self.node.address.ip()
    }

    /// The local half (path, direct) of each volume of `pair`, in the pair's order.
    ///
    /// # Errors
    /// A volume of the pair has no `[[volume]]` here.
    pub fn local_volumes<'a>(
        &'a self,
        pair: &PairConfig,
    ) -> Result<Vec<&'a VolumeSection>, ConfigError> {
        let find = |wanted: &PairVolume| {
            self.volumes.iter().find(|v| v.name == wanted.name).ok_or_else(|| {
                let found = self.volumes.iter().map(|volume| volume.name.to_string());
                let found = found.collect::<Vec<_>>().join(", ");
                let problem = Problem::VolumeMissing { name: wanted.name.clone(), found };
                ConfigError::refused(&self.file, None, "volume", problem)
            })
        };
        pair.volumes.iter().map(find).collect()
    }
}

#[cfg(test)]
mod tests;
