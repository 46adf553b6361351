//! Lists of images.

use std::collections::BTreeMap;

use gantry_image::digest::Digest;
use gantry_image::model::{DOCUMENT_LIMIT, Document, ImageConfig, Platform};

use super::familiar_repository;
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, TagRow};

/// An image as a list shows it.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// Id.
    pub id: String,
    /// Names: repository in its short form, and tag.
    pub tags: Vec<(String, String)>,
    /// Names by digest.
    pub digests: Vec<String>,
    /// Creation, as RFC 3339.
    pub created: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of containers that use it.
    pub containers: u64,
    /// Whether it has no tag of its own but belongs to an index that has one.
    pub variant: bool,
}

/// A name with the images of all platforms behind it.
#[derive(Clone, Debug)]
pub struct ImageTree {
    /// Names of one and the same target, as `repository:tag`; empty for an image without one.
    pub names: Vec<String>,
    /// Digest of the index or manifest, or the image's id.
    pub id: String,
    /// Ids of the images that are here.
    pub images: Vec<String>,
    /// Creation of the newest image, as RFC 3339.
    pub created: Option<String>,
    /// Bytes on the disk of all images: unpacked layers and blobs.
    pub disk_usage: u64,
    /// Bytes of the blobs that are here.
    pub content_size: u64,
    /// Whether a container uses one of the images.
    pub in_use: bool,
    /// Platforms, in the order of the index.
    pub platforms: Vec<PlatformNode>,
}

/// One platform of an [`ImageTree`].
#[derive(Clone, Debug)]
pub struct PlatformNode {
    /// Name, such as `linux/amd64`.
    pub platform: String,
    /// Digest of the manifest.
    pub id: String,
    /// Whether it is here.
    pub available: bool,
    /// Bytes on the disk.
    pub disk_usage: u64,
    /// Bytes of the blobs that are here.
    pub content_size: u64,
    /// Whether a container uses it.
    pub in_use: bool,
}

