//! The content store of an installation.
//!
//! ```text
//! DATA_ROOT/oci-layout             marks blobs/ as an OCI image layout
//! DATA_ROOT/blobs/sha256/HEX       blobs: manifests, configs, compressed layers
//! DATA_ROOT/layers/sha256/HEX/     unpacked layers by DiffID, shared by all images
//! DATA_ROOT/layers/sha256/HEX.json record of an unpacked layer: its size, whether it is synced
//! DATA_ROOT/ingest/RANDOM/         what one operation is still writing
//! DATA_ROOT/partial/sha256-HEX     what has come of a blob that is being fetched
//! DATA_ROOT/uploads/KEY.json       where an upload of a blob can be continued
//! ```
//!
//! A name under `blobs` exists only for content that was verified and synced: it is written under
//! `ingest`, and a rename gives it its name. A layer gets its name as soon as it is whole; until
//! it is synced its record says under which boot it was made, and after a power cut it counts as
//! missing and is unpacked again from its blob (`store/layers.rs`). What a killed process leaves
//! under `ingest` holds no lock any more and goes with [`Store::sweep`]. Several processes may
//! write the same content at once; the first name wins.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::Digest;

mod ingest;
mod layers;
mod partial;
mod upload;

pub use ingest::{BlobWriter, Ingest, StagedBlob, StagedLayer};
pub use layers::{LayerRecord, Layers, Unsynced};
pub use partial::{PARTIAL_AGE, Partial, PartialInfo};
pub(crate) use upload::UploadLock;

/// What the OCI image layout specification wants in `oci-layout`.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Flags for every directory that is opened here.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// The blob is not there.
    #[error("blob {digest} is not in the store")]
    BlobMissing {
        /// Its digest.
        digest: Digest,
    },
    /// The layer is not there.
    #[error("layer {diff_id} is not in the store")]
    LayerMissing {
        /// Its DiffID.
        diff_id: Digest,
    },
    /// The blob is larger than the caller accepts.
    #[error("blob {digest} of {size} bytes is larger than {limit} bytes")]
    BlobTooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What the caller accepts, in bytes.
        limit: u64,
    },
    /// The bytes are not the ones that the digest was made of.
    #[error("content has digest {actual} instead of {expected}")]
    DigestMismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("content of {digest} has {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// The digest asked for.
        digest: Digest,
        /// Bytes announced.
        expected: u64,
        /// Bytes found.
        actual: u64,
    },
}

/// An open content store. Cheap to open: a few directories.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    root_directory: OwnedFd,
    blobs: OwnedFd,
    layers: Layers,
    ingest: OwnedFd,
    partial: OwnedFd,
    uploads: OwnedFd,
}

impl Store {
    /// Opens the store in `data_root`, making what is missing. Its directories have mode 0700
    /// whatever the umask, and are brought back to it if somebody opened them (CVE-2021-41091:
    /// a user of the host could run the setuid programs of layers).
    pub fn open(data_root: &Path) -> Result<Self, StoreError> {
        let root_directory = match open_directory(rustix::fs::CWD, data_root) {
            Err(Errno::NOENT) => {
                use std::os::unix::fs::DirBuilderExt;
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(data_root);
                made.map_err(|source| error_at("create", data_root)(source))?;
                open_directory(rustix::fs::CWD, data_root)
            }
            other => other,
        }
        .map_err(|errno| error_at("open", data_root)(errno.into()))?;
        Self::open_at(root_directory, data_root)
    }

    /// As [`Store::open`], but a data root that is not there is not made: for what works on after
    /// the command that started it, and may find that its data root was removed meanwhile.
    pub fn open_existing(data_root: &Path) -> Result<Self, StoreError> {
        let root_directory = open_directory(rustix::fs::CWD, data_root)
            .map_err(|errno| error_at("open", data_root)(errno.into()))?;
        Self::open_at(root_directory, data_root)
    }

