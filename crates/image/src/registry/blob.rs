//! Reading a blob across broken connections.

use std::io::{self, Read};
use std::ops::Range;

use ureq::BodyReader;
use ureq::http::header;

use super::access::Access;
use super::host::{Host, Request};
use super::{Client, Need, RegistryError};
use crate::digest::Digest;

/// Bytes after which earlier breaks are forgiven.
const PROGRESS: u64 = 1 << 20;

/// A blob, or a part of one, on its way from a registry. Yields exactly as many bytes as were
/// asked for, or an error; whether they are the right ones is for the caller to verify.
pub struct BlobReader<'client> {
    client: &'client Client,
    host: &'client Host,
    repository: String,
    digest: Digest,
    size: u64,
    offset: u64,
    end: u64,
    ranges: bool,
    body: Option<BodyReader<'static>>,
    breaks: u32,
    last_break: u64,
}

impl<'client> BlobReader<'client> {
    pub(super) fn open(
        client: &'client Client,
        repository: &str,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<Self, RegistryError> {
        let object = format!("{repository}@{digest}");
        client.on_hosts_with_blob(digest, &object, |host| {
            let mut reader = Self {
                client,
                host,
                repository: repository.to_owned(),
                digest: *digest,
                size,
                offset: range.start,
                end: range.end.min(size),
                ranges: false,
                body: None,
                breaks: 0,
                last_break: range.start,
            };
            reader.connect()?;
            Ok(reader)
        })
    }

    /// Whether the server sends parts of the blob. It is known only if one was asked for.
    pub(crate) fn has_ranges(&self) -> bool {
        self.ranges
    }

    /// Reads on to the end of the blob, of which the server sends all in any case.
    pub(crate) fn widen(&mut self) {
        if !self.ranges {
            self.end = self.size;
        }
    }

    /// Asks for everything from `offset` on.
    fn connect(&mut self) -> Result<(), RegistryError> {
        let path = self
            .host
            .api(&format!("{}/blobs/{}", self.repository, self.digest));
        let object = format!("{}@{}", self.repository, self.digest);
        let access = Access::pull(&self.repository);
        let mut request = Request::get(&path, &access, &object);
        let is_part = self.offset > 0 || self.end < self.size;
        if is_part && self.offset < self.end {
            let range = if self.end < self.size {
                format!("bytes={}-{}", self.offset, self.end - 1)
            } else {
                format!("bytes={}-", self.offset)
            };
            request.headers.push((header::RANGE.as_str(), range));
        }
        let answer = self.host.send(&mut request)?;
        let announced: Option<u64> = answer
            .text(header::CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse().ok());
        let sent = match answer.status() {
            206 => answer
                .text(header::CONTENT_RANGE.as_str())
                .and_then(|value| content_range(&value)),
            _ => Some((0, self.size)),
        };
        let range_ignored = || RegistryError::RangeIgnored {
            registry: self.host.name().to_owned(),
            digest: self.digest,
            offset: self.offset,
        };
        let (start, end) = sent.ok_or_else(range_ignored)?;
        self.ranges = answer.status() == 206;
        // A server without ranges sends everything again.
        let skip = match start {
            start if start == self.offset => 0,
            0 => self.offset,
            _ => return Err(range_ignored()),
        };
        // Less than was asked for is allowed; the rest is asked for when this ends.
        if end > self.size {
            return Err(self.wrong_size(end));
        }
        if let Some(announced) = announced
            && announced != end - start
        {
            return Err(self.wrong_size(self.size - (end - start) + announced));
        }
        let mut body = answer.response.into_body().into_reader();
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        if !skipped.is_ok_and(|skipped| skipped == skip) {
            return Err(range_ignored());
        }
        self.body = Some(body);
        Ok(())
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::BlobSize {
            registry: self.host.name().to_owned(),
            digest: self.digest,
            expected: self.size,
            actual,
        }
    }

    /// Reads some bytes; zero at the end of the blob or of the part.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            let left = self.end - self.offset;
            let Some(body) = &mut self.body else {
                // After the end, or after an error that was reported.
                return Ok(0);
            };
            if left == 0 {
                // A whole blob that goes on is not the one that was described.
                let more = if self.end == self.size {
                    body.read(&mut [0; 1]).unwrap_or(0)
                } else {
                    0
                };
                self.body = None;
                return if more == 0 {
                    Ok(0)
                } else {
                    Err(self.wrong_size(self.size + 1))
                };
            }
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let source = match body.read(&mut buffer[..wanted]) {
                Ok(0) if wanted == 0 => return Ok(0),
                Ok(0) => None,
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Some(error),
            };
            self.body = None;
            self.go_on(source)?;
        }
    }

    /// After a break: the same host some times, then the next ones.
    fn go_on(&mut self, source: Option<io::Error>) -> Result<(), RegistryError> {
        if self.offset - self.last_break >= PROGRESS {
            self.breaks = 0;
        }
        self.last_break = self.offset;
        let policy = self.host.options.retry;
        let failure = if self.breaks < policy.retries {
            if self.breaks > 0 {
                policy.pause(self.breaks - 1, std::time::Duration::ZERO);
            }
            self.breaks += 1;
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        } else {
            RegistryError::BlobBrokeOff {
                registry: self.host.name().to_owned(),
                digest: self.digest,
                received: self.offset,
                expected: self.size,
                source,
            }
        };
        let mut rest = self
            .client
            .hosts
            .iter()
            .skip_while(|host| !std::ptr::eq(*host, self.host))
            .skip(1)
            .filter(|host| host.can(Need::Pull) && !host.is_down());
        let mut failure = failure;
        loop {
            let Some(next) = rest.next() else {
                return Err(failure);
            };
            self.host = next;
            self.breaks = 0;
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

/// The first byte that `bytes FIRST-LAST/LENGTH` covers, and the one after the last (RFC 9110,
/// section 14.4).
pub(super) fn content_range(value: &str) -> Option<(u64, u64)> {
    let (unit, range) = value.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.split_once('/')?.0.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (value, expected) in [
            ("bytes 5-9/10", Some((5, 10))),
            ("Bytes 0-0/*", Some((0, 1))),
            ("bytes */10", None),
            ("bytes 9-5/10", None),
            ("bytes 5-9", None),
            ("items 5-9/10", None),
            ("bytes -5-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("", None),
        ] {
            assert_eq!(content_range(value), expected, "{value}");
        }
    }
}
