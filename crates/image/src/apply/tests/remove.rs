//! A14 (RUSTSEC-2023-0018): removing trees that others change meanwhile.

use std::os::unix::fs::symlink;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsmount, fsopen, move_mount, unmount,
};

use super::*;

fn remove(scratch: &Scratch, name: &str) -> io::Result<()> {
    let root = File::open(scratch.root()).unwrap();
    remove_tree(root.as_fd(), OsStr::new(name))
}

#[test]
fn removes_trees_files_and_links() {
    let scratch = Scratch::new();
    let out = scratch.canary_path();
    scratch.apply(
        Archive::new()
            .file("t/a/b/c/f", "")
            .item(directory("t/closed").mode(0))
            .file("t/closed/f", "")
            .item(Item::new("t/fifo", b'6'))
            .item(Item::new("t/null", b'3').device(1, 3))
            .symlink("t/l", &out)
            .symlink("t/a/l", "..")
            .symlink("l", &out)
            .file("f", "")
            .directory("empty")
            .file("kept/f", ""),
    );
    for name in ["t", "l", "f", "empty"] {
        remove(&scratch, name).unwrap();
        scratch.check_canary();
    }
    assert_eq!(scratch.names(), ["kept", "kept/f"]);
    let missing = remove(&scratch, "t").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn takes_one_component_only() {
    let scratch = Scratch::new();
    scratch.apply(Archive::new().file("d/f", ""));
    for name in ["", ".", "..", "d/f", "/", "../canary", "d/"] {
        let error = remove(&scratch, name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    scratch.check_canary();
    assert_eq!(scratch.names(), ["d", "d/f"]);
}

/// More directories than are remembered, and more in each other than there are
/// descriptors or stack.
#[test]
fn removes_wide_and_deep_trees() {
    let scratch = Scratch::new();
    for at in 0..1500 {
        fs::create_dir_all(scratch.root().join(format!("t/w{at}"))).unwrap();
    }
    let mut directory = rustix::fs::openat(
        File::open(scratch.root()).unwrap(),
        "t",
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .unwrap();
    for _ in 0..2000 {
        rustix::fs::mkdirat(&directory, "deep", Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = rustix::fs::openat(&directory, "deep", flags, Mode::empty()).unwrap();
    }
    // Held open, it would keep all its dead parents in the kernel's cache, which
    // walks them at every rmdir(2).
    drop(directory);
    remove(&scratch, "t").unwrap();
    assert!(scratch.names().is_empty());
}

/// Unmounts, whatever becomes of the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn stops_at_mount_points() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.root().join("t/a/mounted")).unwrap();
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&tmpfs).unwrap();
    let mount = fsmount(
        &tmpfs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let target = scratch.root().join("t/a/mounted");
    move_mount(
        &mount,
        "",
        rustix::fs::CWD,
        &target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .unwrap();
    let mounted = Mounted(target.clone());
    fs::write(target.join("precious"), "").unwrap();
    let error = remove(&scratch, "t").unwrap_err();
    let code = error.raw_os_error();
    assert!(
        [Errno::BUSY, Errno::XDEV]
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&code),
        "{error}"
    );
    assert!(target.join("precious").exists());
    drop(mounted);
    remove(&scratch, "t").unwrap();
}

/// The moment that a race seldom hits: what was a directory is a link when it is
/// opened.
#[test]
fn a_directory_that_turned_into_a_link_is_not_followed() {
    let scratch = Scratch::new();
    let root = File::open(scratch.root()).unwrap();
    for target in [scratch.canary_path(), ".".to_owned(), "nowhere".to_owned()] {
        symlink(target, scratch.root().join("d")).unwrap();
        let opened = super::super::remove::open(root.as_fd(), c"d").unwrap();
        assert!(opened.is_none());
        assert!(scratch.names().is_empty());
        scratch.check_canary();
    }
}

/// Directories turn into links to the canaries, and are moved out of the tree
/// and back, while the tree is removed.
#[test]
fn survives_swaps() {
    let scratch = Scratch::new();
    let top = File::open(scratch.root()).unwrap();
    let out = scratch.canary_path();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Beside the tree, where `..` of a moved directory leads.
        fs::write(scratch.root().join("bystander"), "").unwrap();
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Some(a) = open_real(&top, "t/a") else {
                    continue;
                };
                // As fast as possible: it has to fall between two calls.
                for _ in 0..20 {
                    let _ = renameat_with(&a, "etc", &top, "l", RenameFlags::EXCHANGE);
                }
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Out of the tree and back: `..` of what is below leads elsewhere.
                if let Some(a) = open_real(&top, "t/a") {
                    let _ = renameat_with(&a, "b", &top, "beside", RenameFlags::NOREPLACE);
                    let _ = renameat_with(&top, "beside", &a, "b", RenameFlags::NOREPLACE);
                }
            }
        });
        let started = Instant::now();
        while started.elapsed() < RACE {
            let made = [
                ("t", "a"),
                ("t/a", "etc"),
                ("t/a/etc", "x"),
                ("t/a", "b"),
                ("t/a/b", "c"),
            ];
            make_directory(&top, ".", "t");
            for (parent, name) in made {
                make_directory(&top, parent, name);
            }
            // The exchange may have left the directory there.
            let _ = remove(&scratch, "l");
            let _ = symlink(&out, scratch.root().join("l"));
            let _ = remove(&scratch, "t");
            scratch.check_canary();
            assert!(scratch.root().join("bystander").exists());
        }
    });
    // In peace it goes.
    for name in ["t", "l", "beside"] {
        match remove(&scratch, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.unwrap(),
        }
    }
    assert_eq!(scratch.names(), ["bystander"]);
    scratch.check_canary();
}
