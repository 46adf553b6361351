//! Standard streams that are given, not made.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, makedev};

use crate::masks::open_null;

/// Puts the container's null device in the place of the host's, as runc does: criu cannot
/// write down a file of a mount that the container does not have, and nobody in there needs a
/// descriptor that leads to the host's /dev.
///
/// A container without a null device keeps the streams as they are.
pub(crate) fn use_own_null(
    root: BorrowedFd<'_>,
    proc: BorrowedFd<'_>,
    streams: [OwnedFd; 3],
) -> [OwnedFd; 3] {
    streams.map(|stream| {
        if is_null(stream.as_fd()) {
            reopen_null(root, proc).unwrap_or(stream)
        } else {
            stream
        }
    })
}

fn is_null(stream: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == makedev(1, 3)
    })
}

fn reopen_null(root: BorrowedFd<'_>, proc: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Known for what it is before it is opened, which for some devices is an act in itself.
    let null = open_null(root)?;
    let file = format!("self/fd/{}", null.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(proc, file, flags, Mode::empty())?)
}
