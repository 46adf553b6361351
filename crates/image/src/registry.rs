//! The client side of the OCI distribution specification 1.1.
//!
//! Safety rests on three habits. Credentials and tokens belong to one origin and are attached to
//! a request only when it goes there, so a redirect cannot carry them away. Every other place
//! that a registry names (a redirect's target, a token endpoint) goes through the rules in
//! `origin`. Content is verified by digest wherever it came from.
//!
//! A registry may have several hosts (`hosts.toml`): [`Client`] knows them all and asks them in
//! order; what is done with one of them is in `host`.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ureq::http::Response;
use ureq::http::header::{self, HeaderMap};

use crate::credentials::{CredentialError, CredentialSource};
use crate::digest::Digest;
use crate::hosts;
use crate::model::{self, media_type};

mod access;
mod auth;
mod blob;
mod content;
mod dns;
mod download;
mod error;
mod host;
mod login;
mod origin;
mod proxy;
mod retry;
mod transport;
mod upload;

pub use auth::Credentials;
pub use blob::BlobReader;
pub use content::{ManifestHead, SearchResult};
pub use dns::{ResolveError, ResolverFiles};
pub use download::{Download, DownloadError, DownloadOptions};
pub use error::{HostFailure, RegistryError};
pub use proxy::Proxies;
pub use retry::RetryPolicy;
pub(crate) use upload::{Beginning, Progress, Upload, UploadStart};

use access::Access;
use host::{Answer, Host, Request};

/// Largest answer of a token endpoint and largest error document that is read, in bytes.
const SMALL_BODY: u64 = 1 << 20;

/// How to talk to a registry.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where credentials for the registry come from, should it ask for any.
    pub credentials: CredentialSource,
    /// `host[:port]` of registries that need no valid certificate nor TLS. The loopback addresses
    /// and `localhost` never do.
    pub insecure_registries: Vec<String>,
    /// Directories with a directory per registry, best first, that holds its `hosts.toml` and
    /// certificates ([`crate::hosts`]).
    pub certificate_directories: Vec<PathBuf>,
    /// Retries.
    pub retry: RetryPolicy,
    /// Where names are looked up.
    pub resolver: ResolverFiles,
    /// Proxies; those of the environment by default.
    pub proxies: Proxies,
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
                "/etc/containerd/certs.d".into(),
                "/etc/docker/certs.d".into(),
            ],
            retry: RetryPolicy::default(),
            resolver: ResolverFiles::default(),
            proxies: Proxies::of_environment(),
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

impl ManifestName<'_> {
    /// As it stands in a URL.
    fn last(&self) -> String {
        match self {
            Self::Tag(tag) => (*tag).to_owned(),
            Self::Digest(digest) => digest.to_string(),
        }
    }
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
    /// The registry itself is last.
    hosts: Vec<Host>,
    /// How many hosts in order have sent a blob that has not its digest.
    distrusted: Mutex<HashMap<Digest, usize>>,
}

/// What a host must be able to do to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Pull,
    Resolve,
    Push,
}

