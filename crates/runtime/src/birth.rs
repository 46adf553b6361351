//! The birth of a container: from a plan to the first process, sealed off from its parent.
//!
//! Only a small single-threaded process gives birth, and it runs from a read-only clone
//! of its own file (CVE-2019-5736). The story, in order:
//!
//! parent: open what lies on the host (root, bind sources, control group) → clone →
//! child: join the control group → enter the root → mounts, devices, masks → terminal →
//! say that all is prepared, wait for the word → parent: attach the network, record the
//! container, give the word → child: inner network, user, capabilities, filter → exec.
//!
//! A child whose parent dies before the word reads the end of the pipe and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, clone3, exit_now, unshare};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::cgroup::{Group, Layout};
use crate::error::{BirthError, Step};
use crate::mounts;
use crate::process::{self, Identity};
use crate::rootfs::{self, RootSource};
use crate::spec::{Linux, Mount, NamespaceKind, Process, Spec};
use crate::terminal;

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
    /// Everything is prepared; the child waits for [`Birth::give_the_word`].
    Prepared,
    /// The program runs.
    Running,
    /// It failed, and the child has ended.
    Failed(BirthError),
}

/// Clones the child and returns at once; the rest is told by [`Birth::news`].
///
/// # Errors
/// [`BirthError`], after which nothing is left of the attempt.
pub fn begin(plan: Plan<'_>) -> Result<Birth, BirthError> {
    let linux = plan.spec.linux.as_ref();
    let process = plan
        .spec
        .process
        .as_ref()
        .ok_or_else(|| BirthError::Invalid("the configuration names no process".into()))?;
    let root = rootfs::prepare(plan.root)?;
    let mounts = mounts::prepare(&plan.spec.mounts)?;
    let join_files = match plan.group {
        Some(group) => group
            .join_files()
            .map_err(|error| BirthError::Invalid(error.to_string()))?,
        None => Vec::new(),
    };
    let prepared = process::prepare(process, linux)?;
    let (parent_end, child_end) = channel()?;
    let flags = namespace_flags(linux);
    let options = Clone3 {
        flags,
        cgroup: plan.group.and_then(Group::v2_directory),
    };
    match clone3(options).step(|| "cannot clone the container's process".into())? {
        Fork::Parent(Child { pid, pidfd }) => Ok(Birth {
            pid,
            pidfd,
            channel: parent_end,
        }),
        Fork::Child => {
            drop(parent_end);
            let channel = child_end;
            let body = Body {
                plan,
                process,
                root,
                mounts,
                join_files,
                prepared,
            };
            // Only a failure returns from there.
            let error = body.live(&channel).err();
            if let Some(error) = error {
                report(&channel, &error);
            }
            exit_now(1)
        }
    }
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
    rustix::net::send(channel, b"P", SendFlags::NOSIGNAL)
        .step(|| "cannot reach the supervisor".into())?;
    let mut word = [0u8; 1];
    loop {
        match rustix::net::recv(channel, &mut word[..], RecvFlags::empty()) {
            Ok((1, _)) => return Ok(()),
            Ok(_) => exit_now(1),
            Err(rustix::io::Errno::INTR) => {}
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

    /// Lets the child go on to the program.
    ///
    /// # Errors
    /// [`BirthError::Step`] if the child is gone; its own report says more.
    pub fn give_the_word(&self) -> Result<(), BirthError> {
        rustix::net::send(&self.channel, b"G", SendFlags::NOSIGNAL)
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
                Err(rustix::io::Errno::INTR) => {}
                // A second word, from a successor, was still unread when the child's end
                // was closed. What the child has said comes after this error, or the end.
                Err(rustix::io::Errno::CONNRESET) => {}
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
            Some((_, rest)) => {
                let (code, message) = rest
                    .split_first()
                    .map_or((125, ""[..].as_bytes()), |(code, rest)| {
                        (i32::from(*code), rest)
                    });
                News::Failed(BirthError::Reported {
                    code,
                    message: text(message),
                })
            }
        }
    }
}

/// Namespaces that the clone itself makes. The cgroup namespace comes later, in the
/// child: its root is the group that the process is in at that moment.
fn namespace_flags(linux: Option<&Linux>) -> u64 {
    let mut flags = libc_flags::NEWNS;
    for namespace in linux.iter().flat_map(|linux| &linux.namespaces) {
        if namespace.path.is_none() {
            flags |= match namespace.kind {
                NamespaceKind::Pid => libc_flags::NEWPID,
                NamespaceKind::Network => libc_flags::NEWNET,
                NamespaceKind::Ipc => libc_flags::NEWIPC,
                NamespaceKind::Uts => libc_flags::NEWUTS,
                NamespaceKind::Mount => libc_flags::NEWNS,
                NamespaceKind::User | NamespaceKind::Cgroup | NamespaceKind::Time => 0,
            };
        }
    }
    flags
}

/// The kernel's numbers (`include/uapi/linux/sched.h`).
pub(crate) mod libc_flags {
    pub(crate) const NEWNS: u64 = 0x2_0000;
    pub(crate) const NEWCGROUP: u64 = 0x200_0000;
    pub(crate) const NEWUTS: u64 = 0x400_0000;
    pub(crate) const NEWIPC: u64 = 0x800_0000;
    pub(crate) const NEWPID: u64 = 0x2000_0000;
    pub(crate) const NEWNET: u64 = 0x4000_0000;
    pub(crate) const PARENT: u64 = 0x8000;
}

/// The child's side.
struct Body<'a> {
    plan: Plan<'a>,
    process: &'a Process,
    root: rootfs::PreparedRoot,
    mounts: Vec<mounts::PreparedMount<'a>>,
    join_files: Vec<OwnedFd>,
    prepared: process::Prepared,
}

