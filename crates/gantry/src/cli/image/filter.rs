//! `--filter` of images.

use std::time::{SystemTime, UNIX_EPOCH};

use super::list::created;
use crate::api::ImageSummary;
use crate::error::CliError;
use crate::parse::{number, time};
use crate::zone;

/// One `--filter`.
#[derive(Debug, PartialEq, Eq)]
pub enum Filter {
    /// A pattern that a name matches.
    Reference(String),
    /// Without a tag, or with one.
    Dangling(bool),
    /// With a label, with that value if there is one.
    Label(String, Option<String>),
    /// Without that label.
    NoLabel(String, Option<String>),
    /// Made before another image, which is named.
    Before(String),
    /// Made after another image, which is named.
    Since(String),
    /// Made before a time, in seconds since 1970.
    Until(i64),
    /// Made after a time, in seconds since 1970.
    After(i64),
}

impl Filter {
    /// Reads `name=value`.
    ///
    /// # Errors
    /// [`CliError::Conflict`].
    pub fn parse(given: &str) -> Result<Filter, CliError> {
        let invalid = |why: &str| CliError::Conflict(format!("invalid filter '{given}': {why}"));
        let (key, value) = given
            .split_once('=')
            .ok_or_else(|| invalid("use name=value"))?;
        let pair = |value: &str| match value.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        };
        // `label!=a` was split at its only equals sign.
        match key.trim().to_ascii_lowercase().as_str() {
            "reference" => Ok(Filter::Reference(value.to_owned())),
            "dangling" => number::boolean(value)
                .map(Filter::Dangling)
                .map_err(|_| invalid("use true or false")),
            "label" => {
                let (key, value) = pair(value);
                Ok(Filter::Label(key, value))
            }
            "label!" => {
                let (key, value) = pair(value);
                Ok(Filter::NoLabel(key, value))
            }
            "before" => Ok(Filter::Before(value.to_owned())),
            "since" => Ok(Filter::Since(value.to_owned())),
            "until" => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
                time::instant(value, now, &zone::wall_offset)
                    .map(|instant| Filter::Until(instant.div_euclid(1_000_000_000)))
                    .map_err(|_| invalid("use a time, or how long ago it was"))
            }
            _ => Err(invalid(
                "use reference, dangling, label, before, since or until",
            )),
        }
    }

    /// The pattern of a name.
    pub fn pattern(&self) -> Option<&str> {
        match self {
            Filter::Reference(pattern) => Some(pattern),
            _ => None,
        }
    }

    /// Whether an image passes.
    pub fn allows(&self, image: &ImageSummary, dangling: bool) -> bool {
        let has = |key: &String, value: &Option<String>| match (image.labels.get(key), value) {
            (Some(found), Some(value)) => found == value,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        };
        match self {
            Filter::Reference(_) | Filter::Before(_) | Filter::Since(_) => true,
            Filter::Dangling(wanted) => dangling == *wanted,
            Filter::Label(key, value) => has(key, value),
            Filter::NoLabel(key, value) => !has(key, value),
            Filter::Until(instant) => created(image).is_some_and(|made| made < *instant),
            Filter::After(instant) => created(image).is_some_and(|made| made > *instant),
        }
    }
}

/// Turns names of other images into times.
///
/// # Errors
/// [`CliError::Failed`] if there is no such image.
pub fn resolve(filters: &mut [Filter], images: &[ImageSummary]) -> Result<(), CliError> {
    for filter in filters {
        let (Filter::Before(name) | Filter::Since(name)) = &*filter else {
            continue;
        };
        let wanted = super::super::pull::with_tag(name);
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let found = images.iter().find(|image| {
            let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
            image
                .tags
                .iter()
                .any(|(repository, tag)| format!("{repository}:{tag}") == wanted)
                || (hex.len() >= 4 && id.starts_with(hex))
        });
        let Some(found) = found else {
            return Err(CliError::Failed(format!("no such image: {name}")));
        };
        let made = created(found).unwrap_or_default();
        *filter = match filter {
            Filter::Before(_) => Filter::Until(made),
            _ => Filter::After(made),
        };
    }
    Ok(())
}
