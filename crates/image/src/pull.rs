//! Pulling an image: from a reference to unpacked layers in the store.
//!
//! Index, platform, manifest, config, layers, in this order; the layers several at once, each in a
//! pipeline of its own. Everything is written under the store's `ingest`, and named only when all
//! of it is verified: a pull that fails or is killed leaves no trace that anybody could take for
//! an image. Nothing here knows about tags; giving the result a name is the caller's last step.

use std::error::Error;

use crate::apply::Limits;
use crate::digest::Digest;
use crate::model::{
    self, Descriptor, Document, ImageConfig, Index, Manifest, ModelError, Platform, choose,
    media_type,
};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{Client, ClientOptions, FetchedManifest, ManifestName, RegistryError};
use crate::store::{Store, StoreError};
use crate::unpack::Expansion;

mod error;
mod fetch;
mod layers;
mod ranged;

pub use error::PullError;
pub use ranged::RangeOptions;

use layers::Layers;

/// Layers that an image may have: overlayfs accepts 500 lower directories.
const MOST_LAYERS: usize = 500;
/// Indexes within indexes that are followed.
const MOST_INDEXES: usize = 3;

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// How to talk to the registry.
    pub client: ClientOptions,
    /// The most that decompression may produce.
    pub expansion: Expansion,
    /// The most that one layer may hold.
    pub limits: Limits,
    /// Layers that are fetched and unpacked at the same time, at least one.
    pub parallel: usize,
    /// When several connections fetch one blob; `None` for never.
    pub ranges: Option<RangeOptions>,
}

impl Default for PullOptions {
    fn default() -> Self {
        let (client, expansion, limits) = (
            ClientOptions::default(),
            Expansion::default(),
            Limits::default(),
        );
        Self {
            client,
            expansion,
            limits,
            parallel: 3,
            ranges: Some(RangeOptions::default()),
        }
    }
}

/// What happens during a pull. Layers are named by the digest of their blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The registry is being asked.
    Resolving {
        /// The reference in its short form.
        reference: String,
    },
    /// It is known what will be pulled.
    Resolved {
        /// Digest of the manifest for the platform.
        digest: Digest,
    },
    /// Something that the user should know and that does not stop the pull.
    Warning {
        /// The text.
        message: String,
    },
    /// The layer was already there.
    LayerExists {
        /// The layer.
        id: Digest,
    },
    /// The layer will be fetched.
    LayerQueued {
        /// The layer.
        id: Digest,
        /// Its size in bytes.
        total: u64,
    },
    /// Another process fetches the layer; it is waited for once everything else is here.
    LayerWaiting {
        /// The layer.
        id: Digest,
    },
    /// Some of the layer has come; at most every 100 ms.
    LayerProgress {
        /// The layer.
        id: Digest,
        /// Bytes so far.
        downloaded: u64,
        /// Its size in bytes.
        total: u64,
    },
    /// The layer has come and its digest is right.
    LayerDownloaded {
        /// The layer.
        id: Digest,
    },
    /// The layer is unpacked and its DiffID is right.
    LayerExtracted {
        /// The layer.
        id: Digest,
    },
    /// Everything is in the store.
    Done {
        /// Digest of what the reference names: the index if there is one.
        digest: Digest,
        /// Whether anything was new.
        status: PullStatus,
    },
}

/// Whether a pull changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// All of it was in the store.
    UpToDate,
    /// Some of it was not.
    Downloaded,
}

/// An image that is in the store.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What was asked for; `None` for what was imported.
    pub reference: Option<Reference>,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Digest of the index that the manifest was chosen from, if there was one: what a digest
    /// reference to the image names.
    pub index_digest: Option<Digest>,
    /// Digest of the config, which is the ImageID.
    pub config_digest: Digest,
    /// The config as it is.
    pub config_raw: Vec<u8>,
    /// The config as it is understood.
    pub config: ImageConfig,
    /// DiffIDs, bottom first. A layer may occur more than once.
    pub layers: Vec<Digest>,
    /// Bytes in the files of all layers.
    pub size: u64,
}

