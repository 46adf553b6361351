//! `run`: create, start, and in the foreground wait and delete.

use std::os::fd::AsFd as _;

use gantry_runtime::birth::News;

use super::arguments::Arguments;
use super::attend::{Attended, hold_signals};
use super::create::{Container, Gate, begin, deliver, hook_state};
use super::error::{CliError, Context as _};
use super::notify::Listener;
use super::options::{Create, Global};
use super::start::run_poststart;

/// `run`. Returns the exit code.
///
/// # Errors
/// [`CliError`], after which nothing is left of the container.
pub fn command(global: &Global, words: &mut Arguments) -> Result<u8, CliError> {
    let mut options = Create::new();
    while let Some(flag) = words.flag() {
        match flag.name() {
            "detach" | "d" => options.detach = flag.switch()?,
            "keep" => options.keep = flag.switch()?,
            _ => {
                if let Some(flag) = options.take(flag, words)? {
                    return Err(flag.unknown());
                }
            }
        }
    }
    let id = words.id()?;
    words.end()?;
    run(global, &options, &id).map_err(|error| error.during(format!("cannot run container {id}")))
}

fn run(global: &Global, options: &Create, id: &str) -> Result<u8, CliError> {
    // Before the birth: a signal that comes meanwhile is passed on after it.
    let signals = if options.detach {
        None
    } else {
        Some(hold_signals()?)
    };
    let mut container = begin(global, options, id, Gate::Word)?;
    if signals.is_some() && !options.no_subreaper && !container.record.own_pids {
        // Only there can a process outlive its parent and not its container.
        adopt_orphans()?;
    }
    let started = start(&mut container, global, options);
    let listener = container.undo_unless(started)?;
    container.place.unlock();
    let Some(signals) = signals else {
        if let Some(listener) = listener {
            listener.wait(container.birth.pidfd.as_fd(), container.record.pid)?;
        }
        return Ok(0);
    };
    let attended = Attended {
        process: container.birth.pidfd.as_fd(),
        pid: container.record.pid,
        signals,
        terminal: container.terminal.take(),
        listener,
    };
    let code = attended.wait()?;
    if !options.keep {
        finish(global, &mut container)?;
    }
    Ok(code)
}

fn adopt_orphans() -> Result<(), CliError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .step("cannot adopt the container's orphans")
}

fn start(
    container: &mut Container,
    global: &Global,
    options: &Create,
) -> Result<Option<Listener>, CliError> {
    container.until_prepared(global, options)?;
    let listener = Listener::bind(&container.place)?;
    container.place.commit_record()?;
    container.birth.give_the_word()?;
    loop {
        match container.birth.news() {
            News::Running => break,
            News::Warning(text) => global.log.warning(&text),
            News::Failed(error) => return Err(error.into()),
            News::Listener(listener) => {
                let linux = container.spec.linux.as_ref();
                let (birth, record) = (&container.birth, &container.record);
                deliver(birth, &listener, linux, record, "creating")?;
            }
            News::Terminal(_) | News::Prepared => {}
        }
    }
    run_poststart(global, &container.place, &container.record);
    Ok(listener)
}

/// Removes what is left of a container whose first process has ended.
fn finish(global: &Global, container: &mut Container) -> Result<(), CliError> {
    let Container {
        place,
        record,
        group,
        spec,
        ..
    } = container;
    match place.lock() {
        // Somebody else was faster.
        Err(CliError::NoContainer { .. }) => return Ok(()),
        other => other?,
    }
    let mut removed = false;
    if let Some(group) = group {
        // With a PID namespace of its own nothing of the container lives any more.
        removed = record.own_pids && !record.has_rdt && group.remove().is_ok();
    }
    if removed {
        place.remove()?;
    } else {
        super::delete::remove(place, record, group.as_ref())?;
    }
    if let Some(hooks) = spec
        .hooks
        .as_ref()
        .filter(|hooks| !hooks.poststop.is_empty())
    {
        let told = hook_state(record).json("stopped", None);
        let result = told.and_then(|state| gantry_runtime::hooks::run(&hooks.poststop, &state));
        if let Err(error) = result {
            global.log.warning(&format!("poststop: {}", error.chain()));
        }
    }
    Ok(())
}
