//! Making, finding and removing groups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::layout::{Hierarchy, Layout};
use super::placement::Unit;
use super::unit::Keeper;
use super::{CgroupError, file};

/// Controllers of version 2 that a group needs for the limits that exist.
const WANTED: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// How long a group that was just emptied is given to let go of its last task.
const REMOVE_PATIENCE: Duration = Duration::from_millis(500);

/// Levels of groups inside a group that are followed; each holds a descriptor open.
pub(super) const MAX_DEPTH: usize = 256;

/// A control group, in all hierarchies that have it.
#[derive(Debug)]
pub struct Group {
    pub(super) layout: Layout,
    pub(super) path: String,
    /// The directories, each with the index of its hierarchy.
    directories: Vec<(usize, OwnedFd)>,
    /// Whether hierarchies that could not be written to were left out.
    pub(super) rootless: bool,
    /// The unit of systemd's that the group belongs to.
    pub(super) unit: Option<Unit>,
    /// Keeps the unit alive until the group is dropped.
    pub(super) keeper: Option<Keeper>,
}

/// The directory of a group in one hierarchy.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) hierarchy: &'a Hierarchy,
    pub(super) directory: BorrowedFd<'a>,
    pub(super) path: &'a str,
}

impl Member<'_> {
    /// Absolute path of the directory.
    pub(super) fn absolute(&self) -> String {
        format!("{}/{}", self.hierarchy.mount_point(), self.path)
    }

    pub(super) fn read(&self, name: &str) -> Result<String, CgroupError> {
        file::read(self.directory, name).map_err(|source| CgroupError::Read {
            path: format!("{}/{name}", self.absolute()),
            source,
        })
    }

    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), CgroupError> {
        let result = file::write(self.directory, name, value);
        result.map_err(|source| self.write_error(name, value, source))
    }

    pub(super) fn write_error(&self, name: &str, value: &str, source: io::Error) -> CgroupError {
        CgroupError::Write {
            path: format!("{}/{name}", self.absolute()),
            value: value.to_owned(),
            source,
        }
    }
}

impl Group {
    /// Makes a group, and the groups above it, in every hierarchy.
    ///
    /// `path` is relative to the root of the hierarchies; a leading slash is ignored. A
    /// group that exists is taken over if no process is in it or below it, and thawed. In
    /// a cpuset hierarchy of version 1 the processors and memory nodes are those of the
    /// group above; in version 2 the controllers that limits need are enabled from the
    /// root down, where the host has them there.
    ///
    /// # Errors
    /// [`CgroupError`]; every directory that the call made is removed again.
    pub fn create(layout: &Layout, path: &str) -> Result<Group, CgroupError> {
        Group::create_with(layout, path, Creation::default())
    }

    pub(super) fn create_with(
        layout: &Layout,
        path: &str,
        creation: Creation,
    ) -> Result<Group, CgroupError> {
        let path = checked_path(path)?;
        if layout.hierarchies().is_empty() {
            return Err(CgroupError::NoHierarchy);
        }
        let mut made = Vec::new();
        let result = create_in_all(layout, path, creation, &mut made);
        if result.is_err() {
            for directory in made.iter().rev() {
                let _ = unlinkat(CWD, directory, AtFlags::REMOVEDIR);
            }
        }
        Ok(Group {
            layout: layout.clone(),
            path: path.to_owned(),
            directories: result?,
            rootless: creation.rootless,
            unit: None,
            keeper: None,
        })
    }

    /// Opens a group that exists in at least one hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`], [`CgroupError::Open`] or [`CgroupError::InvalidPath`].
    pub fn open(layout: &Layout, path: &str) -> Result<Group, CgroupError> {
        let path = checked_path(path)?;
        let mut directories = Vec::with_capacity(layout.hierarchies().len());
        for (index, hierarchy) in layout.hierarchies().iter().enumerate() {
            let absolute = absolute(hierarchy, path);
            match open_directory(CWD, &absolute) {
                Ok(directory) => directories.push((index, directory)),
                Err(Errno::NOENT) => {}
                Err(error) => {
                    return Err(CgroupError::Open {
                        path: absolute,
                        source: error.into(),
                    });
                }
            }
        }
        if directories.is_empty() {
            return Err(CgroupError::NotFound {
                path: path.to_owned(),
            });
        }
        Ok(Group {
            layout: layout.clone(),
            path: path.to_owned(),
            directories,
            rootless: false,
            unit: None,
            keeper: None,
        })
    }

    /// A group without any directory: what is left where an unprivileged caller may make
    /// none.
    pub(super) fn without_directories(layout: &Layout, path: &str) -> Group {
        Group {
            layout: layout.clone(),
            path: path.to_owned(),
            directories: Vec::new(),
            rootless: true,
            unit: None,
            keeper: None,
        }
    }

