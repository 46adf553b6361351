//! `kill`, `pause` and `resume`.

use std::os::fd::AsFd as _;

use gantry_runtime::cgroup::Group;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::options::Global;
use super::signals;
use super::state::{self, Place, Record, Status};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// `kill`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut all = false;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "all" | "a" => all = flag.switch()?,
            _ => return Err(flag.unknown()),
        }
    }
    let id = words.id()?;
    let signal = match words.word() {
        Some(text) => signals::parse(&text)?,
        None => SIGTERM,
    };
    words.end()?;
    kill(global, &id, signal, all)
        .map_err(|error| error.during(format!("cannot kill container {id}")))
}

fn kill(global: &Global, id: &str, signal: i32, all: bool) -> Result<(), CliError> {
    let place = Place::open(&global.root, id)?;
    let record = place.record()?;
    let process = state::process(&record);
    // Where processes are shared with others, the first one's death leaves its children.
    let every_one = all || (signal == SIGKILL && !record.own_pids);
    if every_one && let Some(group) = state::group(&record)? {
        // What is left after the first process's end can be signalled, as runc has it.
        return signal_all(&group, signal);
    }
    let Some(process) = process else {
        return Err(CliError::NotRunning { id: id.to_owned() });
    };
    if signal == 0 {
        return Ok(());
    }
    match gantry_sys::signal::send(process.as_fd(), signal) {
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            return Err(CliError::NotRunning { id: id.to_owned() });
        }
        other => other.step("cannot send the signal")?,
    }
    // A frozen process of version 1 would die only when it is thawed.
    if signal == SIGKILL
        && let Ok(Some(group)) = state::group(&record)
        && group.is_frozen().unwrap_or(false)
    {
        group.thaw()?;
    }
    Ok(())
}

fn signal_all(group: &Group, signal: i32) -> Result<(), CliError> {
    if signal == SIGKILL {
        return Ok(group.kill()?);
    }
    if signal == 0 {
        return Ok(());
    }
    for pid in group.processes()? {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Between the list and the opening the id may have passed to a stranger.
        if group.processes()?.contains(&pid) {
            let _ = gantry_sys::signal::send(process.as_fd(), signal);
        }
    }
    Ok(())
}

/// `pause`.
///
/// # Errors
/// [`CliError`].
pub fn pause(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let id = only_id(words)?;
    freeze(global, &id, true).map_err(|error| error.during(format!("cannot pause container {id}")))
}

/// `resume`.
///
/// # Errors
/// [`CliError`].
pub fn resume(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let id = only_id(words)?;
    freeze(global, &id, false)
        .map_err(|error| error.during(format!("cannot resume container {id}")))
}

fn freeze(global: &Global, id: &str, freeze: bool) -> Result<(), CliError> {
    let mut place = Place::open(&global.root, id)?;
    place.lock()?;
    let record = place.record()?;
    let status = place.status(&record);
    let allowed = if freeze {
        matches!(status, Status::Running | Status::Created)
    } else {
        status == Status::Paused || is_frozen(&record)
    };
    if !allowed {
        return Err(CliError::WrongState {
            action: if freeze { "pause" } else { "resume" },
            id: id.to_owned(),
            status: status.name(),
            hint: if freeze {
                ": container not running or created"
            } else {
                ": container not paused"
            },
        });
    }
    let group = state::group(&record)?.ok_or_else(|| {
        CliError::Invalid(format!(
            "container {id} has no control group to be frozen in"
        ))
    })?;
    if freeze {
        group.freeze()?;
    } else {
        group.thaw()?;
    }
    Ok(())
}

/// A created container may be frozen as well, and stays `created` by name.
fn is_frozen(record: &Record) -> bool {
    let group = state::group(record).ok().flatten();
    group.is_some_and(|group| group.is_frozen().unwrap_or(false))
}

fn only_id(words: &mut Arguments) -> Result<String, CliError> {
    if let Some(flag) = words.flag() {
        return Err(flag.unknown());
    }
    let id = words.id()?;
    words.end()?;
    Ok(id)
}
