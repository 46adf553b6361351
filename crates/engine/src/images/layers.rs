//! Layers that a container needs: found, and unpacked again where a power cut took them before
//! they were on the disk; and the process that sees to it that they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_image::digest::Digest;
use gantry_image::model::ImageConfig;
use gantry_image::repair::unpack_again;
use gantry_image::store::{Layers, Store as ContentStore};

use super::{ImageError, content_error, manifest_of, parse_config};
use crate::Engine;
use crate::error::Error;
use crate::paths::Roots;
use crate::store::ImageRow;

impl Engine {
    /// Directories of an image's layers, the topmost first. Those that are missing are unpacked
    /// again.
    pub(crate) fn layer_paths(
        &self,
        image_id: &str,
        image: &ImageConfig,
    ) -> Result<Vec<PathBuf>, Error> {
        let diff_ids = &image.rootfs.diff_ids;
        // A look at each record and directory: 3 µs a layer, and no content store is opened.
        let all_usable = |layers: &Layers| {
            diff_ids
                .iter()
                .all(|layer| layers.is_usable(layer).is_ok_and(|usable| usable))
        };
        let layers = match Layers::open(&self.roots.data) {
            Ok(layers) if all_usable(&layers) => layers,
            _ => {
                self.unpack_missing(image_id, diff_ids)?;
                Layers::open(&self.roots.data).map_err(content_error)?
            }
        };
        Ok(diff_ids
            .iter()
            .rev()
            .map(|layer| layers.path(layer))
            .collect())
    }

    /// Unpacks the layers of an image that are not there from their blobs. Several processes may
    /// do so at once.
    ///
    /// # Errors
    /// [`Error::MissingLayer`] if the blob is not there either; [`ImageError::Unpack`].
    pub(super) fn unpack_missing(&self, image_id: &str, diff_ids: &[Digest]) -> Result<(), Error> {
        let (content, _kept) = self.content_to_fill()?;
        let distinct: BTreeSet<&Digest> = diff_ids.iter().collect();
        for diff_id in distinct {
            if content.has_layer(diff_id).map_err(content_error)? {
                continue;
            }
            let Some(blob) = self.blob_of_layer(&content, image_id, diff_id)? else {
                return Err(Error::MissingLayer {
                    image: self.name_of(image_id),
                    layer: diff_id.to_string(),
                });
            };
            unpack_again(&content, diff_id, &blob).map_err(|source| ImageError::Unpack {
                image: self.name_of(image_id),
                source: Box::new(source),
            })?;
        }
        self.sync_layers_soon(&content);
        Ok(())
    }

    /// What an image is called by who is told about it.
    fn name_of(&self, image_id: &str) -> String {
        let row = self.store().and_then(|store| store.image(image_id));
        match row {
            Ok(Some(row)) => self.label_of(&row).unwrap_or(row.id),
            _ => image_id.to_owned(),
        }
    }

    /// A blob in the store that a layer can be made of: the one that its record names, the one
    /// that the image's manifest names, or that of any other image with the same layer.
    fn blob_of_layer(
        &self,
        content: &ContentStore,
        image_id: &str,
        diff_id: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let is_here = |blob: &Digest| content.has_blob(blob).unwrap_or(false);
        let record = content.layer_record(diff_id).map_err(content_error)?;
        if let Some(blob) = record.and_then(|record| record.blob).filter(is_here) {
            return Ok(Some(blob));
        }
        let mut rows: Vec<ImageRow> = self.store()?.images()?;
        rows.sort_by_key(|row| row.id != image_id);
        for row in &rows {
            let Ok(config) = parse_config(row) else {
                continue;
            };
            if !config.rootfs.diff_ids.contains(diff_id) {
                continue;
            }
            let Ok((_, manifest)) = manifest_of(content, row) else {
                continue;
            };
            let mut pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
            if let Some((layer, _)) =
                pairs.find(|(layer, known)| *known == diff_id && is_here(&layer.digest))
            {
                return Ok(Some(layer.digest));
            }
        }
        Ok(None)
    }

    /// Has a process of its own bring the layers to the disk that are not there yet, so that
    /// nobody waits for it. If none can be started the next command that stores something tries
    /// again, and a power cut until then costs unpacking them.
    pub(super) fn sync_layers_soon(&self, content: &ContentStore) {
        if !content.has_unsynced_layers().unwrap_or(true) {
            return;
        }
        let absolute = std::path::absolute::<&Path>;
        let (Ok(program), Ok(data), Ok(run)) = (
            std::env::current_exe(),
            absolute(&self.roots.data),
            absolute(&self.roots.run),
        ) else {
            return;
        };
        let child = Command::new(program)
            .arg("--data-root")
            .arg(data)
            .arg("--run-root")
            .arg(run)
            .arg("__sync-layers")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = child {
            // For who lives on, and would have a zombie else.
            let _ = std::thread::Builder::new().spawn(move || child.wait());
        }
    }
}

/// What the process does that [`Engine::sync_layers_soon`] starts. It opens no engine: what it
/// needs is the content store alone, and that is not made anew if it was removed meanwhile.
///
/// # Errors
/// [`Error::Content`].
pub fn sync_layers(roots: &Roots) -> Result<usize, Error> {
    // The terminal's signals are not meant for it. It fails for the leader of a group, which only
    // somebody is who calls this by hand.
    let _ = rustix::process::setsid();
    ContentStore::open_existing(&roots.data)
        .and_then(|content| content.sync_layers())
        .map_err(content_error)
}
