//! Checking what is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::AsFd;

use gantry_image::archive::{tree_digest, unpacked_digest};
use gantry_image::digest::{Digest, Hasher};
use gantry_image::model::ImageConfig;
use gantry_image::store::{Store as ContentStore, StoreError};

use super::{content_error, familiar_repository};
use crate::Engine;
use crate::error::Error;
use crate::store::ImageRow;

/// What a check has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// Images that were checked.
    pub images: u64,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Layers that were looked at.
    pub layers: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// What is damaged, in words: which object, of which images, and how.
    pub damaged: Vec<String>,
}

impl Engine {
    /// Checks images, all of them if none is named: every blob against its digest, every
    /// unpacked layer against its record, and with `deep` every file of layers whose archive
    /// can be made again against the DiffID. What is damaged does not stop the rest.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] of what is named, and where nothing can be checked at all.
    pub fn verify_images(&self, names: &[String], deep: bool) -> Result<Verified, Error> {
        let content = self.content()?;
        let _kept = content.keep().map_err(content_error)?;
        let rows: Vec<ImageRow> = if names.is_empty() {
            self.store()?.images()?
        } else {
            names
                .iter()
                .map(|name| self.find_image(name))
                .collect::<Result<_, _>>()?
        };
        let mut report = Verified::default();
        // What belongs to several images is checked once and named with all of them.
        let mut blobs: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let mut layers: BTreeMap<Digest, LayerUse> = BTreeMap::new();
        for row in &rows {
            report.images += 1;
            let label = self.label_of(row)?;
            self.parts_of(&content, row, &label, &mut blobs, &mut layers, &mut report);
        }
        if names.is_empty() {
            for blob in content.list_blobs().map_err(content_error)? {
                blobs.entry(blob).or_default();
            }
            for layer in content.list_layers().map_err(content_error)? {
                layers.entry(layer).or_default();
            }
        }
        for (blob, of) in &blobs {
            match hash_blob(&content, blob) {
                Ok(None) => {}
                Ok(Some((actual, bytes))) => {
                    report.blobs += 1;
                    report.bytes += bytes;
                    if actual != *blob {
                        let text =
                            format!("blob {blob}{}: its content has digest {actual}", owners(of));
                        report.damaged.push(text);
                    }
                }
                Err(error) => report
                    .damaged
                    .push(format!("blob {blob}{}: {error}", owners(of))),
            }
        }
        for (layer, used) in &layers {
            report.layers += 1;
            if let Some(why) = check_layer(&content, layer, used, deep) {
                let owners = owners(&used.images);
                report.damaged.push(format!("layer {layer}{owners}: {why}"));
            }
        }
        Ok(report)
    }

    pub(super) fn label_of(&self, row: &ImageRow) -> Result<String, Error> {
        let tags = self.store()?.tags()?;
        let tag = tags
            .iter()
            .find(|tag| tag.image_id == row.id && !tag.tag.is_empty());
        Ok(tag.map_or_else(
            || super::short(&row.id).to_owned(),
            |tag| format!("{}:{}", familiar_repository(&tag.repository), tag.tag),
        ))
    }

