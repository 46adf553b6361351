//! Committing: a container's writable layer becomes the top layer of a new image.
//!
//! The layer is packed into the archive that gives it its DiffID and unpacked from it into the
//! store in one go, so that the two cannot disagree; packing it again when the image is pushed
//! gives the same archive. No blob is stored until then.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use crate::apply::{ApplyKind, Limits};
use crate::archive::{Form, TreeError, write_tree};
use crate::digest::Digest;
use crate::import::{ImportChanges, timestamp};
use crate::model::{
    DOCUMENT_LIMIT, Descriptor, Document, History, ImageConfig, ModelError, RuntimeConfig,
    media_type,
};
use crate::pipe::PipeWriter;
use crate::pull::{Pulled, size_of};
use crate::store::{Store, StoreError};
use crate::unpack::{Budget, Expansion, LayerError, Unpack, unpack};

/// What to commit.
#[derive(Debug)]
pub struct CommitOptions<'a> {
    /// The image that the container was made of: its manifest and its config.
    pub base: (&'a Digest, &'a ImageConfig),
    /// The container's writable layer, in the form of overlayfs.
    pub upper: BorrowedFd<'a>,
    /// What containers of the new image start with.
    pub config: RuntimeConfig,
    /// Changes to that.
    pub changes: ImportChanges,
    /// Who.
    pub author: String,
    /// Remark.
    pub message: String,
    /// What the container ran, for the history.
    pub created_by: String,
}

/// Why a container does not become an image.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The container's layer cannot be read.
    #[error("cannot read the container's layer")]
    Tree(#[source] Box<TreeError>),
    /// The layer cannot be stored.
    #[error("cannot store the container's layer")]
    Layer(#[source] Box<LayerError>),
    /// The manifest of the container's image cannot be used.
    #[error("manifest {digest} cannot be used")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: ModelError,
    },
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

/// Makes the image.
///
/// # Errors
/// [`CommitError`]. Nothing was stored then.
pub fn commit(store: &Store, options: CommitOptions<'_>) -> Result<Pulled, CommitError> {
    let (base_manifest, base) = options.base;
    let bytes = store.read_blob(base_manifest, DOCUMENT_LIMIT)?;
    let manifest_error = |source| CommitError::Manifest {
        digest: *base_manifest,
        source,
    };
    let parsed = Document::parse(&bytes, None).map_err(manifest_error)?;
    let Document::Manifest(mut manifest) = parsed else {
        return Err(manifest_error(ModelError::NotAnImage {
            media_type: media_type::INDEX.to_owned(),
            hint: "expected an image manifest",
        }));
    };
    let ingest = store.ingest()?;
    let budget = Budget::new(Expansion::default());
    let settings = Unpack {
        ingest: &ingest,
        kind: ApplyKind::Layer,
        limits: &Limits::default(),
        budget: &budget,
        size: None,
        keep: None,
    };
    let upper = options.upper;
    let mut tree_error = None;
    let feed = |pipe| match write_tree(&[upper], Form::Layer, Feed::new(pipe)) {
        Ok((feed, _)) => feed.finish(),
        Err(error) => {
            tree_error = Some(error);
            Err(LayerError::Stopped)
        }
    };
    // There is no blob to make the layer of again: it has to be on the disk in the end.
    let outcome = ingest.sync_ahead(|| unpack(settings, feed));
    let (length, unpacked) = match (outcome, tree_error) {
        (Ok(done), _) => done,
        // A write that failed is of a pipe whose reader knows why.
        (Err(LayerError::Stopped), Some(error)) => return Err(CommitError::Tree(Box::new(error))),
        (Err(error), _) => return Err(CommitError::Layer(Box::new(error))),
    };

    let mut runtime = options.config;
    options.changes.apply(&mut runtime);
    let created = timestamp(SystemTime::now());
    let some = |text: String| (!text.is_empty()).then_some(text);
    let mut config = base.clone();
    config.created = Some(created.clone());
    config.author = some(options.author.clone());
    config.config = runtime;
    config.rootfs.diff_ids.push(unpacked.diff_id);
    // What Docker's old builder wrote about the container of the step before.
    for name in ["container", "container_config", "docker_version"] {
        config.extra.remove(name);
    }
    config.history.push(History {
        created: Some(created),
        created_by: some(options.created_by),
        author: some(options.author),
        comment: some(options.message),
        ..History::default()
    });
    let document = |document, source| CommitError::Document { document, source };
    let config_raw =
        serde_json::to_vec(&config).map_err(|source| document("image config", source))?;
    manifest.media_type = Some(media_type::MANIFEST.to_owned());
    manifest.config = Descriptor::of(media_type::CONFIG, &config_raw);
    manifest.annotations.clear();
    manifest.extra.clear();
    // OCI's and Docker's media types are not to be mixed in one manifest.
    for layer in &mut manifest.layers {
        layer.media_type = oci_layer(&layer.media_type).to_owned();
    }
    manifest
        .layers
        .push(Descriptor::new(media_type::LAYER, unpacked.diff_id, length));
    let manifest_raw =
        serde_json::to_vec(&manifest).map_err(|source| document("image manifest", source))?;
    let (config_digest, manifest_digest) = (Digest::of(&config_raw), Digest::of(&manifest_raw));
    let mut layers = Vec::new();
    if !store.has_layer(&unpacked.diff_id)? {
        layers.push((unpacked.layer, unpacked.diff_id, unpacked.record));
    }
    let blobs = vec![ingest.blob_of(&config_raw)?, ingest.blob_of(&manifest_raw)?];
    ingest.commit(blobs, layers)?;
    let layers = config.rootfs.diff_ids.clone();
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

/// OCI's media type for one of Docker's.
#[must_use]
pub fn oci_layer(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => media_type::LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => media_type::LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => media_type::LAYER_ZSTD,
        other => other,
    }
}

/// A pipe as something to write to.
struct Feed {
    pipe: PipeWriter,
    buffer: Option<(Box<[u8]>, usize)>,
    length: u64,
}

impl Feed {
    fn new(pipe: PipeWriter) -> Self {
        Self {
            pipe,
            buffer: None,
            length: 0,
        }
    }

    /// Ends the stream; returns its length in bytes.
    fn finish(mut self) -> Result<u64, LayerError> {
        if let Some((buffer, filled)) = self.buffer.take() {
            self.pipe.send(buffer, filled)?;
        }
        self.pipe.finish()?;
        Ok(self.length)
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (mut buffer, filled) = match self.buffer.take() {
            Some(held) => held,
            None => (self.pipe.buffer().map_err(|_| gone())?, 0),
        };
        let count = bytes.len().min(buffer.len() - filled);
        buffer[filled..filled + count].copy_from_slice(&bytes[..count]);
        self.length += count as u64;
        if filled + count == buffer.len() {
            self.pipe.send(buffer, filled + count).map_err(|_| gone())?;
        } else {
            self.buffer = Some((buffer, filled + count));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
