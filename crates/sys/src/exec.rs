//! Replacing the program of a process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// First word of the command line of a program that was executed from a file that no container
/// can write to. Whoever seals a program, before its C library starts or later, says the same:
/// two words would have them execute one another for ever.
pub const SEALED_MARK: &CStr = c"gantry-runtime:sealed";

/// A null-terminated array of strings, as execve(2) takes it.
#[derive(Debug)]
pub struct Strings {
    pointers: Vec<*const libc::c_char>,
    _owner: Vec<CString>,
}

impl Strings {
    /// Makes the array.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Strings {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Strings {
            pointers,
            _owner: strings,
        }
    }
}

/// Executes `path`; returns only on failure.
#[must_use]
pub fn execve(path: &CStr, arguments: &Strings, environment: &Strings) -> io::Error {
    // SAFETY: both arrays are null-terminated and own the strings that they point to.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Executes the file that `fd` is open on; returns only on failure.
#[must_use]
pub fn execveat(fd: BorrowedFd<'_>, arguments: &Strings, environment: &Strings) -> io::Error {
    // SAFETY: both arrays are null-terminated and own the strings that they point to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(result)
        .err()
        .unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}
