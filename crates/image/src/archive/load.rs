//! Reading archives of images into the store.
//!
//! An OCI layout's own manifests are kept byte for byte, so that digests survive; a docker-archive
//! has none, and gets one that names its layers as they are in the archive. Where an archive is
//! both, both have to agree (CVE-2021-41190: one archive, two images).

#[path = "load_names.rs"]
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};

use names::{agree, name_one_of_each, name_the_last};

use super::layout::{REF_NAME, annotated_name, parse_manifest_json, promised_digest, tagged};
use super::spool::{Content, Spool, SpoolError};
use crate::apply::{ApplyKind, Limits};
use crate::decompress::{Compression, Decoder, detect};
use crate::digest::{Digest, Hasher};
use crate::documents::{DocumentBudget, TooManyDocuments};
use crate::model::{
    Descriptor, Document, ImageConfig, Index, Manifest, ModelError, Platform, media_type,
};
use crate::pipe::{PipeWriter, fill};
use crate::pull::{Pulled, size_of};
use crate::reference::Reference;
use crate::store::{Ingest, LayerRecord, StagedBlob, StagedLayer, Store, StoreError};
use crate::unpack::{Budget, Expansion, LayerError, Unpack, unpack};
use crate::watched::Watched;

/// Layers that an image may have, as a pull allows.
const MOST_LAYERS: usize = 500;
/// Indexes within indexes that are followed.
const MOST_INDEXES: usize = 3;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only images for this platform.
    pub platform: Option<Platform>,
    /// The most that decompression may produce.
    pub expansion: Expansion,
    /// The most that one layer may hold.
    pub limits: Limits,
}

