//! Why a pull fails.

use super::{MOST_INDEXES, MOST_LAYERS};
use crate::digest::Digest;
use crate::model::ModelError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::unpack::LayerError;

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not deliver a manifest or the config.
    #[error("cannot pull {reference}")]
    Registry {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A document is not acceptable.
    #[error("cannot use {digest} of {reference}")]
    Document {
        /// The image.
        reference: String,
        /// The document.
        digest: Digest,
        /// Why.
        #[source]
        source: ModelError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index has nothing for the platform.
    #[error("{reference} has no image for {wanted}; it has {}", available.join(", "))]
    NoPlatform {
        /// The image.
        reference: String,
        /// The platform asked for.
        wanted: String,
        /// The platforms it has, each once.
        available: Vec<String>,
    },
    /// There is one image, and it is for another platform than the one asked for.
    #[error("{reference} is for {found}, not for {wanted}")]
    PlatformMismatch {
        /// The image.
        reference: String,
        /// The platform asked for.
        wanted: String,
        /// Its platform.
        found: String,
    },
    /// Indexes within indexes.
    #[error("{reference} has more than {MOST_INDEXES} indexes within each other")]
    TooManyIndexes {
        /// The image.
        reference: String,
    },
    /// An index says that an entry is a manifest, and it is an index, or the other way round
    /// (CVE-2021-41190), or the size is wrong.
    #[error("{digest} of {reference} is not what the index says: {reason}")]
    IndexEntry {
        /// The image.
        reference: String,
        /// The entry.
        digest: Digest,
        /// What differs.
        reason: &'static str,
    },
    /// A manifest of something else than a container image.
    #[error("{reference} is not a container image: its config is {media_type:?}")]
    NotAnImage {
        /// The image.
        reference: String,
        /// Media type of its config.
        media_type: String,
    },
    /// Manifest and config do not agree.
    #[error("{reference} has {layers} layers and {diff_ids} DiffIDs")]
    LayerCount {
        /// The image.
        reference: String,
        /// Layers in the manifest.
        layers: usize,
        /// DiffIDs in the config.
        diff_ids: usize,
    },
    /// More layers than a root file system can be made of.
    #[error(
        "{reference} has {layers} layers, more than the {MOST_LAYERS} that a file system can be made of"
    )]
    TooManyLayers {
        /// The image.
        reference: String,
        /// Its layers.
        layers: usize,
    },
    /// A layer cannot be had or unpacked.
    #[error("cannot pull layer {number} ({digest}) of {reference}")]
    Layer {
        /// The image.
        reference: String,
        /// Which layer, from 1, bottom first.
        number: usize,
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
}
