//! A place where an escape harms nobody.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use crate::testing::TestDirectory;

/// Runs `body` in a thread, and threads of it, for which an empty tmpfs is all there is: the
/// fuzzers run as root, and what a fuzzer is to find would write to the machine's own files.
pub(crate) fn in_a_world<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let place = TestDirectory::new();
    let thread = || {
        // This unshares the root and the current directory of this thread as well.
        gantry_sys::process::unshare(UnshareFlags::NEWNS.bits() as i32).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let options = c"size=256m,nr_inodes=200000,mode=755";
        mount("tmpfs", place.path(), "tmpfs", MountFlags::NODEV, options).unwrap();
        rustix::process::chroot(place.path()).unwrap();
        rustix::process::chdir("/").unwrap();
        // Otherwise the mode of a node is set by way of procfs, through which links would lead to
        // the machine's own files: there is none.
        rustix::process::umask(Mode::empty());
        fs::create_dir_all(std::env::temp_dir()).unwrap();
        body()
    };
    std::thread::scope(|scope| match scope.spawn(thread).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `body` in a thread for which, and for whose children, all of the machine is read-only but
/// an empty tmpfs in the place of temporary files: other tools than ours follow links that an
/// archive plants, and Python's `extractall` has changed the mode of a real `/` by way of one.
pub(crate) fn in_a_read_only_world<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let thread = || {
        gantry_sys::process::unshare(UnshareFlags::NEWNS.bits() as i32).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        let root = fs::File::open("/").unwrap();
        let attributes = gantry_sys::mount::Attributes {
            set: gantry_sys::mount::RDONLY,
            ..Default::default()
        };
        gantry_sys::mount::set_attributes(root.as_fd(), attributes, true).unwrap();
        let options = c"size=1g,mode=1777";
        mount(
            "tmpfs",
            std::env::temp_dir(),
            "tmpfs",
            MountFlags::NODEV,
            options,
        )
        .unwrap();
        // Without these the guard would be no guard.
        for place in ["/", "/usr"] {
            let denied = rustix::fs::chmod(place, Mode::from_raw_mode(0o755));
            assert_eq!(
                denied,
                Err(rustix::io::Errno::ROFS),
                "{place} can be changed"
            );
        }
        body()
    };
    std::thread::scope(|scope| match scope.spawn(thread).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
