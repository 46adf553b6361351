//! The descriptor by which a filter asks, on its way to the one who answers.
//!
//! The filter may refuse, or ask about, any call that its process could hand the
//! descriptor over with. So the process says beforehand which number it will have, and
//! the parent takes it out of the table of the child (`pidfd_getfd(2)`, 5.6) as soon as it
//! is there. After that whatever the process calls can be answered, and nothing is left on
//! which both could wait for each other; runc, whose child tells the number by `write`,
//! has to refuse rules that ask about `write`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde::Serialize;

use super::Program;
use crate::error::{BirthError, Step};
use crate::path;
use crate::spec::{OCI_VERSION, Seccomp};

/// How long a child may take from saying that it installs the filter to having done so.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the parent looks.
const INTERVAL: Duration = Duration::from_micros(50);

/// Sends a listener to the socket of its profile, with the state of the container in JSON
/// (runtime-spec, config-linux.md, "The Container Process State"). `pid` is the process
/// that the filter is on: of an exec, another one than the container's first.
///
/// # Errors
/// [`BirthError`] if there is nobody at the socket, upon which the container must not run.
pub fn send_listener(
    profile: &Seccomp,
    listener: BorrowedFd<'_>,
    pid: i32,
    state: &str,
) -> Result<(), BirthError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ProcessState<'a> {
        oci_version: &'a str,
        fds: [&'a str; 1],
        pid: i32,
        #[serde(skip_serializing_if = "str::is_empty")]
        metadata: &'a str,
        state: serde_json::Value,
    }
    let wrong = |error| BirthError::Invalid(format!("the container's state: {error}"));
    let message = ProcessState {
        oci_version: OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: profile.listener_metadata.as_deref().unwrap_or(""),
        state: serde_json::from_str(state).map_err(wrong)?,
    };
    let message = serde_json::to_vec(&message).map_err(wrong)?;
    let path = profile.listener_path.as_deref().unwrap_or("");
    let failed = || format!("cannot send the seccomp listener to {path:?}");
    let socket = connect(path).step(failed)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [listener];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let mut sent = rustix::net::sendmsg(
        &socket,
        &[io::IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .step(failed)?;
    // The descriptor goes with the first part.
    while sent < message.len() {
        sent += rustix::net::send(&socket, &message[sent..], SendFlags::NOSIGNAL).step(failed)?;
    }
    Ok(())
}

/// Connects to a socket by way of its directory: an address holds 107 bytes, a path more.
fn connect(path: &str) -> io::Result<OwnedFd> {
    let (directory, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => (".", path),
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let directory = path::open_host(directory, flags)?;
    let number = directory.as_raw_fd();
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{number}/{name}"))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Installs a filter with a listener and waits until the parent has sent that on.
///
/// # Errors
/// [`BirthError::Step`]: also where the filter refuses `read`, which is the one call that
/// this needs behind it.
pub(crate) fn install(program: &Program, channel: &OwnedFd) -> Result<(), BirthError> {
    let failed = || "cannot install the seccomp filter".to_owned();
    // The kernel gives out the lowest number that is free.
    let probe = rustix::io::fcntl_dupfd_cloexec(channel, 0).step(failed)?;
    let [a, b, c, d] = probe.as_raw_fd().to_le_bytes();
    drop(probe);
    rustix::net::send(channel, &[b'L', a, b, c, d], SendFlags::NOSIGNAL).step(failed)?;
    let listener = gantry_sys::seccomp::install_with_listener(&program.instructions, program.flags)
        .step(failed)?;
    let mut word = [0u8; 1];
    loop {
        match rustix::io::read(channel, &mut word[..]) {
            Ok(1) if word == *b"L" => break,
            Ok(1) => {}
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => gantry_sys::process::exit_now(1),
            Err(error) => {
                return Err(error).step(|| "cannot wait for the seccomp listener".into());
            }
        }
    }
    // The exec closes it: a call less that the listener is asked about.
    let _ = listener.into_raw_fd();
    Ok(())
}

/// Takes descriptor `number` out of a child that is about to install a filter. Nothing if
/// the child has something to say on `channel` first: that it failed.
///
/// # Errors
/// The kernel's, and [`io::ErrorKind::InvalidData`] for a descriptor that is no listener.
pub(crate) fn take(
    child: BorrowedFd<'_>,
    number: i32,
    channel: BorrowedFd<'_>,
) -> io::Result<Option<OwnedFd>> {
    use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pidfd_getfd(child, number, PidfdGetfdFlags::empty()) {
            Ok(listener) => return check(listener).map(Some),
            Err(rustix::io::Errno::BADF) if Instant::now() < deadline => {}
            Err(rustix::io::Errno::BADF) => return Err(io::ErrorKind::TimedOut.into()),
            // The child has ended; what it said of that is in the channel.
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: INTERVAL.subsec_nanos().into(),
        };
        let mut poll = [PollFd::from_borrowed_fd(channel, PollFlags::IN)];
        if let Ok(1..) = rustix::event::poll(&mut poll, Some(&timeout)) {
            return Ok(None);
        }
    }
}

/// The number was free when the child told it, and the child does nothing in between; but
/// what is sent on should be what it is said to be.
fn check(listener: OwnedFd) -> io::Result<OwnedFd> {
    let number = listener.as_raw_fd();
    let link = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new())?;
    if link.to_bytes() == b"anon_inode:seccomp notify" {
        Ok(listener)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the descriptor is {link:?}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// The message of the specification, at the end of a path that no address could hold.
    #[test]
    fn a_listener_arrives_with_the_state() {
        let name = format!("gantry-listener-{}-{}", std::process::id(), "x".repeat(90));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let short = std::env::temp_dir().join(format!("gantry-l{}", std::process::id()));
        let agent = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, directory.join("agent")).unwrap();
        let mut profile = Seccomp {
            listener_path: Some(directory.join("agent").to_str().unwrap().into()),
            listener_metadata: Some("colour=blue".into()),
            ..Seccomp::default()
        };
        let something = std::fs::File::open("/dev/null").unwrap();
        send_listener(&profile, something.as_fd(), 7, r#"{"id":"one"}"#).unwrap();
        let (mut connection, _) = agent.accept().unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\"ociVersion\":\"{OCI_VERSION}\",\"fds\":[\"seccompFd\"],\"pid\":7,\
                 \"metadata\":\"colour=blue\",\"state\":{{\"id\":\"one\"}}}}"
            )
        );
        std::fs::remove_dir_all(&directory).unwrap();
        let error = send_listener(&profile, something.as_fd(), 7, "{}").unwrap_err();
        assert!(error.to_string().starts_with("cannot send"), "{error}");
        profile.listener_path = None;
        send_listener(&profile, something.as_fd(), 7, "{}").unwrap_err();
    }

    #[test]
    fn only_a_listener_is_taken_for_one() {
        let other = std::fs::File::open("/dev/null").unwrap();
        let error = check(other.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
