//! `restore`.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use gantry_runtime::cgroup::{Group, Layout};
use gantry_runtime::spec::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{Pid, PidfdFlags};

use super::arguments::Arguments;
use super::attend::{Attended, hold_signals};
use super::create::{Bundle, join_keyring, make_group, new_record, read_bundle, write_pid_file};
use super::criu::{self, DESCRIPTORS, NETWORK, Options, check, joined_network};
use super::error::{CliError, Context as _};
use super::options::{Create, Global};
use super::state::{self, CONFIG, Place, Record};

/// `CLONE_NEWNS`.
const NEW_MOUNTS: i32 = 0x2_0000;

/// `restore`. Returns the exit code.
///
/// # Errors
/// [`CliError`], after which nothing is left of the container.
pub fn command(global: &Global, words: &mut Arguments) -> Result<u8, CliError> {
    let mut options = Options::new()?;
    let mut create = Create::new();
    while let Some(flag) = words.flag() {
        if matches!(flag.name(), "detach" | "d") {
            create.detach = flag.switch()?;
            continue;
        }
        let Some(flag) = options.take(flag, words)? else {
            continue;
        };
        if let Some(flag) = create.take(flag, words)? {
            return Err(flag.unknown());
        }
    }
    let id = words.id()?;
    words.end()?;
    bring_back(global, &options, &create, &id)
        .map_err(|error| error.during(format!("cannot restore container {id}")))
}

fn bring_back(
    global: &Global,
    options: &Options,
    create: &Create,
    id: &str,
) -> Result<u8, CliError> {
    let Bundle {
        path,
        rootfs,
        text,
        spec,
    } = read_bundle(&create.bundle)?;
    check(&spec)?;
    let signals = if create.detach {
        None
    } else {
        Some(hold_signals()?)
    };
    let layout = Layout::detect()?;
    let mut record = new_record(global, &layout, &spec, (path, rootfs), id)?;
    let mut place = Place::make(&global.root, id)?;
    let restored = restore_in(
        global,
        options,
        create,
        &place,
        &layout,
        &spec,
        &text,
        &mut record,
    );
    let (group, process) = match restored {
        Ok(restored) => restored,
        Err(error) => {
            // Whatever criu has brought to life by then is in the group.
            let group = state::group(&record).ok().flatten();
            let _ = super::delete::remove(&place, &record, group.as_ref());
            return Err(error);
        }
    };
    place.unlock();
    let Some(signals) = signals else {
        return Ok(0);
    };
    let code = Attended {
        process: process.as_fd(),
        pid: record.pid,
        signals,
        terminal: None,
        listener: None,
    }
    .wait()?;
    place.lock()?;
    super::delete::remove(&place, &record, group.as_ref())?;
    Ok(code)
}

#[expect(clippy::too_many_arguments, reason = "one step of the only caller")]
fn restore_in(
    global: &Global,
    options: &Options,
    create: &Create,
    place: &Place,
    layout: &Layout,
    spec: &Spec,
    text: &[u8],
    record: &mut Record,
) -> Result<(Option<Group>, OwnedFd), CliError> {
    place.write(CONFIG, text)?;
    place.write_record(record)?;
    let group = make_group(global, layout, spec, record)?;
    if !create.no_new_keyring {
        join_keyring(&record.id)?;
    }
    let work = options.work(place);
    fs::create_dir_all(&work).file("create", &work)?;
    // criu wants the root to be a mount; here it is one that only we and criu see.
    gantry_sys::process::unshare(NEW_MOUNTS).step("cannot make a mount namespace")?;
    let apart = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", apart).step("cannot keep mounts from the host")?;
    mount_bind_recursive(&record.rootfs, &record.rootfs).file("mount", &record.rootfs)?;

    let mut command = criu::command(global, "restore", options, &work);
    let pid_file = work.join("restored.pid");
    let _ = rustix::fs::unlinkat(CWD, &pid_file, rustix::fs::AtFlags::empty());
    command
        .arg("--root")
        .arg(&record.rootfs)
        .args(["--restore-detached", "--restore-sibling", "--pidfile"])
        .arg(&pid_file);
    if let Some(placement) = &record.cgroup {
        command
            .arg("--cgroup-root")
            .arg(format!("/{}", placement.path));
    }
    let network = joined_network(spec).map(open_kept).transpose()?;
    if let Some(network) = &network {
        command
            .arg("--inherit-fd")
            .arg(format!("fd[{}]:{NETWORK}", network.as_raw_fd()));
    }
    for mount in spec.mounts.iter().filter(|mount| mount.is_bind()) {
        let (destination, source) = (&mount.destination, &mount.source);
        command
            .arg("--external")
            .arg(format!("mnt[{destination}]:{source}"));
    }
    for (number, target) in streams(&options.images).iter().enumerate() {
        if target.starts_with("pipe:") || target.starts_with("file[") {
            command
                .arg("--inherit-fd")
                .arg(format!("fd[{number}]:{target}"));
        }
    }
    command.stdin(Stdio::inherit());
    criu::finish(command, "restore", &work)?;
    let text = fs::read_to_string(&pid_file).file("read", &pid_file)?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            CliError::Invalid(format!(
                "criu has written no process id to {}",
                pid_file.display()
            ))
        })?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .step("cannot open the restored process")?;
    record.pid = pid.as_raw_nonzero().get();
    record.start_time = state::start_time(record.pid).unwrap_or_default();
    place.write_record(record)?;
    if let Some(path) = &create.pid_file {
        write_pid_file(path, record.pid)?;
    }
    Ok((group, process))
}

/// Opens a file for criu, which finds it by its number.
fn open_kept(path: &str) -> Result<OwnedFd, CliError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty()).file("open", path)
}

/// What the streams of the container led to when it was written.
fn streams(images: &Path) -> Vec<String> {
    fs::read(images.join(DESCRIPTORS))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}
