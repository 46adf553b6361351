//! Paths of a container that are hidden or read-only.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::mount::{Attributes, RDONLY, set_attributes};
use rustix::fs::{FileType, OFlags, makedev};

use crate::error::{BirthError, Step};
use crate::mounts::{READ_ONLY, new_mount};
use crate::options::MountOptions;
use crate::path;
use crate::rootfs::{attach, clone_mount};

/// Makes paths read-only.
///
/// Every step acts on the descriptor of the first, so the path that is protected is the
/// path that was found, whatever its name leads to by then (CVE class R17).
///
/// # Errors
/// [`BirthError`].
pub fn make_read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), BirthError> {
    for name in paths {
        let failed = || format!("cannot make {name} read-only");
        let Some(target) = existing(root, name).step(failed)? else {
            continue;
        };
        let mount = clone_mount(target.as_fd(), true).step(failed)?;
        set_attributes(
            mount.as_fd(),
            Attributes {
                set: RDONLY,
                ..Attributes::default()
            },
            true,
        )
        .step(failed)?;
        attach(mount.as_fd(), target.as_fd(), "").step(failed)?;
    }
    Ok(())
}

/// Hides paths: directories below an empty read-only tmpfs, files below /dev/null.
///
/// # Errors
/// [`BirthError`].
pub fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), BirthError> {
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for name in paths {
        let failed = || format!("cannot mask {name}");
        let Some(target) = existing(root, name).step(failed)? else {
            continue;
        };
        let stat = rustix::fs::fstat(&target).step(failed)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let Some(empty) = &empty else {
                let made = empty_directory().step(failed)?;
                attach(made.as_fd(), target.as_fd(), "").step(failed)?;
                empty = Some(made);
                continue;
            };
            empty
        } else {
            if null.is_none() {
                null = Some(open_null(root).step(failed)?);
            }
            let Some(null) = &null else { continue };
            null
        };
        // Of a mount that is attached: one that is not can be cloned since Linux 6.15 only.
        let mount = clone_mount(cover.as_fd(), false).step(failed)?;
        attach(mount.as_fd(), target.as_fd(), "").step(failed)?;
    }
    Ok(())
}

/// A directory in which nothing is and nothing can be made, attached nowhere yet.
fn empty_directory() -> io::Result<OwnedFd> {
    let option = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let data = vec![option("size", "0"), option("nr_inodes", "1")];
    let options = MountOptions {
        attributes: READ_ONLY,
        data,
        ..MountOptions::default()
    };
    new_mount("tmpfs", "tmpfs", &options, false)
}

/// Opens /dev/null and makes sure that it is it: a link in its place has turned the mask
/// into a writable mount of the link's target (CVE-2025-31133).
pub(crate) fn open_null(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = path::open_without_links(root, "/dev/null", OFlags::PATH)?;
    let stat = rustix::fs::fstat(&null)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != makedev(1, 3)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/dev/null of the container is not the null device",
        ));
    }
    Ok(null)
}

fn existing(root: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    match path::open_in_root(root, name, OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