    fn parts_of(
        &self,
        content: &ContentStore,
        row: &ImageRow,
        label: &str,
        blobs: &mut BTreeMap<Digest, BTreeSet<String>>,
        layers: &mut BTreeMap<Digest, LayerUse>,
        report: &mut Verified,
    ) {
        if Digest::of(&row.config).to_string() != row.id {
            report.damaged.push(format!(
                "image {label}: the configuration on record has another digest than {}",
                row.id
            ));
        }
        let diff_ids = match ImageConfig::parse(&row.config) {
            Ok(config) => config.rootfs.diff_ids,
            Err(error) => {
                report.damaged.push(format!("image {label}: {error}"));
                Vec::new()
            }
        };
        for layer in &diff_ids {
            let used = layers.entry(*layer).or_default();
            used.images.insert(label.into());
        }
        match super::manifest_of(content, row) {
            Ok((digest, manifest)) => {
                let parts = manifest.layers.iter().map(|layer| layer.digest);
                for blob in parts.chain([digest, manifest.config.digest]) {
                    blobs.entry(blob).or_default().insert(label.into());
                }
                for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
                    let used = layers.entry(*diff_id).or_default();
                    if content.has_blob(&layer.digest).unwrap_or(false) {
                        used.blob = Some(layer.digest);
                    } else if layer.digest == *diff_id {
                        let sources = self
                            .store()
                            .and_then(|store| store.blob_sources(&layer.digest.to_string()));
                        used.packed_here |= sources.is_ok_and(|sources| sources.is_empty());
                    }
                }
            }
            Err(error) => {
                let mut text = format!("image {label}: manifest {}: {error}", row.manifest);
                let mut source = std::error::Error::source(&error);
                while let Some(error) = source {
                    text.push_str(&format!(": {error}"));
                    source = error.source();
                }
                report.damaged.push(text);
            }
        }
    }
}

fn owners(of: &BTreeSet<String>) -> String {
    if of.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = of.iter().map(String::as_str).collect();
    format!(" (of {})", names.join(", "))
}

/// Digest and size of a blob's content; `None` if it is not here, as dropped ones are not.
fn hash_blob(
    content: &ContentStore,
    blob: &Digest,
) -> Result<Option<(Digest, u64)>, std::io::Error> {
    let mut file = match content.open_blob(blob) {
        Ok(file) => file,
        Err(StoreError::BlobMissing { .. }) => return Ok(None),
        Err(error) => return Err(std::io::Error::other(error)),
    };
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let length = hasher.length();
    Ok(Some((hasher.finish(), length)))
}

/// Who has a layer, and the blob that it was unpacked from if that is here.
#[derive(Debug, Default)]
struct LayerUse {
    images: BTreeSet<String>,
    blob: Option<Digest>,
    /// It never had a blob: its DiffID is that of the archive that we make of it.
    packed_here: bool,
}

/// Why a layer is damaged, if it is known to be.
fn check_layer(
    content: &ContentStore,
    layer: &Digest,
    used: &LayerUse,
    deep: bool,
) -> Option<String> {
    let directory = match content.open_layer(layer) {
        Ok(directory) => directory,
        // A power cut took it. It is unpacked again by whoever needs it first.
        Err(StoreError::LayerMissing { .. }) if used.blob.is_some() => return None,
        // And what no image has goes with the next removal.
        Err(StoreError::LayerMissing { .. }) if used.images.is_empty() => return None,
        Err(error) => return Some(error.to_string()),
    };
    let record = match content.layer_record(layer) {
        Ok(Some(record)) => record,
        Ok(None) => return Some("its record is missing or damaged".into()),
        Err(error) => return Some(error.to_string()),
    };
    let bytes = match super::usage::measure_files(&content.layer_path(layer)) {
        Ok(bytes) => bytes,
        Err(error) => return Some(error.to_string()),
    };
    if bytes > record.bytes {
        let was = record.bytes;
        return Some(format!(
            "its files hold {bytes} bytes, and {was} were unpacked"
        ));
    }
    // An archive may hold a file twice, of which one is left: less is no proof.
    let fewer = bytes < record.bytes;
    if !fewer && !deep {
        return None;
    }
    let actual = match tree_digest(directory.as_fd()) {
        Ok(actual) => actual,
        Err(error) => return Some(error.to_string()),
    };
    if actual == *layer {
        return None;
    }
    if used.packed_here {
        return Some(format!("its files have DiffID {actual}"));
    }
    // Another program's archive looks different from ours for the same files: what counts is
    // what it unpacks to.
    let again = used
        .blob
        .as_ref()
        .and_then(|blob| unpacked_digest(content, blob).ok());
    match again {
        Some((_, expected)) => {
            (expected != actual).then(|| "its files are not the ones that were unpacked".into())
        }
        None => fewer.then(|| {
            let was = record.bytes;
            format!("its files hold {bytes} bytes of the {was} that were unpacked")
        }),
    }
}
