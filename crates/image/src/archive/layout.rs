//! What an archive says it holds: `index.json` of an OCI layout, `manifest.json` of a
//! docker-archive. Pure functions from bytes to values.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::model::ModelError;
use crate::reference::Reference;

/// Annotation with the whole name, as containerd and Docker write it.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation with a tag, or with what the writer calls the image (annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Images of one docker-archive.
const MOST_IMAGES: usize = 10_000;

/// One image of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ArchivedImage {
    /// Name of the config's file.
    pub(super) config: String,
    /// Names, as `repository:tag`.
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    /// Names of the layers' files, bottom first.
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
    /// Fields without a meaning here.
    #[serde(flatten, skip_serializing)]
    pub(super) extra: BTreeMap<String, IgnoredAny>,
}

/// Reads `manifest.json`.
pub(super) fn parse_manifest_json(bytes: &[u8]) -> Result<Vec<ArchivedImage>, ModelError> {
    let images: Vec<ArchivedImage> =
        serde_json::from_slice(bytes).map_err(|source| ModelError::Malformed {
            document: "manifest.json",
            source,
        })?;
    // Docker matches names without regard to case and takes the last of several (CVE-2021-41190).
    let doubtful = images
        .iter()
        .flat_map(|image| image.extra.keys())
        .find(|name| {
            let known = ["Config", "RepoTags", "Layers"];
            known.iter().any(|known| name.eq_ignore_ascii_case(known))
        });
    if let Some(name) = doubtful {
        return Err(ModelError::Ambiguous {
            reason: format!(
                "manifest.json has the field {name:?}, in another case than it should be"
            ),
        });
    }
    if images.len() > MOST_IMAGES {
        return Err(ModelError::Ambiguous {
            reason: format!("manifest.json names more than {MOST_IMAGES} images"),
        });
    }
    Ok(images)
}

/// The digest that a config's file name promises: `HEX.json` or `blobs/sha256/HEX`; `None` if it
/// promises none.
pub(super) fn promised_digest(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next().unwrap_or(path);
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name))
}

/// The name that annotations of `index.json` give an image. A mere tag is none.
pub(super) fn annotated_name(annotations: &BTreeMap<String, String>) -> Option<Reference> {
    let whole = annotations.get(IMAGE_NAME);
    let name = whole.or_else(|| {
        annotations
            .get(REF_NAME)
            .filter(|name| name.contains([':', '/']))
    })?;
    tagged(name)
}

/// A name with a tag; names by digest name nothing that could be kept.
pub(super) fn tagged(name: &str) -> Option<Reference> {
    let reference = Reference::parse(name).ok()?;
    if reference.digest().is_some() {
        return None;
    }
    Some(reference.with_default_tag())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (annotations, name) in [
            (
                &[(IMAGE_NAME, "docker.io/library/a:1"), (REF_NAME, "1")][..],
                Some("a:1"),
            ),
            (&[(REF_NAME, "latest")], None),
            (&[(REF_NAME, "busybox:1.36")], Some("busybox:1.36")),
            (&[(REF_NAME, "localhost/x")], Some("localhost/x:latest")),
            (&[(IMAGE_NAME, "../../etc")], None),
            (&[(IMAGE_NAME, "a@sha256:00")], None),
            (&[], None),
        ] {
            let annotations = annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let found = annotated_name(&annotations).map(|name| name.familiar());
            assert_eq!(found.as_deref(), name, "{annotations:?}");
        }
    }

    /// CVE-2014-9358: an id is a digest or nothing.
    #[test]
    fn ids() {
        let hex = "0".repeat(64);
        assert!(promised_digest(&format!("{hex}.json")).is_some());
        assert!(promised_digest(&format!("blobs/sha256/{hex}")).is_some());
        for path in ["config.json", "../x", &"A".repeat(64), ""] {
            assert!(promised_digest(path).is_none(), "{path}");
        }
        assert!(parse_manifest_json(b"{}").is_err());
        assert!(
            parse_manifest_json(b"[{\"Config\":\"a\",\"RepoTags\":null,\"Layers\":null}]").is_ok()
        );
    }
}