/// Pulls `reference`, with the tag `latest` if it has neither tag nor digest, for `platform`, by
/// default this host's. `progress` is called from several threads.
pub fn pull(
    store: &Store,
    options: &PullOptions,
    reference: &Reference,
    platform: Option<&Platform>,
    progress: &(dyn Fn(PullEvent) + Sync),
) -> Result<Pulled, PullError> {
    let familiar = reference.familiar();
    progress(PullEvent::Resolving {
        reference: familiar.clone(),
    });
    let client = Client::new(reference.registry(), &options.client).map_err(|source| {
        PullError::Registry {
            reference: familiar.clone(),
            source: Box::new(source),
        }
    })?;
    let pull = Pull {
        store,
        options,
        client: &client,
        reference,
        familiar,
        progress,
    };

    let resolved = pull.resolve(platform)?;
    if let Some(error) = client.unused_credentials() {
        progress(PullEvent::Warning {
            message: format!("pulling without credentials: {}", chain(error)),
        });
    }
    progress(PullEvent::Resolved {
        digest: resolved.manifest_document.digest,
    });
    let (config_raw, config) = pull.config(&resolved.manifest, platform)?;

    // What is referred to comes before what refers to it.
    let Layers {
        ingest,
        mut blobs,
        layers,
        any,
    } = pull.layers(&resolved.manifest, &config.rootfs.diff_ids)?;
    let documents = [&config_raw, &resolved.manifest_document.bytes];
    for bytes in documents
        .into_iter()
        .chain(resolved.indexes.iter().rev().map(|index| &index.bytes))
    {
        if !store.has_blob(&Digest::of(bytes))? {
            blobs.push(ingest.blob_of(bytes)?);
        }
    }
    let status = if blobs.is_empty() && !any {
        PullStatus::UpToDate
    } else {
        PullStatus::Downloaded
    };
    ingest.commit(blobs, layers)?;

    let manifest_digest = resolved.manifest_document.digest;
    let index_digest = resolved.indexes.first().map(|index| index.digest);
    progress(PullEvent::Done {
        digest: index_digest.unwrap_or(manifest_digest),
        status,
    });
    let layers = config.rootfs.diff_ids.clone();
    let size = size_of(store, &layers)?;
    Ok(Pulled {
        reference: Some(reference.clone()),
        manifest_digest,
        index_digest,
        config_digest: resolved.manifest.config.digest,
        config_raw,
        config,
        layers,
        size,
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Bytes in the files of `layers`, as far as they are recorded.
pub(crate) fn size_of(store: &Store, layers: &[Digest]) -> Result<u64, StoreError> {
    let mut size = 0_u64;
    for diff_id in layers {
        size = size.saturating_add(
            store
                .layer_record(diff_id)?
                .map_or(0, |record| record.bytes),
        );
    }
    Ok(size)
}

/// What all steps of one pull need.
struct Pull<'a> {
    store: &'a Store,
    options: &'a PullOptions,
    client: &'a Client,
    reference: &'a Reference,
    familiar: String,
    progress: &'a (dyn Fn(PullEvent) + Sync),
}

/// The manifest, and the indexes that led to it, outermost first.
struct Resolved {
    indexes: Vec<FetchedManifest>,
    manifest_document: FetchedManifest,
    manifest: Box<Manifest>,
}

impl Pull<'_> {
    fn reference(&self) -> String {
        self.familiar.clone()
    }

    fn registry_error(&self) -> impl Fn(RegistryError) -> PullError {
        |source| PullError::Registry {
            reference: self.reference(),
            source: Box::new(source),
        }
    }

    /// Always asks the registry, also about a digest that is in the store: it may come from
    /// another repository, which says nothing about this one.
    fn resolve(&self, platform: Option<&Platform>) -> Result<Resolved, PullError> {
        let repository = self.reference.repository();
        let name = match self.reference.digest() {
            // The tag beside a digest is for people; the digest decides (GHSA-qv35-3gw6-8q4j).
            Some(digest) => ManifestName::Digest(digest),
            None => ManifestName::Tag(self.reference.tag().unwrap_or(DEFAULT_TAG)),
        };
        let mut fetched = self
            .client
            .manifest(repository, name)
            .map_err(self.registry_error())?;
        let mut indexes = Vec::new();
        let mut expected: Option<Descriptor> = None;
        loop {
            let document = Document::parse(&fetched.bytes, fetched.content_type.as_deref())
                .map_err(|source| PullError::Document {
                    reference: self.reference(),
                    digest: fetched.digest,
                    source,
                })?;
            if let Some(expected) = &expected {
                self.check_entry(expected, &fetched, &document)?;
            }
            match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        indexes,
                        manifest_document: fetched,
                        manifest,
                    });
                }
                Document::Index(_) if indexes.len() == MOST_INDEXES => {
                    return Err(PullError::TooManyIndexes {
                        reference: self.reference(),
                    });
                }
                Document::Index(index) => {
                    let entry = self.choose(&index, platform)?;
                    let name = ManifestName::Digest(&entry.digest);
                    let next = self
                        .client
                        .manifest(repository, name)
                        .map_err(self.registry_error())?;
                    indexes.push(std::mem::replace(&mut fetched, next));
                    expected = Some(entry);
                }
            }
        }
    }

    fn choose(&self, index: &Index, platform: Option<&Platform>) -> Result<Descriptor, PullError> {
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        if let Some(entry) = choose(&index.manifests, wanted) {
            return Ok(entry.clone());
        }
        let mut available: Vec<String> = Vec::new();
        for entry in index
            .manifests
            .iter()
            .filter(|entry| !entry.is_attestation())
        {
            let name = entry
                .platform
                .as_ref()
                .map_or_else(|| "an unnamed platform".to_owned(), ToString::to_string);
            if !available.contains(&name) {
                available.push(name);
            }
        }
        if available.is_empty() {
            available.push("none".to_owned());
        }
        Err(PullError::NoPlatform {
            reference: self.reference(),
            wanted: wanted.to_string(),
            available,
        })
    }

    fn check_entry(
        &self,
        entry: &Descriptor,
        fetched: &FetchedManifest,
        document: &Document,
    ) -> Result<(), PullError> {
        let is_index =
            |media_type: &str| matches!(media_type, media_type::INDEX | media_type::DOCKER_INDEX);
        let is_manifest = |media_type: &str| {
            matches!(
                media_type,
                media_type::MANIFEST | media_type::DOCKER_MANIFEST
            )
        };
        let reason = match document {
            _ if entry.size != fetched.bytes.len() as u64 => "its size differs",
            Document::Manifest(_) if is_index(&entry.media_type) => {
                "it is a manifest and not an index"
            }
            Document::Index(_) if is_manifest(&entry.media_type) => {
                "it is an index and not a manifest"
            }
            _ => return Ok(()),
        };
        Err(PullError::IndexEntry {
            reference: self.reference(),
            digest: entry.digest,
            reason,
        })
    }

    /// The config, and whether the manifest agrees with it.
    fn config(
        &self,
        manifest: &Manifest,
        platform: Option<&Platform>,
    ) -> Result<(Vec<u8>, ImageConfig), PullError> {
        let descriptor = &manifest.config;
        // The third is what Docker's first registries said about configs.
        if !matches!(
            descriptor.media_type.as_str(),
            media_type::CONFIG | media_type::DOCKER_CONFIG | "application/octet-stream" | ""
        ) {
            let media_type = descriptor.media_type.chars().take(160).collect();
            return Err(PullError::NotAnImage {
                reference: self.reference(),
                media_type,
            });
        }
        let raw = self.small_blob(descriptor)?;
        let document_error = |source| PullError::Document {
            reference: self.reference(),
            digest: descriptor.digest,
            source,
        };
        let config = ImageConfig::parse(&raw).map_err(document_error)?;
        if let Some(wanted) = platform
            && !config.architecture.is_empty()
            && wanted.distance(&config.platform()).is_none()
        {
            let (wanted, found) = (wanted.to_string(), config.platform().to_string());
            return Err(PullError::PlatformMismatch {
                reference: self.reference(),
                wanted,
                found,
            });
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(PullError::LayerCount {
                reference: self.reference(),
                layers,
                diff_ids,
            });
        }
        if layers > MOST_LAYERS {
            return Err(PullError::TooManyLayers {
                reference: self.reference(),
                layers,
            });
        }
        Ok((raw, config))
    }

    fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        let limit = model::DOCUMENT_LIMIT;
        if descriptor.size > limit {
            let source = ModelError::TooLarge {
                document: "image config",
                length: descriptor.size,
            };
            return Err(PullError::Document {
                reference: self.reference(),
                digest: descriptor.digest,
                source,
            });
        }
        // A blob that is in the store was verified, so its size decides which of two claims is right.
        if self.store.has_blob(&descriptor.digest)?
            && self.store.blob_size(&descriptor.digest)? == descriptor.size
        {
            return Ok(self.store.read_blob(&descriptor.digest, limit)?);
        }
        let repository = self.reference.repository();
        let mut reader = self
            .client
            .blob(repository, &descriptor.digest, descriptor.size)
            .map_err(self.registry_error())?;
        let mut bytes = vec![0; descriptor.size as usize + 1];
        let mut length = 0;
        loop {
            match reader
                .read_some(&mut bytes[length..])
                .map_err(self.registry_error())?
            {
                0 => break,
                count => length += count,
            }
        }
        bytes.truncate(length);
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(self.registry_error()(RegistryError::DigestMismatch {
                registry: self.client.registry().to_owned(),
                object: format!("{repository}@{}", descriptor.digest),
                expected: descriptor.digest.to_string(),
                actual,
            }));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
