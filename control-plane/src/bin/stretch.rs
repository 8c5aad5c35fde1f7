//! The `stretch` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use control_plane::io::{cli, node};

fn main() -> ExitCode {
    cli::main(std::env::args_os(), |config, signals| node::run(&config, signals))
}