    /// Path below the root of the hierarchies, without a leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Removes the group, and groups that were made inside it, from every hierarchy.
    ///
    /// What is gone already is no error. A group that has just lost its last process may
    /// be busy for a moment; that is waited for, up to half a second.
    ///
    /// # Errors
    /// [`CgroupError::Remove`], after all hierarchies were tried.
    pub fn remove(&self) -> Result<(), CgroupError> {
        super::unit::stop(self.unit.as_ref())?;
        remove_checked(&self.layout, &self.path)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.directories.iter().map(|(index, directory)| Member {
            hierarchy: &self.layout.hierarchies()[*index],
            directory: directory.as_fd(),
            path: &self.path,
        })
    }

    /// The directory in the version 1 hierarchy of a controller.
    pub(super) fn v1(&self, controller: &str) -> Option<Member<'_>> {
        self.members()
            .find(|member| member.hierarchy.has(controller))
    }

    /// The directory in the version 2 hierarchy.
    pub(super) fn v2(&self) -> Option<Member<'_>> {
        self.members().find(|member| member.hierarchy.is_v2())
    }
}

/// Removes a group as [`Group::remove`] does, without opening it first.
///
/// # Errors
/// [`CgroupError::InvalidPath`] or [`CgroupError::Remove`].
pub fn remove_by_path(layout: &Layout, path: &str) -> Result<(), CgroupError> {
    remove_checked(layout, checked_path(path)?)
}

