//! A supervisor that comes to life while the command does.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use super::{AT_EMPTY_PATH, SYS_EXECVEAT, call, clone_read_only, close, equal};

const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_DUP2: usize = 33;
const SYS_SOCKETPAIR: usize = 53;
const SYS_CLONE: usize = 56;
const SYS_READLINK: usize = 89;
const SYS_GETEUID: usize = 107;
const SYS_EXIT_GROUP: usize = 231;

const AF_UNIX: usize = 1;
const SOCK_STREAM_CLOEXEC: usize = 1 | 0o2_000_000;
const SIGCHLD: usize = 17;
const SIG_SETMASK: usize = 2;

const PROGRAM: &[u8; 18] = b"gantry-supervisor\0";

/// Where the supervisor writes the name of its directory when it knows it, so that a list of
/// processes says whose it is.
const ROOM: &[u8; 256] = &{
    let mut room = [b' '; 256];
    room[255] = 0;
    room
};

/// The connection to the supervisor, or -1.
static SUPERVISOR: AtomicI32 = AtomicI32::new(-1);

/// The connection to the supervisor that was started before `main`, once. It waits for the
/// name of its directory; when the connection is closed instead, it ends.
#[must_use]
pub fn take_supervisor() -> Option<OwnedFd> {
    let descriptor = SUPERVISOR.swap(-1, Ordering::Relaxed);
    // SAFETY: the descriptor was made below and is given away once.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `stack` is the stack of a process's start.
pub(super) unsafe extern "C" fn early(stack: *mut usize) {
    // SAFETY: the stack holds the number of arguments, the pointers to them and a null; each
    // argument ends with a null.
    unsafe {
        let count = *stack;
        let arguments = stack.wrapping_add(1).cast::<*const u8>();
        if count < 3 {
            return;
        }
        let first = *arguments.wrapping_add(1);
        let run: *const u8 = c"run".as_ptr().cast();
        let is_run = equal(first, run)
            || (equal(first, c"container".as_ptr().cast())
                && equal(*arguments.wrapping_add(2), run));
        if is_run && call(SYS_GETEUID, 0, 0, 0, 0, 0) == 0 {
            start();
        }
    }
}

/// # Safety
/// The process has one thread.
unsafe fn start() {
    // Not on the stack: filling them could become a call of memset.
    static PATH: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
    static PAIR: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];
    let bytes = (&raw const PATH).cast::<u8>().cast_mut();
    let pair = (&raw const PAIR).cast::<i32>().cast_mut();
    // SAFETY: both may be written to through a shared reference; the path is no longer than its
    // room; the child shares no memory with this process.
    unsafe {
        let length = call(
            SYS_READLINK,
            c"/proc/self/exe".as_ptr() as usize,
            bytes as usize,
            1024 - PROGRAM.len(),
            0,
            0,
        );
        if length <= 0 {
            return;
        }
        let mut end = length as usize;
        while end > 0 && *bytes.wrapping_add(end.wrapping_sub(1)) != b'/' {
            end = end.wrapping_sub(1);
        }
        let mut index = 0;
        while index < PROGRAM.len() {
            *bytes.wrapping_add(end.wrapping_add(index)) = *PROGRAM.as_ptr().wrapping_add(index);
            index = index.wrapping_add(1);
        }
        let mount = clone_read_only(bytes);
        if mount < 0 {
            return;
        }
        let paired = call(
            SYS_SOCKETPAIR,
            AF_UNIX,
            SOCK_STREAM_CLOEXEC,
            0,
            pair as usize,
            0,
        );
        let (ours, theirs) = (*pair, *pair.wrapping_add(1));
        if paired < 0 {
            close(mount);
            return;
        }
        // A caller that has closed its standard streams gets /dev/null there from the library,
        // which must find those numbers free.
        if mount > 2 && ours > 2 && theirs > 2 {
            let child = call(SYS_CLONE, SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                live(mount, theirs);
            }
            if child > 0 {
                SUPERVISOR.store(ours, Ordering::Relaxed);
                close(theirs as isize);
                close(mount);
                return;
            }
        }
        close(ours as isize);
        close(theirs as isize);
        close(mount);
    }
}

/// The child: becomes the supervisor.
///
/// # Safety
/// Nothing of this process is used any more.
unsafe fn live(mount: isize, theirs: i32) -> ! {
    // SAFETY: the arguments and the environment end with a null pointer.
    unsafe {
        let none: u64 = 0;
        call(
            SYS_RT_SIGPROCMASK,
            SIG_SETMASK,
            (&raw const none) as usize,
            0,
            size_of::<u64>(),
            0,
        );
        call(SYS_DUP2, theirs as usize, 0, 0, 0, 0);
        let arguments: [*const u8; 4] = [
            PROGRAM.as_ptr(),
            c"-".as_ptr().cast(),
            ROOM.as_ptr(),
            std::ptr::null(),
        ];
        let environment: [*const u8; 1] = [std::ptr::null()];
        call(
            SYS_EXECVEAT,
            mount as usize,
            c"".as_ptr() as usize,
            (&raw const arguments) as usize,
            (&raw const environment) as usize,
            AT_EMPTY_PATH,
        );
        loop {
            call(SYS_EXIT_GROUP, 127, 0, 0, 0, 0);
        }
    }
}
