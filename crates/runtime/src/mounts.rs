//! The mounts of a container: sources opened by the parent, attached by the child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::mount::{Attributes, RDONLY, set_attributes};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::cgroup::Layout;
use crate::copy::copy_tree;
use crate::error::{BirthError, Step};
use crate::group_mounts::{self, GroupView};
use crate::id_map::Lenders;
use crate::namespaces::Namespaces;
use crate::options::{self, MountOptions};
use crate::plan::Plan;
use crate::rootfs::{STANDARD_PLACES, attach};
use crate::spec::{Linux, Mount, NamespaceKind};
use crate::{devices, path};

/// A mount whose source, if it is a path of the host, is already open, unless only the child
/// may open it.
#[derive(Debug)]
struct PreparedMount<'a> {
    spec: &'a Mount,
    options: MountOptions,
    source: Option<OwnedFd>,
}

/// All mounts of a container, before they are made.
#[derive(Debug)]
pub(crate) struct PreparedMounts<'a> {
    mounts: Vec<PreparedMount<'a>>,
    view: Option<GroupView>,
    /// Whether control groups are shown read-only even if nobody asks for it.
    protect_groups: bool,
}

/// Opens the sources of bind mounts, while the host's root is still there, with the rights of
/// the caller. A relative source is relative to the caller's working directory; who knows of a
/// bundle calls [`Spec::anchor`] before.
///
/// # Errors
/// [`BirthError`].
pub(crate) fn prepare<'a>(
    plan: &Plan<'a>,
    kinds: Namespaces,
) -> Result<PreparedMounts<'a>, BirthError> {
    let spec = plan.spec;
    let linux = spec.linux.as_ref();
    let mut lenders = Lenders::default();
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    let mut shows_groups = false;
    for mount in &spec.mounts {
        let mut options = options::parse(&mount.options);
        let mut source = None;
        if mount.is_bind() {
            let opened = match open_source(mount, &options) {
                // The child may, in its own user namespace.
                Err(BirthError::Step { source, .. })
                    if kinds.makes_user
                        && is_refused(&source)
                        && options.id_map.is_none()
                        && mount.uid_mappings.is_empty() =>
                {
                    None
                }
                other => Some(other?),
            };
            if let Some(opened) = &opened
                && (options.id_map.is_some() || !mount.uid_mappings.is_empty())
            {
                let deep = options.id_map.unwrap_or(false);
                map_ids(opened.as_fd(), mount, deep, plan, kinds, &mut lenders)?;
            }
            source = opened;
        } else if options.id_map.is_some() {
            return Err(BirthError::Invalid(format!(
                "mounts: {}: only bind mounts can be id-mapped",
                mount.destination
            )));
        } else if let Some(label) = linux.map(|linux| &linux.mount_label)
            && !label.is_empty()
        {
            add_label(&mut options, &mount.kind, label)?;
        }
        shows_groups |= matches!(&*mount.kind, "cgroup" | "cgroup2");
        mounts.push(PreparedMount {
            spec: mount,
            options,
            source,
        });
    }
    let own_groups = kinds.makes_cgroup
        || plan
            .joined
            .iter()
            .any(|(kind, _)| *kind == NamespaceKind::Cgroup);
    let view = match plan.group {
        Some(group) if shows_groups && !own_groups && rustix::process::geteuid().is_root() => {
            Some(group_mounts::view(plan.layout, group)?)
        }
        _ => None,
    };
    Ok(PreparedMounts {
        mounts,
        view,
        // Whoever has no rights on the host would have them on the host's groups
        // (CVE-2023-25809).
        protect_groups: !own_groups && (kinds.other_user || !rustix::process::geteuid().is_root()),
    })
}

fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PERM.raw_os_error())
}

fn add_label(options: &mut MountOptions, kind: &str, label: &str) -> Result<(), BirthError> {
    if rustix::fs::stat("/sys/fs/selinux").is_err() {
        return Err(BirthError::Invalid(
            "linux.mountLabel: SELinux is not enabled".into(),
        ));
    }
    if !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2") {
        options.data.push(("context".into(), Some(label.into())));
    }
    Ok(())
}

