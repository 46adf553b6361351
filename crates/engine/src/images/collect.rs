//! Removing what no image has.
//!
//! Nothing is removed while anybody holds the content store ([`ContentStore::keep`]): what a
//! pull, a load or a build counts on is not on record yet. A run needs no such lock: its
//! container's row goes in only while the image's row is there, and an image's row goes only
//! while no container's is (`store/container.rs`).

use std::collections::BTreeSet;

use gantry_image::digest::Digest;
use gantry_image::model::{DOCUMENT_LIMIT, Document, ImageConfig, media_type};
use gantry_image::store::{Store as ContentStore, StoreError};

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
        // Manifests and indexes that a row names.
        let mut documents = BTreeSet::new();
        let mut unsure = false;
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
            match row.id.parse::<Digest>() {
                Ok(id) => _ = kept_blobs.insert(id),
                Err(_) => unsure = true,
            }
        }
        // What was packed for a push is packed for the next one as well.
        let packed = made
            .iter()
            .filter(|(manifest, _)| images.iter().any(|row| row.manifest == *manifest))
            .map(|(_, packed)| packed);
        let named = images
            .iter()
            .map(|row| &row.manifest)
            .chain(tags.iter().map(|tag| &tag.digest))
            .chain(facts.iter().map(|fact| &fact.target))
            .chain(variants.iter().map(|(target, _)| target))
            .chain(packed);
        for digest in named.filter(|digest| !digest.is_empty()) {
            match digest.parse::<Digest>() {
                Ok(digest) => _ = documents.insert(digest),
                Err(_) => unsure = true,
            }
        }
        let configs = kept_blobs.clone();
        unsure |= !keep_referred(&content, &documents, &configs, &mut kept_blobs);
        let mut freed = 0;
        if !damaged {
            for layer in content.list_layers().map_err(content_error)? {
                // Of one that a power cut has damaged nothing is of use.
                if !kept_layers.contains(&layer)
                    || !content.has_layer(&layer).map_err(content_error)?
                {
                    let record = content.layer_record(&layer).ok().flatten();
                    content.remove_layer(&layer).map_err(content_error)?;
                    freed += record.map_or(0, |record| record.bytes);
                }
            }
        }
        if unsure {
            return Ok(freed);
        }
        let mut unused = content.list_blobs().map_err(content_error)?;
        unused.retain(|blob| !kept_blobs.contains(blob));
        content.sync_layers_of(&unused).map_err(content_error)?;
        for blob in unused {
            let size = content.blob_size(&blob).unwrap_or_default();
            content.remove_blob(&blob).map_err(content_error)?;
            freed += size;
        }
        Ok(freed)
    }
}

