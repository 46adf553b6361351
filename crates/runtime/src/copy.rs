//! Copying a directory tree by descriptors, with owners, modes, times and attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod,
    fgetxattr, flistxattr, fsetxattr, fstat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

/// Deepest nesting that is followed, so that an image cannot exhaust the stack.
const MAX_DEPTH: u32 = 512;

/// Whether a directory holds nothing.
///
/// # Errors
/// The kernel's.
pub fn is_empty(directory: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        if !is_dot(entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies everything below `from` to `to`, and the owner, mode and times of `from` itself.
///
/// Links are copied as links and never followed; sockets are left out.
///
/// # Errors
/// The kernel's.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    copy_directory(from, to, 0)
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "directories are nested too deeply",
        ));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_dot(name) {
            copy_entry(from, to, name, depth)?;
        }
    }
    copy_metadata(from, to)
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let source = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let target = openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            return copy_directory(source.as_fd(), target.as_fd(), depth + 1);
        }
        FileType::RegularFile => {
            let source = openat(from, name, read | OFlags::NONBLOCK, Mode::empty())?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            copy_contents(&source, &target)?;
            return copy_metadata(source.as_fd(), target.as_fd());
        }
        FileType::Symlink => symlinkat(&*readlinkat(from, name, Vec::new())?, to, name)?,
        FileType::Socket => return Ok(()),
        _ => mknodat(
            to,
            name,
            kind,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            stat.st_rdev,
        )?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn copy_contents(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    loop {
        match rustix::fs::copy_file_range(source, None, target, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Between file systems, or from one that cannot: through a buffer.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut reader = std::fs::File::from(source.try_clone()?);
    let mut writer = std::fs::File::from(target.try_clone()?);
    io::copy(&mut reader, &mut writer)?;
    Ok(())
}

fn copy_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = fstat(from)?;
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    // After the change of owner, which clears the set-id bits.
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_attributes(from, to)?;
    rustix::fs::futimens(to, &times(&stat))?;
    Ok(())
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0u8; 4096];
    let length = match flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::RANGE) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0u8; 65536];
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        // The overlay's own attributes describe layers, and must not travel.
        if name.starts_with(b"trusted.") {
            continue;
        }
        let size = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
