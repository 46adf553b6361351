//! Session keyrings (keyrings(7)).

use std::ffi::CStr;
use std::io;

use crate::check;

/// Leaves the session keyring for the one of this name, which is made if there is none, and
/// returns its serial number.
///
/// # Errors
/// The kernel's; `ENOSYS` where it has no keyrings, `EDQUOT` where the user has too many.
pub fn join_session(name: &CStr) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the pointer leads to a null-terminated string, which the kernel only reads.
    let serial = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    Ok(serial as i32)
}

/// Lets the owner of a keyring search it, whether or not they possess it.
///
/// # Errors
/// The kernel's.
pub fn let_owner_search(serial: i32) -> io::Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    const KEYCTL_DESCRIBE: libc::c_int = 6;
    const KEY_USR_SEARCH: u32 = 0x0008_0000;
    let mut text = [0u8; 512];
    // SAFETY: the pointer and the size describe a live buffer.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
        )
    })?;
    // type;uid;gid;permissions;description
    let described = &text[..(length as usize).min(text.len())];
    let permissions = described
        .split(|&byte| byte == b';')
        .nth(3)
        .and_then(|field| std::str::from_utf8(field).ok())
        .and_then(|field| u32::from_str_radix(field, 16).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: plain integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_SETPERM,
            serial,
            permissions | KEY_USR_SEARCH,
        )
    })?;
    Ok(())
}
