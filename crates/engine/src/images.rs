//! Images as objects: names, lists, transfer, archives, removal. One file per operation.

use std::os::fd::OwnedFd;

use gantry_image::digest::Digest;
use gantry_image::model::{DOCUMENT_LIMIT, Document, ImageConfig, Manifest, Platform};
use gantry_image::pull::Pulled;
use gantry_image::reference::Reference;
use gantry_image::store::{Store as ContentStore, StoreError};

use crate::Engine;
use crate::error::Error;
use crate::store::ImageRow;

mod blobs;
mod collect;
mod commit;
mod error;
mod find;
mod history;
mod import;
mod inspect;
mod layers;
mod list;
mod load;
mod pause;
mod pull;
mod push;
mod remove;
mod save;
mod tag;
mod usage;
mod verify;

pub use commit::Committed;
pub use error::ImageError;
pub use history::HistoryStep;
pub use import::{ImportEvent, ImportRequest, ImportSource};
pub use layers::sync_layers;
pub use list::{ImageSummary, ImageTree, PlatformNode};
pub use load::LoadedImage;
pub use pull::{PullOutcome, PullRequest};
pub use push::PushOutcome;
pub use remove::Removal;
pub use usage::{DiskUsage, UsageItem, UsageKind, UsageObject};
pub use verify::Verified;

/// A repository's short form.
pub(crate) fn familiar_repository(repository: &str) -> String {
    Reference::parse(repository)
        .map_or_else(|_| repository.into(), |reference| reference.familiar_name())
}

/// An id as people see it.
fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

fn parse(name: &str) -> Result<Reference, Error> {
    Reference::parse(name).map_err(|source| Error::Reference {
        name: name.into(),
        source,
    })
}

fn parse_platform(text: &str) -> Result<Platform, Error> {
    // A word alone is the system or the architecture, the rest being this host's.
    let whole = match (text.contains('/'), text) {
        (true, _) => text.to_owned(),
        (false, "linux") => Platform::host().to_string(),
        (false, architecture) => format!("linux/{architecture}"),
    };
    whole.parse().map_err(|_| Error::Invalid {
        option: format!("platform {text:?}"),
        reason: "expected os/architecture, such as linux/amd64".into(),
    })
}

fn content_error(source: StoreError) -> Error {
    Error::Content {
        source: Box::new(source),
    }
}

fn parse_config(row: &ImageRow) -> Result<ImageConfig, Error> {
    ImageConfig::parse(&row.config).map_err(|source| Error::DamagedImage {
        id: row.id.clone(),
        source: Box::new(source),
    })
}

/// The row of an image that is in the content store.
fn row_of(pulled: &Pulled) -> ImageRow {
    ImageRow {
        id: pulled.config_digest.to_string(),
        config: pulled.config_raw.clone(),
        manifest: pulled.manifest_digest.to_string(),
        size: i64::try_from(pulled.size).unwrap_or(i64::MAX),
    }
}

/// The manifest of an image, read from the content store.
fn manifest_of(content: &ContentStore, row: &ImageRow) -> Result<(Digest, Manifest), Error> {
    let damaged = |source| Error::DamagedImage {
        id: row.id.clone(),
        source: Box::new(source),
    };
    let digest: Digest = row.manifest.parse().map_err(|_| Error::MissingLayer {
        image: row.id.clone(),
        layer: row.manifest.clone(),
    })?;
    let bytes = content
        .read_blob(&digest, DOCUMENT_LIMIT)
        .map_err(content_error)?;
    match Document::parse(&bytes, None).map_err(damaged)? {
        Document::Manifest(manifest) => Ok((digest, *manifest)),
        Document::Index(_) => Err(damaged(gantry_image::model::ModelError::Ambiguous {
            reason: "its manifest is an index".into(),
        })),
    }
}

impl Engine {
    fn content(&self) -> Result<ContentStore, Error> {
        ContentStore::open(&self.roots.data).map_err(content_error)
    }

    /// The content store, with nothing removed from it until the second part is dropped.
    fn content_to_fill(&self) -> Result<(ContentStore, OwnedFd), Error> {
        let content = self.content()?;
        let kept = content.keep().map_err(content_error)?;
        // What a process left that was killed. It is in nobody's way if it cannot be removed.
        let _ = content.sweep();
        Ok((content, kept))
    }
}