/// Why an archive does not become images. Nothing was stored then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] SpoolError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no archive of images.
    #[error("the archive holds no images: it has neither index.json nor manifest.json")]
    NoImages,
    /// Nothing in it is for the platform.
    #[error("the archive holds no image for {wanted}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
    },
    /// A document of it cannot be used.
    #[error("{name} of the archive cannot be used")]
    Document {
        /// Its name in the archive.
        name: String,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// A file that is named is not there, or is not what its name says.
    #[error("{name} is not in the archive, or has other content than its name says")]
    Missing {
        /// Its name in the archive.
        name: String,
    },
    /// It names more manifests and configs than any honest archive.
    #[error("the archive cannot be used")]
    TooManyDocuments(#[from] TooManyDocuments),
    /// The archive says two things about one image.
    #[error("the archive is ambiguous: {reason}")]
    Ambiguous {
        /// What is in conflict.
        reason: String,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {number} ({digest})")]
    Layer {
        /// Which one, from 1.
        number: usize,
        /// Digest of its blob.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
}

/// An image of an archive, in the store.
#[derive(Debug)]
pub struct Loaded {
    /// The image.
    pub image: Pulled,
    /// What its names stand for: its manifest, or the index that it was chosen from.
    pub target: Digest,
    /// Its names, with tags. Empty for all but one image of an index.
    pub names: Vec<Reference>,
    /// Names that the archive gives it and a later image: they are that one's.
    pub renamed: Vec<Reference>,
    /// Whether its manifest was made for it, since the archive had none.
    pub made: bool,
}

/// One image that was found in an archive.
pub(super) struct Found {
    made: bool,
    pub(super) target: Digest,
    pub(super) names: BTreeSet<Reference>,
    renamed: BTreeSet<Reference>,
    manifest_digest: Digest,
    manifest: Manifest,
    config_raw: Vec<u8>,
    config: ImageConfig,
}

/// What was found, and the documents that have to be stored for it.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) images: Vec<Found>,
    pub(super) documents: BTreeMap<Digest, Vec<u8>>,
    /// What `index.json` calls its entries, whether that is a name or a mere tag.
    pub(super) plain_names: BTreeMap<String, Digest>,
    /// Blobs besides the images': attestations.
    others: BTreeSet<Digest>,
    /// The entries of `index.json` that were read.
    targets: BTreeMap<Digest, Descriptor>,
    /// What each name stood for last.
    last: BTreeMap<Reference, Digest>,
    budget: DocumentBudget,
}

/// What happens during a load. Layers are named by their DiffID: archives of Docker's have no
/// other name for them that lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// Some of the archive was read; at most every 100 ms, and at its end.
    Reading {
        /// Bytes so far.
        read: u64,
    },
    /// The layer was already there.
    LayerExists {
        /// The layer.
        id: Digest,
    },
    /// Some of the layer is unpacked; at most every 100 ms, and at its end.
    LayerProgress {
        /// The layer.
        id: Digest,
        /// Bytes of its blob so far.
        done: u64,
        /// Bytes of its blob.
        total: u64,
    },
    /// The layer is unpacked and its DiffID is right.
    LayerLoaded {
        /// The layer.
        id: Digest,
    },
}

/// [`load_with`] that nobody watches.
///
/// # Errors
/// [`LoadError`]. The store is as it was then.
pub fn load(
    store: &Store,
    archive: impl Read,
    options: &LoadOptions,
) -> Result<Vec<Loaded>, LoadError> {
    load_with(store, archive, options, &|_| {})
}

/// Reads an archive of images, plain or compressed with gzip or zstd, and stores what is in it.
///
/// # Errors
/// [`LoadError`]. The store is as it was then.
pub fn load_with(
    store: &Store,
    archive: impl Read,
    options: &LoadOptions,
    progress: &(dyn Fn(LoadEvent) + Sync),
) -> Result<Vec<Loaded>, LoadError> {
    let archive = Watched::new(archive, |read| progress(LoadEvent::Reading { read }));
    let ingest = store.ingest()?;
    let spool = Spool::read(archive, &ingest, options.expansion)?;
    let mut contents = read_contents(&spool)?;
    if contents.images.is_empty() {
        return Err(LoadError::NoImages);
    }
    if let Some(wanted) = &options.platform {
        contents
            .images
            .retain(|found| wanted.distance(&found.config.platform()).is_some());
        if contents.images.is_empty() {
            return Err(LoadError::NoPlatform {
                wanted: wanted.to_string(),
            });
        }
    }
    name_one_of_each(&mut contents.images);

    let mut layers: Vec<(StagedLayer, Digest, LayerRecord)> = Vec::new();
    let mut wanted: BTreeSet<Digest> = contents.others.clone();
    let mut known: BTreeSet<(Digest, Digest)> = BTreeSet::new();
    let budget = Budget::new(options.expansion);
    for found in &contents.images {
        let diff_ids = &found.config.rootfs.diff_ids;
        for (number, (descriptor, diff_id)) in (1..).zip(found.manifest.layers.iter().zip(diff_ids))
        {
            wanted.insert(descriptor.digest);
            if !known.insert((descriptor.digest, *diff_id)) {
                continue;
            }
            let is_here =
                store.has_layer(diff_id)? || layers.iter().any(|(_, known, _)| known == diff_id);
            if is_here {
                progress(LoadEvent::LayerExists { id: *diff_id });
            }
            if is_here && store.has_blob(&descriptor.digest)? {
                continue;
            }
            // Old archives keep layers under names of their own.
            let content = spool
                .blob(&descriptor.digest)
                .or_else(|| spool.of_digest(&descriptor.digest));
            let failed = |source: LayerError| LoadError::Layer {
                number,
                digest: descriptor.digest,
                source: Box::new(source),
            };
            let content = match content {
                Some(content) => content,
                None if is_here => continue,
                None => {
                    return Err(LoadError::Missing {
                        name: super::spool::blob_path(&descriptor.digest),
                    });
                }
            };
            // The blob of a layer that is here is stored as well, and pushed one day: it has to be
            // the layer all the same.
            let (actual, unpacked) = if is_here {
                (plain_digest(content, &budget).map_err(failed)?, None)
            } else {
                let total = content.size();
                let watch = |done| {
                    progress(LoadEvent::LayerProgress {
                        id: *diff_id,
                        done,
                        total,
                    });
                };
                let mut unpacked =
                    layer(&ingest, content, &budget, &options.limits, watch).map_err(failed)?;
                unpacked.2.blob = Some(descriptor.digest);
                (unpacked.1, Some(unpacked))
            };
            if actual != *diff_id {
                return Err(failed(LayerError::DiffId {
                    expected: *diff_id,
                    actual,
                }));
            }
            if unpacked.is_some() {
                progress(LoadEvent::LayerLoaded { id: *diff_id });
            }
            layers.extend(unpacked);
        }
    }

    let mut blobs: Vec<StagedBlob> = Vec::new();
    for (digest, content) in spool.take(&wanted) {
        if store.has_blob(&digest)? {
            continue;
        }
        blobs.push(match content {
            Content::Staged(blob) => blob,
            Content::Memory(bytes, _) => ingest.blob_of(&bytes)?,
        });
    }
    // What is referred to comes before what refers to it; a config names no blob.
    for found in &contents.images {
        if !store.has_blob(&found.manifest.config.digest)? {
            blobs.push(ingest.blob_of(&found.config_raw)?);
        }
    }
    for (digest, bytes) in &contents.documents {
        if !store.has_blob(digest)? {
            blobs.push(ingest.blob_of(bytes)?);
        }
    }
    ingest.commit(blobs, layers)?;

    let mut loaded = Vec::new();
    for found in contents.images {
        let layers = found.config.rootfs.diff_ids.clone();
        let size = size_of(store, &layers)?;
        loaded.push(Loaded {
            image: Pulled {
                reference: None,
                manifest_digest: found.manifest_digest,
                index_digest: (found.target != found.manifest_digest).then_some(found.target),
                config_digest: found.manifest.config.digest,
                config_raw: found.config_raw,
                config: found.config,
                layers,
                size,
            },
            target: found.target,
            names: found.names.into_iter().collect(),
            renamed: found.renamed.into_iter().collect(),
            made: found.made,
        });
    }
    Ok(loaded)
}

/// Unpacks one layer.
fn layer(
    ingest: &Ingest<'_>,
    content: &Content,
    budget: &Budget,
    limits: &Limits,
    watch: impl FnMut(u64) + Send,
) -> Result<(StagedLayer, Digest, LayerRecord), LayerError> {
    let settings = Unpack {
        ingest,
        kind: ApplyKind::Layer,
        limits,
        budget,
        size: Some(content.size()),
        keep: None,
    };
    let reader = content
        .reader()
        .map_err(|source| LayerError::Read { source })?;
    let mut reader = Watched::new(reader, watch);
    let ((), unpacked) = unpack(settings, |pipe| feed(&mut reader, pipe))?;
    Ok((unpacked.layer, unpacked.diff_id, unpacked.record))
}

/// The digest of a layer's uncompressed archive, which is read and nothing else.
fn plain_digest(content: &Content, budget: &Budget) -> Result<Digest, LayerError> {
    let failed = |source| LayerError::Decompress { source };
    let reader = content
        .reader()
        .map_err(|source| LayerError::Read { source })?;
    let reader = BufReader::with_capacity(256 << 10, reader);
    let mut decoder = Decoder::detect(reader)
        .map_err(failed)?
        .map_err(|name| LayerError::UnsupportedCompression { name })?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = fill(&mut decoder, &mut buffer).map_err(failed)?;
        budget.spend(count as u64, hasher.length(), Some(content.size()))?;
        hasher.update(&buffer[..count]);
        if count < buffer.len() {
            return Ok(hasher.finish());
        }
    }
}

