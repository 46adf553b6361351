//! Entries, one after the other.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::thread::Scope;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::behind::{Behind, SMALL, complete};
use super::name::{Meaning, clean, depth, meaning, split};
use super::node::{DEFAULT_ACL, set_attribute, set_metadata, set_node_metadata, timestamps};
use super::tree::{Tree, is_whiteout, kind as kind_of, lstat, open_directory, set_opaque};
use super::{Applied, ApplyError, ApplyKind, Limits, remove_tree};
use crate::tar::{Entry, EntryKind, Reader, Timestamp, escape_name};

/// How often something in the place of an entry is removed before giving up.
/// Once is enough unless another process puts it back.
const TRIES: u32 = 8;

/// Memory for what is left to do with directories, in bytes. Past it that is
/// done early, and the times of directories that change afterwards are lost: at
/// a hundred bytes each this takes 600,000 directories.
const MAX_LATER: usize = 64 << 20;

/// A layer being unpacked.
pub(super) struct Layer<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    behind: Behind<'scope>,
    tree: Tree,
    kind: ApplyKind,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    later: Vec<Later>,
    later_size: usize,
}

/// A directory's times, which change as long as entries are made in it, and its
/// default ACL, which they would inherit.
struct Later {
    path: Vec<u8>,
    inode: u64,
    mtime: Timestamp,
    default_acl: Option<Vec<u8>>,
}

/// What failed, and how: becomes [`ApplyError::Io`] once the entry is known.
type Step<T> = Result<T, (&'static str, std::io::Error)>;

fn step<T, E: Into<std::io::Error>>(operation: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| (operation, error.into()))
}

