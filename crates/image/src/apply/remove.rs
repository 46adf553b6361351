//! Removing a tree that others may still be changing.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno;

/// Subdirectories that are remembered of one directory at a time, so that a
/// directory of ten million of them costs no memory.
const PENDING: usize = 1024;

/// How often a tree that others refill, or whose directories they move, is
/// taken up again.
const RETRIES: u32 = 1000;

/// A directory on the way from the top to the one that is being emptied.
struct Level {
    identity: (u64, u64),
    name: CString,
    pending: Vec<CString>,
}

/// Removes `parent/name` and all that is below it, as rm(1) `-r` does.
///
/// Symbolic links are removed and never followed, even if another process puts
/// them in the place of directories meanwhile (RUSTSEC-2023-0018): every step
/// names one component below a descriptor, and the way back up is only taken to
/// the very directory that led down. It holds one descriptor at any depth.
///
/// # Errors
/// `InvalidInput` if `name` is not one component, `NotFound` if there is
/// nothing of that name, `CrossesDevices` or `ResourceBusy` if something is
/// mounted in the tree, `DirectoryNotEmpty` if others keep filling it. Parts of
/// the tree are gone then.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    let name = CString::new(bytes)?;
    match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return Ok(other?),
    }
    let mut retries = RETRIES;
    while !remove_once(parent, &name, &mut retries)? {
        retries = retries.checked_sub(1).ok_or(Errno::NOTEMPTY)?;
    }
    Ok(())
}

/// `false` if a directory was moved away on the way and the work is to begin anew.
fn remove_once(parent: BorrowedFd<'_>, name: &CStr, retries: &mut u32) -> io::Result<bool> {
    // Level 0 is the parent, of which only one name is to go.
    let mut levels = vec![Level {
        identity: identity(parent)?,
        name: CString::default(),
        pending: vec![name.to_owned()],
    }];
    let mut below: Option<OwnedFd> = None;
    while let Some(level) = levels.last_mut() {
        let directory = below.as_ref().map_or(parent, AsFd::as_fd);
        if let Some(child) = level.pending.pop() {
            if let Some(opened) = remove_or_open(directory, &child)? {
                let identity = identity(opened.as_fd())?;
                levels.push(Level {
                    identity,
                    name: child,
                    pending: Vec::new(),
                });
                below = Some(opened);
            }
            continue;
        }
        // All of level 0 that matters is its one pending name.
        if below.is_some() {
            empty(directory, &mut level.pending)?;
            if !level.pending.is_empty() {
                continue;
            }
        }
        let Some(emptied) = levels.pop() else { break };
        let is_top = levels.len() == 1;
        let Some(above) = levels.last_mut() else {
            break;
        };
        below = if is_top {
            None
        } else {
            let up = rustix::fs::openat(directory, c"..", DIRECTORY, Mode::empty())?;
            // A directory that was moved has another parent, which is none of ours.
            if identity(up.as_fd())? != above.identity {
                return Ok(false);
            }
            Some(up)
        };
        let directory = below.as_ref().map_or(parent, AsFd::as_fd);
        match rustix::fs::unlinkat(directory, &emptied.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                *retries = retries.checked_sub(1).ok_or(Errno::NOTEMPTY)?;
                above.pending.push(emptied.name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes what can be removed at once; gives a directory that is not empty.
fn remove_or_open(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::NOTDIR) => return unlink(directory, name).map(|_| None),
        Err(error) => return Err(error.into()),
    }
    open(directory, name)
}

/// Opens what was a directory a moment ago, or removes what is there instead.
pub(super) fn open(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(directory, name, DIRECTORY, Mode::empty(), resolve) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        // Someone put a link or a file in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => unlink(directory, name).map(|_| None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is not a directory, and notes directories, up to [`PENDING`].
fn empty(directory: BorrowedFd<'_>, pending: &mut Vec<CString>) -> io::Result<()> {
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory || !unlink(directory, name)? {
            pending.push(name.to_owned());
            if pending.len() == PENDING {
                break;
            }
        }
    }
    Ok(())
}

/// `false` if it is a directory.
fn unlink(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn identity(directory: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}
