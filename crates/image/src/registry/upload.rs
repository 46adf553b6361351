//! Sending a blob (distribution specification, "Pushing blobs"): mounted from another repository,
//! in one request, or streamed into an upload that can be continued.

use std::cell::Cell;
use std::io::{self, Read};

use ureq::http::{Method, header};

use super::access::Access;
use super::host::{Answer, Body, Host, Payload, Place, Request};
use super::origin::Url;
use super::{Client, RegistryError, auth};
use crate::digest::Digest;

/// Bytes after which earlier breaks are forgiven.
const PROGRESS: u64 = 1 << 20;
/// Size of the chunks for a server, or something before it, that refuses a large body.
const SMALL_CHUNK: u64 = 8 << 20;

/// Where an upload begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Beginning<'a> {
    /// Nowhere yet.
    New,
    /// At this URL, which the registry has just named.
    At(&'a str),
    /// At this URL, which an earlier process wrote down, if the registry still knows it.
    Perhaps(&'a str),
}

/// What a registry answers to the wish for an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UploadStart {
    /// It took the blob from another repository.
    Mounted,
    /// It waits for the bytes at this URL.
    Started(String),
}

/// Who wants to know how an upload is getting on.
pub(crate) trait Progress {
    /// So many bytes have gone.
    fn sent(&self, bytes: u64);
    /// Where the upload can be continued by another process, as long as it can.
    fn location(&self, location: Option<&str>);
    /// Whether to give up.
    fn stopped(&self) -> bool;
}

/// One blob to send.
pub(crate) struct Upload<'a> {
    pub(crate) repository: &'a str,
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    /// Up to this many bytes go in one request.
    pub(crate) monolithic: u64,
    /// Opens the blob at an offset.
    pub(crate) open: &'a dyn Fn(u64) -> io::Result<Box<dyn Read + 'a>>,
    pub(crate) progress: &'a dyn Progress,
}

/// An upload under way.
struct Position {
    url: Url,
    offset: u64,
}

impl Client {
    /// The size of a blob if the registry has it where it takes content in.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has_blob(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, RegistryError> {
        let object = format!("{repository}@{digest}");
        let host = self.push_host(&object)?;
        host.head_blob(repository, digest, &Access::push(repository))
    }

    /// Asks for an upload, or for a mount of `digest` from the repository `from`.
    pub(crate) fn start_upload(
        &self,
        repository: &str,
        mount: Option<(&Digest, &str)>,
    ) -> Result<UploadStart, RegistryError> {
        let object = format!("an upload to {repository}");
        let host = self.push_host(&object)?;
        host.start_upload(repository, mount)
            .map(|started| match started {
                None => UploadStart::Mounted,
                Some(url) => UploadStart::Started(url.to_string()),
            })
    }

    /// Sends a blob. Returns the number of bytes that it took from here.
    pub(crate) fn upload(
        &self,
        upload: &Upload<'_>,
        beginning: Beginning<'_>,
    ) -> Result<u64, RegistryError> {
        let object = format!("blob {} to {}", upload.digest, upload.repository);
        let host = self.push_host(&object)?;
        Sender {
            host,
            upload,
            access: Access::push(upload.repository),
            object,
            sent: Cell::new(0),
        }
        .run(beginning)
    }
}

impl Host {
    fn head_blob(
        &self,
        repository: &str,
        digest: &Digest,
        access: &Access,
    ) -> Result<Option<u64>, RegistryError> {
        let object = format!("{repository}@{digest}");
        let path = self.api(&format!("{repository}/blobs/{digest}"));
        let mut request = Request::get(&path, access, &object);
        request.method = Method::HEAD;
        request.expected = &[200, 404];
        let answer = self.send(&mut request)?;
        let length = answer.text(header::CONTENT_LENGTH.as_str());
        Ok((answer.status() == 200).then(|| {
            length
                .and_then(|length| length.parse().ok())
                .unwrap_or_default()
        }))
    }

