//! The procfs that a container's process is set up by.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{BirthError, Step};
use crate::path;

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