fn map_ids<'a>(
    source: BorrowedFd<'_>,
    mount: &'a Mount,
    deep: bool,
    plan: &Plan<'a>,
    kinds: Namespaces,
    lenders: &mut Lenders<'a>,
) -> Result<(), BirthError> {
    let failed = || format!("cannot map the ids of mount {}", mount.destination);
    let map = |namespace: &OwnedFd| {
        gantry_sys::mount::set_id_mapping(source, namespace.as_fd(), deep).step(failed)
    };
    if !mount.uid_mappings.is_empty() {
        return map(lenders.namespace(&mount.uid_mappings, &mount.gid_mappings)?);
    }
    // Without mappings of its own it has those of the container.
    let joined = plan
        .joined
        .iter()
        .find(|(kind, _)| *kind == NamespaceKind::User);
    match (joined, &plan.spec.linux) {
        (Some((_, namespace)), _) => map(namespace),
        (None, Some(linux)) if kinds.makes_user => {
            map(lenders.namespace(&linux.uid_mappings, &linux.gid_mappings)?)
        }
        _ => Err(BirthError::Invalid(format!(
            "mounts: {}: idmap needs uidMappings and gidMappings, or a user namespace",
            mount.destination
        ))),
    }
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

/// Makes all mounts below `root`, which is attached in the calling process's mount namespace,
/// and the devices.
///
/// # Errors
/// [`BirthError`].
pub(crate) fn make_all(
    root: BorrowedFd<'_>,
    prepared: PreparedMounts<'_>,
    linux: Option<&Linux>,
    layout: &Layout,
) -> Result<(), BirthError> {
    let devices = linux.map_or(&[][..], |linux| &linux.devices);
    let mut has_dev = false;
    for mut mount in prepared.mounts {
        let destination = path::clean(&mount.spec.destination);
        if destination == "/" {
            return Err(BirthError::Invalid(format!(
                "invalid mount destination {:?}: it must not be the root",
                mount.spec.destination
            )));
        }
        has_dev |= destination == "/dev";
        let failed = || format!("cannot mount {} on {destination}", describe(mount.spec));
        if mount.spec.is_bind() {
            let opened;
            let source = match &mount.source {
                Some(source) => source,
                None => {
                    opened = open_source(mount.spec, &mount.options)?;
                    &opened
                }
            };
            bind(root, source.as_fd(), &destination, &mount).step(failed)?;
            continue;
        }
        match &*mount.spec.kind {
            "cgroup" | "cgroup2" => {
                if prepared.protect_groups {
                    mount.options.attributes.set |= RDONLY;
                    mount.options.attributes.clear &= !RDONLY;
                }
                let target = target_directory(root, &destination)?;
                let view = prepared.view.as_ref();
                group_mounts::show(
                    root,
                    target.as_fd(),
                    &destination,
                    &mount.options,
                    layout,
                    view,
                )
                .step(|| format!("cannot mount {} on {destination}", describe(mount.spec)))?;
            }
            kind => {
                if kind == "tmpfs" && !mount.options.data.iter().any(|(key, _)| key == "mode") {
                    keep_mode(root, &destination, &mut mount.options);
                }
                let target = target_directory(root, &destination)?;
                let failed = || format!("cannot mount {kind} on {destination}");
                if !["proc", "sysfs"].contains(&kind) {
                    check_target(root, target.as_fd()).step(failed)?;
                }
                // Read-only last, where it still has to be filled.
                let fills = mount.options.copy_up || destination == "/dev";
                let made =
                    new_mount(kind, &mount.spec.source, &mount.options, fills).step(failed)?;
                if mount.options.copy_up {
                    let from =
                        path::open_in_root(root, &destination, OFlags::RDONLY | OFlags::DIRECTORY)
                            .step(failed)?;
                    let to = open_directory(made.as_fd()).step(failed)?;
                    copy_tree(from.as_fd(), to.as_fd()).step(failed)?;
                }
                let mut bound = Vec::new();
                if destination == "/dev" {
                    bound = devices::fill(made.as_fd(), devices)?;
                }
                if fills && flags_of(&mount.options) & RDONLY != 0 {
                    set_attributes(made.as_fd(), READ_ONLY, false).step(failed)?;
                }
                attach(made.as_fd(), target.as_fd(), "").step(failed)?;
                devices::bind_all(root, &bound)?;
            }
        }
    }
    if !has_dev {
        let dev = target_directory(root, "/dev")?;
        let bound = devices::fill(dev.as_fd(), devices)?;
        devices::bind_all(root, &bound)?;
    }
    devices::make_elsewhere(root, devices)
}

/// Without a mode of its own a tmpfs has the mode of what it covers, if there was something
/// (so has runc's, and images rely on it for their /tmp).
fn keep_mode(root: BorrowedFd<'_>, destination: &str, options: &mut MountOptions) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let covered = path::open_in_root(root, destination, flags)
        .and_then(|covered| Ok(rustix::fs::fstat(covered)?));
    if let Ok(covered) = covered {
        let mode = format!("{:o}", covered.st_mode & 0o7777);
        options.data.push(("mode".into(), Some(mode)));
    }
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
        let image = open_directory(target.as_fd())?;
        copy_up(image.as_fd(), source)?;
    }
    finish(source, &mount.options)?;
    attach(source, target.as_fd(), "")
}

