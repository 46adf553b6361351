//! Blobs for layers that have none: an unpacked layer becomes the archive that it was, and that
//! one is compressed, always with the same result.
//!
//! Compression with gzip is done in blocks of 1 MiB, each of them a member of its own (RFC 1952,
//! 2.2), so that all processors work on it and the bytes do not depend on how many there are.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use flate2::write::GzEncoder;

use super::tree::{Form, TreeError, Written, write_tree};
use crate::digest::{Digest, Sha256Writer};
use crate::model::media_type;
use crate::store::{BlobWriter, Ingest, StagedBlob, Store, StoreError};

/// Uncompressed bytes of one gzip member.
const BLOCK: usize = 1 << 20;
/// The level at which gzip's own default lies.
const LEVEL: u32 = 6;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// Not at all: its digest is the DiffID.
    Plain,
    /// With gzip, which every client reads.
    #[default]
    Gzip,
    /// With zstd, level 3.
    Zstd,
}

impl Packing {
    /// Media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }
}

/// Why a layer's blob cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree cannot be read or written down.
    #[error("cannot pack the layer")]
    Tree(#[from] TreeError),
    /// The layer was made of an archive that looks different.
    #[error("layer {diff_id} cannot be packed as it was: its archive would have digest {actual}")]
    Different {
        /// Its DiffID.
        diff_id: Digest,
        /// DiffID of what was packed.
        actual: Digest,
    },
    /// The compressed stream could not be ended.
    #[error("cannot compress the layer")]
    Compress(#[source] io::Error),
}

/// A layer's blob that has no name yet.
#[derive(Debug)]
pub struct Packed {
    /// The blob.
    pub blob: StagedBlob,
    /// How it is compressed.
    pub packing: Packing,
}

/// Makes the blob of a layer that is in the store.
///
/// # Errors
/// [`PackError::Different`] for a layer whose archive was written by another program and can not
/// be had again from its files alone.
pub fn pack_layer(
    store: &Store,
    ingest: &Ingest<'_>,
    diff_id: &Digest,
    packing: Packing,
) -> Result<Packed, PackError> {
    let directory = store.open_layer(diff_id)?;
    let (packed, actual, _) = pack_directory(directory.as_fd(), ingest, packing)?;
    if actual != *diff_id {
        return Err(PackError::Different {
            diff_id: *diff_id,
            actual,
        });
    }
    Ok(packed)
}

/// Compresses a layer's blob that is in the store as a plain archive.
///
/// # Errors
/// [`PackError`].
pub fn pack_blob(
    store: &Store,
    ingest: &Ingest<'_>,
    blob: &Digest,
    packing: Packing,
) -> Result<Packed, PackError> {
    let mut file = store.open_blob(blob)?;
    let mut sink = Sink::new(ingest.blob()?, packing).map_err(PackError::Compress)?;
    io::copy(&mut file, &mut sink).map_err(PackError::Compress)?;
    let blob = sink.finish().map_err(PackError::Compress)?.finish();
    Ok(Packed { blob, packing })
}

/// Makes the blob of a directory in the form of overlayfs; returns its DiffID as well.
///
/// # Errors
/// [`PackError`].
pub fn pack_directory(
    directory: BorrowedFd<'_>,
    ingest: &Ingest<'_>,
    packing: Packing,
) -> Result<(Packed, Digest, Written), PackError> {
    let blob = ingest.blob()?;
    let sink = Sink::new(blob, packing).map_err(PackError::Compress)?;
    let (hashed, written) = write_tree(&[directory], Form::Layer, Sha256Writer::new(sink))?;
    let (sink, diff_id, _) = hashed.finish();
    let blob = sink.finish().map_err(PackError::Compress)?.finish();
    Ok((Packed { blob, packing }, diff_id, written))
}

/// The DiffID that a directory in the form of overlayfs has when it is packed.
///
/// # Errors
/// [`TreeError`].
pub fn tree_digest(directory: BorrowedFd<'_>) -> Result<Digest, TreeError> {
    let (hashed, _) = write_tree(&[directory], Form::Layer, Sha256Writer::new(io::sink()))?;
    let (_, digest, _) = hashed.finish();
    Ok(digest)
}

/// Where the archive goes.
enum Sink {
    Plain(BlobWriter),
    Gzip(GzipBlocks<BlobWriter>),
    Zstd(zstd::stream::write::Encoder<'static, BlobWriter>),
}

impl Sink {
    fn new(blob: BlobWriter, packing: Packing) -> io::Result<Self> {
        Ok(match packing {
            Packing::Plain => Self::Plain(blob),
            Packing::Gzip => Self::Gzip(GzipBlocks::new(blob)),
            Packing::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(blob, 3)?),
        })
    }

    fn finish(self) -> io::Result<BlobWriter> {
        match self {
            Self::Plain(blob) => Ok(blob),
            Self::Gzip(blocks) => blocks.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.write(bytes),
            Self::Gzip(blocks) => blocks.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// gzip in members of [`BLOCK`] uncompressed bytes, as many at once as there are processors.
struct GzipBlocks<W: Write> {
    output: W,
    blocks: Vec<Vec<u8>>,
    at_once: usize,
    empty: bool,
}

impl<W: Write> GzipBlocks<W> {
    fn new(output: W) -> Self {
        // Memory stays below 40 MB, whatever the machine.
        let at_once = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
        Self {
            output,
            blocks: Vec::new(),
            at_once,
            empty: true,
        }
    }

    fn write_blocks(&mut self) -> io::Result<()> {
        let blocks = std::mem::take(&mut self.blocks);
        let compressed: Vec<io::Result<Vec<u8>>> = std::thread::scope(|scope| {
            let rest: Vec<_> = blocks
                .iter()
                .skip(1)
                .map(|block| scope.spawn(|| compress(block)))
                .collect();
            // The first of them in this thread.
            let first = blocks.first().map(|block| compress(block));
            let failed = || Err(io::Error::other("a thread ended early"));
            first
                .into_iter()
                .chain(
                    rest.into_iter()
                        .map(|thread| thread.join().unwrap_or_else(|_| failed())),
                )
                .collect()
        });
        for member in compressed {
            self.output.write_all(&member?)?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        if self.empty {
            // Nothing is still one member.
            self.blocks.push(Vec::new());
        }
        self.write_blocks()?;
        Ok(self.output)
    }
}

fn compress(block: &[u8]) -> io::Result<Vec<u8>> {
    let output = Vec::with_capacity(block.len() / 2);
    let mut encoder = GzEncoder::new(output, flate2::Compression::new(LEVEL));
    encoder.write_all(block)?;
    encoder.finish()
}

impl<W: Write> Write for GzipBlocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.empty = false;
        let full = self.blocks.last().is_none_or(|block| block.len() == BLOCK);
        if full {
            if self.blocks.len() == self.at_once {
                self.write_blocks()?;
            }
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let Some(block) = self.blocks.last_mut() else {
            return Ok(0);
        };
        let count = bytes.len().min(BLOCK - block.len());
        block.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn blocks_do_not_depend_on_the_number_of_processors() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 17)
            .map(|number| (number / 7 % 251) as u8)
            .collect();
        let pack = |at_once, step: usize| {
            let mut blocks = GzipBlocks {
                at_once,
                ..GzipBlocks::new(Vec::new())
            };
            for part in bytes.chunks(step) {
                blocks.write_all(part).unwrap();
            }
            blocks.finish().unwrap()
        };
        let one = pack(1, 1000);
        assert_eq!(one, pack(3, BLOCK + 1));
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&one[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(plain, bytes);
        assert!(!GzipBlocks::new(Vec::new()).finish().unwrap().is_empty());
    }
}
