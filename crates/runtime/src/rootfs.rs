//! The root file system: made by the parent, entered by the child, mounted nowhere else.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use gantry_sys::mount::{Attributes, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::error::{BirthError, Step};
use crate::path;

/// Where a root file system comes from.
#[derive(Clone, Debug)]
pub enum RootSource {
    /// Layers below a writable directory.
    Overlay(Overlay),
    /// A directory.
    Directory(PathBuf),
}

/// An overlay mount.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// Work directory, on the same file system as the upper one.
    pub work: PathBuf,
    /// Whether the writable layer need not outlive a crash of the machine: its
    /// unmounting then does not wait for the disk.
    pub volatile: bool,
}

/// A root that is ready to be entered.
#[derive(Debug)]
pub enum PreparedRoot {
    /// A mount that is attached nowhere yet.
    Detached(OwnedFd),
    /// An overlay that the child has to make by mount(2), on kernels whose new mount API
    /// cannot express it (before 6.8: no `lowerdir+`, and strings of 256 bytes at most).
    Legacy(Overlay),
    /// A directory that the child has to open: in its own user namespace it may, where the
    /// caller has no rights over mounts.
    Late(PathBuf),
}

/// Makes the mount of a root, attached nowhere.
///
/// # Errors
/// [`BirthError::Step`].
pub fn prepare(source: &RootSource) -> Result<PreparedRoot, BirthError> {
    match source {
        RootSource::Directory(directory) => match open_directory(directory) {
            Err(Errno::PERM) => Ok(PreparedRoot::Late(directory.clone())),
            other => other
                .step(|| format!("cannot open root file system {}", directory.display()))
                .map(PreparedRoot::Detached),
        },
        RootSource::Overlay(overlay) => {
            if overlay.volatile {
                // A volatile mount leaves a mark behind, upon which the kernel refuses the
                // next one (EINVAL): after a power cut what was written might be incomplete.
                // What is volatile here does not outlive the boot; a second mount is that of
                // a start whose first attempt failed or lost its supervisor.
                let _ = std::fs::remove_dir_all(overlay.work.join("work/incompat"));
            }
            prepare_overlay(overlay)
        }
    }
}

fn open_directory(directory: &PathBuf) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, directory, flags)
}

fn prepare_overlay(overlay: &Overlay) -> Result<PreparedRoot, BirthError> {
    match overlay_by_new_api(overlay) {
        Ok(mount) => Ok(PreparedRoot::Detached(mount)),
        // EINVAL: lowerdir+ is unknown. Anything that is really wrong with the
        // directories shows again, with its own error, when the child tries.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            Ok(PreparedRoot::Legacy(overlay.clone()))
        }
        Err(error) => {
            Err(error).step(|| format!("cannot mount overlay on {}", overlay.upper.display()))
        }
    }
}

fn overlay_by_new_api(overlay: &Overlay) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in &overlay.lower {
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", &overlay.upper)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", &overlay.work)?;
    if overlay.volatile {
        rustix::mount::fsconfig_set_flag(context.as_fd(), "volatile")?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// Attaches `root` at `place` in the calling process's own mount namespace, whose other
/// mounts are cut off from the host's. It is entered later, by [`pivot`]: devices of the host
/// and hooks still need the old root, and in a user namespace so does the kernel, which
/// mounts procfs only where one can be seen.
///
/// # Errors
/// [`BirthError::Step`].
pub fn attach_root(
    root: PreparedRoot,
    place: &str,
    propagation: &str,
) -> Result<OwnedFd, BirthError> {
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", all).step(|| "cannot change the propagation of /".into())?;
    let root = match root {
        PreparedRoot::Late(directory) => PreparedRoot::Detached(
            open_directory(&directory)
                .step(|| format!("cannot open root file system {}", directory.display()))?,
        ),
        other => other,
    };
    match root {
        PreparedRoot::Detached(mount) => {
            // What is mounted in the root would else show on the host, where the directory
            // that it is a clone of lies on a shared mount.
            let kind = match propagation {
                "slave" | "rslave" => MS_SLAVE,
                _ => MS_PRIVATE,
            };
            propagate(mount.as_fd(), kind, true)
                .step(|| "cannot change the propagation of the root".into())?;
            // On top of "/" needs no directory anywhere, and the pivot takes it away.
            attach(mount.as_fd(), CWD, place).step(|| "cannot attach the root".into())?;
            Ok(mount)
        }
        PreparedRoot::Late(directory) => Err(BirthError::Invalid(format!(
            "root file system {} was not opened",
            directory.display()
        ))),
        PreparedRoot::Legacy(overlay) => {
            overlay_by_mount(&overlay, "/")?;
            // The path "/" still means the old root to this process; its mount is on top.
            rustix::mount::open_tree(CWD, "/..", OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .step(|| format!("cannot mount overlay on {}", overlay.upper.display()))
        }
    }
}

/// Makes an attached root the root of the calling process and drops everything of the host
/// from its mount namespace.
///
/// # Errors
/// [`BirthError::Step`].
pub fn pivot(root: BorrowedFd<'_>, by_chroot: bool) -> Result<(), BirthError> {
    if by_chroot {
        // They stay below the new root, and would show more than the container's own.
        for place in ["/proc", "/sys"] {
            let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
        }
    }
    rustix::process::fchdir(root).step(|| "cannot enter the root".into())?;
    if by_chroot {
        rustix::process::chroot(".").step(|| "cannot change the root".into())?;
    } else {
        rustix::process::pivot_root(".", ".").step(|| "cannot pivot to the root".into())?;
        // The old root now lies on top of the new one.
        rustix::mount::unmount(".", UnmountFlags::DETACH)
            .step(|| "cannot unmount the host's root".into())?;
    }
    rustix::process::chdir("/").step(|| "cannot change to /".into())
}

/// Gives the root the propagation that the container asks for, once all is mounted.
///
/// # Errors
/// [`BirthError::Step`].
pub fn set_propagation(root: BorrowedFd<'_>, propagation: &str) -> Result<(), BirthError> {
    let (kind, deep) = match propagation {
        "shared" => (MS_SHARED, false),
        "rshared" => (MS_SHARED, true),
        "unbindable" => (MS_UNBINDABLE, false),
        "runbindable" => (MS_UNBINDABLE, true),
        // As attached.
        _ => return Ok(()),
    };
    propagate(root, kind, deep).step(|| format!("cannot make the root {propagation}"))
}

const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

fn propagate(mount: BorrowedFd<'_>, propagation: u64, deep: bool) -> io::Result<()> {
    let attributes = Attributes {
        propagation,
        ..Attributes::default()
    };
    set_attributes(mount, attributes, deep)
}

/// Where the kernel's own file systems and the devices go, in every container.
pub(crate) const STANDARD_PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Puts directories where an image has links in place of the [`STANDARD_PLACES`], as
/// Docker's own layer above every image does (CVE-2026-41579, CVE-2026-47766).
///
/// For a root whose top layer is the container's own: the links go from there only, and
/// nothing runs in the root yet that could put them back. In a directory that somebody
/// else made, such links are refused later.
///
/// # Errors
/// [`BirthError::Step`].
pub fn replace_links(root: BorrowedFd<'_>) -> Result<(), BirthError> {
    for place in STANDARD_PLACES {
        let failed = || format!("cannot replace the link {place} of the image by a directory");
        // A single name below the root: nothing on the way to it can be a link.
        let name = &place[1..];
        match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
                rustix::fs::unlinkat(root, name, AtFlags::empty()).step(failed)?;
                rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)).step(failed)?;
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).step(failed),
        }
    }
    Ok(())
}

