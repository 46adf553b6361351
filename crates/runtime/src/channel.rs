//! The channel between a process that is being born and its parent, and what is said on it.
//!
//! One letter begins each message of the child: P prepared, W a warning, M the terminal's
//! master, L the seccomp listener, F a failure; its end is the exec. Whoever starts a
//! container later listens at a FIFO instead, the gate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_sys::process::exit_now;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::error::{BirthError, Step};
use crate::seccomp;
use crate::spec::Seccomp;

/// A process that is being born.
#[derive(Debug)]
pub struct Birth {
    /// Process id.
    pub pid: i32,
    /// Handle of the process.
    pub pidfd: OwnedFd,
    channel: OwnedFd,
}

/// What a birth has to say.
#[derive(Debug)]
pub enum News {
    /// The master of the container's terminal.
    Terminal(OwnedFd),
    /// Something that was asked for and is not possible here.
    Warning(String),
    /// What the filter asks by (`SCMP_ACT_NOTIFY`); the child waits for
    /// [`Birth::deliver_listener`]. It comes after the word, or where there is a gate,
    /// before [`News::Prepared`].
    Listener(OwnedFd),
    /// Everything is prepared; the child waits for [`Birth::give_the_word`].
    Prepared,
    /// The program runs.
    Running,
    /// It failed, and the child has ended.
    Failed(BirthError),
}

/// Who is told of a failure: the parent, or the one that has opened the gate.
pub(crate) struct Listener {
    pub(crate) channel: OwnedFd,
    pub(crate) gate: Option<OwnedFd>,
}

impl Listener {
    pub(crate) fn hear(&self, error: &BirthError) {
        match &self.gate {
            // If nobody listens any more there is nobody left to tell.
            Some(gate) => hear(gate, error),
            None => report(&self.channel, error),
        }
    }
}

/// Tells the one that has opened the gate of a failure.
///
/// Clients of the runtime find the exit code in the words of a failed start, and know none for
/// a file that the kernel does not take for a program. As with runc that one counts as started
/// and says itself what is wrong with it, before it ends with 126.
pub(crate) fn hear(gate: &OwnedFd, error: &BirthError) {
    if error.is_no_program() {
        let _ = rustix::io::write(rustix::stdio::stderr(), (error.chain() + "\n").as_bytes());
        return;
    }
    let _ = rustix::io::write(gate, error.chain().as_bytes());
}

pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd), BirthError> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .step(|| "cannot make the channel to the container's process".into())
}

pub(crate) fn report(channel: &OwnedFd, error: &BirthError) {
    let mut message = vec![b'F', error.exit_code() as u8];
    message.extend_from_slice(error.chain().as_bytes());
    message.truncate(4096);
    // If the parent is gone there is nobody left to tell.
    let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
}

/// Says that all is prepared and waits for the parent's word.
pub(crate) fn wait_for_the_word(channel: &OwnedFd) -> Result<(), BirthError> {
    ask(channel, b'P')
}

/// Tells the parent where the child is, and waits until it may go on.
pub(crate) fn ask(channel: &OwnedFd, place: u8) -> Result<(), BirthError> {
    rustix::net::send(channel, &[place], SendFlags::NOSIGNAL)
        .step(|| "cannot reach the supervisor".into())?;
    let mut word = [0u8; 1];
    loop {
        match rustix::net::recv(channel, &mut word[..], RecvFlags::empty()) {
            Ok((1, _)) => return Ok(()),
            Ok(_) => exit_now(1),
            Err(Errno::INTR) => {}
            Err(_) => exit_now(1),
        }
    }
}

