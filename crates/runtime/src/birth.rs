//! The birth of a container: from a plan to the first process, sealed off from its parent.
//!
//! Only a small single-threaded process gives birth, and it runs from a read-only clone
//! of its own file (CVE-2019-5736). The story, in order:
//!
//! parent: open what lies on the host (root, bind sources, control group) → clone →
//! child: join the control group → mounts and devices in the root → enter the root →
//! terminal, masks → say that all is prepared, wait for the word → parent: attach the
//! network, record the container, give the word → child: inner network, user,
//! capabilities, filter → exec.
//!
//! Some configurations need the parent on the way ([`crate::attend`]): to map the ids of a
//! user namespace, to run hooks. A child whose parent dies before the word reads the end of
//! the pipe and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, clone3, exit_now, install_fd, unshare};
use rustix::fs::{Mode, OFlags};

use crate::cgroup::Group;
use crate::channel::{Listener, ask, channel, pass, send_terminal, wait_for_the_word};
use crate::error::{BirthError, Step};
use crate::joiner::clone_through;
use crate::namespaces::{self, Namespaces, flags};
use crate::proc::open_proc;
use crate::process::{self, Identity};
use crate::rootfs::{self, RootSource};
use crate::spec::{NamespaceKind, Process};
use crate::streams::use_own_null;
use crate::{attend, hooks, masks, mounts, terminal, validate};

pub use crate::channel::{Birth, News};
pub use crate::defaults::default_mounts;
pub use crate::plan::{InsideWork, Plan, Stdio};

/// Clones the child and returns at once, or once the parent's part in the set-up is done
/// (hooks, a user namespace); the rest is told by [`Birth::news`].
///
/// # Errors
/// [`BirthError`], after which nothing is left of the attempt.
pub fn begin(mut plan: Plan<'_>) -> Result<Birth, BirthError> {
    let linux = plan.spec.linux.as_ref();
    let process = plan
        .spec
        .process
        .as_ref()
        .ok_or_else(|| BirthError::Invalid("the configuration names no process".into()))?;
    validate::check(plan.spec, &plan.joined)?;
    let kinds = namespaces::sort(linux, &plan.joined);
    let root = rootfs::prepare(plan.root)?;
    let mounts = mounts::prepare(&plan, kinds)?;
    let join_files = match plan.group {
        Some(group) => group
            .join_files()
            .map_err(|error| BirthError::Invalid(error.to_string()))?,
        None => Vec::new(),
    };
    let prepared = process::prepare(process, linux)?;
    let (parent_end, child_end) = channel()?;
    let options = Clone3 {
        flags: kinds.cloned,
        cgroup: plan.group.and_then(Group::v2_directory),
    };
    let joined = std::mem::take(&mut plan.joined);
    let (side, channel) = if kinds.joiner {
        let join = || namespaces::join_all(&joined);
        clone_through((parent_end, child_end), options, join)?
    } else {
        match clone3(options).step(|| "cannot clone the container's process".into())? {
            Fork::Parent(child) => (Fork::Parent(child), parent_end),
            Fork::Child => {
                drop(parent_end);
                (Fork::Child, child_end)
            }
        }
    };
    match side {
        Fork::Parent(Child { pid, pidfd }) => {
            let birth = Birth::new(pid, pidfd, channel);
            match attend::attend(&birth, &plan, kinds) {
                Ok(()) => Ok(birth),
                Err(error) => {
                    birth.abandon();
                    Err(error)
                }
            }
        }
        Fork::Child => {
            let joined = if kinds.joiner { Vec::new() } else { joined };
            let body = Body {
                plan,
                kinds,
                joined,
                process,
                root,
                mounts,
                join_files,
                prepared,
            };
            let mut listener = Listener {
                channel,
                gate: None,
            };
            // Only a failure returns from there.
            let error = body.live(&mut listener).err();
            if let Some(error) = &error {
                listener.hear(error);
            }
            exit_now(error.map_or(1, |error| error.exit_code()))
        }
    }
}

/// The child's side.
struct Body<'a> {
    plan: Plan<'a>,
    kinds: Namespaces,
    joined: Vec<(NamespaceKind, OwnedFd)>,
    process: &'a Process,
    root: rootfs::PreparedRoot,
    mounts: mounts::PreparedMounts<'a>,
    join_files: Vec<OwnedFd>,
    prepared: process::Prepared,
}

