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

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, clone3, exit_now, install_fd, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::cgroup::{Group, Layout};
use crate::error::{BirthError, Step};
use crate::hooks::{self, HookPlan};
use crate::joiner::clone_through;
use crate::namespaces::{self, Namespaces, flags};
use crate::process::{self, Identity};
use crate::rootfs::{self, RootSource};
use crate::spec::{Mount, NamespaceKind, Process, Seccomp, Spec};
use crate::{attend, masks, mounts, path, seccomp, terminal, validate};

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// Descriptors that the process gets as they are.
    Plain([OwnedFd; 3]),
    /// A terminal made in the container; its master is handed to the parent.
    Terminal,
}

/// Work that the child does in the new namespaces, before it drops privileges.
///
/// It gets a descriptor of the namespace's own procfs, for kernel parameters.
pub type InsideWork<'a> = dyn FnMut(BorrowedFd<'_>) -> Result<(), String> + 'a;

/// Everything that a birth needs.
pub struct Plan<'a> {
    /// Configuration.
    pub spec: &'a Spec,
    /// Root file system.
    pub root: &'a RootSource,
    /// User as text, resolved in the container; absent means the ids of the configuration.
    pub user: Option<&'a str>,
    /// Control groups of the host.
    pub layout: &'a Layout,
    /// Group that the container lives in; limits are already set.
    pub group: Option<&'a Group>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Namespaces to join, opened by the caller.
    pub joined: Vec<(NamespaceKind, OwnedFd)>,
    /// Whether a small init is PID 1 and the program its child.
    pub init: bool,
    /// Work inside, such as the addresses of the container's interface.
    pub inside: &'a mut InsideWork<'a>,
    /// A FIFO, opened as a path or for both directions, that takes the place of the word:
    /// the child looks its program up before it says that all is prepared, then opens the
    /// FIFO for writing, which waits for a reader, and writes one byte "0". A failure after
    /// that is written to the FIFO as text; its end without a text means that the program
    /// runs. The parent may be gone by then.
    pub gate: Option<OwnedFd>,
    /// Hooks that are run during the birth, and what they are told.
    pub hooks: Option<HookPlan<'a>>,
    /// Number of descriptors from 3 on that stay open over the exec as they are: those that
    /// the caller was given. What is marked close-on-exec is closed there as well.
    pub keep_fds: u32,
    /// Whether the root is entered by chroot(2): for hosts whose root is a ramfs, which
    /// pivot_root(2) refuses. What lies under it can then be reached with `CAP_SYS_CHROOT`.
    pub no_pivot: bool,
}

/// A process that is being born.
#[derive(Debug)]
pub struct Birth {
    /// Process id.
    pub pid: i32,
    /// Handle of the process.
    pub pidfd: OwnedFd,
    channel: OwnedFd,
}

/// What a birth has to say.
#[derive(Debug)]
pub enum News {
    /// The master of the container's terminal.
    Terminal(OwnedFd),
    /// Something that was asked for and is not possible here.
    Warning(String),
    /// What the filter asks by (`SCMP_ACT_NOTIFY`); the child waits for
    /// [`Birth::deliver_listener`]. It comes after the word, or where there is a gate,
    /// before [`News::Prepared`].
    Listener(OwnedFd),
    /// Everything is prepared; the child waits for [`Birth::give_the_word`].
    Prepared,
    /// The program runs.
    Running,
    /// It failed, and the child has ended.
    Failed(BirthError),
}

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
            let birth = Birth {
                pid,
                pidfd,
                channel,
            };
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
            if let Some(error) = error {
                listener.hear(&error);
            }
            exit_now(1)
        }
    }
}

/// Who is told of a failure: the parent, or the one that has opened the gate.
struct Listener {
    channel: OwnedFd,
    gate: Option<OwnedFd>,
}

impl Listener {
    fn hear(&self, error: &BirthError) {
        match &self.gate {
            // If nobody listens any more there is nobody left to tell.
            Some(gate) => hear(gate, error),
            None => report(&self.channel, error),
        }
    }
}

/// Tells the one that has opened the gate of a failure.
pub(crate) fn hear(gate: &OwnedFd, error: &BirthError) {
    let _ = rustix::io::write(gate, error.chain().as_bytes());
}

fn channel() -> Result<(OwnedFd, OwnedFd), BirthError> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .step(|| "cannot make the channel to the container's process".into())
}

pub(crate) fn report(channel: &OwnedFd, error: &BirthError) {
    let mut message = vec![b'F', error.exit_code() as u8];
    message.extend_from_slice(error.chain().as_bytes());
    message.truncate(4096);
    // If the parent is gone there is nobody left to tell.
    let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
}

/// Says that all is prepared and waits for the parent's word.
pub(crate) fn wait_for_the_word(channel: &OwnedFd) -> Result<(), BirthError> {
    ask(channel, b'P')
}

/// Tells the parent where the child is, and waits until it may go on.
pub(crate) fn ask(channel: &OwnedFd, place: u8) -> Result<(), BirthError> {
    rustix::net::send(channel, &[place], SendFlags::NOSIGNAL)
        .step(|| "cannot reach the supervisor".into())?;
    let mut word = [0u8; 1];
    loop {
        match rustix::net::recv(channel, &mut word[..], RecvFlags::empty()) {
            Ok((1, _)) => return Ok(()),
            Ok(_) => exit_now(1),
            Err(Errno::INTR) => {}
            Err(_) => exit_now(1),
        }
    }
}

