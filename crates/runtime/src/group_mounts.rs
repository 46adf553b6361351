//! Control groups as file systems of a container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::mount::{RDONLY, set_attributes};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::cgroup::{Group, Layout};
use crate::error::{BirthError, Step};
use crate::mounts::{READ_ONLY, finish, flags_of, new_mount};
use crate::options::MountOptions;
use crate::path;
use crate::rootfs::attach;

/// The control groups of a container without a cgroup namespace: bind mounts.
#[derive(Debug)]
pub(crate) struct GroupView {
    /// The container's own group in each hierarchy of version 1, by the directory's name.
    v1: Vec<(String, OwnedFd)>,
    /// All of version 2: a process finds its group there by /proc/self/cgroup.
    v2: Option<OwnedFd>,
}

/// Opens what is shown, with the rights of the caller.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn view(layout: &Layout, group: &Group) -> Result<GroupView, BirthError> {
    let open = |path: String| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, &*path, flags)
            .step(|| format!("cannot open control group {path}"))
    };
    let mut view = GroupView {
        v1: Vec::new(),
        v2: None,
    };
    match layout.v1_hierarchies() {
        Some(hierarchies) => {
            let path = group.path().trim_start_matches('/');
            for hierarchy in hierarchies {
                let directory = open(format!("{}/{path}", hierarchy.mount_point()))?;
                view.v1
                    .push((hierarchy.directory_name().to_owned(), directory));
            }
        }
        None => {
            if let Some(hierarchy) = layout.v2() {
                view.v2 = Some(open(hierarchy.mount_point().to_owned())?);
            }
        }
    }
    Ok(view)
}

/// The control groups of the container's cgroup namespace, as `/sys/fs/cgroup` shows them, or
/// those of `view`.
///
/// # Errors
/// The kernel's.
pub(crate) fn show(
    root: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    destination: &str,
    asked: &MountOptions,
    layout: &Layout,
    view: Option<&GroupView>,
) -> io::Result<()> {
    let with_data = |data| MountOptions {
        data,
        ..asked.clone()
    };
    let Some(hierarchies) = layout.v1_hierarchies() else {
        if let Some(shown) = view.and_then(|view| view.v2.as_ref()) {
            finish(shown.as_fd(), asked)?;
            return attach(shown.as_fd(), target, "");
        }
        let made = new_mount("cgroup2", "cgroup", &with_data(Vec::new()), false)?;
        return attach(made.as_fd(), target, "");
    };
    let mode = vec![("mode".to_owned(), Some("755".to_owned()))];
    // Read-only last: the directories below have to be made first.
    let top = new_mount("tmpfs", "tmpfs", &with_data(mode), true)?;
    attach(top.as_fd(), target, "")?;
    for hierarchy in hierarchies {
        let name = hierarchy.directory_name();
        let bound = view.and_then(|view| view.v1.iter().find(|(known, _)| known == name));
        let made;
        let shown = match bound {
            Some((_, bound)) => {
                finish(bound.as_fd(), asked)?;
                bound
            }
            None => {
                let options = with_data(hierarchy.mount_options());
                made = new_mount("cgroup", "cgroup", &options, false)?;
                &made
            }
        };
        rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))?;
        let place = path::open_in_root(root, &format!("{destination}/{name}"), OFlags::PATH)?;
        attach(shown.as_fd(), place.as_fd(), "")?;
    }
    if flags_of(asked) & RDONLY != 0 {
        set_attributes(top.as_fd(), READ_ONLY, false)?;
    }
    Ok(())
}