/// Opens a directory for reading that is open as a path only.
fn open_directory(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}

/// Fills a volume that is still empty with what the image has at its place.
fn copy_up(image: BorrowedFd<'_>, volume: BorrowedFd<'_>) -> io::Result<()> {
    let volume = open_directory(volume)?;
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

const SYSFS_MAGIC: i64 = 0x6265_6572;

fn is_of(fd: BorrowedFd<'_>, magic: i64) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == magic)
}

fn is_procfs_or_sysfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(is_of(fd, path::PROC_SUPER_MAGIC)? || is_of(fd, SYSFS_MAGIC)?)
}

/// Applies attributes and propagation to a mount that is still attached nowhere.
pub(crate) fn finish(mount: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
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

pub(crate) const READ_ONLY: Attributes = Attributes {
    set: RDONLY,
    clear: 0,
    propagation: 0,
};

/// The attributes that a new mount begins with: there is nothing below it yet.
pub(crate) fn flags_of(options: &MountOptions) -> u64 {
    options.recursive_attributes.set & !options.attributes.clear | options.attributes.set
}

/// A new mount of a file system, attached nowhere. It is private as it is made, and has its
/// attributes, but for being read-only where it is to be `filled` first: no further system
/// call is needed for them.
pub(crate) fn new_mount(
    kind: &str,
    source: &str,
    options: &MountOptions,
    filled: bool,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(context.as_fd(), source, options).map_err(|errno| explain(&context, errno))?;
    let delayed = if filled { RDONLY } else { 0 };
    let flags = flags_of(options) & !delayed;
    let made = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(flags as u32),
    )?;
    if let Some((propagation, deep)) = options.propagation {
        let attributes = Attributes {
            propagation,
            ..Attributes::default()
        };
        set_attributes(made.as_fd(), attributes, deep)?;
    }
    Ok(made)
}

fn configure(context: BorrowedFd<'_>, source: &str, options: &MountOptions) -> Result<(), Errno> {
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context, "source", source)?;
    }
    // A read-only medium cannot be opened in any other way.
    if options.attributes.set & RDONLY != 0 && source.starts_with('/') {
        rustix::mount::fsconfig_set_flag(context, "ro")?;
    }
    for (key, value) in &options.data {
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(context, key.as_str(), value.as_str())?;
            }
            None => rustix::mount::fsconfig_set_flag(context, key.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(context)
}

/// Adds what the file system itself has to say on an error, such as the option's name.
fn explain(context: &OwnedFd, errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    let mut message = [0u8; 512];
    match rustix::io::read(context, &mut message) {
        Ok(length) if length > 2 => {
            let text = String::from_utf8_lossy(&message[2..length]);
            io::Error::new(error.kind(), format!("{error}: {}", text.trim_end()))
        }
        _ => error,
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
