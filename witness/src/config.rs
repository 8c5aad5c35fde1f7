//! What a witness is told by its TOML file (`docs/WITNESS.md`).
//!
//! Not here: reading files (`io`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base::identity::Identity;
use base::ids::NodeName;
use base::io::tls::TlsError;
use base::toml_text::{self, Fault};
use tracing_subscriber::filter::Targets;

/// A witness's configuration, checked, with paths relative to the current folder.
#[derive(Clone, PartialEq, Debug)]
pub struct WitnessConfig {
    /// The TOML file it came from.
    pub file: PathBuf,
    /// Its name, as in its certificate and in the list of the pairs.
    pub name: NodeName,
    /// Where it listens for nodes.
    pub listen: SocketAddr,
    /// Where it writes what it has done (`events.jsonl`).
    pub data_dir: PathBuf,
    /// What is logged.
    pub log: Targets,
    /// Its identity, as `stretch pki issue --kind witness` makes it.
    pub tls_dir: PathBuf,
    /// HTTP for metrics; none: not served.
    pub metrics: Option<SocketAddr>,
}

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{}: {message}", place(file, *line, key))]
    Form {
        /// Which file.
        file: PathBuf,
        /// Where.
        line: Option<usize>,
        /// Path of the key, if it is about one.
        key: String,
        /// What was found and what is allowed.
        message: String,
    },
    /// A well-formed value that cannot be used.
    #[error("{}: {problem}", place(file, *line, key))]
    Refused {
        /// Which file.
        file: PathBuf,
        /// Where.
        line: Option<usize>,
        /// Path of the key.
        key: &'static str,
        /// What is wrong.
        problem: Box<Problem>,
    },
}

/// A well-formed value that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// 0.0.0.0, [::] or port 0.
    #[error("{0} is no single address; give the witness's own IP address and a port")]
    Unspecified(SocketAddr),
    /// Both listeners have one address.
    #[error("{0} is also witness.listen; each needs an address of its own")]
    SameAddress(SocketAddr),
    /// Not a filter.
    #[error("\"{0}\" is no log filter; use error, warn, info, debug or trace, or one per module")]
    Log(String),
    /// It is not there.
    #[error("{0} is no folder; make it, or mount what belongs there")]
    NoFolder(PathBuf),
    /// The identity cannot be loaded.
    #[error("the identity cannot be used: {0}")]
    Identity(#[source] TlsError),
    /// The identity is somebody else's.
    #[error("the certificate there is for {found}, this witness needs one for {wanted}")]
    WrongIdentity {
        /// Whose it is.
        found: Identity,
        /// Whose it must be.
        wanted: Identity,
    },
    /// The certificate is over.
    #[error("the certificate there ended {ago} ago; issue another with stretch pki issue")]
    Expired {
        /// How long ago, in words.
        ago: String,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    witness: Witness,
    tls: Tls,
    #[serde(default)]
    metrics: Metrics,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Witness {
    name: NodeName,
    listen: SocketAddr,
    data_dir: PathBuf,
    #[serde(default = "default_log")]
    log: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    dir: PathBuf,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Metrics {
    listen: Option<SocketAddr>,
}

fn default_log() -> String {
    "info".to_owned()
}

fn place(file: &Path, line: Option<usize>, key: &str) -> String {
    let line = line.map_or(String::new(), |line| format!(":{line}"));
    let key = if key.is_empty() { String::new() } else { format!(": {key}") };
    format!("{}{line}{key}", file.display())
}

impl WitnessConfig {
    /// Reads `text`, the contents of `file`. Relative paths are taken from `file`'s folder.
    ///
    /// # Errors
    /// The first thing that is wrong: file, line, key, what was found and what is allowed.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let parsed: File = toml_text::parse(text).map_err(|Fault { line, key, message }| {
            ConfigError::Form { file: file.to_owned(), line, key, message }
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut config = Self {
            file: file.to_owned(),
            name: parsed.witness.name,
            listen: parsed.witness.listen,
            data_dir: folder.join(parsed.witness.data_dir),
            log: Targets::default(),
            tls_dir: folder.join(parsed.tls.dir),
            metrics: parsed.metrics.listen,
        };
        config.check(&parsed.witness.log).map_err(|(key, problem)| {
            let line = toml_text::line_of(text, key);
            ConfigError::Refused { file: file.to_owned(), line, key, problem: Box::new(problem) }
        })?;
        Ok(config)
    }

    /// Takes the filter when everything else can be used.
    fn check(&mut self, log: &str) -> Result<(), (&'static str, Problem)> {
        let addresses = [("witness.listen", Some(self.listen)), ("metrics.listen", self.metrics)];
        for (key, address) in addresses {
            if let Some(address) = address.filter(|a| a.ip().is_unspecified() || a.port() == 0) {
                return Err((key, Problem::Unspecified(address)));
            }
        }
        if self.metrics == Some(self.listen) {
            return Err(("metrics.listen", Problem::SameAddress(self.listen)));
        }
        self.log = match log.parse() {
            Ok(filter) if !log.trim().is_empty() => filter,
            _ => return Err(("witness.log", Problem::Log(log.to_owned()))),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
[witness]
name = \"w\"
listen = \"127.0.0.13:10812\"
data_dir = \"w\"

[tls]
dir = \"pki/w\"

[metrics]
listen = \"127.0.0.13:10813\"
";

    #[test]
    fn paths_are_relative_to_the_file_and_defaults_are_put_in() {
        let config = WitnessConfig::parse(Path::new("demo/witness.toml"), GOOD).expect("good");
        assert_eq!(config.name.as_str(), "w");
        assert_eq!(config.data_dir, Path::new("demo/w"));
        assert_eq!(config.tls_dir, Path::new("demo/pki/w"));
        assert_eq!(config.log, "info".parse().expect("a filter"));
        assert_eq!(config.metrics.map(|address| address.port()), Some(10813));
        let short = GOOD.split("[metrics]").next().expect("a part");
        let config = WitnessConfig::parse(Path::new("witness.toml"), short).expect("good");
        assert_eq!((config.metrics, config.data_dir), (None, PathBuf::from("w")));
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_key() {
        for (from, to, says) in [
            ("name = \"w\"", "nme = \"w\"", "w.toml:2: witness.nme: unknown field `nme`, expected"),
            ("name = \"w\"", "name = \"w w\"", "w.toml:2: witness.name: ' ' cannot stand there"),
            ("name = \"w\"\n", "", "w.toml:1: witness: missing field `name`"),
            ("127.0.0.13:10812", "127.0.0.13", "w.toml:3: witness.listen: no address; one has"),
            ("127.0.0.13:10812", "0.0.0.0:10812", "w.toml:3: witness.listen: 0.0.0.0:10812 is no"),
            ("127.0.0.13:10813", "127.0.0.13:0", "w.toml:10: metrics.listen: 127.0.0.13:0 is no"),
            ("127.0.0.13:10813", "127.0.0.13:10812", "w.toml:10: metrics.listen: 127.0.0.13:10812"),
            ("data_dir = \"w\"", "data_dir = 3", "w.toml:4: witness.data_dir: invalid type"),
            ("data_dir = \"w\"", "data_dir = \"w\"\nlog = \"\"", "w.toml:5: witness.log: \"\" is"),
            ("[tls]", "[tls", "w.toml:6:"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let error = WitnessConfig::parse(Path::new("w.toml"), &text).expect_err(to);
            assert!(error.to_string().starts_with(says), "{error}");
        }
    }
}
