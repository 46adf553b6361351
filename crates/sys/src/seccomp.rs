//! Installing a system call filter.

use std::io;

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
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog {
        len: length,
        filter: program.as_ptr() as *mut libc::sock_filter,
    };
    // SAFETY: SockFilter has the layout of sock_filter, the length is the slice's, and
    // the kernel only reads.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    })?;
    Ok(())
}
