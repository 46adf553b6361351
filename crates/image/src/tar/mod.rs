//! Reading tar archives: v7, ustar, GNU and PAX, from any stream.
//!
//! Tar is several formats in one, and readers that disagree on where an entry
//! ends show one list of files to a scanner and another to the unpacker
//! (CVE-2025-62518). So this reader either takes an archive as GNU tar does or
//! refuses it, with [`TarError`] naming the place; what well-known readers take
//! in different ways (data after a link, two long names for one entry, a sole
//! zero block) is refused.
//!
//! Memory is bounded by the buffer, one extended header (1 MiB) and one sparse
//! map (1 MiB), whatever sizes the archive declares (CVE-2017-14992).

mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;

pub use header::{BLOCK, Header, HeaderError, MAX_ID, OldSparse, parse_header, parse_sparse_block};
pub use pax::{PaxError, Records, SparseRecords, parse_global, parse_records};
pub use reader::{Chunk, Contents, Reader};
pub use sparse::{MAX_SEGMENTS, Segment, SparseError};

/// Largest extended header or long name that is read, in bytes. Linux keeps an
/// extended attribute within 64 KiB and a path within 4 KiB.
pub const MAX_EXTENSION: u64 = 1 << 20;

/// Largest sum of all extended headers of one archive, in bytes. They are read
/// and dropped one by one, so that this bounds time, not memory: ten million
/// files with the usual 100 bytes each fit, padded to two blocks.
pub const MAX_EXTENSIONS: u64 = 10 << 30;

/// A point in time, `nanoseconds` (0 to 999,999,999) after `seconds` since 1970.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, negative before it.
    pub seconds: i64,
    /// Nanoseconds to add, below one billion.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file; its data follows.
    File,
    /// Another name of an earlier entry, which [`Entry::link`] names.
    HardLink,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry of an archive, with all its extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as stored: bytes, possibly absolute, with `..` or a slash at the end.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Target of a symbolic or hard link, as stored; empty for other kinds.
    pub link: Vec<u8>,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner, at most [`MAX_ID`].
    pub uid: u32,
    /// Group, at most [`MAX_ID`].
    pub gid: u32,
    /// Size of the file in bytes, with its holes; 0 for other kinds.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, each name once, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file has holes; [`Chunk::offset`] is not contiguous.
    pub sparse: bool,
}

/// Why an archive cannot be read. Offsets count bytes from its start; entries
/// are named escaped and cut to 256 bytes.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream failed.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The stream's error.
        #[source]
        source: io::Error,
    },
    /// The stream ended inside an entry, or without the two zero blocks that
    /// end an archive.
    #[error("archive is truncated at byte {offset}")]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// A header block is not one.
    #[error("bad header at byte {offset}")]
    Header {
        /// Where the header is.
        offset: u64,
        /// What is wrong.
        #[source]
        source: HeaderError,
    },
    /// A PAX extended header is malformed.
    #[error("bad extended header at byte {offset}")]
    Pax {
        /// Where the header is.
        offset: u64,
        /// What is wrong.
        #[source]
        source: PaxError,
    },
    /// An extended header is larger than [`MAX_EXTENSION`].
    #[error(
        "extended header at byte {offset} of {size} bytes is over the limit of {MAX_EXTENSION}"
    )]
    ExtensionTooLarge {
        /// Where the header is.
        offset: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// All extended headers together are larger than [`MAX_EXTENSIONS`].
    #[error("extended headers of more than {MAX_EXTENSIONS} bytes")]
    ExtensionsTooLarge,
    /// Two extended headers of one type stand before one entry.
    #[error("second extended header of one type at byte {offset}")]
    DuplicateExtension {
        /// Where the second header is.
        offset: u64,
    },
    /// The archive ends where the entry of an extended header should be.
    #[error("extended header without an entry before byte {offset}")]
    DanglingExtension {
        /// Where the archive ends.
        offset: u64,
    },
    /// A GNU long name and a PAX record give one entry two names.
    #[error("entry {entry} has another name in its PAX header")]
    ConflictingNames {
        /// The GNU name.
        entry: String,
    },
    /// The type is none that a file system holds.
    #[error("entry {entry} has the unsupported type {type_flag}")]
    UnsupportedType {
        /// The entry's name.
        entry: String,
        /// The type, escaped.
        type_flag: String,
    },
    /// Data follows an entry that cannot have any.
    #[error("entry {entry} is not a file but has {size} bytes of data")]
    UnexpectedData {
        /// The entry's name.
        entry: String,
        /// The data's size in bytes.
        size: u64,
    },
    /// A regular file's name ends with a slash: some readers make a directory.
    #[error("entry {entry} is a file with the name of a directory")]
    FileNamedAsDirectory {
        /// The entry's name.
        entry: String,
    },
    /// A sparse file's map is malformed.
    #[error("bad sparse file {entry}")]
    Sparse {
        /// The entry's name.
        entry: String,
        /// What is wrong.
        #[source]
        source: SparseError,
    },
    /// One zero block, then more: neither the end nor an entry.
    #[error("sole zero block at byte {offset}")]
    LoneZeroBlock {
        /// Where the block is.
        offset: u64,
    },
    /// The reader was used after an error.
    #[error("archive failed before")]
    Failed,
}

/// A name for people: escaped, and cut to its first 256 bytes.
pub(crate) fn escape_name(name: &[u8]) -> String {
    let mut text = name[..name.len().min(256)].escape_ascii().to_string();
    if name.len() > 256 {
        text.push_str("...");
    }
    text
}