/// Paths of all groups that begin with `prefix`, in any hierarchy, sorted.
///
/// The prefix may end within a name: `gantry-` finds the groups of every installation.
/// Directories that cannot be read, because they have just gone, are skipped.
#[must_use]
pub fn list(layout: &Layout, prefix: &str) -> Vec<String> {
    let prefix = prefix.trim_start_matches('/');
    let (parent, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let mut found = Vec::new();
    for hierarchy in layout.hierarchies() {
        let top = absolute(hierarchy, parent);
        let Ok(directory) = open_directory(CWD, &top) else {
            continue;
        };
        let mut path = parent.to_owned();
        collect(&directory, &mut path, start, 0, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn collect(
    directory: &OwnedFd,
    path: &mut String,
    start: &str,
    depth: usize,
    found: &mut Vec<String>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    for name in children(directory.as_fd()).unwrap_or_default() {
        if !name.starts_with(start) {
            continue;
        }
        let length = path.len();
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
        found.push(path.clone());
        if let Ok(child) = open_directory(directory.as_fd(), &name) {
            collect(&child, path, "", depth + 1, found);
        }
        path.truncate(length);
    }
}

/// A path without its leading slash, if every part of it names a group.
pub(super) fn checked_path(path: &str) -> Result<&str, CgroupError> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let is_valid = relative.len() < 4000
        && relative
            .split('/')
            .all(|name| !matches!(name, "" | "." | "..") && !name.contains(['\0', '\n']));
    if is_valid {
        Ok(relative)
    } else {
        Err(CgroupError::InvalidPath {
            path: path.to_owned(),
        })
    }
}

pub(super) fn absolute(hierarchy: &Hierarchy, path: &str) -> String {
    format!("{}/{path}", hierarchy.mount_point())
}

pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Names of the groups directly inside a group.
pub(super) fn children(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory
            && let Ok(name) = name.to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn create_in_all(
    layout: &Layout,
    path: &str,
    creation: Creation,
    made: &mut Vec<String>,
) -> Result<Vec<(usize, OwnedFd)>, CgroupError> {
    let mut directories = Vec::with_capacity(layout.hierarchies().len());
    for (index, hierarchy) in layout.hierarchies().iter().enumerate() {
        let absolute = absolute(hierarchy, path);
        let is_new = match make(hierarchy, path, made) {
            Err(CgroupError::Create { source, .. }) if creation.rootless && is_denied(&source) => {
                continue;
            }
            result => result?,
        };
        let directory = open_directory(CWD, &absolute).map_err(|error| CgroupError::Open {
            path: absolute.clone(),
            source: error.into(),
        })?;
        let member = Member {
            hierarchy,
            directory: directory.as_fd(),
            path,
        };
        // Delegation is of some of the files too: a directory of somebody else's may be
        // there whose processes are none of ours.
        if creation.rootless && !is_writable(&member) {
            continue;
        }
        if !is_new && !creation.shared {
            take_over(&member)?;
        }
        if hierarchy.has("cpuset") {
            fill_cpuset(&member)?;
        }
        if hierarchy.is_v2() {
            enable_controllers(&member, &WANTED)?;
        }
        directories.push((index, directory));
    }
    Ok(directories)
}

/// How a group is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Creation {
    /// Hierarchies that the caller may not write to are left out.
    pub(super) rootless: bool,
    /// Somebody else made the directories, and processes may be in them.
    pub(super) shared: bool,
}

pub(super) fn is_denied(error: &io::Error) -> bool {
    [Errno::ACCESS, Errno::PERM, Errno::ROFS]
        .iter()
        .any(|errno| file::is(error, *errno))
}

fn is_writable(member: &Member<'_>) -> bool {
    rustix::fs::accessat(
        member.directory,
        "cgroup.procs",
        rustix::fs::Access::WRITE_OK,
        AtFlags::EACCESS,
    )
    .is_ok()
}

/// Makes a directory and those above it; whether it was not there before.
fn make(hierarchy: &Hierarchy, path: &str, made: &mut Vec<String>) -> Result<bool, CgroupError> {
    let absolute = absolute(hierarchy, path);
    let mode = Mode::from_raw_mode(0o755);
    let mut result = mkdirat(CWD, &absolute, mode);
    // Only the first group of an installation lacks its parent.
    if result == Err(Errno::NOENT)
        && let Some((parent, _)) = path.rsplit_once('/')
    {
        make(hierarchy, parent, made)?;
        result = mkdirat(CWD, &absolute, mode);
    }
    match result {
        Ok(()) => {
            made.push(absolute);
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(CgroupError::Create {
            path: absolute,
            source: error.into(),
        }),
    }
}

/// Takes over a group that was there, unless a process is in it or below it.
fn take_over(member: &Member<'_>) -> Result<(), CgroupError> {
    if !super::processes::processes_below(member)?.is_empty() {
        return Err(CgroupError::InUse {
            path: member.absolute(),
        });
    }
    // A process that joins a frozen group would stop in the middle of its birth.
    if member.hierarchy.is_v2() {
        member.write("cgroup.freeze", "0")?;
    }
    if member.hierarchy.has("freezer") {
        member.write("freezer.state", "THAWED")?;
    }
    Ok(())
}

/// Gives a cpuset of version 1, which begins empty, what the group above it has. Without
/// that no process can join it.
fn fill_cpuset(member: &Member<'_>) -> Result<(), CgroupError> {
    const NAMES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let mut empty = Vec::new();
    for name in NAMES {
        if member.read(name)?.trim_ascii().is_empty() {
            empty.push(name);
        }
    }
    if empty.is_empty() {
        return Ok(());
    }
    let above = member.path.rsplit_once('/').map_or("", |(above, _)| above);
    let absolute = absolute(member.hierarchy, above);
    let directory = open_directory(CWD, &absolute).map_err(|error| CgroupError::Open {
        path: absolute,
        source: error.into(),
    })?;
    let parent = Member {
        hierarchy: member.hierarchy,
        directory: directory.as_fd(),
        path: above,
    };
    // The root always has them.
    if !above.is_empty() {
        fill_cpuset(&parent)?;
    }
    for name in empty {
        member.write(name, parent.read(name)?.trim_ascii())?;
    }
    Ok(())
}

/// Enables controllers in all groups above one of version 2, where the root has them.
///
/// A controller that cannot be enabled, because a group above holds processes, is left
/// out: `apply` fails if a limit needs it. Enabling waits for an RCU grace period, so
/// what is enabled already, which is the rule, is found by reading.
pub(super) fn enable_controllers(member: &Member<'_>, wanted: &[&str]) -> Result<(), CgroupError> {
    let here = member.read("cgroup.controllers")?;
    let is_missing = |controllers: &str, name: &str| {
        !controllers
            .split_ascii_whitespace()
            .any(|known| known == name)
    };
    if !wanted.iter().any(|name| is_missing(&here, name)) {
        return Ok(());
    }
    let mut above = member.hierarchy.mount_point().to_owned();
    let names = member.path.split('/');
    for name in names {
        let directory = open_directory(CWD, &above).map_err(|error| CgroupError::Open {
            path: above.clone(),
            source: error.into(),
        })?;
        let read = |file_name: &str| {
            file::read(directory.as_fd(), file_name).map_err(|source| CgroupError::Read {
                path: format!("{above}/{file_name}"),
                source,
            })
        };
        let available = read("cgroup.controllers")?;
        // Beside version 1, version 2 has few controllers, and none of these.
        if wanted.iter().all(|name| is_missing(&available, name)) {
            break;
        }
        let enabled = read("cgroup.subtree_control")?;
        for name in wanted {
            if is_missing(&available, name) || !is_missing(&enabled, name) {
                continue;
            }
            let _ = file::write(
                directory.as_fd(),
                "cgroup.subtree_control",
                &format!("+{name}"),
            );
        }
        above.push('/');
        above.push_str(name);
    }
    Ok(())
}

pub(super) fn remove_checked(layout: &Layout, path: &str) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_PATIENCE;
    let mut failures = Vec::new();
    for hierarchy in layout.hierarchies() {
        let absolute = absolute(hierarchy, path);
        if let Err(error) = remove_tree(CWD, &absolute, 0, deadline) {
            failures.push((absolute, error.into()));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(CgroupError::Remove { failures })
    }
}

/// Removes a directory, its children first if it has any.
fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &str,
    depth: usize,
    deadline: Instant,
) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(200);
    loop {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if depth < MAX_DEPTH => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        // Busy is said of children and of processes alike.
        let directory = match open_directory(parent, name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let children = children(directory.as_fd()).unwrap_or_default();
        for child in &children {
            remove_tree(directory.as_fd(), child, depth + 1, deadline)?;
        }
        drop(directory);
        if children.is_empty() {
            if Instant::now() >= deadline {
                return Err(Errno::BUSY);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}
