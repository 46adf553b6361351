//! The container's terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, major};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{BirthError, Step};
use crate::path;
use crate::rootfs::{attach, clone_mount};
use crate::spec::ConsoleSize;

/// Both sides of a new terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The side that is kept by the supervisor.
    pub master: OwnedFd,
    /// The side that the program gets.
    pub slave: OwnedFd,
}

/// Makes a terminal in the devpts of the root, so that its name exists in the container.
///
/// # Errors
/// [`BirthError`].
pub fn make(
    root: BorrowedFd<'_>,
    size: Option<ConsoleSize>,
    owner: u32,
) -> Result<Terminal, BirthError> {
    let failed = || "cannot make a terminal".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = path::open_in_root(root, "/dev/pts/ptmx", flags).step(failed)?;
    rustix::pty::unlockpt(&master).step(failed)?;
    // By the master and not by a name: /dev/pts/N could be a link (CVE-2025-52565).
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).step(failed)?;
    if let Some(size) = size {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).step(failed)?;
    }
    rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(owner)), None).step(failed)?;
    Ok(Terminal { master, slave })
}

/// Binds the terminal to /dev/console, after the root was entered and by descriptor only.
///
/// # Errors
/// [`BirthError`]; also if the slave is no terminal of a devpts (CVE-2025-52565).
pub fn mount_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), BirthError> {
    let failed = || "cannot mount /dev/console".to_owned();
    let stat = rustix::fs::fstat(slave).step(failed)?;
    let is_terminal = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (136..=143).contains(&major(stat.st_rdev));
    if !is_terminal {
        return Err(BirthError::Invalid(
            "the console is not a terminal of a devpts".into(),
        ));
    }
    let mount = clone_mount(slave, false).step(failed)?;
    let target = path::make_file(root, "/dev/console").step(failed)?;
    attach(mount.as_fd(), target.as_fd(), "").step(failed)
}

/// The terminal three times over, as standard streams and controlling terminal.
///
/// # Errors
/// [`BirthError`].
pub fn into_stdio(slave: OwnedFd) -> Result<[OwnedFd; 3], BirthError> {
    let failed = || "cannot take the terminal".to_owned();
    rustix::process::ioctl_tiocsctty(&slave).step(failed)?;
    let second = slave.try_clone().step(failed)?;
    let third = slave.try_clone().step(failed)?;
    Ok([slave, second, third])
}