/// Mounts a root at a path of the calling process's own mount namespace, for a runtime that
/// takes its root from there.
///
/// # Errors
/// [`BirthError::Step`].
pub fn mount_at(root: PreparedRoot, target: &str) -> Result<(), BirthError> {
    match root {
        PreparedRoot::Detached(mount) => attach(mount.as_fd(), CWD, target)
            .step(|| format!("cannot attach the root at {target}")),
        PreparedRoot::Late(directory) => Err(Errno::PERM)
            .step(|| format!("cannot open root file system {}", directory.display())),
        PreparedRoot::Legacy(overlay) => overlay_by_mount(&overlay, target),
    }
}

/// The overlay by mount(2): layers as descriptors' paths, so that many fit into a page.
fn overlay_by_mount(overlay: &Overlay, target: &str) -> Result<(), BirthError> {
    use std::fmt::Write as _;
    use std::os::fd::AsRawFd;
    let open = |directory: &PathBuf| {
        rustix::fs::openat(
            CWD,
            directory,
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .step(|| format!("cannot open layer {}", directory.display()))
    };
    let mut options = String::from("lowerdir=");
    let mut held = Vec::with_capacity(overlay.lower.len() + 2);
    for (index, layer) in overlay.lower.iter().enumerate() {
        let fd = open(layer)?;
        let separator = if index == 0 { "" } else { ":" };
        let _ = write!(options, "{separator}/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
    }
    let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
    let _ = write!(
        options,
        ",upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}",
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    if overlay.volatile {
        options.push_str(",volatile");
    }
    let failed = || format!("cannot mount overlay on {}", overlay.upper.display());
    let data = CString::new(options)
        .map_err(io::Error::from)
        .step(failed)?;
    rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        MountFlags::empty(),
        data.as_c_str(),
    )
    .step(failed)
}

/// Attaches a detached mount at `path` below `directory`; an empty path means there itself.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    Ok(rustix::mount::move_mount(
        mount, "", directory, path, flags,
    )?)
}

/// A clone of the mount at `fd`, attached nowhere.
///
/// # Errors
/// The kernel's.
pub fn clone_mount(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(fd, "", flags)?)
}

/// Opens the calling process's root.
///
/// # Errors
/// [`BirthError::Step`].
pub fn open_root() -> Result<OwnedFd, BirthError> {
    path::open_host("/", OFlags::PATH | OFlags::DIRECTORY).step(|| "cannot open /".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    // R20, CVE-2026-41579: neither the link nor what it leads to may become the mount point.
    #[test]
    fn links_in_standard_places_become_directories() {
        let top = std::env::temp_dir().join(format!("gantry-rootfs-{}", std::process::id()));
        let outside = top.join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("ptmx"), "kept").unwrap();
        for (number, target) in [outside.to_str().unwrap(), "../outside", "/inside", "dev"]
            .into_iter()
            .enumerate()
        {
            let directory = top.join(number.to_string());
            std::fs::create_dir_all(directory.join("proc/kept")).unwrap();
            symlink(target, directory.join("dev")).unwrap();
            symlink("nowhere", directory.join("etc")).unwrap();
            let root = path::open_host(directory.to_str().unwrap(), OFlags::PATH).unwrap();
            for _ in 0..2 {
                replace_links(root.as_fd()).unwrap();
            }
            assert!(directory.join("dev").symlink_metadata().unwrap().is_dir());
            assert_eq!(std::fs::read_dir(directory.join("dev")).unwrap().count(), 0);
            assert!(directory.join("proc/kept").is_dir());
            assert!(directory.join("etc").is_symlink());
            // What is not there is no link either.
            assert!(!directory.join("sys").exists());
        }
        assert_eq!(
            std::fs::read_to_string(outside.join("ptmx")).unwrap(),
            "kept"
        );
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        std::fs::remove_dir_all(&top).unwrap();
    }
}
