//! Containers by another OCI runtime, through its command line.
//!
//! The worker forks a helper, a short-lived process of the same program that speaks the
//! language of a birth ([`gantry_runtime::birth`]) on its channel, so that the worker waits
//! for runc as it waits for a child of its own. The story, in order:
//!
//! worker: control group → fork the helper, in new mount and network namespaces → connect
//! the network → tell the other process of it → word to begin → helper: inner network →
//! overlay, in its own mount namespace → `config.json` → `create` → say that all is
//! prepared, wait for the word → worker: take the first process from the pid file, record
//! the container, give the word → helper: `start`, and end.
//!
//! The helper is known to both processes of the supervisor before the runtime is executed
//! for the first time, and no death of one of them ends it: a successor asks it again. The
//! runtime's processes never outlive the helper, which is the subreaper above the
//! container's first process until the supervisor knows that.

mod bundle;
mod helper;
mod program;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_runtime::birth::{Birth, Stdio};
use gantry_sys::process::{Clone3, Fork, clone3, exit_now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::network::HostSide;
use crate::order::{BirthOrder, ExecOrder, NetworkOrder, RuntimeOrder};

/// The search path of runtimes, some of which execute further programs.
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a runtime may take to forget a container that has ended.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a helper may take to be gone once it has closed its channel.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);

/// The worker's words to a helper, beside the one of a birth, which lets it go on.
mod word {
    /// The network is connected and the helper is known: begin.
    pub(super) const BEGIN: &[u8] = b"N";
    /// Say again that all is prepared.
    pub(super) const AGAIN: &[u8] = b"?";
}

/// A start that failed.
#[derive(Debug, Eq, PartialEq)]
pub struct Failure {
    /// Exit code by Docker's convention.
    pub code: i32,
    /// Why, in one line that names the runtime where it was the runtime.
    pub message: String,
}

impl Failure {
    fn own(message: String) -> Failure {
        Failure { code: 125, message }
    }
}

/// What is known of a task that another runtime has started.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Foreign {
    /// The runtime.
    pub runtime: RuntimeOrder,
    /// The container's bundle; the runtime's own state is in it.
    pub bundle: PathBuf,
    /// The task's own directory: the bundle, or one in it for an exec.
    pub directory: PathBuf,
    /// Process id of the helper; 0 before it was forked.
    pub helper: i32,
}

/// What a helper does.
pub enum Work<'a> {
    /// Makes and starts a container.
    Container {
        /// The container.
        order: &'a BirthOrder,
        /// Network namespace that it joins.
        joined: Option<OwnedFd>,
        /// Host's side of its link.
        host: Option<&'a mut HostSide>,
    },
    /// Starts a further process in one.
    Exec {
        /// The process.
        order: &'a ExecOrder,
        /// First process of the container.
        init: i32,
    },
}

impl Foreign {
    /// Of a container whose records are in `run_dir`.
    #[must_use]
    pub fn of_container(runtime: &RuntimeOrder, run_dir: &Path) -> Foreign {
        let bundle = run_dir.join("oci");
        Foreign {
            runtime: runtime.clone(),
            directory: bundle.clone(),
            bundle,
            helper: 0,
        }
    }

