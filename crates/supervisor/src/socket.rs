//! The sandbox's socket.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::protocol;

/// Name of the socket in the sandbox's directory.
pub const SOCKET: &str = "ctl.sock";

/// Name of the file that is locked while a supervisor lives.
pub const LOCK: &str = "lock";

/// A path socket, never an abstract one: those are open to every process in the same
/// network namespace (CVE-2020-15257).
///
/// # Errors
/// The kernel's.
pub fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let (short, _held) = short_path(directory)?;
    let _ = std::fs::remove_file(directory.join(SOCKET));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short.as_str())?)?;
    rustix::fs::chmodat(
        CWD,
        short.as_str(),
        Mode::RUSR | Mode::WUSR,
        rustix::fs::AtFlags::empty(),
    )?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// Connects to the socket in `directory`.
///
/// # Errors
/// The kernel's; `NotFound` or `ConnectionRefused` where no supervisor lives.
pub fn connect(directory: &Path) -> io::Result<OwnedFd> {
    let (short, _held) = short_path(directory)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(short.as_str())?)?;
    Ok(socket)
}

/// Tells a supervisor that was started without a directory where to live, and gives it the
/// lock that it holds while it lives.
///
/// # Errors
/// The kernel's, such as `EPIPE` where the supervisor did not start; `InvalidInput` for a path
/// of more than 65,535 bytes.
pub fn hand_over(supervisor: &OwnedFd, directory: &Path, lock: &OwnedFd) -> io::Result<()> {
    let path = directory.as_os_str().as_bytes();
    let length = u16::try_from(path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(path);
    protocol::send_all(supervisor, &bytes, &[lock.as_fd()])
}

/// The other side of [`hand_over`]; `None` if the caller has no use for a supervisor.
///
/// # Errors
/// The kernel's; `InvalidData` for anything else than a path and a descriptor.
pub fn take_over(caller: &OwnedFd) -> io::Result<Option<(PathBuf, OwnedFd)>> {
    let mut fds = Vec::new();
    let mut length = [0; 2];
    if receive_exactly(caller, &mut length, &mut fds)? == 0 {
        return Ok(None);
    }
    let mut path = vec![0; usize::from(u16::from_le_bytes(length))];
    let received = receive_exactly(caller, &mut path, &mut fds)?;
    match fds.pop() {
        Some(lock) if received == path.len() && path.starts_with(b"/") => {
            Ok(Some((OsString::from_vec(path).into(), lock)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Fills the buffer; less than it only at the end. What follows stays in the socket.
fn receive_exactly(
    socket: &OwnedFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match protocol::receive_with(socket.as_fd(), &mut buffer[filled..], fds)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

/// A socket's path has at most 107 bytes, a directory's may have more.
fn short_path(directory: &Path) -> io::Result<(String, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let fd = rustix::fs::openat(
        CWD,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok((format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()), fd))
}
