//! The last steps before the program: what a container's first process and an exec share.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::exec::{Strings, execve};
use gantry_sys::process::{
    close_range_on_exec, exit_now, fork_behind_filter, install_fd, keep_capabilities, set_ids,
    set_user_and_group,
};
use gantry_sys::seccomp as filter;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, WaitOptions};
use rustix::thread::{CapabilitySet as KernelSet, CapabilitySets};

use crate::capabilities::CapabilitySet;
use crate::channel::{hear, pass, warn};
use crate::error::{BirthError, Step};
use crate::hooks::{self, HookPlan};
use crate::spec::{Capabilities, Linux, Process, Rlimit};
use crate::user::{self, Ids};
use crate::{label, path, schedule, seccomp, validate};

/// Where programs are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the parent works out beforehand, so that errors show before anything is made.
#[derive(Debug)]
pub struct Prepared {
    sets: Option<Sets>,
    /// Names that were given for capabilities and are none.
    unknown: BTreeSet<String>,
    filter: Option<seccomp::Program>,
}

impl Prepared {
    /// Warns of what is left out. Before the parent is told that all is prepared, after which
    /// it may be gone.
    pub(crate) fn warn(&self, channel: &OwnedFd) {
        if !self.unknown.is_empty() {
            let names: Vec<&str> = self.unknown.iter().map(String::as_str).collect();
            warn(
                channel,
                &format!("ignoring unknown capabilities: {}", names.join(", ")),
            );
        }
    }

    /// Whether the filter asks a listener, whose descriptor the parent must fetch.
    pub(crate) fn asks(&self) -> bool {
        self.filter.as_ref().is_some_and(|program| program.listener)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

/// Checks and compiles what does not depend on the container's insides.
///
/// # Errors
/// [`BirthError::Invalid`] naming what is wrong.
pub fn prepare(process: &Process, linux: Option<&Linux>) -> Result<Prepared, BirthError> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(BirthError::Invalid("no command specified".into()));
    }
    if !process.cwd.is_empty() && !process.cwd.starts_with('/') {
        return Err(BirthError::Invalid(format!(
            "invalid working directory {:?}: it must be an absolute path",
            process.cwd
        )));
    }
    let mut unknown = BTreeSet::new();
    let sets = process
        .capabilities
        .as_ref()
        .map(|names| sets(names, &mut unknown));
    let filter = match linux.and_then(|linux| linux.seccomp.as_ref()) {
        None => None,
        Some(profile) => Some(
            seccomp::compile(profile)
                .map_err(|error| BirthError::Invalid(format!("seccomp profile: {error}")))?,
        ),
    };
    Ok(Prepared {
        sets,
        unknown,
        filter,
    })
}

/// A configuration may be newer than this program, so that what it does not know is left out
/// (config.md, "Linux Process"; runc and crun warn as well).
fn sets(names: &Capabilities, unknown: &mut BTreeSet<String>) -> Sets {
    let mut set = |names: &[String]| {
        let (set, others) = CapabilitySet::known_of(names);
        unknown.extend(others);
        set
    };
    Sets {
        bounding: set(&names.bounding),
        effective: set(&names.effective),
        permitted: set(&names.permitted),
        inheritable: set(&names.inheritable),
        ambient: set(&names.ambient),
    }
}

/// Who a process is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Ids and home directory.
    pub ids: Ids,
    /// Whether a user other than root loses its capabilities, as in Docker; an OCI
    /// configuration says itself which ones stay.
    drop_for_others: bool,
}

impl Identity {
    /// By text, in the container's own files.
    ///
    /// # Errors
    /// [`BirthError::User`].
    pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<Identity, BirthError> {
        Ok(Identity {
            ids: user::resolve(root, text)?,
            drop_for_others: true,
        })
    }

    /// By the ids of a configuration. Where its environment names no home directory, that of
    /// the user's entry in the container is looked up, as runc does.
    #[must_use]
    pub fn from_spec(root: BorrowedFd<'_>, process: &Process) -> Identity {
        let user = &process.user;
        let home = if has_home(&process.env) {
            None
        } else {
            // An unusable passwd file matters to nobody who is given by number.
            user::resolve(root, &user.uid.to_string())
                .ok()
                .and_then(|ids| ids.home)
        };
        Identity {
            ids: Ids {
                uid: user.uid,
                gid: user.gid,
                groups: user.additional_gids.clone(),
                home,
            },
            drop_for_others: false,
        }
    }
}

