//! Running from a copy of the program that nobody can write to (CVE-2019-5736).
//!
//! A container whose program is `/proc/self/exe` gets hold of the file that the birth ran
//! from, and could overwrite it on the host. So that file is a read-only, detached clone of
//! its own mount (0.011 ms; a copy in sealed memory costs 6.4 ms). It is closed by the exec
//! and from then on in no mount namespace, so that nobody can change its protection, not
//! even with `CAP_SYS_ADMIN`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use gantry_sys::exec::{SEALED_MARK, Strings, execveat};
use gantry_sys::mount::{Attributes, RDONLY, set_attributes};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;

/// A read-only mount of one file, attached nowhere.
///
/// # Errors
/// The kernel's; `EPERM` without `CAP_SYS_ADMIN`.
pub fn clone_read_only(program: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, program, flags)?;
    set_attributes(
        mount.as_fd(),
        Attributes {
            set: RDONLY,
            ..Attributes::default()
        },
        false,
    )?;
    Ok(mount)
}

/// Executes this program again, sealed; returns if it runs so already.
///
/// # Errors
/// The kernel's.
pub fn ensure() -> io::Result<()> {
    if is_sealed() {
        return Ok(());
    }
    let mark = CString::from(SEALED_MARK);
    let words = std::env::args_os().skip(1).map(|word| word.into_vec());
    let mut arguments = vec![mark];
    for word in words {
        arguments.push(CString::new(word)?);
    }
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        environment.push(CString::new(variable)?);
    }
    let (arguments, environment) = (Strings::new(arguments), Strings::new(environment));
    let program = Path::new("/proc/self/exe");
    let file = match clone_read_only(program) {
        Ok(file) => file,
        // Without privileges over the mount namespace, or before Linux 5.12.
        Err(_) => copy_to_memory(program)?,
    };
    Err(execveat(file.as_fd(), &arguments, &environment))
}

/// By the mark and by the file: a caller that only knows the mark gains nothing.
fn is_sealed() -> bool {
    let marked = std::env::args_os()
        .next()
        .is_some_and(|word| word.as_encoded_bytes() == SEALED_MARK.to_bytes());
    if !marked {
        return false;
    }
    let read_only = rustix::fs::statvfs("/proc/self/exe")
        .is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || is_in_sealed_memory().unwrap_or(false)
}

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

fn is_in_sealed_memory() -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/exe", flags, Mode::empty())?;
    Ok(rustix::fs::fcntl_get_seals(&file)?.contains(SEALS))
}

fn copy_to_memory(program: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("gantry-runtime", flags)?;
    let file = rustix::fs::open(program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    while rustix::fs::sendfile(&memory, &file, None, 16 << 20)? > 0 {}
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}
