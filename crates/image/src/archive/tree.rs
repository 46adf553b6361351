//! From directories to a tar archive: one layer with its whiteouts, or several merged into what
//! a container sees.
//!
//! The directories may belong to a running container that changes them meanwhile. Every name is
//! resolved below the layer's root without following links, what is found is held by an `O_PATH`
//! descriptor before anything is opened, and only regular files and directories are opened: a
//! device node that a container has made never is (CVE-2018-15664 and kin).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, ResolveFlags, Stat,
};
use rustix::io::Errno;

use super::writer::TarWriter;
use crate::tar::{Entry, EntryKind, Timestamp, escape_name};

/// Prefix of a whiteout's name (OCI image spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Name of an opaque marker.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The attribute that makes a directory of overlayfs opaque.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Attributes of overlayfs by which a file is somewhere else, or its data is.
const ELSEWHERE: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What to make of the directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A layer: one directory in the form of overlayfs, its whiteouts in the form of AUFS.
    Layer,
    /// A file system: the directories merged, the topmost first.
    Merged,
}

/// Why a tree does not become an archive.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The kernel refused.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file's path in the tree, escaped.
        path: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A file whose name would be a whiteout in the archive.
    #[error("{path} has the name of a whiteout, which no layer can hold as a file")]
    WhiteoutName {
        /// The file's path in the tree, escaped.
        path: String,
    },
    /// overlayfs keeps the file's data or name in another layer.
    #[error("{path} refers to another layer ({attribute})")]
    Elsewhere {
        /// The file's path in the tree, escaped.
        path: String,
        /// The attribute that says so.
        attribute: String,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries.
    pub entries: u64,
    /// Bytes in files.
    pub bytes: u64,
}

/// Writes the tree that `layers` make, the topmost first, as a tar archive: names sorted within
/// each directory, parents first, without an entry for the root, sockets left out.
///
/// # Errors
/// [`TreeError`]. A part of the archive is written then.
pub fn write_tree<W: Write>(
    layers: &[BorrowedFd<'_>],
    form: Form,
    output: W,
) -> Result<(W, Written), TreeError> {
    let links = descriptor_links()?;
    let mut walk = Walk {
        layers,
        form,
        links,
        writer: TarWriter::new(output),
        names: HashMap::new(),
        written: Written::default(),
    };
    let mut below = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        below.push(index);
        // overlayfs does not look at a root's attributes, but the engine does.
        let hides = crate::apply::hides_lower_layers(*layer)
            .map_err(|source| walk.error("examine", b".", source))?;
        if hides {
            break;
        }
    }
    let mut open = walk.children(b"", &below)?;
    if form == Form::Layer
        && layers
            .first()
            .is_some_and(|layer| crate::apply::hides_lower_layers(*layer).unwrap_or(false))
    {
        walk.marker(OPAQUE.to_vec())?;
    }
    while let Some(item) = open.pop() {
        let children = walk.item(item)?;
        open.extend(children);
    }
    let Walk {
        writer, written, ..
    } = walk;
    Ok((writer.finish().map_err(TreeError::Write)?, written))
}

/// The directory of this process's descriptors, through which an `O_PATH` one is opened.
fn descriptor_links() -> Result<OwnedFd, TreeError> {
    let error = |source: Errno| TreeError::Io {
        operation: "open",
        path: "/proc/self/fd".into(),
        source: source.into(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let links = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty()).map_err(error)?;
    if rustix::fs::fstatfs(&links).map_err(error)?.f_type != PROC_SUPER_MAGIC {
        return Err(error(Errno::NOENT));
    }
    Ok(links)
}

/// Names and values of extended attributes.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Something to be written.
struct Item {
    path: Vec<u8>,
    kind: ItemKind,
}

enum ItemKind {
    /// A file of the first of these layers; a directory of all of them.
    Node(Vec<usize>),
    /// A whiteout of what is called so.
    Whiteout,
}

/// One name of a directory, over all layers.
#[derive(Default)]
struct Child {
    layers: Vec<usize>,
    whiteout: bool,
    /// Nothing of lower layers is seen.
    closed: bool,
}

struct Walk<'a, W: Write> {
    layers: &'a [BorrowedFd<'a>],
    form: Form,
    links: OwnedFd,
    writer: TarWriter<W>,
    /// First names of inodes with several, by layer.
    names: HashMap<(usize, u64), Vec<u8>>,
    written: Written,
}

