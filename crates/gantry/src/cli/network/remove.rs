//! `network rm` and `network prune`.

use clap::{ArgMatches, Command};

use super::super::flags::{is_on, list, names, owned, switch, texts, with_help};
use super::super::image::remove::confirmed;
use super::super::{Context, complain};
use super::filter::{self, Filter};
use crate::api::Error;
use crate::error::Outcome;
use crate::output;

/// Arguments of `network rm`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .arg(switch("force", "Do not error if the network does not exist").short('f'))
        .arg(names("names", 1))
}

/// `network rm`: removes networks, and goes on with the next one after an error.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn remove(context: &Context, matches: &ArgMatches) -> Outcome {
    let force = is_on(matches, "force")?;
    let engine = context.engine()?;
    let mut code = 0;
    for name in owned(matches, "names") {
        match engine.remove_user_network(&name) {
            Ok(_) => output::line(&name)?,
            Err(Error::NoSuchNetwork { .. }) if force => {}
            Err(error) => {
                complain(context, error);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Arguments of `network prune`.
pub fn prune_arguments(command: Command) -> Command {
    with_help(command).args([
        list(
            "filter",
            "filter",
            "Provide filter values (e.g. \"until=<timestamp>\")",
        ),
        switch("force", "Do not prompt for confirmation").short('f'),
    ])
}

/// `network prune`: removes the networks that no container is on.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn prune(context: &Context, matches: &ArgMatches) -> Outcome {
    let filters = texts(matches, "filter")
        .map(Filter::of_prune)
        .collect::<Result<Vec<_>, _>>()?;
    let question = "WARNING! This will remove all custom networks not used by at least one container.\n\
                    Are you sure you want to continue? [y/N] ";
    if !is_on(matches, "force")? && !confirmed(question)? {
        return Ok(0);
    }
    let removed = context
        .engine()?
        .prune_networks(|network| filter::keep(&filters, network))?;
    if !removed.is_empty() {
        output::line("Deleted Networks:")?;
        for name in removed {
            output::line(&name)?;
        }
        output::line("")?;
    }
    Ok(0)
}
