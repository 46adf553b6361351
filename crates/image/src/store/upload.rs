//! Uploads that another process may continue, and who is at work on them.
//!
//! ```text
//! DATA_ROOT/uploads/KEY.json   where the upload is; KEY is made of registry, repository, digest
//! DATA_ROOT/uploads/KEY.lock   locked by whoever sends the blob there
//! ```
//!
//! No token is written down. The URL may let one into this one upload and nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, error_at};
use crate::digest::Digest;

/// How long a registry can be expected to keep an upload that nobody continues.
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Largest record, in bytes.
const LIMIT: u64 = 16 << 10;

/// The record of an upload as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
struct Record {
    version: u32,
    registry: String,
    repository: String,
    digest: Digest,
    location: String,
}

/// The right to send one blob to one repository.
#[derive(Debug)]
pub(crate) struct UploadLock<'store> {
    store: &'store Store,
    registry: String,
    repository: String,
    digest: Digest,
    key: String,
    _lock: OwnedFd,
}

impl Store {
    /// Waits until nobody else sends `digest` to `repository` from this store.
    pub(crate) fn upload_lock(
        &self,
        registry: &str,
        repository: &str,
        digest: &Digest,
    ) -> Result<UploadLock<'_>, StoreError> {
        let key = Digest::of(format!("{registry}\0{repository}\0{digest}").as_bytes()).hex();
        let name = format!("{key}.lock");
        let path = self.root.join("uploads").join(&name);
        let failed = |what, errno: Errno| error_at(what, &path)(errno.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let lock = rustix::fs::openat(&self.uploads, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| failed("open", errno))?;
            match rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("lock", errno)),
            }
            if super::ingest::is_named(&self.uploads, &name, &lock)
                .map_err(|errno| failed("look at", errno))?
            {
                return Ok(UploadLock {
                    store: self,
                    registry: registry.to_owned(),
                    repository: repository.to_owned(),
                    digest: *digest,
                    key,
                    _lock: lock,
                });
            }
        }
    }

    /// Removes records that are too old to be of use.
    pub(super) fn sweep_uploads(&self) -> Result<(), StoreError> {
        let path = self.root.join("uploads");
        let failed = |errno: Errno| error_at("clean", &path)(errno.into());
        for entry in rustix::fs::Dir::read_from(&self.uploads).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&self.uploads, name, flags, Mode::empty()) else {
                continue;
            };
            let file = File::from(file);
            let old = file
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| {
                    SystemTime::now()
                        .duration_since(at)
                        .is_ok_and(|age| age > AGE)
                });
            let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if old && free {
                let _ = rustix::fs::unlinkat(&self.uploads, name, AtFlags::empty());
            }
        }
        Ok(())
    }
}

impl UploadLock<'_> {
    fn name(&self) -> String {
        format!("{}.json", self.key)
    }

    /// Where the upload is that an earlier process began, if it wrote that down.
    pub(crate) fn location(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.store.uploads, self.name(), flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(LIMIT).read_to_end(&mut bytes).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        (record.version == 1
            && record.registry == self.registry
            && record.repository == self.repository
            && record.digest == self.digest)
            .then_some(record.location)
    }

    /// Writes down where the upload is, or forgets it. This only saves bytes, so a failure is
    /// none of the push.
    pub(crate) fn remember(&self, location: Option<&str>) {
        let Some(location) = location else {
            let _ = rustix::fs::unlinkat(&self.store.uploads, self.name(), AtFlags::empty());
            return;
        };
        let record = Record {
            version: 1,
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            digest: self.digest,
            location: location.to_owned(),
        };
        let temporary = format!("{}.new", self.key);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let written = (|| {
            let bytes = serde_json::to_vec(&record).ok()?;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(
                &self.store.uploads,
                &temporary,
                flags | OFlags::CLOEXEC,
                mode,
            );
            let mut file = File::from(file.ok()?);
            // Not synced: after a crash of the host an empty record costs some bytes, and every
            // sync now would cost the push milliseconds.
            file.write_all(&bytes).ok()?;
            let directory = &self.store.uploads;
            rustix::fs::renameat(directory, &temporary, directory, self.name()).ok()
        })();
        if written.is_none() {
            let _ = rustix::fs::unlinkat(&self.store.uploads, &temporary, AtFlags::empty());
        }
    }
}

impl Drop for UploadLock<'_> {
    fn drop(&mut self) {
        // Still locked: whoever waits finds that the name is another file's and makes its own.
        let name = format!("{}.lock", self.key);
        let _ = rustix::fs::unlinkat(&self.store.uploads, name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDirectory;

    #[test]
    fn records_come_back_and_go() {
        let directory = TestDirectory::new();
        let store = Store::open(directory.path()).unwrap();
        let digest = Digest::of(b"x");
        let lock = |repository: &str| store.upload_lock("r.tld", repository, &digest).unwrap();
        let first = lock("a");
        assert_eq!(first.location(), None);
        first.remember(Some("https://r.tld/v2/a/blobs/uploads/1"));
        drop(first);
        assert_eq!(lock("b").location(), None, "of another repository");
        let again = lock("a");
        assert_eq!(
            again.location().as_deref(),
            Some("https://r.tld/v2/a/blobs/uploads/1")
        );
        store.sweep().unwrap();
        assert!(again.location().is_some(), "fresh records stay");
        again.remember(None);
        assert_eq!(again.location(), None);
        drop(again);
        let left = std::fs::read_dir(directory.path().join("uploads"));
        assert_eq!(left.unwrap().count(), 0);
    }

    #[test]
    fn damaged_records_are_none() {
        let directory = TestDirectory::new();
        let store = Store::open(directory.path()).unwrap();
        let lock = store.upload_lock("r.tld", "a", &Digest::of(b"x")).unwrap();
        for text in ["", "{", "[]", "{\"version\":2}"] {
            let path = directory.path().join("uploads").join(lock.name());
            std::fs::write(path, text).unwrap();
            assert_eq!(lock.location(), None, "{text}");
        }
    }
}
