//! Garbage collection, beside a running server.
//!
//! What a repository's manifests refer to stays, and so does what is younger than the grace: a
//! client pushes blobs first and then the manifest that refers to them, and leaves out blobs that
//! the registry says it has, which makes them young again. Everything that is removed is looked
//! at once more while no request can add anything ([`Storage::claim`]); the slow part, reading
//! manifests, is done before that.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_image::Digest;

use crate::manifest::{LIMIT, Outline};
use crate::name::RepositoryName;
use crate::storage::{Storage, StorageError};

/// What to collect.
#[derive(Debug, Clone, Copy)]
pub struct CollectOptions {
    /// Remove manifests that no tag leads to: not by itself, not through an index, not as a
    /// referrer of one that stays.
    pub untagged: bool,
    /// What was pushed or used less than this ago stays. A push may take that long. Less than 20
    /// minutes is for when nobody pushes.
    pub grace: Duration,
    /// Uploads that nobody wrote to for this long go.
    pub uploads: Duration,
    /// Say what would be removed, and remove nothing.
    pub dry_run: bool,
    /// How long to wait for a moment without a push.
    pub patience: Duration,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            untagged: false,
            grace: Duration::from_secs(3600),
            uploads: Duration::from_secs(24 * 3600),
            dry_run: false,
            patience: Duration::from_secs(60),
        }
    }
}

/// What was collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests removed, as `REPOSITORY@DIGEST`.
    pub manifests: Vec<String>,
    /// Blobs taken from repositories, as `REPOSITORY@DIGEST`.
    pub links: Vec<String>,
    /// Blobs removed from the store.
    pub blobs: Vec<Digest>,
    /// Unfinished uploads removed.
    pub uploads: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// Manifests that cannot be read, as `REPOSITORY@DIGEST`. All blobs of their repositories
    /// stay, since nobody knows what they refer to, and all manifests if a tag leads to it.
    pub damaged: Vec<String>,
}

/// Collects the garbage of the registry in `root`, whether a server runs on it or not.
///
/// # Errors
/// [`StorageError`]; what was removed before it is garbage all the same. A root that no server
/// has run on, or that something else keeps its content in, is refused before anything is touched.
pub fn collect(root: &Path, options: &CollectOptions) -> Result<Collected, StorageError> {
    let storage = Storage::open_existing(root)?;
    let now = SystemTime::now();
    let before = |age: Duration| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut collector = Collector {
        young: before(options.grace),
        storage: &storage,
        options,
        references: HashMap::new(),
        collected: Collected::default(),
    };
    let (uploads, bytes) = storage.sweep_uploads(before(options.uploads), !options.dry_run)?;
    collector.collected.uploads = uploads;
    collector.collected.bytes = bytes;
    if !options.dry_run {
        // An entry is staged for the moment that one write takes.
        storage.sweep_staging(before(Duration::from_secs(24 * 3600)))?;
    }
    let names = storage.repositories()?;
    // What is read here need not be read while requests wait.
    for name in &names {
        for (digest, _) in storage.manifests(name)? {
            collector.references(&digest);
        }
    }
    let mut kept = HashSet::new();
    for name in &names {
        let _claim = storage.claim(options.patience)?;
        kept.extend(collector.repository(name)?);
    }
    let _claim = storage.claim(options.patience)?;
    collector.store(&kept)?;
    Ok(collector.collected)
}

/// What is kept in memory of a manifest: there may be a hundred thousand.
struct References {
    blobs: Box<[Digest]>,
    manifests: Box<[Digest]>,
    subject: Option<Digest>,
}

struct Collector<'a> {
    young: SystemTime,
    storage: &'a Storage,
    options: &'a CollectOptions,
    /// What manifests refer to; `None` for those that cannot be read.
    references: HashMap<Digest, Option<Arc<References>>>,
    collected: Collected,
}

