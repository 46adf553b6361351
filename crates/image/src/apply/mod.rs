//! Unpacking one layer into a directory of its own, as overlayfs wants it.
//!
//! The archive comes from strangers. Nothing here names a file by a path of
//! the host: a parent is found by openat2(2) with the layer's directory as the
//! root, and everything else happens to one component below its descriptor,
//! without following a link in that place.
//!
//! A layer that fails leaves its directory half filled; the caller removes it
//! with [`remove_tree`].

mod behind;
mod layer;
mod name;
mod node;
mod remove;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use rustix::fd::BorrowedFd;

pub use remove::remove_tree;
pub use tree::hides_lower_layers;

use crate::tar::{Reader, TarError};

/// Bounds on what one layer may hold. A compressed layer of a few megabytes can
/// unpack to terabytes, or to more files than the disk has inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sum of all files' sizes, in bytes; holes count.
    pub max_bytes: u64,
    /// Number of entries, and of directories made because entries needed them.
    pub max_entries: u64,
    /// Number of components in a name.
    pub max_depth: u32,
}

impl Default for Limits {
    /// 64 GiB and four million entries, several times what images of machine
    /// learning hold, and 1024 components, half of what a path can name.
    fn default() -> Self {
        Self {
            max_bytes: 64 << 30,
            max_entries: 4_000_000,
            max_depth: 1024,
        }
    }
}

/// What names that begin with `.wh.` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyKind {
    /// A layer of an image: they are whiteouts (OCI image spec, layer.md).
    Layer,
    /// A whole file system (`docker import`): they are refused. As plain files
    /// they would turn into whiteouts when the image is saved or pushed.
    RootFilesystem,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Sum of all files' sizes, in bytes.
    pub bytes: u64,
    /// Number of entries in the archive.
    pub entries: u64,
}

/// Why a layer cannot be unpacked. Entries are named escaped and cut to 256
/// bytes.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The archive cannot be read.
    #[error("cannot read the layer")]
    Tar(#[from] TarError),
    /// A name climbs above the root with `..`.
    #[error("name of entry {entry} leaves the root")]
    Escapes {
        /// The entry.
        entry: String,
    },
    /// A hard link's target climbs above the root, or is the root.
    #[error("hard link {entry} leaves the root: {target}")]
    LinkEscapes {
        /// The entry.
        entry: String,
        /// What it links to, escaped.
        target: String,
    },
    /// The name is empty.
    #[error("entry number {number} has no name")]
    NoName {
        /// Which entry, from 1.
        number: u64,
    },
    /// Something else than a directory stands for the root.
    #[error("entry {entry} would replace the root")]
    ReplacesRoot {
        /// The entry.
        entry: String,
    },
    /// A whiteout of nothing that can exist, in a place where none can be, or
    /// in a root file system.
    #[error("entry {entry} is no valid whiteout")]
    BadWhiteout {
        /// The entry.
        entry: String,
    },
    /// A character device 0:0, which overlayfs takes for a whiteout, or numbers
    /// that no device has.
    #[error("entry {entry} is the device {major}:{minor}, which no layer may hold")]
    Device {
        /// The entry.
        entry: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// More entries than [`Limits::max_entries`].
    #[error("layer has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// More data than [`Limits::max_bytes`].
    #[error("layer has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A name with more components than [`Limits::max_depth`].
    #[error("entry {entry} is more than {limit} directories deep")]
    TooDeep {
        /// The entry.
        entry: String,
        /// The limit.
        limit: u32,
    },
    /// The kernel refused.
    #[error("cannot {operation} {entry}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The entry.
        entry: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Unpacks a layer into the directory `root`, which should be empty.
///
/// The stream is read to its end, past the archive's, so that a digest taken of
/// it covers all of it; what follows the archive is dropped and counts towards
/// [`Limits::max_bytes`].
///
/// The rules (OCI image spec v1.1, layer.md, "Applying Changesets"):
/// - Names are cleaned first: `a/../b` is `b`, absolute names start at the root.
/// - Missing parents are made, 0755 and owned by root. Parents that are links of
///   the same layer are followed within the root.
/// - An entry replaces one of the same name in the layer, a directory merges
///   with a directory. A directory replaces a link to a directory, as in
///   containerd and Docker; a reader that kept the link would let the entry
///   change something of another name.
/// - A whiteout becomes a character device 0:0, an opaque marker the attribute
///   `trusted.overlay.opaque`. Whiteouts apply to lower layers only, wherever in
///   the archive they stand: next to an entry of the same name the entry stays,
///   and if it is a directory it is made opaque.
/// - An opaque marker in the root hides all lower layers, but overlayfs does not
///   look at the root's attributes: whoever mounts the layer must ask
///   [`hides_lower_layers`] and leave them out.
/// - A hard link takes all from its target, which must be in the layer; its own
///   header's owner, mode and times are not looked at.
/// - Devices are made; sockets have no type in tar.
/// - Attributes are set on files and directories only: `user.*` but
///   `user.overlay.*`, `security.capability`, `security.ima` and POSIX ACLs. The
///   others are stripped.
///
/// # Errors
/// [`ApplyError`]. What was unpacked so far stays.
pub fn apply_layer<R: Read>(
    reader: R,
    root: BorrowedFd<'_>,
    kind: ApplyKind,
    limits: &Limits,
) -> Result<Applied, ApplyError> {
    let mut reader = Reader::new(reader);
    if kind == ApplyKind::Layer {
        reader = reader.without_end_marker();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut layer = layer::Layer::new(scope, &stop, root, kind, limits)?;
        while let Some(entry) = reader.next_entry()? {
            layer.apply(entry, &mut reader)?;
        }
        if !reader.drain(limits.max_bytes)? {
            return Err(ApplyError::TooLarge {
                limit: limits.max_bytes,
            });
        }
        layer.finish()
    })
}
