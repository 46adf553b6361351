//! Copying an image from one place to another without a copy in the store: between registries,
//! OCI layouts and, by their own implementations of the two traits, archives.
//!
//! Digests never change: what arrives are the very bytes that were there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::{Digest, Hasher};
use crate::documents::{DocumentBudget, TooManyDocuments};
use crate::model::{Descriptor, Document, LayerKind, ModelError, Platform, choose, layer_kind};
use crate::registry::RegistryError;

mod layout;
mod registry;

pub use layout::{LayoutSource, LayoutTarget};
pub use registry::{RegistrySource, RegistryTarget};

/// Indexes within indexes that are followed.
const MOST_INDEXES: usize = 4;

/// A manifest or an index as its source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceManifest {
    /// The document; never more than [`crate::model::DOCUMENT_LIMIT`].
    pub bytes: Vec<u8>,
    /// Its media type as the source says it.
    pub media_type: Option<String>,
    /// Digest of the bytes, which the source has verified if it was asked for by it.
    pub digest: Digest,
}

/// Where an image is.
pub trait BlobSource: Sync {
    /// What the user called it.
    fn name(&self) -> String;

    /// What its name stands for: a manifest or an index.
    ///
    /// # Errors
    /// [`CopyError`].
    fn root(&self) -> Result<SourceManifest, CopyError>;

    /// A manifest by digest; the bytes have it.
    ///
    /// # Errors
    /// [`CopyError`].
    fn manifest(&self, descriptor: &Descriptor) -> Result<SourceManifest, CopyError>;

    /// Opens a blob at an offset. Whether it has its digest is for whoever reads it.
    ///
    /// # Errors
    /// [`CopyError`].
    fn open<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Box<dyn Read + 'a>, CopyError>;

    /// What refers to a manifest; nothing where that is not kept.
    ///
    /// # Errors
    /// [`CopyError`].
    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        let _ = digest;
        Ok(Vec::new())
    }

    /// Registry and repository, if that is what it is: a target in the same registry can then
    /// have blobs mounted.
    fn repository(&self) -> Option<(&str, &str)> {
        None
    }
}

/// How a blob arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Sent,
}

/// Where an image goes.
pub trait BlobTarget: Sync {
    /// What the user called it.
    fn name(&self) -> String;

    /// Blobs that may come at the same time.
    fn parallel(&self) -> usize {
        usize::MAX
    }

    /// Whether a manifest is there, with all that it refers to.
    ///
    /// # Errors
    /// [`CopyError`].
    fn has_manifest(&self, digest: &Digest) -> Result<bool, CopyError>;

    /// Takes a blob unless it is there, and verifies its digest; `progress` is told how many
    /// bytes have come.
    ///
    /// # Errors
    /// [`CopyError`].
    fn put_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        progress: &dyn Fn(u64),
    ) -> Result<Arrival, CopyError>;

    /// Takes a manifest. All that it refers to has come before. `is_root` is for the one that
    /// gets the target's name.
    ///
    /// # Errors
    /// [`CopyError`].
    fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        is_root: bool,
    ) -> Result<(), CopyError>;

    /// Everything has come.
    ///
    /// # Errors
    /// [`CopyError`].
    fn finish(&self) -> Result<(), CopyError> {
        Ok(())
    }
}

/// Why an image cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A registry did not deliver or did not take something.
    #[error("cannot copy {name}")]
    Registry {
        /// The image in that registry.
        name: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A file or directory cannot be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is not acceptable.
    #[error("cannot use {digest} of {name}")]
    Document {
        /// The image.
        name: String,
        /// The document.
        digest: Digest,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// It is no OCI layout or no archive of images, or another one than asked for.
    #[error("{name} {reason}")]
    Unusable {
        /// What the user called it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content is not there.
    #[error("{name} has no {digest}")]
    Missing {
        /// The place.
        name: String,
        /// The content.
        digest: Digest,
    },
    /// Content is not what its digest and size say.
    #[error("{digest} of {name} is damaged")]
    Damaged {
        /// The place.
        name: String,
        /// The content.
        digest: Digest,
    },
    /// The index has nothing for the platform.
    #[error("{name} has no image for {platform}")]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform asked for.
        platform: String,
    },
    /// It names more manifests than any honest image.
    #[error("cannot copy {name}")]
    TooManyDocuments {
        /// The image.
        name: String,
        /// How many are allowed.
        #[source]
        source: TooManyDocuments,
    },
    /// Indexes within indexes.
    #[error("{name} has more than {MOST_INDEXES} indexes within each other")]
    TooManyIndexes {
        /// The image.
        name: String,
    },
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Blobs that are copied at the same time, at least one. 5 by default.
    pub parallel: usize,
    /// Copy one image of an index alone.
    pub platform: Option<Platform>,
    /// Copy what refers to the manifests, such as signatures, too.
    pub referrers: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            parallel: 5,
            platform: None,
            referrers: false,
        }
    }
}

