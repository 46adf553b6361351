//! `start` and `attach`.

use clap::{ArgMatches, Command};

use super::flags::{is_on, names, optional_switch, owned, switch, value, with_help};
use super::run::{console_size, follow, raw_mode, take_signals};
use super::{Context, complain, options};
use crate::api::AttachOptions;
use crate::error::{CliError, Outcome};
use crate::session::Options;
use crate::{output, terminal};

/// Arguments of `start`.
pub fn start_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
            switch("interactive", "Attach container's STDIN").short('i'),
            value(
                "detach-keys",
                "string",
                "Override the key sequence for detaching a container",
            ),
        ])
        .arg(names("names", 1))
}

/// `start`: starts containers, or one and stays with it.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn start(context: &Context, matches: &ArgMatches) -> Outcome {
    let names = owned(matches, "names");
    let interactive = is_on(matches, "interactive")?;
    let attach = is_on(matches, "attach")? || interactive;
    let detach_keys = options::detach_keys(matches)?;
    let engine = context.engine()?;
    if !attach {
        let mut code = 0;
        for name in &names {
            match engine.start(name, None) {
                Ok(_) => output::line(name)?,
                Err(error) => {
                    complain(context, error);
                    code = 1;
                }
            }
        }
        return Ok(code);
    }
    let [name] = names.as_slice() else {
        return Err(CliError::Failed(
            "you cannot start and attach multiple containers at once".to_owned(),
        ));
    };
    let signals = take_signals(true)?;
    let attach = AttachOptions {
        stdin: interactive,
        stdout: true,
        stderr: true,
        // Only the engine knows whether the container has a terminal; it ignores the size
        // when it has none.
        console_size: console_size(true),
    };
    let Some(attachment) = engine.start(name, Some(attach))? else {
        output::line(name)?;
        return Ok(0);
    };
    let tty = attachment.is_terminal();
    let guard = raw_mode(tty && interactive)?;
    let session = Options {
        stdin: interactive,
        terminal: tty,
        detach_keys,
        signal_proxy: !tty,
    };
    let id = attachment.id().to_owned();
    follow(engine, &id, attachment, &session, &signals, guard)
}

/// Arguments of `attach`.
pub fn attach_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value(
                "detach-keys",
                "string",
                "Override the key sequence for detaching a container",
            ),
            switch("no-stdin", "Do not attach STDIN"),
            switch(
                "sig-proxy",
                "Proxy all received signals to the process (default true)",
            ),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `attach`: joins a running container.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn attach(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let stdin = !is_on(matches, "no-stdin")?;
    let proxy = optional_switch(matches, "sig-proxy")?.unwrap_or(true);
    let detach_keys = options::detach_keys(matches)?;
    let engine = context.engine()?;
    let attachment = engine.attach(
        &name,
        AttachOptions {
            stdin,
            stdout: true,
            stderr: true,
            console_size: console_size(true),
        },
    )?;
    let tty = attachment.is_terminal();
    if tty && stdin && !terminal::is_terminal(rustix::stdio::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let signals = take_signals(proxy && !tty)?;
    let guard = raw_mode(tty && stdin)?;
    let session = Options {
        stdin,
        terminal: tty,
        detach_keys,
        signal_proxy: proxy && !tty,
    };
    let id = attachment.id().to_owned();
    follow(engine, &id, attachment, &session, &signals, guard)
}
