//! Where the disk space went: every block below the data root, once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gantry_image::digest::Digest;
use gantry_image::store::Layers;

use super::{content_error, familiar_repository, parse_config};
use crate::Engine;
use crate::error::Error;

/// What the space is used for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum UsageKind {
    /// Blobs and unpacked layers.
    Images,
    /// Writable layers of containers.
    Containers,
    /// Volumes.
    Volumes,
    /// What builds keep.
    BuildCache,
    /// Logs of containers.
    Logs,
    /// The state store and the directories themselves.
    Other,
}

/// One line: all objects of a kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsageItem {
    /// Kind.
    pub kind: UsageKind,
    /// Number of objects.
    pub total: u64,
    /// Number of objects in use.
    pub active: u64,
    /// Bytes on the disk.
    pub size: u64,
    /// Bytes that pruning would free.
    pub reclaimable: u64,
}

/// One object of a detailed report.
#[derive(Clone, Debug, Default)]
pub struct UsageObject {
    /// Id or name.
    pub id: String,
    /// Names of an image, `repository` and `tag`; the image of a container.
    pub names: Vec<(String, String)>,
    /// Creation, as RFC 3339 or in seconds since 1970 for containers.
    pub created: Option<String>,
    /// Bytes on the disk.
    pub size: u64,
    /// Of these, bytes that other images use as well.
    pub shared: u64,
    /// Number of containers that use it.
    pub users: u64,
}

/// The whole report.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// A line for each kind; their sizes are what `du` says of the data root.
    pub items: Vec<UsageItem>,
    /// Images.
    pub images: Vec<UsageObject>,
    /// Containers by id.
    pub containers: BTreeMap<String, u64>,
    /// Volumes.
    pub volumes: Vec<UsageObject>,
}

/// Allocated bytes below a path, by inode, so that hard links count once.
struct Meter {
    seen: BTreeSet<(u64, u64)>,
}

impl Meter {
    fn of(&mut self, path: &Path) -> u64 {
        let mut size = 0;
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            // What another command removes meanwhile has no size.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let linked = metadata.nlink() > 1 && !metadata.is_dir();
            if linked && !self.seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            size += metadata.blocks() * 512;
            if metadata.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                open.extend(entries.map(|entry| entry.path()));
            }
        }
        size
    }
}

/// Bytes in the regular files below a path, hard links once.
pub(super) fn measure_files(path: &Path) -> io::Result<u64> {
    let mut seen = BTreeSet::new();
    let mut size = 0;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file()
                && (metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())))
            {
                size += metadata.len();
            }
        }
    }
    Ok(size)
}

fn entries(path: &Path) -> Vec<(String, std::path::PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    found.sort_unstable();
    found
}

