//! Images as objects: names, lists, pull, import, removal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;

use gantry_image::credentials::CredentialSource;
use gantry_image::digest::Digest;
use gantry_image::import::{ImportChanges, ImportOptions, import};
use gantry_image::model::{DOCUMENT_LIMIT, Document, ImageConfig, Platform};
use gantry_image::pull::{PullEvent, PullOptions, PullStatus, Pulled, pull};
use gantry_image::reference::Reference;
use gantry_image::store::Store as ContentStore;

use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, TagRow};

/// Name of the image that ships inside Gantry.
const HELLO_WORLD: &str = "docker.io/library/hello-world";

/// What a pull has brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PullOutcome {
    /// Digest of what the reference names.
    pub digest: String,
    /// The reference in its short form.
    pub name: String,
    /// Whether everything was there already.
    pub up_to_date: bool,
}

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
}

/// One step of a removal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Removal {
    /// A name was taken away.
    Untagged(String),
    /// An image was deleted.
    Deleted(String),
}

/// A repository's short form.
pub(crate) fn familiar_repository(repository: &str) -> String {
    Reference::parse(repository)
        .map_or_else(|_| repository.into(), |reference| reference.familiar_name())
}

fn parse(name: &str) -> Result<Reference, Error> {
    Reference::parse(name).map_err(|source| Error::Reference {
        name: name.into(),
        source,
    })
}

impl Engine {
    fn content(&self) -> Result<ContentStore, Error> {
        ContentStore::open(&self.roots.data).map_err(|source| Error::Content {
            source: Box::new(source),
        })
    }

    /// The content store, with nothing removed from it until the second part is dropped.
    fn content_to_fill(&self) -> Result<(ContentStore, OwnedFd), Error> {
        let content = self.content()?;
        let kept = content.keep().map_err(|source| Error::Content {
            source: Box::new(source),
        })?;
        // What a process left that was killed. It is in nobody's way if it cannot be removed.
        let _ = content.sweep();
        Ok((content, kept))
    }

