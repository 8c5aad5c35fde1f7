//! The words of the command line (`docs/CLI.md`).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use base::frame::WIRE_VERSION;
use base::identity::Kind;
use base::ids::NodeName;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::config::pair::PairFileVersion;
use crate::config::{parse_size, size_meant};
use crate::pki::DAYS_DEFAULT;
use crate::record::{header, layout, stamp};
use crate::state_word::StateWord;
use crate::status::Mode;

/// What the program is asked to do.
#[derive(Parser, Debug)]
#[command(
    name = "stretch",
    about = "One volume on two active nodes: every write on both before it is acknowledged",
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, \
                  3 node not reachable or timed out"
)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run one node until SIGTERM or SIGINT, which stop it cleanly
    Node(NodeArgs),
    /// Try it: two nodes on this machine with a volume to write to
    Demo(DemoArgs),
    /// Make the record of a new node; the only command that does
    Init(InitArgs),
    /// Look at configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make certificates
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Say what a node does
    Status(StatusArgs),
    /// Wait until a node's own status says so
    Wait(WaitArgs),
}

#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// The node's TOML file
    #[arg(long, value_name = "F")]
    pub(super) config: PathBuf,
    /// Die with the process of this id, which must be the parent
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) die_with_parent: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// The demo's folder; what is in it is kept and used again
    #[arg(long, value_name = "D", default_value = "stretch-demo")]
    pub(super) dir: PathBuf,
    /// Size of the volume of a new folder: bytes, or with a unit as in 64MiB or 10GB
    /// [default: 1GiB]
    #[arg(long, value_name = "S", value_parser = size)]
    pub(super) size: Option<u64>,
    /// Only make the folder
    #[arg(long)]
    pub(super) prepare: bool,
    /// Addresses of a, b and the witness [default: 127.0.0.11,127.0.0.12,127.0.0.13]
    #[arg(long, value_name = "A,B,W", value_delimiter = ',', num_args = 1)]
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The node's TOML file
    #[arg(long, value_name = "F")]
    pub(super) config: PathBuf,
    /// This node's volumes hold the data to begin with; give it at one node only
    #[arg(long)]
    pub(super) source: bool,
}

#[derive(Subcommand, Debug)]
pub(super) enum ConfigCommand {
    /// Check a node's TOML file and the files it names
    Check {
        /// The TOML file
        #[arg(value_name = "F")]
        file: PathBuf,
    },
    /// Print what the pair agreed on, and where the TOML file now differs
    Show(ShowArgs),
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand, Debug)]
pub(super) enum PkiCommand {
    /// Make a CA: ca-cert.pem and ca-key.pem
    Ca {
        /// Folder for the CA and the identities it signs
        #[arg(long, value_name = "D")]
        dir: PathBuf,
        /// Days until it ends
        #[arg(long, value_name = "N", default_value_t = DAYS_DEFAULT, value_parser = days())]
        days: u32,
    },
    /// Make the identity of one holder: the folder D/NAME
    Issue(IssueArgs),
}

#[derive(Args, Debug)]
pub(super) struct IssueArgs {
    /// Folder with the CA
    #[arg(long, value_name = "D")]
    pub(super) dir: PathBuf,
    /// What the holder is
    #[arg(long, value_parser = PossibleValuesParser::new(KINDS.map(Kind::word)).map(kind))]
    pub(super) kind: Kind,
    /// The holder's name
    pub(super) name: NodeName,
    /// An address it is reached at, for clients that check it; may be repeated
    #[arg(long, value_name = "IP")]
    pub(super) address: Vec<IpAddr>,
    /// A DNS name it is reached at, for clients that check it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) dns: Vec<String>,
    /// Days until it ends
    #[arg(long, value_name = "N", default_value_t = DAYS_DEFAULT, value_parser = days())]
    pub(super) days: u32,
}

/// Which node is meant.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// A node of this machine, by its TOML file [default: $STRETCH_CONFIG, /etc/stretch/node.toml]
    #[arg(long, value_name = "F", conflicts_with = "node")]
    pub(super) config: Option<PathBuf>,
    /// A node anywhere, by its admin port
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub(super) node: Option<String>,
    /// Folder of an operator's identity [default: $STRETCH_IDENTITY, /etc/stretch/operator]
    #[arg(long, value_name = "DIR", requires = "node")]
    pub(super) identity: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Go on: redraw on a terminal, otherwise a line per change
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// The state to wait for: starting, active-active, deciding, solo, resync-source,
    /// resync-target, ready, fenced, limbo, broken or stopped
    #[arg(long, value_name = "S")]
    pub(super) state: StateWord,
    /// And the mode: witnessed, preferred:NAME or none
    #[arg(long, value_name = "M")]
    pub(super) mode: Option<Mode>,
    /// How long at most, for example 30s, 500ms or 2min
    #[arg(long, value_name = "T", default_value = "30s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// Print the status that was waited for as JSON
    #[arg(long)]
    pub(super) json: bool,
}

const KINDS: [Kind; 4] = [Kind::Node, Kind::Witness, Kind::Host, Kind::Operator];

fn kind(word: String) -> Kind {
    KINDS.into_iter().find(|kind| kind.word() == word).expect("the parser knows these words only")
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| {
        let allowed =
            "allowed: bytes, or one of the units B, KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB, PB";
        match size_meant(text) {
            Some(meant) => format!("{allowed}; did you mean {meant}?"),
            None => allowed.to_owned(),
        }
    })
}

/// A certificate is valid for a day at least.
fn days() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=u64::from(u32::MAX))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "allowed: a number and a unit, for example 30s, 500ms or 2min".to_owned())
}

fn host_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port: Result<u16, _> = port.parse();
    // More colons than one belong to an IPv6 address, which stands in brackets.
    let bare = !host.starts_with('[') && host.contains(':');
    if host.is_empty() || bare || !port.is_ok_and(|port| port != 0) {
        return Err("give HOST:PORT, the node's [admin] listen, for example 10.0.0.2:10811 or \
                    [fd00::2]:10811"
            .to_owned());
    }
    Ok(text.to_owned())
}

static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "sabotage") { "sabotage" } else { "none" };
    let disk = format!(
        "record {}, header {}, stamp {}, pair {}",
        layout::VERSION,
        header::VERSION,
        stamp::VERSION,
        PairFileVersion::V1 as u32
    );
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("STRETCH_COMMIT"));
    format!(
        "{version}\ncommit    {commit}\nwire      {WIRE_VERSION}\ndisk      {disk}\n\
         features  {features}"
    )
});
