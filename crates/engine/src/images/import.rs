//! Importing a root file system.

use std::io::Read;

use gantry_image::Watched;
use gantry_image::import::{ImportChanges, ImportOptions, import};
use gantry_image::reference::Reference;
use gantry_image::registry::{Download, DownloadOptions};

use super::{ImageError, parse, parse_platform, row_of};
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, NewImages, TagFact, TagRow};

/// Where an archive comes from.
pub enum ImportSource<'a> {
    /// A file or a pipe.
    Stream {
        /// What is read to its end.
        archive: &'a mut (dyn Read + Send),
        /// Its length in bytes, for those who watch.
        size: Option<u64>,
    },
    /// An http or https URL.
    Url(&'a str),
}

/// What to import, and how.
pub struct ImportRequest<'a> {
    /// The archive.
    pub source: ImportSource<'a>,
    /// Name of the image; absent or empty for none.
    pub name: Option<&'a str>,
    /// Changes in the words of a Dockerfile.
    pub changes: &'a [String],
    /// Remark in the history.
    pub message: &'a str,
    /// Platform; absent means the host's.
    pub platform: Option<&'a str>,
}

/// What happens during an import.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ImportEvent {
    /// A server has begun to send the archive.
    Downloading {
        /// The URL without its query.
        from: String,
    },
    /// Some of the archive was read; at most every 100 ms, and at its end.
    Reading {
        /// Bytes so far.
        read: u64,
        /// Its length in bytes, if that is known.
        total: Option<u64>,
    },
}

/// Changes in the words of a Dockerfile.
pub(super) fn parse_changes(changes: &[String]) -> Result<ImportChanges, Error> {
    ImportChanges::parse(changes).map_err(|error| Error::Invalid {
        option: "change".into(),
        reason: error.to_string(),
    })
}

/// A name for a new image: with a tag, and without a digest.
pub(super) fn new_name(name: Option<&str>) -> Result<Option<Reference>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let reference = parse(name)?;
    if reference.digest().is_some() {
        return Err(ImageError::TagWithDigest.into());
    }
    Ok(Some(reference.with_default_tag()))
}

impl Engine {
    /// Makes an image of a root file system's archive; returns its id.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Import`], [`Error::Invalid`], [`ImageError::Download`].
    pub fn import(
        &self,
        request: ImportRequest<'_>,
        progress: &(dyn Fn(ImportEvent) + Sync),
    ) -> Result<String, Error> {
        let reference = new_name(request.name)?;
        let mut options = ImportOptions {
            changes: parse_changes(request.changes)?,
            message: request.message.into(),
            ..ImportOptions::default()
        };
        if let Some(text) = request.platform {
            options.platform = parse_platform(text)?;
        }
        let mut download;
        let (archive, total): (&mut (dyn Read + Send), _) = match request.source {
            ImportSource::Stream { archive, size } => (archive, size),
            ImportSource::Url(url) => {
                let failed = |source| ImageError::Download(Box::new(source));
                download = Download::open(url, &DownloadOptions::default()).map_err(failed)?;
                progress(ImportEvent::Downloading {
                    from: download.place().to_owned(),
                });
                let length = download.length();
                (&mut download, length)
            }
        };
        let archive = Watched::new(archive, |read| {
            progress(ImportEvent::Reading { read, total });
        });
        let (content, _kept) = self.content_to_fill()?;
        let imported = import(&content, archive, &options).map_err(|source| Error::Import {
            source: Box::new(source),
        })?;
        let id = self.record_made(row_of(&imported), reference.as_ref())?;
        self.sync_layers_soon(&content);
        Ok(id)
    }

    /// Puts an image that was made here on record, and gives it a name.
    pub(super) fn record_made(
        &self,
        row: ImageRow,
        name: Option<&Reference>,
    ) -> Result<String, Error> {
        let id = row.id.clone();
        let target = row.manifest.clone();
        let tags: Vec<TagRow> = name
            .map(|reference| TagRow {
                repository: reference.name(),
                tag: reference.tag().unwrap_or_default().into(),
                digest: String::new(),
                image_id: id.clone(),
            })
            .into_iter()
            .collect();
        let facts: Vec<TagFact> = tags
            .iter()
            .map(|tag| TagFact {
                repository: tag.repository.clone(),
                tag: tag.tag.clone(),
                target: target.clone(),
                tagged_at: gantry_supervisor::record::now(),
            })
            .collect();
        self.store()?.put_images(&NewImages {
            images: &[row],
            tags: &tags,
            facts: &facts,
            made: &[(target, String::new())],
            ..NewImages::default()
        })?;
        Ok(id)
    }
}
