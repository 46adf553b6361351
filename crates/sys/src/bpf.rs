//! Programs for the kernel: loading eBPF, and attaching it to control groups.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`, where a program of that type is attached.
pub const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside the programs of other groups, and of others on this one.
pub const ALLOW_MULTI: u32 = 1 << 1;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const REPLACE: u32 = 1 << 2;

/// One instruction of eBPF (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the lower half, source register in the upper.
    pub registers: u8,
    /// Distance of a jump or of a memory access.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

#[derive(Default)]
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[derive(Default)]
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[derive(Default)]
#[repr(C)]
struct QueryAttributes {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[derive(Default)]
#[repr(C)]
struct IdAttributes {
    id: u32,
    next: u32,
    flags: u32,
}

/// Calls `bpf` with one of the structures above.
///
/// # Safety
/// The structure must be the one of the command, and what its fields point to must be
/// valid for as long and in the direction that the command needs.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    let attributes: *mut T = attributes;
    // SAFETY: the size is that of the structure; the rest is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) })
}

/// Loads a program of type `kind` (`BPF_PROG_TYPE_*`); it lives as long as the
/// descriptor or something that it is attached to. Of `name`, 15 bytes are kept.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`, `EINVAL` or `EACCES` for a
/// program that the verifier refuses.
pub fn load(
    kind: u32,
    name: &str,
    license: &CStr,
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        kind,
        instruction_count: u32::try_from(instructions.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttributes::default()
    };
    for (kept, byte) in attributes.name[..15].iter_mut().zip(name.bytes()) {
        *kept = byte;
    }
    // SAFETY: Instruction has the layout of bpf_insn, the count is the slice's, the
    // license ends in a zero byte, there is no log, and the kernel only reads.
    let loaded = unsafe { bpf(PROG_LOAD, &mut attributes) };
    let fd = match loaded {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
            return Err(explain(&mut attributes, error));
        }
        other => other?,
    };
    // SAFETY: on success the kernel returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The verifier's own words on why it refuses a program, which it gives when asked.
fn explain(attributes: &mut LoadAttributes, error: io::Error) -> io::Error {
    let mut log = vec![0u8; 64 * 1024];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log_buffer = log.as_mut_ptr() as u64;
    // SAFETY: as in `load`, and the kernel writes at most `log_size` bytes to the log.
    if let Ok(fd) = unsafe { bpf(PROG_LOAD, attributes) } {
        // SAFETY: a new descriptor that nobody else owns, and nobody needs.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let mut lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.reverse();
    io::Error::new(error.kind(), format!("{error}: {}", lines.join("; ")))
}

/// Attaches a program to a control group, in place of `replaced` if given (kernel 5.6).
///
/// # Errors
/// The kernel's: `EPERM` where the group does not let others be attached, `ENOENT` if
/// `replaced` is not attached.
pub fn attach(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    kind: u32,
    flags: u32,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind,
        flags,
        replaced: 0,
    };
    if let Some(replaced) = replaced {
        attributes.flags |= REPLACE;
        attributes.replaced = replaced.as_raw_fd() as u32;
    }
    // SAFETY: the structure holds plain numbers and descriptors that are borrowed.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }?;
    Ok(())
}

/// Detaches a program from a control group.
///
/// # Errors
/// The kernel's: `ENOENT` if it is not attached.
pub fn detach(group: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind,
        ..AttachAttributes::default()
    };
    // SAFETY: the structure holds plain numbers and descriptors that are borrowed.
    unsafe { bpf(PROG_DETACH, &mut attributes) }?;
    Ok(())
}

/// The ids of the programs attached to a control group itself, oldest first, up to the
/// length of `ids`.
///
/// # Errors
/// The kernel's: `ENOSPC` if there are more than `ids` holds.
pub fn query<'a>(
    group: BorrowedFd<'_>,
    kind: u32,
    ids: &'a mut [u32],
) -> io::Result<&'a mut [u32]> {
    let mut attributes = QueryAttributes {
        target: group.as_raw_fd() as u32,
        kind,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len()).unwrap_or(u32::MAX),
        ..QueryAttributes::default()
    };
    // SAFETY: the pointer and the count describe a slice that is borrowed mutably, and
    // the kernel writes no more than the count.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let count = ids.len().min(attributes.count as usize);
    Ok(&mut ids[..count])
}

/// A descriptor of a loaded program, by its id.
///
/// # Errors
/// The kernel's: `ENOENT` if there is none.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        ..IdAttributes::default()
    };
    // SAFETY: the structure holds plain numbers.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: on success the kernel returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
