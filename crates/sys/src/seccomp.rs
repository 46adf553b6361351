//! Installing a system call filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::check;

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Puts a filter on the calling thread, for itself and all that it starts.
///
/// Needs no-new-privileges or `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's; `EINVAL` for a program that it does not accept or that is too long.
pub fn install(program: &[SockFilter], flags: u32) -> io::Result<()> {
    if u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    set_filter(program, flags)?;
    Ok(())
}

/// As [`install`], and returns the descriptor (close-on-exec) by which the filter asks
/// about a call whose verdict is `SECCOMP_RET_USER_NOTIF` (`seccomp_unotify(2)`, 5.0).
///
/// # Errors
/// As [`install`]; `EBUSY` if the thread has a filter with a listener already.
pub fn install_with_listener(program: &[SockFilter], flags: u32) -> io::Result<OwnedFd> {
    let fd = set_filter(
        program,
        flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32,
    )?;
    // SAFETY: with this flag the kernel returns a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_filter(program: &[SockFilter], flags: u32) -> io::Result<i32> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog {
        len: length,
        filter: program.as_ptr() as *mut libc::sock_filter,
    };
    // SAFETY: SockFilter has the layout of sock_filter, the length is the slice's, and
    // the kernel only reads.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    })?;
    Ok(result as i32)
}