fn has_home(environment: &[String]) -> bool {
    environment
        .iter()
        .any(|variable| variable.starts_with("HOME="))
}

/// Sets kernel parameters through the container's own procfs.
///
/// # Errors
/// [`BirthError`].
pub fn set_sysctls(
    proc: BorrowedFd<'_>,
    sysctls: &BTreeMap<String, String>,
) -> Result<(), BirthError> {
    for (name, value) in sysctls {
        let file = validate::sysctl_file(name)?;
        write_proc(proc, &format!("sys/{file}"), value)
            .step(|| format!("cannot set kernel parameter {name}"))?;
    }
    Ok(())
}

/// Sets `oom_score_adj` of a child, from outside of its user namespace.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn set_oom_score(pid: i32, score: i32) -> Result<(), BirthError> {
    let failed = || "cannot set process.oomScoreAdj".to_owned();
    let file = format!("/proc/{pid}/oom_score_adj");
    let file = path::open_host(&file, OFlags::WRONLY).step(failed)?;
    rustix::io::write(&file, score.to_string().as_bytes()).step(failed)?;
    Ok(())
}

/// Writes a file of procfs, and only of procfs.
pub(crate) fn write_proc(proc: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    // Something mounted over the file, or on the way to it, would swallow the value or lead it
    // elsewhere (CVE-2019-16884, CVE-2025-52881).
    let fd = path::open_on_same_mount(proc, file, OFlags::WRONLY | OFlags::NOFOLLOW)?;
    if rustix::fs::fstatfs(&fd)?.f_type != path::PROC_SUPER_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is not part of procfs",
        ));
    }
    let written = rustix::io::write(&fd, value.as_bytes())?;
    if written == value.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Opens the working directory inside the root.
///
/// # Errors
/// [`BirthError`]; a magic link such as `/proc/self/fd/7` leads outside of the container
/// and is refused (CVE-2024-21626).
pub fn working_directory(
    root: BorrowedFd<'_>,
    cwd: &str,
    make: bool,
) -> Result<OwnedFd, BirthError> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match path::open_in_root(root, cwd, flags) {
        Ok(directory) => Ok(directory),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Err(
            BirthError::Invalid(format!("working directory {cwd:?}: cwd outside container")),
        ),
        Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
            path::make_directory(root, cwd, 0o755)
                .step(|| format!("cannot make working directory {cwd:?}"))
        }
        Err(error) => Err(error).step(|| format!("cannot change to working directory {cwd:?}")),
    }
}

/// Keeps processes of the container from tracing this one, or opening its descriptors,
/// while it is still one of ours (CVE-2016-9962).
pub fn hide() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Everything that is left to do.
pub(crate) struct Finish<'a> {
    pub(crate) process: &'a Process,
    pub(crate) prepared: Prepared,
    pub(crate) identity: Identity,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) directory: OwnedFd,
    pub(crate) proc: OwnedFd,
    pub(crate) init: bool,
    pub(crate) linux: Option<&'a Linux>,
    /// Whether the process is in another user namespace than the one who asked for it.
    pub(crate) other_user: bool,
    /// Hooks that run in the container, just before the program.
    pub(crate) start_hooks: Option<HookPlan<'a>>,
    /// The gate, where it comes after the filter: a listener has to be fetched by the
    /// parent, which may be gone after the gate.
    pub(crate) late_gate: Option<OwnedFd>,
    pub(crate) keep_fds: u32,
}

