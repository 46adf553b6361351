//! The documents of an image: OCI image specification 1.1 (index, manifest, config) and their
//! Docker predecessors, which differ in media types only.
//!
//! Parsing is tolerant of what is unknown, which is kept and written back, and strict about
//! what is ambiguous: a document that two clients could read as two different images is refused
//! (CVE-2021-41190). The caller keeps the raw bytes; they, not these types, are the image.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::digest::Digest;

mod config;
mod platform;

pub use config::{History, ImageConfig, RootFs, RuntimeConfig};
pub use platform::{Platform, PlatformError, choose};

/// Largest JSON document that is read, in bytes (CVE-2023-25153).
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// Media types that Gantry writes or tells apart.
pub mod media_type {
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// What a registry sends with `Accept` to get any of the four.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
         application/vnd.oci.image.manifest.v1+json, \
         application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.docker.distribution.manifest.v2+json";
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// More than [`DOCUMENT_LIMIT`] bytes.
    #[error("{document} of {length} bytes is larger than {DOCUMENT_LIMIT} bytes")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its length, or as much as was seen.
        length: u64,
    },
    /// Not JSON, or not of the expected shape.
    #[error("malformed {document}")]
    Malformed {
        /// Which document.
        document: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Two clients could read two different images out of it (CVE-2021-41190).
    #[error("ambiguous manifest: {reason}")]
    Ambiguous {
        /// What is in conflict.
        reason: String,
    },
    /// Docker's manifest format of 2015.
    #[error(
        "manifest schema 1 is no longer supported: the image must be pushed again with a current tool"
    )]
    SchemaOne,
    /// Some other document.
    #[error("{media_type:?} is not an image: {hint}")]
    NotAnImage {
        /// Its media type.
        media_type: String,
        /// What it may be.
        hint: &'static str,
    },
}

/// A reference to content by digest (descriptor.md).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    /// Where else the content is said to be. Never fetched from (CVE-2020-15157).
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields without a type here.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor without optional fields.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            extra: BTreeMap::new(),
        }
    }

    /// Whether this entry of an index is an attestation (provenance, SBOM) and not an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

/// What a descriptor of a manifest refers to as a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A layer that every registry may hold.
    Distributable,
    /// A layer that the registry need not have (`foreign`, `nondistributable`).
    Nondistributable,
}

/// What kind of layer `media_type` is, or `None` if it is no layer of a file system.
pub fn layer_kind(media_type: &str) -> Option<LayerKind> {
    let media_type = media_type.to_ascii_lowercase();
    let (base, kind) = [
        (
            "application/vnd.oci.image.layer.v1.tar",
            LayerKind::Distributable,
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            LayerKind::Distributable,
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            LayerKind::Nondistributable,
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            LayerKind::Nondistributable,
        ),
    ]
    .into_iter()
    .find(|(base, _)| media_type.starts_with(base))?;
    // The compression is read off the content, since these suffixes are often wrong.
    matches!(
        &media_type[base.len()..],
        "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"
    )
    .then_some(kind)
}

/// An image manifest (manifest.md).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; absent in some OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields without a type here.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// An image index (image-index.md), or Docker's manifest list.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document; absent in some OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields without a type here.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// What a registry serves under `manifests/`.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// An image manifest.
    Manifest(Box<Manifest>),
    /// An image index.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index. `content_type` is what the transport or the descriptor said
    /// about it, if anything.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ModelError> {
        let fields = top_level(bytes)?;
        let claimed = content_type
            .map(essence)
            .filter(|t| t.starts_with("application/vnd."));
        if let (Some(body), Some(claimed)) = (&fields.media_type, &claimed)
            && body != claimed
        {
            let reason = format!("its mediaType is {body:?}, but it was served as {claimed:?}");
            return Err(ModelError::Ambiguous { reason });
        }
        let media_type = fields.media_type.or(claimed);
        if fields.schema_one || media_type.as_deref().is_some_and(is_schema_one) {
            return Err(ModelError::SchemaOne);
        }
        let is_manifest = match media_type.as_deref() {
            Some(media_type::MANIFEST | media_type::DOCKER_MANIFEST) => Some(true),
            Some(media_type::INDEX | media_type::DOCKER_INDEX) => Some(false),
            None => None,
            Some(other) => {
                let hint = "expected an image manifest or index";
                return Err(ModelError::NotAnImage {
                    media_type: other.to_owned(),
                    hint,
                });
            }
        };
        let ambiguous = |reason: &str| {
            Err(ModelError::Ambiguous {
                reason: reason.to_owned(),
            })
        };
        match (is_manifest, fields.of_index, fields.of_manifest) {
            (_, true, true) => ambiguous("it has the fields of an index and of a manifest"),
            (Some(true), true, _) => {
                ambiguous("it is called a manifest and has the fields of an index")
            }
            (Some(false), _, true) => {
                ambiguous("it is called an index and has the fields of a manifest")
            }
            (Some(false), ..) | (None, true, false) => {
                let index: Index = parse("image index", bytes)?;
                check_fields(&index.manifests)?;
                Ok(Self::Index(index))
            }
            (Some(true), ..) | (None, false, _) => {
                let manifest: Manifest = parse("image manifest", bytes)?;
                check_fields(manifest.layers.iter().chain([&manifest.config]))?;
                Ok(Self::Manifest(Box::new(manifest)))
            }
        }
    }
}

