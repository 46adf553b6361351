//! Loading archives of images.

use std::io::Read;

use gantry_image::archive::{LoadEvent, LoadOptions, load_with};

use super::{ImageError, parse_platform, row_of};
use crate::Engine;
use crate::error::Error;
use crate::store::{NewImages, TagFact, TagRow};

/// An image that was loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoadedImage {
    /// Its id.
    pub id: String,
    /// Its names, as `repository:tag` in the short form.
    pub names: Vec<String>,
    /// Names that the archive gives it and a later image, which has them.
    pub renamed: Vec<String>,
    /// Whether it belongs to an index another image of which has the names.
    pub variant: bool,
}

impl Engine {
    /// Loads the images of an archive: an OCI layout or a docker-archive, plain or compressed.
    /// `progress` may be called from several threads.
    ///
    /// # Errors
    /// [`ImageError::Load`], [`Error::Invalid`] for the platform.
    pub fn load_images(
        &self,
        archive: &mut dyn Read,
        platform: Option<&str>,
        progress: &(dyn Fn(LoadEvent) + Sync),
    ) -> Result<Vec<LoadedImage>, Error> {
        let options = LoadOptions {
            platform: platform.map(parse_platform).transpose()?,
            ..LoadOptions::default()
        };
        let (content, _kept) = self.content_to_fill()?;
        drop(self.store()?);
        let loaded = load_with(&content, archive, &options, progress)
            .map_err(|source| ImageError::Load(Box::new(source)))?;
        let now = gantry_supervisor::record::now();
        let (mut images, mut tags, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut variants, mut shown, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for one in &loaded {
            let row = row_of(&one.image);
            for name in &one.names {
                let tag = name.tag().unwrap_or_default().to_owned();
                tags.push(TagRow {
                    repository: name.name(),
                    tag: tag.clone(),
                    digest: String::new(),
                    image_id: row.id.clone(),
                });
                facts.push(TagFact {
                    repository: name.name(),
                    tag,
                    target: one.target.to_string(),
                    tagged_at: now,
                });
            }
            if one.image.index_digest.is_some() {
                variants.push((one.target.to_string(), row.id.clone()));
            }
            if one.made {
                made.push((row.manifest.clone(), String::new()));
            }
            let named_elsewhere = loaded
                .iter()
                .any(|other| other.target == one.target && !other.names.is_empty());
            shown.push(LoadedImage {
                id: row.id.clone(),
                names: one.names.iter().map(|name| name.familiar()).collect(),
                renamed: one.renamed.iter().map(|name| name.familiar()).collect(),
                variant: one.names.is_empty() && named_elsewhere,
            });
            images.push(row);
        }
        self.store()?.put_images(&NewImages {
            images: &images,
            tags: &tags,
            facts: &facts,
            variants: &variants,
            sources: &[],
            made: &made,
        })?;
        self.sync_layers_soon(&content);
        Ok(shown)
    }
}
