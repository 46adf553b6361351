//! The mounts of a container: sources opened by the parent, attached by the child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::mount::{Attributes, RDONLY, set_attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, mknodat, symlinkat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::cgroup::Layout;
use crate::copy::copy_tree;
use crate::error::{BirthError, Step};
use crate::options::{self, MountOptions};
use crate::path;
use crate::rootfs::{STANDARD_PLACES, attach, clone_mount};
use crate::spec::{Device, Mount};

/// A mount whose source, if it is a path of the host, is already open.
#[derive(Debug)]
pub struct PreparedMount<'a> {
    spec: &'a Mount,
    options: MountOptions,
    source: Option<OwnedFd>,
}

/// Opens the sources of bind mounts, while the host's root is still there.
///
/// # Errors
/// [`BirthError`].
pub fn prepare(mounts: &[Mount]) -> Result<Vec<PreparedMount<'_>>, BirthError> {
    mounts
        .iter()
        .map(|mount| {
            let options = options::parse(&mount.options);
            let bind = options.bind || mount.kind == "bind";
            let source = if bind {
                Some(open_source(mount, &options)?)
            } else {
                None
            };
            Ok(PreparedMount {
                spec: mount,
                options,
                source,
            })
        })
        .collect()
}

fn open_source(mount: &Mount, options: &MountOptions) -> Result<OwnedFd, BirthError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let failed = || {
        format!(
            "cannot open the source {} of mount {}",
            mount.source, mount.destination
        )
    };
    rustix::mount::open_tree(CWD, &*mount.source, flags).step(failed)
}

/// Makes all mounts, in the calling process's root and mount namespace.
///
/// # Errors
/// [`BirthError`].
pub fn make_all(
    root: BorrowedFd<'_>,
    mounts: Vec<PreparedMount<'_>>,
    devices: &[Device],
    layout: &Layout,
) -> Result<(), BirthError> {
    for mount in mounts {
        let destination = path::clean(&mount.spec.destination);
        if destination == "/" {
            return Err(BirthError::Invalid(format!(
                "invalid mount destination {:?}: it must not be the root",
                mount.spec.destination
            )));
        }
        let failed = || format!("cannot mount {} on {destination}", describe(mount.spec));
        if let Some(source) = &mount.source {
            bind(root, source.as_fd(), &destination, &mount).step(failed)?;
            continue;
        }
        let target = target_directory(root, &destination)?;
        match &*mount.spec.kind {
            "cgroup" => cgroups(root, target.as_fd(), &destination, &mount, layout).step(failed)?,
            kind => {
                if !["proc", "sysfs"].contains(&kind) {
                    check_target(root, target.as_fd()).step(failed)?;
                }
                let made = new_mount(kind, &mount.spec.source, &mount.options).step(failed)?;
                if mount.options.copy_up {
                    let from =
                        path::open_in_root(root, &destination, OFlags::RDONLY | OFlags::DIRECTORY)
                            .step(failed)?;
                    copy_tree(from.as_fd(), made.as_fd()).step(failed)?;
                }
                if destination == "/dev" {
                    fill_dev(made.as_fd(), devices).step(|| "cannot fill /dev".into())?;
                }
                finish(made.as_fd(), &mount.options).step(failed)?;
                attach(made.as_fd(), target.as_fd(), "").step(failed)?;
            }
        }
    }
    Ok(())
}

fn describe(mount: &Mount) -> &str {
    if mount.kind.is_empty() || mount.kind == "bind" {
        &mount.source
    } else {
        &mount.kind
    }
}

