//! Pushing.

use std::collections::{BTreeMap, BTreeSet};

use gantry_image::archive::Packing;
use gantry_image::credentials::{CredentialSource, DockerFiles};
use gantry_image::digest::Digest;
use gantry_image::push::{Platforms, PushEvent, PushOptions, push};
use gantry_image::reference::Reference;
use gantry_image::registry::ClientOptions;

use super::blobs::Fetch;
use super::{ImageError, familiar_repository, parse};
use crate::Engine;
use crate::error::Error;
use crate::store::TagRow;

/// What a push has brought about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PushOutcome {
    /// The tag.
    pub tag: String,
    /// Digest of what was pushed.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Index that the name stands for, if only the one image of it was pushed that is here.
    pub instead_of: Option<String>,
}

/// The credentials that the docker client keeps.
pub(super) fn environment_credentials() -> CredentialSource {
    DockerFiles::of_environment(|name| std::env::var_os(name))
        .map_or(CredentialSource::Nobody, CredentialSource::Docker)
}

impl Engine {
    /// Names that a push of `name` pushes: one, or all tags of a repository.
    ///
    /// # Errors
    /// [`Error::Reference`], [`ImageError::NothingToPush`].
    pub fn names_to_push(&self, name: &str, all: bool) -> Result<Vec<String>, Error> {
        let reference = parse(name)?;
        let nothing =
            |name: String| -> Error { ImageError::NothingToPush { repository: name }.into() };
        if !all {
            let reference = reference.with_default_tag();
            if self.tag_of(name)?.is_none() {
                return Err(nothing(reference.familiar_name()));
            }
            return Ok(vec![reference.familiar()]);
        }
        let names: Vec<String> = self
            .store()?
            .tags()?
            .into_iter()
            .filter(|tag| tag.repository == reference.name() && !tag.tag.is_empty())
            .map(|tag| format!("{}:{}", familiar_repository(&tag.repository), tag.tag))
            .collect();
        if names.is_empty() {
            return Err(nothing(reference.familiar_name()));
        }
        Ok(names)
    }

    /// Pushes one name.
    ///
    /// # Errors
    /// [`Error::Reference`], [`ImageError::NothingToPush`], [`ImageError::OtherPlatform`],
    /// [`ImageError::Push`].
    pub fn push(
        &self,
        name: &str,
        platform: Option<&str>,
        client: ClientOptions,
        progress: &(dyn Fn(PushEvent) + Sync),
    ) -> Result<PushOutcome, Error> {
        let reference = parse(name)?.with_default_tag();
        let nothing = || ImageError::NothingToPush {
            repository: reference.familiar_name(),
        };
        let tag = self.tag_of(name)?.ok_or_else(nothing)?;
        let row = self.find_image_of(name, platform)?;
        let (content, _kept) = self.content_to_fill()?;
        let fetch = Fetch {
            client: client.clone(),
            packing: Packing::Gzip,
        };
        let manifest = self.with_blobs(&content, &row, Some(&fetch))?;
        let mut target = manifest;
        if platform.is_none()
            && manifest.to_string() == row.manifest
            && let Ok(digest) = self.target_of(&tag)?.parse::<Digest>()
            && content.has_blob(&digest).unwrap_or(false)
        {
            target = digest;
        }
        let mut options = PushOptions {
            client,
            platforms: Platforms::Present,
            ..PushOptions::default()
        };
        options.mounts = self.mounts(&content, &target, &manifest, &reference)?;
        let pushed = push(&content, &options, &reference, &target, progress)
            .map_err(|source| ImageError::Push(Box::new(source)))?;
        self.record_push(&tag, &reference, &pushed.digest.to_string())?;
        Ok(PushOutcome {
            tag: reference.tag().unwrap_or_default().into(),
            digest: pushed.digest.to_string(),
            size: pushed.size,
            instead_of: (pushed.digest != target).then(|| target.to_string()),
        })
    }

    /// Other repositories of the registry that have the blobs of what is pushed.
    fn mounts(
        &self,
        content: &gantry_image::store::Store,
        target: &Digest,
        manifest: &Digest,
        reference: &Reference,
    ) -> Result<BTreeMap<Digest, Vec<String>>, Error> {
        let mut blobs = BTreeSet::new();
        for digest in [target, manifest] {
            blobs.extend(named_blobs(content, digest));
        }
        let mut mounts = BTreeMap::new();
        for blob in blobs {
            let repositories: Vec<String> = self
                .store()?
                .blob_sources(&blob.to_string())?
                .iter()
                .filter_map(|source| Reference::parse(source).ok())
                .filter(|source| {
                    source.registry() == reference.registry()
                        && source.repository() != reference.repository()
                })
                .map(|source| source.repository().to_owned())
                .collect();
            if !repositories.is_empty() {
                mounts.insert(blob, repositories);
            }
        }
        Ok(mounts)
    }

    /// Notes the digest under which an image can be pulled from now on, and where its blobs are.
    fn record_push(&self, tag: &TagRow, reference: &Reference, digest: &str) -> Result<(), Error> {
        let content = self.content()?;
        let blobs = digest
            .parse::<Digest>()
            .map(|digest| named_blobs(&content, &digest))
            .unwrap_or_default();
        let sources: Vec<(String, String)> = blobs
            .into_iter()
            .map(|blob| (blob.to_string(), reference.name()))
            .collect();
        self.store()?.note_push(tag, digest, &sources)
    }
}

/// Blobs that a manifest, or the manifests of an index that are here, name.
fn named_blobs(content: &gantry_image::store::Store, target: &Digest) -> BTreeSet<Digest> {
    use gantry_image::model::{DOCUMENT_LIMIT, Document};
    let mut blobs = BTreeSet::new();
    let mut open = vec![*target];
    while let Some(digest) = open.pop() {
        let Ok(bytes) = content.read_blob(&digest, DOCUMENT_LIMIT) else {
            continue;
        };
        match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => {
                blobs.insert(manifest.config.digest);
                blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
            Ok(Document::Index(index)) if open.len() < 1000 => {
                open.extend(index.manifests.iter().map(|entry| entry.digest));
            }
            _ => {}
        }
    }
    blobs
}