impl Finish<'_> {
    /// Becomes the program; returns only on failure.
    pub(crate) fn execute(mut self, channel: &OwnedFd) -> BirthError {
        let mut passed = None;
        match self.run(channel, &mut passed) {
            Ok(never) => match never {},
            Err(error) => {
                if let Some(gate) = passed {
                    hear(&gate, &error);
                    exit_now(error.exit_code());
                }
                error
            }
        }
    }

    fn run(
        &mut self,
        channel: &OwnedFd,
        passed: &mut Option<OwnedFd>,
    ) -> Result<std::convert::Infallible, BirthError> {
        // In another user namespace the parent has done it.
        if let Some(score) = self.process.oom_score_adj
            && !self.other_user
        {
            write_proc(self.proc.as_fd(), "self/oom_score_adj", &score.to_string())
                .step(|| "cannot set oom_score_adj".into())?;
        }
        schedule::apply(self.process, self.linux)?;
        set_rlimits(&self.process.rlimits, channel)?;
        rustix::process::fchdir(&self.directory)
            .step(|| "cannot enter the working directory".into())?;
        check_cwd(&self.process.cwd)?;
        let sets = self.effective_sets();
        if let Some(sets) = &sets {
            drop_bounding(sets.bounding)?;
        }
        // What is opened from here on is close-on-exec from the beginning.
        close_range_on_exec(3 + self.keep_fds).step(|| "cannot mark descriptors".into())?;
        // Without no-new-privileges a filter needs CAP_SYS_ADMIN, so it goes first.
        if !self.process.no_new_privileges {
            self.install_filter(channel)?;
        }
        self.give_streams()?;
        self.become_user(sets, channel)?;
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true)
                .step(|| "cannot set no-new-privileges".into())?;
        }
        if let Some(gate) = self.late_gate.take() {
            self.install_filter(channel)?;
            *passed = Some(pass(channel, gate, self.proc.as_fd())?);
        }
        rustix::process::umask(Mode::from_raw_mode(
            self.process.user.umask.unwrap_or(0o022),
        ));
        let environment = self.environment();
        if let Some(plan) = self.start_hooks {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            let state = plan.state.json("created", Some(pid))?;
            hooks::run(&plan.hooks.start_container, &state)?;
        }
        // After the hooks, which must not get the program's label.
        label::set(self.proc.as_fd(), self.process)?;
        for (number, fd) in (0..).zip(&self.stdio) {
            install_fd(fd.as_fd(), number).step(|| "cannot install the standard streams".into())?;
        }
        // Otherwise as late as can be, for a filter may refuse anything. But before the init,
        // which a program could trace to get around the filter.
        self.install_filter(channel)?;
        if self.init {
            become_init()?;
        }
        gantry_sys::signal::reset_all();
        Err(execute(&self.process.args, &environment))
    }

    fn install_filter(&mut self, channel: &OwnedFd) -> Result<(), BirthError> {
        match self.prepared.filter.take() {
            None => Ok(()),
            Some(program) if program.listener => seccomp::listener::install(&program, channel),
            Some(program) => filter::install(&program.instructions, program.flags)
                .step(|| "cannot install the seccomp filter".into()),
        }
    }

    /// Pipes become the user's, so that /dev/stdout can be opened by it.
    fn give_streams(&self) -> Result<(), BirthError> {
        let ids = &self.identity.ids;
        if ids.uid == 0 {
            return Ok(());
        }
        for fd in &self.stdio {
            let stat =
                rustix::fs::fstat(fd).step(|| "cannot look at the standard streams".into())?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
                let uid = rustix::fs::Uid::from_raw(ids.uid);
                let gid = rustix::fs::Gid::from_raw(ids.gid);
                match rustix::fs::fchown(fd, Some(uid), Some(gid)) {
                    // Its owner is not of this user namespace; the parent has done it.
                    Err(_) if self.other_user => {}
                    other => other.step(|| "cannot give the standard streams away".into())?,
                }
            }
        }
        Ok(())
    }

    fn effective_sets(&self) -> Option<Sets> {
        let mut sets = self.prepared.sets?;
        // Root's capabilities are root's: another user has none until a program grants
        // them (CVE-2016-8867, CVE-2018-10856).
        if self.identity.drop_for_others && self.identity.ids.uid != 0 {
            sets.effective = CapabilitySet(0);
            sets.permitted = CapabilitySet(0);
            sets.ambient = CapabilitySet(0);
        }
        Some(sets)
    }

    fn become_user(&self, sets: Option<Sets>, channel: &OwnedFd) -> Result<(), BirthError> {
        let ids = &self.identity.ids;
        let failed = || format!("cannot become user {}:{}", ids.uid, ids.gid);
        keep_capabilities(true).step(failed)?;
        match set_ids(ids.uid, ids.gid, &ids.groups) {
            // A user namespace of an unprivileged user forbids to change groups.
            Err(error)
                if self.other_user
                    && ids.groups.is_empty()
                    && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                set_user_and_group(ids.uid, ids.gid)
            }
            other => other,
        }
        .step(failed)?;
        keep_capabilities(false).step(failed)?;
        let Some(sets) = sets else { return Ok(()) };
        let failed = || "cannot set capabilities".to_owned();
        let wanted = CapabilitySets {
            effective: kernel_set(sets.effective),
            permitted: kernel_set(sets.permitted),
            inheritable: kernel_set(sets.inheritable),
        };
        match rustix::thread::set_capabilities(None, wanted) {
            // A host that is restricted itself cannot give what it lacks, which is a
            // warning (config.md, "Linux Process").
            Err(Errno::PERM) => {
                let held = rustix::thread::capabilities(None).step(failed)?.permitted;
                warn(
                    channel,
                    &format!(
                        "this system has not all of the capabilities that are asked for: {}",
                        CapabilitySet((wanted.permitted - held).bits())
                            .names()
                            .join(", ")
                    ),
                );
                let granted = CapabilitySets {
                    effective: wanted.effective & held,
                    permitted: wanted.permitted & held,
                    inheritable: wanted.inheritable & held,
                };
                rustix::thread::set_capabilities(None, granted).step(failed)?;
            }
            other => other.step(failed)?,
        }
        rustix::thread::clear_ambient_capability_set().step(failed)?;
        // What is not inheritable too cannot be ambient. `runc spec` asks for just that, and
        // runc and crun leave it out.
        let held = rustix::thread::capabilities(None).step(failed)?;
        for capability in sets.ambient.iter() {
            let set = kernel_set(CapabilitySet(1 << capability.number()));
            if (held.permitted & held.inheritable).contains(set) {
                rustix::thread::configure_capability_in_ambient_set(set, true).step(failed)?;
            }
        }
        Ok(())
    }

    fn environment(&self) -> Vec<String> {
        let mut environment = self.process.env.clone();
        if !has_home(&environment) {
            let home = self
                .identity
                .ids
                .home
                .as_deref()
                .filter(|home| !home.is_empty());
            environment.push(format!("HOME={}", home.unwrap_or("/")));
        }
        environment
    }
}

