//! Real archives into real directories. They make devices and change owners,
//! so they run as root.

mod behind;
mod differential;
mod escapes;
mod fuzz;
mod metadata;
mod remove;
mod whiteouts;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RenameFlags, ResolveFlags, renameat_with};

use super::*;
use crate::tar::testing::{Archive, Item};

/// A directory of its own for each test, with a layer's directory in it and,
/// outside of that, canaries that nothing may touch.
struct Scratch {
    path: PathBuf,
    canary: BTreeMap<PathBuf, Facts>,
}

/// All that can be seen of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    /// Not of devices and such, which have none worth comparing.
    size: u64,
    mtime: (i64, i64),
    device: u64,
    inode: u64,
    links: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gantry-apply-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("root")).unwrap();
        fs::create_dir_all(path.join("canary/etc")).unwrap();
        fs::write(path.join("canary/file"), "precious").unwrap();
        fs::write(path.join("canary/etc/passwd"), "root:x:0:0").unwrap();
        let mut scratch = Self {
            path,
            canary: BTreeMap::new(),
        };
        scratch.canary = facts(&scratch.path.join("canary"));
        scratch
    }

    fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// The canaries' place as an archive would name it.
    fn canary_path(&self) -> String {
        self.path.join("canary").to_str().unwrap().to_owned()
    }

    fn apply_with(
        &self,
        archive: &[u8],
        kind: ApplyKind,
        limits: &Limits,
    ) -> Result<Applied, ApplyError> {
        let root = File::open(self.root()).unwrap();
        let applied = apply_layer(archive, root.as_fd(), kind, limits);
        self.check_canary();
        applied
    }

    fn try_apply(&self, archive: Archive) -> Result<Applied, ApplyError> {
        self.apply_with(&archive.finish(), ApplyKind::Layer, &Limits::default())
    }

    fn apply(&self, archive: Archive) -> Applied {
        self.try_apply(archive).unwrap()
    }

    fn refused(&self, archive: Archive) -> ApplyError {
        self.try_apply(archive).unwrap_err()
    }

    #[track_caller]
    fn check_canary(&self) {
        assert_eq!(facts(&self.path.join("canary")), self.canary, "canary");
        let around: Vec<_> = fs::read_dir(&self.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "root" && name != "canary")
            .collect();
        assert!(around.is_empty(), "{around:?}");
    }

    /// Paths below the layer's directory, sorted.
    fn names(&self) -> Vec<String> {
        let names = facts(&self.root()).into_keys();
        names
            .map(|path| path.to_str().unwrap().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }

    fn facts(&self, path: &str) -> Facts {
        facts_of(&self.root().join(path))
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = fs::symlink_metadata(self.root().join(path)).unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.facts(path)
            .xattrs
            .get(&b"trusted.overlay.opaque"[..])
            .is_some_and(|v| v == b"y")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = File::open(std::env::temp_dir()).unwrap();
        let removed = remove_tree(parent.as_fd(), self.path.file_name().unwrap());
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A directory below another, by no link: an attacker of a test that went
/// through its own links would change the canaries itself.
fn open_real(top: &File, path: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve).ok()
}

/// Exchanges `parent/name` and `top/other`, by no link.
fn exchange(top: &File, parent: &str, name: &str, other: &str) {
    if let Some(parent) = open_real(top, parent) {
        let _ = renameat_with(parent, name, top, other, RenameFlags::EXCHANGE);
    }
}

/// Makes a directory, by no link.
fn make_directory(top: &File, parent: &str, name: &str) {
    if let Some(parent) = open_real(top, parent) {
        let _ = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    }
}

/// How long a race is run. What takes longer to show has a test of its own that
/// stops between the two calls.
const RACE: Duration = Duration::from_secs(4);

/// Ends another thread's loop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Everything below a directory, and itself under the empty path.
fn facts(top: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let facts = facts_of(&path);
        if facts.mode & 0o170_000 == 0o040_000 {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.insert(path.strip_prefix(top).unwrap().to_owned(), facts);
    }
    found
}

fn facts_of(path: &Path) -> Facts {
    let metadata = fs::symlink_metadata(path).unwrap();
    let content = if metadata.is_file() {
        fs::read(path).unwrap()
    } else if metadata.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    Facts {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        size: if metadata.is_file() {
            metadata.size()
        } else {
            0
        },
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        device: metadata.rdev(),
        inode: metadata.ino(),
        links: if metadata.is_dir() {
            0
        } else {
            metadata.nlink()
        },
        content,
        xattrs: xattrs_of(path),
    }
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap();
    list[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

fn file(path: impl AsRef<[u8]>) -> Item {
    Item::new(path, b'0')
}

fn directory(path: impl AsRef<[u8]>) -> Item {
    Item::new(path, b'5')
}
