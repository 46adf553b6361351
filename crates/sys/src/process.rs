//! Making processes and entering namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Which side of a fork the caller is on.
#[derive(Debug)]
pub enum Fork {
    /// The calling process; holds the new process.
    Parent(Child),
    /// The new process.
    Child,
}

/// A process just made.
#[derive(Debug)]
pub struct Child {
    /// Process id in the caller's namespace.
    pub pid: i32,
    /// Handle of the process, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Options of [`clone3`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT` flags.
    pub flags: u64,
    /// Directory of a cgroup v2 that the process is born into (kernel 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Makes a process as fork(2) does, in new namespaces if asked.
///
/// The caller must be single-threaded: the new process has one thread only, and a lock
/// that another thread held would stay locked in it. This is checked, at the cost of
/// one system call, because a violation would not show itself at once.
///
/// # Errors
/// The kernel's, or `EDEADLK` where the caller has more than one thread.
pub fn clone3(options: Clone3<'_>) -> io::Result<Fork> {
    if !is_single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = options.flags | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    // With CLONE_PARENT the signal is the one of the caller's own parent, and must be 0 here.
    if options.flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = options.cgroup {
        arguments.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM is among the flags that callers pass (namespace flags and
    // CLONE_PARENT), so the child has a copy of the memory and its own stack; the caller
    // is single-threaded, so no lock is held by a thread that is missing in the child.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: on success the kernel has stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent(Child {
        pid: pid as i32,
        pidfd,
    }))
}

/// [`clone3`] without namespaces.
///
/// # Errors
/// As [`clone3`].
pub fn fork() -> io::Result<Fork> {
    clone3(Clone3::default())
}

/// Makes a process as [`fork`] does, by the older call and without a handle: for a caller
/// behind a filter of system calls, many of which refuse clone3, whose arguments they
/// cannot look into. Returns the child's id, or nothing in the child.
///
/// # Errors
/// The kernel's, or `EDEADLK` where the caller has more than one thread.
pub fn fork_behind_filter() -> io::Result<Option<i32>> {
    if !is_single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: the caller is single-threaded, so no lock is held by a thread that is missing
    // in the child, and the child has a copy of the memory and its own stack.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then_some(pid as i32))
}

fn is_single_threaded() -> bool {
    // The link count of the task directory is the number of threads plus two.
    rustix::fs::stat("/proc/self/task").map_or(true, |stat| stat.st_nlink <= 3)
}

/// Leaves namespaces for new ones, as `CLONE_NEW*` flags say.
///
/// # Errors
/// The kernel's.
pub fn unshare(flags: i32) -> io::Result<()> {
    if flags & libc::CLONE_FILES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: CLONE_FILES, the one flag by which descriptors owned elsewhere could go
    // wrong, was refused above.
    check(unsafe { libc::unshare(flags) }.into())?;
    Ok(())
}

/// Joins namespaces: one, by a descriptor of it, or several of a process, by its pidfd.
///
/// # Errors
/// The kernel's.
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: setns touches no memory of the process.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) }.into())?;
    Ok(())
}

/// The type of a namespace that is open on `fd`, as its `CLONE_NEW*` flag.
///
/// # Errors
/// The kernel's; `ENOTTY` where `fd` is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // _IO(0xb7, 3)
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument.
    Ok(check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) }.into())? as i32)
}

/// Ends the process at once, without running anything that was registered for its end.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` on, or marks it close-on-exec.
///
/// # Errors
/// The kernel's; `ENOSYS` before 5.9 (close) and 5.11 (mark).
pub fn close_range_on_exec(first: u32) -> io::Result<()> {
    // SAFETY: marking close-on-exec leaves every descriptor valid for its owner.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on but one, whoever owns them.
///
/// For a process that goes on in a few lines of its own code and owns nothing else.
pub fn close_all_except(first: u32, keep: RawFd) {
    let keep = keep as u32;
    if keep > first {
        // SAFETY: the contract above: nothing that is closed here is used again.
        unsafe { libc::syscall(libc::SYS_close_range, first, keep - 1, 0) };
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0) };
}

/// Closes every descriptor from `first` on but those of `keep`, whoever owns them.
///
/// For a process that goes on in a few lines of its own code, and ends by [`exit_now`]: what
/// it has inherited and not kept must not be used, or dropped, again.
pub fn close_all_but(first: u32, keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = first;
    for number in keep.iter().map(|&fd| fd as u32) {
        if number > from {
            // SAFETY: the contract above: nothing that is closed here is used again.
            unsafe { libc::syscall(libc::SYS_close_range, from, number - 1, 0) };
        }
        from = from.max(number + 1);
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, 0) };
}

