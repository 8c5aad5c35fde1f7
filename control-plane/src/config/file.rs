//! The form of the TOML file: which keys there are, their kinds and defaults.
//!
//! Not here: whether values go together (`check.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base::ids::{NodeName, PairId, VolumeId, VolumeName};
use base::toml_text::{self, Fault};
use bytesize::ByteSize;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::{
    AdminSection, ConfigError, Direct, MetricsSection, NbdSection, NbdTls, NodeConfig, NodeSection,
    PairSection, PeerSection, ReadMode, TimerPreset, TlsSection, VolumeSection, WitnessConfig,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: Node,
    tls: Tls,
    nbd: Nbd,
    peer: Peer,
    pair: Option<Pair>,
    #[serde(default)]
    volume: Vec<Volume>,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    metrics: Metrics,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: NodeName,
    site: Option<String>,
    data_dir: PathBuf,
    record_dirs: [PathBuf; 2],
    address: SocketAddr,
    #[serde(default = "default_log")]
    log: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    dir: PathBuf,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nbd {
    listen: SocketAddr,
    #[serde(default = "default_nbd_tls")]
    tls: NbdTls,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: NodeName,
    address: SocketAddr,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    id: PairId,
    preferred: Option<NodeName>,
    #[serde(default)]
    timers: TimerPreset,
    #[serde(default)]
    read_mode: ReadMode,
    #[serde(default)]
    witnesses: Vec<WitnessConfig>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    name: VolumeName,
    id: Option<VolumeId>,
    size: Option<Size>,
    path: PathBuf,
    #[serde(default)]
    direct: Direct,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Admin {
    listen: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Metrics {
    listen: Option<SocketAddr>,
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_nbd_tls() -> NbdTls {
    NbdTls::Required
}

/// Bytes: a number, or a text with a unit.
struct Size(u64);

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a size in bytes: a number, or a text with one of the units B, KiB, MiB, GiB, TiB, \
             PiB (1024) or kB, MB, GB, TB, PB (1000), for example \"1GiB\"",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        parse_size(text).map(Size).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes)
            .map(Size)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A size as people write it: "1GiB", "512 MiB", "10737418240". A lone letter is refused, because
/// nobody can know whether "1G" is the 1000 or the 1024 one.
pub fn parse_size(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start();
    let known = ["", "B", "KiB", "MiB", "GiB", "TiB", "PiB", "kB", "KB", "MB", "GB", "TB", "PB"];
    if !known.contains(&unit) {
        return None;
    }
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

/// What somebody who wrote "64M" may have meant: the unit of 1024, which disks have.
pub fn size_meant(text: &str) -> Option<String> {
    let text = text.trim();
    let number = text.strip_suffix(|c: char| "KMGTPkmgtp".contains(c))?.trim_end();
    let unit = text.chars().next_back()?.to_ascii_uppercase();
    let meant = format!("{number}{unit}iB");
    (!number.is_empty() && parse_size(&meant).is_some()).then_some(meant)
}

/// Reads the file's form and puts defaults and folders in.
pub(super) fn parse(file: &Path, text: &str) -> Result<NodeConfig, ConfigError> {
    let parsed = toml_text::parse(text).map_err(|Fault { line, key, message }| {
        ConfigError::Form { file: file.to_owned(), line, key, message }
    })?;
    Ok(resolve(file, parsed))
}

fn resolve(file: &Path, parsed: File) -> NodeConfig {
    let folder = file.parent().unwrap_or(Path::new(""));
    let at = |path: PathBuf| folder.join(path);
    let data_dir = at(parsed.node.data_dir);
    let smaller = parsed.node.name.clone().min(parsed.peer.name.clone());
    NodeConfig {
        file: file.to_owned(),
        admin: AdminSection {
            listen: parsed.admin.listen,
            socket: parsed.admin.socket.map_or_else(|| data_dir.join("admin.sock"), at),
        },
        node: NodeSection {
            name: parsed.node.name,
            site: parsed.node.site,
            data_dir,
            record_dirs: parsed.node.record_dirs.map(at),
            address: parsed.node.address,
            log: parsed.node.log,
        },
        tls: TlsSection { dir: at(parsed.tls.dir) },
        nbd: NbdSection { listen: parsed.nbd.listen, tls: parsed.nbd.tls },
        peer: PeerSection { name: parsed.peer.name, address: parsed.peer.address },
        pair: parsed.pair.map(|pair| PairSection {
            id: pair.id,
            preferred: pair.preferred.unwrap_or(smaller),
            timers: pair.timers,
            read_mode: pair.read_mode,
            witnesses: pair.witnesses,
        }),
        volumes: parsed
            .volume
            .into_iter()
            .map(|volume| VolumeSection {
                name: volume.name,
                id: volume.id,
                size: volume.size.map(|size| size.0),
                path: at(volume.path),
                direct: volume.direct,
            })
            .collect(),
        metrics: MetricsSection { listen: parsed.metrics.listen },
    }
}
