//! What can be wrong with a configuration file, said so that it can be mended at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base::ids::{NodeName, VolumeName};
use base::limits;

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read")]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{}{}{}: {message}", file.display(), Line(*line), Key(key))]
    Form {
        /// Which file.
        file: PathBuf,
        /// Where.
        line: Option<usize>,
        /// Path of the key, if it is about one.
        key: String,
        /// What was found and what is allowed, in the words of the parser.
        message: String,
    },
    /// Every value is well-formed, but one cannot be used, or two do not go together.
    #[error("{}{}{}: {problem}", file.display(), Line(*line), Key(key))]
    Refused {
        /// Which file.
        file: PathBuf,
        /// Where.
        line: Option<usize>,
        /// Path of the key.
        key: String,
        /// What is wrong.
        problem: Box<Problem>,
    },
}

impl ConfigError {
    /// A value that cannot be used.
    pub(crate) fn refused(
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: Problem,
    ) -> Self {
        Self::Refused { file: file.to_owned(), line, key: key.into(), problem: Box::new(problem) }
    }
}

/// A well-formed value that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// `[peer] name` is `[node] name`.
    #[error("both nodes are called {0}; they need different names")]
    SameName(NodeName),
    /// Two listeners, or the node and its peer, have one address.
    #[error("{address} is also {other}; each needs an address of its own")]
    SameAddress {
        /// The address.
        address: SocketAddr,
        /// The other key.
        other: &'static str,
    },
    /// 0.0.0.0, [::] or port 0.
    #[error("{0} is no single address; give the node's own IP address and a port")]
    Unspecified(SocketAddr),
    /// One address is IPv4 and the other IPv6.
    #[error("{0} cannot be reached from [node] address; both must be IPv4 or both IPv6")]
    Family(SocketAddr),
    /// Not one of the two nodes.
    #[error("{found} is neither node of the pair; allowed: {node}, {peer}")]
    NotANode {
        /// What was found.
        found: NodeName,
        /// This node.
        node: NodeName,
        /// The other node.
        peer: NodeName,
    },
    /// Two volumes have one name.
    #[error("a second volume is called {0}; names must differ")]
    VolumeName(VolumeName),
    /// Two volumes have one id.
    #[error("a second volume has this id; ids must differ")]
    VolumeId,
    /// Two volumes have one file.
    #[error("a second volume has this path; each needs a file or device of its own")]
    VolumePath,
    /// Not a multiple of 512, zero or too large.
    #[error(
        "{0} bytes cannot be a volume's size; allowed: a multiple of {block} from {block} bytes \
         to {max} bytes (1 PiB)",
        block = limits::BLOCK_BYTES,
        max = limits::VOLUME_SIZE_MAX
    )]
    VolumeSize(u64),
    /// More than a group can have.
    #[error("{0} volumes; at most {max} in one group", max = limits::VOLUMES_MAX)]
    VolumeCount(usize),
    /// A volume of the pair configuration is not in the TOML.
    #[error(
        "the pair has a volume {name}, here {}; add a [[volume]] with name = \"{name}\" and the \
         path of this node's copy",
        if found.is_empty() { "is none".to_owned() } else { format!("is only: {found}") }
    )]
    VolumeMissing {
        /// Its name.
        name: VolumeName,
        /// Those that are there.
        found: String,
    },
    /// The record's two places are one.
    #[error("both places are the same folder; give two, best on different disks")]
    SameRecordDir,
    /// Not a filter that the log understands.
    #[error("'{0}' is no log filter; allowed: error, warn, info, debug, trace, or one per module")]
    Log(String),
    /// Two witnesses have one name.
    #[error("a second witness is called {0}; names must differ")]
    WitnessName(NodeName),
    /// More witnesses than are kept.
    #[error("{0} witnesses; at most {max}", max = super::check::WITNESSES_MAX)]
    WitnessCount(usize),
    /// The id is all zeros.
    #[error("an id of zeros says nothing; make one, for example with uuidgen")]
    NoId,
    /// A key that `init` reads is not there.
    #[error("missing; stretch init needs it: both nodes must give the same")]
    NeededByInit,
    /// The identity in `[tls] dir` cannot be loaded.
    #[error("the identity cannot be used: {}", Chain(.0))]
    Identity(base::io::tls::TlsError),
    /// The identity is somebody else's.
    #[error("the certificate there is for {found}, this node needs one for {wanted}")]
    WrongIdentity {
        /// Whose it is.
        found: base::identity::Identity,
        /// Whose it must be.
        wanted: base::identity::Identity,
    },
    /// The certificate is over.
    #[error("the certificate there ended {ago} ago; issue another with stretch pki issue")]
    Expired {
        /// How long ago, in words.
        ago: String,
    },
    /// The certificate does not count yet.
    #[error("{path} is not valid before {begin}; set this machine's clock, or issue another")]
    NotYet {
        /// The certificate.
        path: PathBuf,
        /// The day.
        begin: String,
    },
    /// The file or device of a volume cannot be used.
    #[error("{}", Chain(.0))]
    Backing(datapath::io::backing::BackingError),
    /// The file or device of a volume of a node that was initialised is gone.
    #[error(
        "{path} is not there, but this node was initialised with it: mount or attach what it is \
         on; if a file is lost, `truncate -s {size} {path}` makes a blank one, which is filled \
         from the other node"
    )]
    ImageGone {
        /// Which.
        path: PathBuf,
        /// Of the volume, in bytes.
        size: u64,
    },
    /// A folder or file does not exist.
    #[error("{path} does not exist{hint}")]
    Missing {
        /// Which.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
    },
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// An error with all that caused it, in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

struct Key<'a>(&'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}
