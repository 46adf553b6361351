//! Resource limits by number, as `config.json` names more of them than any enum.

use std::io;

use crate::check;

/// Reads a limit: soft and hard.
///
/// # Errors
/// The kernel's; `EINVAL` for an unknown resource.
pub fn get(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer leads to a live rlimit.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a limit of the calling process.
///
/// # Errors
/// The kernel's; `EPERM` for a hard limit above the present one without `CAP_SYS_RESOURCE`.
pub fn set(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the pointer leads to a live rlimit, which the kernel only reads.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit>(),
        )
    })?;
    Ok(())
}
