//! What an archive holds, put down once: images name their parts in any order, and the list of
//! them may come last.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::rc::Rc;

use crate::decompress::Decoder;
use crate::digest::Digest;
use crate::model::DOCUMENT_LIMIT;
use crate::store::{Ingest, StagedBlob, StoreError};
use crate::tar::{EntryKind, Reader, TarError, escape_name};
use crate::unpack::Expansion;

/// Files up to this size stay in memory, as long as [`MEMORY`] lasts.
const SMALL: u64 = 256 << 10;
/// Memory for all small files, in bytes.
const MEMORY: u64 = 32 << 20;
/// Names that an archive may hold. Docker's of 127 layers and 100 images hold 40,000.
const MOST_NAMES: usize = 200_000;
/// Bytes of all names and of what links point to. Unlike content they cannot go to the disk.
const MOST_NAME_BYTES: u64 = 32 << 20;
/// Bytes of one name, as in a path of Linux. tar allows 1 MiB.
const LONGEST_NAME: usize = 4096;
/// Links that one name may lead through.
const MOST_LINKS: u32 = 8;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The tar archive is damaged or ambiguous.
    #[error("cannot read the archive")]
    Tar(#[from] TarError),
    /// It cannot be read, or decompressed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It is compressed with something that is not supported.
    #[error("archives compressed with {name} are not supported: use gzip or zstd")]
    Compression {
        /// Its name.
        name: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that leaves the archive, that is not text, or that is longer than a path can be.
    #[error("entry {entry} of the archive has an invalid name")]
    Name {
        /// The entry, escaped.
        entry: String,
    },
    /// A kind of file that no archive of images holds.
    #[error("entry {entry} of the archive is no file, directory or link")]
    Kind {
        /// The entry, escaped.
        entry: String,
    },
    /// One name for two files with different content.
    #[error("entry {entry} is in the archive twice, with different content")]
    Twice {
        /// The entry, escaped.
        entry: String,
    },
    /// More names than any honest archive has.
    #[error("the archive has more than {MOST_NAMES} entries")]
    TooMany,
    /// Longer names than any honest archive has.
    #[error("the names in the archive are longer than {MOST_NAME_BYTES} bytes in total")]
    LongNames,
    /// More data than allowed, or than the compressed size explains.
    #[error("the archive holds more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

/// The content of one file.
#[derive(Debug)]
pub(super) enum Content {
    Memory(Vec<u8>, Digest),
    Staged(StagedBlob),
}

impl Content {
    pub(super) fn digest(&self) -> Digest {
        match self {
            Self::Memory(_, digest) => *digest,
            Self::Staged(blob) => blob.digest(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::Staged(blob) => blob.size(),
        }
    }

    /// Reads it from its beginning.
    pub(super) fn reader(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match self {
            Self::Memory(bytes, _) => Box::new(Cursor::new(&bytes[..])),
            Self::Staged(blob) => Box::new(blob.reader()?),
        })
    }

    /// All of it, if it is a document of an allowed size.
    pub(super) fn document(&self) -> io::Result<Option<Vec<u8>>> {
        if self.size() > DOCUMENT_LIMIT {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.reader()?
            .take(DOCUMENT_LIMIT)
            .read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// The files of an archive by their names.
#[derive(Debug, Default)]
pub(super) struct Spool {
    names: BTreeMap<String, usize>,
    links: BTreeMap<String, String>,
    contents: Vec<Option<Content>>,
    /// The first of each content.
    digests: BTreeMap<Digest, usize>,
}

impl Spool {
    /// Reads an archive, plain or compressed with gzip or zstd, to its end.
    pub(super) fn read(
        input: impl Read,
        ingest: &Ingest<'_>,
        expansion: Expansion,
    ) -> Result<Self, SpoolError> {
        raise_descriptor_limit();
        let read = Rc::new(Cell::new(0));
        let mut counted = Counted {
            inner: input,
            count: Rc::clone(&read),
        };
        let mut start = Vec::new();
        (&mut counted)
            .take(6)
            .read_to_end(&mut start)
            .map_err(SpoolError::Read)?;
        let began = Cursor::new(start).chain(BufReader::with_capacity(256 << 10, counted));
        let decoder = match Decoder::detect(began).map_err(SpoolError::Read)? {
            Ok(decoder) => decoder,
            Err(name) => return Err(SpoolError::Compression { name }),
        };
        let mut spool = Self::default();
        let mut reader = Reader::new(decoder).without_end_marker();
        let mut budget = Budget {
            memory: MEMORY,
            written: 0,
            read,
            expansion,
        };
        let mut entries = 0;
        let mut name_bytes = MOST_NAME_BYTES;
        while let Some(entry) = reader.next_entry()? {
            let shown = || escape_name(&entry.path[..entry.path.len().min(LONGEST_NAME)]);
            // Directories are not kept, and cost time all the same.
            entries += 1;
            if entries > MOST_NAMES {
                return Err(SpoolError::TooMany);
            }
            let (path, link) = (entry.path.len(), entry.link.len());
            if path.max(link) > LONGEST_NAME {
                return Err(SpoolError::Name { entry: shown() });
            }
            name_bytes = name_bytes
                .checked_sub((path + link) as u64)
                .ok_or(SpoolError::LongNames)?;
            let path =
                resolve("", &entry.path).ok_or_else(|| SpoolError::Name { entry: shown() })?;
            match entry.kind {
                EntryKind::Directory => {}
                EntryKind::File => {
                    let content = budget.content(&mut reader, entry.size, ingest)?;
                    spool
                        .add(path, content)
                        .map_err(|()| SpoolError::Twice { entry: shown() })?;
                }
                EntryKind::Symlink | EntryKind::HardLink => {
                    let from = match path.rsplit_once('/') {
                        Some((parent, _)) if entry.kind == EntryKind::Symlink => parent,
                        _ => "",
                    };
                    // An absolute target means another place to each reader.
                    let target = (!entry.link.starts_with(b"/"))
                        .then(|| resolve(from, &entry.link))
                        .flatten()
                        .ok_or_else(|| SpoolError::Name { entry: shown() })?;
                    let known = spool.links.get(&path);
                    if spool.names.contains_key(&path) || known.is_some_and(|to| *to != target) {
                        return Err(SpoolError::Twice { entry: shown() });
                    }
                    spool.links.insert(path, target);
                }
                _ => return Err(SpoolError::Kind { entry: shown() }),
            }
        }
        if !reader.drain(expansion.free)? {
            return Err(SpoolError::TooLarge {
                limit: expansion.free,
            });
        }
        Ok(spool)
    }

    fn add(&mut self, path: String, content: Content) -> Result<(), ()> {
        if self.links.contains_key(&path) {
            return Err(());
        }
        if let Some(&known) = self.names.get(&path) {
            // Old tools write a layer that several images share once for each of them.
            let same = self.contents[known]
                .as_ref()
                .is_some_and(|known| known.digest() == content.digest());
            return if same { Ok(()) } else { Err(()) };
        }
        self.names.insert(path, self.contents.len());
        self.digests
            .entry(content.digest())
            .or_insert(self.contents.len());
        self.contents.push(Some(content));
        Ok(())
    }

    fn index(&self, path: &str) -> Option<usize> {
        let path = resolve("", path.as_bytes())?;
        let mut path = path.as_str();
        for _ in 0..MOST_LINKS {
            if let Some(&index) = self.names.get(path) {
                return Some(index);
            }
            path = self.links.get(path)?;
        }
        None
    }

    /// The file of that name, through links within the archive.
    pub(super) fn find(&self, path: &str) -> Option<&Content> {
        self.contents[self.index(path)?].as_ref()
    }

    /// The blob in its place in an OCI layout, if its bytes are the ones of its name.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Content> {
        self.find(&blob_path(digest))
            .filter(|content| content.digest() == *digest)
    }

    /// A file with that content, whatever it is called.
    pub(super) fn of_digest(&self, digest: &Digest) -> Option<&Content> {
        self.contents[*self.digests.get(digest)?].as_ref()
    }

    /// Whether a file of that name is there, whatever is in it.
    pub(super) fn has(&self, path: &str) -> bool {
        self.index(path).is_some()
    }

    /// Takes the blobs with these digests out.
    pub(super) fn take(
        mut self,
        wanted: &std::collections::BTreeSet<Digest>,
    ) -> Vec<(Digest, Content)> {
        let mut taken: BTreeMap<Digest, Content> = BTreeMap::new();
        for content in self.contents.iter_mut().filter_map(Option::take) {
            if wanted.contains(&content.digest()) {
                taken.entry(content.digest()).or_insert(content);
            }
        }
        taken.into_iter().collect()
    }
}

/// Where a blob lies in an OCI layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A name below the directory `from`, without `.` and `..`; `None` if it is above the root.
fn resolve(from: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts: Vec<&str> = from.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Each staged file is an open descriptor, and shells allow 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Archives of less than a thousand large files work without.
    let _ = setrlimit(Resource::Nofile, limit);
}

struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// What an archive has used up of its [`Expansion`].
struct Budget {
    memory: u64,
    written: u64,
    /// Compressed bytes so far.
    read: Rc<Cell<u64>>,
    expansion: Expansion,
}

impl Budget {
    fn content<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        size: u64,
        ingest: &Ingest<'_>,
    ) -> Result<Content, SpoolError> {
        if size <= SMALL && size <= self.memory {
            self.memory -= size;
            let mut bytes = Vec::with_capacity(size as usize);
            self.copy(reader, &mut bytes)?;
            let digest = Digest::of(&bytes);
            return Ok(Content::Memory(bytes, digest));
        }
        let mut blob = ingest.blob()?;
        self.copy(reader, &mut blob)?;
        Ok(Content::Staged(blob.finish()))
    }

    fn copy<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        to: &mut impl Write,
    ) -> Result<(), SpoolError> {
        let mut buffer = vec![0; 256 << 10];
        let mut contents = reader.contents();
        loop {
            let count = contents.read(&mut buffer).map_err(SpoolError::Read)?;
            if count == 0 {
                return Ok(());
            }
            self.written += count as u64;
            let Expansion { total, free, ratio } = self.expansion;
            let limit = free
                .saturating_add(ratio.saturating_mul(self.read.get()))
                .min(total);
            if self.written > limit {
                return Err(SpoolError::TooLarge { limit });
            }
            to.write_all(&buffer[..count]).map_err(SpoolError::Read)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2014-9358 and the zip-slip family: names stay within the archive.
    #[test]
    fn names_stay_within() {
        for (from, name, resolved) in [
            ("", "a/b", Some("a/b")),
            ("", "./a//b/", Some("a/b")),
            ("", "/a", Some("a")),
            ("x", "../y/layer.tar", Some("y/layer.tar")),
            ("", "../a", None),
            ("x", "../../a", None),
            ("", "a/../../b", None),
        ] {
            assert_eq!(
                resolve(from, name.as_bytes()).as_deref(),
                resolved,
                "{from} {name}"
            );
        }
        assert_eq!(resolve("", b"a\xff"), None);
    }
}
