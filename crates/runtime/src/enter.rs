//! A further process in a running container: exec.
//!
//! A short-lived joiner enters the namespaces and clones the process ([`crate::joiner`]).
//! Both are out of the container's reach: not dumpable until the program's own exec
//! (CVE-2016-9962).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, exit_now};
use rustix::fs::Mode;

use crate::attend::give_streams;
use crate::birth::join_group;
use crate::cgroup::Group;
use crate::channel::{Birth, report, send_terminal, wait_for_the_word};
use crate::error::{BirthError, Step};
use crate::joiner::clone_through;
use crate::namespaces::{self, flags};
use crate::plan::Stdio;
use crate::proc::open_proc;
use crate::process::{self, Identity};
use crate::schedule::Affinity;
use crate::spec::{Linux, NamespaceKind, Process};
use crate::streams::use_own_null;
use crate::{rootfs, terminal, validate};

/// Everything that an exec needs.
pub struct EnterPlan<'a> {
    /// The process.
    pub process: &'a Process,
    /// Its filter, in `seccomp`, and the container's namespaces, by which a user or time
    /// namespace is found.
    pub linux: Option<&'a Linux>,
    /// User as text, resolved in the container; absent means the ids of the configuration.
    pub user: Option<&'a str>,
    /// Handle of the container's first process.
    pub container: BorrowedFd<'a>,
    /// The container's control group.
    pub group: Option<&'a Group>,
    /// Standard streams.
    pub stdio: Stdio,
    /// As [`crate::birth::Plan::keep_fds`].
    pub keep_fds: u32,
}

/// Clones the process and returns at once; the rest is told by [`Birth::news`].
///
/// # Errors
/// [`BirthError`], after which nothing is left of the attempt.
pub fn begin(plan: EnterPlan<'_>) -> Result<Birth, BirthError> {
    let no_linux = Linux::default();
    validate::check_process(plan.process, plan.linux.unwrap_or(&no_linux))?;
    let prepared = process::prepare(plan.process, plan.linux)?;
    let mut join_files = match plan.group {
        Some(group) => group
            .join_files()
            .map_err(|error| BirthError::Invalid(error.to_string()))?,
        None => Vec::new(),
    };
    let (parent_end, child_end) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .step(|| "cannot make the channel to the new process".into())?;
    let kinds = kinds(plan.linux);
    let affinity = match &plan.process.exec_cpu_affinity {
        None => Affinity::default(),
        Some(asked) => Affinity::parse(asked)?,
    };
    let mut options = Clone3 {
        flags: 0,
        cgroup: plan.group.and_then(Group::v2_directory),
    };
    // The initial processors hold until the group is joined, whose processors may be others.
    if affinity.has_initial()
        && let Some(group) = plan.group
    {
        options.cgroup = None;
        let late = group
            .v2_join_file()
            .map_err(|error| BirthError::Invalid(error.to_string()))?;
        join_files.extend(late);
    }
    let join = || {
        affinity.set_initial()?;
        join_group(&join_files)?;
        namespaces::join_container(plan.container, kinds)
    };
    let (side, channel) = clone_through((parent_end, child_end), options, join)?;
    match side {
        Fork::Parent(Child { pid, pidfd }) => {
            let birth = Birth::new(pid, pidfd, channel);
            if kinds & flags::NEWUSER == 0 {
                return Ok(birth);
            }
            match attend(&birth, &plan) {
                Ok(()) => Ok(birth),
                Err(error) => {
                    birth.abandon();
                    Err(error)
                }
            }
        }
        Fork::Child => {
            let error = affinity
                .set_last()
                .and_then(|()| live(plan, prepared, kinds & flags::NEWUSER != 0, &channel))
                .err();
            if let Some(error) = error {
                report(&channel, &error);
            }
            exit_now(1)
        }
    }
}

/// What only the parent may do for a process in another user namespace.
fn attend(birth: &Birth, plan: &EnterPlan<'_>) -> Result<(), BirthError> {
    if let Some(score) = plan.process.oom_score_adj {
        process::set_oom_score(birth.pid, score)?;
    }
    match plan.user {
        None => give_streams(birth.pid, &plan.stdio, plan.process),
        // Who that is turns out inside.
        Some(_) => Ok(()),
    }
}

/// The namespaces that are joined. A user or a time namespace is asked for only where the
/// container has one: the kernel refuses the joining of the own user namespace.
fn kinds(linux: Option<&Linux>) -> u64 {
    let always = flags::NEWNS
        | flags::NEWPID
        | flags::NEWNET
        | flags::NEWIPC
        | flags::NEWUTS
        | flags::NEWCGROUP;
    let listed = linux
        .iter()
        .flat_map(|linux| &linux.namespaces)
        .fold(0, |kinds, namespace| kinds | namespace.kind.flag());
    if listed & flags::NEWUSER != 0 {
        // What such a container shares with the host may not be joined from inside of its
        // user namespace, not even by whoever is in it already.
        return listed | flags::NEWNS;
    }
    always | listed & NamespaceKind::Time.flag()
}

fn live(
    plan: EnterPlan<'_>,
    prepared: process::Prepared,
    other_user: bool,
    channel: &OwnedFd,
) -> Result<(), BirthError> {
    rustix::process::umask(Mode::empty());
    rustix::process::setsid().step(|| "cannot make a session".into())?;
    let root = rootfs::open_root()?;
    let proc = open_proc()?;
    let identity = match plan.user {
        Some(text) => Identity::resolve(root.as_fd(), text)?,
        None => Identity::from_spec(root.as_fd(), plan.process),
    };
    let stdio = match plan.stdio {
        Stdio::Plain(fds) => use_own_null(root.as_fd(), proc.as_fd(), fds),
        Stdio::Terminal => {
            let terminal =
                terminal::make(root.as_fd(), plan.process.console_size, identity.ids.uid)?;
            send_terminal(channel, terminal.master.as_fd())?;
            terminal::into_stdio(terminal.slave)?
        }
    };
    let directory = process::working_directory(root.as_fd(), &plan.process.cwd, false)?;
    drop(root);
    prepared.warn(channel);
    wait_for_the_word(channel)?;
    let finish = process::Finish {
        process: plan.process,
        prepared,
        identity,
        stdio,
        directory,
        proc,
        init: false,
        linux: plan.linux,
        other_user,
        start_hooks: None,
        late_gate: None,
        keep_fds: plan.keep_fds,
    };
    Err(finish.execute(channel))
}