/// Adds `documents` and the blobs that they refer to; false if what one of them refers to is
/// not known. An index keeps attestations and the like, and images whose config is one of
/// `configs`: those for platforms that were removed are not on record any more.
fn keep_referred(
    content: &ContentStore,
    documents: &BTreeSet<Digest>,
    configs: &BTreeSet<Digest>,
    blobs: &mut BTreeSet<Digest>,
) -> bool {
    let mut open: Vec<(Digest, bool)> = documents.iter().map(|digest| (*digest, false)).collect();
    let mut seen = documents.clone();
    while let Some((digest, by_index)) = open.pop() {
        let bytes = match content.read_blob(&digest, DOCUMENT_LIMIT) {
            Ok(bytes) => bytes,
            // What is not here refers to nothing that this store would have to keep, and
            // nothing of that size was ever taken for a document.
            Err(StoreError::BlobMissing { .. } | StoreError::BlobTooLarge { .. }) => {
                blobs.insert(digest);
                continue;
            }
            // Out of file descriptors, a bad disk, damage: it may refer to anything.
            Err(_) => return false,
        };
        let parsed = Document::parse(&bytes, None);
        if by_index
            && let Ok(Document::Manifest(manifest)) = &parsed
            && matches!(
                manifest.config.media_type.as_str(),
                media_type::CONFIG | media_type::DOCKER_CONFIG
            )
            && !configs.contains(&manifest.config.digest)
        {
            continue;
        }
        blobs.insert(digest);
        match parsed {
            Ok(Document::Manifest(manifest)) => {
                let parts = manifest.layers.into_iter().chain([manifest.config]);
                blobs.extend(parts.map(|part| part.digest));
            }
            Ok(Document::Index(index)) => {
                let new = index
                    .manifests
                    .iter()
                    .filter(|entry| seen.insert(entry.digest));
                open.extend(new.map(|entry| (entry.digest, !entry.is_attestation())));
            }
            Err(_) if documents.contains(&digest) => return false,
            // An index may list what is no image.
            Err(_) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A content store of its own; it goes with its value.
    struct Scratch(ContentStore);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let directory =
                std::env::temp_dir().join(format!("gantry-collect-{name}-{}", std::process::id()));
            Scratch(ContentStore::open(&directory).unwrap())
        }

        fn add(&self, bytes: &[u8]) -> Digest {
            let ingest = self.0.ingest().unwrap();
            let blob = ingest.blob_of(bytes).unwrap();
            ingest.commit(vec![blob], Vec::new()).unwrap();
            Digest::of(bytes)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.root());
        }
    }

    /// What an index has for a platform that is not on record goes; attestations and artefacts,
    /// which never are, stay, and so does what a row names itself.
    #[test]
    fn an_index_keeps_the_images_on_record_only() {
        let here = Scratch::new("platforms");
        let mut manifests = Vec::new();
        let mut entries = Vec::new();
        for (name, kind, note) in [
            ("kept", media_type::CONFIG, ""),
            ("removed", media_type::DOCKER_CONFIG, ""),
            ("artefact", "application/x", ""),
            (
                "attestation",
                media_type::CONFIG,
                r#""vnd.docker.reference.type":"attestation-manifest""#,
            ),
        ] {
            let (config, layer) = (
                here.add(name.as_bytes()),
                here.add(&[name.as_bytes(), b"!"].concat()),
            );
            let bytes = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{kind}","digest":"{config}","size":4}},
                "layers":[{{"mediaType":"l","digest":"{layer}","size":5}}]}}"#
            );
            let manifest = here.add(bytes.as_bytes());
            entries.push(format!(
                r#"{{"mediaType":"{}","digest":"{manifest}","size":{},"annotations":{{{note}}}}}"#,
                media_type::MANIFEST,
                bytes.len()
            ));
            manifests.push([manifest, config, layer]);
        }
        let index = here.add(
            format!(
                r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                entries.join(",")
            )
            .as_bytes(),
        );
        let configs = BTreeSet::from([manifests[0][1]]);
        for (named, kept) in [
            (vec![index], [true, false, true, true]),
            (vec![index, manifests[1][0]], [true; 4]),
        ] {
            let named = named.into_iter().collect();
            let mut blobs = BTreeSet::new();
            assert!(keep_referred(&here.0, &named, &configs, &mut blobs));
            let found: Vec<bool> = manifests
                .iter()
                .map(|parts| parts.iter().all(|part| blobs.contains(part)))
                .collect();
            assert_eq!(found, kept);
            let any = manifests[1].iter().any(|part| blobs.contains(part));
            assert_eq!(any, kept[1]);
        }
    }

    #[test]
    fn a_document_that_cannot_be_read_may_refer_to_anything() {
        let here = Scratch::new("unreadable");
        let layer = here.add(b"layer");
        let config = here.add(b"{}");
        let manifest = here.add(
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},
                "layers":[{{"mediaType":"l","digest":"{layer}","size":5}}]}}"#
            )
            .as_bytes(),
        );
        let other = here.add(br#"{"mediaType":"text/x"}"#);
        let index = here.add(
            format!(
                r#"{{"schemaVersion":2,"manifests":[
                {{"mediaType":"m","digest":"{manifest}","size":9}},
                {{"mediaType":"m","digest":"{other}","size":9}},
                {{"mediaType":"m","digest":"{}","size":9}}]}}"#,
                Digest::of(b"of another platform")
            )
            .as_bytes(),
        );
        let referred = |named: &[Digest]| {
            let mut blobs = BTreeSet::new();
            let named = named.iter().copied().collect();
            let sure = keep_referred(&here.0, &named, &BTreeSet::new(), &mut blobs);
            (sure, blobs)
        };
        let (sure, blobs) = referred(&[index]);
        assert!(sure);
        for blob in [layer, config, manifest, other, index] {
            assert!(blobs.contains(&blob));
        }
        assert!(referred(&[Digest::of(b"not here")]).0);
        assert!(!referred(&[index, other]).0, "a row names it");
        let path = here.0.blob_path(&manifest);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"damaged").unwrap();
        assert!(!referred(&[index]).0, "another digest");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("loop", &path).unwrap();
        assert!(!referred(&[index]).0, "an error of the file system");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, whole).unwrap();
        assert!(referred(&[index]).0);
    }
}
