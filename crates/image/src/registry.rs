//! The client side of the OCI distribution specification 1.1, as far as pulling goes.
//!
//! Safety rests on three habits. Credentials and tokens belong to one origin and are attached to
//! a request only when it goes there, so a redirect cannot carry them away. Every other place
//! that a registry names (a redirect's target, a token endpoint) goes through the rules in
//! `origin`. Content is verified by digest wherever it came from.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::http::Response;
use ureq::http::header::{self, HeaderMap};

use crate::credentials::{CredentialError, CredentialSource, Login};
use crate::digest::Digest;
use crate::model::{self, media_type};
use crate::reference::DEFAULT_REGISTRY;

mod auth;
mod blob;
mod dns;
mod error;
mod login;
mod origin;
mod transport;

pub use auth::Credentials;
pub use blob::BlobReader;
pub use dns::{ResolveError, ResolverFiles};
pub use error::RegistryError;

use auth::Token;
use origin::{Origin, Reach, Url};
use transport::{Target, Trust};

/// Host of the registry that `docker.io` names.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Redirects that are followed for one request.
const REDIRECTS: u32 = 5;
/// Largest answer of a token endpoint and largest error document that is read, in bytes.
const SMALL_BODY: u64 = 1 << 20;
/// Longest wait that a server's `Retry-After` can cause.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How requests are repeated after transport errors and the statuses 429 and 5xx.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Requests after the first.
    pub retries: u32,
    /// Wait before the first retry; it triples each time.
    pub delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 3,
            delay: Duration::from_millis(300),
        }
    }
}

impl RetryPolicy {
    /// Waits before the retry after `retries` others, at least as long as the server asked for.
    fn pause(&self, retries: u32, asked: Duration) {
        let backoff = self.delay * 3_u32.saturating_pow(retries);
        std::thread::sleep(asked.max(backoff).min(LONGEST_RETRY));
    }
}

/// How to talk to a registry.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where credentials for the registry come from, should it ask for any.
    pub credentials: CredentialSource,
    /// `host[:port]` of registries that need no valid certificate nor TLS. The loopback addresses
    /// and `localhost` never do.
    pub insecure_registries: Vec<String>,
    /// Directories with certificates per registry, as `HOST[:PORT]/ca.crt`.
    pub certificate_directories: Vec<PathBuf>,
    /// Retries.
    pub retry: RetryPolicy,
    /// Where names are looked up.
    pub resolver: ResolverFiles,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: CredentialSource::Nobody,
            insecure_registries: Vec::new(),
            certificate_directories: vec![
                "/etc/gantry/certs.d".into(),
                "/etc/docker/certs.d".into(),
            ],
            retry: RetryPolicy::default(),
            resolver: ResolverFiles::default(),
            user_agent: concat!("gantry/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Which manifest of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestName<'a> {
    /// What the tag points to now.
    Tag(&'a str),
    /// Exactly this.
    Digest(&'a Digest),
}

impl std::fmt::Display for ManifestName<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => write!(formatter, ":{tag}"),
            Self::Digest(digest) => write!(formatter, "@{digest}"),
        }
    }
}

/// A manifest as the registry sent it.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// The document; never more than [`model::DOCUMENT_LIMIT`].
    pub bytes: Vec<u8>,
    /// `Content-Type`, if there was one.
    pub content_type: Option<String>,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// A client of one registry. It may be used from several threads at once.
pub struct Client {
    name: String,
    options: ClientOptions,
    trust: Trust,
    origin: OnceLock<Origin>,
    reach: OnceLock<Reach>,
    agents: Mutex<HashMap<Target, Agent>>,
    tokens: Mutex<HashMap<String, Token>>,
    wants_basic: OnceLock<()>,
    /// Set when the registry first asks: the lookup may run a program.
    login: OnceLock<Result<Login, Arc<CredentialError>>>,
}

/// A response, and where it came from after redirects.
struct Answer {
    url: Url,
    response: Response<ureq::Body>,
}

impl Client {
    /// A client of `registry`, which is `host[:port]` as in a reference. Nothing is sent yet.
    pub fn new(registry: &str, options: &ClientOptions) -> Result<Self, RegistryError> {
        let client = Self {
            name: registry.to_owned(),
            trust: Trust {
                certificate_directories: options.certificate_directories.clone(),
                resolver: options.resolver.clone(),
                system: Arc::default(),
            },
            options: options.clone(),
            origin: OnceLock::new(),
            reach: OnceLock::new(),
            agents: Mutex::default(),
            tokens: Mutex::default(),
            wants_basic: OnceLock::new(),
            login: OnceLock::new(),
        };
        client.origin_with(true)?;
        Ok(client)
    }

