//! What the registry has to know of a manifest: its media type and what it refers to.

use std::collections::HashMap;

use gantry_image::Digest;
use gantry_image::model::{
    DOCUMENT_LIMIT, Descriptor, Document, LayerKind, layer_kind, media_type,
};
use serde_json::{Map, Value, json};

use crate::fault::Fault;

/// Commas, colons and brackets of a document: about the number of its values. A manifest of the
/// largest size could hold two million, which take sixty times as much memory as text.
const STRUCTURE_LIMIT: usize = 400_000;
/// Most blobs or manifests that one manifest refers to. The largest images have some hundred.
const REFERENCES_LIMIT: usize = 10_000;

/// What a manifest refers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outline {
    pub(crate) media_type: String,
    /// Config and layers that the repository must have.
    pub(crate) blobs: Vec<Digest>,
    /// Config and layers that it may lack, since they are not for distribution.
    pub(crate) optional_blobs: Vec<Digest>,
    /// Manifests of an index.
    pub(crate) manifests: Vec<Child>,
    /// The manifest that this one refers to.
    pub(crate) subject: Option<Digest>,
    sizes: HashMap<Digest, u64>,
    artifact_type: Option<String>,
    annotations: Map<String, Value>,
}

/// A manifest of an index.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Child {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Whether it is for linux on amd64, what clients without indexes get.
    pub(crate) is_default: bool,
}

impl Outline {
    /// Reads a manifest. `content_type` is what it came with, if anything.
    pub(crate) fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Fault> {
        let structure = bytes
            .iter()
            .filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{'))
            .count();
        if structure > STRUCTURE_LIMIT {
            return Err(Fault::manifest_invalid("the manifest has too many values"));
        }
        let document = Document::parse(bytes, content_type)
            .map_err(|error| Fault::manifest_invalid(crate::fault::chain(&error)))?;
        let outline = match document {
            Document::Manifest(manifest) => {
                let default_type = content_type.filter(|t| is_docker(t));
                let subject = descriptor(manifest.extra.get("subject"))?;
                let (mut blobs, mut optional_blobs) = (vec![manifest.config.digest], Vec::new());
                for layer in &manifest.layers {
                    let kind = layer_kind(&layer.media_type);
                    if kind == Some(LayerKind::Nondistributable) {
                        optional_blobs.push(layer.digest);
                    } else {
                        blobs.push(layer.digest);
                    }
                }
                let described = manifest.layers.iter().chain([&manifest.config]);
                let sizes = described.map(|blob| (blob.digest, blob.size)).collect();
                let artifact_type = text(manifest.extra.get("artifactType"))
                    .or_else(|| Some(manifest.config.media_type.clone()));
                Self {
                    media_type: manifest.media_type.unwrap_or_else(|| {
                        default_type
                            .map_or(media_type::MANIFEST, |_| media_type::DOCKER_MANIFEST)
                            .to_owned()
                    }),
                    blobs,
                    optional_blobs,
                    manifests: Vec::new(),
                    subject: subject.map(|subject| subject.digest),
                    sizes,
                    artifact_type,
                    annotations: annotations(manifest.annotations),
                }
            }
            Document::Index(index) => {
                let default_type = content_type.filter(|t| is_docker(t));
                let subject = descriptor(index.extra.get("subject"))?;
                let children = index.manifests.iter().map(|child| Child {
                    digest: child.digest,
                    media_type: child.media_type.clone(),
                    is_default: child.platform.as_ref().is_some_and(|platform| {
                        platform.os == "linux" && platform.architecture == "amd64"
                    }),
                });
                Self {
                    media_type: index.media_type.unwrap_or_else(|| {
                        default_type
                            .map_or(media_type::INDEX, |_| media_type::DOCKER_INDEX)
                            .to_owned()
                    }),
                    blobs: Vec::new(),
                    optional_blobs: Vec::new(),
                    manifests: children.collect(),
                    subject: subject.map(|subject| subject.digest),
                    sizes: HashMap::new(),
                    artifact_type: text(index.extra.get("artifactType")),
                    annotations: annotations(index.annotations),
                }
            }
        };
        let references =
            outline.blobs.len() + outline.optional_blobs.len() + outline.manifests.len();
        if references > REFERENCES_LIMIT {
            return Err(Fault::manifest_invalid("the manifest refers to too much"));
        }
        Ok(outline)
    }

    /// Every blob that it refers to.
    pub(crate) fn all_blobs(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().chain(&self.optional_blobs)
    }

    /// Bytes of a blob that it refers to, as its descriptor states them.
    pub(crate) fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    /// Its descriptor as the list of referrers has it (specification, "Listing referrers").
    pub(crate) fn descriptor(&self, digest: &Digest, size: usize) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type,
            "digest": digest.to_string(),
            "size": size,
        });
        if let Some(artifact_type) = &self.artifact_type {
            descriptor["artifactType"] = json!(artifact_type);
        }
        if !self.annotations.is_empty() {
            descriptor["annotations"] = Value::Object(self.annotations.clone());
        }
        descriptor
    }
}

