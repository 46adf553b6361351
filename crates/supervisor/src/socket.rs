//! The sandbox's socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

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