    /// The registry's name.
    pub fn registry(&self) -> &str {
        &self.name
    }

    /// Fetches a manifest or an index. A digest is verified; so is the digest that the registry
    /// states in `Docker-Content-Digest`.
    pub fn manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<FetchedManifest, RegistryError> {
        let object = format!("{repository}{name}");
        let last = match name {
            ManifestName::Tag(tag) => tag.to_owned(),
            ManifestName::Digest(digest) => digest.to_string(),
        };
        let path = format!("/v2/{repository}/manifests/{last}");
        let answer = self.get(
            repository,
            &path,
            &[(header::ACCEPT.as_str(), media_type::ACCEPT)],
            &object,
        )?;
        let text = |name: &str| {
            answer
                .response
                .headers()
                .get(name)?
                .to_str()
                .ok()
                .map(str::to_owned)
        };
        let (content_type, stated) = (text("content-type"), text("docker-content-digest"));
        let Some(bytes) =
            read_capped(answer.response, model::DOCUMENT_LIMIT).map_err(|source| {
                RegistryError::Body {
                    registry: self.name.clone(),
                    object: object.clone(),
                    source,
                }
            })?
        else {
            return Err(RegistryError::TooLarge {
                registry: self.name.clone(),
                object,
                limit: model::DOCUMENT_LIMIT,
            });
        };
        let digest = Digest::of(&bytes);
        let mismatch = |expected: &str| RegistryError::DigestMismatch {
            registry: self.name.clone(),
            object: object.clone(),
            expected: expected.chars().take(160).collect(),
            actual: digest,
        };
        if let ManifestName::Digest(expected) = name
            && digest != *expected
        {
            return Err(mismatch(&expected.to_string()));
        }
        if let Some(stated) = stated
            && stated.starts_with("sha256:")
            && stated != digest.to_string()
        {
            return Err(mismatch(&stated));
        }
        Ok(FetchedManifest {
            bytes,
            content_type,
            digest,
        })
    }

