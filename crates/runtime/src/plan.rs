//! What a birth is told: everything about the process that is to be born.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::cgroup::{Group, Layout};
use crate::hooks::HookPlan;
use crate::rootfs::RootSource;
use crate::spec::{NamespaceKind, Spec};

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
