//! What an entry's name says, before anything touches the file system.

use super::ApplyKind;

/// Prefix of a whiteout's name (OCI image spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Prefix of the names that AUFS kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// Name of an opaque marker.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry stands for. Paths are relative and clean: no empty component,
/// no `.` and no `..`; the root is the empty path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The root directory itself.
    Root,
    /// Something called `name` in `parent`.
    Plain { parent: &'a [u8], name: &'a [u8] },
    /// What lower layers have as `name` in `parent` is gone.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// All that lower layers have in `directory` is gone.
    Opaque { directory: &'a [u8] },
    /// Bookkeeping of AUFS, which old Docker layers hold.
    Ignored,
    /// A whiteout of nothing that could exist, or below a whiteout.
    BadWhiteout,
}

/// Cleans a path lexically: `a/../b` is `b`, `/a` is `a`, and the root is
/// empty. `None` if it climbs above the root, even for a moment: no honest
/// archive does, and `/../x` means different things to different readers.
pub(super) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if clean.is_empty() {
                    return None;
                }
                let end = clean.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                clean.truncate(end);
            }
            _ => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(component);
            }
        }
    }
    Some(clean)
}

/// Parent and last component of a clean path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Number of components of a clean path.
pub(super) fn depth(path: &[u8]) -> usize {
    if path.is_empty() {
        0
    } else {
        path.iter().filter(|&&byte| byte == b'/').count() + 1
    }
}

/// What a clean path stands for.
pub(super) fn meaning(path: &[u8], kind: ApplyKind) -> Meaning<'_> {
    if path.is_empty() {
        return Meaning::Root;
    }
    let (parent, name) = split(path);
    let mut parts = path.split(|&byte| byte == b'/');
    // The first one decides: what is below a whiteout is not looked at.
    let Some(marker) = parts.find(|part| part.starts_with(WHITEOUT)) else {
        return Meaning::Plain { parent, name };
    };
    let is_last = parts.next().is_none();
    if kind == ApplyKind::RootFilesystem {
        return Meaning::BadWhiteout;
    }
    if marker.starts_with(AUFS) && marker != OPAQUE {
        return Meaning::Ignored;
    }
    if !is_last {
        return Meaning::BadWhiteout;
    }
    if marker == OPAQUE {
        return Meaning::Opaque { directory: parent };
    }
    match &marker[WHITEOUT.len()..] {
        b"" | b"." | b".." => Meaning::BadWhiteout,
        name => Meaning::Whiteout { parent, name },
    }
}