pub(crate) fn send_terminal(channel: &OwnedFd, master: BorrowedFd<'_>) -> Result<(), BirthError> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(
        channel,
        &[io::IoSlice::new(b"M")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .step(|| "cannot hand over the terminal".into())?;
    Ok(())
}

pub(crate) fn warn(channel: &OwnedFd, text: &str) {
    let mut message = vec![b'W'];
    message.extend_from_slice(text.as_bytes());
    let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
}

impl Birth {
    /// Wraps a child that speaks the same protocol: an exec, or one that was cloned by
    /// somebody else who has handed over the channel.
    #[must_use]
    pub fn new(pid: i32, pidfd: OwnedFd, channel: OwnedFd) -> Birth {
        Birth {
            pid,
            pidfd,
            channel,
        }
    }

    /// The channel is readable when there is news.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Ends the child and leaves nothing of it.
    pub(crate) fn abandon(self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    }

    pub(crate) fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// Lets the child go on to the program.
    ///
    /// # Errors
    /// [`BirthError::Step`] if the child is gone; its own report says more.
    pub fn give_the_word(&self) -> Result<(), BirthError> {
        rustix::net::send(&self.channel, b"G", SendFlags::NOSIGNAL)
            .step(|| "the container's process ended during its start".into())?;
        Ok(())
    }

    /// Sends the listener of [`News::Listener`] to the socket that the profile names, with
    /// the container's state in JSON, and lets the child go on.
    ///
    /// # Errors
    /// [`BirthError`] if nobody takes it; the child still waits, and is to be ended.
    pub fn deliver_listener(
        &self,
        listener: &OwnedFd,
        profile: &Seccomp,
        state: &str,
    ) -> Result<(), BirthError> {
        seccomp::send_listener(profile, listener.as_fd(), self.pid, state)?;
        // Not the word, which a successor of the parent may have given twice.
        rustix::net::send(&self.channel, b"L", SendFlags::NOSIGNAL)
            .step(|| "the container's process ended during its start".into())?;
        Ok(())
    }

    /// Waits for the next piece of news.
    pub fn news(&self) -> News {
        let mut buffer = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let mut parts = [io::IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(
                &self.channel,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(message) => break message.bytes,
                Err(Errno::INTR) => {}
                // A second word, from a successor, was still unread when the child's end
                // was closed. What the child has said comes after this error, or the end.
                Err(Errno::CONNRESET) => {}
                Err(errno) => {
                    return News::Failed(BirthError::Step {
                        step: "cannot read from the container's process".into(),
                        source: errno.into(),
                    });
                }
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match buffer[..length].split_first() {
            // The channel is close-on-exec: its end without a report is the exec.
            None => News::Running,
            Some((b'P', _)) => News::Prepared,
            Some((b'W', rest)) => News::Warning(text(rest)),
            Some((b'L', &[a, b, c, d])) => {
                let number = i32::from_le_bytes([a, b, c, d]);
                match seccomp::listener::take(self.pidfd.as_fd(), number, self.as_fd()) {
                    Ok(Some(listener)) => News::Listener(listener),
                    // There is none, and the child says why.
                    Ok(None) => self.news(),
                    Err(source) => News::Failed(BirthError::Step {
                        step: "cannot fetch the seccomp listener".into(),
                        source,
                    }),
                }
            }
            Some((b'M', _)) => {
                let master = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                match master {
                    Some(master) => News::Terminal(master),
                    None => News::Failed(BirthError::Invalid("the terminal got lost".into())),
                }
            }
            Some((_, rest)) => News::Failed(BirthError::reported(rest)),
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
            Stdio::Plain(fds) => fds,
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

/// Says that all is prepared and waits at the gate instead of for the word.
pub(crate) fn pass(
    channel: &OwnedFd,
    gate: OwnedFd,
    proc: BorrowedFd<'_>,
) -> Result<OwnedFd, BirthError> {
    rustix::net::send(channel, b"P", SendFlags::NOSIGNAL)
        .step(|| "cannot reach the supervisor".into())?;
    let failed = || "cannot wait for the start".to_owned();
    // By the number, as the FIFO lies outside of the root; in a procfs that is ours.
    let file = format!("self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&gate));
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = loop {
        match rustix::fs::openat(proc, &*file, flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            other => break other.step(failed)?,
        }
    };
    drop(gate);
    rustix::io::write(&opened, b"0").step(failed)?;
    Ok(opened)
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

/// A procfs of the new process's own namespaces that is attached nowhere, so that nothing
/// can be mounted over any part of it (CVE-2019-16884, CVE-2025-52881), and that the
/// read-only paths of the container do not touch.
///
/// In a user namespace the kernel may refuse it: then it is the one on /proc, where every
/// access makes sure that nothing is mounted over.
pub(crate) fn open_proc() -> Result<OwnedFd, BirthError> {
    match new_proc() {
        Err(Errno::PERM) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            path::open_host("/proc", flags).step(|| "cannot open /proc".into())
        }
        other => other.step(|| "cannot make a procfs".into()),
    }
}

fn new_proc() -> Result<OwnedFd, Errno> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
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

/// Mounts that the default set of a container has (runtime-spec, "Default Filesystems").
#[must_use]
pub fn default_mounts(shm_size: u64) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: kind.into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Mount::default()
    };
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &[
                "nosuid",
                "noexec",
                "nodev",
                "mode=1777",
                &format!("size={shm_size}"),
            ],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}
