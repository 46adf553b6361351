//! Finding images by name and by id.

use gantry_image::digest::Digest;
use gantry_image::model::Platform;
use gantry_image::reference::Reference;

use super::{ImageError, parse_config, parse_platform, row_of};
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, NewImages, TagFact, TagRow};

/// Name of the image that ships inside Gantry.
const HELLO_WORLD: &str = "docker.io/library/hello-world";

impl Engine {
    /// Finds an image by name, id, or the beginning of an id; the one that ships inside
    /// Gantry is put in place when it is first asked for.
    pub(crate) fn find_image(&self, name: &str) -> Result<ImageRow, Error> {
        self.find_image_for(name, None)
    }

    /// [`Engine::find_image`] for a platform: an index that is here may have several images.
    pub(crate) fn find_image_for(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<ImageRow, Error> {
        if let Some(row) = self.find_image_here(name)? {
            return self.variant(name, row, platform);
        }
        let embedded = Reference::parse(name).is_ok_and(|reference| {
            reference.name() == HELLO_WORLD
                && reference.digest().is_none()
                && reference.tag().is_none_or(|tag| tag == "latest")
        });
        if embedded {
            self.install_embedded()?;
        }
        let row = self
            .find_image_here(name)?
            .ok_or_else(|| Error::NoSuchImage { name: name.into() })?;
        self.variant(name, row, platform)
    }

    /// [`Engine::find_image_for`] where what is not for the platform is of no use.
    pub(super) fn find_image_of(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<ImageRow, Error> {
        let row = self.find_image_for(name, platform)?;
        match platform {
            Some(text) if fits(&row, &parse_platform(text)?).is_none() => {
                let here = self.images_behind(name, &row)?;
                Err(other_platform(name, text, &here))
            }
            _ => Ok(row),
        }
    }

    /// Every image that is here of what a name stands for: `row`, which it names, and with an
    /// index those for other platforms.
    pub(super) fn images_behind(&self, name: &str, row: &ImageRow) -> Result<Vec<ImageRow>, Error> {
        let mut images = match self.tag_of(name)? {
            Some(tag) => {
                let target = self.target_of(&tag)?;
                self.store()?.variants_of(&target)?
            }
            None => Vec::new(),
        };
        if !images.iter().any(|image| image.id == row.id) {
            images.push(row.clone());
        }
        Ok(images)
    }

    fn install_embedded(&self) -> Result<(), Error> {
        let (content, _kept) = self.content_to_fill()?;
        let made = gantry_image::embedded::install_hello_world(&content).map_err(|source| {
            Error::Import {
                source: Box::new(source),
            }
        })?;
        let row = row_of(&made);
        let tag = TagRow {
            repository: HELLO_WORLD.into(),
            tag: "latest".into(),
            digest: String::new(),
            image_id: row.id.clone(),
        };
        let fact = TagFact {
            repository: tag.repository.clone(),
            tag: tag.tag.clone(),
            target: row.manifest.clone(),
            tagged_at: gantry_supervisor::record::now(),
        };
        self.store()?.put_images(&NewImages {
            images: &[row],
            tags: &[tag],
            facts: &[fact],
            ..NewImages::default()
        })
    }

    /// Another image of the same index, if a platform is asked for that this one is not for.
    fn variant(
        &self,
        name: &str,
        row: ImageRow,
        platform: Option<&str>,
    ) -> Result<ImageRow, Error> {
        let Some(text) = platform else {
            return Ok(row);
        };
        let wanted = parse_platform(text)?;
        if fits(&row, &wanted).is_some() {
            return Ok(row);
        }
        let Some(tag) = self.tag_of(name)? else {
            return Ok(row);
        };
        let target = self.target_of(&tag)?;
        let mut best: Option<(u32, ImageRow)> = None;
        for other in self.store()?.variants_of(&target)? {
            if let Some(distance) = fits(&other, &wanted)
                && best.as_ref().is_none_or(|(held, _)| distance < *held)
            {
                best = Some((distance, other));
            }
        }
        // The caller says what it thinks of a platform that does not fit.
        Ok(best.map_or(row, |(_, other)| other))
    }

    /// What a tag stands for: an index or a manifest.
    pub(super) fn target_of(&self, tag: &TagRow) -> Result<String, Error> {
        let store = self.store()?;
        let fact = store
            .tag_facts()?
            .into_iter()
            .find(|fact| fact.repository == tag.repository && fact.tag == tag.tag);
        if let Some(fact) = fact {
            return Ok(fact.target);
        }
        if !tag.digest.is_empty() {
            return Ok(tag.digest.clone());
        }
        Ok(store
            .image(&tag.image_id)?
            .map_or_else(String::new, |row| row.manifest))
    }

    /// The name that a user's word means, if it is a name of an image here.
    pub(super) fn tag_of(&self, name: &str) -> Result<Option<TagRow>, Error> {
        let Ok(reference) = Reference::parse(name) else {
            return Ok(None);
        };
        let reference = if reference.digest().is_some() {
            reference
        } else {
            reference.with_default_tag()
        };
        let digest = reference
            .digest()
            .map(Digest::to_string)
            .unwrap_or_default();
        // With a digest it is the digest that counts.
        let tag = if digest.is_empty() {
            reference.tag().unwrap_or_default()
        } else {
            ""
        };
        self.store()?.find_tag(&reference.name(), tag, &digest)
    }

    pub(super) fn find_image_here(&self, name: &str) -> Result<Option<ImageRow>, Error> {
        if let Some(tag) = self.tag_of(name)? {
            return self.store()?.image(&tag.image_id);
        }
        let Some(prefix) = id_prefix(name) else {
            return Ok(None);
        };
        let store = self.store()?;
        let mut found = store.images_by_prefix(&format!("sha256:{prefix}"))?;
        if found.len() > 1 {
            return Err(Error::Ambiguous {
                prefix: name.into(),
            });
        }
        Ok(found.pop())
    }
}

/// The error about a platform that none of `here` is for.
pub(super) fn other_platform(name: &str, platform: &str, here: &[ImageRow]) -> Error {
    let mut names: Vec<String> = here
        .iter()
        .filter_map(|row| Some(parse_config(row).ok()?.platform().to_string()))
        .collect();
    names.sort_unstable();
    names.dedup();
    ImageError::OtherPlatform {
        name: name.into(),
        platform: platform.into(),
        here: names.join(", "),
    }
    .into()
}

/// What could be the beginning of an id.
pub(super) fn id_prefix(name: &str) -> Option<&str> {
    let prefix = name.strip_prefix("sha256:").unwrap_or(name);
    let hexadecimal = !prefix.is_empty()
        && prefix.len() <= 64
        && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then_some(prefix)
}

/// How well an image fits a platform, less being better.
pub(super) fn fits(row: &ImageRow, wanted: &Platform) -> Option<u32> {
    let platform = parse_config(row).ok()?.platform();
    wanted.distance(&platform)
}
