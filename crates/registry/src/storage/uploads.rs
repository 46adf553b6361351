//! Unfinished uploads. An upload is one file: its offset is the file's length, its repository is
//! part of its name, so nothing else has to survive a crash with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::SystemTime;

use gantry_image::Digest;
use gantry_image::digest::Hasher;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Storage, StorageError, modified, random_hex};
use crate::name::{RepositoryName, UploadId};

/// An open upload: nobody else writes it, and the collector leaves it alone.
#[derive(Debug)]
pub(crate) struct UploadFile {
    name: String,
    file: File,
    length: u64,
}

impl UploadFile {
    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends. After an error the file is cut back to what it was, so that its length stays the
    /// number of bytes that were hashed.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if let Err(source) = self.file.write_all(bytes) {
            let _ = self.cut(self.length);
            return Err(self.failed("write", source));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything from byte `length` on.
    pub(crate) fn cut(&mut self, length: u64) -> Result<(), StorageError> {
        self.file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(|source| self.failed("cut", source))?;
        self.length = length;
        Ok(())
    }

    /// Puts what was appended on the disk.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|source| self.failed("sync", source))
    }

    /// Hashes what is in the file, for an upload whose hasher went with another process.
    pub(crate) fn hash(&mut self) -> Result<Hasher, StorageError> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut read = |file: &mut File, hasher: &mut Hasher| {
            file.seek(SeekFrom::Start(0))?;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        };
        read(&mut self.file, &mut hasher).map_err(|source| self.failed("read", source))?;
        self.length = hasher.length();
        Ok(hasher)
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> StorageError {
        StorageError::Io {
            operation,
            path: format!("uploads/{}", self.name).into(),
            source,
        }
    }
}

/// The name binds the upload to its repository: another repository's name gives another file.
fn file_name(name: &RepositoryName, id: &UploadId) -> String {
    format!("{}{}", id.as_str(), suffix(name))
}

fn suffix(name: &RepositoryName) -> String {
    let repository = Digest::of(name.as_str().as_bytes());
    format!(".{}", &repository.hex()[..32])
}

impl Storage {
    /// Starts an upload; it survives a crash once this returns.
    pub(crate) fn start_upload(&self, name: &RepositoryName) -> Result<UploadId, StorageError> {
        let failed = |operation, errno| self.failed(operation, "uploads", errno);
        let id = random_hex(16).map_err(|errno| failed("choose a name in", errno))?;
        let id = UploadId::parse(&id).ok_or_else(|| failed("choose a name in", Errno::INVAL))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::openat(&self.uploads, file_name(name, &id), flags, mode)
            .map_err(|errno| failed("create a file in", errno))?;
        rustix::fs::fsync(&self.uploads).map_err(|errno| failed("sync", errno))?;
        Ok(id)
    }

