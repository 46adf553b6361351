//! Importing: a tar archive of a root file system becomes an image of one layer.

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::apply::{ApplyKind, Limits};
use crate::digest::Digest;
use crate::model::{
    Descriptor, History, ImageConfig, Manifest, Platform, RootFs, RuntimeConfig, media_type,
};
use crate::pipe::{PipeWriter, fill};
use crate::pull::{Pulled, size_of};
use crate::store::{Store, StoreError};
use crate::unpack::{Budget, Expansion, LayerError, Unpack, unpack};

mod changes;

pub use changes::{ChangeError, ImportChanges};

/// What an import gives: the same as a pull, without a reference.
pub type Imported = Pulled;

/// What to make of an archive.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Changes to an empty container configuration.
    pub changes: ImportChanges,
    /// Remark in the image's history.
    pub message: String,
    /// Platform to write into the config.
    pub platform: Platform,
    /// The most that decompression may produce.
    pub expansion: Expansion,
    /// The most that the archive may hold.
    pub limits: Limits,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            changes: ImportChanges::default(),
            message: String::new(),
            platform: Platform::host(),
            expansion: Expansion::default(),
            limits: Limits::default(),
        }
    }
}

/// Why an archive does not become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read or unpacked.
    #[error("cannot import the archive")]
    Layer(#[source] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document could not be written.
    #[error("cannot write the {document}")]
    Document {
        /// Which one.
        document: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a tar archive, plain or compressed with gzip or zstd, to its end and stores it as an
/// image. The layer's blob is the uncompressed archive: compressing it would take longer than all
/// the rest, and a push can still do it.
pub fn import(
    store: &Store,
    archive: impl Read + Send,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let mut config = RuntimeConfig::default();
    options.changes.apply(&mut config);
    let created = timestamp(SystemTime::now());
    let comment = (!options.message.is_empty()).then(|| options.message.clone());
    let history = History {
        created: Some(created.clone()),
        comment,
        ..History::default()
    };
    let description = Description {
        platform: &options.platform,
        created,
        config,
        history,
    };
    store_layer(
        store,
        archive,
        &options.limits,
        options.expansion,
        description,
    )
}

/// What the config says besides its layer.
pub(crate) struct Description<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) created: String,
    pub(crate) config: RuntimeConfig,
    pub(crate) history: History,
}

/// Stores an archive as an image of one layer with the config of `description`.
pub(crate) fn store_layer(
    store: &Store,
    mut archive: impl Read + Send,
    limits: &Limits,
    expansion: Expansion,
    description: Description<'_>,
) -> Result<Imported, ImportError> {
    let ingest = store.ingest()?;
    let budget = Budget::new(expansion);
    let settings = Unpack {
        ingest: &ingest,
        kind: ApplyKind::RootFilesystem,
        limits,
        budget: &budget,
        size: None,
        keep: Some(ingest.blob()?),
    };
    let feed = |mut pipe: PipeWriter| {
        loop {
            let mut buffer = pipe.buffer()?;
            let count =
                fill(&mut archive, &mut buffer).map_err(|source| LayerError::Read { source })?;
            let ended = count < buffer.len();
            pipe.send(buffer, count)?;
            if ended {
                break;
            }
        }
        Ok(pipe.finish()?)
    };
    let ((), mut unpacked) = unpack(settings, feed).map_err(ImportError::Layer)?;
    unpacked.record.blob = Some(unpacked.diff_id);

    let Description {
        platform,
        created,
        config,
        history,
    } = description;
    let config = ImageConfig {
        created: Some(created),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config,
        rootfs: RootFs {
            diff_ids: vec![unpacked.diff_id],
            ..RootFs::default()
        },
        history: vec![history],
        ..ImageConfig::default()
    };
    let config_raw = serde_json::to_vec(&config).map_err(|source| ImportError::Document {
        document: "image config",
        source,
    })?;
    let layer_size = unpacked.kept.as_ref().map_or(0, |blob| blob.size());
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::of(media_type::CONFIG, &config_raw),
        layers: vec![Descriptor::new(
            media_type::LAYER,
            unpacked.diff_id,
            layer_size,
        )],
        annotations: Default::default(),
        extra: Default::default(),
    };
    let manifest_raw = serde_json::to_vec(&manifest).map_err(|source| ImportError::Document {
        document: "image manifest",
        source,
    })?;
    let (config_digest, manifest_digest) = (Digest::of(&config_raw), Digest::of(&manifest_raw));

    let mut blobs = Vec::new();
    if !store.has_blob(&unpacked.diff_id)? {
        blobs.extend(unpacked.kept);
    }
    for document in [&config_raw, &manifest_raw] {
        if !store.has_blob(&Digest::of(document))? {
            blobs.push(ingest.blob_of(document)?);
        }
    }
    let mut layers = Vec::new();
    if !store.has_layer(&unpacked.diff_id)? {
        layers.push((unpacked.layer, unpacked.diff_id, unpacked.record));
    }
    ingest.commit(blobs, layers)?;
    let layers = vec![unpacked.diff_id];
    let size = size_of(store, &layers)?;
    Ok(Pulled {
        reference: None,
        manifest_digest,
        index_digest: None,
        config_digest,
        config_raw,
        config,
        layers,
        size,
    })
}

/// An object without fields, which is what Docker's sets are made of.
pub(crate) fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A time as RFC 3339 has it, in UTC with nanoseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil from days, counting years from March so that the leap day is the last: 146,097 days
    // are 400 years, and the era of 1970 began 719,468 days before it.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z",
        since.subsec_nanos()
    )
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