/// How a process ended, as its parent would have learnt it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WaitStatus {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl WaitStatus {
    /// Reads the encoding of wait(2).
    #[must_use]
    pub fn from_raw(status: i32) -> WaitStatus {
        if libc::WIFSIGNALED(status) {
            WaitStatus::Signaled(libc::WTERMSIG(status))
        } else {
            WaitStatus::Exited(libc::WEXITSTATUS(status))
        }
    }

    /// The code that a shell shows: 128 and the signal's number for a signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            WaitStatus::Exited(code) => code,
            WaitStatus::Signaled(signal) => 128 + signal,
        }
    }
}

/// Reads from a pidfd how a process ended that somebody else has reaped (kernel 6.15).
///
/// The pidfd must have been opened before the reaping. Nothing is known of a process
/// that lives, or of a zombie that nobody has reaped.
///
/// # Errors
/// The kernel's; `ENOTTY` or `EINVAL` where the kernel lacks the call.
pub fn reaped_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<WaitStatus>> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 3],
        credentials: [u32; 8],
        exit_code: i32,
    }
    const _: () = assert!(size_of::<PidfdInfo>() == 64);
    // _IOWR(0xFF, 11, struct pidfd_info)
    const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xFF << 8) | 11;
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request carries the size of the structure that the pointer leads to,
    // which is 64 bytes, the first published size of pidfd_info.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) }.into())?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| WaitStatus::from_raw(info.exit_code)))
}

/// Id of a child that has ended and waits to be reaped, whichever comes first.
///
/// # Errors
/// The kernel's; `ECHILD` where there are no children.
pub fn ended_child() -> io::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer leads to a live siginfo_t.
    check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) }.into())?;
    // SAFETY: waitid fills the fields of a child's end, or leaves the zeroes.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Keeps permitted capabilities over the change of user ids that follows.
///
/// # Errors
/// The kernel's.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    rustix::thread::set_keep_capabilities(keep).map_err(io::Error::from)
}

/// Sets the real, effective and saved user or group ids of this single-threaded process.
///
/// # Errors
/// The kernel's.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe a live slice of gid_t.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets the real, effective and saved ids of this single-threaded process and leaves its
/// supplementary groups alone, which a user namespace may forbid to change.
///
/// # Errors
/// The kernel's; `EINVAL` for an id that the user namespace does not map.
pub fn set_user_and_group(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Duplicates `fd` onto the number `target`, which stays open over exec.
///
/// # Errors
/// The kernel's.
pub fn install_fd(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: clears the close-on-exec flag of a descriptor that the caller borrows.
        check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into())?;
        return Ok(());
    }
    // SAFETY: the callers are processes about to exec, for which `target` is one of the
    // standard descriptors, or the start of the preserved range; nobody there owns it.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())?;
    Ok(())
}

/// Replaces the command line that lists of processes show, as far as there is room for it.
///
/// # Errors
/// The kernel's, where /proc cannot be read.
pub fn set_command_line(words: &[&[u8]]) -> io::Result<()> {
    let stat = std::fs::read("/proc/self/stat")?;
    let name_end = stat.iter().rposition(|&byte| byte == b')');
    let fields: Vec<&[u8]> = stat[name_end.map_or(0, |end| end + 1)..]
        .split(|&byte| byte == b' ')
        .filter(|field| !field.is_empty())
        .collect();
    // proc(5): arg_start and arg_end are the fields 48 and 49; the first one here is the 3rd.
    let address = |number: usize| {
        let text = std::str::from_utf8(fields.get(number - 3)?).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let (Some(start), Some(end)) = (address(48), address(49)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut line = words.join(&0);
    line.resize(end.saturating_sub(start).saturating_sub(1), 0);
    // SAFETY: the kernel says that the arguments lie there, on the stack, where a process may
    // write; the standard library has taken nothing but pointers to them, and what it gives out
    // are copies. The last byte stays the null that it is.
    unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), start as *mut u8, line.len()) };
    Ok(())
}

/// Takes over a descriptor that was inherited from the parent under a known number: a
/// duplicate above the standard streams, whose numbers are wanted for something else.
///
/// # Errors
/// `EBADF` where no such descriptor is open.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor and leaves the old one alone.
    let fd = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_may_not_fork() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        let refused = fork().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EDEADLK));
        drop(stop);
        let _ = thread.join();
    }

    #[test]
    fn wait_statuses_are_decoded() {
        assert_eq!(WaitStatus::from_raw(0x0300), WaitStatus::Exited(3));
        assert_eq!(WaitStatus::from_raw(9), WaitStatus::Signaled(9));
        assert_eq!(WaitStatus::from_raw(9).shell_code(), 137);
        assert_eq!(WaitStatus::from_raw(0x8b), WaitStatus::Signaled(11));
    }
}
