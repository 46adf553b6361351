//! The operations of the specification, one file per kind of object.
//!
//! [`answer`] is the door: it reads the path, asks the gatekeeper, and calls the operation.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::sync::Semaphore;

use crate::auth::{Gate, Grants, PublicUrl};
use crate::body::{Patience, Reception, ServerBody};
use crate::fault::Fault;
use crate::name::{Query, Route};
use crate::options::Options;
use crate::proxy::Upstream;
use crate::server::ServeError;
use crate::storage::{Storage, StorageError};

mod blobs;
mod lists;
mod manifests;
mod uploads;

pub(crate) use manifests::write as write_manifest;

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Manifests that are parsed at once: one of 4 MiB takes several times that.
const PARSED_AT_ONCE: usize = 4;
/// Manifests of more than [`SMALL`] bytes that are received at once: at most 4 MiB each.
const RECEIVED_AT_ONCE: usize = 16;
/// Bytes of a manifest that are held in memory for any connection. Those of common images have
/// less, so a client that is slow with a large one keeps nobody else waiting.
const SMALL: usize = 64 << 10;
/// How long a request waits until it may send its body.
const QUEUE: Duration = Duration::from_secs(60);

/// What all requests share.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) storage: Arc<Storage>,
    gate: Gate,
    url: PublicUrl,
    sessions: uploads::Sessions,
    receptions: Semaphore,
    parsing: Semaphore,
    large: Semaphore,
    upstream: Option<Upstream>,
}

impl State {
    /// Opens the root for serving; the lock is held as long as the server runs.
    pub(crate) fn open(options: Options) -> Result<(Self, OwnedFd), ServeError> {
        let gate = Gate::new(&options.access, &options.log)?;
        Storage::refuse_foreign(&options.root)?;
        let storage = Arc::new(Storage::open(&options.root)?);
        let lock = storage.lock_serving()?;
        // Nobody else writes here while the lock is held, so all of it is left over.
        storage.sweep_staging(std::time::SystemTime::now())?;
        storage.sweep_fetches()?;
        storage.store.sweep().map_err(StorageError::from)?;
        let upstream = match &options.upstream {
            Some(upstream) => {
                Some(Upstream::new(upstream, Arc::clone(&storage)).map_err(ServeError::Upstream)?)
            }
            None => None,
        };
        let state = Self {
            gate,
            url: PublicUrl {
                given: options.public_url.clone(),
                secure: options.tls.is_some(),
            },
            sessions: uploads::Sessions::default(),
            receptions: Semaphore::new(options.limits.receptions),
            parsing: Semaphore::new(PARSED_AT_ONCE),
            large: Semaphore::new(RECEIVED_AT_ONCE),
            upstream,
            storage,
            options,
        };
        Ok((state, lock))
    }

    /// Runs what blocks on a thread that may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Fault> {
        let storage = Arc::clone(&self.storage);
        blocking(move || work(&storage).map_err(|error| Fault::internal(&error))).await
    }

    fn reception(&self, body: Incoming) -> Reception {
        let idle = self.options.limits.idle;
        Reception::new(body, Patience { idle })
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::internal(&error)),
    }
}

/// What an operation gets of a request.
pub(crate) struct Call {
    method: Method,
    query: Query,
    headers: HeaderMap,
    grants: Grants,
    body: Incoming,
}

impl Call {
    fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

type Answer = Result<Response<ServerBody>, Fault>;

/// Answers a request.
pub(crate) async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<ServerBody> {
    let line = state
        .options
        .access_log
        .then(|| format!("{} {}", request.method(), request.uri()));
    let is_head = request.method() == Method::HEAD;
    let mut response = match dispatch(state, request).await {
        Ok(response) => response,
        Err(fault) => {
            if let Some(internal) = &fault.internal {
                state.options.log.say(internal);
            }
            let mut response = fault.into_response();
            if is_head {
                *response.body_mut() = ServerBody::empty();
            }
            response
        }
    };
    response.headers_mut().insert(
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    );
    // Content is somebody's upload: a browser must not take it for a page.
    response.headers_mut().insert(
        hyper::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(line) = line {
        let status = response.status().as_u16();
        state.options.log.say(&format!("{line} {status}"));
    }
    response
}

async fn dispatch(state: &Arc<State>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let route = Route::parse(parts.uri.path())?;
    if route == Route::Token {
        // Clients that post a form with the password would get a token for nobody; told that this
        // is not there (405), they ask with GET.
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(Fault::method("GET, HEAD"));
        }
        let issued = state.gate.issue(&parts.headers).await;
        return Ok(json(
            &issued.ok_or_else(Fault::no_such_page)??,
            "application/json",
        ));
    }
    let grants = state
        .gate
        .admit(&parts.method, &route, &parts.headers, &state.url)
        .await?;
    let call = Call {
        query: Query::parse(parts.uri.query())?,
        method: parts.method,
        headers: parts.headers,
        grants,
        body,
    };
    let method = call.method.clone();
    let reads = method == Method::GET || method == Method::HEAD;
    let deletes = method == Method::DELETE;
    if state.upstream.is_some() && !reads {
        return Err(Fault::unsupported(
            "this registry mirrors another one: nothing can be changed",
        ));
    }
    if deletes && !state.options.deletion && !matches!(route, Route::Upload(..)) {
        return Err(Fault::unsupported("deletion is switched off"));
    }
    match route {
        Route::Base if reads => Ok(json(&serde_json::json!({}), "application/json")),
        Route::Catalog if reads => lists::catalog(state, &call).await,
        Route::Tags(name) if reads => lists::tags(state, &call, name).await,
        Route::Referrers(name, subject) if reads => {
            lists::referrers(state, &call, name, subject).await
        }
        Route::Manifest(name, reference) => match method {
            Method::GET | Method::HEAD => manifests::get(state, &call, name, reference).await,
            Method::PUT => manifests::put(state, call, name, reference).await,
            Method::DELETE => manifests::delete(state, name, reference).await,
            _ => Err(Fault::method("GET, HEAD, PUT, DELETE")),
        },
        Route::Blob(name, digest) => match method {
            Method::GET | Method::HEAD => blobs::get(state, &call, name, digest).await,
            Method::DELETE => blobs::delete(state, name, digest).await,
            _ => Err(Fault::method("GET, HEAD, DELETE")),
        },
        Route::Uploads(name) if method == Method::POST => uploads::start(state, call, name).await,
        Route::Upload(name, id) => match method {
            Method::GET | Method::HEAD => uploads::status(state, name, id).await,
            Method::PATCH => uploads::append(state, call, name, id).await,
            Method::PUT => uploads::finish(state, call, name, id).await,
            Method::DELETE => uploads::cancel(state, name, id).await,
            _ => Err(Fault::method("GET, PATCH, PUT, DELETE")),
        },
        Route::Uploads(_) => Err(Fault::method("POST")),
        _ => Err(Fault::method("GET, HEAD")),
    }
}

/// A JSON document.
fn json(value: &serde_json::Value, content_type: &'static str) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::full(value.to_string().into()));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        HeaderValue::from_static(content_type),
    );
    response
}

/// Sets a header whose value is made of digests, names and numbers.
fn set(response: &mut Response<ServerBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Whether an entity tag is in `If-None-Match` (RFC 9110, section 13.1.2): the client has it.
fn is_fresh(call: &Call, tag: &str) -> bool {
    call.headers
        .get_all(hyper::header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| {
            let known = known.strip_prefix("W/").unwrap_or(known);
            known == "*" || known.trim_matches('"') == tag
        })
}
