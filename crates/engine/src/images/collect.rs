//! Removing what no image has.
//!
//! Nothing is removed while anybody holds the content store ([`ContentStore::keep`]): what a
//! pull, a load or a build counts on is not on record yet. A run needs no such lock: its
//! container's row goes in only while the image's row is there, and an image's row goes only
//! while no container's is (`store/container.rs`).

use std::collections::BTreeSet;

use gantry_image::digest::Digest;
use gantry_image::model::{DOCUMENT_LIMIT, Document, ImageConfig};
use gantry_image::store::Store as ContentStore;

use super::content_error;
use crate::Engine;
use crate::error::Error;

impl Engine {
    /// Removes the layers and blobs that no image has; returns the bytes that were freed.
    ///
    /// While anybody holds the store nothing is; the next removal catches up.
    pub(super) fn remove_unused_content(&self) -> Result<u64, Error> {
        let content = self.content()?;
        let Some(_claim) = content.claim().map_err(content_error)? else {
            return Ok(0);
        };
        let mut kept_layers = BTreeSet::new();
        let mut kept_blobs = BTreeSet::new();
        let mut damaged = false;
        let (images, tags, facts, variants, made) = {
            let store = self.store()?;
            (
                store.images()?,
                store.tags()?,
                store.tag_facts()?,
                store.variants()?,
                store.made_manifests()?,
            )
        };
        for row in &images {
            match ImageConfig::parse(&row.config) {
                Ok(config) => kept_layers.extend(config.rootfs.diff_ids),
                // Nobody knows which layers are its own.
                Err(_) => damaged = true,
            }
            kept_blobs.extend(row.id.parse::<Digest>());
            kept_blobs.extend(row.manifest.parse::<Digest>());
        }
        let targets = tags
            .iter()
            .map(|tag| &tag.digest)
            .chain(facts.iter().map(|fact| &fact.target))
            .chain(variants.iter().map(|(target, _)| target));
        kept_blobs.extend(targets.filter_map(|digest| digest.parse::<Digest>().ok()));
        // What was packed for a push is packed for the next one as well.
        for (manifest, pushed) in &made {
            if images.iter().any(|row| row.manifest == *manifest) {
                kept_blobs.extend(pushed.parse::<Digest>());
            }
        }
        keep_referred(&content, &mut kept_blobs);
        let mut freed = 0;
        if !damaged {
            for layer in content.list_layers().map_err(content_error)? {
                if !kept_layers.contains(&layer) {
                    let record = content.layer_record(&layer).ok().flatten();
                    content.remove_layer(&layer).map_err(content_error)?;
                    freed += record.map_or(0, |record| record.bytes);
                }
            }
        }
        for blob in content.list_blobs().map_err(content_error)? {
            if !kept_blobs.contains(&blob) {
                let size = content.blob_size(&blob).unwrap_or_default();
                content.remove_blob(&blob).map_err(content_error)?;
                freed += size;
            }
        }
        Ok(freed)
    }
}

/// Adds the blobs that manifests and indexes among `blobs` refer to.
fn keep_referred(content: &ContentStore, blobs: &mut BTreeSet<Digest>) {
    let mut open: Vec<Digest> = blobs.iter().copied().collect();
    while let Some(digest) = open.pop() {
        // What is not there, or is no document but a configuration, refers to nothing.
        let Ok(bytes) = content.read_blob(&digest, DOCUMENT_LIMIT) else {
            continue;
        };
        let referred: Vec<Digest> = match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest
                .layers
                .into_iter()
                .chain([manifest.config])
                .map(|part| part.digest)
                .collect(),
            Ok(Document::Index(index)) => {
                let entries = index.manifests.into_iter().map(|entry| entry.digest);
                let new: Vec<Digest> = entries.filter(|entry| !blobs.contains(entry)).collect();
                open.extend(&new);
                new
            }
            Err(_) => continue,
        };
        blobs.extend(referred);
    }
}
