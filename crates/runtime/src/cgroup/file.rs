//! Reading and writing control files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// The most that is read of a control file: a million process ids.
pub(super) const MAX_FILE: usize = 8 << 20;

/// Opens a control file for writing.
pub(super) fn open_for_writing(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// Writes a value to a control file, in one piece as the kernel demands.
pub(super) fn write(directory: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let file = open_for_writing(directory, name)?;
    write_to(file.as_fd(), value)
}

/// Writes a value to an open control file.
pub(super) fn write_to(file: BorrowedFd<'_>, value: &str) -> io::Result<()> {
    loop {
        match rustix::io::write(file, value.as_bytes()) {
            Err(Errno::INTR) => {}
            result => return result.map(|_| ()).map_err(io::Error::from),
        }
    }
}

/// Reads a whole control file.
pub(super) fn read(directory: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, name, flags, Mode::empty())?;
    read_to_end(&file, MAX_FILE)
}

/// Reads an open file to its end, or fails if it has more than `limit` bytes.
pub(super) fn read_to_end(file: &OwnedFd, limit: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        if bytes.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // Most files here are far smaller than a page.
        bytes.reserve(4096);
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number behind `key` in a file of lines `key number`.
pub(super) fn number_of_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim_ascii().parse().ok())?
    })
}

/// Whether a failure is this error of the kernel's.
pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}
