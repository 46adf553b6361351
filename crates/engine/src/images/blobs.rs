//! Blobs that are not here: made of the unpacked layer, or fetched again from where the image
//! came from, always with the digest that the manifest names; and dropping those that can be
//! had again.

use std::collections::{BTreeMap, BTreeSet};

use gantry_image::archive::{PackError, Packing, pack_blob, pack_layer};
use gantry_image::digest::Digest;
use gantry_image::model::{Descriptor, Document, media_type};
use gantry_image::reference::Reference;
use gantry_image::registry::{Client, ClientOptions};
use gantry_image::store::{Store as ContentStore, StoreError};

use super::{ImageError, content_error, manifest_of, parse_config};
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, NewImages};

/// How to get at blobs that are elsewhere, and how new ones are compressed.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) client: ClientOptions,
    pub(super) packing: Packing,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            client: ClientOptions {
                credentials: super::push::environment_credentials(),
                ..ClientOptions::default()
            },
            packing: Packing::Plain,
        }
    }
}

/// A manifest all blobs of which are here.
fn complete(content: &ContentStore, manifest: &str) -> Option<Digest> {
    let digest: Digest = manifest.parse().ok()?;
    let bytes = content
        .read_blob(&digest, gantry_image::model::DOCUMENT_LIMIT)
        .ok()?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else {
        return None;
    };
    let whole = manifest
        .layers
        .iter()
        .chain([&manifest.config])
        .all(|part| content.has_blob(&part.digest).unwrap_or(false));
    whole.then_some(digest)
}