    /// `None` for a mount that succeeded.
    fn start_upload(
        &self,
        repository: &str,
        mount: Option<(&Digest, &str)>,
    ) -> Result<Option<Url>, RegistryError> {
        let object = format!("an upload to {repository}");
        let (access, query) = match mount {
            None => (Access::push(repository), String::new()),
            Some((digest, from)) => (
                Access::mount(repository, from),
                format!("?mount={digest}&from={}", auth::encode_query(from)),
            ),
        };
        let path = self.api(&format!("{repository}/blobs/uploads/{query}"));
        let mut request = Request {
            method: Method::POST,
            payload: Payload::Bytes(&[]),
            expected: &[201, 202],
            ..Request::get(&path, &access, &object)
        };
        let answer = match self.send(&mut request) {
            // Not to be let into the other repository is no reason not to push.
            Err(RegistryError::Denied { .. } | RegistryError::NotFound { .. })
                if mount.is_some() =>
            {
                return self.start_upload(repository, None);
            }
            other => other?,
        };
        if answer.status() == 201 {
            return Ok(None);
        }
        self.location(&answer, &object).map(Some)
    }

    fn location(&self, answer: &Answer, object: &str) -> Result<Url, RegistryError> {
        answer
            .text(header::LOCATION.as_str())
            .and_then(|location| answer.url.join(&location))
            .ok_or_else(|| RegistryError::Header {
                registry: self.name().to_owned(),
                object: object.to_owned(),
                header: "Location",
            })
    }
}

/// What all steps of one upload need.
struct Sender<'s, 'a> {
    host: &'s Host,
    upload: &'s Upload<'a>,
    access: Access,
    object: String,
    sent: Cell<u64>,
}

impl Sender<'_, '_> {
    fn run(&self, beginning: Beginning<'_>) -> Result<u64, RegistryError> {
        let known = match beginning {
            Beginning::New => None,
            Beginning::At(location) => Url::parse(location).map(|url| Position { url, offset: 0 }),
            Beginning::Perhaps(location) => self.resume(location),
        };
        let mut place = match known {
            Some(place) => place,
            None => self.begin()?,
        };
        self.remember(&place.url);
        if self.upload.size <= self.upload.monolithic && place.offset == 0 {
            return self.monolithic(place.url).map(|()| self.sent.get());
        }
        let (mut chunk, mut breaks, mut restarts) = (u64::MAX, 0, 0);
        let policy = self.host.options.retry;
        loop {
            let before = place.offset;
            let error = match self.step(&mut place, chunk) {
                Ok(true) => {
                    self.upload.progress.location(None);
                    return Ok(self.sent.get());
                }
                Ok(false) => continue,
                Err(error) => error,
            };
            if self.upload.progress.stopped() || matches!(error, RegistryError::Source { .. }) {
                return Err(error);
            }
            if matches!(error, RegistryError::Status { status: 413, .. }) && chunk > SMALL_CHUNK {
                chunk = SMALL_CHUNK;
            } else if !may_go_on(&error) {
                // What is left there would be refused again.
                self.upload.progress.location(None);
                return Err(error);
            } else if breaks == policy.retries {
                return Err(error);
            } else {
                policy.pause(breaks, error.wait());
                breaks += 1;
                // Something may close the connection on a large body before its 413 is read.
                if breaks > 1 {
                    chunk = SMALL_CHUNK;
                }
            }
            match self.status(&place.url) {
                Ok(found) => place = found,
                Err(_) if self.is_there()? => {
                    self.upload.progress.location(None);
                    return Ok(self.sent.get());
                }
                // The registry has forgotten the upload.
                Err(_) if restarts < policy.retries => {
                    restarts += 1;
                    place = self.begin()?;
                }
                Err(_) => return Err(error),
            }
            if place.offset >= before + PROGRESS {
                breaks = 0;
            }
        }
    }

    fn is_there(&self) -> Result<bool, RegistryError> {
        let upload = self.upload;
        let found = self
            .host
            .head_blob(upload.repository, upload.digest, &self.access)?;
        Ok(found.is_some())
    }

    /// Where an upload of an earlier process stands.
    fn resume(&self, location: &str) -> Option<Position> {
        let url = Url::parse(location)?;
        // It was written down for this host only.
        if url.origin != *self.host.origin().ok()? {
            return None;
        }
        let policy = self.host.options.retry;
        for retries in 0.. {
            match self.status(&url) {
                Ok(position) => return Some(position),
                // The registry may not have noticed yet that the process before this one is gone.
                Err(RegistryError::Status {
                    status: 409 | 423 | 429,
                    wait,
                    ..
                }) if retries < policy.retries => policy.pause(retries, wait),
                Err(_) => return None,
            }
        }
        None
    }

