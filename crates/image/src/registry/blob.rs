//! Reading a blob across broken connections.

use std::io::{self, Read};

use ureq::BodyReader;
use ureq::http::header;

use super::{Client, RegistryError};
use crate::digest::Digest;

/// Bytes after which earlier breaks are forgiven.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way from a registry. Yields exactly as many bytes as its descriptor states, or
/// an error; whether they are the right ones is for the caller to verify.
pub struct BlobReader<'client> {
    client: &'client Client,
    repository: String,
    digest: Digest,
    size: u64,
    offset: u64,
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
    ) -> Result<Self, RegistryError> {
        let repository = repository.to_owned();
        let mut reader = Self {
            client,
            repository,
            digest: *digest,
            size,
            offset: 0,
            body: None,
            breaks: 0,
            last_break: 0,
        };
        reader.connect()?;
        Ok(reader)
    }

    /// Asks for everything from `offset` on.
    fn connect(&mut self) -> Result<(), RegistryError> {
        let path = format!("/v2/{}/blobs/{}", self.repository, self.digest);
        let object = format!("{}@{}", self.repository, self.digest);
        let range = format!("bytes={}-", self.offset);
        let headers = [(header::RANGE.as_str(), range.as_str())];
        let headers = if self.offset > 0 { &headers[..] } else { &[] };
        let answer = self.client.get(&self.repository, &path, headers, &object)?;
        let status = answer.response.status().as_u16();
        let text = |name| answer.response.headers().get(name)?.to_str().ok();
        let announced: Option<u64> =
            text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let starts_at = match status {
            206 => text(header::CONTENT_RANGE).and_then(range_start),
            _ => Some(0),
        };
        let range_ignored = || RegistryError::RangeIgnored {
            registry: self.client.name.clone(),
            digest: self.digest,
            offset: self.offset,
        };
        // A server without ranges sends everything again.
        let skip = match starts_at {
            Some(start) if start == self.offset => 0,
            Some(0) => self.offset,
            _ => return Err(range_ignored()),
        };
        let expected = self.size - self.offset + skip;
        if let Some(announced) = announced
            && announced != expected
        {
            return Err(self.wrong_size(self.size - expected.min(self.size) + announced));
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
        let (registry, digest) = (self.client.name.clone(), self.digest);
        RegistryError::BlobSize {
            registry,
            digest,
            expected: self.size,
            actual,
        }
    }

    /// Reads some bytes; zero at the end of the blob.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            let left = self.size - self.offset;
            let Some(body) = &mut self.body else {
                // After the end, or after an error that was reported.
                return Ok(0);
            };
            if left == 0 {
                let more = body.read(&mut [0; 1]).unwrap_or(0);
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
            if self.offset - self.last_break >= PROGRESS {
                self.breaks = 0;
            }
            self.last_break = self.offset;
            if self.breaks == self.client.options.retry.retries {
                return Err(RegistryError::BlobBrokeOff {
                    registry: self.client.name.clone(),
                    digest: self.digest,
                    received: self.offset,
                    expected: self.size,
                    source,
                });
            }
            std::thread::sleep(self.client.options.retry.delay * self.breaks);
            self.breaks += 1;
            self.connect()?;
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

/// The first byte that `bytes FIRST-LAST/LENGTH` covers (RFC 9110, section 14.4).
fn range_start(value: &str) -> Option<u64> {
    let (unit, range) = value.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_starts() {
        for (value, expected) in [
            ("bytes 5-9/10", Some(5)),
            ("Bytes 0-0/*", Some(0)),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("bytes -5-9/10", None),
            ("", None),
        ] {
            assert_eq!(range_start(value), expected, "{value}");
        }
    }
}
