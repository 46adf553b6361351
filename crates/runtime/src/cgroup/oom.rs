//! Notice of processes that were killed for want of memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::group::{Group, Member};
use super::{CgroupError, file};

/// What a watch has seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OomEvent {
    /// The group ran out of memory: with version 2, processes were killed.
    OutOfMemory,
    /// The group is gone, or has no processes left. There will be no more events.
    Ended,
    /// Nothing of interest.
    Nothing,
}

/// A descriptor that becomes readable when a group runs out of memory.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// The directory of the group.
    directory: OwnedFd,
    /// Version 2: how many were killed when last looked at. Version 1 tells by itself.
    killed: Option<u64>,
}

impl Group {
    /// Begins to watch the group.
    ///
    /// # Errors
    /// [`CgroupError::Watch`], with `ENOENT` where the group has no memory controller.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        let member = match self.v1("memory").or_else(|| self.v2()) {
            Some(member) => member,
            None => {
                return Err(CgroupError::Watch {
                    path: self.path.clone(),
                    source: Errno::NOENT.into(),
                });
            }
        };
        let is_v2 = member.hierarchy.is_v2();
        let watch = if is_v2 {
            watch_v2(&member)
        } else {
            watch_v1(&member)
        };
        watch.map_err(|source| {
            let name = if is_v2 {
                "memory.events"
            } else {
                "memory.oom_control"
            };
            CgroupError::Watch {
                path: format!("{}/{name}", member.absolute()),
                source,
            }
        })
    }
}

fn watch_v1(member: &Member<'_>) -> io::Result<OomWatch> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let control = openat(member.directory, "memory.oom_control", flags, Mode::empty())?;
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let number = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd);
    let line = format!("{} {}", number(&fd), number(&control));
    file::write(member.directory, "cgroup.event_control", &line)?;
    Ok(OomWatch {
        fd,
        directory: member.directory.try_clone_to_owned()?,
        killed: None,
    })
}

fn watch_v2(member: &Member<'_>) -> io::Result<OomWatch> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let fd = inotify::init(flags)?;
    let absolute = member.absolute();
    for name in ["memory.events", "cgroup.events"] {
        let path = format!("{absolute}/{name}");
        inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)?;
    }
    // After the watch: what is killed in between is seen once, and not missed.
    let killed = count(member.directory)?;
    Ok(OomWatch {
        fd,
        directory: member.directory.try_clone_to_owned()?,
        killed: Some(killed),
    })
}

fn count(directory: BorrowedFd<'_>) -> io::Result<u64> {
    let text = file::read(directory, "memory.events")?;
    Ok(file::number_of_key(&text, "oom_kill").unwrap_or(0))
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomWatch {
    /// Looks what has happened, when the descriptor has become readable. Does not block.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&mut self) -> io::Result<OomEvent> {
        // Room for one event of inotify, which has no name here: a kill and the end that it
        // brings are two events, and the second must wake the caller again.
        let mut buffer = [0_u8; 16];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(OomEvent::Nothing),
            Err(error) => return Err(error.into()),
        }
        let Some(known) = self.killed else {
            // The removal of a group is told in the same way (cgroup-v1/memory.rst).
            let is_there = rustix::fs::accessat(
                &self.directory,
                "cgroup.event_control",
                rustix::fs::Access::EXISTS,
                rustix::fs::AtFlags::empty(),
            );
            return Ok(match is_there {
                Ok(()) => OomEvent::OutOfMemory,
                Err(_) => OomEvent::Ended,
            });
        };
        let gone = [Errno::NOENT, Errno::NODEV];
        let now = match count(self.directory.as_fd()) {
            Err(error) if gone.iter().any(|errno| file::is(&error, *errno)) => {
                return Ok(OomEvent::Ended);
            }
            result => result?,
        };
        if now > known {
            self.killed = Some(now);
            return Ok(OomEvent::OutOfMemory);
        }
        match file::read(self.directory.as_fd(), "cgroup.events") {
            Ok(text) if file::number_of_key(&text, "populated") == Some(0) => Ok(OomEvent::Ended),
            Err(error) if gone.iter().any(|errno| file::is(&error, *errno)) => Ok(OomEvent::Ended),
            _ => Ok(OomEvent::Nothing),
        }
    }
}
