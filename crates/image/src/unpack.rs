//! The pipeline that turns the bytes of a layer into a directory: one thread feeds them in, one
//! takes the compression off, one hashes, the caller's makes files and one more fills the small
//! ones. Memory is a fixed number of buffers, whatever the layer's size.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::apply::{self, ApplyError, ApplyKind, Limits};
use crate::decompress::Decoder;
use crate::digest::{Digest, Hasher};
use crate::pipe::{PipeReader, PipeWriter, ReaderGone, UpstreamFailed, fill, pipe};
use crate::registry::RegistryError;
use crate::store::{BlobWriter, Ingest, LayerRecord, StagedBlob, StagedLayer, StoreError};

/// Buffers in flight between two stages.
const BUFFERS: usize = 4;

/// Why a layer cannot be had or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not deliver it.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// The store refused it: wrong digest, wrong size, or a failed system call.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is to be imported cannot be read.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its media type is not one of a layer.
    #[error("{media_type:?} is not the media type of a layer that can be unpacked")]
    MediaType {
        /// The media type.
        media_type: String,
    },
    /// The registry may not hold it, and other places are not asked (CVE-2020-15157).
    #[error(
        "the layer is not distributable: it is not in the registry, and its urls are not fetched from"
    )]
    Nondistributable {
        /// What the registry said.
        #[source]
        source: Box<RegistryError>,
    },
    /// Compressed with something that is not supported.
    #[error("compression with {name} is not supported")]
    UnsupportedCompression {
        /// Its name.
        name: &'static str,
    },
    /// The compressed stream is damaged, truncated, or followed by something else.
    #[error("cannot decompress the layer")]
    Decompress {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The layers of the image unpack to more than is allowed.
    #[error("the image unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The layer unpacks to more than its size explains.
    #[error("the layer of {size} bytes unpacks to more than {limit} bytes")]
    Bomb {
        /// Its compressed size.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The uncompressed layer is not the one that the config names.
    #[error("the unpacked layer has DiffID {actual} instead of {expected}")]
    DiffId {
        /// DiffID in the config.
        expected: Digest,
        /// DiffID of what came.
        actual: Digest,
    },
    /// An entry cannot or must not be unpacked.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another layer or stage failed first; its error is the one to show.
    #[error("stopped because of another error")]
    Stopped,
}

impl From<RegistryError> for LayerError {
    fn from(source: RegistryError) -> Self {
        Self::Registry(Box::new(source))
    }
}

impl From<ReaderGone> for LayerError {
    fn from(_: ReaderGone) -> Self {
        Self::Stopped
    }
}

/// The most that decompression may make out of an image (decompression bombs).
///
/// An image may unpack to [`Expansion::total`] bytes over all its layers, and each layer to
/// [`Expansion::free`] bytes plus [`Expansion::ratio`] times its size. gzip cannot exceed 1:1032,
/// so the ratio is for zstd, which reaches 1:30,000 and more on zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    /// Bytes of all layers together. 64 GiB by default.
    pub total: u64,
    /// Bytes of a layer that the ratio does not count. 64 MiB by default.
    pub free: u64,
    /// Uncompressed bytes per compressed one. 2000 by default.
    pub ratio: u64,
}

impl Default for Expansion {
    fn default() -> Self {
        Self {
            total: 64 << 30,
            free: 64 << 20,
            ratio: 2000,
        }
    }
}

/// What an image has used up of its [`Expansion`].
#[derive(Debug)]
pub(crate) struct Budget {
    expansion: Expansion,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(expansion: Expansion) -> Self {
        Self {
            expansion,
            used: AtomicU64::new(0),
        }
    }

    /// Accounts for `count` more bytes of a layer, of which `length` came before and whose
    /// compressed size is `size`, if known.
    pub(crate) fn spend(
        &self,
        count: u64,
        length: u64,
        size: Option<u64>,
    ) -> Result<(), LayerError> {
        let used = self
            .used
            .fetch_add(count, Ordering::Relaxed)
            .saturating_add(count);
        if used > self.expansion.total {
            return Err(LayerError::TooLarge {
                limit: self.expansion.total,
            });
        }
        if let Some(size) = size {
            let limit = self
                .expansion
                .free
                .saturating_add(self.expansion.ratio.saturating_mul(size));
            if length + count > limit {
                return Err(LayerError::Bomb { size, limit });
            }
        }
        Ok(())
    }
}

/// How to unpack a layer.
pub(crate) struct Unpack<'a> {
    pub(crate) ingest: &'a Ingest<'a>,
    pub(crate) kind: ApplyKind,
    pub(crate) limits: &'a Limits,
    pub(crate) budget: &'a Budget,
    /// Compressed size, if it is known.
    pub(crate) size: Option<u64>,
    /// Where to keep the uncompressed archive, if it is wanted.
    pub(crate) keep: Option<BlobWriter>,
}

