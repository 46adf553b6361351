//! Fetching and unpacking the layers of one image, several at once.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Pull, PullError, PullEvent};
use crate::apply::ApplyKind;
use crate::digest::{Digest, Hasher};
use crate::model::{Descriptor, LayerKind, Manifest, layer_kind};
use crate::pipe::{BUFFER, PipeWriter};
use crate::registry::{BlobReader, RegistryError};
use crate::store::{BlobWriter, Ingest, LayerRecord, StagedBlob, StagedLayer, Store, StoreError};
use crate::unpack::{Budget, LayerError, Unpack, Unpacked, unpack};

/// Least time between two events about the bytes of one layer.
const PROGRESS_STEP: Duration = Duration::from_millis(100);
/// When unpacking fails, up to this many bytes are still read to find out whether the blob itself
/// is damaged, which is then the better thing to report.
const WORTH_VERIFYING: u64 = 16 << 20;

impl Pull<'_> {
    /// Fetches and unpacks the layers that are missing.
    pub(super) fn layers(
        &self,
        ingest: &Ingest<'_>,
        manifest: &Manifest,
        diff_ids: &[Digest],
    ) -> Result<Layers, PullError> {
        let mut missing = Vec::new();
        let mut seen: BTreeSet<Digest> = BTreeSet::new();
        for (number, (descriptor, diff_id)) in (1..).zip(manifest.layers.iter().zip(diff_ids)) {
            // One layer may be in an image several times, for example an empty one. Another blob
            // for the same DiffID is compressed otherwise, and one of them is enough.
            if !seen.insert(*diff_id) {
                continue;
            }
            if self.store.has_layer(diff_id)? {
                (self.progress)(PullEvent::LayerExists {
                    id: descriptor.digest,
                });
            } else {
                (self.progress)(PullEvent::LayerQueued {
                    id: descriptor.digest,
                    total: descriptor.size,
                });
                missing.push(Job {
                    number,
                    descriptor,
                    diff_id,
                });
            }
        }
        let shared = Shared {
            budget: Budget::new(self.options.expansion),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            outcome: Mutex::new(Ok((Vec::new(), Vec::new()))),
        };
        let workers = self.options.parallel.max(1).min(missing.len());
        std::thread::scope(|scope| {
            // The last of them works in this thread.
            for _ in 1..workers {
                scope.spawn(|| self.work(ingest, &missing, &shared));
            }
            if workers > 0 {
                self.work(ingest, &missing, &shared);
            }
        });
        shared
            .outcome
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, ingest: &Ingest<'_>, jobs: &[Job<'_>], shared: &Shared) {
        while let Some(job) = jobs.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = self.layer(ingest, job, shared);
            let mut outcome = shared
                .outcome
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match (result, &mut *outcome) {
                (Ok((blob, unpacked)), Ok((blobs, layers))) => {
                    blobs.extend(blob);
                    layers.push((unpacked.layer, unpacked.diff_id, unpacked.record));
                }
                (Err(source), Ok(_)) => {
                    shared.stop.store(true, Ordering::Relaxed);
                    let source = Box::new(source);
                    let (number, digest) = (job.number, job.descriptor.digest);
                    *outcome = Err(PullError::Layer {
                        reference: self.reference(),
                        number,
                        digest,
                        source,
                    });
                }
                // The first error is the one that stopped the others.
                (_, Err(_)) => return,
            }
        }
    }

    fn layer(
        &self,
        ingest: &Ingest<'_>,
        job: &Job<'_>,
        shared: &Shared,
    ) -> Result<(Option<StagedBlob>, Unpacked), LayerError> {
        let descriptor = job.descriptor;
        let kind = layer_kind(&descriptor.media_type).ok_or_else(|| LayerError::MediaType {
            media_type: descriptor.media_type.chars().take(160).collect(),
        })?;
        let settings = Unpack {
            ingest,
            kind: ApplyKind::Layer,
            limits: &self.options.limits,
            budget: &shared.budget,
            size: Some(descriptor.size),
            keep: None,
        };
        let (blob, unpacked) = unpack(settings, |pipe| {
            let blob = self.fetch(ingest, descriptor, kind, shared, pipe)?;
            (self.progress)(PullEvent::LayerDownloaded {
                id: descriptor.digest,
            });
            Ok(blob)
        })?;
        if unpacked.diff_id != *job.diff_id {
            return Err(LayerError::DiffId {
                expected: *job.diff_id,
                actual: unpacked.diff_id,
            });
        }
        (self.progress)(PullEvent::LayerExtracted {
            id: descriptor.digest,
        });
        Ok((blob, unpacked))
    }

    /// Reads a layer's blob into `pipe`, hashing it and, if it is new, writing it down.
    fn fetch(
        &self,
        ingest: &Ingest<'_>,
        descriptor: &Descriptor,
        kind: LayerKind,
        shared: &Shared,
        mut pipe: PipeWriter,
    ) -> Result<Option<StagedBlob>, LayerError> {
        let (mut source, mut sink) = if self.store.has_blob(&descriptor.digest)? {
            (
                Source::Store(self.store.open_blob(&descriptor.digest)?),
                Sink::Check(Hasher::default()),
            )
        } else {
            let repository = self.reference.repository();
            let opened = self
                .client
                .blob(repository, &descriptor.digest, descriptor.size);
            let opened = opened.map_err(|source| match source {
                RegistryError::NotFound { .. } if kind == LayerKind::Nondistributable => {
                    LayerError::Nondistributable {
                        source: Box::new(source),
                    }
                }
                source => source.into(),
            });
            (
                Source::Registry(Box::new(opened?)),
                Sink::Write(ingest.blob()?),
            )
        };
        let (id, total) = (descriptor.digest, descriptor.size);
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
                if total.saturating_sub(sink.length()) > WORTH_VERIFYING {
                    return Err(LayerError::Stopped);
                }
                pipe_is_open = false;
                if own_buffer.is_empty() {
                    own_buffer = vec![0; BUFFER].into_boxed_slice();
                }
                buffer = std::mem::take(&mut own_buffer);
            }
            let count = source.fill(self.store, &descriptor.digest, &mut buffer)?;
            sink.append(&buffer[..count])?;
            if shared.stop.load(Ordering::Relaxed) {
                return Err(LayerError::Stopped);
            }
            let ended = count < buffer.len();
            if pipe_is_open {
                pipe_is_open = pipe.send(buffer, count).is_ok();
            } else {
                own_buffer = buffer;
            }
            if ended || reported.elapsed() >= PROGRESS_STEP {
                reported = Instant::now();
                (self.progress)(PullEvent::LayerProgress {
                    id,
                    downloaded: sink.length(),
                    total,
                });
            }
            if ended {
                break;
            }
        }
        let staged = sink.finish_verified(&id, total)?;
        if pipe_is_open {
            pipe.finish()?
        } else {
            return Err(LayerError::Stopped);
        }
        Ok(staged)
    }
}