    /// Pulls an image, with `credentials` if the registry asks for any.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Pull`], [`Error::Invalid`] for the platform.
    pub fn pull(
        &self,
        name: &str,
        platform: Option<&str>,
        credentials: CredentialSource,
        insecure: bool,
        progress: &(dyn Fn(PullEvent) + Sync),
    ) -> Result<PullOutcome, Error> {
        let reference = parse(name)?.with_default_tag();
        let platform: Option<Platform> = match platform {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| Error::Invalid {
                option: format!("platform {text:?}"),
                reason: "expected os/architecture, such as linux/amd64".into(),
            })?),
        };
        let (content, _kept) = self.content_to_fill()?;
        // The store is asked for first, so that a data root that cannot be written shows now.
        drop(self.store()?);
        let mut options = PullOptions::default();
        options.client.credentials = credentials;
        if insecure {
            options
                .client
                .insecure_registries
                .push(reference.registry().into());
        }
        let outcome = std::sync::Mutex::new(PullStatus::Downloaded);
        let watch = |event: PullEvent| {
            if let (PullEvent::Done { status, .. }, Ok(mut outcome)) = (&event, outcome.lock()) {
                *outcome = *status;
            }
            progress(event);
        };
        let pulled =
            pull(&content, &options, &reference, platform.as_ref(), &watch).map_err(|source| {
                Error::Pull {
                    name: reference.familiar(),
                    source: Box::new(source),
                }
            })?;
        let digest = pulled
            .index_digest
            .as_ref()
            .unwrap_or(&pulled.manifest_digest)
            .to_string();
        let tag = TagRow {
            repository: reference.name(),
            tag: reference.tag().unwrap_or_default().into(),
            digest: digest.clone(),
            image_id: pulled.config_digest.to_string(),
        };
        self.record_image(&pulled, Some(&tag))?;
        let up_to_date = outcome
            .into_inner()
            .is_ok_and(|status| status == PullStatus::UpToDate);
        Ok(PullOutcome {
            digest,
            name: reference.familiar(),
            up_to_date,
        })
    }

    fn record_image(&self, pulled: &Pulled, tag: Option<&TagRow>) -> Result<(), Error> {
        let row = ImageRow {
            id: pulled.config_digest.to_string(),
            config: pulled.config_raw.clone(),
            manifest: pulled.manifest_digest.to_string(),
            size: pulled.size as i64,
        };
        self.store()?.put_image(&row, tag)
    }

    /// Makes an image of a root file system's archive; returns its id.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Import`], [`Error::Invalid`].
    pub fn import(
        &self,
        archive: &mut (dyn Read + Send),
        name: Option<&str>,
        changes: &[String],
        message: &str,
        platform: Option<&str>,
    ) -> Result<String, Error> {
        let reference = name
            .map(parse)
            .transpose()?
            .map(Reference::with_default_tag);
        let changes = ImportChanges::parse(changes).map_err(|error| Error::Invalid {
            option: "change".into(),
            reason: error.to_string(),
        })?;
        let mut options = ImportOptions {
            changes,
            message: message.into(),
            ..ImportOptions::default()
        };
        if let Some(text) = platform {
            options.platform = text.parse().map_err(|_| Error::Invalid {
                option: format!("platform {text:?}"),
                reason: "expected os/architecture, such as linux/amd64".into(),
            })?;
        }
        let (content, _kept) = self.content_to_fill()?;
        let imported = import(&content, archive, &options).map_err(|source| Error::Import {
            source: Box::new(source),
        })?;
        let tag = reference.map(|reference| TagRow {
            repository: reference.name(),
            tag: reference.tag().unwrap_or_default().into(),
            digest: String::new(),
            image_id: imported.config_digest.to_string(),
        });
        self.record_image(&imported, tag.as_ref())?;
        Ok(imported.config_digest.to_string())
    }

    /// Finds an image by name, id, or the beginning of an id; the one that ships inside
    /// Gantry is put in place when it is first asked for.
    pub(crate) fn find_image(&self, name: &str) -> Result<ImageRow, Error> {
        if let Some(row) = self.find_image_here(name)? {
            return Ok(row);
        }
        let embedded = Reference::parse(name).is_ok_and(|reference| {
            reference.name() == HELLO_WORLD
                && reference.digest().is_none()
                && reference.tag().is_none_or(|tag| tag == "latest")
        });
        if embedded {
            let (content, _kept) = self.content_to_fill()?;
            let made = gantry_image::embedded::install_hello_world(&content).map_err(|source| {
                Error::Import {
                    source: Box::new(source),
                }
            })?;
            let tag = TagRow {
                repository: HELLO_WORLD.into(),
                tag: "latest".into(),
                digest: String::new(),
                image_id: made.config_digest.to_string(),
            };
            self.record_image(&made, Some(&tag))?;
        }
        self.find_image_here(name)?
            .ok_or_else(|| Error::NoSuchImage { name: name.into() })
    }

    fn find_image_here(&self, name: &str) -> Result<Option<ImageRow>, Error> {
        let store = self.store()?;
        if let Ok(reference) = Reference::parse(name) {
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
            if let Some(tag) = store.find_tag(&reference.name(), tag, &digest)? {
                return store.image(&tag.image_id);
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let hexadecimal = !prefix.is_empty()
            && prefix.len() <= 64
            && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal {
            return Ok(None);
        }
        let mut found = store.images_by_prefix(&format!("sha256:{prefix}"))?;
        if found.len() > 1 {
            return Err(Error::Ambiguous {
                prefix: name.into(),
            });
        }
        Ok(found.pop())
    }

    /// Lists images, the newest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        let store = self.store()?;
        let tags = store.tags()?;
        let mut summaries = Vec::new();
        for row in store.images()? {
            let config = ImageConfig::parse(&row.config).map_err(|source| Error::DamagedImage {
                id: row.id.clone(),
                source: Box::new(source),
            })?;
            let names = tags.iter().filter(|tag| tag.image_id == row.id);
            let named = names.clone().filter(|tag| !tag.tag.is_empty());
            let digests = names.filter(|tag| !tag.digest.is_empty());
            summaries.push(ImageSummary {
                tags: named
                    .map(|tag| (familiar_repository(&tag.repository), tag.tag.clone()))
                    .collect(),
                digests: digests
                    .map(|tag| format!("{}@{}", familiar_repository(&tag.repository), tag.digest))
                    .collect(),
                created: config.created.clone(),
                size: row.size as u64,
                labels: config.config.labels.clone(),
                containers: store.image_users(&row.id)?.len() as u64,
                id: row.id,
            });
        }
        summaries.sort_by(|one, other| other.created.cmp(&one.created));
        Ok(summaries)
    }

    /// Takes a name of an image away, and the image itself with its last name.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::ImageInUse`].
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removal>, Error> {
        let row = self
            .find_image_here(name)?
            .ok_or_else(|| Error::NoSuchImage { name: name.into() })?;
        let tags: Vec<TagRow> = self
            .store()?
            .tags()?
            .into_iter()
            .filter(|tag| tag.image_id == row.id)
            .collect();
        let by_id = row.id.strip_prefix("sha256:").is_some_and(|id| {
            let prefix = name.strip_prefix("sha256:").unwrap_or(name);
            id.starts_with(prefix) && !tags.iter().any(|tag| names(tag, name))
        });
        let chosen: Vec<TagRow> = tags
            .iter()
            .filter(|tag| by_id || names(tag, name))
            .cloned()
            .collect();
        if by_id && tags.len() > 1 && !force {
            return Err(Error::Invalid {
                option: format!("image {name}"),
                reason: "it has several names; remove them one by one, or use -f".into(),
            });
        }
        let mut removals = Vec::new();
        let last = chosen.len() == tags.len();
        if last && let Some(container) = self.store()?.image_users(&row.id)?.into_iter().next() {
            return Err(Error::ImageInUse {
                name: name.into(),
                container,
            });
        }
        for tag in &chosen {
            self.store()?.remove_tag(tag)?;
            let repository = familiar_repository(&tag.repository);
            if !tag.tag.is_empty() {
                removals.push(Removal::Untagged(format!("{repository}:{}", tag.tag)));
            }
            if !tag.digest.is_empty() {
                removals.push(Removal::Untagged(format!("{repository}@{}", tag.digest)));
            }
        }
        if last {
            let removed = self.store()?.remove_image(&row.id)?;
            if removed {
                self.remove_unused_content()?;
                removals.push(Removal::Deleted(row.id));
            }
        }
        Ok(removals)
    }

    /// Removes the layers and blobs that no image has.
    ///
    /// While a pull or an import is under way nothing is: what that one counts on is not on
    /// record yet. The next removal catches up.
    fn remove_unused_content(&self) -> Result<(), Error> {
        let fail = |source| Error::Content {
            source: Box::new(source),
        };
        let content = self.content()?;
        let Some(_claim) = content.claim().map_err(fail)? else {
            return Ok(());
        };
        let mut kept_layers = BTreeSet::new();
        let mut kept_blobs = BTreeSet::new();
        let (images, tags) = {
            let store = self.store()?;
            (store.images()?, store.tags()?)
        };
        for row in &images {
            let config = ImageConfig::parse(&row.config).map_err(|source| Error::DamagedImage {
                id: row.id.clone(),
                source: Box::new(source),
            })?;
            kept_layers.extend(config.rootfs.diff_ids);
            kept_blobs.extend(row.id.parse::<Digest>());
            kept_blobs.extend(row.manifest.parse::<Digest>());
        }
        kept_blobs.extend(
            tags.iter()
                .filter_map(|tag| tag.digest.parse::<Digest>().ok()),
        );
        keep_referred(&content, &mut kept_blobs);
        for layer in content.list_layers().map_err(fail)? {
            if !kept_layers.contains(&layer) {
                content.remove_layer(&layer).map_err(fail)?;
            }
        }
        for blob in content.list_blobs().map_err(fail)? {
            if !kept_blobs.contains(&blob) {
                content.remove_blob(&blob).map_err(fail)?;
            }
        }
        Ok(())
    }
}