    fn begin(&self) -> Result<Position, RegistryError> {
        let url = self.host.start_upload(self.upload.repository, None)?;
        let url = url.ok_or_else(|| RegistryError::Header {
            registry: self.host.name().to_owned(),
            object: self.object.clone(),
            header: "Location",
        })?;
        self.remember(&url);
        Ok(Position { url, offset: 0 })
    }

    fn remember(&self, url: &Url) {
        // Elsewhere the URL is what lets one in, which is not to be written down.
        if self.host.origin().is_ok_and(|origin| *origin == url.origin)
            && self.upload.size > self.upload.monolithic
        {
            self.upload.progress.location(Some(&url.to_string()));
        }
    }

    /// Asks how much of the upload the registry has.
    fn status(&self, url: &Url) -> Result<Position, RegistryError> {
        let mut request = Request {
            place: Place::Url(url),
            expected: &[200, 202, 204],
            ..Request::get("", &self.access, &self.object)
        };
        let answer = self.host.send(&mut request)?;
        self.place(&answer, Some(url))
    }

    /// Where to go on by an answer. Most answers to a question about the upload name it again.
    fn place(&self, answer: &Answer, url: Option<&Url>) -> Result<Position, RegistryError> {
        let location = self.host.location(answer, &self.object);
        let url = match (location, url) {
            (Ok(location), _) => location,
            (Err(_), Some(url)) => url.clone(),
            (Err(error), None) => return Err(error),
        };
        let range = answer.text(header::RANGE.as_str());
        let offset = match range.as_deref() {
            // Some registries say nothing as long as there is nothing.
            None => 0,
            Some(range) => parse_range(range).ok_or_else(|| RegistryError::Header {
                registry: self.host.name().to_owned(),
                object: self.object.clone(),
                header: "Range",
            })?,
        };
        self.check_offset(offset)?;
        Ok(Position { url, offset })
    }

    fn check_offset(&self, actual: u64) -> Result<(), RegistryError> {
        if actual <= self.upload.size {
            return Ok(());
        }
        Err(RegistryError::UploadOffset {
            registry: self.host.name().to_owned(),
            digest: *self.upload.digest,
            expected: self.upload.size,
            actual,
        })
    }

    /// Sends the next chunk, or ends the upload if all of it is there; whether it is over.
    fn step(&self, place: &mut Position, chunk: u64) -> Result<bool, RegistryError> {
        let size = self.upload.size;
        if place.offset == size {
            let url = with_digest(&place.url, self.upload.digest);
            let mut request = Request {
                method: Method::PUT,
                place: Place::Url(&url),
                payload: Payload::Bytes(&[]),
                expected: &[201, 204],
                ..Request::get("", &self.access, &self.object)
            };
            self.host.send(&mut request)?;
            return Ok(true);
        }
        let length = chunk.min(size - place.offset);
        let mut headers = vec![(
            header::CONTENT_TYPE.as_str(),
            "application/octet-stream".to_owned(),
        )];
        // Some registries refuse the header where everything comes at once, as docker sends it.
        if place.offset > 0 || length < size {
            let range = format!("{}-{}", place.offset, place.offset + length - 1);
            headers.push((header::CONTENT_RANGE.as_str(), range));
        }
        let answer = self.stream(Method::PATCH, &place.url, headers, place.offset, length)?;
        let url = self.host.location(&answer, &self.object)?;
        let expected = place.offset + length;
        let offset = match answer.text(header::RANGE.as_str()) {
            // It acknowledged the chunk.
            None => expected,
            Some(range) => parse_range(&range).unwrap_or(expected),
        };
        if offset > expected || offset <= place.offset {
            return Err(RegistryError::UploadOffset {
                registry: self.host.name().to_owned(),
                digest: *self.upload.digest,
                expected,
                actual: offset,
            });
        }
        *place = Position { url, offset };
        self.remember(&place.url);
        Ok(false)
    }

    /// `POST`, then `PUT` with everything.
    fn monolithic(&self, url: Url) -> Result<(), RegistryError> {
        let policy = self.host.options.retry;
        let mut url = url;
        for retries in 0.. {
            let target = with_digest(&url, self.upload.digest);
            let kind = "application/octet-stream".to_owned();
            let headers = vec![(header::CONTENT_TYPE.as_str(), kind)];
            let error = match self.stream(Method::PUT, &target, headers, 0, self.upload.size) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if self.upload.progress.stopped()
                || retries == policy.retries
                || !may_go_on(&error)
                || matches!(error, RegistryError::Source { .. })
            {
                return Err(error);
            }
            policy.pause(retries, error.wait());
            if self.is_there()? {
                return Ok(());
            }
            url = self.begin()?.url;
        }
        Ok(())
    }