/// The directory to mount on.
///
/// The places where the kernel's own file systems go must not be links: a link there has
/// moved the mount, or what is written to it later, somewhere else (CVE-2019-19921,
/// CVE-2023-27561, CVE-2025-54867 for /proc and /sys; CVE-2026-41579 for /dev). Where the
/// root is the container's own, [`crate::rootfs::replace_links`] has left none of them.
fn target_directory(root: BorrowedFd<'_>, destination: &str) -> Result<OwnedFd, BirthError> {
    let failed = || format!("cannot make the mount point {destination}");
    if STANDARD_PLACES.contains(&destination) {
        match path::open_without_links(root, destination, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                return Err(BirthError::Invalid(format!(
                    "{destination} of the image must be a directory, not a link or a file"
                )));
            }
        }
        rustix::fs::mkdirat(root, &destination[1..], Mode::from_raw_mode(0o755)).step(failed)?;
        return path::open_without_links(root, destination, OFlags::PATH | OFlags::DIRECTORY)
            .step(failed);
    }
    path::make_directory(root, destination, 0o755).step(failed)
}

fn bind(
    root: BorrowedFd<'_>,
    source: BorrowedFd<'_>,
    destination: &str,
    mount: &PreparedMount<'_>,
) -> io::Result<()> {
    let kernels_own = is_procfs_or_sysfs(source)?;
    let forbidden =
        destination == "/sys" || destination == "/proc" || destination.starts_with("/proc/");
    if forbidden && !kernels_own {
        return Err(over_the_kernels());
    }
    let is_directory =
        FileType::from_raw_mode(rustix::fs::fstat(source)?.st_mode) == FileType::Directory;
    let target = if is_directory {
        path::make_directory(root, destination, 0o755)?
    } else {
        path::make_file(root, destination)?
    };
    if !kernels_own {
        check_target(root, target.as_fd())?;
    }
    if mount.options.copy_up && is_directory {
        let image = rustix::fs::openat(
            &target,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        copy_up(image.as_fd(), source)?;
    }
    finish(source, &mount.options)?;
    attach(source, target.as_fd(), "")
}

/// Fills a volume that is still empty with what the image has at its place.
fn copy_up(image: BorrowedFd<'_>, volume: BorrowedFd<'_>) -> io::Result<()> {
    let volume = rustix::fs::openat(
        volume,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if crate::copy::is_empty(volume.as_fd())? {
        copy_tree(image, volume.as_fd())
    } else {
        Ok(())
    }
}

/// Refuses a mount on the kernel's own file systems, which would let its owner forge them
/// (CVE-2015-3631, CVE-2019-16884). What was found is looked at and not its name: a link
/// of the image, or one that another container puts into a shared volume, leads there too.
fn check_target(root: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    if !is_procfs_or_sysfs(target)? {
        return Ok(());
    }
    // Below /sys there are places for mounts, such as /sys/fs/cgroup.
    let found = rustix::fs::fstat(target)?;
    let top =
        path::open_in_root(root, "/sys", OFlags::PATH).and_then(|top| Ok(rustix::fs::fstat(top)?));
    let below_sys = is_of(target, SYSFS_MAGIC)?
        && !top.is_ok_and(|top| (top.st_dev, top.st_ino) == (found.st_dev, found.st_ino));
    if below_sys {
        Ok(())
    } else {
        Err(over_the_kernels())
    }
}

fn over_the_kernels() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "only procfs and sysfs themselves may be mounted there",
    )
}

const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const SYSFS_MAGIC: i64 = 0x6265_6572;

fn is_of(fd: BorrowedFd<'_>, magic: i64) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == magic)
}

fn is_procfs_or_sysfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(is_of(fd, PROC_SUPER_MAGIC)? || is_of(fd, SYSFS_MAGIC)?)
}

/// Applies attributes and propagation to a mount that is still attached nowhere.
fn finish(mount: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
    const MS_PRIVATE: u64 = 1 << 18;
    let (propagation, deep) = options.propagation.unwrap_or((MS_PRIVATE, true));
    set_attributes(
        mount,
        Attributes {
            propagation,
            ..Attributes::default()
        },
        deep,
    )?;
    if options.recursive_attributes != Attributes::default() {
        set_attributes(mount, options.recursive_attributes, true)?;
    }
    if options.attributes.set | options.attributes.clear != 0 {
        set_attributes(mount, options.attributes, false)?;
    }
    Ok(())
}

