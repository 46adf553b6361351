//! Safe wrappers over the system calls that no crate offers well.
//!
//! All `unsafe` of the workspace lives here. The crate wraps and never decides: typed
//! file descriptors in and out, no policy, no logging. What rustix offers safely is
//! called through rustix, not wrapped again.

pub mod bpf;
#[cfg(target_arch = "x86_64")]
pub mod early;
pub mod exec;
pub mod keyring;
pub mod memory;
pub mod mount;
pub mod process;
pub mod rlimit;
pub mod schedule;
pub mod seccomp;
pub mod shared;
pub mod signal;

use std::io;

/// Turns the result of a raw system call into an [`io::Result`].
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
