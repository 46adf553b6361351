//! Descriptors handed to other programs over Unix sockets.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::error::{CliError, Context as _};

/// Connects to a stream socket.
///
/// # Errors
/// [`CliError::File`].
pub fn connect(path: &Path) -> Result<OwnedFd, CliError> {
    let action = "connect to socket";
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .file(action, path)?;
    let (address, _directory) = address(path).file(action, path)?;
    rustix::net::connect(&socket, &address).file(action, path)?;
    Ok(socket)
}

/// The address of a path. One too long for an address goes through its directory, which
/// has to stay open until the address was used.
///
/// # Errors
/// The kernel's.
pub fn address(path: &Path) -> std::io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((address, None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidFilename.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let through = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((SocketAddrUnix::new(through)?, Some(directory)))
}

/// Sends a descriptor with a name.
///
/// # Errors
/// [`CliError::Step`].
pub fn send(socket: &OwnedFd, name: &str, fd: BorrowedFd<'_>) -> Result<(), CliError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let parts = [IoSlice::new(name.as_bytes())];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)
        .step("cannot hand a descriptor over")?;
    Ok(())
}
