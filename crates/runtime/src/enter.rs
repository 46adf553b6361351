//! A further process in a running container: exec.
//!
//! A short-lived joiner enters the namespaces and clones the process with the joiner's
//! own parent as its parent (the pid namespace holds for children only). Both are out
//! of the container's reach: not dumpable until the program's own exec (CVE-2016-9962).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, clone3, exit_now, setns};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{WaitId, WaitIdOptions};

use crate::birth::{
    Birth, Stdio, join_group, libc_flags, report, send_terminal, wait_for_the_word,
};
use crate::cgroup::Group;
use crate::error::{BirthError, Step};
use crate::process::{self, Identity};
use crate::spec::{Linux, Process};
use crate::{path, rootfs, terminal};

/// Everything that an exec needs.
pub struct EnterPlan<'a> {
    /// The process.
    pub process: &'a Process,
    /// Its filter, in `seccomp`.
    pub linux: Option<&'a Linux>,
    /// User as text, resolved in the container; absent means the ids of the configuration.
    pub user: Option<&'a str>,
    /// Handle of the container's first process.
    pub container: BorrowedFd<'a>,
    /// The container's control group.
    pub group: Option<&'a Group>,
    /// Standard streams.
    pub stdio: Stdio,
}

/// Clones the process and returns at once; the rest is told by [`Birth::news`].
///
/// # Errors
/// [`BirthError`], after which nothing is left of the attempt.
pub fn begin(plan: EnterPlan<'_>) -> Result<Birth, BirthError> {
    let prepared = process::prepare(plan.process, plan.linux)?;
    let join_files = match plan.group {
        Some(group) => group
            .join_files()
            .map_err(|error| BirthError::Invalid(error.to_string()))?,
        None => Vec::new(),
    };
    let (parent_end, child_end) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .step(|| "cannot make the channel to the new process".into())?;
    let options = Clone3 {
        flags: 0,
        cgroup: plan.group.and_then(Group::v2_directory),
    };
    match clone3(options).step(|| "cannot clone the joining process".into())? {
        Fork::Parent(joiner) => {
            drop(child_end);
            let born = receive(&parent_end);
            let _ =
                rustix::process::waitid(WaitId::PidFd(joiner.pidfd.as_fd()), WaitIdOptions::EXITED);
            let (pid, pidfd) = born?;
            Ok(Birth::new(pid, pidfd, parent_end))
        }
        Fork::Child => {
            drop(parent_end);
            let error = join(plan, prepared, &join_files, &child_end).err();
            if let Some(error) = error {
                report(&child_end, &error);
            }
            exit_now(1)
        }
    }
}

/// The joiner's message: the process id and the handle of the process it has cloned.
fn receive(channel: &OwnedFd) -> Result<(i32, OwnedFd), BirthError> {
    let mut buffer = [0u8; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let failed = || "the joining process ended without a word".to_owned();
    let length = loop {
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(channel, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).step(failed),
        }
    };
    let message = &buffer[..length];
    if let Some((b'F', rest)) = message.split_first() {
        let code = rest.first().map_or(125, |&code| i32::from(code));
        let text = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned();
        return Err(BirthError::Reported {
            code,
            message: text,
        });
    }
    let pidfd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (message, pidfd) {
        (&[b'E', a, b, c, d], Some(pidfd)) => Ok((i32::from_le_bytes([a, b, c, d]), pidfd)),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).step(failed),
    }
}

fn join(
    plan: EnterPlan<'_>,
    prepared: process::Prepared,
    join_files: &[OwnedFd],
    channel: &OwnedFd,
) -> Result<(), BirthError> {
    process::hide();
    join_group(join_files)?;
    let namespaces = libc_flags::NEWNS
        | libc_flags::NEWPID
        | libc_flags::NEWNET
        | libc_flags::NEWIPC
        | libc_flags::NEWUTS
        | libc_flags::NEWCGROUP;
    setns(plan.container, namespaces as i32)
        .step(|| "cannot join the container's namespaces: it is not running".into())?;
    // The child speaks on the same channel, where the joiner's message has to be the first:
    // it waits until the joiner has ended.
    let (ended, open) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .step(|| "cannot make a pipe".into())?;
    let options = Clone3 {
        flags: libc_flags::PARENT,
        cgroup: None,
    };
    match clone3(options).step(|| "cannot clone into the container: it is not running".into())? {
        Fork::Parent(Child { pid, pidfd }) => {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [pidfd.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let [a, b, c, d] = pid.to_le_bytes();
            let message = [b'E', a, b, c, d];
            rustix::net::sendmsg(
                channel,
                &[io::IoSlice::new(&message)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
            .step(|| "cannot reach the supervisor".into())?;
            exit_now(0)
        }
        Fork::Child => {
            drop(open);
            let _ = rustix::io::read(&ended, &mut [0u8; 1]);
            drop(ended);
            live(plan, prepared, channel)
        }
    }
}

fn live(
    plan: EnterPlan<'_>,
    prepared: process::Prepared,
    channel: &OwnedFd,
) -> Result<(), BirthError> {
    rustix::process::umask(Mode::empty());
    rustix::process::setsid().step(|| "cannot make a session".into())?;
    let root = rootfs::open_root()?;
    let proc = path::open_without_links(root.as_fd(), "/proc", OFlags::PATH | OFlags::DIRECTORY)
        .step(|| "cannot open /proc of the container".into())?;
    let identity = match plan.user {
        Some(text) => Identity::resolve(root.as_fd(), text)?,
        None => Identity::from_spec(&plan.process.user),
    };
    let stdio = match plan.stdio {
        Stdio::Plain(fds) => fds,
        Stdio::Terminal => {
            let terminal =
                terminal::make(root.as_fd(), plan.process.console_size, identity.ids.uid)?;
            send_terminal(channel, terminal.master.as_fd())?;
            terminal::into_stdio(terminal.slave)?
        }
    };
    let directory = process::working_directory(root.as_fd(), &plan.process.cwd, false)?;
    drop(root);
    wait_for_the_word(channel)?;
    let finish = process::Finish {
        process: plan.process,
        prepared,
        identity,
        stdio,
        directory,
        proc,
        init: false,
    };
    Err(finish.execute(channel))
}
