//! Blobs: reading whole and in parts, and taking them from a repository.

use std::sync::Arc;

use gantry_image::Digest;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    IF_RANGE, RANGE,
};
use hyper::{Response, StatusCode};

use super::{Answer, CONTENT_DIGEST, Call, State, is_fresh, set};
use crate::body::ServerBody;
use crate::fault::Fault;
use crate::name::RepositoryName;
use crate::proxy::Source;
use crate::range::{Part, Requested, requested};

/// `GET` and `HEAD` of a blob (end-2).
pub(super) async fn get(
    state: &Arc<State>,
    call: &Call,
    name: RepositoryName,
    digest: Digest,
) -> Answer {
    let tag = digest.to_string();
    let source = match &state.upstream {
        Some(upstream) => upstream.blob(&name, &digest, call.is_head()).await?,
        None => {
            let known = {
                let name = name.clone();
                state
                    .blocking(move |storage| storage.use_blob(&name, &digest))
                    .await?
            };
            if !known {
                return Err(Fault::blob_unknown());
            }
            Source::Stored
        }
    };
    if is_fresh(call, &tag) {
        return Ok(not_modified(&tag));
    }
    let (file, size) = match &source {
        Source::Fetching(fetch) => (None, fetch.size()),
        Source::Described(size) => (None, *size),
        Source::Stored => {
            let opened = state.blocking(move |storage| {
                let file = storage.store.open_blob(&digest)?;
                let size = storage.store.blob_size(&digest)?;
                Ok((file, size))
            });
            let (file, size) = opened.await?;
            (Some(file), size)
        }
    };
    // A part of something else than what the client has would be of no use to it.
    let same = call
        .header(IF_RANGE)
        .is_none_or(|known| known.trim().trim_matches('"') == tag);
    let range = call.header(RANGE).filter(|_| same && !call.is_head());
    let (status, part) = match requested(range, size) {
        Requested::Whole => (
            StatusCode::OK,
            Part {
                first: 0,
                length: size,
            },
        ),
        Requested::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Requested::Unsatisfiable => {
            let fault = Fault::range_invalid("the blob has no such part");
            return Err(fault.with_header(CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let body = if call.is_head() {
        ServerBody::empty()
    } else {
        match (source, file) {
            (Source::Fetching(fetch), _) => fetch.follow(part.first, part.length),
            (_, Some(file)) => ServerBody::file(file, part.first, part.length),
            // Described only, which is for HEAD alone.
            (_, None) => ServerBody::empty(),
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    describe(&mut response, &tag);
    set(&mut response, CONTENT_LENGTH, &part.length.to_string());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = part.first + part.length - 1;
        set(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {}-{last}/{size}", part.first),
        );
    }
    Ok(response)
}

/// Headers of content that its digest names: it never changes.
pub(super) fn describe(response: &mut Response<ServerBody>, digest: &str) {
    set(response, CONTENT_DIGEST, digest);
    set(response, ETAG, &format!("\"{digest}\""));
    set(response, CACHE_CONTROL, "max-age=31536000");
}

/// 304: the client has it.
pub(super) fn not_modified(digest: &str) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    describe(&mut response, digest);
    response
}

/// `DELETE` of a blob (end-10). The bytes stay until the collector finds that no repository has
/// them.
pub(super) async fn delete(state: &Arc<State>, name: RepositoryName, digest: Digest) -> Answer {
    let removed = state
        .blocking(move |storage| {
            let _keep = storage.keep()?;
            let _changing = storage.changing(&name);
            storage.unlink_blob(&name, &digest)
        })
        .await?;
    if !removed {
        return Err(Fault::blob_unknown());
    }
    let mut response = Response::new(ServerBody::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    Ok(response)
}
