//! What a push consists of: the manifests of an image and the blobs that they need.

use std::collections::BTreeMap;

use super::{Platforms, PushError};
use crate::digest::Digest;
use crate::model::{DOCUMENT_LIMIT, Descriptor, Document, LayerKind, layer_kind, media_type};
use crate::store::{Store, StoreError};

/// Indexes within indexes that are followed.
pub(super) const MOST_INDEXES: usize = 3;

/// A manifest or an index.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
    /// What it needs besides other manifests; none for an index.
    pub(super) blobs: Vec<Needed>,
}

/// A blob that a manifest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) is_layer: bool,
}

/// Everything that is pushed.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is referred to comes before what refers to it; the last is what is asked for.
    pub(super) documents: Vec<Planned>,
}

impl Plan {
    pub(super) fn make(
        store: &Store,
        platforms: Platforms,
        reference: &str,
        target: &Digest,
    ) -> Result<Self, PushError> {
        let maker = Maker { store, reference };
        let bytes = store.read_blob(target, DOCUMENT_LIMIT)?;
        let document = maker.parse(target, &bytes, None)?;
        let Document::Index(index) = document else {
            return maker.whole(target, bytes, &document);
        };
        if platforms == Platforms::All {
            let document = Document::Index(index);
            return maker.whole(target, bytes, &document);
        }
        let mut present = Vec::new();
        let mut all_missing = Vec::new();
        for entry in &index.manifests {
            let mut documents = Vec::new();
            let mut missing = Vec::new();
            maker.add_entry(entry, &mut documents, &mut missing, 1)?;
            if missing.is_empty() {
                present.push((entry, documents));
            } else {
                all_missing.extend(missing);
            }
        }
        if all_missing.is_empty() {
            let document = Document::Index(index);
            return maker.whole(target, bytes, &document);
        }
        let is_image = |entry: &Descriptor| !entry.is_attestation();
        let images = present.iter().filter(|(entry, _)| is_image(entry)).count();
        match images {
            0 => maker.finish(Vec::new(), all_missing),
            1 => {
                let chosen = present.into_iter().find(|(entry, _)| is_image(entry));
                maker.finish(chosen.map(|(_, list)| list).unwrap_or_default(), Vec::new())
            }
            _ => Err(PushError::Incomplete {
                reference: reference.to_owned(),
                present: present
                    .iter()
                    .filter(|(entry, _)| is_image(entry))
                    .map(|(entry, _)| platform_of(entry))
                    .collect(),
            }),
        }
    }

    /// What is asked for.
    pub(super) fn root(&self) -> &Planned {
        self.documents
            .last()
            .expect("a plan without documents is an error when it is made")
    }

    /// Every blob once, the largest first: a large one that begins last would be waited for alone.
    pub(super) fn blobs(&self, wanted: impl Fn(&Planned) -> bool) -> Vec<Needed> {
        let mut found: BTreeMap<Digest, Needed> = BTreeMap::new();
        for document in self.documents.iter().filter(|document| wanted(document)) {
            for blob in &document.blobs {
                found.entry(blob.digest).or_insert_with(|| blob.clone());
            }
        }
        let mut found: Vec<Needed> = found.into_values().collect();
        found.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        found
    }
}

struct Maker<'a> {
    store: &'a Store,
    reference: &'a str,
}

