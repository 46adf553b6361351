//! Flags in the grammar of the Docker CLI, declared with clap.
//!
//! Values stay text here: the grammars of [`crate::parse`] read them, so that every
//! refusal has the same form.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::error::{CliError, flag_error};
use crate::parse::{ParseError, number};

/// A flag with a value; the last one given counts.
pub fn value(name: &'static str, kind: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(kind)
        .help(help)
        .action(ArgAction::Set)
        // The next argument is the value, whatever it looks like: `--memory-swap -1`.
        .allow_hyphen_values(true)
}

/// A flag with a value that may be given several times.
pub fn list(name: &'static str, kind: &'static str, help: &'static str) -> Arg {
    value(name, kind, help).action(ArgAction::Append)
}

/// A flag that is on or off: `--rm`, `--rm=false`.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("bool")
        .hide_possible_values(true)
        .help(help)
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
}

/// The flag that prints the help.
pub fn help() -> Arg {
    Arg::new("help")
        .long("help")
        .action(ArgAction::Help)
        .help("Print usage")
}

/// Adds what every command has: `--help`, and `-h` for those who are used to it.
pub fn with_help(command: Command) -> Command {
    command.arg(help().short('h'))
}

/// Adds `--help` alone: `run` and `create` need `-h` for the host's name.
pub fn with_long_help(command: Command) -> Command {
    command.arg(help())
}

/// Positional arguments, `least` of them at least.
pub fn names(id: &'static str, least: usize) -> Arg {
    Arg::new(id)
        .num_args(least..)
        .required(least > 0)
        .hide(true)
}

/// Positional arguments of which the first ends the flags: all behind it belongs to the
/// command in the container.
pub fn command_line(id: &'static str, least: usize) -> Arg {
    names(id, least).trailing_var_arg(true)
}

/// One value, if it was given.
pub fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

/// All values, in the order given.
pub fn texts<'a>(matches: &'a ArgMatches, name: &str) -> impl Iterator<Item = &'a str> {
    matches
        .get_many::<String>(name)
        .unwrap_or_default()
        .map(String::as_str)
}

/// Positional arguments as owned text.
pub fn owned(matches: &ArgMatches, name: &str) -> Vec<String> {
    texts(matches, name).map(str::to_owned).collect()
}

/// A switch's state; `None` when it was not given.
///
/// # Errors
/// [`CliError::Flag`].
pub fn optional_switch(matches: &ArgMatches, name: &'static str) -> Result<Option<bool>, CliError> {
    parsed(matches, name, number::boolean)
}

/// Whether a switch is on.
///
/// # Errors
/// [`CliError::Flag`].
pub fn is_on(matches: &ArgMatches, name: &'static str) -> Result<bool, CliError> {
    Ok(optional_switch(matches, name)?.unwrap_or(false))
}

/// A flag's value, read by `parse`.
///
/// # Errors
/// [`CliError::Flag`].
pub fn parsed<T>(
    matches: &ArgMatches,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, ParseError>,
) -> Result<Option<T>, CliError> {
    text(matches, name)
        .map(|value| parse(value).map_err(flag_error(name, value)))
        .transpose()
}

/// All values of a flag, read by `parse`.
///
/// # Errors
/// [`CliError::Flag`].
pub fn parsed_list<T>(
    matches: &ArgMatches,
    name: &'static str,
    mut parse: impl FnMut(&str) -> Result<T, ParseError>,
) -> Result<Vec<T>, CliError> {
    texts(matches, name)
        .map(|value| parse(value).map_err(flag_error(name, value)))
        .collect()
}
