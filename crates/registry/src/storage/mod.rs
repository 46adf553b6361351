//! What the registry keeps on disk: the content store, and which repository has what of it.
//!
//! ```text
//! ROOT/oci-layout, blobs/, layers/, ingest/     the content store of gantry_image
//! ROOT/serving                                  locked by the server
//! ROOT/repositories/NAME/_blobs/sha256/HEX      empty: the repository has this blob
//! ROOT/repositories/NAME/_manifests/sha256/HEX  the media type the manifest was pushed with
//! ROOT/repositories/NAME/_tags/TAG              the digest that the tag points to
//! ROOT/repositories/NAME/_referrers/sha256/SUBJECT/HEX   descriptor of a referrer
//! ROOT/uploads/ID.REPOSITORY                    bytes of an unfinished upload
//! ROOT/staging/                                 files that have no name yet
//! ```
//!
//! No component of a repository's name begins with an underscore, so names and entries cannot
//! meet. Whatever is acknowledged is on the disk before: the file is synced, renamed into place,
//! and its directory is synced. Blobs are served only where a repository has an entry for them
//! (CVE-2026-35172, CVE-2024-39897).
//!
//! Who adds an entry to a repository holds [`Storage::keep`] from before it looks whether the
//! content is there until the entry is; the collector removes only while nobody does.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use gantry_image::{Digest, Store, StoreError};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::name::RepositoryName;

mod entries;
mod uploads;

pub(crate) use entries::Referrer;
pub(crate) use uploads::UploadFile;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Nothing below the root is a link of ours, so none is followed.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Largest entry that is read: a tag or a media type; descriptors of referrers have a limit of
/// their own.
const ENTRY_LIMIT: u64 = 4096;

/// The file that a server locks. Nothing else makes one, so it also marks a registry's root.
const SERVING: &str = "serving";
/// What a registry's root does not have, but the engine's data root and OCI layouts of others do.
const FOREIGN: [&str; 2] = ["state.db", "index.json"];
/// Repositories share this many locks by the hash of their names.
const CHANGES: usize = 64;

/// Why the registry's files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A system call failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The content store's word.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another server has this root.
    #[error("{} is served by another process", path.display())]
    Served {
        /// The root.
        path: PathBuf,
    },
    /// An entry is not what was written there.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Something else keeps its content there.
    #[error("{} belongs to something else than a registry: it has {marker}", path.display())]
    Foreign {
        /// The root.
        path: PathBuf,
        /// The file that says so.
        marker: &'static str,
    },
    /// No server has ever run there.
    #[error("there is no registry in {}", path.display())]
    Absent {
        /// The root.
        path: PathBuf,
    },
    /// Pushes never paused for the collector.
    #[error("the registry in {} was busy for {} seconds", path.display(), waited.as_secs())]
    Busy {
        /// The root.
        path: PathBuf,
        /// How long the collector tried.
        waited: Duration,
    },
}

/// An open registry root.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) store: Store,
    root: PathBuf,
    top: OwnedFd,
    repositories: OwnedFd,
    uploads: OwnedFd,
    blobs: OwnedFd,
    staging: OwnedFd,
    /// Held while directories are made: who finds one there may take it as synced.
    creation: Mutex<()>,
    /// See [`Storage::changing`].
    changes: [Mutex<()>; CHANGES],
}

impl Storage {
    /// Refuses a root in which something else keeps content of its own: its blobs belong to no
    /// repository, so the collector would remove them all.
    pub(crate) fn refuse_foreign(root: &Path) -> Result<(), StorageError> {
        for marker in FOREIGN {
            if exists(root, marker)? {
                return Err(StorageError::Foreign {
                    path: root.to_owned(),
                    marker,
                });
            }
        }
        Ok(())
    }

    /// Opens a registry that a server has made; nothing is made or changed anywhere else.
    pub(crate) fn open_existing(root: &Path) -> Result<Self, StorageError> {
        Self::refuse_foreign(root)?;
        for marker in ["repositories", SERVING] {
            if !exists(root, marker)? {
                return Err(StorageError::Absent {
                    path: root.to_owned(),
                });
            }
        }
        Self::open(root)
    }

