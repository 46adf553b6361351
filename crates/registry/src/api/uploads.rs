//! Uploads: in one request, in two, and in chunks; and blobs taken over from another repository.
//!
//! What an upload has received is in its file, and how much that is its length, so a client can go
//! on after anything that happens to either side. The state of the hash is kept between requests
//! of one process and computed again otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_image::Digest;
use gantry_image::digest::Hasher;
use hyper::header::{CONTENT_RANGE, HeaderName, LOCATION, RANGE};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::{Answer, CONTENT_DIGEST, Call, QUEUE, State, blocking, set};
use crate::auth::Action;
use crate::body::{Reception, ServerBody};
use crate::fault::Fault;
use crate::name::{RepositoryName, UploadId, parse_digest};
use crate::range;
use crate::storage::UploadFile;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// How long a request waits for another one that writes the same upload: a client that lost its
/// connection may be back before the loss is noticed here.
const TAKEOVER: Duration = Duration::from_secs(10);
/// Hashers that are remembered.
const REMEMBERED: usize = 4096;

/// The uploads that requests of this process are writing or have written.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<UploadId, Arc<Session>>>);

/// The hash of what an upload has so far, if that is known.
type Session = tokio::sync::Mutex<Option<Hasher>>;

impl Sessions {
    /// The right to write an upload.
    async fn enter(&self, id: &UploadId) -> Result<OwnedMutexGuard<Option<Hasher>>, Fault> {
        let session = {
            let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if sessions.len() >= REMEMBERED {
                // Only what no request is using.
                sessions.retain(|_, session| Arc::strong_count(session) > 1);
            }
            Arc::clone(sessions.entry(id.clone()).or_default())
        };
        tokio::time::timeout(TAKEOVER, session.lock_owned())
            .await
            .map_err(|_| Fault::upload_busy())
    }

    fn forget(&self, id: &UploadId) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(id);
    }
}

/// Everything that writing takes. It moves as one between threads: when a request is given up in
/// the middle of a write, the right to write ends with that write and not before.
struct Writer {
    upload: UploadFile,
    hasher: Hasher,
    session: OwnedMutexGuard<Option<Hasher>>,
}

impl Writer {
    fn append(mut self, bytes: &[u8]) -> (Self, Result<(), Fault>) {
        let result = self.upload.append(bytes);
        if result.is_ok() {
            self.hasher.update(bytes);
        }
        (self, result.map_err(|error| Fault::internal(&error)))
    }
}

/// `POST` (end-4a, end-4b, end-11).
pub(super) async fn start(state: &Arc<State>, call: Call, name: RepositoryName) -> Answer {
    if let Some(digest) = call.query.get("mount") {
        let digest = parse_digest(digest)?;
        if mount(state, &call, &name, digest).await? {
            return Ok(created(&name, &digest));
        }
    }
    let digest = match (call.query.get("digest"), call.query.get("mount")) {
        (Some(digest), None) => Some(parse_digest(digest)?),
        _ => None,
    };
    let limits = state.options.limits;
    let id = {
        let name = name.clone();
        state
            .blocking(move |storage| {
                if !storage.make_room(&name, limits.uploads, limits.repository_uploads)? {
                    return Ok(None);
                }
                storage.start_upload(&name).map(Some)
            })
            .await?
            .ok_or_else(|| Fault::too_many("too many unfinished uploads"))?
    };
    let Some(digest) = digest else {
        return Ok(progress(&name, &id, 0, StatusCode::ACCEPTED));
    };
    let (writer, body, limit) = open(state, call, &name, &id).await?;
    let (writer, received) = receive(state, writer, body, limit).await?;
    match received {
        Ok(()) => commit(state, writer, name, id, digest).await,
        Err(fault) => {
            // Nobody knows of this upload, so nobody could go on with it.
            discard(state, writer, &id).await?;
            Err(fault)
        }
    }
}

/// Takes a blob over from another repository that the client may read; whether that worked. All
/// that does not work is answered with an ordinary upload, so that the answer tells nobody what
/// other repositories have (CVE-2026-35172).
async fn mount(
    state: &Arc<State>,
    call: &Call,
    name: &RepositoryName,
    digest: Digest,
) -> Result<bool, Fault> {
    // Without `from` the registry may choose; what the client may read cannot be known then.
    let Some(from) = call.query.get("from") else {
        return Ok(false);
    };
    let from = RepositoryName::parse(from)
        .ok_or_else(|| Fault::name_invalid("invalid name of the repository to mount from"))?;
    if !call.grants.allow(&from, Action::Pull) {
        return Ok(false);
    }
    let name = name.clone();
    state
        .blocking(move |storage| {
            let _keep = storage.keep()?;
            let has = storage.has_blob(&from, &digest)?;
            if has {
                storage.sync_blobs()?;
                storage.link_blob(&name, &digest)?;
            }
            Ok(has)
        })
        .await
}