impl Engine {
    /// Lists images, the newest first. One whose configuration is damaged is listed without
    /// what that says.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        let store = self.store()?;
        let tags = store.tags()?;
        let (facts, variants) = (store.tag_facts()?, store.variants()?);
        let mut summaries = Vec::new();
        for row in store.images()? {
            let config = ImageConfig::parse(&row.config).unwrap_or_default();
            let names = tags.iter().filter(|tag| tag.image_id == row.id);
            let named = names.clone().filter(|tag| !tag.tag.is_empty());
            let digests = names.filter(|tag| !tag.digest.is_empty());
            let mut digests: Vec<String> = digests
                .map(|tag| format!("{}@{}", familiar_repository(&tag.repository), tag.digest))
                .collect();
            digests.sort_unstable();
            digests.dedup();
            let variant = named.clone().next().is_none()
                && variants.iter().any(|(target, image)| {
                    *image == row.id && facts.iter().any(|fact| fact.target == *target)
                });
            summaries.push(ImageSummary {
                variant,
                tags: named
                    .map(|tag| (familiar_repository(&tag.repository), tag.tag.clone()))
                    .collect(),
                digests,
                created: config.created.clone(),
                size: u64::try_from(row.size).unwrap_or_default(),
                labels: config.config.labels.clone(),
                containers: store.image_users(&row.id)?.len() as u64,
                id: row.id,
            });
        }
        summaries.sort_by(|one, other| other.created.cmp(&one.created));
        Ok(summaries)
    }

    /// Lists names with the platforms behind them.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Content`].
    pub fn image_trees(&self) -> Result<Vec<ImageTree>, Error> {
        let content = self.content()?;
        let (rows, tags, variants) = {
            let store = self.store()?;
            (store.images()?, store.tags()?, store.variants()?)
        };
        let mut targets: BTreeMap<String, (Vec<String>, Vec<&ImageRow>)> = BTreeMap::new();
        for row in &rows {
            let named: Vec<&TagRow> = tags.iter().filter(|tag| tag.image_id == row.id).collect();
            let mut known = false;
            for tag in named.iter().filter(|tag| !tag.tag.is_empty()) {
                let held = targets.entry(self.target_of(tag)?).or_default();
                let repository = familiar_repository(&tag.repository);
                held.0.push(format!("{repository}:{}", tag.tag));
                held.1.push(row);
                known = true;
            }
            for (target, _) in variants.iter().filter(|(_, image)| *image == row.id) {
                targets.entry(target.clone()).or_default().1.push(row);
                known = true;
            }
            if !known {
                targets.entry(row.manifest.clone()).or_default().1.push(row);
            }
        }
        let mut trees = Vec::new();
        for (target, (mut names, mut rows)) in targets {
            names.sort_unstable();
            names.dedup();
            rows.sort_by(|one, other| one.id.cmp(&other.id));
            rows.dedup_by(|one, other| one.id == other.id);
            let mut platforms = Vec::new();
            for (manifest, platform) in platforms_of(&content, &target) {
                let row = rows.iter().find(|row| row.manifest == manifest);
                platforms.push(self.platform_node(&content, platform, manifest, row.copied())?);
            }
            for row in &rows {
                if !platforms.iter().any(|node| node.id == row.manifest) {
                    let config = ImageConfig::parse(&row.config).unwrap_or_default();
                    let name = config.platform().to_string();
                    platforms.push(self.platform_node(
                        &content,
                        name,
                        row.manifest.clone(),
                        Some(row),
                    )?);
                }
            }
            let created = rows
                .iter()
                .filter_map(|row| ImageConfig::parse(&row.config).ok()?.created)
                .max();
            trees.push(ImageTree {
                names,
                id: target,
                images: rows.iter().map(|row| row.id.clone()).collect(),
                created,
                disk_usage: platforms.iter().map(|node| node.disk_usage).sum(),
                content_size: platforms.iter().map(|node| node.content_size).sum(),
                in_use: platforms.iter().any(|node| node.in_use),
                platforms,
            });
        }
        trees.sort_by(|one, other| other.created.cmp(&one.created));
        Ok(trees)
    }

    fn platform_node(
        &self,
        content: &gantry_image::store::Store,
        platform: String,
        manifest: String,
        row: Option<&ImageRow>,
    ) -> Result<PlatformNode, Error> {
        let blobs = manifest
            .parse::<Digest>()
            .ok()
            .and_then(|digest| gantry_image::archive::reachable(content, &digest).ok())
            .unwrap_or_default();
        let content_size: u64 = blobs
            .iter()
            .filter_map(|blob| content.blob_size(blob).ok())
            .sum();
        let unpacked = row.map_or(0, |row| u64::try_from(row.size).unwrap_or_default());
        let in_use = match row {
            Some(row) => !self.store()?.image_users(&row.id)?.is_empty(),
            None => false,
        };
        Ok(PlatformNode {
            platform,
            id: manifest,
            available: row.is_some(),
            disk_usage: if row.is_some() {
                unpacked + content_size
            } else {
                0
            },
            content_size,
            in_use,
        })
    }
}

/// Manifests and platforms of an index; nothing for a manifest.
fn platforms_of(content: &gantry_image::store::Store, target: &str) -> Vec<(String, String)> {
    let Ok(digest) = target.parse::<Digest>() else {
        return Vec::new();
    };
    let Ok(bytes) = content.read_blob(&digest, DOCUMENT_LIMIT) else {
        return Vec::new();
    };
    match Document::parse(&bytes, None) {
        Ok(Document::Index(index)) => index
            .manifests
            .iter()
            .filter(|entry| !entry.is_attestation())
            .map(|entry| {
                let platform = entry.platform.as_ref().map(Platform::to_string);
                (entry.digest.to_string(), platform.unwrap_or_default())
            })
            .collect(),
        _ => Vec::new(),
    }
}
