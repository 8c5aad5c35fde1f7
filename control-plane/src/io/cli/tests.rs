use clap::CommandFactory;

use super::Arguments;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}