/// What happens during a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEvent {
    /// The blob is to be copied.
    Preparing {
        /// The blob.
        id: Digest,
        /// Its size in bytes.
        total: u64,
    },
    /// Some of it has gone.
    Progress {
        /// The blob.
        id: Digest,
        /// Bytes so far.
        copied: u64,
        /// Its size in bytes.
        total: u64,
    },
    /// It is there.
    Copied {
        /// The blob.
        id: Digest,
        /// How it came there.
        arrival: Arrival,
    },
    /// Everything is there.
    Done {
        /// Digest of what was copied.
        digest: Digest,
    },
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Digest of the manifest or index that got the target's name.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Bytes of blobs that were sent.
    pub sent: u64,
    /// Manifests and indexes, with the referrers.
    pub manifests: usize,
}

/// Copies what `source` names to `target`. `progress` is called from several threads.
///
/// # Errors
/// [`CopyError`].
pub fn copy(
    source: &dyn BlobSource,
    target: &dyn BlobTarget,
    options: &CopyOptions,
    progress: &(dyn Fn(CopyEvent) + Sync),
) -> Result<Copied, CopyError> {
    let mut collector = Collector {
        source,
        target,
        referrers: options.referrers,
        seen: BTreeSet::new(),
        documents: Vec::new(),
        budget: DocumentBudget::default(),
    };
    let mut root = source.root()?;
    if let Some(platform) = &options.platform {
        root = collector.choose(root, platform)?;
    }
    let root_digest = root.digest;
    collector.add(root, 0)?;
    let documents = collector.documents;
    let sent = blobs(source, target, options, &documents, progress)?;
    let mut media_type = String::new();
    for document in &documents {
        let is_root = document.descriptor.digest == root_digest;
        if is_root {
            media_type.clone_from(&document.descriptor.media_type);
        }
        target.put_manifest(&document.descriptor, &document.bytes, is_root)?;
    }
    target.finish()?;
    progress(CopyEvent::Done {
        digest: root_digest,
    });
    Ok(Copied {
        digest: root_digest,
        media_type,
        sent,
        manifests: documents.len(),
    })
}

/// A manifest that is to be copied.
struct Collected {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    blobs: Vec<Descriptor>,
}

/// Finds all manifests, what is referred to before what refers to it.
struct Collector<'a> {
    source: &'a dyn BlobSource,
    target: &'a dyn BlobTarget,
    referrers: bool,
    seen: BTreeSet<Digest>,
    documents: Vec<Collected>,
    budget: DocumentBudget,
}

