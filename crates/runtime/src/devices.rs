//! Device nodes: made, or bound from the host where a user namespace forbids to make them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fstat, makedev, mknodat, openat, statat,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::error::{BirthError, Step};
use crate::path;
use crate::rootfs::attach;
use crate::spec::Device;

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

/// A node that could not be made, in whose place is an empty file.
#[derive(Debug)]
pub(crate) struct Bound {
    path: String,
    kind: FileType,
    number: u64,
}

/// Fills the directory of /dev: at best a fresh tmpfs that nobody else can reach yet, so that
/// no name in it can be a trap. Returns what has to be bound once it is attached.
///
/// # Errors
/// [`BirthError`].
pub(crate) fn fill(dev: BorrowedFd<'_>, devices: &[Device]) -> Result<Vec<Bound>, BirthError> {
    let mut bound = Vec::new();
    for (name, major, minor) in DEVICES {
        let node = Node {
            kind: FileType::CharacterDevice,
            number: makedev(major, minor),
            mode: 0o666,
        };
        if node.make(dev, name).step(|| "cannot fill /dev".into())? == Made::Placeholder {
            bound.push(node.bound(&format!("/dev/{name}")));
        }
    }
    for (name, target) in LINKS {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(error) => return Err(error).step(|| "cannot fill /dev".into()),
        }
    }
    for device in devices {
        let path = path::clean(&device.path);
        // The container's own leads into its devpts, whatever the host's is; Docker lists
        // the host's for a privileged container.
        if path == "/dev/ptmx" {
            continue;
        }
        if let Some(name) = path.strip_prefix("/dev/") {
            bound.extend(make(dev, name, &path, device)?);
        }
    }
    Ok(bound)
}

/// Makes the devices that are not below /dev.
///
/// # Errors
/// [`BirthError`].
pub(crate) fn make_elsewhere(root: BorrowedFd<'_>, devices: &[Device]) -> Result<(), BirthError> {
    for device in devices {
        let path = path::clean(&device.path);
        if !path.starts_with("/dev/") {
            let bound = make(root, &path, &path, device)?;
            bind_all(root, bound.as_slice())?;
        }
    }
    Ok(())
}

fn make(
    directory: BorrowedFd<'_>,
    name: &str,
    path: &str,
    device: &Device,
) -> Result<Option<Bound>, BirthError> {
    let failed = || format!("cannot make device {path}");
    let node = Node::of(device);
    let (parent, file) = name.rsplit_once('/').unwrap_or(("", name));
    let parent = path::make_directory(directory, &format!("/{parent}"), 0o755).step(failed)?;
    match node.make(parent.as_fd(), file).step(failed)? {
        Made::Placeholder => return Ok(Some(node.bound(path))),
        Made::Foreign => {
            return Err(BirthError::Invalid(format!(
                "linux.devices: {path} is there already, as something else"
            )));
        }
        Made::Refused => return Err(Errno::ROFS).step(failed),
        Made::Node => {}
    }
    // Opened as a path and looked at again: nothing else gets the mode and the owner.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&parent, file, flags, Mode::empty()).step(failed)?;
    let stat = fstat(&made).step(failed)?;
    if (stat.st_uid, stat.st_gid) != (device.uid, device.gid) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).step(failed)?;
    }
    Ok(None)
}

struct Node {
    kind: FileType,
    number: u64,
    mode: u32,
}

#[derive(Debug, Eq, PartialEq)]
enum Made {
    /// It is there.
    Node,
    /// It may not be made here: an empty file is in its place.
    Placeholder,
    /// Something else is there.
    Foreign,
    /// The file system is read-only.
    Refused,
}

impl Node {
    fn of(device: &Device) -> Node {
        let kind = match &*device.kind {
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let number = match kind {
            FileType::Fifo => 0,
            _ => makedev(device.major, device.minor),
        };
        Node {
            kind,
            number,
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        }
    }

    fn bound(&self, path: &str) -> Bound {
        Bound {
            path: path.to_owned(),
            kind: self.kind,
            number: self.number,
        }
    }

    fn make(&self, directory: BorrowedFd<'_>, name: &str) -> io::Result<Made> {
        let mode = Mode::from_raw_mode(self.mode);
        match mknodat(directory, name, self.kind, mode, self.number) {
            Ok(()) => Ok(Made::Node),
            Err(Errno::EXIST) => {
                let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let same = FileType::from_raw_mode(found.st_mode) == self.kind
                    && (self.kind == FileType::Fifo || found.st_rdev == self.number);
                if !same {
                    return Ok(Made::Foreign);
                }
                if found.st_mode & 0o7777 != self.mode {
                    // Made anew: a change of the mode would follow a link.
                    rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                    mknodat(directory, name, self.kind, mode, self.number)?;
                }
                Ok(Made::Node)
            }
            Err(Errno::PERM) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
                Ok(Made::Placeholder)
            }
            Err(Errno::ROFS) => Ok(Made::Refused),
            Err(error) => Err(error.into()),
        }
    }
}

/// Binds devices of the host, which is still the calling process's root.
///
/// # Errors
/// [`BirthError`]; also where the host has another device at the path.
pub(crate) fn bind_all(root: BorrowedFd<'_>, bound: &[Bound]) -> Result<(), BirthError> {
    for device in bound {
        bind(root, device).step(|| format!("cannot bind device {}", device.path))?;
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, device: &Bound) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let source = rustix::mount::open_tree(CWD, &*device.path, flags)?;
    let stat = fstat(&source)?;
    if FileType::from_raw_mode(stat.st_mode) != device.kind || stat.st_rdev != device.number {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the host has another device there",
        ));
    }
    let target = path::open_in_root(root, &device.path, OFlags::PATH | OFlags::NOFOLLOW)?;
    attach(source.as_fd(), target.as_fd(), "")
}
