//! Manifests: by tag and by digest.

use std::sync::Arc;

use gantry_image::Digest;
use gantry_image::model::media_type;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION};
use hyper::{Response, StatusCode};
use tokio::sync::SemaphorePermit;

use super::blobs::{describe, not_modified};
use super::{Answer, CONTENT_DIGEST, Call, QUEUE, SMALL, State, blocking, is_fresh, set};
use crate::body::{Reception, ServerBody};
use crate::fault::Fault;
use crate::manifest::{LIMIT, Outline};
use crate::name::{ManifestReference, RepositoryName};
use crate::storage::{Referrer, Storage, StorageError};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// A manifest as it is stored.
struct Found {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

/// Looks a manifest up; `None` if the repository does not have it.
fn look_up(
    storage: &Storage,
    name: &RepositoryName,
    reference: &ManifestReference,
) -> Result<Option<Found>, StorageError> {
    let digest = match reference {
        ManifestReference::Digest(digest) => Some(*digest),
        ManifestReference::Tag(tag) => storage.tag(name, tag)?,
    };
    let Some(digest) = digest else {
        return Ok(None);
    };
    let Some(media_type) = storage.use_manifest(name, &digest)? else {
        return Ok(None);
    };
    let bytes = storage.store.read_blob(&digest, LIMIT)?;
    Ok(Some(Found {
        digest,
        media_type,
        bytes,
    }))
}

/// `GET` and `HEAD` of a manifest (end-3).
pub(super) async fn get(
    state: &Arc<State>,
    call: &Call,
    name: RepositoryName,
    reference: ManifestReference,
) -> Answer {
    if let Some(upstream) = &state.upstream {
        upstream.manifest(&name, &reference).await?;
    }
    let by_tag = matches!(reference, ManifestReference::Tag(_));
    let accepted = Accepted::of(call);
    let found = {
        let name = name.clone();
        state
            .blocking(move |storage| look_up(storage, &name, &reference))
            .await?
    };
    let mut found = found.ok_or_else(Fault::manifest_unknown)?;
    // What a digest names is served as it is. A tag may point to something that the client cannot
    // read, which it is better told.
    if by_tag && !accepted.takes(&found.media_type) {
        found = substitute(state, &name, found, &accepted).await?;
    }
    let tag = found.digest.to_string();
    let mut response = if is_fresh(call, &tag) {
        not_modified(&tag)
    } else {
        let length = found.bytes.len();
        let body = if call.is_head() {
            ServerBody::empty()
        } else if length > SMALL {
            // From the disk, so that clients that read slowly do not hold it in memory.
            drop(found.bytes);
            let digest = found.digest;
            let file = state.blocking(move |storage| Ok(storage.store.open_blob(&digest)?));
            ServerBody::file(file.await?, 0, length as u64)
        } else {
            ServerBody::full(found.bytes.into())
        };
        let mut response = Response::new(body);
        describe(&mut response, &tag);
        set(&mut response, CONTENT_TYPE, &found.media_type);
        set(&mut response, CONTENT_LENGTH, &length.to_string());
        response
    };
    if by_tag {
        // A tag can move at any time.
        response.headers_mut().remove(CACHE_CONTROL);
    }
    set(&mut response, hyper::header::VARY, "Accept");
    Ok(response)
}

/// For a client that reads no indexes: the image for linux on amd64, as Docker's registry has it.
async fn substitute(
    state: &Arc<State>,
    name: &RepositoryName,
    found: Found,
    accepted: &Accepted,
) -> Result<Found, Fault> {
    let message = format!(
        "the tag points to {}, which the Accept header does not allow",
        found.media_type
    );
    let refused = || Fault::manifest_unacceptable(&message);
    if found.media_type != media_type::DOCKER_INDEX && found.media_type != media_type::INDEX {
        return Err(refused());
    }
    let outline = Outline::read(&found.bytes, Some(&found.media_type))?;
    let child = outline
        .manifests
        .iter()
        .find(|child| child.is_default && accepted.takes(&child.media_type))
        .ok_or_else(refused)?;
    let reference = ManifestReference::Digest(child.digest);
    if let Some(upstream) = &state.upstream {
        upstream.manifest(name, &reference).await?;
    }
    let name = name.clone();
    state
        .blocking(move |storage| look_up(storage, &name, &reference))
        .await?
        .ok_or_else(refused)
}

/// The media types of an `Accept` header; none means all.
struct Accepted(Vec<String>);

impl Accepted {
    fn of(call: &Call) -> Self {
        let values = call.headers.get_all(ACCEPT).iter();
        let types = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|entry| entry.split(';').next().unwrap_or_default().trim())
            .filter(|entry| !entry.is_empty())
            .map(str::to_ascii_lowercase);
        Self(types.collect())
    }

    fn takes(&self, media_type: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|entry| {
                matches!(entry.as_str(), "*/*" | "application/*") || entry == media_type
            })
    }
}

