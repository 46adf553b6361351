//! Supervisors that are started, at best before anything else.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_runtime::sealed::clone_read_only;
use gantry_supervisor::socket;
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::Error;
use crate::operation::Operation;
use crate::{Roots, names, paths};

/// The beginning of a [`Engine::run`] that needs nothing of the installation's state: the
/// container's id, and a supervisor that comes to life while the state is read and the
/// container is made, which takes about as long.
///
/// Dropped, it leaves a mark by which the next command removes what there is.
#[derive(Debug)]
pub struct HeadStart {
    pub(crate) id: String,
    pub(crate) operation: Operation,
    pub(crate) supervisor: OwnedFd,
}

impl HeadStart {
    /// Starts a supervisor for a container that is to have a sandbox of its own. `None`
    /// where it cannot be: the run itself says why.
    #[must_use]
    pub fn begin(roots: &Roots) -> Option<HeadStart> {
        let id = names::random_id();
        let operation = Operation::begin(roots, &id).ok()?;
        match spawn_supervisor(&roots.sandbox(&id)) {
            Ok(supervisor) => Some(HeadStart {
                id,
                operation,
                supervisor,
            }),
            Err(_) => {
                if paths::remove_directory(&roots.sandbox(&id)).is_ok() {
                    operation.finish();
                }
                None
            }
        }
    }
}

/// Starts a supervisor and returns the connection to it.
///
/// It is executed from a detached, read-only clone of its own file: a container whose
/// program is /proc/self/exe would otherwise get hold of the file on the host
/// (CVE-2019-5736). The clone is closed before anything is ordered, and from then on
/// nobody can change its protection, not even with CAP_SYS_ADMIN: it is in no mount
/// namespace any more.
pub(crate) fn spawn_supervisor(directory: &Path) -> Result<OwnedFd, Error> {
    paths::private_directory(directory)?;
    let program = companion("gantry-supervisor")?;
    let fail = |source| Error::Path {
        action: "start the supervisor",
        path: program.clone(),
        source,
    };
    let lock = lock(directory).map_err(fail)?;
    #[cfg(target_arch = "x86_64")]
    if let Some(supervisor) = gantry_sys::early::take_supervisor()
        && socket::hand_over(&supervisor, directory, &lock).is_ok()
    {
        return Ok(supervisor);
    }
    let sealed = clone_read_only(&program).map_err(fail)?;
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| fail(errno.into()))?;
    Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
        .arg0("gantry-supervisor")
        .arg(directory)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(lock))
        .stderr(Stdio::null())
        .spawn()
        .map_err(fail)?;
    Ok(ours)
}

/// What is held while a supervisor lives.
fn lock(directory: &Path) -> std::io::Result<OwnedFd> {
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join(socket::LOCK))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock.into())
}

/// A program that lies beside this one.
fn companion(name: &str) -> Result<PathBuf, Error> {
    let this = std::env::current_exe().map_err(|source| Error::Path {
        action: "find",
        path: "/proc/self/exe".into(),
        source,
    })?;
    Ok(this.with_file_name(name))
}
