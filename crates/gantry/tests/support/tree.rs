//! What can be seen of a tree of files.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::hash::Hasher;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files by their paths, each with all that must not differ: kind, mode, owner, time, content or
/// target, extended attributes, and which other names it has.
pub type Tree = BTreeMap<PathBuf, String>;

/// Places that engines make or fill in every container.
const ENGINES_OWN: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    ".dockerenv",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
];

/// Reads a tree.
pub fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut first_names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let whole = root.join(&path);
        let metadata = fs::symlink_metadata(&whole).unwrap();
        let kind = metadata.file_type();
        let mut line = format!(
            "{:o} {}:{} {:?}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            attributes(&whole)
        );
        if kind.is_dir() {
            let names = fs::read_dir(&whole).unwrap();
            let mut paths: Vec<PathBuf> = names
                .map(|entry| path.join(entry.unwrap().file_name()))
                .filter(|path| !ENGINES_OWN.iter().any(|own| Path::new(own) == path))
                .collect();
            // The first of several names of a file has to be the same one everywhere.
            paths.sort_unstable_by(|one, other| other.cmp(one));
            open.extend(paths);
        } else {
            let identity = (metadata.dev(), metadata.ino());
            let first = first_names.entry(identity).or_insert_with(|| path.clone());
            line.push_str(&format!(" as {}", first.display()));
        }
        if kind.is_file() {
            let mut hasher = DefaultHasher::new();
            hasher.write(&fs::read(&whole).unwrap());
            line.push_str(&format!(" {} {:x}", metadata.len(), hasher.finish()));
        } else if kind.is_symlink() {
            line.push_str(&format!(" {:?}", fs::read_link(&whole).unwrap()));
        } else if kind.is_char_device() || kind.is_block_device() {
            line.push_str(&format!(" {:x}", metadata.rdev()));
        }
        let (seconds, rest) = (metadata.mtime(), metadata.mtime_nsec());
        line.push_str(&format!(" {seconds}.{rest:09}"));
        found.insert(path, line);
    }
    // Docker keeps no time for it, and Podman no mode.
    found.remove(Path::new(""));
    found
}

/// The tree as somebody sees it who keeps times in whole seconds.
pub fn in_seconds(tree: &Tree) -> Tree {
    let cut = |line: &String| format!("{}.000000000", line.rsplit_once('.').unwrap().0);
    let lines = tree.iter().map(|(path, line)| (path.clone(), cut(line)));
    lines.collect()
}

fn attributes(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut found: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        // Of overlayfs itself, where a layer is read as it is.
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."))
        .map(|name| {
            let name = OsString::from_vec(name.to_owned());
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name.as_bytes(), &mut value).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Asserts that two trees are equal, and says where they are not.
#[track_caller]
pub fn assert_same(whose: &str, found: &Tree, expected: &Tree) {
    let mut differences = Vec::new();
    let paths: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    for path in paths {
        let (here, there) = (found.get(path), expected.get(path));
        if here != there {
            let path = path.display();
            differences.push(format!("{path}:\n  is     {here:?}\n  not    {there:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{whose}: {}",
        differences.join("\n")
    );
}
