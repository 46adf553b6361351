//! Verbs on containers that take several names: `stop`, `kill`, `rm` and `wait`.

use clap::{ArgMatches, Command};

use super::flags::{is_on, names, owned, parsed, switch, text, value, with_help};
use super::{Context, complain};
use crate::api::{Engine, Error};
use crate::error::Outcome;
use crate::output;
use crate::parse::number;

/// Arguments of `stop`.
pub fn stop_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value("signal", "string", "Signal to send to the container").short('s'),
            value(
                "timeout",
                "int",
                "Seconds to wait before killing the container",
            )
            .short('t')
            .alias("time"),
        ])
        .arg(names("names", 1))
}

/// `stop`: asks containers to end, and kills them after a while.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn stop(context: &Context, matches: &ArgMatches) -> Outcome {
    let signal = text(matches, "signal").filter(|signal| !signal.is_empty());
    let timeout = parsed(matches, "timeout", |seconds| {
        number::integer(seconds, -1, i64::from(i32::MAX))
    })?;
    each(context, matches, |engine, name| {
        engine.stop(name, signal, timeout).map(|()| name.to_owned())
    })
}

/// Arguments of `kill`.
pub fn kill_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value("signal", "string", "Signal to send to the container").short('s'))
        .arg(names("names", 1))
}

/// `kill`: sends a signal, SIGKILL unless another is named.
///
/// # Errors
/// Those of the engine.
pub fn kill(context: &Context, matches: &ArgMatches) -> Outcome {
    let signal = text(matches, "signal").filter(|signal| !signal.is_empty());
    each(context, matches, |engine, name| {
        engine
            .kill(name, signal.unwrap_or("SIGKILL"))
            .map(|()| name.to_owned())
    })
}

/// Arguments of `rm`.
pub fn remove_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch(
                "force",
                "Force the removal of a running container (uses SIGKILL)",
            )
            .short('f'),
            switch(
                "volumes",
                "Remove anonymous volumes associated with the container",
            )
            .short('v'),
        ])
        .arg(names("names", 1))
}

/// `rm`: removes containers.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn remove(context: &Context, matches: &ArgMatches) -> Outcome {
    let force = is_on(matches, "force")?;
    let volumes = is_on(matches, "volumes")?;
    let engine = context.engine()?;
    let mut code = 0;
    for name in owned(matches, "names") {
        let name = name.trim_start_matches('/');
        match engine.remove(name, force, volumes) {
            Ok(()) => output::line(name)?,
            Err(error) => {
                // What `rm -f` is to bring about is already so: said, but no failure.
                if !(force && matches!(error, Error::NoSuchContainer { .. })) {
                    code = 1;
                }
                complain(context, error);
            }
        }
    }
    Ok(code)
}

/// Arguments of `wait`.
pub fn wait_arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 1))
}

/// `wait`: waits for containers and prints their exit codes.
///
/// # Errors
/// Those of the engine.
pub fn wait(context: &Context, matches: &ArgMatches) -> Outcome {
    each(context, matches, |engine, name| {
        engine.wait(name).map(|code| code.to_string())
    })
}

/// Does `work` for each name, prints what it gives, and goes on after an error.
fn each(
    context: &Context,
    matches: &ArgMatches,
    work: impl Fn(&Engine, &str) -> Result<String, Error>,
) -> Outcome {
    let engine = context.engine()?;
    let mut code = 0;
    for name in owned(matches, "names") {
        match work(engine, &name) {
            Ok(line) => output::line(&line)?,
            Err(error) => {
                complain(context, error);
                code = 1;
            }
        }
    }
    Ok(code)
}