impl<W: Write> Walk<'_, W> {
    fn error(
        &self,
        operation: &'static str,
        path: &[u8],
        source: impl Into<io::Error>,
    ) -> TreeError {
        TreeError::Io {
            operation,
            path: escape_name(path),
            source: source.into(),
        }
    }

    /// What is in a directory that is made of `layers`, the last name first.
    fn children(&self, path: &[u8], layers: &[usize]) -> Result<Vec<Item>, TreeError> {
        let mut names: BTreeMap<Vec<u8>, Child> = BTreeMap::new();
        for &layer in layers {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match self.open(layer, path, flags) {
                Ok(directory) => directory,
                // A running container has removed or replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(self.error("open", path, errno)),
            };
            self.list(&directory, path, layer, &mut names)?;
        }
        let mut items = Vec::with_capacity(names.len());
        for (name, child) in names.into_iter().rev() {
            let path = join(path, &name);
            if self.form == Form::Layer && name.starts_with(WHITEOUT) {
                return Err(TreeError::WhiteoutName {
                    path: escape_name(&path),
                });
            }
            if !child.layers.is_empty() {
                items.push(Item {
                    path,
                    kind: ItemKind::Node(child.layers),
                });
            } else if child.whiteout && self.form == Form::Layer {
                items.push(Item {
                    path,
                    kind: ItemKind::Whiteout,
                });
            }
        }
        Ok(items)
    }

    fn list(
        &self,
        directory: &OwnedFd,
        path: &[u8],
        layer: usize,
        names: &mut BTreeMap<Vec<u8>, Child>,
    ) -> Result<(), TreeError> {
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.error("list", path, errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let mut kind = entry.file_type();
            if matches!(kind, FileType::Unknown | FileType::CharacterDevice) {
                match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if is_whiteout(&stat) => {
                        let child = names.entry(name.to_bytes().to_vec()).or_default();
                        child.whiteout |= child.layers.is_empty();
                        child.closed = true;
                        continue;
                    }
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => {
                        return Err(self.error("examine", &join(path, name.to_bytes()), errno));
                    }
                }
            }
            let child = names.entry(name.to_bytes().to_vec()).or_default();
            if child.closed {
                continue;
            }
            if kind != FileType::Directory {
                // Below a directory a file is not seen.
                if child.layers.is_empty() {
                    child.layers.push(layer);
                }
                child.closed = true;
                continue;
            }
            child.layers.push(layer);
            if self.form == Form::Merged && self.layers.len() > 1 {
                let path = join(path, name.to_bytes());
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                    Ok(opened) => {
                        child.closed = is_opaque(&opened)
                            .map_err(|errno| self.error("examine", &path, errno))?;
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(self.error("open", &path, errno)),
                }
            }
        }
        Ok(())
    }

    /// Opens a path of a layer without following any link.
    fn open(&self, layer: usize, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(self.layers[layer], path, flags, Mode::empty(), RESOLVE)
    }

    /// Opens what an `O_PATH` descriptor holds, which was seen to be a file or a directory.
    fn reopen(&self, held: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let number = held.as_fd().as_raw_fd().to_string();
        rustix::fs::openat(&self.links, number, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes one item; returns what is below it.
    fn item(&mut self, item: Item) -> Result<Vec<Item>, TreeError> {
        let Item { path, kind } = item;
        let layers = match kind {
            ItemKind::Whiteout => {
                let at = path
                    .iter()
                    .rposition(|&byte| byte == b'/')
                    .map_or(0, |slash| slash + 1);
                let marker = [&path[..at], WHITEOUT, &path[at..]].concat();
                self.marker(marker)?;
                return Ok(Vec::new());
            }
            ItemKind::Node(layers) => layers,
        };
        let Some(&layer) = layers.first() else {
            return Ok(Vec::new());
        };
        let held = match self.open(
            layer,
            &path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        ) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(errno) => return Err(self.error("open", &path, errno)),
        };
        let stat = rustix::fs::fstat(&held).map_err(|errno| self.error("examine", &path, errno))?;
        let mut entry = entry_of(&stat, &path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                entry.kind = EntryKind::Directory;
                entry.path.push(b'/');
                let opened = self
                    .reopen(&held, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|errno| self.error("open", &path, errno))?;
                entry.xattrs = self.attributes(&opened, &path)?;
                self.header(&entry)?;
                if self.form == Form::Layer
                    && is_opaque(&opened).map_err(|errno| self.error("examine", &path, errno))?
                {
                    self.marker(join(&path, OPAQUE))?;
                }
                return self.children(&path, &layers);
            }
            FileType::RegularFile => {
                if self.is_link(&mut entry, layer, &stat) {
                    self.header(&entry)?;
                } else {
                    self.file(&mut entry, &held, &path)?;
                }
            }
            FileType::Symlink => {
                entry.kind = EntryKind::Symlink;
                entry.link = rustix::fs::readlinkat(&held, c"", Vec::new())
                    .map_err(|errno| self.error("read", &path, errno))?
                    .into_bytes();
                let target = std::mem::take(&mut entry.link);
                if !self.is_link(&mut entry, layer, &stat) {
                    entry.link = target;
                }
                self.header(&entry)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                entry.kind = if kind == FileType::BlockDevice {
                    EntryKind::BlockDevice
                } else {
                    EntryKind::CharacterDevice
                };
                entry.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                if self.is_link(&mut entry, layer, &stat) {
                    entry.device = (0, 0);
                }
                self.header(&entry)?;
            }
            FileType::Fifo => {
                entry.kind = EntryKind::Fifo;
                self.is_link(&mut entry, layer, &stat);
                self.header(&entry)?;
            }
            // Tar has no type for sockets, and they mean nothing without who made them.
            FileType::Socket | FileType::Unknown => {}
        }
        Ok(Vec::new())
    }

    /// Turns an entry into a hard link if its inode was written under another name.
    fn is_link(&mut self, entry: &mut Entry, layer: usize, stat: &Stat) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        match self.names.get(&(layer, stat.st_ino)) {
            Some(first) => {
                entry.kind = EntryKind::HardLink;
                entry.link.clone_from(first);
                entry.size = 0;
                true
            }
            None => {
                self.names.insert((layer, stat.st_ino), entry.path.clone());
                false
            }
        }
    }

    fn file(&mut self, entry: &mut Entry, held: &OwnedFd, path: &[u8]) -> Result<(), TreeError> {
        let opened = self
            .reopen(held, OFlags::RDONLY)
            .map_err(|errno| self.error("open", path, errno))?;
        entry.xattrs = self.attributes(&opened, path)?;
        self.header(entry)?;
        self.written.bytes += entry.size;
        let mut file = File::from(opened).take(entry.size);
        let copied = copy(&mut file, &mut self.writer).map_err(|(reading, source)| {
            if reading {
                self.error("read", path, source)
            } else {
                TreeError::Write(source)
            }
        })?;
        // A container cuts the file while it is read: the header is out already.
        let missing = entry.size - copied;
        io::copy(&mut io::repeat(0).take(missing), &mut self.writer).map_err(TreeError::Write)?;
        Ok(())
    }

    fn header(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.written.entries += 1;
        self.writer.entry(entry).map_err(TreeError::Write)
    }

    /// An empty file that stands for a whiteout.
    fn marker(&mut self, path: Vec<u8>) -> Result<(), TreeError> {
        self.header(&Entry {
            path,
            kind: EntryKind::File,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: false,
        })
    }

    /// The attributes that a layer may hold, sorted.
    fn attributes(&self, opened: &OwnedFd, path: &[u8]) -> Result<Attributes, TreeError> {
        let failed = |errno| self.error("read the attributes of", path, errno);
        let mut list = vec![0; 1024];
        let length = loop {
            match rustix::fs::flistxattr(opened, &mut list) {
                Ok(length) => break length,
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                Err(Errno::RANGE) if list.len() < 64 << 10 => list = vec![0; 64 << 10],
                Err(errno) => return Err(failed(errno)),
            }
        };
        let mut attributes = Vec::new();
        for name in list[..length].split(|&byte| byte == 0) {
            if ELSEWHERE.contains(&name) {
                return Err(TreeError::Elsewhere {
                    path: escape_name(path),
                    attribute: escape_name(name),
                });
            }
            if !is_kept(name) {
                continue;
            }
            let mut value = vec![0; 64 << 10];
            match rustix::fs::fgetxattr(opened, name, &mut value) {
                Ok(length) => {
                    value.truncate(length);
                    attributes.push((name.to_vec(), value));
                }
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        attributes.sort();
        Ok(attributes)
    }
}

/// Copies; an error says whether it was of reading.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, (bool, io::Error)> {
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err((true, error)),
        };
        to.write_all(&buffer[..count])
            .map_err(|error| (false, error))?;
        copied += count as u64;
    }
}

