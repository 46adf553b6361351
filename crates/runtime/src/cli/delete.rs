//! `delete`.

use std::os::fd::AsFd as _;
use std::time::Duration;

use gantry_runtime::cgroup::{self, Group, Layout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::arguments::Arguments;
use super::create::{hook_state, placement};
use super::error::{CliError, Context as _};
use super::options::Global;
use super::state::{self, Place, Record, Status};

/// How long killed processes are given to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// `delete`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut force = false;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "force" | "f" => force = flag.switch()?,
            _ => return Err(flag.unknown()),
        }
    }
    let id = words.id()?;
    words.end()?;
    delete(global, &id, force)
        .map_err(|error| error.during(format!("cannot delete container {id}")))
}

fn delete(global: &Global, id: &str, force: bool) -> Result<(), CliError> {
    let opened = Place::open(&global.root, id).and_then(|mut place| {
        place.lock()?;
        Ok(place)
    });
    let place = match opened {
        Err(CliError::NoContainer { .. }) if force => return Ok(()),
        other => other?,
    };
    let record = match place.record() {
        Ok(record) => record,
        // Killed before it had made anything else, or damaged: the configuration says where
        // its group was to be.
        Err(_) if force => {
            let record = Record {
                cgroup: place
                    .config()
                    .ok()
                    .and_then(|spec| placement(global, &Layout::detect().ok()?, &spec, id).ok()),
                ..Record::default()
            };
            return remove(&place, &record, state::group(&record)?.as_ref());
        }
        Err(error) => return Err(error),
    };
    let status = place.status(&record);
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        return Err(CliError::WrongState {
            action: "delete",
            id: id.to_owned(),
            status: status.name(),
            hint: ": container is not stopped; kill it first, or use --force",
        });
    }
    // The hooks are read before their file is removed.
    let hooks = if record.has_poststop {
        place.config().ok().and_then(|spec| spec.hooks)
    } else {
        None
    };
    let group = state::group(&record)?;
    remove(&place, &record, group.as_ref())?;
    if let Some(hooks) = hooks {
        let told = hook_state(&record).json("stopped", None);
        let result = told.and_then(|state| gantry_runtime::hooks::run(&hooks.poststop, &state));
        if let Err(error) = result {
            global.log.warning(&format!("poststop: {}", error.chain()));
        }
    }
    Ok(())
}

/// Ends what lives of a container and removes what is left: processes, group, directory.
/// The directory stays if the group cannot be removed, so that it can be tried again.
///
/// # Errors
/// [`CliError`].
pub fn remove(place: &Place, record: &Record, group: Option<&Group>) -> Result<(), CliError> {
    if let Some(process) = state::process(record) {
        // The group's kill reaches it as well, unless there is none.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        if let Some(group) = group {
            group.kill()?;
        }
        let patience = Timespec::try_from(PATIENCE).ok();
        let mut events = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let _ = poll(&mut events, patience.as_ref());
    } else if let Some(group) = group {
        group.kill()?;
    }
    match (group, &record.cgroup) {
        (Some(group), _) => {
            group.wait_until_empty(PATIENCE)?;
            group.remove()?;
        }
        // It may have come into being after it was looked for.
        (None, Some(placement)) => cgroup::remove_at(&Layout::detect()?, placement)?,
        (None, None) => {}
    }
    if record.has_rdt
        && let Some(asked) = place.config()?.linux.and_then(|linux| linux.intel_rdt)
    {
        gantry_runtime::rdt::remove(&asked, &record.id)
            .step("cannot remove the container's class of Intel RDT")?;
    }
    place.remove()
}