impl Collector<'_> {
    fn parse(&self, found: &SourceManifest) -> Result<Document, CopyError> {
        Document::parse(&found.bytes, found.media_type.as_deref()).map_err(|source| {
            CopyError::Document {
                name: self.source.name(),
                digest: found.digest,
                source,
            }
        })
    }

    fn choose(
        &self,
        mut found: SourceManifest,
        platform: &Platform,
    ) -> Result<SourceManifest, CopyError> {
        for _ in 0..MOST_INDEXES {
            let Document::Index(index) = self.parse(&found)? else {
                return Ok(found);
            };
            let entry =
                choose(&index.manifests, platform).ok_or_else(|| CopyError::NoPlatform {
                    name: self.source.name(),
                    platform: platform.to_string(),
                })?;
            found = self.source.manifest(entry)?;
        }
        Err(CopyError::TooManyIndexes {
            name: self.source.name(),
        })
    }

    fn add(&mut self, found: SourceManifest, depth: usize) -> Result<(), CopyError> {
        if depth > MOST_INDEXES {
            return Err(CopyError::TooManyIndexes {
                name: self.source.name(),
            });
        }
        if !self.seen.insert(found.digest) {
            return Ok(());
        }
        self.budget
            .take(found.bytes.len() as u64)
            .map_err(|source| CopyError::TooManyDocuments {
                name: self.source.name(),
                source,
            })?;
        let document = self.parse(&found)?;
        // With its manifest a target has the blobs.
        let there = self.target.has_manifest(&found.digest)?;
        let (media_type, blobs) = match document {
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.follow(entry, depth + 1)?;
                }
                let own = index.media_type;
                let default = crate::model::media_type::INDEX;
                (own.unwrap_or_else(|| default.to_owned()), Vec::new())
            }
            Document::Manifest(manifest) => {
                let docker = crate::model::media_type::DOCKER_CONFIG;
                let default = if manifest.config.media_type == docker {
                    crate::model::media_type::DOCKER_MANIFEST
                } else {
                    crate::model::media_type::MANIFEST
                };
                let own = manifest.media_type.unwrap_or_else(|| default.to_owned());
                let layers = manifest.layers.into_iter().filter(|layer| {
                    layer_kind(&layer.media_type) != Some(LayerKind::Nondistributable)
                });
                let blobs = std::iter::once(manifest.config).chain(layers).collect();
                (own, if there { Vec::new() } else { blobs })
            }
        };
        let digest = found.digest;
        let mut descriptor = Descriptor::of(&media_type, &found.bytes);
        descriptor.digest = digest;
        self.documents.push(Collected {
            descriptor,
            bytes: found.bytes,
            blobs,
        });
        if self.referrers {
            for referrer in self.source.referrers(&digest)? {
                self.follow(&referrer, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Adds what an index or a list of referrers names. What was seen is not even asked for: an
    /// index may name one child 30,000 times.
    fn follow(&mut self, entry: &Descriptor, depth: usize) -> Result<(), CopyError> {
        if self.seen.contains(&entry.digest) {
            return Ok(());
        }
        let found = self.source.manifest(entry)?;
        self.add(found, depth)
    }
}

/// Copies the blobs of `documents`, several at once; returns the bytes that were sent.
fn blobs(
    source: &dyn BlobSource,
    target: &dyn BlobTarget,
    options: &CopyOptions,
    documents: &[Collected],
    progress: &(dyn Fn(CopyEvent) + Sync),
) -> Result<u64, CopyError> {
    let mut jobs: BTreeMap<Digest, &Descriptor> = BTreeMap::new();
    for blob in documents.iter().flat_map(|document| &document.blobs) {
        jobs.entry(blob.digest).or_insert(blob);
    }
    let jobs: Vec<&Descriptor> = jobs.into_values().collect();
    for job in &jobs {
        progress(CopyEvent::Preparing {
            id: job.digest,
            total: job.size,
        });
    }
    let (next, sent) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let outcome = Mutex::new(Ok(()));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (id, total) = (job.digest, job.size);
            let report = |copied| progress(CopyEvent::Progress { id, copied, total });
            match target.put_blob(job, source, &report) {
                Ok(arrival) => {
                    if arrival == Arrival::Sent {
                        sent.fetch_add(total, Ordering::Relaxed);
                    }
                    progress(CopyEvent::Copied { id, arrival });
                }
                Err(error) => {
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    // The first error is the one that stopped the others.
                    if !stop.swap(true, Ordering::Relaxed) {
                        *outcome = Err(error);
                    }
                    return;
                }
            }
        }
    };
    let workers = options
        .parallel
        .max(1)
        .min(target.parallel().max(1))
        .min(jobs.len());
    std::thread::scope(|scope| {
        // The last of them works in this thread.
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    outcome
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .map(|()| sent.into_inner())
}

/// Reads a blob and fails at its end if it does not have its size and digest. From another offset
/// than its beginning only the size is checked.
pub(crate) struct Verified<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Option<Hasher>,
    digest: Digest,
    left: u64,
}

impl<'a> Verified<'a> {
    pub(crate) fn new(inner: Box<dyn Read + 'a>, descriptor: &Descriptor, offset: u64) -> Self {
        Self {
            inner,
            hasher: (offset == 0).then(Hasher::default),
            digest: descriptor.digest,
            left: descriptor.size.saturating_sub(offset),
        }
    }
}

/// What was read is not the blob.
#[derive(Debug, thiserror::Error)]
#[error("{digest} is damaged where it is copied from")]
pub(crate) struct DamagedSource {
    digest: Digest,
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let damaged = || {
            io::Error::other(DamagedSource {
                digest: self.digest,
            })
        };
        let count = self.inner.read(buffer)?;
        if count as u64 > self.left || (count == 0 && self.left > 0 && !buffer.is_empty()) {
            return Err(damaged());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.left -= count as u64;
        // Before the last bytes are handed on, so that nobody takes them for the end.
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.digest
        {
            return Err(damaged());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