/// Unpacks a layer's blob aside and throws it away; returns its DiffID and what
/// [`tree_digest`](super::tree_digest) says of its files. Two layers that it says the same of hold
/// the same files, with the same content, owners, modes, times and attributes.
///
/// # Errors
/// [`LayerError`].
pub fn unpacked_digest(store: &Store, blob: &Digest) -> Result<(Digest, Digest), LayerError> {
    let ingest = store.ingest()?;
    let budget = Budget::new(Expansion::default());
    let mut file = store.open_blob(blob)?;
    let settings = Unpack {
        ingest: &ingest,
        kind: ApplyKind::Layer,
        limits: &Limits::default(),
        budget: &budget,
        size: Some(store.blob_size(blob)?),
        keep: None,
    };
    let ((), unpacked) = unpack(settings, |pipe| feed(&mut file, pipe))?;
    let tree =
        super::tree_digest(unpacked.layer.directory()).map_err(|source| LayerError::Read {
            source: std::io::Error::other(source),
        })?;
    Ok((unpacked.diff_id, tree))
}

/// Passes all of `reader` on.
fn feed(reader: &mut impl Read, mut pipe: PipeWriter) -> Result<(), LayerError> {
    loop {
        let mut buffer = pipe.buffer()?;
        let count = fill(reader, &mut buffer).map_err(|source| LayerError::Read { source })?;
        let ended = count < buffer.len();
        pipe.send(buffer, count)?;
        if ended {
            break;
        }
    }
    Ok(pipe.finish()?)
}

