//! Paths inside a container's root, resolved by openat2 and never by name twice.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path` below `root` as if `root` were `/`.
///
/// Magic links (`/proc/self/fd/N` and the like) are refused: they lead out of any root
/// (CVE-2024-21626 is one such way).
///
/// # Errors
/// The kernel's.
pub fn open_in_root(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// As [`open_in_root`], but fails with `ELOOP` where any part of the path is a symbolic link.
///
/// # Errors
/// The kernel's.
pub fn open_without_links(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

/// What fstatfs(2) says of procfs.
pub(crate) const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// As [`open_without_links`], but links of the file system itself (`/proc/self`) are followed,
/// and the path must not cross into another mount.
///
/// # Errors
/// The kernel's; `EXDEV` where something is mounted on the way.
pub(crate) fn open_on_same_mount(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    resolve(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
}

fn resolve(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    // With O_PATH the kernel refuses a mode; without O_CREAT it refuses one as well.
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from_raw_mode(0o644)
    } else {
        Mode::empty()
    };
    // A rename or mount elsewhere makes the resolution of `..` undecided: the kernel then
    // says EAGAIN. A busy host may need several rounds (runc met storms of them).
    let mut rounds = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, mode, how) {
            Err(Errno::AGAIN) if rounds < 128 => rounds += 1,
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Opens the directory `path` below `root`, making what is missing.
///
/// # Errors
/// The kernel's; `ENOTDIR` where a part is no directory.
pub fn make_directory(root: BorrowedFd<'_>, path: &str, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_in_root(root, path, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut prefix = String::with_capacity(path.len());
    let mut current = open_in_root(root, "/", flags)?;
    for component in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        prefix.push('/');
        prefix.push_str(component);
        current = match open_in_root(root, &prefix, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&current, component, Mode::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_in_root(root, &prefix, flags)?
            }
            other => other?,
        };
    }
    Ok(current)
}

/// Links that are followed on the way to a file that is to be made.
const MAX_LINKS: u32 = 16;

/// Opens the file `path` below `root` as a place to mount on, making it if it is missing.
///
/// A link that leads nowhere is followed inside the root, and what it names is made: many
/// images have `/etc/resolv.conf` as such a link.
///
/// # Errors
/// The kernel's.
pub fn make_file(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    make_file_through(root, path, MAX_LINKS)
}

fn make_file_through(root: BorrowedFd<'_>, path: &str, links: u32) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let parent = make_directory(root, directory, 0o755)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => open_in_root(parent.as_fd(), name, OFlags::PATH),
        Err(Errno::EXIST) if links > 0 => {
            let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
            let target = target
                .into_string()
                .map_err(|_| io::ErrorKind::InvalidData)?;
            let target = if target.starts_with('/') {
                target
            } else {
                format!("{directory}/{target}")
            };
            make_file_through(root, &clean(&target), links - 1)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a path of the host.
///
/// # Errors
/// The kernel's.
pub fn open_host(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        CWD,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The lexical form of an absolute path: no empty, `.` or `..` parts; `..` stops at the root.
#[must_use]
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for part in &parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/a//b/./c", "/a/b/c"),
            ("/../../etc", "/etc"),
            ("a/../b", "/b"),
            ("/a/b/..", "/a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn links_stay_inside_and_magic_links_are_refused() {
        let directory = std::env::temp_dir().join(format!("gantry-path-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("inner")).unwrap();
        std::fs::write(directory.join("inner/passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/inner", directory.join("etc")).unwrap();
        std::os::unix::fs::symlink("../../../..", directory.join("up")).unwrap();
        let root = open_host(directory.to_str().unwrap(), OFlags::PATH).unwrap();
        let file = open_in_root(root.as_fd(), "/etc/passwd", OFlags::RDONLY).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).unwrap();
        assert_eq!(text, "inside");
        open_in_root(root.as_fd(), "/up/inner", OFlags::PATH).unwrap();
        assert!(open_without_links(root.as_fd(), "/etc/passwd", OFlags::PATH).is_err());
        let host = open_host("/", OFlags::PATH).unwrap();
        // CVE-2024-21626: a descriptor of a host directory must not be reachable by name.
        assert!(open_in_root(host.as_fd(), "/proc/self/fd/0", OFlags::PATH).is_err());
        make_directory(root.as_fd(), "/etc/deep/er", 0o755).unwrap();
        assert!(directory.join("inner/deep/er").is_dir());
        make_file(root.as_fd(), "/x/y/file").unwrap();
        assert!(directory.join("x/y/file").is_file());
        // As systemd's images have it: a link to what is made at run time.
        std::os::unix::fs::symlink("../../../run/stub", directory.join("inner/resolv.conf"))
            .unwrap();
        make_file(root.as_fd(), "/etc/resolv.conf").unwrap();
        assert!(directory.join("run/stub").is_file());
        std::os::unix::fs::symlink("loop", directory.join("loop")).unwrap();
        assert!(make_file(root.as_fd(), "/loop").is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