    /// Opens a blob of `size` bytes for reading. The reader asks for the rest again when the
    /// connection breaks; the caller verifies the digest.
    pub fn blob<'client>(
        &'client self,
        repository: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobReader<'client>, RegistryError> {
        BlobReader::open(self, repository, digest, size)
    }

    /// Asks the registry whether it lets the user in (`login`).
    pub fn check_credentials(&self) -> Result<(), RegistryError> {
        self.get("", "/v2/", &[], "its version").map(drop)
    }

    /// `GET` with authentication and retries; an answer is always 200 or 206.
    fn get(
        &self,
        repository: &str,
        path: &str,
        headers: &[(&str, &str)],
        object: &str,
    ) -> Result<Answer, RegistryError> {
        let url = self.origin()?.url(path);
        let (mut retries, mut challenged) = (0, false);
        loop {
            let authorization = self.authorization(repository);
            let result = self.follow(&url, headers, authorization.as_deref());
            let wait = match &result {
                Ok(answer)
                    if answer.response.status() == 401
                        && !challenged
                        && answer.url.origin == url.origin =>
                {
                    // Once per request: a registry that refuses what it asked for will not change its mind.
                    challenged = true;
                    self.meet_challenge(repository, answer.response.headers(), object)?;
                    continue;
                }
                Ok(answer) if is_temporary(answer.response.status().as_u16()) => {
                    retry_after(answer.response.headers())
                }
                Ok(answer) if matches!(answer.response.status().as_u16(), 200 | 206) => {
                    return result;
                }
                Ok(_) => None,
                Err(error) if error.is_temporary() => Some(Duration::ZERO),
                Err(_) => None,
            };
            match wait {
                Some(wait) if retries < self.options.retry.retries => {
                    self.options.retry.pause(retries, wait);
                    retries += 1;
                }
                _ => return Err(self.refusal(object, result?, authorization.is_some())),
            }
        }
    }

    /// What a status other than 200 and 206 means to the user.
    fn refusal(&self, object: &str, answer: Answer, authorized: bool) -> RegistryError {
        let status = answer.response.status().as_u16();
        let body = read_capped(answer.response, SMALL_BODY)
            .ok()
            .flatten()
            .unwrap_or_default();
        let message = error::message_of(&body);
        let (registry, object) = (self.name.clone(), object.to_owned());
        match status {
            401 | 403 => self.denied(object, message, status, authorized),
            404 => RegistryError::NotFound {
                registry,
                object,
                message,
            },
            _ => RegistryError::Status {
                registry,
                object,
                status,
                message,
            },
        }
    }

    /// Sends a `GET` and follows redirects. `authorization` goes to the origin of `url` only
    /// (CVE-2020-15157, CVE-2026-50151).
    fn follow(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let first = url;
        let mut url = url.clone();
        let mut least = Reach::Own;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent(&url.origin, least)?.get(url.to_string());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(authorization) = authorization
                && url.origin == first.origin
            {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = request
                .call()
                .map_err(|error| RegistryError::transport(&url.origin, error))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { url, response });
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| url.join(location))
                .ok_or_else(|| {
                    let location = location.unwrap_or("nowhere").chars().take(160).collect();
                    RegistryError::RedirectMalformed {
                        from: url.origin.to_string(),
                        location,
                    }
                })?;
            let reach = if target.origin.host == first.origin.host {
                Reach::Own
            } else {
                self.reach()?
            };
            origin::check_redirect(&url, &target, reach)?;
            least = origin::least_reach_of_redirect(reach);
            url = target;
        }
        Err(RegistryError::TooManyRedirects {
            url: first.origin.to_string(),
            limit: REDIRECTS,
        })
    }

    fn agent(&self, origin: &Origin, least: Reach) -> Result<Agent, RegistryError> {
        let insecure = self.is_insecure(origin);
        let target = Target {
            origin: origin.clone(),
            least,
            insecure,
        };
        if let Some(agent) = lock(&self.agents).get(&target) {
            return Ok(agent.clone());
        }
        // Not under the lock: it reads certificates. Two threads may both make one.
        let agent = transport::agent(&target, &self.trust, &self.options.user_agent)?;
        Ok(lock(&self.agents).entry(target).or_insert(agent).clone())
    }

    fn is_insecure(&self, origin: &Origin) -> bool {
        origin.is_loopback()
            || self.options.insecure_registries.iter().any(|listed| {
                Origin::of_registry(listed, true).is_some_and(|listed| {
                    // A name without a port means the default port of whichever scheme is used.
                    listed.host == origin.host
                        && (listed.port == origin.port || (listed.port == 443 && origin.port == 80))
                })
            })
    }

    fn origin_with(&self, secure: bool) -> Result<Origin, RegistryError> {
        let host = if self.name == DEFAULT_REGISTRY {
            DOCKER_HUB
        } else {
            &self.name
        };
        Origin::of_registry(host, secure).ok_or_else(|| RegistryError::InvalidName {
            registry: self.name.clone(),
        })
    }

    /// Where the registry is. Clear text is tried only where it is allowed, and only after TLS
    /// (CVE-2014-5277).
    fn origin(&self) -> Result<&Origin, RegistryError> {
        if let Some(origin) = self.origin.get() {
            return Ok(origin);
        }
        let secure = self.origin_with(true)?;
        let plain = self.origin_with(false)?;
        let chosen = if self.is_insecure(&secure) || self.is_insecure(&plain) {
            match self
                .agent(&secure, Reach::Own)?
                .get(secure.url("/v2/").to_string())
                .call()
            {
                Ok(_) => secure,
                Err(_) => plain,
            }
        } else {
            secure
        };
        Ok(self.origin.get_or_init(|| chosen))
    }

    /// From where the registry is reachable. What cannot be resolved (behind a proxy) is taken as
    /// public, which allows it the least.
    fn reach(&self) -> Result<Reach, RegistryError> {
        if let Some(reach) = self.reach.get() {
            return Ok(*reach);
        }
        let host = &self.origin()?.host;
        let least = |addresses: Vec<IpAddr>| addresses.into_iter().map(origin::reach).min();
        let found = dns::resolve(host, &self.options.resolver)
            .ok()
            .and_then(least)
            .unwrap_or(Reach::Public);
        Ok(*self.reach.get_or_init(|| found))
    }
}

/// The maps behind these locks are whole at any time, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds, zero without one; a date is not worth a parser.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Some(Duration::from_secs(seconds.unwrap_or(0)))
}

/// The body, or `None` if it is longer than `limit` bytes.
fn read_capped(response: Response<ureq::Body>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    response
        .into_body()
        .into_reader()
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests;