fn entry_of(stat: &Stat, path: &[u8]) -> Entry {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Entry {
        path: path.to_vec(),
        kind: EntryKind::File,
        link: Vec::new(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if is_file {
            u64::try_from(stat.st_size).unwrap_or_default()
        } else {
            0
        },
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec as u32,
        },
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: false,
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The attributes that unpacking sets: the others say something about this machine.
fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability"
        | b"security.ima"
        | b"system.posix_acl_access"
        | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::apply::{ApplyKind, Limits, apply_layer};
    use crate::digest::Digest;
    use crate::tar::Reader;
    use crate::testing::TestDirectory;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn pack(layers: &[&Path], form: Form) -> Result<Vec<u8>, TreeError> {
        let opened: Vec<OwnedFd> = layers.iter().map(|path| open(path)).collect();
        let borrowed: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
        write_tree(&borrowed, form, Vec::new()).map(|(bytes, _)| bytes)
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let mut reader = Reader::new(archive);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let link = match entry.kind {
                EntryKind::HardLink => format!(" = {}", entry.link.escape_ascii()),
                EntryKind::Symlink => format!(" -> {}", entry.link.escape_ascii()),
                _ => String::new(),
            };
            names.push(format!("{}{link}", entry.path.escape_ascii()));
        }
        names
    }

    fn whiteout(path: &Path) {
        let device = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), device).unwrap();
    }

    fn opaque(path: &Path) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, OPAQUE_ATTRIBUTE, b"y", flags).unwrap();
    }

    /// A layer that is packed, unpacked and packed again gives the same bytes.
    #[test]
    fn a_layer_is_reproducible() {
        let directory = TestDirectory::new();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        fs::create_dir_all(one.join("d/e")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(one.join("d/file"), b"data").unwrap();
        fs::hard_link(one.join("d/file"), one.join("link")).unwrap();
        fs::set_permissions(one.join("link"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/etc/passwd", one.join("s")).unwrap();
        rustix::fs::setxattr(
            one.join("link"),
            "user.a",
            b"b",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        whiteout(&one.join("d/gone"));
        opaque(&one.join("d/e"));
        rustix::fs::mknodat(
            CWD,
            one.join("z"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let first = pack(&[&one], Form::Layer).unwrap();
        assert_eq!(
            names(&first),
            [
                "d/",
                "d/e/",
                "d/e/.wh..wh..opq",
                "d/file",
                "d/.wh.gone",
                "link = d/file",
                "s -> /etc/passwd",
                "z"
            ]
        );
        apply_layer(
            &first[..],
            open(&other).as_fd(),
            ApplyKind::Layer,
            &Limits::default(),
        )
        .unwrap();
        let second = pack(&[&other], Form::Layer).unwrap();
        assert_eq!(Digest::of(&first), Digest::of(&second));
    }

    #[test]
    fn layers_merge_as_overlayfs_merges_them() {
        let directory = TestDirectory::new();
        let layer = |name: &str| directory.path().join(name);
        for name in [
            "low/a/x", "low/b", "low/o", "mid/a", "mid/b", "top/a", "top/o",
        ] {
            fs::create_dir_all(layer(name)).unwrap();
        }
        for name in [
            "low/a/1", "low/a/2", "low/b/1", "low/o/1", "low/f", "mid/a/3", "top/o/2",
        ] {
            fs::write(layer(name), name).unwrap();
        }
        // A whiteout of a file, an opaque directory, a file that replaces a directory.
        whiteout(&layer("mid/a/1"));
        opaque(&layer("top/o"));
        whiteout(&layer("top/f"));
        fs::write(layer("top/a/x"), b"").unwrap();
        let archive = pack(&[&layer("top"), &layer("mid"), &layer("low")], Form::Merged).unwrap();
        assert_eq!(
            names(&archive),
            ["a/", "a/2", "a/3", "a/x", "b/", "b/1", "o/", "o/2"]
        );
    }

    /// CVE-2018-15664, CVE-2026-17106: links are written and never followed; what would be a
    /// whiteout in the archive is refused.
    #[test]
    fn names_that_lie() {
        let directory = TestDirectory::new();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        symlink("/etc", top.join("etc")).unwrap();
        assert_eq!(names(&pack(&[&top], Form::Layer).unwrap()), ["etc -> /etc"]);
        fs::write(top.join(".wh.x"), b"").unwrap();
        assert!(matches!(
            pack(&[&top], Form::Layer),
            Err(TreeError::WhiteoutName { .. })
        ));
        assert!(pack(&[&top], Form::Merged).is_ok());
    }
}