impl Body<'_> {
    fn live(mut self, channel: &OwnedFd) -> Result<(), BirthError> {
        let spec = self.plan.spec;
        let linux = spec.linux.as_ref();
        // What the new process makes has exactly the modes that are given.
        rustix::process::umask(Mode::empty());
        rustix::process::setsid().step(|| "cannot make a session".into())?;
        join_group(&self.join_files)?;
        self.join_files.clear();
        for (kind, namespace) in self.plan.joined.drain(..) {
            gantry_sys::process::setns(namespace.as_fd(), 0)
                .step(|| format!("cannot join the {kind:?} namespace"))?;
        }
        if makes(linux, NamespaceKind::Cgroup) {
            unshare(libc_flags::NEWCGROUP as i32)
                .step(|| "cannot make a cgroup namespace".into())?;
        }
        rootfs::enter(
            self.root,
            linux.map_or("", |linux| &linux.rootfs_propagation),
        )?;
        let root = rootfs::open_root()?;
        // Before the first mount, which could already be led astray by such a link.
        if matches!(self.plan.root, RootSource::Overlay(_)) {
            rootfs::replace_links(root.as_fd())?;
        }
        let no_devices = Vec::new();
        let devices = linux.map_or(&no_devices, |linux| &linux.devices);
        mounts::make_all(root.as_fd(), self.mounts, devices, self.plan.layout)?;
        if makes(linux, NamespaceKind::Uts) {
            set_names(&spec.hostname, &spec.domainname)?;
        }
        let proc = open_proc()?;
        if let Some(linux) = linux {
            process::set_sysctls(proc.as_fd(), &linux.sysctl)?;
        }
        let identity = match self.plan.user {
            Some(text) => Identity::resolve(root.as_fd(), text)?,
            None => Identity::from_spec(&self.process.user),
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
            mounts::make_read_only(root.as_fd(), &linux.readonly_paths)?;
            mounts::mask(root.as_fd(), &linux.masked_paths)?;
        }
        let directory = process::working_directory(root.as_fd(), &self.process.cwd, true)?;
        if spec.root.as_ref().is_some_and(|root| root.readonly) {
            read_only_root(root.as_fd())?;
        }
        drop(root);
        wait_for_the_word(channel)?;
        (self.plan.inside)(proc.as_fd()).map_err(BirthError::Invalid)?;
        let finish = process::Finish {
            process: self.process,
            prepared: self.prepared,
            identity,
            stdio,
            directory,
            proc,
            init: self.plan.init,
        };
        Err(finish.execute(channel))
    }
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

fn makes(linux: Option<&Linux>, kind: NamespaceKind) -> bool {
    linux.is_some_and(|linux| {
        linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == kind && namespace.path.is_none())
    })
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
fn open_proc() -> Result<OwnedFd, BirthError> {
    let failed = || "cannot make a procfs".to_owned();
    let context =
        rustix::mount::fsopen("proc", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).step(failed)?;
    rustix::mount::fsconfig_create(context.as_fd()).step(failed)?;
    rustix::mount::fsmount(
        context.as_fd(),
        rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC,
        rustix::mount::MountAttrFlags::empty(),
    )
    .step(failed)
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