/// A new mount of a file system, attached nowhere.
fn new_mount(kind: &str, source: &str, options: &MountOptions) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for (key, value) in &options.data {
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?;
            }
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), key.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// The control groups of the container's cgroup namespace, as `/sys/fs/cgroup` shows them.
fn cgroups(
    root: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    destination: &str,
    mount: &PreparedMount<'_>,
    layout: &Layout,
) -> io::Result<()> {
    let Some(hierarchies) = layout.v1_hierarchies() else {
        let made = new_mount("cgroup2", "cgroup", &MountOptions::default())?;
        finish(made.as_fd(), &mount.options)?;
        return attach(made.as_fd(), target, "");
    };
    let data = vec![("mode".to_owned(), Some("755".to_owned()))];
    let top = new_mount(
        "tmpfs",
        "tmpfs",
        &MountOptions {
            data,
            ..MountOptions::default()
        },
    )?;
    attach(top.as_fd(), target, "")?;
    for hierarchy in hierarchies {
        let data = hierarchy.mount_options();
        let made = new_mount(
            "cgroup",
            "cgroup",
            &MountOptions {
                data,
                ..MountOptions::default()
            },
        )?;
        finish(made.as_fd(), &mount.options)?;
        let name = hierarchy.directory_name();
        rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))?;
        let place = path::open_in_root(root, &format!("{destination}/{name}"), OFlags::PATH)?;
        attach(made.as_fd(), place.as_fd(), "")?;
    }
    // Read-only last: the directories above had to be made first.
    set_attributes(top.as_fd(), mount.options.attributes, false)
}

/// The nodes that every container has (runtime-spec, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills a fresh tmpfs that nobody else can reach yet, so no name in it can be a trap.
fn fill_dev(dev: BorrowedFd<'_>, devices: &[Device]) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)?;
    }
    for device in devices {
        let Some(name) = device.path.strip_prefix("/dev/") else {
            continue;
        };
        let kind = match &*device.kind {
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        if let Some((parent, _)) = name.rsplit_once('/') {
            path::make_directory(dev, parent, 0o755)?;
        }
        let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
        match mknodat(dev, name, kind, mode, makedev(device.major, device.minor)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if device.uid != 0 || device.gid != 0 {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(device.uid),
                rustix::fs::Gid::from_raw(device.gid),
            );
            rustix::fs::chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

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
        data,
        ..MountOptions::default()
    };
    let made = new_mount("tmpfs", "tmpfs", &options)?;
    let attributes = Attributes {
        set: RDONLY,
        ..Attributes::default()
    };
    set_attributes(made.as_fd(), attributes, false)?;
    Ok(made)
}

/// Opens /dev/null and makes sure that it is it: a link in its place has turned the mask
/// into a writable mount of the link's target (CVE-2025-31133).
fn open_null(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
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

#[cfg(test)]
mod tests {
    use super::*;

    // R12, CVE-2019-19921, CVE-2023-27561; R13, CVE-2025-54867; R20, CVE-2026-41579: a root
    // that is not ours to change is refused.
    #[test]
    fn links_in_standard_places_are_refused() {
        let top = std::env::temp_dir().join(format!("gantry-mounts-{}", std::process::id()));
        let directory = top.join("root");
        std::fs::create_dir_all(directory.join("tmp")).unwrap();
        std::os::unix::fs::symlink("tmp", directory.join("second")).unwrap();
        std::fs::create_dir(top.join("outside")).unwrap();
        let outside = top.join("outside");
        let root = path::open_host(directory.to_str().unwrap(), OFlags::PATH).unwrap();
        for place in STANDARD_PLACES {
            let link = directory.join(&place[1..]);
            for target in [
                outside.to_str().unwrap(),
                "../outside",
                "/tmp",
                "second",
                "nowhere",
            ] {
                std::os::unix::fs::symlink(target, &link).unwrap();
                let error = target_directory(root.as_fd(), place).unwrap_err();
                assert!(
                    error.to_string().contains("must be a directory"),
                    "{place} to {target}: {error}"
                );
                assert!(link.is_symlink());
                std::fs::remove_file(&link).unwrap();
            }
            target_directory(root.as_fd(), place).unwrap();
            assert!(link.is_dir());
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
