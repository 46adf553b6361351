//! A process that is cloned from inside of namespaces which its parent must not enter.
//!
//! A short-lived joiner enters them and clones the process with the joiner's own parent as
//! its parent: a pid namespace holds for children only, and nobody returns from a user
//! namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_sys::process::{Child, Clone3, Fork, clone3, exit_now};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{WaitId, WaitIdOptions};

use crate::channel::report;
use crate::error::{BirthError, Step};
use crate::namespaces::flags::PARENT;
use crate::process;

/// Clones a process as `options` say, from where `join` has led. Both ends of the channel
/// between the caller and the new process are given; the own one is returned.
///
/// # Errors
/// [`BirthError`], after which nothing is left of the attempt. `join` fails in the joiner,
/// which reports it.
pub(crate) fn clone_through(
    (parent_end, child_end): (OwnedFd, OwnedFd),
    options: Clone3<'_>,
    join: impl FnOnce() -> Result<(), BirthError>,
) -> Result<(Fork, OwnedFd), BirthError> {
    let first = Clone3 {
        flags: 0,
        cgroup: options.cgroup,
    };
    match clone3(first).step(|| "cannot clone the joining process".into())? {
        Fork::Parent(joiner) => {
            drop(child_end);
            let born = receive(&parent_end);
            let _ =
                rustix::process::waitid(WaitId::PidFd(joiner.pidfd.as_fd()), WaitIdOptions::EXITED);
            Ok((Fork::Parent(born?), parent_end))
        }
        Fork::Child => {
            drop(parent_end);
            process::hide();
            match join().and_then(|()| clone_on(&child_end, options.flags)) {
                Ok(()) => Ok((Fork::Child, child_end)),
                Err(error) => {
                    report(&child_end, &error);
                    exit_now(1)
                }
            }
        }
    }
}

/// The joiner's own clone; returns in the new process only.
fn clone_on(channel: &OwnedFd, flags: u64) -> Result<(), BirthError> {
    // The child speaks on the same channel, where the joiner's message has to be the first:
    // it waits until the joiner has ended.
    let (ended, open) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .step(|| "cannot make a pipe".into())?;
    let options = Clone3 {
        flags: flags | PARENT,
        cgroup: None,
    };
    match clone3(options).step(|| "cannot clone into the container: it is not running".into())? {
        Fork::Parent(Child { pid, pidfd }) => {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [pidfd.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            // The number is the one of the caller's own pid namespace, as the joiner has not
            // left it itself.
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
            Ok(())
        }
    }
}

/// The joiner's message: the process id and the handle of the process it has cloned.
fn receive(channel: &OwnedFd) -> Result<Child, BirthError> {
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
        return Err(BirthError::reported(rest));
    }
    let pidfd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (message, pidfd) {
        (&[b'E', a, b, c, d], Some(pidfd)) => Ok(Child {
            pid: i32::from_le_bytes([a, b, c, d]),
            pidfd,
        }),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).step(failed),
    }
}