fn is_docker(content_type: &str) -> bool {
    content_type
        .trim()
        .starts_with("application/vnd.docker.distribution.manifest.")
}

fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn annotations(all: std::collections::BTreeMap<String, String>) -> Map<String, Value> {
    all.into_iter()
        .map(|(key, value)| (key, Value::String(value)))
        .collect()
}

fn descriptor(value: Option<&Value>) -> Result<Option<Descriptor>, Fault> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| Fault::manifest_invalid(format!("malformed subject: {error}"))),
    }
}

/// The largest manifest in bytes (CVE-2023-25153).
pub(crate) const LIMIT: u64 = DOCUMENT_LIMIT;

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn read(value: &Value, content_type: Option<&str>) -> Result<Outline, Fault> {
        Outline::read(value.to_string().as_bytes(), content_type)
    }

    #[test]
    fn manifests_and_indexes() {
        let blob =
            |digest: &str, kind: &str| json!({ "mediaType": kind, "digest": digest, "size": 1 });
        let manifest = json!({
            "schemaVersion": 2,
            "config": blob(A, "application/x"),
            "layers": [blob(B, media_type::LAYER), blob(A, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")],
            "subject": blob(B, media_type::MANIFEST),
            "annotations": { "k": "v" },
        });
        let outline = read(&manifest, None).unwrap();
        assert_eq!(outline.media_type, media_type::MANIFEST);
        assert_eq!(outline.blobs, [A.parse().unwrap(), B.parse().unwrap()]);
        assert_eq!(outline.optional_blobs, [A.parse().unwrap()]);
        assert_eq!(outline.subject, Some(B.parse().unwrap()));
        let descriptor = outline.descriptor(&A.parse().unwrap(), 7);
        assert_eq!(descriptor["artifactType"], "application/x");
        assert_eq!(descriptor["annotations"]["k"], "v");
        let docker = read(&manifest, Some(media_type::DOCKER_MANIFEST)).unwrap();
        assert_eq!(docker.media_type, media_type::DOCKER_MANIFEST);

        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::INDEX, "artifactType": "application/y",
            "manifests": [{ "mediaType": media_type::MANIFEST, "digest": A, "size": 1,
                "platform": { "os": "linux", "architecture": "amd64" } }],
        });
        let outline = read(&index, Some(media_type::INDEX)).unwrap();
        assert!(outline.manifests[0].is_default && outline.blobs.is_empty());
        assert_eq!(
            outline.descriptor(&A.parse().unwrap(), 7)["artifactType"],
            "application/y"
        );
    }

    /// CVE-2021-41190 and its kin, and documents made to be expensive.
    #[test]
    fn refuses() {
        let config = json!({ "mediaType": "application/x", "digest": A, "size": 1 });
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let wide = format!("{{\"schemaVersion\":2,\"x\":[{}0]}}", "0,".repeat(1 << 20));
        let many = json!({ "schemaVersion": 2, "config": config, "layers": vec![&config; 10_001] });
        let both = json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] });
        let sha512 = json!({ "schemaVersion": 2, "config": { "digest": format!("sha512:{}", "a".repeat(128)), "size": 1 } });
        let path = json!({ "schemaVersion": 2, "config": { "digest": "sha256:../../etc/passwd", "size": 1 } });
        let subject = json!({ "schemaVersion": 2, "config": config, "subject": { "digest": "x" } });
        for text in [
            String::new(),
            "x".into(),
            "[]".into(),
            "null".into(),
            deep,
            wide,
            many.to_string(),
            both.to_string(),
            sha512.to_string(),
            path.to_string(),
            subject.to_string(),
            json!({ "schemaVersion": 1, "fsLayers": [] }).to_string(),
        ] {
            let fault = Outline::read(text.as_bytes(), None).unwrap_err();
            assert_eq!(fault.code, "MANIFEST_INVALID", "{:.80}", text);
        }
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config });
        assert!(read(&manifest, Some(media_type::INDEX)).is_err());
        assert!(read(&manifest, Some(media_type::MANIFEST)).is_ok());
    }
}