    fn stream(
        &self,
        method: Method,
        url: &Url,
        headers: Vec<(&'static str, String)>,
        offset: u64,
        length: u64,
    ) -> Result<Answer, RegistryError> {
        let mut body = Counted {
            sender: self,
            inner: None,
            start: offset,
            offset,
            failure: None,
        };
        let mut request = Request {
            method,
            place: Place::Url(url),
            headers,
            payload: Payload::Stream {
                length,
                body: &mut body,
            },
            expected: &[201, 202, 204],
            ..Request::get("", &self.access, &self.object)
        };
        let result = self.host.send(&mut request);
        drop(request);
        match body.failure {
            Some(source) => Err(self.source_error(source)),
            None => result,
        }
    }

    fn source_error(&self, source: io::Error) -> RegistryError {
        RegistryError::Source {
            registry: self.host.name().to_owned(),
            object: self.object.clone(),
            source,
        }
    }
}

/// Whether an upload that failed like this can be gone on with.
fn may_go_on(error: &RegistryError) -> bool {
    error.is_temporary()
        || match error {
            RegistryError::Status { status, .. } => {
                matches!(*status, 409 | 416 | 423) || super::retry::is_temporary(*status)
            }
            // It has forgotten the upload, or the token ran out on the way.
            RegistryError::NotFound { .. } | RegistryError::UploadOffset { .. } => true,
            _ => false,
        }
}

/// Tells of what is read, and keeps what went wrong with reading apart from the connection.
struct Counted<'s, 'a> {
    sender: &'s Sender<'s, 'a>,
    inner: Option<Box<dyn Read + 'a>>,
    start: u64,
    offset: u64,
    failure: Option<io::Error>,
}

impl Body for Counted<'_, '_> {
    fn rewind(&mut self) -> Result<(), RegistryError> {
        self.offset = self.start;
        let inner = (self.sender.upload.open)(self.start);
        self.inner = Some(inner.map_err(|source| self.sender.source_error(source))?);
        Ok(())
    }
}

impl Read for Counted<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.sender.upload.progress.stopped() {
            return Err(io::Error::other("stopped because of another error"));
        }
        let Some(inner) = &mut self.inner else {
            return Ok(0);
        };
        let count = match inner.read(buffer) {
            Ok(0) if !buffer.is_empty() && self.offset < self.sender.upload.size => {
                let kind = io::ErrorKind::UnexpectedEof;
                self.failure = Some(kind.into());
                return Err(kind.into());
            }
            Ok(count) => count,
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                return Err(kind.into());
            }
        };
        self.offset += count as u64;
        let sent = &self.sender.sent;
        sent.set(sent.get() + count as u64);
        self.sender.upload.progress.sent(self.offset);
        Ok(count)
    }
}

fn with_digest(url: &Url, digest: &Digest) -> Url {
    let separator = if url.path.contains('?') { '&' } else { '?' };
    Url {
        origin: url.origin.clone(),
        path: format!("{}{separator}digest={digest}", url.path),
    }
}

/// The number of bytes that `0-LAST` means; also `bytes=0-LAST`, which some registries send.
/// An upload without bytes is `0-0` by convention, and so is one of a single byte: the byte is
/// sent again then, and the registry says where it goes.
fn parse_range(value: &str) -> Option<u64> {
    let value = value.trim();
    let value = value
        .strip_prefix("bytes")
        .map_or(value, |rest| rest.trim_start_matches(['=', ' ']));
    // What comes of counting an end that is not there.
    if value == "0--1" {
        return Some(0);
    }
    let (first, last) = value.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    match first.trim() {
        "0" if last == 0 => Some(0),
        "0" => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (value, expected) in [
            ("0-0", Some(0)),
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("bytes 0-9", Some(10)),
            ("0--1", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(parse_range(value), expected, "{value}");
        }
    }

    #[test]
    fn digests_are_added_to_a_query() {
        let digest = Digest::of(b"");
        for (url, expected) in [
            ("http://h/u/1", format!("http://h/u/1?digest={digest}")),
            (
                "http://h/u/1?s=x",
                format!("http://h/u/1?s=x&digest={digest}"),
            ),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(with_digest(&url, &digest).to_string(), expected);
        }
    }
}
