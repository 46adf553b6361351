//! What is being written: one locked directory per operation under `ingest`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::partial::{self, PARTIAL_AGE, Partial};
use super::{LAYOUT, LayerRecord, Store, StoreError, Unsynced, error_at, open_directory};
use crate::apply::remove_tree;
use crate::digest::{Digest, Hasher};

/// Blobs that are synced at once: the file system's journal takes them together.
const SYNC_AT_ONCE: usize = 8;

/// How often what is being written goes to the disk. Rarer leaves more to the commit; more often
/// gained nothing, and what takes less time than this pays nothing.
const SYNC_AHEAD: Duration = Duration::from_millis(150);

/// A directory under `ingest` that belongs to one operation, by a lock that dies with the
/// process. Dropping it removes what was not committed.
#[derive(Debug)]
pub struct Ingest<'store> {
    store: &'store Store,
    name: String,
    directory: OwnedFd,
    next: AtomicU32,
    removed: bool,
}

/// A blob that is whole and has no name yet.
#[derive(Debug)]
pub struct StagedBlob {
    place: StagedPlace,
    digest: Digest,
    size: u64,
}

/// Where a blob without a name is.
#[derive(Debug)]
enum StagedPlace {
    /// In the operation's directory.
    Ingest { name: String, file: File },
    /// Among the blobs that are fetched; locked until it has its name.
    Partial(Partial),
}

impl StagedBlob {
    /// A partial blob of which all `size` bytes have come and were found to have its digest.
    pub(crate) fn of_partial(partial: Partial, size: u64) -> Self {
        Self {
            digest: partial.digest(),
            place: StagedPlace::Partial(partial),
            size,
        }
    }

    fn file(&self) -> &File {
        match &self.place {
            StagedPlace::Ingest { file, .. } => file,
            StagedPlace::Partial(partial) => &partial.file,
        }
    }

    /// Whether its bytes are on the disk already.
    fn is_synced(&self) -> bool {
        matches!(&self.place, StagedPlace::Partial(partial) if partial.is_synced())
    }

    /// Digest of what was written.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what was written from its beginning, whoever else reads it.
    pub(crate) fn reader(&self) -> io::Result<impl io::Read + Send + use<>> {
        use std::os::unix::fs::FileExt;
        let file = self.file().try_clone()?;
        let mut at = 0;
        Ok(ReadAt(move |buffer: &mut [u8]| {
            let count = file.read_at(buffer, at)?;
            at += count as u64;
            Ok(count)
        }))
    }
}

/// A reader made of a function.
struct ReadAt<F>(F);

impl<F: FnMut(&mut [u8]) -> io::Result<usize>> io::Read for ReadAt<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.0)(buffer)
    }
}

/// The directory of a layer that has no name yet.
#[derive(Debug)]
pub struct StagedLayer {
    name: String,
    directory: OwnedFd,
}

impl StagedLayer {
    /// The empty directory to unpack into.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A blob being written; hashes on the way.
#[derive(Debug)]
pub struct BlobWriter {
    name: String,
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

impl BlobWriter {
    /// Ends the blob, whatever its digest is.
    pub fn finish(self) -> StagedBlob {
        let size = self.hasher.length();
        StagedBlob {
            place: StagedPlace::Ingest {
                name: self.name,
                file: self.file,
            },
            digest: self.hasher.finish(),
            size,
        }
    }

    /// Ends the blob if it is `expected` bytes with `digest`.
    pub fn finish_verified(self, digest: &Digest, expected: u64) -> Result<StagedBlob, StoreError> {
        let staged = self.finish();
        if staged.size != expected {
            return Err(StoreError::SizeMismatch {
                digest: *digest,
                expected,
                actual: staged.size,
            });
        }
        if staged.digest != *digest {
            return Err(StoreError::DigestMismatch {
                expected: *digest,
                actual: staged.digest,
            });
        }
        Ok(staged)
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// Writes all of `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(|source| error_at("write", &self.path)(source))?;
        self.hasher.update(bytes);
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// Starts an operation that will write.
    pub fn ingest(&self) -> Result<Ingest<'_>, StoreError> {
        let failed =
            |operation, errno: Errno| error_at(operation, &self.ingest_path())(errno.into());
        loop {
            let name = random_name().map_err(|errno| failed("choose a name in", errno))?;
            match rustix::fs::mkdirat(&self.ingest, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(failed("create a directory in", errno)),
            }
            // Until the lock is held a sweep may take the directory for an abandoned one.
            let directory = match open_directory(&self.ingest, &name) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("open a directory in", errno)),
            };
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => continue,
                Err(errno) => return Err(failed("lock a directory in", errno)),
            }
            if !is_named(self.ingest.as_fd(), &name, &directory)
                .map_err(|errno| failed("look at", errno))?
            {
                continue;
            }
            rustix::fs::fchmod(&directory, Mode::RWXU)
                .map_err(|errno| failed("change the mode in", errno))?;
            return Ok(Ingest {
                store: self,
                name,
                directory,
                next: AtomicU32::new(0),
                removed: false,
            });
        }
    }

    /// Removes what processes that no longer exist left under `ingest`, and partial blobs of which
    /// nothing has come for [`PARTIAL_AGE`]; returns how many operations and blobs that were.
    /// Younger ones stay: the next pull continues them. Goes on after an error and reports the
    /// first.
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let path = self.ingest_path();
        let failed = |operation, errno: Errno| error_at(operation, &path)(errno.into());
        let mut names: Vec<(OsString, FileType)> = Vec::new();
        for entry in Dir::read_from(&self.ingest).map_err(|errno| failed("list", errno))? {
            let entry = entry.map_err(|errno| failed("list", errno))?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push((
                    OsStr::from_bytes(name.to_bytes()).to_owned(),
                    entry.file_type(),
                ));
            }
        }
        let (mut removed, mut first_error) = (0, None);
        for (name, kind) in names {
            // Held until the removal is done, so that nobody else takes the directory up.
            let mut locked = None;
            if matches!(kind, FileType::Directory | FileType::Unknown)
                && let Ok(directory) = open_directory(&self.ingest, &name)
            {
                match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => locked = Some(directory),
                    Err(_) => continue,
                }
            }
            match remove_tree(self.ingest.as_fd(), &name) {
                Ok(()) => removed += 1,
                // Another sweep was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
            drop(locked);
        }
        if let Some(error) = first_error {
            return Err(error_at("clean", &path)(error));
        }
        self.sweep_uploads()?;
        Ok(removed + self.remove_partials(PARTIAL_AGE)?)
    }
}

