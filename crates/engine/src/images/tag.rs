//! Naming images.

use super::import::new_name;
use crate::Engine;
use crate::error::Error;
use crate::store::{NewImages, TagFact, TagRow};

impl Engine {
    /// Gives an image a further name; what had that name loses it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Reference`].
    pub fn tag_image(&self, source: &str, name: &str) -> Result<(), Error> {
        let reference = new_name(Some(name))?.ok_or_else(|| Error::Reference {
            name: name.into(),
            source: gantry_image::reference::ReferenceError::Empty,
        })?;
        let row = self.find_image(source)?;
        // The whole index goes by the new name, too.
        let target = match self.tag_of(source)? {
            Some(tag) => self.target_of(&tag)?,
            None => row.manifest.clone(),
        };
        let tag = TagRow {
            repository: reference.name(),
            tag: reference.tag().unwrap_or_default().into(),
            digest: String::new(),
            image_id: row.id,
        };
        let fact = TagFact {
            repository: tag.repository.clone(),
            tag: tag.tag.clone(),
            target,
            tagged_at: gantry_supervisor::record::now(),
        };
        self.store()?.put_images(&NewImages {
            tags: &[tag],
            facts: &[fact],
            ..NewImages::default()
        })
    }
}