pub(super) fn read_contents(spool: &Spool) -> Result<Contents, LoadError> {
    let mut contents = Contents::default();
    let archived = match spool.find("manifest.json") {
        Some(content) => {
            let bytes = document(content, "manifest.json")?;
            Some(
                parse_manifest_json(&bytes).map_err(|source| LoadError::Document {
                    name: "manifest.json".into(),
                    source,
                })?,
            )
        }
        None => None,
    };
    if let Some(content) = spool.find("index.json") {
        let bytes = document(content, "index.json")?;
        let parsed = Document::parse(&bytes, Some(media_type::INDEX)).map_err(|source| {
            LoadError::Document {
                name: "index.json".into(),
                source,
            }
        })?;
        let Document::Index(index) = parsed else {
            return Err(LoadError::NoImages);
        };
        for entry in &index.manifests {
            if let Some(name) = entry.annotations.get(REF_NAME) {
                contents.plain_names.insert(name.clone(), entry.digest);
            }
            let name = annotated_name(&entry.annotations);
            if let Some(name) = &name {
                contents.last.insert(name.clone(), entry.digest);
            }
            read_target(spool, entry, name.into_iter().collect(), &mut contents)?;
        }
        name_the_last(&mut contents);
        if let Some(archived) = archived {
            agree(spool, &archived, &mut contents)?;
        }
        return Ok(contents);
    }
    for image in archived.ok_or(LoadError::NoImages)? {
        read_archived(spool, image, &mut contents)?;
    }
    name_the_last(&mut contents);
    Ok(contents)
}

fn document(content: &Content, name: &str) -> Result<Vec<u8>, LoadError> {
    let bytes = content
        .document()
        .map_err(|source| LoadError::Archive(SpoolError::Read(source)))?;
    bytes.ok_or_else(|| LoadError::Document {
        name: name.into(),
        source: ModelError::TooLarge {
            document: "document",
            length: content.size(),
        },
    })
}

/// A document in its place in the layout.
fn named(
    spool: &Spool,
    digest: &Digest,
    budget: &mut DocumentBudget,
) -> Result<Vec<u8>, LoadError> {
    let name = super::spool::blob_path(digest);
    let content = spool
        .blob(digest)
        .ok_or_else(|| LoadError::Missing { name: name.clone() })?;
    budget.take(content.size())?;
    document(content, &name)
}

/// One entry of `index.json` and all that it leads to.
fn read_target(
    spool: &Spool,
    entry: &Descriptor,
    names: BTreeSet<Reference>,
    contents: &mut Contents,
) -> Result<(), LoadError> {
    let mut any = false;
    let read_before = !first_visit(&mut contents.targets, entry)?;
    if read_before {
        for known in &mut contents.images {
            if known.target == entry.digest {
                known.names.extend(names.iter().cloned());
                any = true;
            }
        }
    }
    let mut open = Vec::new();
    if !read_before {
        open.push((entry.clone(), 0));
    }
    let mut visited: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    while let Some((descriptor, depth)) = open.pop() {
        let path = super::spool::blob_path(&descriptor.digest);
        // An archive need not hold every platform of an index.
        if depth > 0 && !spool.has(&path) {
            continue;
        }
        if !first_visit(&mut visited, &descriptor)? {
            continue;
        }
        let bytes = named(spool, &descriptor.digest, &mut contents.budget)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(LoadError::Ambiguous {
                reason: format!("{path} has another size than its descriptor says"),
            });
        }
        let claimed = Some(descriptor.media_type.as_str()).filter(|text| !text.is_empty());
        let parsed = Document::parse(&bytes, claimed).map_err(|source| LoadError::Document {
            name: path.clone(),
            source,
        })?;
        match parsed {
            Document::Index(_) if depth == MOST_INDEXES => {
                return Err(LoadError::Ambiguous {
                    reason: "its indexes are nested too deeply".into(),
                });
            }
            Document::Index(Index { manifests, .. }) => {
                open.extend(manifests.into_iter().map(|entry| (entry, depth + 1)));
            }
            Document::Manifest(manifest) if !is_image(&manifest, &descriptor) => {
                // An attestation, or another artefact: kept as long as its index is.
                contents
                    .others
                    .extend(manifest.layers.iter().map(|layer| layer.digest));
                contents.others.insert(manifest.config.digest);
            }
            Document::Manifest(manifest) => {
                let found = found(
                    spool,
                    *manifest,
                    descriptor.digest,
                    entry.digest,
                    names.clone(),
                    &mut contents.budget,
                )?;
                any = true;
                add(contents, found);
            }
        }
        contents.documents.insert(descriptor.digest, bytes);
    }
    if any || names.is_empty() {
        Ok(())
    } else {
        Err(LoadError::Missing {
            name: "every image of a named index".into(),
        })
    }
}

/// Whether a document was not led to before. Descriptors of one have to make the same of it.
fn first_visit(
    visited: &mut BTreeMap<Digest, Descriptor>,
    descriptor: &Descriptor,
) -> Result<bool, LoadError> {
    let Some(known) = visited.get(&descriptor.digest) else {
        visited.insert(descriptor.digest, descriptor.clone());
        return Ok(true);
    };
    if known.media_type == descriptor.media_type
        && known.size == descriptor.size
        && known.is_attestation() == descriptor.is_attestation()
    {
        return Ok(false);
    }
    Err(LoadError::Ambiguous {
        reason: format!("it describes {} in two ways", descriptor.digest),
    })
}