impl Collector<'_> {
    fn references(&mut self, digest: &Digest) -> Option<Arc<References>> {
        if let Some(known) = self.references.get(digest) {
            return known.clone();
        }
        let bytes = self.storage.store.read_blob(digest, LIMIT).ok();
        let outline = bytes.and_then(|bytes| Outline::read(&bytes, None).ok());
        let references = outline.map(|outline| {
            Arc::new(References {
                blobs: outline.all_blobs().copied().collect(),
                manifests: outline.manifests.iter().map(|child| child.digest).collect(),
                subject: outline.subject,
            })
        });
        self.references.insert(*digest, references.clone());
        references
    }

    /// Collects in one repository, and returns the digests that it keeps.
    fn repository(&mut self, name: &RepositoryName) -> Result<HashSet<Digest>, StorageError> {
        let manifests = self.storage.manifests(name)?;
        let mut kept = self.staying(name, &manifests)?;
        let (mut referred, mut damaged) = (HashSet::new(), false);
        let mut removed = Vec::new();
        for (digest, _) in &manifests {
            let references = self.references(digest);
            match references {
                _ if !kept.contains(digest) => {
                    removed.push((*digest, references.and_then(|found| found.subject)));
                }
                Some(found) => referred.extend(found.blobs.iter().copied()),
                None => {
                    damaged = true;
                    self.collected.damaged.push(format!("{name}@{digest}"));
                }
            }
        }
        let mut unlinked = Vec::new();
        for (digest, time) in self.storage.blobs(name)? {
            if damaged || referred.contains(&digest) || time >= self.young {
                kept.insert(digest);
            } else {
                unlinked.push(digest);
            }
        }
        if !self.options.dry_run {
            // Manifests first: one whose blobs were gone would be worse than the reverse.
            if !removed.is_empty() {
                self.storage.remove_untagged(name, &removed)?;
            }
            if !unlinked.is_empty() {
                self.storage.unlink_blobs(name, &unlinked)?;
            }
        }
        let named = |digest: &Digest| format!("{name}@{digest}");
        let removed = removed.iter().map(|(digest, _)| named(digest));
        self.collected.manifests.extend(removed);
        self.collected.links.extend(unlinked.iter().map(named));
        Ok(kept)
    }

    /// The manifests that stay: all, if one that a tag leads to is damaged.
    fn staying(
        &mut self,
        name: &RepositoryName,
        manifests: &[(Digest, SystemTime)],
    ) -> Result<HashSet<Digest>, StorageError> {
        if !self.options.untagged {
            return Ok(manifests.iter().map(|(digest, _)| *digest).collect());
        }
        let mut pending: Vec<Digest> = manifests
            .iter()
            .filter(|(_, time)| *time >= self.young)
            .map(|(digest, _)| *digest)
            .collect();
        for tag in self.storage.tags(name)?.unwrap_or_default() {
            pending.extend(self.storage.tag(name, &tag)?);
        }
        let known: HashSet<Digest> = manifests.iter().map(|(digest, _)| *digest).collect();
        let mut staying = HashSet::new();
        while let Some(digest) = pending.pop() {
            if !known.contains(&digest) || !staying.insert(digest) {
                continue;
            }
            let Some(references) = self.references(&digest) else {
                // What it leads to is unknown, so all of them may be meant.
                return Ok(known);
            };
            pending.extend(references.manifests.iter().copied());
            pending.extend(self.storage.referrers(name, &digest)?);
        }
        Ok(staying)
    }

    /// Removes what no repository has. `kept` is what the repositories were left with; what came
    /// since is looked up.
    fn store(&mut self, kept: &HashSet<Digest>) -> Result<(), StorageError> {
        let mut linked = HashSet::new();
        if self.options.dry_run {
            linked.clone_from(kept);
        } else {
            for name in self.storage.repositories()? {
                let manifests = self.storage.manifests(&name)?;
                let blobs = self.storage.blobs(&name)?;
                linked.extend(manifests.into_iter().chain(blobs).map(|(digest, _)| digest));
            }
        }
        for digest in self.storage.store.list_blobs()? {
            if linked.contains(&digest) {
                continue;
            }
            // A second guard, for whatever was not foreseen above.
            let time = self.storage.blob_time(&digest)?;
            if time.is_none_or(|time| time >= self.young) {
                continue;
            }
            self.collected.bytes += self.storage.store.blob_size(&digest).unwrap_or_default();
            if !self.options.dry_run {
                self.storage.store.remove_blob(&digest)?;
            }
            self.collected.blobs.push(digest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
