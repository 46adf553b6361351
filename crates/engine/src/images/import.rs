//! Importing a root file system.

use std::io::Read;

use gantry_image::import::{ImportChanges, ImportOptions, import};
use gantry_image::reference::Reference;

use super::{parse, parse_platform, row_of};
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, NewImages, TagFact, TagRow};

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
        return Err(super::ImageError::TagWithDigest.into());
    }
    Ok(Some(reference.with_default_tag()))
}

impl Engine {
    /// Makes an image of a root file system's archive; returns its id.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Import`], [`Error::Invalid`].
    pub fn import(
        &self,
        archive: &mut (dyn Read + Send),
        name: Option<&str>,
        changes: &[String],
        message: &str,
        platform: Option<&str>,
    ) -> Result<String, Error> {
        let reference = new_name(name)?;
        let mut options = ImportOptions {
            changes: parse_changes(changes)?,
            message: message.into(),
            ..ImportOptions::default()
        };
        if let Some(text) = platform {
            options.platform = parse_platform(text)?;
        }
        let (content, _kept) = self.content_to_fill()?;
        let imported = import(&content, archive, &options).map_err(|source| Error::Import {
            source: Box::new(source),
        })?;
        self.record_made(row_of(&imported), reference.as_ref())
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