/// Adds the blobs that manifests and indexes among `blobs` refer to.
fn keep_referred(content: &ContentStore, blobs: &mut BTreeSet<Digest>) {
    let mut open: Vec<Digest> = blobs.iter().copied().collect();
    while let Some(digest) = open.pop() {
        // What is not there, or is no document but a configuration, refers to nothing.
        let Ok(bytes) = content.read_blob(&digest, DOCUMENT_LIMIT) else {
            continue;
        };
        let referred: Vec<Digest> = match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => manifest
                .layers
                .into_iter()
                .map(|layer| layer.digest)
                .collect(),
            Ok(Document::Index(index)) => {
                let entries = index.manifests.into_iter().map(|entry| entry.digest);
                let new: Vec<Digest> = entries.filter(|entry| !blobs.contains(entry)).collect();
                open.extend(&new);
                new
            }
            Err(_) => continue,
        };
        blobs.extend(referred);
    }
}

/// Whether a name that the user gave means this row.
fn names(tag: &TagRow, name: &str) -> bool {
    let Ok(reference) = Reference::parse(name) else {
        return false;
    };
    let digest = reference.digest().map(Digest::to_string);
    let reference = reference.with_default_tag();
    if reference.name() != tag.repository {
        return false;
    }
    match digest {
        Some(digest) => digest == tag.digest,
        None => reference.tag().unwrap_or_default() == tag.tag,
    }
}
