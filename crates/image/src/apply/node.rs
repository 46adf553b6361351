//! Owner, mode, times and attributes, always of the inode itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, PROC_SUPER_MAGIC, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tree::lstat;
use crate::tar::{Entry, Timestamp};

/// The attribute that makes new files in a directory inherit rules. It is set
/// last, so that the layer's own files do not.
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Gives what `fd` refers to its owner, then its mode: chown(2) clears the
/// set-user-ID bits.
///
/// What is right already is left alone, and seeing is the only way to know: the
/// umask, a parent's set-group-ID bit and default ACLs all have a part in what
/// was made.
pub(super) fn set_owner_and_mode(
    fd: BorrowedFd<'_>,
    owner: (u32, u32),
    mode: u32,
) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if (stat.st_uid, stat.st_gid) != owner {
        rustix::fs::fchown(
            fd,
            Some(Uid::from_raw(owner.0)),
            Some(Gid::from_raw(owner.1)),
        )?;
    } else if stat.st_mode & 0o7777 == mode {
        return Ok(());
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Owner, attributes and mode of a file or directory, in this order: writing
/// and chown(2) drop file capabilities, and an access ACL changes the mode.
pub(super) fn set_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    if entry.xattrs.is_empty() {
        return set_owner_and_mode(fd, (entry.uid, entry.gid), entry.mode);
    }
    rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )?;
    for (name, value) in &entry.xattrs {
        // The kernel takes an empty capability, and fails whoever reads or runs the file then.
        let is_void = name == b"security.capability" && value.is_empty();
        if is_applied(name) && name != DEFAULT_ACL && !is_void {
            match set_attribute(fd, name, value) {
                // A store without user attributes still holds most images.
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
                other => other?,
            }
        }
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
}

/// Owner and mode of a symbolic link, device or FIFO. They have no attributes
/// that a layer may set.
pub(super) fn set_node_metadata(
    parent: &OwnedFd,
    name: &[u8],
    made: &Stat,
    entry: &Entry,
    has_mode: bool,
) -> Result<(), Errno> {
    if (made.st_uid, made.st_gid) != (entry.uid, entry.gid) {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    if has_mode && lstat(parent, name)?.st_mode & 0o7777 != entry.mode {
        change_node_mode(parent, name, made, entry.mode)?;
    }
    let times = timestamps(entry.mtime);
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// fchmodat(2) follows links (CVE-2021-32760, CVE-2026-33056), and a device
/// cannot be opened without waking its driver. So the node is held by an
/// `O_PATH` descriptor, compared with the one that was made, and reached through
/// procfs; `fchmodat2` does it at once, but from 6.6 on.
fn change_node_mode(parent: &OwnedFd, name: &[u8], made: &Stat, mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let held = rustix::fs::fstat(&node)?;
    if (held.st_dev, held.st_ino) != (made.st_dev, made.st_ino) {
        return Err(Errno::AGAIN);
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let links = rustix::fs::openat(CWD, c"/proc/self/fd", directory, Mode::empty())?;
    if rustix::fs::fstatfs(&links)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::NOENT);
    }
    let number = node.as_fd().as_raw_fd().to_string();
    rustix::fs::chmodat(&links, number, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Which extended attributes a layer may set.
///
/// Stripped, not refused, are those that say something about the machine the
/// layer was made on: `trusted.overlay.*` and `user.overlay.*`, which would turn
/// into instructions to overlayfs here (redirects, metacopies, whiteouts), the
/// rest of `trusted.*`, and labels of security modules.
pub(super) fn is_applied(name: &[u8]) -> bool {
    match name {
        b"security.capability"
        | b"security.ima"
        | b"system.posix_acl_access"
        | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

pub(super) fn set_attribute(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Access time like modification time, as a layer keeps only the latter and
/// two unpackings should be equal.
pub(super) fn timestamps(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: i64::from(mtime.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
