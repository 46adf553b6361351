//! The namespaces of a container: which are made and which are joined.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::setns;
use rustix::fs::OFlags;

use crate::error::{BirthError, Step};
use crate::path;
use crate::spec::{Linux, NamespaceKind};

/// Opens the namespaces that a configuration names by path.
///
/// # Errors
/// [`BirthError::Step`] where a path leads nowhere or to no namespace;
/// [`BirthError::Invalid`] where it leads to a namespace of another type.
pub fn open_joined(linux: &Linux) -> Result<Vec<(NamespaceKind, OwnedFd)>, BirthError> {
    let mut joined = Vec::new();
    for namespace in &linux.namespaces {
        let Some(path) = namespace.path.as_deref().filter(|path| !path.is_empty()) else {
            continue;
        };
        let kind = namespace.kind;
        // Never waits, should the path be that of a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = path::open_host(path, flags)
            .step(|| format!("cannot open the {} namespace {path}", kind.name()))?;
        let found = gantry_sys::process::namespace_type(fd.as_fd())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
            .step(|| {
                format!(
                    "linux.namespaces: {path}, given as {} namespace, is no namespace",
                    kind.name()
                )
            })?;
        if found != kind.flag() as i32 {
            return Err(BirthError::Invalid(format!(
                "linux.namespaces: {path} is not a {} namespace",
                kind.name()
            )));
        }
        joined.push((kind, fd));
    }
    Ok(joined)
}

/// The kernel's numbers (`include/uapi/linux/sched.h`).
pub(crate) mod flags {
    pub(crate) const NEWTIME: u64 = 0x80;
    pub(crate) const NEWNS: u64 = 0x2_0000;
    pub(crate) const NEWCGROUP: u64 = 0x200_0000;
    pub(crate) const NEWUTS: u64 = 0x400_0000;
    pub(crate) const NEWIPC: u64 = 0x800_0000;
    pub(crate) const NEWUSER: u64 = 0x1000_0000;
    pub(crate) const NEWPID: u64 = 0x2000_0000;
    pub(crate) const NEWNET: u64 = 0x4000_0000;
    pub(crate) const PARENT: u64 = 0x8000;
}

impl NamespaceKind {
    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NamespaceKind::Pid => "pid",
            NamespaceKind::Network => "network",
            NamespaceKind::Mount => "mount",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::User => "user",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Time => "time",
        }
    }

    /// Its `CLONE_NEW*` flag.
    #[must_use]
    pub fn flag(self) -> u64 {
        match self {
            NamespaceKind::Pid => flags::NEWPID,
            NamespaceKind::Network => flags::NEWNET,
            NamespaceKind::Mount => flags::NEWNS,
            NamespaceKind::Ipc => flags::NEWIPC,
            NamespaceKind::Uts => flags::NEWUTS,
            NamespaceKind::User => flags::NEWUSER,
            NamespaceKind::Cgroup => flags::NEWCGROUP,
            NamespaceKind::Time => flags::NEWTIME,
        }
    }
}

/// What a birth does about its namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespaces {
    /// Those that the clone makes. The cgroup namespace is made later, in the child: its root
    /// is the group that the process is in at that moment. So is the time namespace, whose
    /// clocks are fixed once a process is in it.
    pub(crate) cloned: u64,
    /// Whether a user namespace is made.
    pub(crate) makes_user: bool,
    /// Whether a cgroup namespace is made.
    pub(crate) makes_cgroup: bool,
    /// Whether a time namespace is made.
    pub(crate) makes_time: bool,
    /// Whether the process is in another user namespace than its parent.
    pub(crate) other_user: bool,
    /// Whether a joiner has to go before: see [`crate::joiner`].
    pub(crate) joiner: bool,
}

/// Sorts the namespaces of a configuration. There always is a mount namespace of the
/// container's own, unless one is joined.
pub(crate) fn sort(linux: Option<&Linux>, joined: &[(NamespaceKind, OwnedFd)]) -> Namespaces {
    let joins = |kind| joined.iter().any(|(joined, _)| *joined == kind);
    let mut made = 0;
    for namespace in linux.iter().flat_map(|linux| &linux.namespaces) {
        if namespace.path.as_ref().is_none_or(String::is_empty) {
            made |= namespace.kind.flag();
        }
    }
    if !joins(NamespaceKind::Mount) {
        made |= flags::NEWNS;
    }
    let makes = |kind: NamespaceKind| made & kind.flag() != 0;
    let makes_user = makes(NamespaceKind::User);
    let joins_user = joins(NamespaceKind::User);
    Namespaces {
        cloned: made & !(flags::NEWCGROUP | flags::NEWTIME),
        makes_user,
        makes_cgroup: makes(NamespaceKind::Cgroup),
        makes_time: makes(NamespaceKind::Time),
        other_user: makes_user || joins_user,
        // From inside of a new user namespace nothing could be joined that is not its own.
        joiner: joins_user || joins(NamespaceKind::Pid) || makes_user && !joined.is_empty(),
    }
}

/// Joins namespaces. Those that belong to the joined user namespace can be joined after it
/// only, and those that belong to another one before it only.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn join_all(joined: &[(NamespaceKind, OwnedFd)]) -> Result<(), BirthError> {
    let user = joined.iter().find(|(kind, _)| *kind == NamespaceKind::User);
    let join = |kind: NamespaceKind, fd: &OwnedFd| setns(fd.as_fd(), kind.flag() as i32);
    let failed = |kind: NamespaceKind| format!("cannot join the {} namespace", kind.name());
    let mut later = Vec::new();
    for (kind, fd) in joined {
        if *kind == NamespaceKind::User {
            continue;
        }
        match join(*kind, fd) {
            Err(error) if user.is_some() && error.kind() == io::ErrorKind::PermissionDenied => {
                later.push((*kind, fd));
            }
            other => other.step(|| failed(*kind))?,
        }
    }
    if let Some((kind, fd)) = user {
        join(*kind, fd).step(|| failed(*kind))?;
        become_root();
    }
    for (kind, fd) in later {
        join(kind, fd).step(|| failed(kind))?;
    }
    Ok(())
}

/// Joins the namespaces of a running container, of which the kinds are `kinds`.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn join_container(container: BorrowedFd<'_>, kinds: u64) -> Result<(), BirthError> {
    let failed = || "cannot join the container's namespaces: it is not running".to_owned();
    if kinds & flags::NEWUSER == 0 {
        return setns(container, kinds as i32).step(failed);
    }
    // One by one, as above: the container may share some with the host.
    let mut later = 0;
    for bit in (0..64).map(|bit| 1u64 << bit) {
        if kinds & bit == 0 || bit == flags::NEWUSER {
            continue;
        }
        match setns(container, bit as i32) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => later |= bit,
            other => other.step(failed)?,
        }
    }
    setns(container, flags::NEWUSER as i32).step(failed)?;
    become_root();
    if later != 0 {
        setns(container, later as i32).step(failed)?;
    }
    Ok(())
}

/// Takes the ids of the user namespace's root. One without a root keeps what it has, which
/// the program's own user replaces in the end.
pub(crate) fn become_root() {
    let _ = gantry_sys::process::set_user_and_group(0, 0);
}