/// `PUT` of a manifest (end-7).
pub(super) async fn put(
    state: &Arc<State>,
    call: Call,
    name: RepositoryName,
    reference: ManifestReference,
) -> Answer {
    let content_type = call.header(CONTENT_TYPE).map(str::to_owned);
    let (bytes, _large) = body(state, state.reception(call.body)).await?;
    let permit = state.parsing.acquire().await;
    let (outline, bytes, digest) = blocking(move || {
        let outline = Outline::read(&bytes, content_type.as_deref())?;
        let digest = Digest::of(&bytes);
        Ok((outline, bytes, digest))
    })
    .await?;
    drop(permit);
    if let ManifestReference::Digest(expected) = &reference
        && *expected != digest
    {
        let message = format!("the manifest has digest {digest} instead of {expected}");
        return Err(Fault::digest_invalid(message));
    }
    let subject = outline.subject;
    let location = match &reference {
        ManifestReference::Tag(tag) => format!("/v2/{name}/manifests/{tag}"),
        ManifestReference::Digest(digest) => format!("/v2/{name}/manifests/{digest}"),
    };
    let tag = match reference {
        ManifestReference::Tag(tag) => Some(tag),
        ManifestReference::Digest(_) => None,
    };
    let missing = state
        .blocking(move |storage| store(storage, &name, tag.as_deref(), &digest, &outline, &bytes))
        .await?;
    if let Some(missing) = missing {
        return Err(Fault::manifest_blob_unknown(&missing.to_string()));
    }
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::CREATED;
    set(&mut response, LOCATION, &location);
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    if let Some(subject) = subject {
        // Tells the client that it need not keep a list of referrers itself.
        set(&mut response, OCI_SUBJECT, &subject.to_string());
    }
    Ok(response)
}

/// Takes a manifest in. How many large ones are in memory at once is bounded: the permit is held
/// as long as the bytes are.
async fn body(
    state: &State,
    reception: Reception,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), Fault> {
    let is_small = reception
        .announced()
        .is_some_and(|length| length <= SMALL as u64);
    if is_small {
        return Ok((reception.whole(LIMIT).await?, None));
    }
    let queued = tokio::time::timeout(QUEUE, state.large.acquire()).await;
    let Ok(Ok(permit)) = queued else {
        return Err(Fault::too_many("too many large manifests at once"));
    };
    Ok((reception.whole(LIMIT).await?, Some(permit)))
}

/// Stores a manifest if the repository has all that it refers to; returns what is missing. The
/// tag comes last: whoever sees it finds everything behind it.
pub(crate) fn store(
    storage: &Storage,
    name: &RepositoryName,
    tag: Option<&str>,
    digest: &Digest,
    outline: &Outline,
    bytes: &[u8],
) -> Result<Option<Digest>, StorageError> {
    let _keep = storage.keep()?;
    let _changing = storage.changing(name);
    for blob in &outline.blobs {
        if !storage.has_blob(name, blob)? {
            return Ok(Some(*blob));
        }
    }
    for child in &outline.manifests {
        if !storage.has_blob(name, &child.digest)? {
            return Ok(Some(child.digest));
        }
    }
    write(storage, name, tag, digest, outline, bytes)?;
    Ok(None)
}

/// Stores a manifest whatever the repository has. The caller keeps, and is changing the
/// repository.
pub(crate) fn write(
    storage: &Storage,
    name: &RepositoryName,
    tag: Option<&str>,
    digest: &Digest,
    outline: &Outline,
    bytes: &[u8],
) -> Result<(), StorageError> {
    if !storage.store.has_blob(digest)? {
        let ingest = storage.store.ingest()?;
        let staged = ingest.blob_of(bytes)?;
        ingest.commit(vec![staged], Vec::new())?;
    }
    // For what it refers to as well, which other clients may be pushing right now.
    storage.sync_blobs()?;
    // Before the manifest itself: found by digest, it is found among the referrers too.
    if let Some(subject) = &outline.subject {
        let referrer = Referrer {
            digest: *digest,
            descriptor: outline.descriptor(digest, bytes.len()),
        };
        storage.add_referrer(name, subject, &referrer)?;
    }
    storage.link_manifest(name, digest, &outline.media_type)?;
    if let Some(tag) = tag {
        storage.set_tag(name, tag, digest)?;
    }
    Ok(())
}

/// Removes a manifest with its tags; whether it was there.
fn remove(storage: &Storage, name: &RepositoryName, digest: &Digest) -> Result<bool, StorageError> {
    let _keep = storage.keep()?;
    let _changing = storage.changing(name);
    if !storage.has_manifest(name, digest)? {
        return Ok(false);
    }
    // A damaged one can be removed as well; then nobody knows its subject.
    let bytes = storage.store.read_blob(digest, LIMIT).ok();
    let outline = bytes.and_then(|bytes| Outline::read(&bytes, None).ok());
    let subject = outline.and_then(|outline| outline.subject);
    storage.remove_manifest(name, digest, subject.as_ref())
}

/// `DELETE` of a manifest with its tags, or of a tag (end-9).
pub(super) async fn delete(
    state: &Arc<State>,
    name: RepositoryName,
    reference: ManifestReference,
) -> Answer {
    let removed = state
        .blocking(move |storage| match &reference {
            ManifestReference::Tag(tag) => {
                let _keep = storage.keep()?;
                let _changing = storage.changing(&name);
                storage.remove_tag(&name, tag)
            }
            ManifestReference::Digest(digest) => remove(storage, &name, digest),
        })
        .await?;
    if !removed {
        return Err(Fault::manifest_unknown());
    }
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