impl Maker<'_> {
    fn parse(
        &self,
        digest: &Digest,
        bytes: &[u8],
        content_type: Option<&str>,
    ) -> Result<Document, PushError> {
        Document::parse(bytes, content_type).map_err(|source| PushError::Document {
            reference: self.reference.to_owned(),
            digest: *digest,
            source,
        })
    }

    /// A document with all that it needs, and nothing else.
    fn whole(
        &self,
        target: &Digest,
        bytes: Vec<u8>,
        document: &Document,
    ) -> Result<Plan, PushError> {
        let (mut documents, mut missing) = (Vec::new(), Vec::new());
        self.add(target, bytes, document, "", &mut documents, &mut missing, 0)?;
        self.finish(documents, missing)
    }

    fn finish(&self, documents: Vec<Planned>, missing: Vec<String>) -> Result<Plan, PushError> {
        if missing.is_empty() && !documents.is_empty() {
            return Ok(Plan { documents });
        }
        Err(PushError::Missing {
            reference: self.reference.to_owned(),
            missing,
        })
    }

    /// Adds an entry of an index with all that it needs.
    fn add_entry(
        &self,
        entry: &Descriptor,
        documents: &mut Vec<Planned>,
        missing: &mut Vec<String>,
        depth: usize,
    ) -> Result<(), PushError> {
        let what = platform_of(entry);
        if documents.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        let bytes = match self.store.read_blob(&entry.digest, DOCUMENT_LIMIT) {
            Ok(bytes) => bytes,
            Err(StoreError::BlobMissing { digest }) => {
                missing.push(format!("{digest} (manifest of {what})"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let document = self.parse(&entry.digest, &bytes, Some(&entry.media_type))?;
        self.add(
            &entry.digest,
            bytes,
            &document,
            &what,
            documents,
            missing,
            depth,
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the state of one recursion, with no life of its own"
    )]
    fn add(
        &self,
        digest: &Digest,
        bytes: Vec<u8>,
        document: &Document,
        what: &str,
        documents: &mut Vec<Planned>,
        missing: &mut Vec<String>,
        depth: usize,
    ) -> Result<(), PushError> {
        let (media_type, blobs) = match document {
            Document::Index(index) => {
                if depth > MOST_INDEXES {
                    return Err(PushError::TooManyIndexes {
                        reference: self.reference.to_owned(),
                    });
                }
                for entry in &index.manifests {
                    self.add_entry(entry, documents, missing, depth + 1)?;
                }
                let media_type = index.media_type.as_deref().unwrap_or(media_type::INDEX);
                (media_type.to_owned(), Vec::new())
            }
            Document::Manifest(manifest) => {
                let of = if what.is_empty() {
                    String::new()
                } else {
                    format!(" of {what}")
                };
                let mut blobs = Vec::new();
                let config = std::iter::once((&manifest.config, "config".to_owned(), false));
                let layers = (1..).zip(&manifest.layers).map(|(number, layer)| {
                    let name = format!("layer {number}");
                    (layer, name, true)
                });
                for (descriptor, name, is_layer) in config.chain(layers) {
                    // Whoever may not hand a layer on does not push it.
                    let withheld = is_layer
                        && layer_kind(&descriptor.media_type) == Some(LayerKind::Nondistributable);
                    if withheld {
                        continue;
                    }
                    match self.store.blob_size(&descriptor.digest) {
                        Ok(size) if size == descriptor.size => blobs.push(Needed {
                            digest: descriptor.digest,
                            size,
                            is_layer,
                        }),
                        Ok(actual) => {
                            return Err(StoreError::SizeMismatch {
                                digest: descriptor.digest,
                                expected: descriptor.size,
                                actual,
                            }
                            .into());
                        }
                        Err(StoreError::BlobMissing { digest }) => {
                            missing.push(format!("{digest} ({name}{of})"));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                let docker = manifest.config.media_type == media_type::DOCKER_CONFIG;
                let default = if docker {
                    media_type::DOCKER_MANIFEST
                } else {
                    media_type::MANIFEST
                };
                let media_type = manifest.media_type.as_deref().unwrap_or(default);
                (media_type.to_owned(), blobs)
            }
        };
        documents.push(Planned {
            digest: *digest,
            media_type,
            bytes,
            blobs,
        });
        Ok(())
    }
}

fn platform_of(entry: &Descriptor) -> String {
    entry
        .platform
        .as_ref()
        .map_or_else(|| entry.digest.short(), ToString::to_string)
}
