//! Images in Docker's JSON form.

use gantry_supervisor::log::format_time;
use serde_json::{Map, Value, json};

use super::{familiar_repository, parse_config};
use crate::Engine;
use crate::error::Error;
use crate::inspect::NEVER;
use crate::store::TagRow;

impl Engine {
    /// An image in Docker's form (`GET /images/{name}/json`).
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Store`].
    pub fn inspect_image(&self, name: &str) -> Result<Value, Error> {
        self.inspect_image_for(name, None)
    }

    /// [`Engine::inspect_image`] for a platform.
    ///
    /// # Errors
    /// As [`Engine::inspect_image`], [`super::ImageError::OtherPlatform`].
    pub fn inspect_image_for(&self, name: &str, platform: Option<&str>) -> Result<Value, Error> {
        let row = self.find_image_of(name, platform)?;
        let config = parse_config(&row)?;
        let (tags, facts, variants) = {
            let store = self.store()?;
            (store.tags()?, store.tag_facts()?, store.variants()?)
        };
        // An index's names are those of all its images, whichever is used under them.
        let of_index = |tag: &&TagRow| {
            facts.iter().any(|fact| {
                fact.repository == tag.repository
                    && fact.tag == tag.tag
                    && variants
                        .iter()
                        .any(|(target, image)| *target == fact.target && *image == row.id)
            })
        };
        let names = tags
            .iter()
            .filter(|tag| tag.image_id == row.id || of_index(tag));
        let named = names.clone().filter(|tag| !tag.tag.is_empty());
        let repo_tags: Vec<String> = named
            .clone()
            .map(|tag| format!("{}:{}", familiar_repository(&tag.repository), tag.tag))
            .collect();
        let mut repo_digests: Vec<String> = names
            .filter(|tag| !tag.digest.is_empty())
            .map(|tag| format!("{}@{}", familiar_repository(&tag.repository), tag.digest))
            .collect();
        repo_digests.sort_unstable();
        repo_digests.dedup();
        let last_tagged = facts
            .iter()
            .filter(|fact| {
                named
                    .clone()
                    .any(|tag| tag.repository == fact.repository && tag.tag == fact.tag)
            })
            .map(|fact| fact.tagged_at)
            .max();
        let comment = config.history.last().and_then(|step| step.comment.clone());
        let layers: Vec<String> = config
            .rootfs
            .diff_ids
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut whole = Map::new();
        let mut put = |name: &str, value: Value| {
            whole.insert(name.into(), value);
        };
        put("Id", json!(row.id));
        put("RepoTags", json!(repo_tags));
        put("RepoDigests", json!(repo_digests));
        put("Parent", json!(""));
        put("Comment", json!(comment.unwrap_or_default()));
        put("Created", json!(config.created));
        put(
            "DockerVersion",
            config
                .extra
                .get("docker_version")
                .cloned()
                .unwrap_or_else(|| json!("")),
        );
        put("Author", json!(config.author.clone().unwrap_or_default()));
        put("Config", docker_config(&config));
        put("Architecture", json!(config.architecture));
        if let Some(variant) = config.variant.as_deref().filter(|text| !text.is_empty()) {
            put("Variant", json!(variant));
        }
        put("Os", json!(config.os));
        for (field, name) in [("os.version", "OsVersion"), ("os.features", "OsFeatures")] {
            if let Some(value) = config.extra.get(field) {
                put(name, value.clone());
            }
        }
        put("Size", json!(row.size));
        put("GraphDriver", json!({"Data": null, "Name": "overlayfs"}));
        put("RootFS", json!({"Type": "layers", "Layers": layers}));
        put(
            "Metadata",
            json!({"LastTagTime": last_tagged.map_or_else(|| NEVER.to_owned(), format_time)}),
        );
        // Docker's client fills this in from the registry; here it is what tags stand for.
        put("Descriptor", self.descriptor(&row)?);
        Ok(Value::Object(whole))
    }

    fn descriptor(&self, row: &crate::store::ImageRow) -> Result<Value, Error> {
        let content = self.content()?;
        let Ok((digest, manifest)) = super::manifest_of(&content, row) else {
            return Ok(Value::Null);
        };
        let size = content.blob_size(&digest).map_err(super::content_error)?;
        let media_type = manifest
            .media_type
            .unwrap_or_else(|| gantry_image::model::media_type::MANIFEST.into());
        Ok(json!({"mediaType": media_type, "digest": digest, "size": size}))
    }
}

/// The configuration with every field that Docker shows, whether the image says it or not.
fn docker_config(config: &gantry_image::model::ImageConfig) -> Value {
    let given = serde_json::to_value(&config.config).unwrap_or_default();
    let mut whole = Map::new();
    let defaults = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null,
        "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null,
        "OnBuild": null, "Labels": null,
    });
    for source in [&defaults, &given] {
        for (name, value) in source.as_object().into_iter().flatten() {
            whole.insert(name.clone(), value.clone());
        }
    }
    Value::Object(whole)
}
