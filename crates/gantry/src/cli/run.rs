//! `run` and `create`.

use std::cell::Cell;
use std::io::Write as _;
use std::os::fd::AsFd;

use clap::{ArgMatches, Command};
use gantry_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags};

use super::Context;
use super::options::{self, PullPolicy, RunOptions, Surroundings};
use super::pull::{self, Verbosity};
use crate::api::config::NetworkMode;
use crate::api::{AttachOptions, Attachment, Engine, Error, HeadStart};
use crate::error::{CliError, ENGINE_FAILED, Outcome};
use crate::output;
use crate::session::{self, End, Local, Options};
use crate::terminal::{self, RawMode};

/// Arguments of `run`.
pub fn run_arguments(command: Command) -> Command {
    options::run_only(options::arguments(command))
}

/// Arguments of `create`.
pub fn create_arguments(command: Command) -> Command {
    options::arguments(command)
}

/// `create`: makes a container and prints its id.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn create(context: &Context, matches: &ArgMatches) -> Outcome {
    let options = read(matches, false)?;
    let work = || {
        let engine = context.engine()?;
        let id = make(engine, &options, None)?;
        output::line(&id)?;
        Ok(0)
    };
    work().map_err(with_engine_code)
}

/// `run`: makes a container, starts it and stays with it, or prints its id.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn run(context: &Context, matches: &ArgMatches) -> Outcome {
    let options = read(matches, true)?;
    let input = terminal::is_terminal(rustix::stdio::stdin());
    if options.config.tty && options.attach.stdin && !input {
        return Err(CliError::NotATerminal);
    }
    let work = || {
        let head_start = Cell::new(head_start(context, &options));
        let engine = context.engine()?;
        if options.detach {
            detached(engine, &options, &head_start)
        } else {
            attached(engine, &options, &head_start)
        }
    };
    work().map_err(with_engine_code)
}

/// What can begin before the installation is opened, if it is likely to be of use.
fn head_start(context: &Context, options: &RunOptions) -> Option<HeadStart> {
    let own_sandbox = !matches!(options.config.network, NetworkMode::Container(_));
    #[cfg(target_arch = "x86_64")]
    if !own_sandbox {
        // The one that was started before main has nothing to do.
        drop(gantry_sys::early::take_supervisor());
    }
    let soon = options.pull != PullPolicy::Always && options.cid_file.is_none();
    (own_sandbox && soon)
        .then(|| HeadStart::begin(&context.roots()))
        .flatten()
}

/// Reads the flags against this process's own surroundings.
fn read(matches: &ArgMatches, for_run: bool) -> Result<RunOptions, CliError> {
    let directory = std::env::current_dir()
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| "/".to_owned());
    let surroundings = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        read: &options::read_bounded,
        directory: &directory,
    };
    options::read(matches, for_run, &surroundings).map_err(|error| match error {
        error @ (CliError::Flag { .. } | CliError::Conflict(_)) => error,
        error => error.with_code(ENGINE_FAILED),
    })
}

/// Gives an error the exit code that `run` promises: 125, 126 or 127.
fn with_engine_code(error: CliError) -> CliError {
    let code = match &error {
        CliError::Engine(error) => u8::try_from(error.exit_code()).unwrap_or(ENGINE_FAILED),
        CliError::Exit(_) | CliError::Usage { .. } | CliError::Coded { .. } => return error,
        _ => ENGINE_FAILED,
    };
    error.with_code(code)
}

fn detached(
    engine: &Engine,
    options: &RunOptions,
    head_start: &Cell<Option<HeadStart>>,
) -> Outcome {
    let id = if options.cid_file.is_some() {
        let id = make(engine, options, None)?;
        engine.start(&id, None)?;
        id
    } else {
        let running = pulling(engine, options, None, || {
            engine.run(options.request(), None, head_start.take())
        })?;
        warn(&running.warnings);
        running.id
    };
    output::line(&id)?;
    Ok(0)
}

fn attached(
    engine: &Engine,
    options: &RunOptions,
    head_start: &Cell<Option<HeadStart>>,
) -> Outcome {
    let streams = options.attach;
    // Blocked before the container exists: a signal that comes while it starts is for it.
    let signals = take_signals(options.signal_proxy && !options.config.tty)?;
    let attach = || AttachOptions {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        console_size: console_size(options.config.tty),
    };
    let raw = || raw_mode(options.config.tty && streams.stdin);
    let (id, attachment, guard) = if options.cid_file.is_some() {
        let id = make(engine, options, Some(&signals))?;
        let guard = raw()?;
        (id.clone(), engine.start(&id, Some(attach()))?, guard)
    } else {
        let started = || -> Result<_, Error> {
            engine.run(options.request(), Some(attach()), head_start.take())
        };
        let running = pulling(engine, options, Some(&signals), started)?;
        warn(&running.warnings);
        (running.id, running.attachment, raw()?)
    };
    // Without any output the id is all that the caller can learn.
    if !streams.stdout && !streams.stderr {
        output::line(&id)?;
    }
    let Some(attachment) = attachment else {
        return Ok(exit_code(engine.wait(&id)?));
    };
    let session = Options {
        stdin: streams.stdin,
        terminal: options.config.tty,
        detach_keys: options.detach_keys.clone(),
        signal_proxy: options.signal_proxy && !options.config.tty,
    };
    follow(engine, &id, attachment, &session, &signals, guard)
}

