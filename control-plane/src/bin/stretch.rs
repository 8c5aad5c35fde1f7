//! The `stretch` program.
fn main() {}