impl Body<'_> {
    fn live(mut self, listener: &mut Listener) -> Result<(), BirthError> {
        let channel = &listener.channel;
        let spec = self.plan.spec;
        let linux = spec.linux.as_ref();
        let propagation = linux.map_or("", |linux| &linux.rootfs_propagation);
        // What the new process makes has exactly the modes that are given.
        rustix::process::umask(Mode::empty());
        rustix::process::setsid().step(|| "cannot make a session".into())?;
        join_group(&self.join_files)?;
        self.join_files.clear();
        namespaces::join_all(&self.joined)?;
        self.joined.clear();
        // With the caller's own ids, to which a path of the host is open.
        let place = match (self.plan.root, &self.plan.hooks) {
            (RootSource::Directory(directory), Some(_)) => directory.to_str().unwrap_or("/"),
            _ => "/",
        };
        let root = rootfs::attach_root(self.root, place, propagation)?;
        make_late_namespaces(self.kinds)?;
        if attend::needs_names(&self.plan, self.kinds) {
            ask(channel, attend::NAMED)?;
        }
        if self.kinds.makes_user {
            namespaces::become_root();
        }
        let proc = open_proc()?;
        if self.kinds.makes_time {
            enter_time(proc.as_fd())?;
        }
        // Before the first mount, which could already be led astray by such a link.
        if matches!(self.plan.root, RootSource::Overlay(_)) {
            rootfs::replace_links(root.as_fd())?;
        }
        mounts::make_all(root.as_fd(), self.mounts, linux, self.plan.layout)?;
        if let Some(plan) = &self.plan.hooks {
            if attend::has_parents_hooks(plan) {
                ask(channel, attend::MOUNTED)?;
            }
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            let state = plan.state.json("creating", Some(pid))?;
            hooks::run(&plan.hooks.create_container, &state)?;
        }
        rootfs::pivot(root.as_fd(), self.plan.no_pivot)?;
        set_names(&spec.hostname, &spec.domainname)?;
        if let Some(linux) = linux {
            process::set_sysctls(proc.as_fd(), &linux.sysctl)?;
        }
        let identity = match self.plan.user {
            Some(text) => Identity::resolve(root.as_fd(), text)?,
            None => Identity::from_spec(root.as_fd(), self.process),
        };
        let stdio = match self.plan.stdio {
            Stdio::Plain(fds) => use_own_null(root.as_fd(), proc.as_fd(), fds),
            Stdio::Terminal => {
                let terminal =
                    terminal::make(root.as_fd(), self.process.console_size, identity.ids.uid)?;
                send_terminal(channel, terminal.master.as_fd())?;
                terminal::mount_console(root.as_fd(), terminal.slave.as_fd())?;
                terminal::into_stdio(terminal.slave)?
            }
        };
        if let Some(linux) = linux {
            masks::make_read_only(root.as_fd(), &linux.readonly_paths)?;
            masks::mask(root.as_fd(), &linux.masked_paths)?;
        }
        let directory = process::working_directory(root.as_fd(), &self.process.cwd, true)?;
        rootfs::set_propagation(root.as_fd(), propagation)?;
        if spec.root.as_ref().is_some_and(|root| root.readonly) {
            read_only_root(root.as_fd())?;
        }
        drop(root);
        let mut late_gate = None;
        let is_gated = self.plan.gate.is_some();
        if is_gated {
            (self.plan.inside)(proc.as_fd()).map_err(BirthError::Invalid)?;
            // The wait may be long: who waits for the end of the caller's own streams must
            // not wait for that (containerd reads those of a `create` with a terminal).
            for (number, fd) in (0..).zip(&stdio) {
                install_fd(fd.as_fd(), number)
                    .step(|| "cannot install the standard streams".into())?;
            }
        }
        self.prepared.warn(channel);
        match self.plan.gate.take() {
            None => wait_for_the_word(channel)?,
            Some(gate) if self.prepared.asks() => {
                process::look_up(directory.as_fd(), self.process)?;
                late_gate = Some(gate);
            }
            Some(gate) => {
                process::look_up(directory.as_fd(), self.process)?;
                listener.gate = Some(pass(channel, gate, proc.as_fd())?);
            }
        }
        if !is_gated {
            (self.plan.inside)(proc.as_fd()).map_err(BirthError::Invalid)?;
        }
        let finish = process::Finish {
            process: self.process,
            prepared: self.prepared,
            identity,
            stdio,
            directory,
            proc,
            init: self.plan.init,
            linux,
            other_user: self.kinds.other_user,
            start_hooks: self.plan.hooks,
            late_gate,
            keep_fds: self.plan.keep_fds,
        };
        Err(finish.execute(&listener.channel))
    }
}

/// Makes the namespaces that the clone leaves out.
fn make_late_namespaces(kinds: Namespaces) -> Result<(), BirthError> {
    if kinds.makes_cgroup {
        unshare(flags::NEWCGROUP as i32).step(|| "cannot make a cgroup namespace".into())?;
    }
    if kinds.makes_time {
        // For the children at first, so that its clocks can still be set.
        unshare(flags::NEWTIME as i32).step(|| "cannot make a time namespace".into())?;
    }
    Ok(())
}

/// Enters the time namespace that is made; since Linux 6.1 the exec would do it too, but only
/// then.
fn enter_time(proc: BorrowedFd<'_>) -> Result<(), BirthError> {
    let failed = || "cannot enter the time namespace".to_owned();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace =
        rustix::fs::openat(proc, "self/ns/time_for_children", flags, Mode::empty()).step(failed)?;
    gantry_sys::process::setns(namespace.as_fd(), flags::NEWTIME as i32).step(failed)
}

/// Moves the calling process into its control groups.
///
/// Writing "0" to `tasks` as a single thread skips the kernel's global lock over thread
/// groups (since 5.18); a parent that writes the child's pid pays an RCU grace period.
pub(crate) fn join_group(files: &[OwnedFd]) -> Result<(), BirthError> {
    for file in files {
        rustix::io::write(file, b"0").step(|| "cannot join the control group".into())?;
    }
    Ok(())
}

fn set_names(hostname: &str, domainname: &str) -> Result<(), BirthError> {
    if !hostname.is_empty() {
        rustix::system::sethostname(hostname.as_bytes())
            .step(|| format!("cannot set the host name {hostname:?}"))?;
    }
    if !domainname.is_empty() {
        rustix::system::setdomainname(domainname.as_bytes())
            .step(|| format!("cannot set the domain name {domainname:?}"))?;
    }
    Ok(())
}

fn read_only_root(root: BorrowedFd<'_>) -> Result<(), BirthError> {
    use gantry_sys::mount::{Attributes, RDONLY, set_attributes};
    set_attributes(
        root,
        Attributes {
            set: RDONLY,
            ..Attributes::default()
        },
        false,
    )
    .step(|| "cannot make the root read-only".into())
}