impl Engine {
    /// Sees to it that every blob of an image is here; returns the digest of a manifest that
    /// names them. That is the image's own, unless a layer never had the blob that it names:
    /// then the manifest is made anew, with the same config.
    pub(super) fn with_blobs(
        &self,
        content: &ContentStore,
        row: &ImageRow,
        fetch: Option<&Fetch>,
    ) -> Result<Digest, Error> {
        let (digest, mut manifest) = manifest_of(content, row)?;
        // A manifest that came from elsewhere is never changed: it would get another digest.
        let made = self.store()?.made_manifest(&row.manifest)?;
        let packing = match (&made, fetch) {
            (Some(_), Some(fetch)) => fetch.packing,
            _ => Packing::Plain,
        };
        if let (Some(packed), true) = (&made, packing != Packing::Plain)
            && let Some(packed) = complete(content, packed)
        {
            return Ok(packed);
        }
        let diff_ids = parse_config(row)?.rootfs.diff_ids;
        let mut staged = Vec::new();
        let mut packed_layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut is_changed = false;
        let ingest = content.ingest().map_err(content_error)?;
        for (layer, diff_id) in manifest.layers.iter_mut().zip(&diff_ids) {
            if let Some(known) = packed_layers.get(diff_id) {
                is_changed |= known.digest != layer.digest;
                *layer = known.clone();
                continue;
            }
            let here = content.has_blob(&layer.digest).map_err(content_error)?;
            let is_plain = layer.digest == *diff_id;
            if here && !(is_plain && packing != Packing::Plain) {
                continue;
            }
            let packed = if here {
                pack_blob(content, &ingest, &layer.digest, packing)
            } else {
                if self.fetch_blob(content, layer, fetch)? {
                    continue;
                }
                pack_layer(content, &ingest, diff_id, packing)
            };
            let no_blob = |source| ImageError::NoBlob {
                image: row.id.clone(),
                layer: layer.digest.to_string(),
                source: Box::new(source),
            };
            let packed = packed.map_err(no_blob)?;
            let new = Descriptor::new(
                packed.packing.media_type(),
                packed.blob.digest(),
                packed.blob.size(),
            );
            if new.digest != layer.digest && made.is_none() {
                return Err(no_blob(PackError::Different {
                    diff_id: *diff_id,
                    actual: new.digest,
                })
                .into());
            }
            if !content.has_blob(&new.digest).map_err(content_error)? {
                staged.push(packed.blob);
            }
            is_changed |= new.digest != layer.digest;
            *layer = new.clone();
            packed_layers.insert(*diff_id, new);
        }
        let mut result = digest;
        if is_changed {
            manifest.media_type = Some(media_type::MANIFEST.into());
            let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Record {
                id: row.id.clone(),
                source,
            })?;
            result = Digest::of(&bytes);
            staged.push(ingest.blob_of(&bytes).map_err(content_error)?);
        }
        ingest.commit(staged, Vec::new()).map_err(content_error)?;
        if result != digest {
            self.store()?.put_images(&NewImages {
                made: &[(row.manifest.clone(), result.to_string())],
                ..NewImages::default()
            })?;
        }
        Ok(result)
    }

    /// Fetches a blob from a repository that it came from; whether one had it.
    fn fetch_blob(
        &self,
        content: &ContentStore,
        blob: &Descriptor,
        fetch: Option<&Fetch>,
    ) -> Result<bool, Error> {
        let own = Fetch::default();
        let options = &fetch.unwrap_or(&own).client;
        for source in self.store()?.blob_sources(&blob.digest.to_string())? {
            let Ok(reference) = Reference::parse(&source) else {
                continue;
            };
            let Ok(client) = Client::new(reference.registry(), options) else {
                continue;
            };
            let Ok(mut reader) = client.blob(reference.repository(), &blob.digest, blob.size)
            else {
                continue;
            };
            let ingest = content.ingest().map_err(content_error)?;
            let mut writer = ingest.blob().map_err(content_error)?;
            if std::io::copy(&mut reader, &mut writer).is_err() {
                continue;
            }
            if let Ok(staged) = writer.finish_verified(&blob.digest, blob.size) {
                ingest
                    .commit(vec![staged], Vec::new())
                    .map_err(content_error)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops the compressed layers of an image that can be had again from a registry. Those of
    /// images that were loaded or made here stay: nothing else has them. The caller has claimed
    /// the content store.
    pub(super) fn drop_blobs(
        &self,
        content: &ContentStore,
        manifest: &Digest,
    ) -> Result<u64, Error> {
        let bytes = match content.read_blob(manifest, gantry_image::model::DOCUMENT_LIMIT) {
            Ok(bytes) => bytes,
            // Somebody has just removed the image.
            Err(StoreError::BlobMissing { .. }) => return Ok(0),
            Err(error) => return Err(content_error(error)),
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else {
            return Ok(0);
        };
        let Some(needed) = self.blobs_of_unpublished(content)? else {
            return Ok(0);
        };
        let mut dropped: Vec<&Descriptor> = Vec::new();
        for layer in &manifest.layers {
            let sources = self.store()?.blob_sources(&layer.digest.to_string())?;
            if !sources.is_empty()
                && !needed.contains(&layer.digest)
                && !dropped.iter().any(|known| known.digest == layer.digest)
                && content.has_blob(&layer.digest).map_err(content_error)?
            {
                dropped.push(layer);
            }
        }
        let digests: Vec<Digest> = dropped.iter().map(|layer| layer.digest).collect();
        content.sync_layers_of(&digests).map_err(content_error)?;
        let mut freed = 0;
        for layer in dropped {
            content.remove_blob(&layer.digest).map_err(content_error)?;
            freed += layer.size;
        }
        Ok(freed)
    }

    /// Layers of images that no registry is known to have: who loaded one counts on what is
    /// here, whether or not a repository of somebody else has a layer of it, too. Nothing if
    /// that cannot be told.
    fn blobs_of_unpublished(
        &self,
        content: &ContentStore,
    ) -> Result<Option<BTreeSet<Digest>>, Error> {
        let mut needed = BTreeSet::new();
        let rows = self.store()?.images()?;
        for row in rows {
            // A pull and a push note where the configuration is. And what was made here can be
            // packed again: its manifest may change.
            let store = self.store()?;
            if !store.blob_sources(&row.id)?.is_empty()
                || store.made_manifest(&row.manifest)?.is_some()
            {
                continue;
            }
            drop(store);
            match manifest_of(content, &row) {
                Ok((_, manifest)) => {
                    needed.extend(manifest.layers.iter().map(|layer| layer.digest));
                }
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(needed))
    }
}