fn is_image(manifest: &Manifest, descriptor: &Descriptor) -> bool {
    !descriptor.is_attestation()
        && matches!(
            manifest.config.media_type.as_str(),
            media_type::CONFIG | media_type::DOCKER_CONFIG | "application/octet-stream" | ""
        )
}

/// An image may be in `index.json` under several names.
fn add(contents: &mut Contents, found: Found) {
    let known = contents.images.iter_mut().find(|known| {
        known.manifest_digest == found.manifest_digest && known.target == found.target
    });
    match known {
        Some(known) => known.names.extend(found.names),
        None => contents.images.push(found),
    }
}

fn found(
    spool: &Spool,
    manifest: Manifest,
    manifest_digest: Digest,
    target: Digest,
    names: BTreeSet<Reference>,
    budget: &mut DocumentBudget,
) -> Result<Found, LoadError> {
    let config_raw = named(spool, &manifest.config.digest, budget)?;
    let config = checked_config(&config_raw, &manifest)?;
    Ok(Found {
        made: false,
        target,
        names,
        renamed: BTreeSet::new(),
        manifest_digest,
        manifest,
        config_raw,
        config,
    })
}

fn checked_config(raw: &[u8], manifest: &Manifest) -> Result<ImageConfig, LoadError> {
    let config = ImageConfig::parse(raw).map_err(|source| LoadError::Document {
        name: super::spool::blob_path(&manifest.config.digest),
        source,
    })?;
    check_layers(manifest.layers.len(), config.rootfs.diff_ids.len())?;
    Ok(config)
}

fn check_layers(layers: usize, diff_ids: usize) -> Result<(), LoadError> {
    if layers != diff_ids || layers > MOST_LAYERS {
        return Err(LoadError::Ambiguous {
            reason: format!(
                "an image has {layers} layers and {diff_ids} DiffIDs; at most {MOST_LAYERS} are allowed"
            ),
        });
    }
    Ok(())
}

/// One image of a docker-archive, which gets a manifest.
fn read_archived(
    spool: &Spool,
    image: super::layout::ArchivedImage,
    contents: &mut Contents,
) -> Result<(), LoadError> {
    let missing = |name: &str| LoadError::Missing { name: name.into() };
    let content = spool
        .find(&image.config)
        .ok_or_else(|| missing(&image.config))?;
    if promised_digest(&image.config).is_some_and(|promised| promised != content.digest()) {
        return Err(missing(&image.config));
    }
    // For the config and for the manifest that it gets.
    contents.budget.take(content.size())?;
    let config_raw = document(content, &image.config)?;
    let named = image.layers.as_ref().map_or(0, Vec::len);
    check_layers(named, named)?;
    let mut layers = Vec::new();
    for name in image.layers.iter().flatten() {
        let content = spool.find(name).ok_or_else(|| missing(name))?;
        if promised_digest(name).is_some_and(|promised| promised != content.digest()) {
            return Err(missing(name));
        }
        let mut start = [0; 6];
        let count = content
            .reader()
            .and_then(|mut reader| fill(&mut reader, &mut start))
            .map_err(|source| LoadError::Archive(SpoolError::Read(source)))?;
        let media_type = match detect(&start[..count]) {
            Compression::Gzip => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
            _ => media_type::LAYER,
        };
        layers.push(Descriptor::new(
            media_type,
            content.digest(),
            content.size(),
        ));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::of(media_type::CONFIG, &config_raw),
        layers,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    let config = checked_config(&config_raw, &manifest)?;
    let bytes = serde_json::to_vec(&manifest).map_err(|source| LoadError::Document {
        name: "the manifest made".into(),
        source: ModelError::Malformed {
            document: "image manifest",
            source,
        },
    })?;
    let digest = Digest::of(&bytes);
    contents.budget.take(bytes.len() as u64)?;
    contents.documents.insert(digest, bytes);
    let names = image.repo_tags.iter().flatten();
    let names: BTreeSet<Reference> = names.filter_map(|name| tagged(name)).collect();
    let last = names.iter().map(|name| (name.clone(), digest));
    contents.last.extend(last);
    add(
        contents,
        Found {
            made: true,
            target: digest,
            names,
            renamed: BTreeSet::new(),
            manifest_digest: digest,
            manifest,
            config_raw,
            config,
        },
    );
    Ok(())
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
