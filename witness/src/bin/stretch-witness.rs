//! The `stretch-witness` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    witness::io::main::main(std::env::args_os())
}
