//! What has come of a blob that is not whole yet, and who is at work on it.
//!
//! ```text
//! DATA_ROOT/partial/sha256-HEX     the bytes so far, with holes where parts came out of order
//! ```
//!
//! The file's lock belongs to whoever fetches the blob or makes its layer; it dies with the
//! process, and the bytes stay for the next one. Which bytes are there is asked of the file
//! system (`SEEK_HOLE`): it needs no record of ours that could be behind or ahead of the data
//! after a crash. What a file system says wrongly is found out by the digest, and then everything
//! is fetched again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Store, StoreError, error_at};
use crate::digest::Digest;

/// How long what nobody works on is kept.
pub const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob in the making that belongs to this process.
#[derive(Debug)]
pub struct Partial {
    digest: Digest,
    path: PathBuf,
    pub(super) file: File,
    synced: AtomicBool,
}

/// What is there of a blob that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialInfo {
    /// The blob.
    pub digest: Digest,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Time since the last of them came.
    pub age: Duration,
}

pub(super) fn name_of(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

impl Store {
    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(name_of(digest))
    }

    /// Takes the blob up, or waits until whoever works on it is done and then takes it up:
    /// afterwards it may be whole and in the store.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn partial(&self, digest: &Digest) -> Result<Partial, StoreError> {
        loop {
            let operation = FlockOperation::LockExclusive;
            if let Some(partial) = self.lock_partial(digest, operation, OFlags::CREATE)? {
                return Ok(partial);
            }
        }
    }

    /// As [`Store::partial`], or `None` if somebody works on it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn try_partial(&self, digest: &Digest) -> Result<Option<Partial>, StoreError> {
        let operation = FlockOperation::NonBlockingLockExclusive;
        self.lock_partial(digest, operation, OFlags::CREATE)
    }

    /// `None` if it is locked, was given its name while this waited, or is not there and not to
    /// be made.
    fn lock_partial(
        &self,
        digest: &Digest,
        operation: FlockOperation,
        create: OFlags,
    ) -> Result<Option<Partial>, StoreError> {
        let path = self.partial_path(digest);
        let failed = |what, errno: Errno| error_at(what, &path)(errno.into());
        let flags = OFlags::RDWR | create | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = name_of(digest);
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::openat(&self.partial, &name, flags, mode) {
            Ok(file) => file,
            Err(Errno::NOENT) if create.is_empty() => return Ok(None),
            Err(errno) => return Err(failed("open", errno)),
        };
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", errno)),
            }
        }
        if !super::ingest::is_named(&self.partial, &name, &file)
            .map_err(|errno| failed("look at", errno))?
        {
            // Whoever had it gave it a name, or took it away.
            return match operation {
                FlockOperation::NonBlockingLockExclusive => {
                    self.lock_partial(digest, operation, create)
                }
                _ => Ok(None),
            };
        }
        Ok(Some(Partial {
            digest: *digest,
            path,
            file: file.into(),
            synced: AtomicBool::new(false),
        }))
    }

    /// What is there of blobs that are not whole, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn partials(&self) -> Result<Vec<PartialInfo>, StoreError> {
        let path = self.root.join("partial");
        let failed = |what, errno: Errno| error_at(what, &path)(errno.into());
        let mut found = Vec::new();
        for entry in
            rustix::fs::Dir::read_from(&self.partial).map_err(|errno| failed("list", errno))?
        {
            let entry = entry.map_err(|errno| failed("list", errno))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .ok()
                .and_then(|name| Digest::from_hex(name.strip_prefix("sha256-")?));
            let Some(digest) = digest else { continue };
            let status = match rustix::fs::statat(&self.partial, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => status,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("look at a file in", errno)),
            };
            if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
                continue;
            }
            let changed = UNIX_EPOCH + Duration::from_secs(status.st_mtime.try_into().unwrap_or(0));
            found.push(PartialInfo {
                digest,
                bytes: u64::try_from(status.st_blocks).unwrap_or_default() * 512,
                age: SystemTime::now()
                    .duration_since(changed)
                    .unwrap_or_default(),
            });
        }
        Ok(found)
    }

    /// Removes what is there of blobs that nobody works on and nothing came of for `age`, or that
    /// are whole by now; returns how many.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_partials(&self, age: Duration) -> Result<usize, StoreError> {
        let mut removed = 0;
        for info in self.partials()? {
            // An empty one is a lock that its owner did not live to take away.
            let spent = info.age >= age || info.bytes == 0 || self.has_blob(&info.digest)?;
            let operation = FlockOperation::NonBlockingLockExclusive;
            if spent
                && let Some(partial) =
                    self.lock_partial(&info.digest, operation, OFlags::empty())?
            {
                self.discard_partial(partial)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a partial blob for good.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn discard_partial(&self, partial: Partial) -> Result<(), StoreError> {
        let name = name_of(&partial.digest);
        match rustix::fs::unlinkat(&self.partial, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error_at("remove", &partial.path)(errno.into())),
        }
    }

    /// Leaves a partial blob to whoever comes next; nothing stays if there are no bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn release_partial(&self, partial: Partial) -> Result<(), StoreError> {
        let length = partial
            .file
            .metadata()
            .map_err(|source| error_at("look at", &partial.path)(source))?
            .len();
        if length == 0 {
            return self.discard_partial(partial);
        }
        Ok(())
    }
}

