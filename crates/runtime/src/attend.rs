//! What a child needs its parent for on the way: the ids of its user namespace, the clocks of
//! its time namespace, network interfaces of the host, and the hooks of the runtime's side.
//!
//! A configuration that asks for none of it costs no message.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Gid, OFlags, Uid};
use rustix::net::RecvFlags;

use crate::channel::Birth;
use crate::error::{BirthError, Step};
use crate::hooks::{self, HookPlan};
use crate::namespaces::Namespaces;
use crate::plan::{Plan, Stdio};
use crate::spec::{Linux, Process, TimeOffset};
use crate::{id_map, net_devices, path, process, rdt};

/// The child says that its namespaces are there.
pub(crate) const NAMED: u8 = b'N';

/// The child says that everything is mounted, and that the old root is still there.
pub(crate) const MOUNTED: u8 = b'H';

/// Whether the child waits once its namespaces are there.
pub(crate) fn needs_names(plan: &Plan<'_>, kinds: Namespaces) -> bool {
    kinds.other_user
        || plan.spec.linux.as_ref().is_some_and(|linux| {
            !linux.time_offsets.is_empty()
                || !linux.net_devices.is_empty()
                || linux.intel_rdt.is_some()
        })
}

/// Whether the child waits once everything is mounted.
pub(crate) fn has_parents_hooks(plan: &HookPlan<'_>) -> bool {
    !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty()
}

/// Does the parent's part.
///
/// # Errors
/// [`BirthError`]; the child still waits, or has reported why it ended.
pub(crate) fn attend(birth: &Birth, plan: &Plan<'_>, kinds: Namespaces) -> Result<(), BirthError> {
    if needs_names(plan, kinds) {
        wait_for(birth, NAMED)?;
        give_names(birth, plan, kinds)?;
        birth.give_the_word()?;
    }
    if let Some(hook_plan) = plan.hooks.as_ref().filter(|plan| has_parents_hooks(plan)) {
        wait_for(birth, MOUNTED)?;
        let state = hook_plan.state.json("creating", Some(birth.pid))?;
        hooks::run(&hook_plan.hooks.prestart, &state)?;
        hooks::run(&hook_plan.hooks.create_runtime, &state)?;
        birth.give_the_word()?;
    }
    Ok(())
}

fn wait_for(birth: &Birth, place: u8) -> Result<(), BirthError> {
    let failed = || "the container's process ended during its start".to_owned();
    let mut buffer = [0u8; 4096];
    let length = loop {
        match rustix::net::recv(birth.channel(), &mut buffer[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.step(failed)?.0,
        }
    };
    match buffer[..length].split_first() {
        Some((&said, _)) if said == place => Ok(()),
        Some((b'F', rest)) => Err(BirthError::reported(rest)),
        _ => Err(BirthError::Invalid(failed())),
    }
}

fn give_names(birth: &Birth, plan: &Plan<'_>, kinds: Namespaces) -> Result<(), BirthError> {
    let no_linux = Linux::default();
    let linux = plan.spec.linux.as_ref().unwrap_or(&no_linux);
    if kinds.makes_user {
        id_map::write(birth.pid, &linux.uid_mappings, &linux.gid_mappings)?;
    }
    if kinds.other_user
        && let (None, Some(process)) = (plan.user, &plan.spec.process)
    {
        give_streams(birth.pid, &plan.stdio, process)?;
    }
    if kinds.other_user
        && let Some(score) = plan.spec.process.as_ref().and_then(|one| one.oom_score_adj)
    {
        process::set_oom_score(birth.pid, score)?;
    }
    if !linux.time_offsets.is_empty() {
        set_clocks(birth.pid, linux)?;
    }
    net_devices::move_all(birth.pid, &linux.net_devices)?;
    if let Some(asked) = &linux.intel_rdt {
        let id = plan.hooks.as_ref().map_or("", |plan| plan.state.id);
        rdt::join(asked, id, birth.pid)?;
    }
    Ok(())
}

/// Gives pipes to the user of a process in another user namespace: the ids are known in the
/// one of the caller only, to whom the pipes belong.
pub(crate) fn give_streams(pid: i32, streams: &Stdio, process: &Process) -> Result<(), BirthError> {
    let Stdio::Plain(streams) = streams else {
        return Ok(());
    };
    let (Some(uid), Some(gid)) = (
        id_map::outside(&id_map::read(pid, "uid_map"), process.user.uid),
        id_map::outside(&id_map::read(pid, "gid_map"), process.user.gid),
    ) else {
        return Ok(());
    };
    for stream in streams {
        let failed = || "cannot give the standard streams away".to_owned();
        let stat = rustix::fs::fstat(stream).step(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid {
            // One that is not the caller's stays what it is.
            let _ = rustix::fs::fchown(
                stream.as_fd(),
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            );
        }
    }
    Ok(())
}

/// Sets the clocks of a time namespace, which no process is in yet.
fn set_clocks(pid: i32, linux: &Linux) -> Result<(), BirthError> {
    use std::fmt::Write as _;
    let failed = || "cannot set linux.timeOffsets".to_owned();
    let file =
        path::open_host(&format!("/proc/{pid}/timens_offsets"), OFlags::WRONLY).step(failed)?;
    let mut text = String::new();
    for (clock, TimeOffset { secs, nanosecs }) in &linux.time_offsets {
        let _ = writeln!(text, "{clock} {secs} {nanosecs}");
    }
    rustix::io::write(&file, text.as_bytes()).step(failed)?;
    Ok(())
}
