//! `tag`.

use clap::{ArgMatches, Command};

use super::super::Context;
use super::super::flags::{names, owned, with_help};
use crate::error::Outcome;

/// Arguments of `tag`.
pub fn arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 2).num_args(2))
}

/// `tag`: gives an image a further name.
///
/// # Errors
/// The engine's.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let given = owned(matches, "names");
    let (Some(source), Some(name)) = (given.first(), given.get(1)) else {
        return Ok(1);
    };
    context.engine()?.tag_image(source, name)?;
    Ok(0)
}
