//! `exec`.

use clap::{ArgMatches, Command};

use super::Context;
use super::flags::{command_line, is_on, list, owned, switch, text, value, with_help};
use super::options::{self, Surroundings};
use super::run::{console_size, follow, raw_mode, take_signals};
use crate::api::{AttachOptions, ExecRequest};
use crate::error::{CliError, Outcome};
use crate::session::Options;
use crate::terminal;

/// Arguments of `exec`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("detach", "Detached mode: run command in the background").short('d'),
            value(
                "detach-keys",
                "string",
                "Override the key sequence for detaching a container",
            ),
            list("env", "list", "Set environment variables").short('e'),
            list(
                "env-file",
                "list",
                "Read in a file of environment variables",
            ),
            switch("interactive", "Keep STDIN open even if not attached").short('i'),
            switch("privileged", "Give extended privileges to the command"),
            switch("tty", "Allocate a pseudo-TTY").short('t'),
            value(
                "user",
                "string",
                "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
            )
            .short('u'),
            value(
                "workdir",
                "string",
                "Working directory inside the container",
            )
            .short('w'),
        ])
        .arg(command_line("command", 2))
}

/// `exec`: runs a command in a running container.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut args = owned(matches, "command");
    let name = args.remove(0);
    let detach = is_on(matches, "detach")?;
    let interactive = is_on(matches, "interactive")? && !detach;
    let tty = is_on(matches, "tty")?;
    let detach_keys = options::detach_keys(matches)?;
    if tty && interactive && !terminal::is_terminal(rustix::stdio::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let surroundings = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        read: &options::read_bounded,
        directory: "/",
    };
    let own = |flag| text(matches, flag).unwrap_or_default().to_owned();
    let console_size = console_size(tty && !detach);
    let request = ExecRequest {
        args,
        env: options::environment(matches, &surroundings)?,
        working_dir: own("workdir"),
        user: own("user"),
        tty,
        open_stdin: interactive,
        privileged: is_on(matches, "privileged")?,
        console_size,
    };
    let attach = (!detach).then_some(AttachOptions {
        stdin: interactive,
        stdout: true,
        stderr: true,
        console_size,
    });
    let engine = context.engine()?;
    // Signals are not handed on to an exec: they end this client, as they always did.
    let signals = take_signals(false)?;
    let attachment = engine.exec(&name, request, attach).map_err(|error| {
        let code = match error.exit_code() {
            126 => 126,
            127 => 127,
            _ => 1,
        };
        CliError::from(error).with_code(code)
    })?;
    let Some(attachment) = attachment else {
        return Ok(0);
    };
    let guard = raw_mode(tty && interactive)?;
    let session = Options {
        stdin: interactive,
        terminal: tty,
        detach_keys,
        signal_proxy: false,
    };
    follow(engine, &name, attachment, &session, &signals, guard)
}