    /// Opens the registry in `root`, making what is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, StorageError> {
        let store = Store::open(root)?;
        let failed = |operation, path: &Path, errno: Errno| StorageError::Io {
            operation,
            path: path.to_owned(),
            source: errno.into(),
        };
        let open = |parent: &OwnedFd, name: &str| {
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("create", &root.join(name), errno)),
            }
            rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
                .map_err(|errno| failed("open", &root.join(name), errno))
        };
        let top = rustix::fs::openat(rustix::fs::CWD, root, DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open", root, errno))?;
        let repositories = open(&top, "repositories")?;
        let uploads = open(&top, "uploads")?;
        let staging = open(&top, "staging")?;
        let blobs = open(&top, "blobs/sha256")?;
        Ok(Self {
            store,
            root: root.to_owned(),
            top,
            repositories,
            uploads,
            blobs,
            staging,
            creation: Mutex::new(()),
            changes: [const { Mutex::new(()) }; CHANGES],
        })
    }

    /// The right to serve this root, for as long as the result lives. Also makes durable what a
    /// predecessor that was killed has made and not synced, so that what is found can be relied
    /// on from here.
    pub(crate) fn lock_serving(&self) -> Result<OwnedFd, StorageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&self.top, SERVING, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed("open", SERVING, errno))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StorageError::Served {
                    path: self.root.clone(),
                });
            }
            Err(errno) => return Err(self.failed("lock", SERVING, errno)),
        }
        rustix::fs::syncfs(&self.top).map_err(|errno| self.failed("sync", "", errno))?;
        Ok(lock)
    }

    /// Holds off the collector's removals.
    pub(crate) fn keep(&self) -> Result<OwnedFd, StorageError> {
        Ok(self.store.keep()?)
    }

    /// The right to change what manifests and tags of a repository rely on. Requests look first
    /// and write then; between the two a deletion would leave a tag without its manifest, or a
    /// manifest without its blobs. Whoever keeps as well, keeps first.
    pub(crate) fn changing(&self, name: &RepositoryName) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        name.as_str().hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % CHANGES as u64).unwrap_or_default();
        self.changes[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits up to `patience` until nobody [keeps](Self::keep), and then keeps others waiting.
    pub(crate) fn claim(&self, patience: Duration) -> Result<OwnedFd, StorageError> {
        let until = std::time::Instant::now() + patience;
        loop {
            if let Some(claim) = self.store.claim()? {
                return Ok(claim);
            }
            if std::time::Instant::now() > until {
                return Err(StorageError::Busy {
                    path: self.root.clone(),
                    waited: patience,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn failed(&self, operation: &'static str, name: &str, errno: Errno) -> StorageError {
        StorageError::Io {
            operation,
            path: self.root.join(name),
            source: errno.into(),
        }
    }

    /// Opens a directory of a repository; `None` if it is not there.
    fn directory(
        &self,
        name: &RepositoryName,
        kind: &str,
    ) -> Result<Option<OwnedFd>, StorageError> {
        let path = format!("{name}/{kind}");
        match rustix::fs::openat2(&self.repositories, &path, DIRECTORY, Mode::empty(), INSIDE) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.failed("open", &format!("repositories/{path}"), errno)),
        }
    }

    /// Opens a directory of a repository, making it and what is above it, synced.
    fn ensure(&self, name: &RepositoryName, kind: &str) -> Result<OwnedFd, StorageError> {
        let path = format!("{name}/{kind}");
        let failed =
            |operation, errno| self.failed(operation, &format!("repositories/{path}"), errno);
        let _creating = self.creation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = self.directory(name, kind)? {
            return Ok(directory);
        }
        let mut parent = rustix::fs::openat(&self.repositories, ".", DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open", errno))?;
        for component in path.split('/') {
            match rustix::fs::mkdirat(&parent, component, Mode::RWXU) {
                Ok(()) => rustix::fs::fsync(&parent).map_err(|errno| failed("sync", errno))?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("create", errno)),
            }
            parent = rustix::fs::openat(&parent, component, DIRECTORY, Mode::empty())
                .map_err(|errno| failed("open", errno))?;
        }
        Ok(parent)
    }

    /// Writes an entry whole or not at all; it is on the disk when this returns.
    fn write_entry(
        &self,
        directory: &OwnedFd,
        entry: &str,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let staged =
            random_hex(16).map_err(|errno| self.failed("choose a name in", "staging", errno))?;
        let failed = |operation, errno| self.failed(operation, &format!("staging/{staged}"), errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.staging, &staged, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create", errno))?;
        let mut file = File::from(file);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let renamed = match written {
            Ok(()) => rustix::fs::renameat(&self.staging, &staged, directory, entry)
                .and_then(|()| rustix::fs::fsync(directory))
                .map_err(|errno| failed("rename", errno)),
            Err(source) => Err(StorageError::Io {
                operation: "write",
                path: self.root.join("staging").join(&staged),
                source,
            }),
        };
        if renamed.is_err() {
            // Nothing happens if the rename was what worked.
            let _ = rustix::fs::unlinkat(&self.staging, &staged, AtFlags::empty());
        }
        renamed
    }

    /// Reads an entry of at most `limit` bytes; `None` if it is not there.
    fn read_entry(
        &self,
        directory: &OwnedFd,
        entry: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, entry, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", entry, errno)),
        };
        let mut bytes = Vec::new();
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| StorageError::Io {
                operation: "read",
                path: self.root.join(entry),
                source,
            })?;
        Ok(Some(bytes))
    }

    /// Removes an entry; whether it was there. The caller syncs the directory.
    fn remove_entry(&self, directory: &OwnedFd, entry: &str) -> Result<bool, StorageError> {
        match rustix::fs::unlinkat(directory, entry, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed("remove", entry, errno)),
        }
    }

    fn sync(&self, directory: &OwnedFd) -> Result<(), StorageError> {
        rustix::fs::fsync(directory).map_err(|errno| self.failed("sync a directory in", "", errno))
    }

    /// Names in a directory, in no order.
    fn names(&self, directory: impl AsFd) -> Result<Vec<String>, StorageError> {
        let failed = |errno| self.failed("list a directory in", "", errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Every repository that has or had anything, sorted.
    pub(crate) fn repositories(&self) -> Result<Vec<RepositoryName>, StorageError> {
        let mut found = Vec::new();
        let mut pending = vec![String::new()];
        while let Some(above) = pending.pop() {
            let path = if above.is_empty() { "." } else { &above };
            let opened =
                rustix::fs::openat2(&self.repositories, path, DIRECTORY, Mode::empty(), INSIDE);
            let directory = match opened {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(errno) => return Err(self.failed("open", path, errno)),
            };
            let mut is_repository = false;
            for name in self.names(&directory)? {
                if name.starts_with('_') {
                    is_repository = true;
                } else if above.is_empty() {
                    pending.push(name);
                } else {
                    pending.push(format!("{above}/{name}"));
                }
            }
            if is_repository && let Some(name) = RepositoryName::parse(&above) {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Gives the verified and synced `staged` file of `directory` its name as a blob. The content
    /// store's own writer would copy the bytes; its rule for names is kept: whole, verified,
    /// synced, and the first name wins.
    fn publish(
        &self,
        directory: &OwnedFd,
        staged: &str,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        let hex = digest.hex();
        let failed =
            |operation, errno| self.failed(operation, &format!("blobs/sha256/{hex}"), errno);
        match rustix::fs::renameat_with(
            directory,
            staged,
            &self.blobs,
            &hex,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(directory, staged, AtFlags::empty())
                    .map_err(|errno| failed("remove the copy of", errno))?;
            }
            // File systems without RENAME_NOREPLACE (some FUSE and NFS).
            Err(Errno::INVAL) => rustix::fs::renameat(directory, staged, &self.blobs, &hex)
                .map_err(|errno| failed("rename to", errno))?,
            Err(errno) => return Err(failed("rename to", errno)),
        }
        self.sync_blobs()
    }

    /// Makes the names of blobs durable. Also for one that was there already: whoever gave it its
    /// name may not have come to this yet.
    pub(crate) fn sync_blobs(&self) -> Result<(), StorageError> {
        rustix::fs::fsync(&self.blobs).map_err(|errno| self.failed("sync", "blobs/sha256", errno))
    }

    /// When the content of a blob was written; `None` if it is not there.
    pub(crate) fn blob_time(&self, digest: &Digest) -> Result<Option<SystemTime>, StorageError> {
        modified(&self.blobs, &digest.hex())
    }

    /// Removes files under `staging` that no operation of a living process can still be writing.
    pub(crate) fn sweep_staging(&self, older_than: SystemTime) -> Result<(), StorageError> {
        for name in self.names(&self.staging)? {
            if modified(&self.staging, &name)?.is_some_and(|time| time < older_than) {
                self.remove_entry(&self.staging, &name)?;
            }
        }
        Ok(())
    }
}

/// Whether there is anything of this name in the root.
fn exists(root: &Path, name: &str) -> Result<bool, StorageError> {
    let path = root.join(name);
    match rustix::fs::lstat(&path) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(StorageError::Io {
            operation: "look at",
            path,
            source: errno.into(),
        }),
    }
}

/// When a file was last written; `None` if it is not there.
fn modified(directory: &OwnedFd, name: &str) -> Result<Option<SystemTime>, StorageError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => {
            let seconds = u64::try_from(status.st_mtime).unwrap_or_default();
            Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(StorageError::Io {
            operation: "look at",
            path: name.into(),
            source: errno.into(),
        }),
    }
}

/// `count` random bytes as lower-case hexadecimal digits.
pub(crate) fn random_hex(count: usize) -> Result<String, Errno> {
    let mut bytes = [0; 32];
    let bytes = &mut bytes[..count.min(32)];
    // Up to 256 bytes come whole once the generator is seeded (getrandom(2)).
    rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
