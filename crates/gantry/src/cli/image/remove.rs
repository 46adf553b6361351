//! `rmi` and `image prune`.

use std::io::BufRead;

use clap::{ArgMatches, Command};

use super::super::flags::{is_on, list as list_flag, names, owned, switch, texts, with_help};
use super::super::{Context, complain};
use super::filter::Filter;
use crate::api::{ImageSummary, Removal};
use crate::error::{CliError, Outcome};
use crate::output;
use crate::table::decimal_size;

/// Arguments of `rmi`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .arg(switch("force", "Force removal of the image").short('f'))
        .arg(switch("no-prune", "Do not delete untagged parents"))
        .arg(list_flag(
            "platform",
            "strings",
            "Remove only the given platform variant: os[/arch[/variant]]",
        ))
        .arg(names("names", 1))
}

/// `rmi`: takes names off images, and removes those without a name. Images have no parents
/// here, so that there is none to keep with `--no-prune`.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn remove(context: &Context, matches: &ArgMatches) -> Outcome {
    let force = is_on(matches, "force")?;
    is_on(matches, "no-prune")?;
    // Several in one value or one in each.
    let platforms: Vec<String> = texts(matches, "platform")
        .flat_map(|words| words.split(','))
        .map(str::to_owned)
        .collect();
    let engine = context.engine()?;
    let mut code = 0;
    for name in owned(matches, "names") {
        let outcome = if platforms.is_empty() {
            engine.remove_image(&name, force)
        } else {
            engine.remove_image_platforms(&name, &platforms, force)
        };
        match outcome {
            Ok(removals) => {
                for removal in removals {
                    match removal {
                        Removal::Untagged(name) => output::line(&format!("Untagged: {name}"))?,
                        Removal::Deleted(id) => output::line(&format!("Deleted: {id}"))?,
                    }
                }
            }
            // With force, what is not there is what was wanted.
            Err(error) if force && error.is_no_such_image() => complain(context, error),
            Err(error) => {
                complain(context, error);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Arguments of `image prune`.
pub fn prune_arguments(command: Command) -> Command {
    with_help(command).args([
        switch("all", "Remove all unused images, not just dangling ones").short('a'),
        list_flag(
            "filter",
            "filter",
            "Provide filter values (e.g. \"until=<timestamp>\")",
        ),
        switch("force", "Do not prompt for confirmation").short('f'),
    ])
}

/// `image prune`: removes images that no container uses.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn prune(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut all = is_on(matches, "all")?;
    let mut filters = Vec::new();
    for given in texts(matches, "filter") {
        let refused = || {
            CliError::Conflict(format!(
                "invalid filter '{given}': use until, label, label! or dangling"
            ))
        };
        let key = given.split_once('=').map_or(given, |(key, _)| key);
        if !["until", "label", "label!", "dangling"].contains(&key.trim()) {
            return Err(refused());
        }
        match Filter::parse(given)? {
            Filter::Dangling(dangling) => all = !dangling,
            filter @ (Filter::Label(..) | Filter::NoLabel(..) | Filter::Until(_)) => {
                filters.push(filter);
            }
            _ => return Err(refused()),
        }
    }
    if !is_on(matches, "force")? {
        let what = if all {
            "images without at least one container associated to them"
        } else {
            "dangling images"
        };
        let question = format!(
            "WARNING! This will remove all {what}.\nAre you sure you want to continue? [y/N] "
        );
        if !confirmed(&question)? {
            return Ok(0);
        }
    }
    let allows = |image: &ImageSummary| filters.iter().all(|filter| filter.allows(image, true));
    let (removals, freed) = context.engine()?.prune_images(all, &allows)?;
    if !removals.is_empty() {
        output::line("Deleted Images:")?;
        for removal in removals {
            match removal {
                Removal::Untagged(name) => output::line(&format!("untagged: {name}"))?,
                Removal::Deleted(id) => output::line(&format!("deleted: {id}"))?,
            }
        }
        output::line("")?;
    }
    output::line(&format!(
        "Total reclaimed space: {}",
        decimal_size(freed, 4)
    ))?;
    Ok(0)
}

/// Asks on the terminal; only `y` is yes.
///
/// # Errors
/// [`CliError::System`].
pub fn confirmed(question: &str) -> Result<bool, CliError> {
    output::text(question)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|source| CliError::System {
            action: "cannot read the answer",
            source,
        })?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