pub(crate) fn send_terminal(channel: &OwnedFd, master: BorrowedFd<'_>) -> Result<(), BirthError> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(
        channel,
        &[io::IoSlice::new(b"M")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .step(|| "cannot hand over the terminal".into())?;
    Ok(())
}

pub(crate) fn warn(channel: &OwnedFd, text: &str) {
    let mut message = vec![b'W'];
    message.extend_from_slice(text.as_bytes());
    let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
}

impl Birth {
    /// Wraps a child that speaks the same protocol: an exec, or one that was cloned by
    /// somebody else who has handed over the channel.
    #[must_use]
    pub fn new(pid: i32, pidfd: OwnedFd, channel: OwnedFd) -> Birth {
        Birth {
            pid,
            pidfd,
            channel,
        }
    }

    /// The channel is readable when there is news.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Ends the child and leaves nothing of it.
    pub(crate) fn abandon(self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    }

    pub(crate) fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// Lets the child go on to the program.
    ///
    /// # Errors
    /// [`BirthError::Step`] if the child is gone; its own report says more.
    pub fn give_the_word(&self) -> Result<(), BirthError> {
        rustix::net::send(&self.channel, b"G", SendFlags::NOSIGNAL)
            .step(|| "the container's process ended during its start".into())?;
        Ok(())
    }

    /// Sends the listener of [`News::Listener`] to the socket that the profile names, with
    /// the container's state in JSON, and lets the child go on.
    ///
    /// # Errors
    /// [`BirthError`] if nobody takes it; the child still waits, and is to be ended.
    pub fn deliver_listener(
        &self,
        listener: &OwnedFd,
        profile: &Seccomp,
        state: &str,
    ) -> Result<(), BirthError> {
        seccomp::send_listener(profile, listener.as_fd(), self.pid, state)?;
        // Not the word, which a successor of the parent may have given twice.
        rustix::net::send(&self.channel, b"L", SendFlags::NOSIGNAL)
            .step(|| "the container's process ended during its start".into())?;
        Ok(())
    }

    /// Waits for the next piece of news.
    pub fn news(&self) -> News {
        let mut buffer = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let mut parts = [io::IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(
                &self.channel,
                &mut parts,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(message) => break message.bytes,
                Err(Errno::INTR) => {}
                // A second word, from a successor, was still unread when the child's end
                // was closed. What the child has said comes after this error, or the end.
                Err(Errno::CONNRESET) => {}
                Err(errno) => {
                    return News::Failed(BirthError::Step {
                        step: "cannot read from the container's process".into(),
                        source: errno.into(),
                    });
                }
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match buffer[..length].split_first() {
            // The channel is close-on-exec: its end without a report is the exec.
            None => News::Running,
            Some((b'P', _)) => News::Prepared,
            Some((b'W', rest)) => News::Warning(text(rest)),
            Some((b'L', &[a, b, c, d])) => {
                let number = i32::from_le_bytes([a, b, c, d]);
                match seccomp::listener::take(self.pidfd.as_fd(), number, self.as_fd()) {
                    Ok(Some(listener)) => News::Listener(listener),
                    // There is none, and the child says why.
                    Ok(None) => self.news(),
                    Err(source) => News::Failed(BirthError::Step {
                        step: "cannot fetch the seccomp listener".into(),
                        source,
                    }),
                }
            }
            Some((b'M', _)) => {
                let master = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                match master {
                    Some(master) => News::Terminal(master),
                    None => News::Failed(BirthError::Invalid("the terminal got lost".into())),
                }
            }
            Some((_, rest)) => News::Failed(BirthError::reported(rest)),
        }
    }
}

/// Says that all is prepared and waits at the gate instead of for the word.
pub(crate) fn pass(
    channel: &OwnedFd,
    gate: OwnedFd,
    proc: BorrowedFd<'_>,
) -> Result<OwnedFd, BirthError> {
    rustix::net::send(channel, b"P", SendFlags::NOSIGNAL)
        .step(|| "cannot reach the supervisor".into())?;
    let failed = || "cannot wait for the start".to_owned();
    // By the number, as the FIFO lies outside of the root; in a procfs that is ours.
    let file = format!("self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&gate));
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = loop {
        match rustix::fs::openat(proc, &*file, flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            other => break other.step(failed)?,
        }
    };
    drop(gate);
    rustix::io::write(&opened, b"0").step(failed)?;
    Ok(opened)
}