    /// Opens an upload at its end; `None` if there is none of this id in this repository. The
    /// caller sees to it that no other request of this process writes it.
    pub(crate) fn open_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Option<UploadFile>, StorageError> {
        let name = file_name(name, id);
        let failed = |operation, errno| self.failed(operation, &format!("uploads/{name}"), errno);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.uploads, &name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("open", errno)),
        };
        // Waits for a collector that looks at it, which may have decided to remove it.
        rustix::fs::flock(&file, FlockOperation::LockShared)
            .map_err(|errno| failed("lock", errno))?;
        let status = rustix::fs::fstat(&file).map_err(|errno| failed("look at", errno))?;
        if status.st_nlink == 0 {
            return Ok(None);
        }
        let mut file = File::from(file);
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(|source| StorageError::Io {
                operation: "seek in",
                path: self.root.join("uploads").join(&name),
                source,
            })?;
        Ok(Some(UploadFile { name, file, length }))
    }

    /// Makes an upload whose bytes have `digest` a blob of the repository.
    pub(crate) fn finish_upload(
        &self,
        repository: &RepositoryName,
        upload: &UploadFile,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        upload.sync()?;
        let _keep = self.keep()?;
        // The entry first: a crash in between leaves the upload, which can be finished again, and
        // an entry that is none as long as there is no blob.
        self.link_blob(repository, digest)?;
        self.publish(&self.uploads, &upload.name, digest)?;
        rustix::fs::fsync(&self.uploads).map_err(|errno| self.failed("sync", "uploads", errno))
    }

    /// Removes an upload.
    pub(crate) fn cancel_upload(&self, upload: &UploadFile) -> Result<(), StorageError> {
        self.remove_entry(&self.uploads, &upload.name)?;
        rustix::fs::fsync(&self.uploads).map_err(|errno| self.failed("sync", "uploads", errno))
    }

    /// Whether one more upload may be started: there are fewer than `all` and fewer than
    /// `of_one` in this repository. Where there are more, the oldest makes room that has nothing
    /// yet and that nobody writes.
    pub(crate) fn make_room(
        &self,
        name: &RepositoryName,
        all: usize,
        of_one: usize,
    ) -> Result<bool, StorageError> {
        let mut uploads = self.names(&self.uploads)?;
        let suffix = suffix(name);
        let own = |upload: &&String| upload.ends_with(&suffix);
        let too_many = uploads.len() >= all;
        if uploads.iter().filter(own).count() >= of_one {
            uploads.retain(|upload| own(&upload));
        } else if !too_many {
            return Ok(true);
        }
        self.evict(&uploads)
    }

    /// Removes the oldest of these uploads that is empty and that nobody writes; whether there
    /// was one.
    fn evict(&self, uploads: &[String]) -> Result<bool, StorageError> {
        let mut empty = Vec::new();
        for upload in uploads {
            let status = rustix::fs::statat(&self.uploads, upload, AtFlags::SYMLINK_NOFOLLOW);
            if let Ok(status) = status
                && status.st_size == 0
            {
                empty.push((status.st_mtime, status.st_mtime_nsec, upload));
            }
        }
        empty.sort_unstable();
        for (_, _, upload) in empty {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&self.uploads, upload, flags, Mode::empty()) else {
                continue;
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // Somebody may have written and finished it since.
            let unused = rustix::fs::fstat(&file)
                .is_ok_and(|status| status.st_size == 0 && status.st_nlink > 0);
            if unused && self.remove_entry(&self.uploads, upload)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes uploads that nobody wrote since `older_than`; returns how many and their bytes.
    pub(crate) fn sweep_uploads(
        &self,
        older_than: SystemTime,
        really: bool,
    ) -> Result<(u64, u64), StorageError> {
        let (mut count, mut bytes) = (0, 0);
        for name in self.names(&self.uploads)? {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&self.uploads, &name, flags, Mode::empty()) else {
                continue;
            };
            // Somebody is writing it.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if modified(&self.uploads, &name)?.is_none_or(|time| time >= older_than) {
                continue;
            }
            let size = rustix::fs::fstat(&file).map_or(0, |status| status.st_size);
            if really {
                match rustix::fs::unlinkat(&self.uploads, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(self.failed("remove", &name, errno)),
                }
            }
            count += 1;
            bytes += u64::try_from(size).unwrap_or_default();
        }
        Ok((count, bytes))
    }

    /// Removes what fetches of a process that has ended have left behind.
    pub(crate) fn sweep_fetches(&self) -> Result<(), StorageError> {
        for name in self.names(&self.uploads)? {
            if name.ends_with(".fetch") {
                self.remove_entry(&self.uploads, &name)?;
            }
        }
        Ok(())
    }

    /// Makes a file that will become a blob without being an upload; locked, so that the
    /// collector leaves it alone.
    pub(crate) fn start_fetch(&self) -> Result<UploadFile, StorageError> {
        let failed = |operation, errno| self.failed(operation, "uploads", errno);
        let id = random_hex(16).map_err(|errno| failed("choose a name in", errno))?;
        let name = format!("{id}.fetch");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.uploads, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create a file in", errno))?;
        rustix::fs::flock(&file, FlockOperation::LockShared)
            .map_err(|errno| failed("lock", errno))?;
        let file = File::from(file);
        Ok(UploadFile {
            name,
            file,
            length: 0,
        })
    }
}

impl UploadFile {
    /// Another descriptor of the same file, for a reader that follows the writer.
    pub(crate) fn reader(&self) -> Result<File, StorageError> {
        self.file
            .try_clone()
            .map_err(|source| self.failed("open again", source))
    }
}