/// A layer that is unpacked and has no name yet.
pub(crate) struct Unpacked {
    pub(crate) layer: StagedLayer,
    pub(crate) diff_id: Digest,
    pub(crate) record: LayerRecord,
    pub(crate) kept: Option<StagedBlob>,
}

/// Unpacks what `feed` writes. `feed` runs in a thread of its own; when its pipe's reader is gone
/// it returns, and the reason is found at the stage that gave up.
pub(crate) fn unpack<T: Send>(
    unpack: Unpack<'_>,
    feed: impl FnOnce(PipeWriter) -> Result<T, LayerError> + Send,
) -> Result<(T, Unpacked), LayerError> {
    let Unpack {
        ingest,
        kind,
        limits,
        budget,
        size,
        keep,
    } = unpack;
    let layer = ingest.layer()?;
    let (compressed_writer, compressed_reader) = pipe(BUFFERS);
    let (plain_writer, plain_reader) = pipe(BUFFERS);
    let (hashed_writer, hashed_reader) = pipe(BUFFERS);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    std::thread::scope(|scope| {
        let failed = |source| LayerError::Thread { source };
        let feeder = thread("layer-feed")
            .spawn_scoped(scope, || feed(compressed_writer))
            .map_err(failed)?;
        let inflater = thread("layer-inflate")
            .spawn_scoped(scope, || {
                inflate(compressed_reader, plain_writer, budget, size)
            })
            .map_err(failed)?;
        // Inflating is what a large layer waits for, and hashing was a fifth of that thread.
        let hasher = thread("layer-hash")
            .spawn_scoped(scope, || hash(plain_reader, hashed_writer, keep))
            .map_err(failed)?;
        let applied = apply::apply_layer(hashed_reader, layer.directory(), kind, limits);
        let hashed = hasher.join().unwrap_or(Err(LayerError::Stopped));
        let inflated = inflater.join().unwrap_or(Err(LayerError::Stopped));
        let fed = feeder.join().unwrap_or(Err(LayerError::Stopped));
        // The first stage that failed by itself is the cause of what the others report.
        let hashed = match inflated {
            Err(error) if !matches!(error, LayerError::Stopped) => Err(error),
            _ => hashed,
        };
        let (fed, hashed, applied) = match (fed, hashed, applied) {
            (Ok(fed), Ok(hashed), Ok(applied)) => (fed, hashed, applied),
            (Err(error), _, _) if !matches!(error, LayerError::Stopped) => return Err(error),
            (_, Err(error), _) if !matches!(error, LayerError::Stopped) => return Err(error),
            (_, _, Err(error)) => return Err(error.into()),
            _ => return Err(LayerError::Stopped),
        };
        let (diff_id, kept) = hashed;
        let record = LayerRecord::new(applied.bytes, applied.entries);
        Ok((
            fed,
            Unpacked {
                layer,
                diff_id,
                record,
                kept,
            },
        ))
    })
}

/// Hashes the uncompressed bytes, and keeps them if that is wanted.
enum Sink {
    Hash(Hasher),
    Keep(BlobWriter),
}

fn inflate(
    reader: PipeReader,
    mut writer: PipeWriter,
    budget: &Budget,
    size: Option<u64>,
) -> Result<(), LayerError> {
    let mut decoder = match Decoder::detect(reader).map_err(read_error)? {
        Ok(decoder) => decoder,
        Err(name) => return Err(LayerError::UnsupportedCompression { name }),
    };
    let mut length = 0;
    loop {
        let mut buffer = writer.buffer()?;
        let count = fill(&mut decoder, &mut buffer).map_err(read_error)?;
        budget.spend(count as u64, length, size)?;
        length += count as u64;
        let ended = count < buffer.len();
        writer.send(buffer, count)?;
        if ended {
            break;
        }
    }
    Ok(writer.finish()?)
}

/// Passes the uncompressed bytes on, hashed.
fn hash(
    mut reader: PipeReader,
    mut writer: PipeWriter,
    keep: Option<BlobWriter>,
) -> Result<(Digest, Option<StagedBlob>), LayerError> {
    let mut sink = keep.map_or_else(|| Sink::Hash(Hasher::default()), Sink::Keep);
    loop {
        let empty = writer.buffer()?;
        let Some((buffer, count)) = reader.exchange(empty).map_err(read_error)? else {
            break;
        };
        match &mut sink {
            Sink::Hash(hasher) => hasher.update(&buffer[..count]),
            Sink::Keep(blob) => blob.append(&buffer[..count])?,
        }
        writer.send(buffer, count)?;
    }
    writer.finish()?;
    Ok(match sink {
        Sink::Hash(hasher) => (hasher.finish(), None),
        Sink::Keep(blob) => {
            let staged = blob.finish();
            (staged.digest(), Some(staged))
        }
    })
}

fn read_error(source: io::Error) -> LayerError {
    if source
        .get_ref()
        .is_some_and(|inner| inner.is::<UpstreamFailed>())
    {
        LayerError::Stopped
    } else {
        LayerError::Decompress { source }
    }
}