impl Ingest<'_> {
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn path(&self) -> PathBuf {
        self.store.ingest_path().join(&self.name)
    }

    fn error(&self, operation: &'static str, name: &str, errno: Errno) -> StoreError {
        error_at(operation, &self.path().join(name))(errno.into())
    }

    fn next_name(&self, kind: &str) -> String {
        format!("{kind}{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts a blob.
    pub fn blob(&self) -> Result<BlobWriter, StoreError> {
        let name = self.next_name("blob");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("create", &name, errno))?;
        let path = self.path().join(&name);
        Ok(BlobWriter {
            name,
            path,
            file: file.into(),
            hasher: Hasher::default(),
        })
    }

    /// Writes a whole blob.
    pub fn blob_of(&self, bytes: &[u8]) -> Result<StagedBlob, StoreError> {
        let mut writer = self.blob()?;
        writer.append(bytes)?;
        Ok(writer.finish())
    }

    /// Makes an empty directory for a layer, with mode 0755 as the root of a file system has it
    /// unless the layer says otherwise.
    pub fn layer(&self) -> Result<StagedLayer, StoreError> {
        let name = self.next_name("layer");
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        let directory = rustix::fs::mkdirat(&self.directory, &name, mode)
            .and_then(|()| open_directory(&self.directory, &name))
            .and_then(|directory| rustix::fs::fchmod(&directory, mode).map(|()| directory))
            .map_err(|errno| self.error("create", &name, errno))?;
        Ok(StagedLayer { name, directory })
    }

    /// Runs `work`, and has the kernel write meanwhile what it makes, so that a [`Self::commit`]
    /// that has to sync layers finds little left to wait for: of 50,000 small files 0.3 s less.
    pub fn sync_ahead<T>(&self, work: impl FnOnce() -> T) -> T {
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Without this thread all is written in the end.
            let writer = Builder::new()
                .name("sync-ahead".to_owned())
                .spawn_scoped(scope, || {
                    while !is_done.load(Ordering::Acquire) {
                        std::thread::park_timeout(SYNC_AHEAD);
                        if is_done.load(Ordering::Acquire) {
                            break;
                        }
                        // A failure is seen again, and reported, by the commit.
                        let _ = rustix::fs::syncfs(&self.directory);
                    }
                });
            let outcome = work();
            is_done.store(true, Ordering::Release);
            if let Ok(writer) = writer {
                writer.thread().unpark();
            }
            outcome
        })
    }

    /// Gives everything its name. Blobs come before layers and both in the order given, so the
    /// caller puts what others depend on first.
    ///
    /// When this returns, blobs and their names are on the disk. So are the layers, unless the
    /// blob of each is in the store or among `blobs`: then their records say that they are not
    /// ([`Store::sync_layers`]), and a power cut costs unpacking them again.
    pub fn commit(
        self,
        blobs: Vec<StagedBlob>,
        layers: Vec<(StagedLayer, Digest, LayerRecord)>,
    ) -> Result<(), StoreError> {
        if blobs.is_empty() && layers.is_empty() {
            // A layer that was found may be somebody's whose blob has its name since just now.
            if self.store.has_unsynced_layers()? {
                self.sync_blob_names()?;
            }
            return self.discard();
        }
        let mut can_be_made_again = true;
        for (_, _, record) in &layers {
            can_be_made_again &= match record.blob {
                Some(blob) => {
                    blobs.iter().any(|staged| staged.digest == blob)
                        || self.store.has_blob(&blob)?
                }
                None => false,
            };
        }
        let unsynced = match self.store.layers.boot() {
            Some(boot) if can_be_made_again => Some(Unsynced {
                boot: boot.to_owned(),
                operation: self.name.clone(),
            }),
            _ => None,
        };
        let mut records = Vec::with_capacity(layers.len());
        for (_, _, record) in &layers {
            let record = LayerRecord {
                unsynced: unsynced.clone(),
                ..record.clone()
            };
            records.push(self.record(&record)?);
        }
        if unsynced.is_some() || layers.is_empty() {
            self.sync_blobs(&blobs)?;
        } else {
            self.sync_file_system()?;
        }
        // From before the first blob has its name: who finds a blob waits here for its layer.
        let lock = match layers.is_empty() {
            true => None,
            false => Some(self.store.layers.lock()?),
        };
        for blob in &blobs {
            let (directory, name) = match &blob.place {
                StagedPlace::Ingest { name, .. } => (self.directory.as_fd(), name.clone()),
                StagedPlace::Partial(partial) => (
                    self.store.partial.as_fd(),
                    partial::name_of(&partial.digest()),
                ),
            };
            let published = self.publish(
                directory,
                &name,
                self.store.blobs.as_fd(),
                &blob.digest.hex(),
            )?;
            if !published && matches!(blob.place, StagedPlace::Partial(_)) {
                // Somebody else was faster, and no sweep of ours goes there.
                let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
            }
        }
        if let Some(lock) = lock {
            for ((layer, diff_id, _), record) in layers.iter().zip(&records) {
                lock.publish(self.directory.as_fd(), &layer.name, record, diff_id)?;
            }
            drop(lock);
            if unsynced.is_none() {
                self.store.layers.sync()?;
            }
        }
        self.sync_blob_names()?;
        self.discard()
    }

    /// Writes a layer's record; returns its name here.
    pub(super) fn record(&self, record: &LayerRecord) -> Result<String, StoreError> {
        let name = self.next_name("record");
        let failed = |source| error_at("write", &self.path().join(&name))(source);
        let bytes = serde_json::to_vec(record).map_err(|source| failed(source.into()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(errno.into()))?;
        File::from(file).write_all(&bytes).map_err(failed)?;
        Ok(name)
    }

    /// Has everything on the disk that is written so far, by whomever.
    pub(super) fn sync_file_system(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.directory)
            .map_err(|errno| self.error("sync the file system of", "", errno))
    }

    fn sync_blob_names(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.store.blobs)
            .map_err(|errno| error_at("sync", &self.store.root.join("blobs/sha256"))(errno.into()))
    }

    /// Has the bytes of `blobs` on the disk, several at once.
    fn sync_blobs(&self, blobs: &[StagedBlob]) -> Result<(), StoreError> {
        let waiting: Vec<&StagedBlob> = blobs.iter().filter(|blob| !blob.is_synced()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(blob) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                blob.file().sync_data()?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // The first of them in this thread, and all of them if there is no other.
            let others: Vec<_> = (1..waiting.len().min(SYNC_AT_ONCE))
                .map_while(|_| Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let own = work();
            others.into_iter().fold(own, |outcome, thread| {
                let other = thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread ended early")));
                outcome.and(other)
            })
        })
        .map_err(|source| error_at("sync a blob in", &self.path())(source))
    }

    /// Renames, or leaves ours for the removal if the name exists: the content is the same.
    /// Returns whether it was renamed.
    fn publish(
        &self,
        source: BorrowedFd<'_>,
        from: &str,
        directory: BorrowedFd<'_>,
        to: &str,
    ) -> Result<bool, StoreError> {
        let renamed =
            match rustix::fs::renameat_with(source, from, directory, to, RenameFlags::NOREPLACE) {
                // File systems without RENAME_NOREPLACE (some FUSE and NFS).
                Err(Errno::INVAL) => rustix::fs::renameat(source, from, directory, to),
                other => other,
            };
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(self.error("rename", from, errno)),
        }
    }

    pub(super) fn install_layout_marker(self) -> Result<(), StoreError> {
        let staged = self.blob_of(LAYOUT)?;
        if let StagedPlace::Ingest { name, .. } = &staged.place {
            let root = self.store.root_directory.as_fd();
            self.publish(self.directory.as_fd(), name, root, "oci-layout")?;
        }
        self.discard()
    }

    /// Removes what was not committed, and says so if that fails.
    pub fn discard(mut self) -> Result<(), StoreError> {
        self.removed = true;
        remove_tree(self.store.ingest.as_fd(), OsStr::new(&self.name))
            .map_err(|source| error_at("remove", &self.path())(source))
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        if !self.removed {
            // What cannot be removed now is left to the sweep.
            let _ = remove_tree(self.store.ingest.as_fd(), OsStr::new(&self.name));
        }
    }
}

/// Whether `name` is still the directory that `opened` is.
pub(super) fn is_named(parent: impl AsFd, name: &str, opened: impl AsFd) -> Result<bool, Errno> {
    let ours = rustix::fs::fstat(opened)?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn random_name() -> Result<String, Errno> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
