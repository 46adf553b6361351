//! Layers that are not there any more, from blobs that are: what a power cut took before it was
//! synced is unpacked again without a registry.

use crate::apply::{ApplyKind, Limits};
use crate::digest::Digest;
use crate::pipe::fill;
use crate::store::{Store, StoreError};
use crate::unpack::{Budget, Expansion, LayerError, Unpack, unpack};

/// Why a layer cannot be unpacked again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store does not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob is not what it was, or cannot be unpacked here.
    #[error("cannot unpack layer {diff_id} again from blob {blob}")]
    Layer {
        /// The layer.
        diff_id: Digest,
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: Box<LayerError>,
    },
}

/// Unpacks the layer from a blob in the store, unless somebody else has meanwhile: of several who
/// need the same layer one does it, and the others wait. The caller [keeps](Store::keep) the store.
///
/// # Errors
/// [`RepairError`]; [`StoreError::BlobMissing`] if the blob is not in the store.
pub fn unpack_again(store: &Store, diff_id: &Digest, blob: &Digest) -> Result<(), RepairError> {
    // The lock that a pull of the layer holds, too.
    let partial = store.partial(blob)?;
    let done = if store.has_layer_by_now(diff_id)? {
        Ok(())
    } else {
        unpack_blob(store, diff_id, blob)
    };
    store.release_partial(partial)?;
    done
}

fn unpack_blob(store: &Store, diff_id: &Digest, blob: &Digest) -> Result<(), RepairError> {
    let failed = |source| RepairError::Layer {
        diff_id: *diff_id,
        blob: *blob,
        source: Box::new(source),
    };
    let mut file = store.open_blob(blob)?;
    let ingest = store.ingest()?;
    let settings = Unpack {
        ingest: &ingest,
        kind: ApplyKind::Layer,
        limits: &Limits::default(),
        budget: &Budget::new(Expansion::default()),
        size: Some(store.blob_size(blob)?),
        keep: None,
    };
    let ((), mut unpacked) = unpack(settings, |mut pipe| {
        loop {
            let mut buffer = pipe.buffer()?;
            let count =
                fill(&mut file, &mut buffer).map_err(|source| LayerError::Read { source })?;
            let ended = count < buffer.len();
            pipe.send(buffer, count)?;
            if ended {
                return Ok(pipe.finish()?);
            }
        }
    })
    .map_err(failed)?;
    if unpacked.diff_id != *diff_id {
        return Err(failed(LayerError::DiffId {
            expected: *diff_id,
            actual: unpacked.diff_id,
        }));
    }
    unpacked.record.blob = Some(*blob);
    let layer = (unpacked.layer, *diff_id, unpacked.record);
    ingest.commit(Vec::new(), vec![layer])?;
    Ok(())
}

#[cfg(test)]
mod tests;