impl Engine {
    /// Measures the data root.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Content`].
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let data = &self.roots.data;
        let mut meter = Meter {
            seen: BTreeSet::new(),
        };
        let mut sizes: BTreeMap<UsageKind, u64> = BTreeMap::new();
        let mut containers = BTreeMap::new();
        let mut volumes = BTreeMap::new();
        let mut parts: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut damaged = 0;
        let own = |path: &Path| fs::symlink_metadata(path).map_or(0, |data| data.blocks() * 512);
        let mut add = |kind, size: u64| *sizes.entry(kind).or_default() += size;
        add(UsageKind::Other, own(data));
        for (name, path) in entries(data) {
            match name.as_str() {
                "blobs" | "layers" => {
                    let inner = path.join("sha256");
                    // Records that are being written.
                    for (_, path) in entries(&path).iter().filter(|(_, path)| *path != inner) {
                        add(UsageKind::Images, meter.of(path));
                    }
                    add(UsageKind::Images, own(&path) + own(&inner));
                    let layers = Layers::open(data).ok().filter(|_| name == "layers");
                    for (name, path) in entries(&inner) {
                        let size = meter.of(&path);
                        add(UsageKind::Images, size);
                        let stem = name.split('.').next().unwrap_or_default();
                        let Some(digest) = Digest::from_hex(stem) else {
                            continue;
                        };
                        // What a power cut has damaged is no image's any more.
                        if layers
                            .as_ref()
                            .is_some_and(|layers| !layers.is_usable(&digest).unwrap_or(true))
                        {
                            damaged += size;
                        } else {
                            *parts.entry(digest).or_default() += size;
                        }
                    }
                }
                "ingest" => add(UsageKind::Images, meter.of(&path)),
                "containers" => {
                    add(UsageKind::Other, own(&path));
                    for (id, path) in entries(&path) {
                        add(UsageKind::Containers, own(&path));
                        let mut size = own(&path);
                        for (name, path) in entries(&path) {
                            let found = meter.of(&path);
                            if name.starts_with("json.log") {
                                add(UsageKind::Logs, found);
                            } else {
                                add(UsageKind::Containers, found);
                                size += found;
                            }
                        }
                        containers.insert(id, size);
                    }
                }
                "volumes" => {
                    add(UsageKind::Other, own(&path));
                    for (name, path) in entries(&path) {
                        let size = meter.of(&path);
                        add(UsageKind::Volumes, size);
                        volumes.insert(name, size);
                    }
                }
                _ => add(UsageKind::Other, meter.of(&path)),
            }
        }
        let images = self.image_usage(&parts)?;
        let volumes = self.volume_usage(&volumes)?;
        let mut usage = self.report(&sizes, &parts, images, containers, volumes)?;
        if let Some(item) = usage
            .items
            .iter_mut()
            .find(|item| item.kind == UsageKind::Images)
        {
            item.reclaimable += damaged;
        }
        Ok(usage)
    }

    fn report(
        &self,
        sizes: &BTreeMap<UsageKind, u64>,
        parts: &BTreeMap<Digest, u64>,
        images: Vec<UsageObject>,
        containers: BTreeMap<String, u64>,
        volumes: Vec<UsageObject>,
    ) -> Result<DiskUsage, Error> {
        let size = |kind| sizes.get(&kind).copied().unwrap_or_default();
        let count = |number: usize| number as u64;
        let mut kept: BTreeSet<Digest> = BTreeSet::new();
        for image in images.iter().filter(|image| image.users > 0) {
            if let Some(row) = self.store()?.image(&image.id)? {
                kept.extend(self.parts(&row));
            }
        }
        let used: u64 = kept.iter().filter_map(|part| parts.get(part)).sum();
        let all_parts: u64 = parts.values().sum();
        let running: Vec<&String> = containers.keys().filter(|id| self.is_running(id)).collect();
        let running_size: u64 = running.iter().filter_map(|id| containers.get(*id)).sum();
        let containers_size: u64 = containers.values().sum();
        let unused = volumes.iter().filter(|volume| volume.users == 0);
        let item = |kind, total, active, reclaimable| UsageItem {
            kind,
            total,
            active,
            size: size(kind),
            reclaimable,
        };
        let items = vec![
            item(
                UsageKind::Images,
                count(images.len()),
                count(images.iter().filter(|image| image.users > 0).count()),
                all_parts.saturating_sub(used),
            ),
            item(
                UsageKind::Containers,
                count(containers.len()),
                count(running.len()),
                containers_size - running_size,
            ),
            item(
                UsageKind::Volumes,
                count(volumes.len()),
                count(volumes.iter().filter(|volume| volume.users > 0).count()),
                unused.map(|volume| volume.size).sum(),
            ),
            item(UsageKind::BuildCache, 0, 0, 0),
            item(
                UsageKind::Logs,
                count(containers.len()),
                count(running.len()),
                0,
            ),
            item(UsageKind::Other, 0, 0, 0),
        ];
        Ok(DiskUsage {
            items,
            images,
            containers,
            volumes,
        })
    }

    /// Blobs and layers of an image.
    fn parts(&self, row: &crate::store::ImageRow) -> BTreeSet<Digest> {
        let mut parts: BTreeSet<Digest> = BTreeSet::new();
        if let Ok(config) = parse_config(row) {
            parts.extend(config.rootfs.diff_ids);
        }
        parts.extend(row.id.parse::<Digest>());
        parts.extend(row.manifest.parse::<Digest>());
        if let Ok(content) = self.content()
            && let Ok((_, manifest)) = super::manifest_of(&content, row)
        {
            parts.extend(manifest.layers.iter().map(|layer| layer.digest));
        }
        parts
    }

    fn image_usage(&self, sizes: &BTreeMap<Digest, u64>) -> Result<Vec<UsageObject>, Error> {
        let (rows, tags) = {
            let store = self.store()?;
            (store.images()?, store.tags()?)
        };
        let parts: Vec<BTreeSet<Digest>> = rows.iter().map(|row| self.parts(row)).collect();
        let mut objects = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let size_of = |part: &Digest| sizes.get(part).copied().unwrap_or_default();
            let size = parts[index].iter().map(size_of).sum();
            let shared = parts[index]
                .iter()
                .filter(|part| {
                    parts
                        .iter()
                        .enumerate()
                        .any(|(other, parts)| other != index && parts.contains(part))
                })
                .map(size_of)
                .sum();
            objects.push(UsageObject {
                id: row.id.clone(),
                names: tags
                    .iter()
                    .filter(|tag| tag.image_id == row.id && !tag.tag.is_empty())
                    .map(|tag| (familiar_repository(&tag.repository), tag.tag.clone()))
                    .collect(),
                created: parse_config(row).ok().and_then(|config| config.created),
                size,
                shared,
                users: self.store()?.image_users(&row.id)?.len() as u64,
            });
        }
        Ok(objects)
    }

    fn volume_usage(&self, sizes: &BTreeMap<String, u64>) -> Result<Vec<UsageObject>, Error> {
        let mut users: BTreeMap<String, u64> = BTreeMap::new();
        let rows = self.store()?.containers()?;
        for row in rows {
            let config = self.config_of(&row)?;
            for volume in self.volumes_of(&row, &config)? {
                *users.entry(volume).or_default() += 1;
            }
        }
        Ok(sizes
            .iter()
            .map(|(name, size)| UsageObject {
                id: name.clone(),
                size: *size,
                users: users.get(name).copied().unwrap_or_default(),
                ..UsageObject::default()
            })
            .collect())
    }

    /// Bytes of blobs that could be fetched again.
    ///
    /// # Errors
    /// [`Error::Content`], [`Error::Store`].
    pub fn drop_image_blobs(&self, name: &str) -> Result<u64, Error> {
        let row = self.find_image(name)?;
        let content = self.content()?;
        let Some(_claim) = content.claim().map_err(content_error)? else {
            return Ok(0);
        };
        match row.manifest.parse::<Digest>() {
            Ok(manifest) => self.drop_blobs(&content, &manifest),
            Err(_) => Ok(0),
        }
    }
}
