//! Why a push fails.

use super::plan::MOST_INDEXES;
use crate::digest::Digest;
use crate::model::ModelError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why an image cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry did not take a manifest, or could not be asked.
    #[error("cannot push {reference}")]
    Registry {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// The registry did not take a blob.
    #[error("cannot push blob {digest} of {reference}")]
    Blob {
        /// The image.
        reference: String,
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A document in the store is not acceptable.
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
    /// Blobs are not in the store.
    #[error("cannot push {reference}: {} missing from the store: {}", counted(missing.len()), missing.join(", "))]
    Missing {
        /// The image.
        reference: String,
        /// What is missing: the digest and what it is, such as the platform that needs it.
        missing: Vec<String>,
    },
    /// Of an index, several but not all images are in the store.
    #[error(
        "cannot push {reference}: the store has only {} of the images in its index; pull the others or choose one",
        present.join(", ")
    )]
    Incomplete {
        /// The image.
        reference: String,
        /// Platforms that are whole.
        present: Vec<String>,
    },
    /// The reference has a digest, and it is not the one of what is to be pushed.
    #[error("cannot push {target} as {reference}: the digests differ")]
    OtherDigest {
        /// The reference.
        reference: String,
        /// What was to be pushed.
        target: Digest,
    },
    /// Indexes within indexes.
    #[error("{reference} has more than {MOST_INDEXES} indexes within each other")]
    TooManyIndexes {
        /// The image.
        reference: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn counted(count: usize) -> String {
    if count == 1 {
        "1 blob is".to_owned()
    } else {
        format!("{count} blobs are")
    }
}
