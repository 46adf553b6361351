//! Saving images as an archive.

use std::io::Write;

use gantry_image::archive::{SavedImage, save};
use gantry_image::digest::Digest;
use gantry_image::reference::Reference;

use super::ImageError;
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, TagRow};

impl Engine {
    /// Writes images to one archive, which is an OCI layout and a docker-archive at once. A name
    /// without a tag stands for all tags of a repository, an id for an image without names.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`ImageError::OtherPlatform`], [`ImageError::Save`],
    /// [`ImageError::NoBlob`].
    pub fn save_images(
        &self,
        names: &[String],
        platform: Option<&str>,
        output: &mut dyn Write,
    ) -> Result<(), Error> {
        let (content, _kept) = self.content_to_fill()?;
        let mut images: Vec<SavedImage> = Vec::new();
        for name in names {
            for (row, tag) in self.saved_as(name, platform)? {
                let manifest = self.with_blobs(&content, &row, None)?;
                let mut target = manifest;
                // The whole index, unless one platform was asked for.
                if platform.is_none()
                    && let Some(tag) = &tag
                    && manifest.to_string() == row.manifest
                    && let Ok(digest) = self.target_of(tag)?.parse::<Digest>()
                    && content.has_blob(&digest).unwrap_or(false)
                {
                    target = digest;
                }
                let name = tag.and_then(|tag| {
                    Reference::parse(&format!("{}:{}", tag.repository, tag.tag)).ok()
                });
                match images.iter_mut().find(|known| known.target == target) {
                    Some(known) => {
                        known
                            .names
                            .extend(name.filter(|name| !known.names.contains(name)));
                    }
                    None => images.push(SavedImage {
                        target,
                        manifest,
                        names: name.into_iter().collect(),
                        tag: None,
                    }),
                }
            }
        }
        save(&content, &images, output).map_err(|source| ImageError::Save(Box::new(source)))?;
        Ok(())
    }

    /// What a word on the command line of `save` means.
    fn saved_as(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<Vec<(ImageRow, Option<TagRow>)>, Error> {
        let mut found = Vec::new();
        let whole_repository = Reference::parse(name)
            .ok()
            .filter(|reference| reference.tag().is_none() && reference.digest().is_none());
        if let Some(reference) = whole_repository {
            for tag in self.store()?.tags()? {
                if tag.repository == reference.name() && !tag.tag.is_empty() {
                    found.push(tag);
                }
            }
        }
        if found.is_empty() {
            let row = self.find_image_of(name, platform)?;
            let tag = self.tag_of(name)?.filter(|tag| !tag.tag.is_empty());
            return Ok(vec![(row, tag)]);
        }
        let mut images = Vec::new();
        for tag in found {
            let row = self.find_image_of(&format!("{}:{}", tag.repository, tag.tag), platform)?;
            images.push((row, Some(tag)));
        }
        Ok(images)
    }
}
