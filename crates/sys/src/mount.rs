//! `mount_setattr`, which rustix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Attributes of a mount, as `MOUNT_ATTR_*` bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Bits that are set.
    pub set: u64,
    /// Bits that are cleared.
    pub clear: u64,
    /// New propagation, as an `MS_*` bit; 0 leaves it.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR_NOATIME`; the access time is a field of values, cleared as a whole by [`ATIME`].
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR__ATIME`, the mask of the access time field.
pub const ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NODIRATIME`.
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// Changes the attributes of the mount that `fd` is on (kernel 5.12).
///
/// # Errors
/// The kernel's.
pub fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    let mount_attr = [attributes.set, attributes.clear, attributes.propagation, 0];
    set(fd, mount_attr, recursive)
}

/// Maps the owners in a mount that is attached nowhere as the user namespace `namespace`
/// does (kernel 5.12, by file system).
///
/// # Errors
/// The kernel's; `EINVAL` where the file system cannot, `EPERM` where the mount is mapped
/// already or was ever attached.
pub fn set_id_mapping(
    fd: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> io::Result<()> {
    const IDMAP: u64 = 0x10_0000;
    set(fd, [IDMAP, 0, 0, namespace.as_raw_fd() as u64], recursive)
}

fn set(fd: BorrowedFd<'_>, mount_attr: [u64; 4], recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the pointer and the size describe the four words of struct mount_attr.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            mount_attr.as_ptr(),
            size_of_val(&mount_attr),
        )
    })?;
    Ok(())
}