fn kernel_set(set: CapabilitySet) -> KernelSet {
    KernelSet::from_bits_retain(set.0)
}

fn drop_bounding(keep: CapabilitySet) -> Result<(), BirthError> {
    let failed = || "cannot limit capabilities".to_owned();
    let supported = CapabilitySet::supported().step(failed)?;
    for capability in supported.difference(keep).iter() {
        let set = kernel_set(CapabilitySet(1 << capability.number()));
        rustix::thread::remove_capability_from_bounding_set(set).step(failed)?;
    }
    Ok(())
}

/// The kernel marks a directory that the root does not reach.
fn check_cwd(asked: &str) -> Result<(), BirthError> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(cwd) if cwd.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(BirthError::Invalid(format!(
            "working directory {asked:?}: cwd outside container"
        ))),
    }
}

fn set_rlimits(limits: &[Rlimit], channel: &OwnedFd) -> Result<(), BirthError> {
    for limit in limits {
        let resource = rlimit_number(&limit.kind).ok_or_else(|| {
            BirthError::Invalid(format!("unknown resource limit {:?}", limit.kind))
        })?;
        let failed = || format!("cannot set resource limit {}", limit.kind);
        match gantry_sys::rlimit::set(resource, limit.soft, limit.hard) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let (_, highest) = gantry_sys::rlimit::get(resource).step(failed)?;
                let hard = limit.hard.min(highest);
                gantry_sys::rlimit::set(resource, limit.soft.min(hard), hard).step(failed)?;
                warn(
                    channel,
                    &format!(
                        "{} was lowered to {hard}: this system allows no more",
                        limit.kind
                    ),
                );
            }
            other => other.step(failed)?,
        }
    }
    Ok(())
}

fn rlimit_number(name: &str) -> Option<u32> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let name = name.strip_prefix("RLIMIT_")?;
    NAMES
        .iter()
        .position(|&known| known == name)
        .map(|index| index as u32)
}

/// Splits off the program's process; the caller of the split stays PID 1 and does what
/// an init does: it reaps every orphan, passes signals on, and ends as the program ends.
fn become_init() -> Result<(), BirthError> {
    let failed = || "cannot start the init".to_owned();
    // SIGCHLD and everything that can be passed on; what cannot be blocked is left out.
    let signals: Vec<i32> = (1..=31)
        .filter(|signal| ![9, 11, 19].contains(signal))
        .collect();
    let queue = gantry_sys::signal::SignalFd::new(&signals).step(failed)?;
    let Some(child) = fork_behind_filter().step(failed)? else {
        let _ = rustix::process::setpgid(None, None);
        let foreground = rustix::process::getpgrp();
        // Only a process that ignores SIGTTOU may take the terminal from the background.
        gantry_sys::signal::ignore(22);
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), foreground);
        return Ok(());
    };
    let _ = rustix::thread::set_name(c"gantry-init");
    release_descriptors(&queue);
    loop {
        let mut poll = [rustix::event::PollFd::new(
            &queue,
            rustix::event::PollFlags::IN,
        )];
        let _ = rustix::event::poll(&mut poll, None);
        while let Ok(Some(signal)) = queue.read() {
            const SIGCHLD: i32 = 17;
            if signal == SIGCHLD {
                reap(child);
            } else if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                // The id stays the child's: this process ends when it reaps it.
                if let Some(child) = rustix::process::Pid::from_raw(child) {
                    let _ = rustix::process::kill_process(child, signal);
                }
            }
        }
    }
}