/// One layer to fetch.
struct Job<'a> {
    number: usize,
    descriptor: &'a Descriptor,
    diff_id: &'a Digest,
}

/// Blobs and layers that wait for their names.
type Layers = (Vec<StagedBlob>, Vec<(StagedLayer, Digest, LayerRecord)>);

/// What the threads of one pull share.
struct Shared {
    budget: Budget,
    next: AtomicUsize,
    stop: AtomicBool,
    outcome: Mutex<Result<Layers, PullError>>,
}

/// Where a layer's blob comes from.
enum Source<'client> {
    Registry(Box<BlobReader<'client>>),
    Store(std::fs::File),
}

impl Source<'_> {
    /// Fills `buffer`; less only at the end.
    fn fill(
        &mut self,
        store: &Store,
        digest: &Digest,
        buffer: &mut [u8],
    ) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let count = match self {
                Self::Registry(reader) => reader.read_some(&mut buffer[filled..])?,
                Self::Store(file) => {
                    file.read(&mut buffer[filled..])
                        .map_err(|source| StoreError::Io {
                            operation: "read",
                            path: store.blob_path(digest),
                            source,
                        })?
                }
            };
            if count == 0 {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }
}

/// Where a layer's blob goes: down to the disk, or nowhere if it came from there.
enum Sink {
    Write(BlobWriter),
    Check(Hasher),
}

impl Sink {
    fn length(&self) -> u64 {
        match self {
            Self::Write(writer) => writer.length(),
            Self::Check(hasher) => hasher.length(),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Write(writer) => writer.append(bytes)?,
            Self::Check(hasher) => hasher.update(bytes),
        }
        Ok(())
    }

    fn finish_verified(
        self,
        digest: &Digest,
        expected: u64,
    ) -> Result<Option<StagedBlob>, StoreError> {
        let hasher = match self {
            Self::Write(writer) => return writer.finish_verified(digest, expected).map(Some),
            Self::Check(hasher) => hasher,
        };
        if hasher.length() != expected {
            return Err(StoreError::SizeMismatch {
                digest: *digest,
                expected,
                actual: hasher.length(),
            });
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(StoreError::DigestMismatch {
                expected: *digest,
                actual,
            });
        }
        Ok(None)
    }
}