    fn open_at(root_directory: OwnedFd, data_root: &Path) -> Result<Self, StoreError> {
        let ensure = |parent: BorrowedFd<'_>, below: &str, name: &str| {
            ensure_private_directory(parent, name).map_err(|errno| {
                error_at("open or create", &data_root.join(below).join(name))(errno.into())
            })
        };
        let blobs = ensure(root_directory.as_fd(), "", "blobs")?;
        let blobs = ensure(blobs.as_fd(), "blobs", "sha256")?;
        let layers = ensure(root_directory.as_fd(), "", "layers")?;
        let layers = ensure(layers.as_fd(), "layers", "sha256")?;
        let ingest = ensure(root_directory.as_fd(), "", "ingest")?;
        let partial = ensure(root_directory.as_fd(), "", "partial")?;
        let uploads = ensure(root_directory.as_fd(), "", "uploads")?;
        let store = Self {
            root: data_root.to_owned(),
            root_directory,
            blobs,
            layers: Layers::new(layers, data_root),
            ingest,
            partial,
            uploads,
        };
        if !exists(store.root_directory.as_fd(), "oci-layout")
            .map_err(|errno| error_at("look at", &data_root.join("oci-layout"))(errno.into()))?
        {
            store.ingest()?.install_layout_marker()?;
        }
        Ok(store)
    }

    /// The data root that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Where the unpacked layer is or would be.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers/sha256").join(diff_id.hex())
    }

    /// Whether the blob is there.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        exists(self.blobs.as_fd(), &digest.hex())
            .map_err(|errno| error_at("look at", &self.blob_path(digest))(errno.into()))
    }

    /// Opens a blob for reading. Its digest was verified when it came in.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.blobs, digest.hex(), flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(Errno::NOENT) => Err(StoreError::BlobMissing { digest: *digest }),
            Err(errno) => Err(error_at("open", &self.blob_path(digest))(errno.into())),
        }
    }

    /// Size of a blob in bytes.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64, StoreError> {
        match rustix::fs::statat(&self.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(u64::try_from(status.st_size).unwrap_or_default()),
            Err(Errno::NOENT) => Err(StoreError::BlobMissing { digest: *digest }),
            Err(errno) => Err(error_at("look at", &self.blob_path(digest))(errno.into())),
        }
    }

    /// Reads a blob of at most `limit` bytes whole and verifies it again, for documents that are
    /// acted upon: hashing a few kilobytes costs microseconds.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let size = self.blob_size(digest)?;
        if size > limit {
            return Err(StoreError::BlobTooLarge {
                digest: *digest,
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.open_blob(digest)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| error_at("read", &self.blob_path(digest))(source))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(StoreError::DigestMismatch {
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Keeps everything from being removed as long as the result lives: what a pull finds in the
    /// store is nobody's until the image is on record. Waits for a removal that is under way.
    pub fn keep(&self) -> Result<OwnedFd, StoreError> {
        let failed = |errno: Errno| error_at("lock", &self.ingest_path())(errno.into());
        let lock = open_directory(&self.ingest, ".").map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(failed)?;
        Ok(lock)
    }

    /// The right to remove what is on no record; `None` while anybody [keeps](Self::keep) it.
    pub fn claim(&self) -> Result<Option<OwnedFd>, StoreError> {
        let failed = |errno: Errno| error_at("lock", &self.ingest_path())(errno.into());
        let lock = open_directory(&self.ingest, ".").map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Removes a blob. Nothing happens if it is not there.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.blobs, digest.hex(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error_at("remove", &self.blob_path(digest))(errno.into())),
        }
    }

    /// All blobs, in no order.
    pub fn list_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        list(self.blobs.as_fd(), &[FileType::RegularFile])
            .map_err(|errno| error_at("list", &self.root.join("blobs/sha256"))(errno.into()))
    }

    fn ingest_path(&self) -> PathBuf {
        self.root.join("ingest")
    }
}

/// Makes an [`StoreError::Io`] out of an error of `operation` on `path`.
fn error_at<'path>(
    operation: &'static str,
    path: &'path Path,
) -> impl FnOnce(io::Error) -> StoreError + use<'path> {
    move |source| StoreError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
}

fn exists(parent: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn ensure_private_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let directory = match open_directory(parent, name) {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            open_directory(parent, name)?
        }
        other => other?,
    };
    if rustix::fs::fstat(&directory)?.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
    }
    Ok(directory)
}

fn list(directory: BorrowedFd<'_>, kinds: &[FileType]) -> Result<Vec<Digest>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Some(digest) = entry.file_name().to_str().ok().and_then(Digest::from_hex) else {
            continue;
        };
        // Some file systems do not say what an entry is.
        if kinds.contains(&entry.file_type()) || entry.file_type() == FileType::Unknown {
            found.push(digest);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