impl Partial {
    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes are there from the beginning, at most `size`. What is behind the end of a
    /// larger file is cut off: it belongs to no blob of that size.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn prefix(&self, size: u64) -> Result<u64, StoreError> {
        Ok(self
            .present(size)?
            .first()
            .filter(|(start, _)| *start == 0)
            .map_or(0, |(_, end)| *end))
    }

    /// The ranges that are there, in order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn present(&self, size: u64) -> Result<Vec<(u64, u64)>, StoreError> {
        let failed = |errno: Errno| error_at("look for holes in", &self.path)(errno.into());
        let status = rustix::fs::fstat(&self.file).map_err(failed)?;
        let mut length = u64::try_from(status.st_size).unwrap_or_default();
        if length > size {
            self.cut(0)?;
            length = 0;
        }
        // A block is data as soon as one of its bytes is: before a hole, the last block may have
        // come only in part.
        let block = u64::try_from(status.st_blksize)
            .unwrap_or_default()
            .max(4096);
        let mut found = Vec::new();
        let mut at = 0;
        while at < length {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                // A file system that knows no holes has none.
                Err(Errno::INVAL) => at,
                Err(errno) => return Err(failed(errno)),
            };
            let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(length),
                Err(Errno::INVAL) => length,
                Err(errno) => return Err(failed(errno)),
            };
            let sure = if end == length {
                end
            } else {
                (end - 1) / block * block
            };
            if sure > start {
                found.push((start, sure));
            }
            at = end;
        }
        Ok(found)
    }

    /// Shortens the file to `length`, or gives it that length with a hole.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cut(&self, length: u64) -> Result<(), StoreError> {
        self.synced.store(false, Ordering::Release);
        self.file
            .set_len(length)
            .map_err(|source| error_at("change the length of", &self.path)(source))
    }

    /// Has all that has come on the disk, once nothing more comes: whoever gives the blob its
    /// name need not wait for that then.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|source| error_at("sync", &self.path)(source))?;
        self.synced.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether all of it is on the disk.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.synced.store(false, Ordering::Release);
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| error_at("write", &self.path)(source))
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`StoreError::Io`], also if the file ends before.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source: io::Error| error_at("read", &self.path)(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDirectory;

    fn fixture() -> (TestDirectory, Store) {
        let directory = TestDirectory::new();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn bytes_stay_and_holes_are_known() {
        let (_directory, store) = fixture();
        let digest = Digest::of(b"x");
        let partial = store.partial(&digest).unwrap();
        assert_eq!(partial.prefix(100).unwrap(), 0);
        partial.write_at(&[1; 10_001], 0).unwrap();
        assert!(
            store.try_partial(&digest).unwrap().is_none(),
            "it is locked"
        );
        drop(partial);
        let partial = store.try_partial(&digest).unwrap().unwrap();
        assert_eq!(partial.prefix(1 << 20).unwrap(), 10_001, "the very byte");
        // Out of order: a hole from the end of the first to 512 KiB.
        partial.cut(1 << 20).unwrap();
        partial.write_at(&[2; 65_536], 1 << 19).unwrap();
        let present = partial.present(1 << 20).unwrap();
        assert_eq!(present.len(), 2, "{present:?}");
        assert!(present[0].0 == 0 && present[0].1 <= 10_001 && present[0].1 >= 8192);
        assert_eq!(present[1].0, 1 << 19);
        assert!((1..=8192).contains(&((1 << 19) + 65_536 - present[1].1)));
        assert_eq!(partial.prefix(100).unwrap(), 0, "of another blob");
        assert_eq!(partial.present(1 << 20).unwrap(), []);
    }

    #[test]
    fn waiting_ends_with_the_owner() {
        let (directory, store) = fixture();
        let digest = Digest::of(b"x");
        let partial = store.partial(&digest).unwrap();
        partial.write_at(b"abc", 0).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let store = Store::open(directory.path()).unwrap();
                let partial = store.partial(&digest).unwrap();
                (store.has_blob(&digest).unwrap(), partial.prefix(3).unwrap())
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiter.is_finished());
            store.discard_partial(partial).unwrap();
            assert_eq!(waiter.join().unwrap(), (false, 0), "a file of its own");
        });
    }

    #[test]
    fn the_sweep_keeps_what_is_fresh_or_held() {
        let (_directory, store) = fixture();
        let digests = [b"a", b"b", b"c", b"d"].map(|bytes| Digest::of(bytes));
        let [fresh, old, held, empty] = digests;
        for digest in [&fresh, &old, &held] {
            let partial = store.partial(digest).unwrap();
            partial.write_at(&[1; 5000], 0).unwrap();
        }
        drop(store.partial(&empty).unwrap());
        let lock = store.partial(&held).unwrap();
        let long_ago = SystemTime::now() - PARTIAL_AGE - Duration::from_secs(60);
        for digest in [&old, &held] {
            let file = File::options()
                .write(true)
                .open(store.partial_path(digest))
                .unwrap();
            file.set_modified(long_ago).unwrap();
        }
        assert_eq!(store.sweep().unwrap(), 2);
        let mut left: Vec<_> = store
            .partials()
            .unwrap()
            .into_iter()
            .map(|info| info.digest)
            .collect();
        left.sort();
        let mut expected = [fresh, held];
        expected.sort();
        assert_eq!(left, expected);
        store.release_partial(lock).unwrap();
        assert_eq!(store.remove_partials(Duration::ZERO).unwrap(), 2);
        assert_eq!(store.partials().unwrap(), []);
    }
}
