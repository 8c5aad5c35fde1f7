//! Runs the stamped client and says whether every answer was right: exit 0, or 1 with the first
//! wrong answer on stderr.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use client::driver::{Config, run};
use client::history::TrimMeaning;
use client::transport::load_identity;
use client::workload::Area;

/// A workload whose every block says who wrote it, over several nodes of one volume at once.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// NBD address of a node; give it once for each node
    #[arg(required = true)]
    nodes: Vec<SocketAddr>,
    /// Name of the export
    #[arg(long, default_value = "vol0")]
    export: String,
    /// Connections to each node
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// How long
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: std::time::Duration,
    /// Stop earlier, after so many requests
    #[arg(long)]
    requests: Option<u64>,
    /// First byte of the area; what is in the area is lost
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Bytes of the area
    #[arg(long, default_value_t = 1 << 20)]
    length: u64,
    /// Draws the requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The volume is known to read zeros where it was trimmed
    #[arg(long)]
    trim_zeroes: bool,
    /// Do not ask for structured replies
    #[arg(long)]
    simple: bool,
    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem: ask for TLS
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Write every request and its answer there, one JSON object a line
    #[arg(long)]
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    match check(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("stamped-client: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn check(arguments: Arguments) -> Result<bool> {
    let mut config = Config::new(arguments.nodes, &arguments.export);
    config.connections = arguments.connections;
    config.depth = arguments.depth;
    config.time = Some(arguments.time);
    config.requests = arguments.requests;
    config.area = Area { offset: arguments.offset, length: arguments.length, ..config.area };
    config.seed = arguments.seed;
    config.structured = !arguments.simple;
    if let Some(dir) = &arguments.tls {
        config.tls = Some(load_identity(dir)?);
    }
    if arguments.trim_zeroes {
        config.trim = TrimMeaning::Zeroes;
    }
    let history = run(config).context("cannot prepare the area")?;
    if let Some(path) = arguments.history {
        history.save(&path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match history.check() {
        Ok(counts) => {
            println!("{}", serde_json::to_string_pretty(&counts)?);
            Ok(true)
        }
        Err(finding) => {
            eprintln!("WRONG ANSWER: {finding}");
            Ok(false)
        }
    }
}
