//! The entries of a repository: blobs, manifests, tags and referrers.

use std::time::{Duration, SystemTime};

use gantry_image::Digest;
use gantry_image::model::DOCUMENT_LIMIT;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde_json::Value;

use super::{ENTRY_LIMIT, Storage, StorageError, modified};
use crate::name::RepositoryName;

const BLOBS: &str = "_blobs/sha256";
const MANIFESTS: &str = "_manifests/sha256";
const TAGS: &str = "_tags";

/// An entry younger than this is not marked as used again: writing it for each `HEAD` would cost
/// more than it is worth. The collector's grace is at least twice as long.
const FRESH: Duration = Duration::from_secs(600);

/// A manifest that refers to another one.
#[derive(Debug, Clone)]
pub(crate) struct Referrer {
    pub(crate) digest: Digest,
    /// Its descriptor as the referrers' list has it.
    pub(crate) descriptor: Value,
}

fn referrers(subject: &Digest) -> String {
    format!("_referrers/sha256/{}", subject.hex())
}

impl Storage {
    /// Whether the repository has the blob, and the store too. Manifests count: some clients
    /// fetch those of an index as blobs.
    pub(crate) fn has_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let linked = self.has_entry(name, BLOBS, digest)? || self.has_manifest(name, digest)?;
        Ok(linked && self.store.has_blob(digest)?)
    }

    /// Whether the repository has the manifest.
    pub(crate) fn has_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.has_entry(name, MANIFESTS, digest)
    }

    fn has_entry(
        &self,
        name: &RepositoryName,
        kind: &str,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        match self.directory(name, kind)? {
            Some(directory) => Ok(modified(&directory, &digest.hex())?.is_some()),
            None => Ok(false),
        }
    }

    /// Gives the blob to the repository. The caller [keeps](Storage::keep).
    pub(crate) fn link_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        let directory = self.ensure(name, BLOBS)?;
        let failed = |operation, errno| self.failed(operation, &digest.hex(), errno);
        // Empty, so it is whole as soon as it has its name.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, digest.hex(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create", errno))?;
        rustix::fs::futimens(&file, &NOW).map_err(|errno| failed("touch", errno))?;
        rustix::fs::fsync(&file).map_err(|errno| failed("sync", errno))?;
        self.sync(&directory)
    }

    /// Whether the repository has the blob, for a client that may leave out its upload because
    /// of the answer: the collector's grace begins anew.
    pub(crate) fn use_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let _keep = self.keep()?;
        if !self.has_blob(name, digest)? {
            return Ok(false);
        }
        for kind in [BLOBS, MANIFESTS] {
            if self.is_stale(name, kind, digest)? {
                self.touch(name, kind, digest)?;
            }
        }
        Ok(true)
    }

    /// The media type of a manifest, for a client that may push an index or a referrer because
    /// of the answer: the collector's grace begins anew. `None` if the repository does not have
    /// it.
    pub(crate) fn use_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<String>, StorageError> {
        if self.is_stale(name, MANIFESTS, digest)? {
            // A collector that is at this repository has read the old time.
            let _keep = self.keep()?;
            self.touch(name, MANIFESTS, digest)?;
        }
        self.manifest_type(name, digest)
    }

    fn is_stale(
        &self,
        name: &RepositoryName,
        kind: &str,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let Some(directory) = self.directory(name, kind)? else {
            return Ok(false);
        };
        let time = modified(&directory, &digest.hex())?;
        Ok(time
            .and_then(|time| time.elapsed().ok())
            .is_some_and(|age| age > FRESH))
    }

    fn touch(
        &self,
        name: &RepositoryName,
        kind: &str,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        let Some(directory) = self.directory(name, kind)? else {
            return Ok(());
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::utimensat(&directory, digest.hex(), &NOW, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("touch", &digest.hex(), errno)),
        }
    }

    /// Takes the blob from the repository; whether it had it. The caller is
    /// [changing](Storage::changing) it.
    pub(crate) fn unlink_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.remove(name, BLOBS, &digest.hex())
    }

    /// Takes many blobs from the repository, with one sync.
    pub(crate) fn unlink_blobs(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
    ) -> Result<(), StorageError> {
        self.remove_all(name, BLOBS, digests)
    }

    fn remove_all(
        &self,
        name: &RepositoryName,
        kind: &str,
        digests: &[Digest],
    ) -> Result<(), StorageError> {
        let Some(directory) = self.directory(name, kind)? else {
            return Ok(());
        };
        for digest in digests {
            self.remove_entry(&directory, &digest.hex())?;
        }
        self.sync(&directory)
    }

    fn remove(&self, name: &RepositoryName, kind: &str, entry: &str) -> Result<bool, StorageError> {
        let Some(directory) = self.directory(name, kind)? else {
            return Ok(false);
        };
        let removed = self.remove_entry(&directory, entry)?;
        if removed {
            self.sync(&directory)?;
        }
        Ok(removed)
    }

    /// The media type a manifest was pushed with; `None` if the repository does not have it.
    pub(crate) fn manifest_type(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<String>, StorageError> {
        let Some(directory) = self.directory(name, MANIFESTS)? else {
            return Ok(None);
        };
        let bytes = self.read_entry(&directory, &digest.hex(), ENTRY_LIMIT)?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Gives the repository a manifest whose bytes are in the store. The caller
    /// [keeps](Storage::keep).
    pub(crate) fn link_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        media_type: &str,
    ) -> Result<(), StorageError> {
        let directory = self.ensure(name, MANIFESTS)?;
        self.write_entry(&directory, &digest.hex(), media_type.as_bytes())
    }

    /// Removes a manifest with the tags that point to it, first the tags: a tag without its
    /// manifest would be worse than a manifest without its tag. Whether it was there. The caller
    /// is [changing](Storage::changing) the repository.
    pub(crate) fn remove_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, StorageError> {
        if !self.has_manifest(name, digest)? {
            return Ok(false);
        }
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.tag(name, &tag)?.as_ref() == Some(digest) {
                self.remove_tag(name, &tag)?;
            }
        }
        if let Some(subject) = subject {
            self.remove(name, &referrers(subject), &digest.hex())?;
        }
        self.remove(name, MANIFESTS, &digest.hex())
    }

    /// Removes manifests that no tag points to, each with its subject, with few syncs.
    pub(crate) fn remove_untagged(
        &self,
        name: &RepositoryName,
        manifests: &[(Digest, Option<Digest>)],
    ) -> Result<(), StorageError> {
        for (digest, subject) in manifests {
            if let Some(subject) = subject {
                self.remove(name, &referrers(subject), &digest.hex())?;
            }
        }
        let digests: Vec<Digest> = manifests.iter().map(|(digest, _)| *digest).collect();
        self.remove_all(name, MANIFESTS, &digests)
    }

    /// What a tag points to.
    pub(crate) fn tag(
        &self,
        name: &RepositoryName,
        tag: &str,
    ) -> Result<Option<Digest>, StorageError> {
        let Some(directory) = self.directory(name, TAGS)? else {
            return Ok(None);
        };
        let Some(bytes) = self.read_entry(&directory, tag, ENTRY_LIMIT)? else {
            return Ok(None);
        };
        let digest = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok());
        digest.map(Some).ok_or_else(|| StorageError::Damaged {
            path: self.root.join(format!("repositories/{name}/{TAGS}/{tag}")),
        })
    }

    /// Points a tag at a manifest. The rename is what makes the last of several pushes win.
    pub(crate) fn set_tag(
        &self,
        name: &RepositoryName,
        tag: &str,
        digest: &Digest,
    ) -> Result<(), StorageError> {
        let directory = self.ensure(name, TAGS)?;
        self.write_entry(&directory, tag, digest.to_string().as_bytes())
    }

    /// Removes a tag; whether it was there.
    pub(crate) fn remove_tag(
        &self,
        name: &RepositoryName,
        tag: &str,
    ) -> Result<bool, StorageError> {
        self.remove(name, TAGS, tag)
    }

    /// The tags, sorted; `None` if there is no such repository.
    pub(crate) fn tags(&self, name: &RepositoryName) -> Result<Option<Vec<String>>, StorageError> {
        let Some(directory) = self.directory(name, TAGS)? else {
            let known = self.directory(name, MANIFESTS)?.is_some();
            return Ok(known.then(Vec::new));
        };
        let mut tags = self.names(&directory)?;
        tags.retain(|tag| crate::name::is_tag(tag));
        tags.sort();
        Ok(Some(tags))
    }

    /// Whether the repository has any manifest.
    pub(crate) fn has_manifests(&self, name: &RepositoryName) -> Result<bool, StorageError> {
        match self.directory(name, MANIFESTS)? {
            Some(directory) => Ok(!self.names(&directory)?.is_empty()),
            None => Ok(false),
        }
    }

    /// The manifests of a repository with the time of their push, in no order.
    pub(crate) fn manifests(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<(Digest, SystemTime)>, StorageError> {
        self.dated(name, MANIFESTS)
    }

    /// The blobs of a repository with the time of their push or last use, in no order.
    pub(crate) fn blobs(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<(Digest, SystemTime)>, StorageError> {
        self.dated(name, BLOBS)
    }

    fn dated(
        &self,
        name: &RepositoryName,
        kind: &str,
    ) -> Result<Vec<(Digest, SystemTime)>, StorageError> {
        let Some(directory) = self.directory(name, kind)? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in self.names(&directory)? {
            if let Some(digest) = Digest::from_hex(&entry)
                && let Some(time) = modified(&directory, &entry)?
            {
                found.push((digest, time));
            }
        }
        Ok(found)
    }

    /// Records that `referrer` refers to `subject`, which need not exist yet.
    pub(crate) fn add_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<(), StorageError> {
        let directory = self.ensure(name, &referrers(subject))?;
        let bytes = referrer.descriptor.to_string();
        self.write_entry(&directory, &referrer.digest.hex(), bytes.as_bytes())
    }

    /// Digests of the manifests that refer to `subject`, sorted.
    pub(crate) fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Digest>, StorageError> {
        let Some(directory) = self.directory(name, &referrers(subject))? else {
            return Ok(Vec::new());
        };
        let names = self.names(&directory)?;
        let mut found: Vec<Digest> = names
            .iter()
            .filter_map(|name| Digest::from_hex(name))
            .collect();
        found.sort();
        Ok(found)
    }

    /// The descriptor of a referrer; `None` if it went away.
    pub(crate) fn referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Value>, StorageError> {
        let Some(directory) = self.directory(name, &referrers(subject))? else {
            return Ok(None);
        };
        // A descriptor holds the annotations of its manifest.
        let bytes = self.read_entry(&directory, &digest.hex(), DOCUMENT_LIMIT + ENTRY_LIMIT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

const NOW: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW as _,
    },
    last_modification: Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW as _,
    },
};