/// `GET` of an upload (end-13).
pub(super) async fn status(state: &Arc<State>, name: RepositoryName, id: UploadId) -> Answer {
    let length = {
        let (name, id) = (name.clone(), id.clone());
        state
            .blocking(move |storage| {
                let Some(upload) = storage.open_upload(&name, &id)? else {
                    return Ok(None);
                };
                // What is told here is not sent again, so it has to be on the disk.
                upload.sync()?;
                Ok(Some(upload.length()))
            })
            .await?
            .ok_or_else(Fault::upload_unknown)?
    };
    Ok(progress(&name, &id, length, StatusCode::NO_CONTENT))
}

/// `PATCH` (end-5).
pub(super) async fn append(
    state: &Arc<State>,
    call: Call,
    name: RepositoryName,
    id: UploadId,
) -> Answer {
    let (writer, body, limit) = open(state, call, &name, &id).await?;
    let (writer, received) = receive(state, writer, body, limit).await?;
    let writer = blocking(move || {
        // Also after a body that broke off: the client will ask how far it came.
        writer
            .upload
            .sync()
            .map_err(|error| Fault::internal(&error))?;
        Ok(writer)
    })
    .await?;
    let length = writer.upload.length();
    keep_hash(writer);
    received?;
    Ok(progress(&name, &id, length, StatusCode::ACCEPTED))
}

/// `PUT` of an upload (end-6).
pub(super) async fn finish(
    state: &Arc<State>,
    call: Call,
    name: RepositoryName,
    id: UploadId,
) -> Answer {
    let digest = call
        .query
        .get("digest")
        .ok_or_else(|| Fault::digest_invalid("the query has no digest"))?;
    let digest = parse_digest(digest)?;
    let (writer, body, limit) = open(state, call, &name, &id).await?;
    let (writer, received) = receive(state, writer, body, limit).await?;
    if let Err(fault) = received {
        keep_hash(writer);
        return Err(fault);
    }
    commit(state, writer, name, id, digest).await
}

