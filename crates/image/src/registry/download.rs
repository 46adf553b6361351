//! A file from any http or https server, for `import URL`.
//!
//! No credentials are ever sent: none in the URL are accepted, and nobody's are looked up. The
//! place that the user names may be anywhere; where it redirects to goes through the rules for
//! registries, so that a server of somebody else cannot have this host ask its own services.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use ureq::http::header;
use ureq::http::{Response, StatusCode};
use ureq::{BodyReader, SendBody};

use super::blob::content_range;
use super::origin::{self, Origin, Reach, Url};
use super::transport::{self, Target, Trust};
use super::{Answer, ClientOptions, RegistryError, dns, retry};

/// Bytes after which earlier breaks are forgiven.
const PROGRESS: u64 = 1 << 20;

/// How to download.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    /// Retries, proxies, certificates and name servers. Credentials are not used.
    pub client: ClientOptions,
    /// The most that is read, in bytes. 64 GiB by default, which is also what an image may
    /// unpack to.
    pub limit: u64,
    /// Redirects that are followed. 10 by default.
    pub redirects: u32,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            limit: 64 << 30,
            redirects: 10,
        }
    }
}

/// Why a file cannot be downloaded. `place` is the URL without its query, which may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// It is not a URL that can be asked.
    #[error("{url:?} is not an http or https URL without a user name")]
    Url {
        /// As given, shortened and without a query.
        url: String,
    },
    /// The server cannot be reached, or redirects to where nobody should go.
    #[error("cannot download {place}")]
    Server {
        /// What was asked for.
        place: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// The server does not have it, or does not give it.
    #[error("cannot download {place}: {origin} answered {status}")]
    Status {
        /// What was asked for.
        place: String,
        /// Who answered.
        origin: String,
        /// Number and words.
        status: StatusCode,
    },
    /// It is larger than allowed.
    #[error("cannot download {place}: it has more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        place: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The connection broke, and the server does not go on from there.
    #[error("{place} broke off after {received} bytes{}", of(*.expected))]
    BrokeOff {
        /// What was asked for.
        place: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        expected: Option<u64>,
        /// Why, if the connection said so.
        #[source]
        source: Option<io::Error>,
    },
}

fn of(expected: Option<u64>) -> String {
    expected.map_or_else(String::new, |expected| format!(" of {expected}"))
}

/// A file on its way. Reading asks for the rest again when the connection breaks and the server
/// can tell that it is still the same file.
pub struct Download {
    options: DownloadOptions,
    place: String,
    url: Url,
    trust: Trust,
    body: Option<BodyReader<'static>>,
    length: Option<u64>,
    /// By which the server knows this very file (RFC 9110, section 8.8.1).
    validator: Option<String>,
    read: u64,
    breaks: u32,
    last_break: u64,
}

impl Download {
    /// Asks for `url`.
    ///
    /// # Errors
    /// [`DownloadError`].
    pub fn open(url: &str, options: &DownloadOptions) -> Result<Self, DownloadError> {
        let parsed = Url::parse(url).ok_or_else(|| DownloadError::Url {
            url: without_secrets(url),
        })?;
        let mut download = Self {
            options: options.clone(),
            place: without_secrets(&parsed.to_string()),
            url: parsed,
            trust: Trust {
                certificate_directories: options.client.certificate_directories.clone(),
                resolver: options.client.resolver.clone(),
                proxies: options.client.proxies.clone(),
                ca: Vec::new(),
                system: Arc::new(OnceLock::new()),
            },
            body: None,
            length: None,
            validator: None,
            read: 0,
            breaks: 0,
            last_break: 0,
        };
        let answer = download.ask()?;
        if answer.status() != 200 {
            return Err(download.refused(&answer));
        }
        download.length = length_of(&answer);
        if download.length.is_some_and(|length| length > options.limit) {
            return Err(download.too_large());
        }
        // A weak one would let the server send the rest of another file.
        download.validator = answer
            .text(header::ETAG.as_str())
            .filter(|tag| !tag.starts_with("W/"));
        download.body = Some(answer.response.into_body().into_reader());
        Ok(download)
    }

