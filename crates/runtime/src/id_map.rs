//! The ids of user namespaces: written for a container's own, and lent to id-mapped mounts.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use gantry_sys::process::{Clone3, Fork, clone3, exit_now};
use rustix::fs::OFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::error::{BirthError, Step};
use crate::namespaces::flags::NEWUSER;
use crate::path;
use crate::spec::IdMapping;

/// Lines that the kernel takes in one map (Linux 4.15).
const MAX_LINES: usize = 340;

/// What it takes in one write is less than a page.
const MAX_BYTES: usize = 4096;

/// Checks mappings: `field` names them in errors.
///
/// # Errors
/// [`BirthError::Invalid`].
pub(crate) fn check(field: &str, mappings: &[IdMapping]) -> Result<(), BirthError> {
    let invalid = |reason: &str| Err(BirthError::Invalid(format!("{field}: {reason}")));
    // The kernel would refuse it with a bare EINVAL; what is left out must never be silent
    // (CVE-2021-43784).
    if mappings.len() > MAX_LINES {
        return invalid(&format!(
            "{} ranges are more than the kernel takes, {MAX_LINES}",
            mappings.len()
        ));
    }
    if lines(mappings).len() >= MAX_BYTES {
        return invalid(&format!(
            "{} ranges are more text than the kernel takes, a page",
            mappings.len()
        ));
    }
    for (index, mapping) in mappings.iter().enumerate() {
        let fits = |first: u32| first.checked_add(mapping.size).is_some();
        if mapping.size == 0 {
            return invalid(&format!("range {index} has the size 0"));
        }
        if !fits(mapping.container_id) || !fits(mapping.host_id) {
            return invalid(&format!("range {index} ends above the highest id"));
        }
    }
    Ok(())
}

/// The id outside of a namespace that is `id` in it.
pub(crate) fn outside(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings
        .iter()
        .find(|mapping| mapping.container_id <= id && id - mapping.container_id < mapping.size)
        .map(|mapping| mapping.host_id + (id - mapping.container_id))
}

/// Writes the maps of the user namespace that the process `pid`, a child that waits, has been
/// cloned into.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn write(pid: i32, users: &[IdMapping], groups: &[IdMapping]) -> Result<(), BirthError> {
    let failed = |file: &str| format!("cannot write the {file} of the user namespace");
    write_file(pid, "uid_map", &lines(users))
        .or_else(|error| by_helper("newuidmap", pid, users, error))
        .step(|| failed("uid_map"))?;
    let text = lines(groups);
    let privileged = rustix::process::geteuid().is_root();
    if !privileged && groups.len() == 1 && groups[0].size == 1 {
        // Who may not set groups may not map one either, until nobody inside can drop a group
        // by which access was denied (user_namespaces(7)).
        write_file(pid, "setgroups", "deny").step(|| failed("setgroups"))?;
    }
    write_file(pid, "gid_map", &text)
        .or_else(|error| by_helper("newgidmap", pid, groups, error))
        .step(|| failed("gid_map"))
}

/// Reads a map, `uid_map` or `gid_map`, of a process; nothing where it cannot be read.
pub(crate) fn read(pid: i32, file: &str) -> Vec<IdMapping> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdMapping {
                container_id: next()?,
                host_id: next()?,
                size: next()?,
            })
        })
        .collect()
}

fn write_file(pid: i32, file: &str, text: &str) -> io::Result<()> {
    let fd = path::open_host(&format!("/proc/{pid}/{file}"), OFlags::WRONLY)?;
    // In one piece: the kernel takes one write for the whole map (CVE-2021-43784: and no
    // length is computed here).
    let written = rustix::io::write(&fd, text.as_bytes())?;
    if written == text.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// An unprivileged user's ranges are given out by set-uid programs (shadow's).
fn by_helper(program: &str, pid: i32, mappings: &[IdMapping], error: io::Error) -> io::Result<()> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    let numbers = mappings
        .iter()
        .flat_map(|mapping| [mapping.container_id, mapping.host_id, mapping.size]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(_) => Err(error),
    }
}

fn lines(mappings: &[IdMapping]) -> String {
    let mut text = String::new();
    for mapping in mappings {
        let _ = writeln!(
            text,
            "{} {} {}",
            mapping.container_id, mapping.host_id, mapping.size
        );
    }
    text
}

/// User namespaces for id-mapped mounts, one for all mounts with the same mappings.
#[derive(Debug, Default)]
pub(crate) struct Lenders<'a> {
    made: Vec<(&'a [IdMapping], &'a [IdMapping], OwnedFd)>,
}

impl<'a> Lenders<'a> {
    /// A user namespace with these mappings.
    ///
    /// # Errors
    /// [`BirthError::Step`].
    pub(crate) fn namespace(
        &mut self,
        users: &'a [IdMapping],
        groups: &'a [IdMapping],
    ) -> Result<&OwnedFd, BirthError> {
        let known = self.made.iter().position(|(known_users, known_groups, _)| {
            *known_users == users && *known_groups == groups
        });
        let index = match known {
            Some(index) => index,
            None => {
                self.made.push((users, groups, make(users, groups)?));
                self.made.len() - 1
            }
        };
        Ok(&self.made[index].2)
    }
}

/// A user namespace that has no process: the one it is made with ends at once.
fn make(users: &[IdMapping], groups: &[IdMapping]) -> Result<OwnedFd, BirthError> {
    let failed = || "cannot make a user namespace for an id-mapped mount".to_owned();
    let (waits, open) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(failed)?;
    let options = Clone3 {
        flags: NEWUSER,
        cgroup: None,
    };
    match clone3(options).step(failed)? {
        Fork::Child => {
            drop(open);
            let _ = rustix::io::read(&waits, &mut [0u8; 1]);
            exit_now(0)
        }
        Fork::Parent(child) => {
            drop(waits);
            let namespace = write(child.pid, users, groups).and_then(|()| {
                path::open_host(&format!("/proc/{}/ns/user", child.pid), OFlags::RDONLY)
                    .step(failed)
            });
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            let _ =
                rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            namespace
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping {
            container_id,
            host_id,
            size,
        }
    }

    #[test]
    fn ids_are_found_outside() {
        let mappings = [range(0, 1000, 1), range(1, 100_000, 65_536)];
        for (id, expected) in [
            (0, Some(1000)),
            (1, Some(100_000)),
            (65_536, Some(165_535)),
            (65_537, None),
        ] {
            assert_eq!(outside(&mappings, id), expected, "{id}");
        }
    }

    // R21, CVE-2021-43784: a list beyond what the kernel takes is refused and not cut.
    #[test]
    fn mappings_that_the_kernel_cannot_take_are_refused_by_name() {
        let many: Vec<IdMapping> = (0..341).map(|id| range(id, id, 1)).collect();
        let high: Vec<IdMapping> = (0..330).map(|id| range(id, 200_000 + id, 1)).collect();
        for (mappings, part) in [
            (&many[..], "341 ranges"),
            (&high[..], "330 ranges are more text"),
            (&[range(0, 0, 0)], "size 0"),
            (&[range(0, u32::MAX, 2)], "highest id"),
        ] {
            let error = check("linux.uidMappings", mappings)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("linux.uidMappings: ") && error.contains(part),
                "{error}"
            );
        }
        check("linux.uidMappings", &many[..340]).unwrap();
    }
}
