//! Scheduling, priorities and memory policy of the calling thread, which rustix lacks.

use std::io;

use crate::check;

/// `struct sched_attr` of sched_setattr(2), in its first published size.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Attributes {
    /// Bytes of the structure; [`set_scheduler`] fills it in.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Niceness.
    pub nice: i32,
    /// Static priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Sets the scheduling policy of the calling thread.
///
/// # Errors
/// The kernel's; `EPERM` without `CAP_SYS_NICE` in the first user namespace.
pub fn set_scheduler(mut attributes: Attributes) -> io::Result<()> {
    const _: () = assert!(size_of::<Attributes>() == 48);
    attributes.size = 48;
    // SAFETY: the pointer leads to a live structure that carries its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

/// Sets the I/O priority of the calling thread: a class and a priority in it.
///
/// # Errors
/// The kernel's; `EPERM` for the real-time class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    let value = (class << 13) | priority;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })?;
    Ok(())
}

/// Sets the execution domain of the calling thread (personality(2)).
///
/// # Errors
/// The kernel's.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: a plain integer.
    check(unsafe { libc::personality(domain.into()) }.into())?;
    Ok(())
}

/// Sets the memory policy of the calling thread: a mode with its flags, and a set of nodes,
/// the lowest numbers in the first word.
///
/// # Errors
/// The kernel's; `EINVAL` for nodes that are not there, `ENOSYS` without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    let (pointer, bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // One more than there are: the kernel leaves the last one out.
        (nodes.as_ptr(), nodes.len() * 64 + 1)
    };
    // SAFETY: the kernel reads as many words as hold one bit less than `bits`, which is the
    // length of the slice.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}