    /// Of an exec in the container that this is of.
    #[must_use]
    pub fn of_exec(&self, id: &str) -> Foreign {
        Foreign {
            directory: self.bundle.join(format!("exec-{id}")),
            helper: 0,
            ..self.clone()
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    /// There once the runtime has started the container.
    fn started_mark(&self) -> PathBuf {
        self.directory.join("started")
    }

    /// Forks the helper, which does nothing before [`begin`].
    ///
    /// # Errors
    /// In words.
    pub fn fork(&mut self, work: Work<'_>, stdio: Stdio) -> Result<Birth, Failure> {
        let failed = |error: io::Error| Failure::own(format!("cannot make a helper: {error}"));
        // Of an attempt before, whose supervisor died.
        let _ = fs::remove_dir_all(&self.directory);
        fs::create_dir(&self.directory).map_err(failed)?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        let host_network = fs::File::open("/proc/self/ns/net").map_err(failed)?;
        let options = Clone3 {
            flags: namespaces(&work).bits().into(),
            cgroup: None,
        };
        match clone3(options).map_err(failed)? {
            Fork::Parent(child) => {
                self.helper = child.pid;
                Ok(Birth::new(child.pid, child.pidfd, ours))
            }
            Fork::Child => {
                drop(ours);
                helper::live(self, work, stdio, &host_network.into(), &theirs)
            }
        }
    }

    /// The first process, which the runtime has written down.
    ///
    /// # Errors
    /// In words.
    pub fn born(&self) -> Result<(i32, OwnedFd), String> {
        let path = self.pid_file();
        let failed = |error: io::Error| format!("cannot use {}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(failed)?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        // It is not reaped before it is known, so it cannot be another one by now.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| failed(errno.into()))?;
        Ok((pid.as_raw_nonzero().get(), pidfd))
    }

    /// Whether the runtime has started what it made, once the helper has closed its channel
    /// without a word: it may have been killed.
    ///
    /// # Errors
    /// In words.
    pub fn outcome(&self) -> Result<(), Failure> {
        if self.started_mark().exists() {
            return Ok(());
        }
        let name = &self.runtime.name;
        Err(Failure::own(format!(
            "the start by {name} was interrupted: its helper has ended"
        )))
    }

    /// Waits for the end of a helper that has closed its channel, if it is a child of the
    /// calling process: with it the container's first process becomes one.
    pub fn reap_helper(&self) {
        let Some(pid) = Pid::from_raw(self.helper) else {
            return;
        };
        let until = Instant::now() + EXIT_PATIENCE;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Ends the helper and the runtime's processes below it, and a process that was started
    /// by them, and reaps what of it is the caller's. `cgroup` is the container's.
    pub fn kill(&self, cgroup: &str) {
        if let Some(pid) = Pid::from_raw(self.helper)
            && is_ours(self.helper)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            self.reap_helper();
        }
        if let Ok((pid, pidfd)) = self.born()
            && is_in_group(pid, cgroup)
        {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    /// Has the runtime forget the container, and removes what is there of it.
    pub fn delete(&self, container: &str) {
        let words = program::arguments(self, &["delete", "--force", container]);
        let path = SEARCH_PATH.strip_prefix("PATH=").unwrap_or_default();
        let started = Command::new(&self.runtime.program)
            .args(words)
            .env_clear()
            .env("PATH", path)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        if let Ok(mut child) = started {
            let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
            // A runtime that hangs must not take the container's end with it.
            if pidfd.is_ok_and(|pidfd| !ends_within(&pidfd, DELETE_PATIENCE)) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        self.remove_directory();
    }

    /// Removes the task's files.
    pub fn remove_directory(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Namespaces of a helper of its own.
fn namespaces(work: &Work<'_>) -> UnshareFlags {
    match work {
        Work::Exec { .. } => UnshareFlags::empty(),
        Work::Container { order, .. } => match order.network {
            NetworkOrder::None | NetworkOrder::Bridge(_) => {
                UnshareFlags::NEWNS | UnshareFlags::NEWNET
            }
            NetworkOrder::Host | NetworkOrder::Shared => UnshareFlags::NEWNS,
        },
    }
}

/// Lets a helper begin.
///
/// # Errors
/// In words.
pub fn begin(birth: &Birth) -> Result<(), String> {
    say(birth, word::BEGIN).map_err(|error| format!("the helper ended during its start: {error}"))
}

/// Asks a helper for what a predecessor may have heard and not passed on. One that is gone
/// has closed its channel, which says the rest.
pub fn ask_again(birth: &Birth) {
    let _ = say(birth, word::BEGIN).and_then(|()| say(birth, word::AGAIN));
}

fn say(birth: &Birth, word: &[u8]) -> rustix::io::Result<()> {
    rustix::net::send(birth.as_fd(), word, SendFlags::NOSIGNAL).map(drop)
}

fn ends_within(pidfd: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Whether a process is in a control group: nobody may have reaped the one that is meant, but
/// what is killed has to be certain.
fn is_in_group(pid: i32, cgroup: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|groups| !cgroup.is_empty() && groups.contains(cgroup))
}

/// Whether a process runs this program: it is no other that has got the id since.
fn is_ours(pid: i32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let program = |pid: &str| {
        let metadata = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = program("self");
    own.is_some() && program(&pid.to_string()) == own
}

/// Ends the helper's process: its copies of the worker's descriptors are not its own.
fn leave(code: i32) -> ! {
    exit_now(code)
}