    /// The URL without its query, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Bytes that the server has announced.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    fn too_large(&self) -> DownloadError {
        DownloadError::TooLarge {
            place: self.place.clone(),
            limit: self.options.limit,
        }
    }

    fn refused(&self, answer: &Answer) -> DownloadError {
        DownloadError::Status {
            place: self.place.clone(),
            origin: answer.url.origin.to_string(),
            status: answer.response.status(),
        }
    }

    fn failed(&self, source: RegistryError) -> DownloadError {
        DownloadError::Server {
            place: self.place.clone(),
            source: Box::new(source),
        }
    }

    /// Asks for everything that has not been read, with retries.
    fn ask(&self) -> Result<Answer, DownloadError> {
        let policy = self.options.client.retry;
        let mut retries = 0;
        loop {
            let result = self.follow();
            let wait = match &result {
                Ok(answer) if retry::is_temporary(answer.status()) => {
                    let asked = retry::asked_wait(answer.headers(), SystemTime::now());
                    Some(asked.unwrap_or_default()).filter(|asked| *asked <= policy.longest)
                }
                Err(error) if error.is_temporary() => Some(Duration::ZERO),
                _ => None,
            };
            match wait {
                Some(wait) if retries < policy.retries => {
                    policy.pause(retries, wait);
                    retries += 1;
                }
                _ => return result.map_err(|source| self.failed(source)),
            }
        }
    }

    /// Asks once and follows redirects.
    fn follow(&self) -> Result<Answer, RegistryError> {
        let mut url = self.url.clone();
        let mut least = Reach::Own;
        for _ in 0..=self.options.redirects {
            let response = self.call(&url, least)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { url, response });
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| url.join(location))
                .ok_or_else(|| RegistryError::RedirectMalformed {
                    from: url.origin.to_string(),
                    location: without_secrets(location.unwrap_or("nowhere")),
                })?;
            let reach = if target.origin.host == self.url.origin.host {
                Reach::Own
            } else {
                self.reach()
            };
            origin::check_redirect(&url, &target, reach)?;
            least = origin::least_reach_of_redirect(reach);
            url = target;
        }
        Err(RegistryError::TooManyRedirects {
            url: self.url.origin.to_string(),
            limit: self.options.redirects,
        })
    }

    /// From where the place that the user named is reachable; what cannot be resolved here
    /// (behind a proxy) is taken as public, which allows it the least.
    fn reach(&self) -> Reach {
        dns::resolve(&self.url.origin.host, &self.options.client.resolver)
            .ok()
            .and_then(|found| found.into_iter().map(origin::reach).min())
            .unwrap_or(Reach::Public)
    }

    fn call(&self, url: &Url, least: Reach) -> Result<Response<ureq::Body>, RegistryError> {
        let failed = |error| RegistryError::transport(&url.origin, error);
        let target = Target {
            origin: url.origin.clone(),
            least,
            insecure: self.is_insecure(&url.origin),
        };
        let client = &self.options.client;
        let agent = transport::agent(&target, &self.trust, &[], &client.user_agent)?;
        let mut request = ureq::http::Request::builder().uri(url.to_string());
        if self.read > 0
            && let Some(validator) = &self.validator
        {
            request = request
                .header(header::RANGE, format!("bytes={}-", self.read))
                .header(header::IF_RANGE, validator);
        }
        let request = request
            .body(SendBody::none())
            .map_err(|error| failed(ureq::Error::Http(error)))?;
        agent.run(request).map_err(failed)
    }

    fn is_insecure(&self, origin: &Origin) -> bool {
        let listed = &self.options.client.insecure_registries;
        origin.is_loopback()
            || listed.iter().any(|name| {
                Origin::of_registry(name, origin.secure).is_some_and(|listed| listed == *origin)
            })
    }

    /// Reads some bytes; zero at the end of the file.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, DownloadError> {
        loop {
            let Some(body) = &mut self.body else {
                return Ok(0);
            };
            let source = match body.read(buffer) {
                Ok(0) if buffer.is_empty() => return Ok(0),
                // A server without a length ends the file when it closes the connection.
                Ok(0) if self.length.is_none_or(|length| self.read >= length) => {
                    self.body = None;
                    return Ok(0);
                }
                Ok(0) => None,
                Ok(count) => {
                    self.read += count as u64;
                    if self.read > self.options.limit {
                        self.body = None;
                        return Err(self.too_large());
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Some(error),
            };
            self.body = None;
            self.go_on(source)?;
        }
    }

    /// After a break: the rest of the same file.
    fn go_on(&mut self, source: Option<io::Error>) -> Result<(), DownloadError> {
        if self.read - self.last_break >= PROGRESS {
            self.breaks = 0;
        }
        self.last_break = self.read;
        let broke_off = DownloadError::BrokeOff {
            place: self.place.clone(),
            received: self.read,
            expected: self.length,
            source,
        };
        let policy = self.options.client.retry;
        let can_go_on = self.validator.is_some() || self.read == 0;
        if !can_go_on || self.breaks >= policy.retries {
            return Err(broke_off);
        }
        if self.breaks > 0 {
            policy.pause(self.breaks - 1, Duration::ZERO);
        }
        self.breaks += 1;
        let answer = self.ask()?;
        let start = match answer.status() {
            206 => answer
                .text(header::CONTENT_RANGE.as_str())
                .and_then(|value| content_range(&value))
                .map(|(start, _)| start),
            // The whole file: another one, unless nothing of the first was read.
            200 => Some(0),
            _ => return Err(self.refused(&answer)),
        };
        if start != Some(self.read) {
            return Err(broke_off);
        }
        self.body = Some(answer.response.into_body().into_reader());
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

fn length_of(answer: &Answer) -> Option<u64> {
    answer
        .text(header::CONTENT_LENGTH.as_str())
        .and_then(|length| length.trim().parse().ok())
}

/// A URL for people: without its query, which is often a signature, and without a password.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let shown = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    };
    shown.chars().take(200).collect()
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