/// The init must not keep pipes open whose end somebody waits for.
fn release_descriptors(queue: &gantry_sys::signal::SignalFd) {
    use std::os::fd::AsRawFd;
    let queue = queue.as_fd().as_raw_fd();
    if let Ok(null) = path::open_host("/dev/null", OFlags::RDWR) {
        for number in 0..3 {
            let _ = install_fd(null.as_fd(), number);
        }
    }
    gantry_sys::process::close_all_except(3, queue);
}

fn reap(main: i32) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == main {
            let status = gantry_sys::process::WaitStatus::from_raw(status.as_raw());
            exit_now(status.shell_code());
        }
    }
}

fn execute(arguments: &[String], environment: &[String]) -> BirthError {
    let program = &arguments[0];
    let strings = |list: &[String]| -> Result<Strings, BirthError> {
        let list: Result<Vec<CString>, _> = list
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect();
        list.map(Strings::new).map_err(|_| {
            BirthError::Invalid("arguments and environment must not hold a NUL".into())
        })
    };
    let (argv, envp) = match (strings(arguments), strings(environment)) {
        (Ok(argv), Ok(envp)) => (argv, envp),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let candidates = candidates(program, environment);
    let mut denied = None;
    for candidate in candidates {
        let Ok(file) = CString::new(candidate.as_str()) else {
            continue;
        };
        let error = execve(&file, &argv, &envp);
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            // As a shell does: a later directory may hold one that can be executed.
            _ => denied = denied.or(Some((candidate, error))),
        }
    }
    not_executed(program, denied)
}

/// Looks the program up without executing it, as [`execute`] does: from the working directory
/// `directory`, in the root of the calling process.
///
/// # Errors
/// [`BirthError`]: that it is not there, or cannot be executed.
pub(crate) fn look_up(directory: BorrowedFd<'_>, process: &Process) -> Result<(), BirthError> {
    let program = &process.args[0];
    let mut denied = None;
    for candidate in candidates(program, &process.env) {
        let found = rustix::fs::statat(directory, &*candidate, AtFlags::empty()).and_then(|stat| {
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                rustix::fs::accessat(directory, &*candidate, Access::EXEC_OK, AtFlags::EACCESS)
            } else {
                Err(Errno::ACCESS)
            }
        });
        match found {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => denied = denied.or(Some((candidate, error.into()))),
        }
    }
    Err(not_executed(program, denied))
}

/// Paths at which the program may be.
fn candidates(program: &str, environment: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| {
            let directory = if directory.is_empty() { "." } else { directory };
            format!("{directory}/{program}")
        })
        .collect()
}

fn not_executed(program: &str, denied: Option<(String, io::Error)>) -> BirthError {
    match denied {
        Some((program, source)) => BirthError::NotExecutable { program, source },
        None if program.contains('/') => BirthError::NotFoundPath {
            program: program.to_owned(),
        },
        None => BirthError::NotFound {
            program: program.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_are_left_out_and_named_once() {
        let given = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let process = Process {
            args: vec!["true".into()],
            capabilities: Some(Capabilities {
                bounding: given(&["CAP_NOPE", "CAP_KILL"]),
                effective: given(&["CAP_NOPE", "CAP_KILL", "CAP_FUTURE"]),
                permitted: given(&["CAP_NOPE"]),
                ..Capabilities::default()
            }),
            ..Process::default()
        };
        let prepared = prepare(&process, None).unwrap();
        let unknown: Vec<&String> = prepared.unknown.iter().collect();
        assert_eq!(unknown, ["CAP_FUTURE", "CAP_NOPE"]);
        let sets = prepared.sets.unwrap();
        let kill = CapabilitySet::from_names(&["CAP_KILL"]).unwrap();
        assert_eq!((sets.bounding, sets.effective), (kill, kill));
        assert_eq!(sets.permitted, CapabilitySet::EMPTY);
    }
}