impl<'scope, 'env, 'a> Layer<'scope, 'env, 'a> {
    /// A layer that is unpacked with the help of a thread in `scope`, which ends when `stop` is
    /// set.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        stop: &'scope AtomicBool,
        root: BorrowedFd<'_>,
        kind: ApplyKind,
        limits: &'a Limits,
    ) -> Result<Self, ApplyError> {
        let tree = Tree::new(root).map_err(|error| ApplyError::Io {
            operation: "open",
            entry: "the layer's directory".to_owned(),
            source: error.into(),
        })?;
        Ok(Self {
            scope,
            behind: Behind::new(stop),
            tree,
            kind,
            limits,
            entries: 0,
            bytes: 0,
            later: Vec::new(),
            later_size: 0,
        })
    }

    pub(super) fn apply<R: Read>(
        &mut self,
        entry: Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), ApplyError> {
        self.entries += 1;
        if entry.path.is_empty() {
            return Err(ApplyError::NoName {
                number: self.entries,
            });
        }
        let path = clean(&entry.path).ok_or_else(|| ApplyError::Escapes {
            entry: escape_name(&entry.path),
        })?;
        self.check_limits(&entry, &path)?;
        let meaning = meaning(&path, self.kind);
        if let (Meaning::Plain { parent, name }, EntryKind::File) = (&meaning, entry.kind) {
            return self.file(entry, parent, name, reader);
        }

        let entry = &entry;
        let name = || escape_name(&entry.path);
        let is_directory = entry.kind == EntryKind::Directory;
        let io = |(operation, source)| ApplyError::Io {
            operation,
            entry: name(),
            source,
        };
        let bad_whiteout = || ApplyError::BadWhiteout { entry: name() };
        // AUFS made whiteouts as hard links to one file, so that old layers
        // hold some of that type.
        let may_be_whiteout = matches!(entry.kind, EntryKind::File | EntryKind::HardLink);
        match meaning {
            Meaning::Ignored => Ok(()),
            Meaning::BadWhiteout => Err(bad_whiteout()),
            Meaning::Root if !is_directory => Err(ApplyError::ReplacesRoot { entry: name() }),
            Meaning::Root => self.root(entry).map_err(io),
            Meaning::Whiteout { .. } | Meaning::Opaque { .. } if !may_be_whiteout => {
                Err(bad_whiteout())
            }
            Meaning::Whiteout { parent, name } => self.whiteout(parent, name).map_err(io),
            Meaning::Opaque { directory } => self.opaque(directory).map_err(io),
            Meaning::Plain { parent, name } => self.plain(entry, &path, parent, name),
        }
    }

    /// Does what had to wait for the last entry.
    pub(super) fn finish(mut self) -> Result<Applied, ApplyError> {
        self.behind.finish()?;
        self.flush()?;
        Ok(Applied {
            bytes: self.bytes,
            entries: self.entries,
        })
    }

    fn check_limits(&mut self, entry: &Entry, path: &[u8]) -> Result<(), ApplyError> {
        let Limits {
            max_bytes,
            max_entries,
            max_depth,
        } = *self.limits;
        if self.entries + self.tree.implied > max_entries {
            return Err(ApplyError::TooManyEntries { limit: max_entries });
        }
        if depth(path) > max_depth as usize {
            let entry = escape_name(&entry.path);
            return Err(ApplyError::TooDeep {
                entry,
                limit: max_depth,
            });
        }
        self.bytes = self
            .bytes
            .checked_add(entry.size)
            .filter(|&bytes| bytes <= max_bytes)
            .ok_or(ApplyError::TooLarge { limit: max_bytes })?;
        Ok(())
    }

    /// Makes what has no contents.
    fn plain(
        &mut self,
        entry: &Entry,
        path: &[u8],
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), ApplyError> {
        let io = |(operation, source)| ApplyError::Io {
            operation,
            entry: escape_name(&entry.path),
            source,
        };
        let parent = step("open the directory of", self.tree.parent(parent)).map_err(io)?;
        match entry.kind {
            // Those went another way.
            EntryKind::File => Ok(()),
            EntryKind::Directory => self.directory(entry, path, &parent, name).map_err(io),
            EntryKind::Symlink => self.symlink(entry, &parent, name).map_err(io),
            EntryKind::HardLink => self.hard_link(entry, &parent, name),
            EntryKind::CharacterDevice if entry.device == (0, 0) => {
                let (major, minor) = entry.device;
                Err(ApplyError::Device {
                    entry: escape_name(&entry.path),
                    major,
                    minor,
                })
            }
            EntryKind::CharacterDevice => self
                .node(entry, &parent, name, FileType::CharacterDevice)
                .map_err(io),
            EntryKind::BlockDevice => self
                .node(entry, &parent, name, FileType::BlockDevice)
                .map_err(io),
            EntryKind::Fifo => self.node(entry, &parent, name, FileType::Fifo).map_err(io),
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: Entry,
        parent: &[u8],
        name: &[u8],
        reader: &mut Reader<R>,
    ) -> Result<(), ApplyError> {
        let path = &entry.path;
        let io = |(operation, source)| ApplyError::Io {
            operation,
            entry: escape_name(path),
            source,
        };
        let parent = step("open the directory of", self.tree.parent(parent)).map_err(io)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Special bits follow after the owner: never set-user-ID root for a moment.
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let made = self.make(&parent, name, || {
            rustix::fs::openat(&parent, name, flags, mode)
        });
        let file = File::from(made.map_err(io)?);
        if entry.size <= SMALL && !entry.sparse {
            return self.behind.add(self.scope, file, entry, |contents| {
                while let Some(chunk) = reader.next_chunk()? {
                    contents.extend_from_slice(chunk.bytes);
                }
                Ok(())
            });
        }
        // No fallocate(2) first: on ext4 it made a root file system no faster.
        while let Some(chunk) = reader.next_chunk()? {
            step("write", file.write_all_at(chunk.bytes, chunk.offset)).map_err(io)?;
        }
        if entry.sparse {
            // A hole at the end.
            step("write", file.set_len(entry.size)).map_err(io)?;
        }
        complete(&file, &entry)
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], parent: &OwnedFd, name: &[u8]) -> Step<()> {
        self.tree.forget();
        let mut hides = false;
        for _ in 0..TRIES {
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            match rustix::fs::mkdirat(parent, name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(("make", error.into())),
            }
            let directory = match open_directory(parent, name) {
                Ok(directory) => Rc::new(directory),
                Err(Errno::NOTDIR | Errno::NOENT | Errno::LOOP) => {
                    hides |= self.clear(parent, name)?;
                    continue;
                }
                Err(error) => return Err(("open", error.into())),
            };
            if hides {
                step("make opaque", set_opaque(directory.as_fd()))?;
            }
            self.directory_metadata(entry, path, directory.as_fd())?;
            self.tree.remember(path, directory);
            return Ok(());
        }
        Err(("replace", Errno::EXIST.into()))
    }

    fn root(&mut self, entry: &Entry) -> Step<()> {
        let root = self.tree.root();
        self.directory_metadata(entry, b"", root.as_fd())
    }

    fn directory_metadata(
        &mut self,
        entry: &Entry,
        path: &[u8],
        directory: BorrowedFd<'_>,
    ) -> Step<()> {
        step("set the attributes of", set_metadata(directory, entry))?;
        let inode = step("examine", rustix::fs::fstat(directory))?.st_ino;
        let acl = entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACL);
        let default_acl = acl.map(|(_, value)| value.clone());
        self.later_size +=
            size_of::<Later>() + path.len() + default_acl.as_ref().map_or(0, Vec::len);
        self.later.push(Later {
            path: path.to_vec(),
            inode,
            mtime: entry.mtime,
            default_acl,
        });
        if self.later_size > MAX_LATER {
            self.flush().map_err(|error| match error {
                ApplyError::Io {
                    operation, source, ..
                } => (operation, source),
                other => ("finish", std::io::Error::other(other)),
            })?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        self.later_size = 0;
        for later in std::mem::take(&mut self.later) {
            let io = |(operation, source)| ApplyError::Io {
                operation,
                entry: escape_name(&later.path),
                source,
            };
            let directory = match self.tree.open(&later.path, OFlags::NOFOLLOW) {
                Ok(directory) => directory,
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(io(("open", error.into()))),
            };
            let stat = step("examine", rustix::fs::fstat(&directory)).map_err(io)?;
            if stat.st_ino != later.inode {
                continue;
            }
            if let Some(acl) = &later.default_acl {
                let set = set_attribute(directory.as_fd(), DEFAULT_ACL, acl);
                step("set the default ACL of", set).map_err(io)?;
            }
            let times = timestamps(later.mtime);
            step("set the times of", rustix::fs::futimens(&directory, &times)).map_err(io)?;
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Step<()> {
        self.tree.forget();
        let target = std::ffi::OsStr::from_bytes(&entry.link);
        self.make(parent, name, || rustix::fs::symlinkat(target, parent, name))?;
        self.node_metadata(entry, parent, name, false)
    }

    fn node(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        file_type: FileType,
    ) -> Step<()> {
        self.tree.forget();
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.make(parent, name, || {
            rustix::fs::mknodat(parent, name, file_type, mode, device)
        })?;
        self.node_metadata(entry, parent, name, true)
    }

    fn node_metadata(
        &self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        has_mode: bool,
    ) -> Step<()> {
        let made = step("examine", lstat(parent, name))?;
        let set = set_node_metadata(parent, name, &made, entry, has_mode);
        step("set the attributes of", set)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), ApplyError> {
        self.tree.forget();
        let target = clean(&entry.link)
            .filter(|target| !target.is_empty())
            .ok_or_else(|| ApplyError::LinkEscapes {
                entry: escape_name(&entry.path),
                target: escape_name(&entry.link),
            })?;
        self.link(&target, parent, name)
            .map_err(|(operation, source)| ApplyError::Io {
                operation,
                entry: escape_name(&entry.path),
                source,
            })
    }

    fn link(&mut self, target: &[u8], parent: &OwnedFd, name: &[u8]) -> Step<()> {
        let (target_parent, target_name) = split(target);
        let opened = self.tree.open(target_parent, OFlags::empty());
        let directory = step("find the link target of", opened)?;
        // Removing what is in its place must not remove the target.
        let found = step("find the link target of", lstat(&directory, target_name))?;
        // A link to a whiteout would be one without a whiteout's name.
        if is_whiteout(&found) {
            return Err(("find the link target of", Errno::NOENT.into()));
        }
        if let Ok(present) = lstat(parent, name)
            && (present.st_dev, present.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link is one.
        self.make(parent, name, || {
            rustix::fs::linkat(&directory, target_name, parent, name, AtFlags::empty())
        })
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Step<()> {
        let parent = step("open the directory of", self.tree.parent(parent))?;
        self.tree.forget();
        let device = rustix::fs::makedev(0, 0);
        let made = rustix::fs::mknodat(
            &parent,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            device,
        );
        if made != Err(Errno::EXIST) {
            return step("make", made);
        }
        match open_directory(&parent, name) {
            Ok(directory) => step("make opaque", set_opaque(directory.as_fd())),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(("examine", error.into())),
        }
    }

    fn opaque(&mut self, directory: &[u8]) -> Step<()> {
        let directory = step("open the directory of", self.tree.parent(directory))?;
        step("make opaque", set_opaque(directory.as_fd()))
    }

    /// Makes something new, after removing what is in its place.
    fn make<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Step<T> {
        for _ in 0..TRIES {
            match make() {
                Err(Errno::EXIST) => self.clear(parent, name)?,
                other => return step("make", other),
            };
        }
        Err(("replace", Errno::EXIST.into()))
    }

    /// Removes what an entry replaces. `true` if that was no directory: it hid
    /// a lower layer's directory of its name, and so must one in its place.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8]) -> Step<bool> {
        self.tree.forget();
        let stat = match lstat(parent, name) {
            Err(Errno::NOENT) => return Ok(false),
            other => step("examine", other)?,
        };
        let is_directory = kind_of(&stat) == FileType::Directory;
        let removed = if is_directory {
            remove_tree(parent.as_fd(), std::ffi::OsStr::from_bytes(name))
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(Into::into)
        };
        step("replace", removed)?;
        Ok(!is_directory)
    }
}
