//! Pulling.

use std::collections::BTreeSet;

use gantry_image::credentials::CredentialSource;
use gantry_image::model::{DOCUMENT_LIMIT, Document};
use gantry_image::pull::{PullEvent, PullOptions, PullStatus, Pulled, pull};
use gantry_image::reference::Reference;
use gantry_image::registry::{Client, ClientOptions};
use gantry_image::store::Store as ContentStore;

use super::{content_error, parse, parse_platform, row_of};
use crate::Engine;
use crate::error::Error;
use crate::store::{NewImages, TagFact, TagRow};

/// What to pull, and how.
#[derive(Clone, Debug, Default)]
pub struct PullRequest<'a> {
    /// Name with or without a tag or digest.
    pub name: &'a str,
    /// Platform; absent means the host's.
    pub platform: Option<&'a str>,
    /// Who knows the credentials.
    pub credentials: CredentialSource,
    /// Whether the registry may be spoken to in clear.
    pub insecure: bool,
    /// Whether the compressed layers are dropped once they are unpacked.
    pub drop_blobs: bool,
}

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

impl Engine {
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
        let request = PullRequest {
            name,
            platform,
            credentials,
            insecure,
            drop_blobs: false,
        };
        self.pull_image(request, progress)
    }

    /// [`Engine::pull`] with everything that can be said about it.
    ///
    /// # Errors
    /// As [`Engine::pull`].
    pub fn pull_image(
        &self,
        request: PullRequest<'_>,
        progress: &(dyn Fn(PullEvent) + Sync),
    ) -> Result<PullOutcome, Error> {
        let reference = parse(request.name)?.with_default_tag();
        let platform = request.platform.map(parse_platform).transpose()?;
        let (content, kept) = self.content_to_fill()?;
        // The store is asked for first, so that a data root that cannot be written shows now.
        drop(self.store()?);
        let mut options = PullOptions::default();
        options.client.credentials = request.credentials;
        if request.insecure {
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
        let digest = self.record_pull(&content, &reference, &pulled)?;
        // It is on record. Others who hold the store may count on the blobs: then they stay.
        drop(kept);
        if request.drop_blobs
            && let Some(_claim) = content.claim().map_err(content_error)?
        {
            self.drop_blobs(&content, &pulled.manifest_digest)?;
        }
        self.sync_layers_soon(&content);
        let up_to_date = outcome
            .into_inner()
            .is_ok_and(|status| status == PullStatus::UpToDate);
        Ok(PullOutcome {
            digest,
            name: reference.familiar(),
            up_to_date,
        })
    }

    /// Names with all tags that a repository has in its registry.
    ///
    /// # Errors
    /// [`Error::Reference`], [`super::ImageError::Registry`].
    pub fn remote_tags(
        &self,
        name: &str,
        credentials: CredentialSource,
    ) -> Result<Vec<String>, Error> {
        let reference = parse(name)?;
        let options = ClientOptions {
            credentials,
            ..ClientOptions::default()
        };
        let failed = |source| super::ImageError::Registry {
            name: reference.familiar_name(),
            source: Box::new(source),
        };
        let tags = Client::new(reference.registry(), &options)
            .and_then(|client| client.tags(reference.repository()))
            .map_err(failed)?;
        Ok(tags
            .into_iter()
            .map(|tag| format!("{}:{tag}", reference.familiar_name()))
            .collect())
    }

    /// Gives what was pulled its name, and notes where its blobs came from.
    fn record_pull(
        &self,
        content: &ContentStore,
        reference: &Reference,
        pulled: &Pulled,
    ) -> Result<String, Error> {
        let target = pulled
            .index_digest
            .as_ref()
            .unwrap_or(&pulled.manifest_digest)
            .to_string();
        let row = row_of(pulled);
        let tag = TagRow {
            repository: reference.name(),
            tag: tag_to_give(reference).into(),
            digest: target.clone(),
            image_id: row.id.clone(),
        };
        let facts: Vec<TagFact> = Some(&tag)
            .filter(|tag| !tag.tag.is_empty())
            .map(|tag| TagFact {
                repository: tag.repository.clone(),
                tag: tag.tag.clone(),
                target: target.clone(),
                tagged_at: gantry_supervisor::record::now(),
            })
            .into_iter()
            .collect();
        let mut blobs = BTreeSet::from([row.id.clone()]);
        let bytes = content.read_blob(&pulled.manifest_digest, DOCUMENT_LIMIT);
        if let Some(Document::Manifest(manifest)) = bytes
            .ok()
            .and_then(|bytes| Document::parse(&bytes, None).ok())
        {
            blobs.extend(manifest.layers.iter().map(|layer| layer.digest.to_string()));
        }
        let sources: Vec<(String, String)> = blobs
            .into_iter()
            .map(|blob| (blob, reference.name()))
            .collect();
        let mut variants = Vec::new();
        if pulled.index_digest.is_some() {
            variants.push((target.clone(), row.id.clone()));
        }
        self.store()?.put_images(&NewImages {
            images: &[row],
            tags: &[tag],
            facts: &facts,
            variants: &variants,
            sources: &sources,
            ..NewImages::default()
        })?;
        Ok(target)
    }
}

/// The tag that a pull gives what it brought. Nobody has checked that a tag beside a digest is
/// that image's, and the image that has the tag here keeps it.
fn tag_to_give(reference: &Reference) -> &str {
    match reference.digest() {
        Some(_) => "",
        None => reference.tag().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_gives_no_tag() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (name, tag) in [
            ("a".to_owned(), "latest"),
            ("a:1".to_owned(), "1"),
            (format!("a@{digest}"), ""),
            (format!("a:1@{digest}"), ""),
        ] {
            let reference = Reference::parse(&name).unwrap().with_default_tag();
            assert_eq!(tag_to_give(&reference), tag, "{name}");
        }
    }
}
