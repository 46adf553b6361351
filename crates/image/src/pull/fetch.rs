//! The bytes of one layer's blob, in order: those on the disk first, then the network's.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ranged::{self, Ranged};
use super::{Pull, PullEvent};
use crate::digest::Hasher;
use crate::model::Descriptor;
use crate::pipe::{BUFFER, PipeWriter};
use crate::registry::BlobReader;
use crate::store::{Partial, StoreError};
use crate::unpack::LayerError;

/// Least time between two events about the bytes of one layer.
const PROGRESS_STEP: Duration = Duration::from_millis(100);
/// When unpacking fails, up to this many bytes are still read to find out whether the blob itself
/// is damaged, which is then the better thing to report.
const WORTH_VERIFYING: u64 = 16 << 20;

/// How one blob is fetched.
pub(super) struct Fetch<'a> {
    pub(super) pull: &'a Pull<'a>,
    pub(super) descriptor: &'a Descriptor,
    pub(super) partial: &'a Partial,
    /// Layers that are fetched at the same time.
    pub(super) workers: usize,
    pub(super) stop: &'a AtomicBool,
}

impl<'a> Fetch<'a> {
    /// Reads the blob into `pipe`, hashing it and, if it is new, writing it down. Returns whether
    /// it is new.
    pub(super) fn run(&self, pipe: PipeWriter) -> Result<bool, LayerError> {
        let store = self.pull.store;
        if store.has_blob(&self.descriptor.digest)? {
            let source = Source::Store(store.open_blob(&self.descriptor.digest)?);
            self.carry(source, pipe)?;
            return Ok(false);
        }
        let size = self.descriptor.size;
        let prefix = self.partial.prefix(size)?;
        if let Some(plan) = ranged::plan(self, prefix) {
            return std::thread::scope(|scope| {
                let ranged = match Ranged::start(scope, self, &plan)? {
                    // The server sends all or nothing.
                    Err(reader) => {
                        self.partial.cut(prefix)?;
                        let source = Source::Partial {
                            offset: 0,
                            end: prefix,
                            next: Some(reader),
                        };
                        return self.carry(source, pipe);
                    }
                    Ok(ranged) => ranged,
                };
                self.carry(Source::Ranged(ranged), pipe)
            })
            .map(|()| true);
        }
        // Behind the first hole there may be more, which one connection comes by anyway.
        self.partial.cut(prefix)?;
        let source = Source::Partial {
            offset: 0,
            end: prefix,
            next: None,
        };
        self.carry(source, pipe)?;
        Ok(true)
    }

    /// Carries the bytes of `source` into `pipe` and verifies them.
    fn carry(&self, mut source: Source<'a>, mut pipe: PipeWriter) -> Result<(), LayerError> {
        let (id, total) = (self.descriptor.digest, self.descriptor.size);
        let mut hasher = Hasher::default();
        let mut reported = Instant::now();
        let mut pipe_is_open = true;
        let mut own_buffer: Box<[u8]> = Box::default();
        loop {
            let mut buffer = if pipe_is_open {
                pipe.buffer().unwrap_or_default()
            } else {
                Box::default()
            };
            if buffer.is_empty() {
                // Unpacking gave up. A damaged blob explains that better than its consequences.
                if total.saturating_sub(hasher.length()) > WORTH_VERIFYING {
                    return Err(LayerError::Stopped);
                }
                pipe_is_open = false;
                if own_buffer.is_empty() {
                    own_buffer = vec![0; BUFFER].into_boxed_slice();
                }
                buffer = std::mem::take(&mut own_buffer);
            }
            let count = self.fill(&mut source, &mut buffer)?;
            hasher.update(&buffer[..count]);
            if self.stop.load(Ordering::Relaxed) {
                return Err(LayerError::Stopped);
            }
            let ended = count == 0;
            if !pipe_is_open {
                own_buffer = buffer;
            } else if !ended {
                pipe_is_open = pipe.send(buffer, count).is_ok();
            }
            if ended || reported.elapsed() >= PROGRESS_STEP {
                reported = Instant::now();
                (self.pull.progress)(PullEvent::LayerProgress {
                    id,
                    downloaded: hasher.length(),
                    total,
                });
            }
            if ended {
                break;
            }
        }
        let length = hasher.length();
        if length != total {
            return Err(StoreError::SizeMismatch {
                digest: id,
                expected: total,
                actual: length,
            }
            .into());
        }
        let actual = hasher.finish();
        if actual != id {
            return Err(StoreError::DigestMismatch {
                expected: id,
                actual,
            }
            .into());
        }
        if !pipe_is_open {
            return Err(LayerError::Stopped);
        }
        Ok(pipe.finish()?)
    }

    /// Reads the next bytes, as many as there are up to a full buffer; zero only at the end.
    fn fill(&self, source: &mut Source<'a>, buffer: &mut [u8]) -> Result<usize, LayerError> {
        loop {
            match source {
                Source::Store(file) => {
                    return crate::pipe::fill(file, buffer).map_err(|source| {
                        StoreError::Io {
                            operation: "read",
                            path: self.pull.store.blob_path(&self.descriptor.digest),
                            source,
                        }
                        .into()
                    });
                }
                Source::Partial { offset, end, next } if offset == end => {
                    let (offset, size) = (*end, self.descriptor.size);
                    let reader = match next.take() {
                        Some(reader) => Some(reader),
                        None if offset == size && size > 0 => None,
                        None => Some(self.open(offset)?),
                    };
                    *source = Source::Registry { reader, offset };
                }
                Source::Partial { offset, end, .. } => {
                    let left = usize::try_from(*end - *offset).unwrap_or(usize::MAX);
                    let count = left.min(buffer.len());
                    self.partial.read_at(&mut buffer[..count], *offset)?;
                    *offset += count as u64;
                    return Ok(count);
                }
                Source::Registry { reader, offset } => {
                    let Some(reader) = reader else { return Ok(0) };
                    let mut filled = 0;
                    let mut failure = None;
                    while filled < buffer.len() {
                        match reader.read_some(&mut buffer[filled..]) {
                            Ok(0) => break,
                            Ok(count) => filled += count,
                            Err(error) => {
                                failure = Some(error);
                                break;
                            }
                        }
                    }
                    // Also what came before a failure: the next attempt begins behind it.
                    self.partial.write_at(&buffer[..filled], *offset)?;
                    *offset += filled as u64;
                    return match failure {
                        Some(error) => Err(error.into()),
                        None => Ok(filled),
                    };
                }
                Source::Ranged(ranged) => return ranged.fill(buffer),
            }
        }
    }

    fn open(&self, offset: u64) -> Result<Box<BlobReader<'a>>, LayerError> {
        let (id, size) = (self.descriptor.digest, self.descriptor.size);
        let repository = self.pull.reference.repository();
        let client = self.pull.client;
        Ok(Box::new(client.blob_range(
            repository,
            &id,
            size,
            offset..size,
        )?))
    }
}

/// Where the bytes come from.
enum Source<'a> {
    /// The blob is in the store.
    Store(File),
    /// What an earlier process left, then the registry.
    Partial {
        offset: u64,
        end: u64,
        next: Option<Box<BlobReader<'a>>>,
    },
    /// One connection; none if nothing is missing.
    Registry {
        reader: Option<Box<BlobReader<'a>>>,
        offset: u64,
    },
    /// Several connections.
    Ranged(Ranged<'a>),
}