impl Client {
    /// A client of `registry`, which is `host[:port]` as in a reference. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::InvalidName`], [`RegistryError::Hosts`].
    pub fn new(registry: &str, options: &ClientOptions) -> Result<Self, RegistryError> {
        let own = Host::new(registry, options, hosts::HostConfig::default())?;
        let configured =
            hosts::lookup(&options.certificate_directories, registry).map_err(|source| {
                RegistryError::Hosts {
                    registry: registry.to_owned(),
                    source: Box::new(source),
                }
            })?;
        let hosts = if configured == [hosts::HostConfig::default()] {
            vec![own]
        } else {
            configured
                .into_iter()
                .map(|config| Host::new(registry, options, config))
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            name: registry.to_owned(),
            hosts,
            distrusted: Mutex::default(),
        })
    }

    /// The registry's name.
    pub fn registry(&self) -> &str {
        &self.name
    }

    /// Whether the registry's first host is this host by name or address: there one connection
    /// is as fast as many.
    pub(crate) fn is_local(&self) -> bool {
        self.hosts.first().is_some_and(Host::is_local)
    }

    /// Asks the hosts that are able to, in order, until one has an answer.
    fn on_hosts<'client, T>(
        &'client self,
        need: Need,
        object: &str,
        ask: impl FnMut(&'client Host) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let able = || self.hosts.iter().filter(|host| host.can(need));
        self.ask_in_order(able(), object, ask)
    }

    /// As [`Client::on_hosts`], for a blob: without the hosts that have sent a wrong one.
    fn on_hosts_with_blob<'client, T>(
        &'client self,
        blob: &Digest,
        object: &str,
        ask: impl FnMut(&'client Host) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let skipped = lock(&self.distrusted).get(blob).copied().unwrap_or(0);
        let able = self.hosts.iter().filter(|host| host.can(Need::Pull));
        self.ask_in_order(able.skip(skipped), object, ask)
    }

    /// Leaves the host out that was first asked for a blob, which did not have its digest; `false`
    /// if there is no other.
    pub(crate) fn distrust(&self, blob: &Digest) -> bool {
        let able = self.hosts.iter().filter(|host| host.can(Need::Pull));
        let mut distrusted = lock(&self.distrusted);
        let skipped = distrusted.entry(*blob).or_default();
        if *skipped + 1 >= able.count() {
            return false;
        }
        *skipped += 1;
        true
    }

    fn ask_in_order<'client, T>(
        &'client self,
        able: impl Iterator<Item = &'client Host> + Clone,
        object: &str,
        mut ask: impl FnMut(&'client Host) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut failures = Vec::new();
        let mut last = None;
        // A host that could not be reached a moment ago costs its timeout again. If that is all
        // of them, the network may be back by now.
        let none_is_up = able.clone().all(Host::is_down);
        for host in able {
            if host.is_down() && !none_is_up {
                continue;
            }
            match ask(host) {
                Ok(value) => {
                    if none_is_up {
                        host.set_down(false);
                    }
                    return Ok(value);
                }
                Err(error) => {
                    if error.is_of_host() {
                        host.set_down(true);
                    }
                    if let Some(error) = last.replace((host.name().to_owned(), error)) {
                        failures.push(error);
                    }
                }
            }
        }
        let Some((host, error)) = last else {
            return Err(RegistryError::NoHost {
                registry: self.name.clone(),
                object: object.to_owned(),
            });
        };
        if failures.is_empty() {
            return Err(error);
        }
        let mut failures: Vec<HostFailure> = failures
            .into_iter()
            .map(|(host, error)| HostFailure::new(host, error))
            .collect();
        failures.push(HostFailure::new(host, error));
        Err(RegistryError::AllHosts {
            registry: self.name.clone(),
            object: object.to_owned(),
            failures,
        })
    }

    /// The host that takes content in.
    fn push_host(&self, object: &str) -> Result<&Host, RegistryError> {
        let mut hosts = self.hosts.iter().filter(|host| host.can(Need::Push));
        hosts.next().ok_or_else(|| RegistryError::NoHost {
            registry: self.name.clone(),
            object: object.to_owned(),
        })
    }

    /// Fetches a manifest or an index. A digest is verified; so is the digest that the registry
    /// states in `Docker-Content-Digest`.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
    ) -> Result<FetchedManifest, RegistryError> {
        let need = match name {
            ManifestName::Tag(_) => Need::Resolve,
            ManifestName::Digest(_) => Need::Pull,
        };
        self.on_hosts(need, &format!("{repository}{name}"), |host| {
            host.manifest(repository, name, &Access::pull(repository))
        })
    }

    /// Opens a blob of `size` bytes for reading. The reader asks for the rest again when the
    /// connection breaks; the caller verifies the digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob<'client>(
        &'client self,
        repository: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobReader<'client>, RegistryError> {
        BlobReader::open(self, repository, digest, size, 0..size)
    }

    /// As [`Client::blob`], for the bytes in `range`, which is within the blob. What is before
    /// its start is skipped if the server knows no ranges.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob_range<'client>(
        &'client self,
        repository: &str,
        digest: &Digest,
        size: u64,
        range: std::ops::Range<u64>,
    ) -> Result<BlobReader<'client>, RegistryError> {
        BlobReader::open(self, repository, digest, size, range)
    }

    /// Asks the registry whether it lets the user in (`login`).
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn check_credentials(&self) -> Result<(), RegistryError> {
        // The registry itself: a login is kept under its name.
        match self.hosts.last() {
            Some(host) => host
                .send(&mut Request::get(
                    &host.api(""),
                    &Access::none(),
                    "its version",
                ))
                .map(drop),
            None => Ok(()),
        }
    }

    /// Why stored credentials were not used although the registry asked, if it went on without.
    pub(crate) fn unused_credentials(&self) -> Option<&CredentialError> {
        self.hosts.iter().find_map(Host::unused_credentials)
    }
}

impl Host {
    fn manifest(
        &self,
        repository: &str,
        name: ManifestName<'_>,
        access: &Access,
    ) -> Result<FetchedManifest, RegistryError> {
        let object = format!("{repository}{name}");
        let path = self.api(&format!("{repository}/manifests/{}", name.last()));
        let mut request = Request::get(&path, access, &object);
        request
            .headers
            .push((header::ACCEPT.as_str(), media_type::ACCEPT.to_owned()));
        let answer = self.send(&mut request)?;
        let content_type = answer.text("content-type");
        let stated = answer.text("docker-content-digest");
        let bytes = self.document(answer, &object, model::DOCUMENT_LIMIT)?;
        let digest = Digest::of(&bytes);
        let mismatch = |expected: &str| RegistryError::DigestMismatch {
            registry: self.name().to_owned(),
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

    /// The body of an answer that is read whole.
    fn document(&self, answer: Answer, object: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let (registry, object) = (self.name().to_owned(), object.to_owned());
        match read_capped(answer.response, limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(RegistryError::TooLarge {
                registry,
                object,
                limit,
            }),
            Err(source) => Err(RegistryError::Body {
                registry,
                object,
                source,
            }),
        }
    }
}

impl Answer {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header that is text.
    fn text(&self, name: &str) -> Option<String> {
        self.headers().get(name)?.to_str().ok().map(str::to_owned)
    }
}

/// The maps behind these locks are whole at any time, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Credentials that could not be had, shared by every request that they were for.
type LoginFailure = Arc<CredentialError>;

#[cfg(test)]
mod tests;
