//! `NOTIFY_SOCKET`: readiness as systemd's services report it (sd_notify(3)).
//!
//! The program gets a socket of ours, bound in a directory that is mounted into the
//! container; what it says about its readiness is passed on with its process id on the
//! host, which it does not know itself.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_runtime::spec::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv,
    sendto,
};

use super::error::{CliError, Context as _};
use super::state::{NOTIFY, Place};

/// Where the directory is in the container.
const INSIDE: &str = "/run/notify";
const SOCKET: &str = "notify.sock";

/// The socket that the caller wants to be told on.
pub fn wanted() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|socket| !socket.is_empty())
}

/// Makes the directory and adds it, and its name, to the configuration.
///
/// # Errors
/// What the file system says.
pub fn prepare(place: &Place, spec: &mut Spec) -> Result<(), CliError> {
    let directory = place.path.join(NOTIFY);
    rustix::fs::mkdirat(place.as_fd(), NOTIFY, Mode::from_raw_mode(0o755))
        .file("create", &directory)?;
    spec.mounts.push(Mount {
        destination: INSIDE.into(),
        kind: "bind".into(),
        source: directory.to_string_lossy().into_owned(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"]
            .map(str::to_owned)
            .into(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    }
    Ok(())
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    target: String,
}

impl Listener {
    /// Binds the socket, if the container has a place for it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(place: &Place) -> Result<Option<Listener>, CliError> {
        let Some(target) = wanted() else {
            return Ok(None);
        };
        let path: PathBuf = place.path.join(NOTIFY).join(SOCKET);
        if !path.parent().is_some_and(Path::is_dir) {
            return Ok(None);
        }
        let socket = datagram_socket().file("create", &path)?;
        let (address, _directory) = super::socket::address(&path).file("bind", &path)?;
        let _ = rustix::fs::unlinkat(CWD, &path, rustix::fs::AtFlags::empty());
        bind(&socket, &address).file("bind", &path)?;
        // The program may be any user.
        rustix::fs::chmodat(
            CWD,
            &path,
            Mode::from_raw_mode(0o777),
            rustix::fs::AtFlags::empty(),
        )
        .file("change the mode of", &path)?;
        Ok(Some(Listener { socket, target }))
    }

    /// Passes the program's readiness on; returns when it is ready, or gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, process: BorrowedFd<'_>, pid: i32) -> Result<(), CliError> {
        loop {
            let mut events = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(process, PollFlags::IN),
            ];
            match poll(&mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.step("cannot wait for the program's readiness")?,
            };
            if !events[0].revents().is_empty() {
                if self.pass_on(pid)? {
                    return Ok(());
                }
            } else if !events[1].revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// The socket, to be waited for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads one message, and passes it on if it is about readiness.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pass_on(&self, pid: i32) -> Result<bool, CliError> {
        let mut buffer = [0u8; 4096];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            .step("cannot read the program's readiness")?;
        let Some(message) = message(&buffer[..length], pid) else {
            return Ok(false);
        };
        let address = match self.target.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
            None => SocketAddrUnix::new(&*self.target),
        };
        let path = &self.target;
        let address = address.file("find", path)?;
        let socket = datagram_socket().file("reach", path)?;
        sendto(&socket, message.as_bytes(), SendFlags::NOSIGNAL, &address).file("reach", path)?;
        Ok(true)
    }
}

fn datagram_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
}

/// What is said to the caller for what the program has said; nothing but readiness counts.
fn message(said: &[u8], pid: i32) -> Option<String> {
    let said = std::str::from_utf8(said).ok()?;
    let ready = said.lines().find(|line| line.starts_with("READY="))?;
    Some(format!("{ready}\nMAINPID={pid}\n"))
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn only_readiness_is_passed_on() {
        assert_eq!(
            message(b"STATUS=up\nREADY=1\nMAINPID=1\n", 77).as_deref(),
            Some("READY=1\nMAINPID=77\n")
        );
        assert_eq!(message(b"STATUS=up\nMAINPID=1", 77), None);
        assert_eq!(message(b"\xff\nREADY=1", 77), None);
    }
}
