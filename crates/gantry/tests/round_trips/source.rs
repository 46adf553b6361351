//! A tree of all kinds of files, and what is done to it in a second layer.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::XattrFlags;

use crate::support::engines::ok;

/// Mode 04755, and so on: what `chown` takes away comes after it.
fn set(path: &Path, owner: (u32, u32), mode: u32) {
    std::os::unix::fs::lchown(path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Makes the files of the first layer.
pub fn make(root: &Path) {
    let long = "long-name-".repeat(15);
    for name in ["bin", "etc/emptied/sub", "d/empty", "d/gone/deep", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::create_dir_all(root.join("d").join(&long).join(&long)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "sleep", "touch", "rm", "mkdir", "ln", "chmod", "chown", "mv", "cat",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let write = |name: &str, content: &str| fs::write(root.join(name), content).unwrap();
    for (name, content) in [
        ("d/a", "a\n"),
        ("d/nothing", ""),
        ("d/text", "first\n"),
        ("d/owned", "owned\n"),
        ("d/capable", "capable\n"),
        ("d/ümlaut", "ü"),
        ("d/gone/deep/file", "gone"),
        ("d/removed", "removed"),
        ("etc/emptied/old", "old"),
        ("etc/emptied/sub/old", "old"),
        ("etc/kept", "kept"),
    ] {
        write(name, content);
    }
    fs::write(root.join("d").join(&long).join(&long).join("file"), "far").unwrap();
    fs::hard_link(root.join("d/a"), root.join("d/hard")).unwrap();
    fs::hard_link(root.join("d/a"), root.join("etc/hard")).unwrap();
    symlink("a", root.join("d/soft")).unwrap();
    symlink("../nowhere", root.join("d/dangling")).unwrap();
    fs::File::create(root.join("d/sparse"))
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    let made = "mkfifo d/fifo && mknod d/null c 1 3 && mknod d/disk b 7 200";
    ok(Command::new("sh").args(["-c", made]).current_dir(root));
    set(&root.join("d/a"), (0, 0), 0o4755);
    set(&root.join("d/owned"), (123, 3_000_000), 0o2640);
    set(&root.join("d/empty"), (123, 456), 0o1777);
    set(&root.join("d/nothing"), (0, 0), 0);
    set(&root.join("tmp"), (0, 0), 0o1777);
    std::os::unix::fs::lchown(root.join("d/soft"), Some(7), Some(8)).unwrap();
    attribute(&root.join("d/a"), "user.x", b"y");
    attribute(&root.join("d/empty"), "user.empty", b"\0\xff");
    // cap_net_raw+ep, as `setcap` writes it.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    attribute(&root.join("d/capable"), "security.capability", &capability);
    for (time, name) in [
        ("2001-02-03 04:05:06.789", "d/soft"),
        ("1999-12-31 23:59:59.123456789", "d/text"),
        ("2001-02-03 04:05:06.789", "d/empty"),
        ("2033-01-01 00:00:00", "d/ümlaut"),
        ("2002-02-02 02:02:02.5", "d"),
        ("2003-03-03 03:03:03", "."),
    ] {
        let path = root.join(name);
        ok(Command::new("touch").args(["-h", "-d", time]).arg(path));
    }
}

/// Packs a directory as it is.
pub fn pack(root: &Path, to: &Path, flags: &[&str]) {
    ok(Command::new("tar")
        .args(["--format=posix", "--numeric-owner", "--sort=name"])
        .args(["--xattrs", "--xattrs-include=*"])
        .args(flags)
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .args([to, Path::new(".")]));
}

/// Changes of the second layer, for a shell whose directory is the root: additions, changes with
/// what they copy, removals, a directory that hides what it had, links.
pub const CHANGES: &str = "echo second >> d/text
    chmod 700 d/a
    chown 5:6 d/empty
    rm -r d/gone d/removed
    rm -r etc/emptied
    mkdir etc/emptied
    echo new > etc/emptied/new
    ln etc/emptied/new d/linked
    ln -s ../etc/emptied/new d/pointer
    mv etc/kept etc/moved
    mkdir -p new/deep
    echo deep > new/deep/file
    touch -d '2005-05-05 05:05:05' new/deep/file new";

/// Whether a file of zeroes takes no space.
pub fn is_sparse(path: &Path) -> bool {
    let metadata = fs::metadata(path).unwrap();
    metadata.len() == 4 << 20 && metadata.blocks() * 512 < 64 << 10
}