/// Refuses descriptors of which a reader that matches names without regard to case would take
/// another digest, size or type (CVE-2021-41190).
fn check_fields<'a>(
    descriptors: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<(), ModelError> {
    let mut names = descriptors.into_iter().flat_map(|one| one.extra.keys());
    let doubtful = names.find(|name| {
        let known = [
            "mediaType",
            "digest",
            "size",
            "urls",
            "annotations",
            "platform",
        ];
        known.iter().any(|known| name.eq_ignore_ascii_case(known))
    });
    match doubtful {
        None => Ok(()),
        Some(name) => Err(ModelError::Ambiguous {
            reason: format!(
                "a descriptor has the field {name:?}, in another case than it should be"
            ),
        }),
    }
}

/// The media type without parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn is_schema_one(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

fn parse<'de, T: Deserialize<'de>>(
    document: &'static str,
    bytes: &'de [u8],
) -> Result<T, ModelError> {
    let length = bytes.len() as u64;
    if length > DOCUMENT_LIMIT {
        return Err(ModelError::TooLarge { document, length });
    }
    serde_json::from_slice(bytes).map_err(|source| ModelError::Malformed { document, source })
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Which of the fields that decide what a document is are there.
#[derive(Default)]
struct TopLevel {
    media_type: Option<String>,
    of_index: bool,
    of_manifest: bool,
    schema_one: bool,
}

/// Fields that readers must agree on.
const DECIDING: [&str; 8] = [
    "mediaType",
    "subject",
    "manifests",
    "layers",
    "config",
    "schemaVersion",
    "fsLayers",
    "signatures",
];

fn top_level(bytes: &[u8]) -> Result<TopLevel, ModelError> {
    struct Fields(Vec<(String, Option<Value>)>);
    impl<'de> Deserialize<'de> for Fields {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Names;
            impl<'de> Visitor<'de> for Names {
                type Value = Fields;
                fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    formatter.write_str("a JSON object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                    let mut fields = Vec::new();
                    while let Some(name) = map.next_key::<String>()? {
                        let value = if matches!(name.as_str(), "mediaType" | "schemaVersion") {
                            Some(map.next_value()?)
                        } else {
                            map.next_value::<IgnoredAny>()?;
                            None
                        };
                        if DECIDING
                            .iter()
                            .any(|known| name.eq_ignore_ascii_case(known))
                        {
                            fields.push((name, value));
                        }
                    }
                    Ok(Fields(fields))
                }
            }
            deserializer.deserialize_map(Names)
        }
    }
    let Fields(fields) = parse("manifest", bytes)?;
    let mut result = TopLevel::default();
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in &fields {
        // Some JSON readers match names without regard to case and take the last of several.
        if !DECIDING.contains(&name.as_str()) || seen.contains(&name.as_str()) {
            return Err(ModelError::Ambiguous {
                reason: format!("the field {name:?} occurs twice or in another case"),
            });
        }
        seen.push(name);
        match name.as_str() {
            "mediaType" => result.media_type = value.as_ref().and_then(Value::as_str).map(essence),
            "manifests" => result.of_index = true,
            "layers" | "config" => result.of_manifest = true,
            "schemaVersion" => {
                result.schema_one |= value.as_ref().and_then(Value::as_u64) == Some(1)
            }
            "fsLayers" => result.schema_one = true,
            _ => {}
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests;
