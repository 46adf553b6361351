//! The outer process: it only watches, and takes over.
//!
//! It is the nearest subreaper above the worker. When the worker dies the containers
//! become its children, so their statuses reach it on every kernel; it forks a new worker
//! with all that the old one had told. When the watcher dies the worker becomes the
//! watcher and its fork the worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use gantry_sys::process::{Child, Fork, exit_now, fork};
use gantry_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

use crate::task::{self, Mirror, Shared};
use crate::worker::{Outcome, Sandbox, Worker, raw_status};

const SIGCHLD: i32 = 17;

/// What a fork has made of this process.
enum Role {
    Watcher {
        worker: Child,
        channel: OwnedFd,
        sandbox: Sandbox,
        shared: Shared,
    },
    Worker(Box<Worker>),
}

/// Lives for the sandbox, first as its watcher. `first` is the connection that the
/// supervisor was started with.
///
/// # Errors
/// The kernel's, before anything was made.
pub fn live(sandbox: Sandbox, first: OwnedFd) -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut role = split(sandbox, Shared::default(), Some(first))?;
    loop {
        role = match role {
            Role::Watcher {
                worker,
                channel,
                sandbox,
                shared,
            } => match watch(&worker, &channel, shared) {
                None => return Ok(()),
                Some(shared) => {
                    drop(channel);
                    split(sandbox, shared, None)?
                }
            },
            Role::Worker(mut worker) => match worker.run() {
                Outcome::Done => return Ok(()),
                Outcome::PartnerDied => succeed(worker)?,
            },
        };
    }
}

fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Forks: the parent watches, the child works.
fn split(sandbox: Sandbox, shared: Shared, first: Option<OwnedFd>) -> io::Result<Role> {
    let (watcher_end, worker_end) = channel()?;
    match fork()? {
        Fork::Parent(worker) => Ok(Role::Watcher {
            worker,
            channel: watcher_end,
            sandbox,
            shared,
        }),
        Fork::Child => {
            drop(watcher_end);
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            let mut worker = Worker::new(sandbox, shared, worker_end)?;
            if let Some(first) = first {
                worker.serve(first)?;
            }
            Ok(Role::Worker(Box::new(worker)))
        }
    }
}

/// The watcher is dead: this process takes its part, and its fork goes on with the work.
/// The containers born here stay this process's children.
fn succeed(mut worker: Box<Worker>) -> io::Result<Role> {
    let (watcher_end, worker_end) = channel()?;
    match fork()? {
        Fork::Child => {
            drop(watcher_end);
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            worker.replace_partner(worker_end);
            Ok(Role::Worker(worker))
        }
        Fork::Parent(child) => {
            // Connections and births are the fork's now: clients must see their end when
            // it dies, and not be kept waiting by a copy here.
            let (sandbox, mut shared) = worker.into_parts();
            // Nobody could take up a birth whose preparations went on meanwhile.
            shared
                .tasks
                .retain(|_, task| task.birth.is_none() || task.is_known_to_both());
            for task in shared.tasks.values_mut() {
                task.log = None;
            }
            Ok(Role::Watcher {
                worker: child,
                channel: watcher_end,
                sandbox,
                shared,
            })
        }
    }
}

/// Listens until the worker has died; `None` if the sandbox has ended.
fn watch(worker: &Child, channel: &OwnedFd, mut shared: Shared) -> Option<Shared> {
    let Ok(signals) = SignalFd::new(&[SIGCHLD]) else {
        exit_now(1)
    };
    let mut ended = false;
    loop {
        // A SIGCHLD may have come before it could be read.
        reap_children(worker, channel.as_fd(), &mut shared);
        if ended {
            return None;
        }
        let mut fds = [
            PollFd::new(channel, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&worker.pidfd, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let from_worker = !fds[0].revents().is_empty();
        let has_died = !fds[2].revents().is_empty();
        while let Ok(Some(_)) = signals.read() {}
        if has_died {
            return bury(worker, channel, shared);
        }
        if !from_worker {
            continue;
        }
        match task::receive(channel.as_fd()) {
            Ok(Some((Mirror::Bye, _))) => ended = true,
            Ok(Some((message, fds))) => shared.apply(message, fds),
            Ok(None) | Err(_) => return bury(worker, channel, shared),
        }
    }
}

/// Takes note of what a dead worker had still said; `None` if it had nothing left to do.
///
/// Its end of the channel may be open: a child that it was giving birth to has a copy.
fn bury(worker: &Child, channel: &OwnedFd, mut shared: Shared) -> Option<Shared> {
    let options = WaitIdOptions::EXITED;
    let _ = rustix::process::waitid(WaitId::PidFd(worker.pidfd.as_fd()), options);
    let _ = rustix::io::ioctl_fionbio(channel, true);
    while let Ok(Some((message, fds))) = task::receive(channel.as_fd()) {
        if matches!(message, Mirror::Bye) {
            return None;
        }
        shared.apply(message, fds);
    }
    end_unborn(&shared);
    Some(shared)
}

/// Ends what the dead worker was giving birth to and had not told of. Its clients order
/// it again, and what is half made is in the way of that: the root is mounted once, the
/// control group has to be empty.
fn end_unborn(shared: &Shared) {
    let own = rustix::process::getpid().as_raw_nonzero();
    let list = format!("/proc/self/task/{own}/children");
    let program = |pid: &str| {
        let metadata = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let this = program("self");
    // The killed may leave children of their own here: the joiner of an exec does.
    loop {
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        // What runs another program is no birth: it is what settles an end.
        let unborn = children.split_ascii_whitespace().find_map(|child| {
            let pid: i32 = child.parse().ok()?;
            let mut tasks = shared.tasks.values();
            let known = tasks.any(|task| task.record.has_process(pid));
            (!known && program(child) == this).then(|| rustix::process::Pid::from_raw(pid))?
        });
        let Some(pid) = unborn else { return };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

/// Notes and passes on how children ended that were the dead worker's.
fn reap_children(worker: &Child, channel: BorrowedFd<'_>, shared: &mut Shared) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let ids: Vec<String> = shared.tasks.keys().cloned().collect();
    for id in ids {
        let Some(task) = shared.tasks.get_mut(&id) else {
            continue;
        };
        // The end of a helper is not that of its container.
        if task.record.status.is_some() || task.record.is_helper() {
            continue;
        }
        if let Ok(Some(status)) =
            rustix::process::waitid(WaitId::PidFd(task.pidfd.as_fd()), options)
        {
            let status = raw_status(&status);
            task.record.status = Some(status);
            let _ = task::send(channel, &Mirror::Ended { id, status }, &[]);
        }
    }
    // Every other child is one whose birth was never told, or whose status was noted.
    while let Ok(Some(pid)) = gantry_sys::process::ended_child() {
        let awaited = shared
            .tasks
            .values()
            .any(|task| task.record.pid == pid && task.record.status.is_none());
        let Some(id) =
            rustix::process::Pid::from_raw(pid).filter(|_| pid != worker.pid && !awaited)
        else {
            return;
        };
        let _ = rustix::process::waitpid(Some(id), rustix::process::WaitOptions::NOHANG);
    }
}
