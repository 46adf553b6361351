//! Signals as a readable descriptor, and their reset before an exec.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// Signals blocked in the process and read from a descriptor instead.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` and opens a non-blocking descriptor that delivers them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = set_of(signals)?;
        // SAFETY: set is initialised; no old mask is asked for.
        let blocked =
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        check(blocked.into())?;
        // SAFETY: set is initialised.
        let fd = check(
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }
                .into(),
        )?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(SignalFd { fd })
    }

    /// Takes the next pending signal, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> io::Result<Option<i32>> {
        // SAFETY: signalfd_siginfo is plain integers.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer and the size describe a live structure.
        let read = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                (&raw mut info).cast(),
                size_of_val(&info),
            )
        };
        if read < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        Ok(Some(info.ssi_signo as i32))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain bits; sigemptyset initialises it before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: set is a live sigset_t.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: set is a live sigset_t; a bad number gives an error, not harm.
        check(unsafe { libc::sigaddset(&raw mut set, signal) }.into())?;
    }
    Ok(set)
}

/// Lets `signals` reach the calling thread again; those that have come meanwhile do so at once.
///
/// # Errors
/// The kernel's.
pub fn unblock(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: set is initialised; no old mask is asked for.
    let unblocked =
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    check(unblocked.into()).map(drop)
}

/// Whether the process ignores `signal`. A signal that is ignored but blocked is still delivered
/// to a [`SignalFd`].
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data, for which zeroes are a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; action is live. A bad number gives an error and leaves it alone.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Gives every signal its default action and unblocks them all.
///
/// Rust programs start with SIGPIPE ignored, and an ignored signal stays ignored over
/// exec: without this a container's `yes | head` would never end.
pub fn reset_all() {
    // All zeroes: the default action, no flags, an empty mask. By the system call, as the
    // C library keeps signals 32 and 33 to itself and would leave them ignored.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the pointer leads to 32 bytes, the size of the kernel's sigaction, and
        // no handler is installed; numbers that may not be changed fail harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: sigset_t is plain bits; sigemptyset initialises it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: set is a live sigset_t.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: set is initialised; no old mask is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Ignores `signal` in this process.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Sends a signal by its number, those for realtime use included, to the process of a
/// handle (Linux 5.1).
///
/// # Errors
/// The kernel's; `ESRCH` where the process is gone.
pub fn send(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: plain integers, and no information of our own along with the signal.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}
