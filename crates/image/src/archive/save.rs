//! Writing images as an archive that is an OCI layout and a docker-archive at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::layout::{ArchivedImage, IMAGE_NAME, REF_NAME};
use super::spool::blob_path;
use super::writer::TarWriter;
use crate::digest::Digest;
use crate::model::{DOCUMENT_LIMIT, Descriptor, Document, Index, Manifest, ModelError, media_type};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Why images cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store failed, or lacks a blob.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document in the store cannot be used.
    #[error("{digest} cannot be used")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// A document could not be made.
    #[error("cannot write the {document}")]
    Encode {
        /// Which one.
        document: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// An image to be written.
#[derive(Debug, Clone)]
pub struct SavedImage {
    /// What its names stand for: a manifest or an index.
    pub target: Digest,
    /// Its manifest, all blobs of which have to be in the store.
    pub manifest: Digest,
    /// Names with tags.
    pub names: Vec<Reference>,
    /// What the OCI layout calls it if it has no name.
    pub tag: Option<String>,
}

/// Writes images. The archive depends on nothing but them and the order they are given in.
///
/// # Errors
/// [`SaveError`]. A part of the archive is written then.
pub fn save<W: Write>(store: &Store, images: &[SavedImage], output: W) -> Result<W, SaveError> {
    let mut blobs = BTreeSet::new();
    let mut entries = Vec::new();
    let mut archived: Vec<ArchivedImage> = Vec::new();
    for image in images {
        blobs.extend(reachable(store, &image.target)?);
        let manifest = manifest(store, &image.manifest)?;
        blobs.insert(image.manifest);
        // These must be there, whatever else the index names.
        blobs.insert(manifest.config.digest);
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        entries.extend(descriptors(store, image)?);
        let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
        let config = blob_path(&manifest.config.digest);
        match archived.iter_mut().find(|known| known.config == config) {
            Some(known) => known.repo_tags.get_or_insert_default().extend(names),
            None => archived.push(ArchivedImage {
                config,
                repo_tags: (!names.is_empty()).then_some(names),
                layers: Some(
                    manifest
                        .layers
                        .iter()
                        .map(|layer| blob_path(&layer.digest))
                        .collect(),
                ),
                extra: BTreeMap::new(),
            }),
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        manifests: entries,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    };
    let encode = |document, source| SaveError::Encode { document, source };
    let index = serde_json::to_vec(&index).map_err(|source| encode("image index", source))?;
    let archived =
        serde_json::to_vec(&archived).map_err(|source| encode("list of images", source))?;
    let mut writer = TarWriter::new(output);
    let failed = SaveError::Write;
    writer.directory("blobs/").map_err(failed)?;
    writer.directory("blobs/sha256/").map_err(failed)?;
    for digest in &blobs {
        let mut blob = store.open_blob(digest)?;
        let size = store.blob_size(digest)?;
        writer.file(&blob_path(digest), size).map_err(failed)?;
        io::copy(&mut blob, &mut writer).map_err(failed)?;
    }
    writer.document("index.json", &index).map_err(failed)?;
    writer
        .document("manifest.json", &archived)
        .map_err(failed)?;
    writer
        .document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .map_err(failed)?;
    writer.finish().map_err(failed)
}

/// The entries of `index.json` for one image: one for each name, or one without.
fn descriptors(store: &Store, image: &SavedImage) -> Result<Vec<Descriptor>, SaveError> {
    let bytes = store.read_blob(&image.target, DOCUMENT_LIMIT)?;
    let parsed = parse(&image.target, &bytes)?;
    let media_type = match &parsed {
        Document::Manifest(manifest) => manifest
            .media_type
            .as_deref()
            .unwrap_or(media_type::MANIFEST),
        Document::Index(index) => index.media_type.as_deref().unwrap_or(media_type::INDEX),
    };
    let plain = Descriptor::of(media_type, &bytes);
    if image.names.is_empty() {
        let mut entry = plain;
        if let Some(tag) = &image.tag {
            entry.annotations.insert(REF_NAME.to_owned(), tag.clone());
        }
        return Ok(vec![entry]);
    }
    Ok(image
        .names
        .iter()
        .map(|name| {
            let mut entry = plain.clone();
            entry.annotations = BTreeMap::from([
                (IMAGE_NAME.to_owned(), name.to_string()),
                (
                    REF_NAME.to_owned(),
                    name.tag().unwrap_or_default().to_owned(),
                ),
            ]);
            entry
        })
        .collect())
}

/// Every blob that `target` leads to and that is in the store, itself included.
///
/// # Errors
/// [`SaveError`].
pub fn reachable(store: &Store, target: &Digest) -> Result<BTreeSet<Digest>, SaveError> {
    let mut blobs = BTreeSet::new();
    let mut open = vec![*target];
    while let Some(digest) = open.pop() {
        if !store.has_blob(&digest)? || !blobs.insert(digest) {
            continue;
        }
        match parse(&digest, &store.read_blob(&digest, DOCUMENT_LIMIT)?)? {
            Document::Index(index) => open.extend(index.manifests.iter().map(|entry| entry.digest)),
            Document::Manifest(manifest) => {
                for part in manifest.layers.iter().chain([&manifest.config]) {
                    if store.has_blob(&part.digest)? {
                        blobs.insert(part.digest);
                    }
                }
            }
        }
    }
    Ok(blobs)
}

fn manifest(store: &Store, digest: &Digest) -> Result<Manifest, SaveError> {
    match parse(digest, &store.read_blob(digest, DOCUMENT_LIMIT)?)? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(SaveError::Document {
            digest: *digest,
            source: ModelError::NotAnImage {
                media_type: media_type::INDEX.to_owned(),
                hint: "expected an image manifest",
            },
        }),
    }
}

fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, SaveError> {
    Document::parse(bytes, None).map_err(|source| SaveError::Document {
        digest: *digest,
        source,
    })
}