/// Creates a container and writes its id where `--cidfile` says.
fn make(
    engine: &Engine,
    options: &RunOptions,
    signals: Option<&SignalFd>,
) -> Result<String, CliError> {
    let mut file = options.cid_file.as_deref().map(open_cid_file).transpose()?;
    let made = pulling(engine, options, signals, || {
        engine.create(options.request())
    });
    let created = match (made, &options.cid_file) {
        (Err(error), Some(path)) => {
            // An empty file would stop the next attempt.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        (made, _) => made?,
    };
    warn(&created.warnings);
    if let (Some(file), Some(path)) = (&mut file, &options.cid_file) {
        file.write_all(created.id.as_bytes())
            .map_err(|source| CliError::File {
                action: "cannot write",
                path: path.clone(),
                source,
            })?;
    }
    Ok(created.id)
}

fn open_cid_file(path: &str) -> Result<std::fs::File, CliError> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => CliError::Failed(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )),
            _ => CliError::File {
                action: "cannot create",
                path: path.to_owned(),
                source,
            },
        })
}

/// Does `work`, pulling the image as `--pull` says.
fn pulling<T>(
    engine: &Engine,
    options: &RunOptions,
    signals: Option<&SignalFd>,
    work: impl Fn() -> Result<T, Error>,
) -> Result<T, CliError> {
    let image = &options.config.image;
    let verbosity = if options.quiet {
        Verbosity::Quiet
    } else {
        Verbosity::Stderr
    };
    let fetch = || {
        let pull = || pull::fetch(engine, image, options.platform.as_deref(), verbosity);
        match signals {
            Some(signals) => interruptible(signals, pull),
            None => pull(),
        }
    };
    if options.pull == PullPolicy::Always {
        fetch()?;
    }
    match work() {
        Err(error) if error.is_no_such_image() && options.pull == PullPolicy::Missing => {
            if !options.quiet {
                output::note(&format!(
                    "Unable to find image '{}' locally",
                    pull::with_tag(image)
                ));
            }
            fetch()?;
            Ok(work()?)
        }
        outcome => Ok(outcome?),
    }
}

/// Does `work` while a blocked signal still ends the process: a pull takes minutes.
fn interruptible<T>(signals: &SignalFd, work: impl FnOnce() -> T) -> T {
    let Ok((reader, writer)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else {
        return work();
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let window = rustix::process::Signal::WINCH.as_raw();
            loop {
                let mut polled = [
                    PollFd::new(signals, PollFlags::IN),
                    PollFd::new(&reader, PollFlags::IN),
                ];
                if rustix::event::poll(&mut polled, None).is_err() {
                    continue;
                }
                if !polled[1].revents().is_empty() {
                    return;
                }
                if let Ok(Some(signal)) = signals.read()
                    && signal != window
                {
                    std::process::exit(128 + signal);
                }
            }
        });
        let outcome = work();
        drop(writer);
        outcome
    })
}

/// Blocks the signals of a session.
///
/// # Errors
/// [`CliError::System`].
pub fn take_signals(proxy: bool) -> Result<SignalFd, CliError> {
    SignalFd::new(session::signals(proxy)).map_err(|source| CliError::System {
        action: "cannot take over the signals",
        source,
    })
}

/// Size of the terminal that shows the container's, if it has one.
pub fn console_size(tty: bool) -> Option<(u16, u16)> {
    if !tty {
        return None;
    }
    terminal::size(rustix::stdio::stdout()).or_else(|| terminal::size(rustix::stdio::stdin()))
}

/// Raw mode for a session with a terminal of its own on the other side.
///
/// # Errors
/// [`CliError::System`].
pub fn raw_mode(wanted: bool) -> Result<Option<RawMode>, CliError> {
    let stdin = rustix::stdio::stdin();
    if !wanted || !terminal::is_terminal(stdin.as_fd()) {
        return Ok(None);
    }
    RawMode::enter(stdin)
        .map(Some)
        .map_err(|error| CliError::System {
            action: "cannot set the terminal to raw mode",
            source: error.into(),
        })
}

/// Runs an attached session to its end and turns that into an exit code.
///
/// # Errors
/// Those of the session and of the engine.
pub fn follow(
    engine: &Engine,
    id: &str,
    mut attachment: Attachment,
    options: &Options,
    signals: &SignalFd,
    guard: Option<RawMode>,
) -> Outcome {
    let end = session::run(&mut attachment, options, signals, Local::own());
    // Before anything is said: text in raw mode runs down the screen like stairs.
    drop(guard);
    match end? {
        End::Exited(code) => {
            attachment.finish(engine)?;
            Ok(exit_code(code))
        }
        End::Closed => Ok(exit_code(engine.wait(id)?)),
        End::Detached => {
            output::note("read escape sequence");
            Ok(0)
        }
        End::BrokenPipe => Ok(output::BROKEN_PIPE),
        End::Signalled(signal) => Ok(exit_code(128 + signal)),
    }
}

/// An exit code as the kernel hands it on: its low eight bits.
pub fn exit_code(code: i32) -> u8 {
    code.to_le_bytes()[0]
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::note(&format!("WARNING: {warning}"));
    }
}