/// `DELETE` of an upload.
pub(super) async fn cancel(state: &Arc<State>, name: RepositoryName, id: UploadId) -> Answer {
    let session = state.sessions.enter(&id).await?;
    let upload = {
        let (name, id) = (name.clone(), id.clone());
        state
            .blocking(move |storage| storage.open_upload(&name, &id))
            .await?
    };
    let Some(upload) = upload else {
        state.sessions.forget(&id);
        return Err(Fault::upload_unknown());
    };
    let writer = Writer {
        upload,
        hasher: Hasher::default(),
        session,
    };
    discard(state, writer, &id).await?;
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Opens an upload for the body of a request, and says how long that may be.
async fn open(
    state: &Arc<State>,
    call: Call,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<(Writer, Reception, u64), Fault> {
    let session = state.sessions.enter(id).await?;
    let opened = {
        let (name, id) = (name.clone(), id.clone());
        state
            .blocking(move |storage| storage.open_upload(&name, &id))
            .await?
    };
    let Some(mut upload) = opened else {
        drop(session);
        state.sessions.forget(id);
        return Err(Fault::upload_unknown());
    };
    let length = upload.length();
    let body_limit = state.options.limits.blob.saturating_sub(length);
    let chunk = match call.headers.get(CONTENT_RANGE) {
        None => None,
        Some(value) => {
            let value = value.to_str().unwrap_or_default();
            Some(range::chunk(value).map_err(|fault| located(fault, name, id, length))?)
        }
    };
    let reception = state.reception(call.body);
    let announced = reception.announced();
    let limit = match chunk {
        Some(chunk) if chunk.first != length => {
            // Out of order: the client learns where it has to go on.
            let fault = Fault::range_invalid("the chunk does not begin where the upload ends");
            return Err(located(fault, name, id, length));
        }
        Some(chunk) if announced.is_some_and(|announced| announced != chunk.length) => {
            return Err(Fault::size_invalid(
                "Content-Range and Content-Length differ",
            ));
        }
        Some(chunk) => chunk.length,
        None => body_limit,
    };
    if limit > body_limit || announced.is_some_and(|announced| announced > body_limit) {
        return Err(Fault::size_invalid(
            "the blob is larger than this registry takes",
        ));
    }
    let remembered = session
        .as_ref()
        .filter(|hasher| hasher.length() == length)
        .cloned();
    let writer = blocking(move || {
        let hasher = match remembered {
            Some(hasher) => hasher,
            None => upload.hash().map_err(|error| Fault::internal(&error))?,
        };
        Ok(Writer {
            upload,
            hasher,
            session,
        })
    })
    .await?;
    Ok((writer, reception, limit))
}

/// Takes a body in: while one batch is hashed and written the next is received. The writer comes
/// back unless the process itself is in trouble.
async fn receive(
    state: &Arc<State>,
    writer: Writer,
    mut body: Reception,
    limit: u64,
) -> Result<(Writer, Result<(), Fault>), Fault> {
    let queued = tokio::time::timeout(QUEUE, state.receptions.acquire()).await;
    let Ok(Ok(_permit)) = queued else {
        return Ok((writer, Err(Fault::too_many("too many uploads at once"))));
    };
    let before = writer.upload.length();
    let mut received: u64 = 0;
    let mut job: JoinHandle<(Writer, Result<(), Fault>)> =
        tokio::spawn(async move { (writer, Ok(())) });
    let outcome = loop {
        let (bytes, fault) = body.batch().await;
        let (writer, written) = job.await.map_err(|error| Fault::internal(&error))?;
        if written.is_err() {
            break (writer, written);
        }
        received += bytes.len() as u64;
        if received > limit {
            let cut = blocking(move || {
                let mut writer = writer;
                // Nothing of a chunk counts that is not what its Content-Range says.
                let cut = writer.upload.cut(before).and_then(|()| {
                    writer.hasher = writer.upload.hash()?;
                    Ok(())
                });
                cut.map_err(|error| Fault::internal(&error))?;
                Ok(writer)
            });
            let fault = Fault::size_invalid("the body is longer than it may be");
            break (cut.await?, Err(fault));
        }
        if bytes.is_empty() {
            break (writer, fault.map_or(Ok(()), Err));
        }
        job = tokio::task::spawn_blocking(move || writer.append(&bytes));
        if let Some(fault) = fault {
            let (writer, written) = job.await.map_err(|error| Fault::internal(&error))?;
            break (writer, written.and(Err(fault)));
        }
    };
    Ok(outcome)
}

/// Lets the next request of this process go on with the hash.
fn keep_hash(writer: Writer) {
    let Writer {
        hasher,
        mut session,
        ..
    } = writer;
    *session = Some(hasher);
}

/// Makes an upload a blob if it is what the client says.
async fn commit(
    state: &Arc<State>,
    writer: Writer,
    name: RepositoryName,
    id: UploadId,
    digest: Digest,
) -> Answer {
    let actual = writer.hasher.clone().finish();
    if actual != digest {
        // Its bytes are wrong somewhere, nobody knows where.
        discard(state, writer, &id).await?;
        let message = format!("the content has digest {actual} instead of {digest}");
        return Err(Fault::digest_invalid(message));
    }
    let repository = name.clone();
    state
        .blocking(move |storage| {
            storage.finish_upload(&repository, &writer.upload, &digest)?;
            drop(writer);
            Ok(())
        })
        .await?;
    state.sessions.forget(&id);
    Ok(created(&name, &digest))
}

async fn discard(state: &Arc<State>, writer: Writer, id: &UploadId) -> Result<(), Fault> {
    state
        .blocking(move |storage| storage.cancel_upload(&writer.upload))
        .await?;
    state.sessions.forget(id);
    Ok(())
}

fn upload_path(name: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{}", id.as_str())
}

/// `0-LAST`; nothing yet is `0-0` too, as clients expect it.
fn range_of(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

fn located(fault: Fault, name: &RepositoryName, id: &UploadId, length: u64) -> Fault {
    fault
        .with_header(LOCATION, upload_path(name, id))
        .with_header(RANGE, range_of(length))
        .with_header(UPLOAD_ID, id.as_str())
}

/// Where an upload goes on.
fn progress(
    name: &RepositoryName,
    id: &UploadId,
    length: u64,
    status: StatusCode,
) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = status;
    set(&mut response, LOCATION, &upload_path(name, id));
    set(&mut response, RANGE, &range_of(length));
    set(&mut response, UPLOAD_ID, id.as_str());
    response
}

/// The blob is there.
fn created(name: &RepositoryName, digest: &Digest) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::CREATED;
    set(
        &mut response,
        LOCATION,
        &format!("/v2/{name}/blobs/{digest}"),
    );
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}
