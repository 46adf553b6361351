//! Fetching and unpacking the layers of one image, several at once.
//!
//! Who works on a layer holds the lock of its blob's partial file. Another pull that needs the
//! same layer leaves it for later, commits what it has, and only then waits: nobody waits for
//! one lock while holding another, so there is no circle of waiters.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fetch::Fetch;
use super::{Pull, PullError, PullEvent};
use crate::apply::{ApplyError, ApplyKind};
use crate::digest::Digest;
use crate::model::{Descriptor, LayerKind, Manifest, layer_kind};
use crate::registry::RegistryError;
use crate::store::{Ingest, LayerRecord, Partial, StagedBlob, StagedLayer, StoreError};
use crate::unpack::{Budget, LayerError, Unpack, Unpacked, unpack};

impl<'store> Pull<'store> {
    /// Fetches and unpacks the layers that are missing.
    pub(super) fn layers(
        &self,
        manifest: &Manifest,
        diff_ids: &[Digest],
    ) -> Result<Layers<'store>, PullError> {
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
        let budget = Budget::new(self.options.expansion);
        let mut any = !missing.is_empty();
        loop {
            let ingest = self.store.ingest()?;
            let (staged, layers, busy) = self.round(&ingest, &missing, &budget)?;
            let Some(first) = busy.first() else {
                any |= !staged.is_empty();
                return Ok(Layers {
                    ingest,
                    blobs: staged,
                    layers,
                    any,
                });
            };
            // Those who wait for ours get it now.
            ingest.commit(staged, layers)?;
            let waited = self.store.partial(&first.descriptor.digest)?;
            self.store.release_partial(waited)?;
            missing = busy;
        }
    }

    /// Goes once over `jobs`, several at once, and leaves out what somebody else works on.
    fn round<'jobs>(
        &self,
        ingest: &Ingest<'_>,
        jobs: &[Job<'jobs>],
        budget: &Budget,
    ) -> Result<Round<'jobs>, PullError> {
        let shared = Shared {
            budget,
            next: AtomicUsize::new(0),
            workers: self.options.parallel.max(1).min(jobs.len()),
            stop: AtomicBool::new(false),
            outcome: Mutex::new(Ok((Vec::new(), Vec::new(), Vec::new()))),
        };
        std::thread::scope(|scope| {
            // The last of them works in this thread.
            for _ in 1..shared.workers {
                scope.spawn(|| self.work(ingest, jobs, &shared));
            }
            if shared.workers > 0 {
                self.work(ingest, jobs, &shared);
            }
        });
        shared
            .outcome
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn work<'jobs>(&self, ingest: &Ingest<'_>, jobs: &[Job<'jobs>], shared: &Shared<'_, 'jobs>) {
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
                (Ok(Outcome::Busy), Ok((_, _, busy))) => {
                    let id = job.descriptor.digest;
                    (self.progress)(PullEvent::LayerWaiting { id });
                    busy.push(*job);
                }
                (Ok(Outcome::Exists), Ok(_)) => {}
                (Ok(Outcome::Made(blob, unpacked)), Ok((blobs, layers, _))) => {
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
        shared: &Shared<'_, '_>,
    ) -> Result<Outcome, LayerError> {
        let descriptor = job.descriptor;
        let id = descriptor.digest;
        let kind = layer_kind(&descriptor.media_type).ok_or_else(|| LayerError::MediaType {
            media_type: descriptor.media_type.chars().take(160).collect(),
        })?;
        let Some(partial) = self.store.try_partial(&id)? else {
            return Ok(Outcome::Busy);
        };
        // Whoever had it before may have finished it.
        if self.store.has_layer_by_now(job.diff_id)? {
            self.store.release_partial(partial)?;
            (self.progress)(PullEvent::LayerExists { id });
            return Ok(Outcome::Exists);
        }
        loop {
            // Also what is behind a hole: it is not read before it is reached.
            let resumed = !partial.present(descriptor.size)?.is_empty();
            match self.attempt(ingest, job, kind, shared, &partial) {
                Ok((unpacked, true)) => {
                    let blob = StagedBlob::of_partial(partial, descriptor.size);
                    return Ok(Outcome::Made(Some(blob), Box::new(unpacked)));
                }
                Ok((unpacked, false)) => {
                    self.store.discard_partial(partial)?;
                    return Ok(Outcome::Made(None, Box::new(unpacked)));
                }
                Err(error) if says_nothing_of_the_bytes(&error) => {
                    self.store.release_partial(partial)?;
                    return Err(error);
                }
                // What an earlier process left may be at fault, and not the registry.
                Err(_) if resumed => partial.cut(0)?,
                // Or a mirror. With the wrong DiffID the blob was the right one.
                Err(error)
                    if !matches!(error, LayerError::DiffId { .. }) && self.client.distrust(&id) =>
                {
                    partial.cut(0)?;
                }
                Err(error) => {
                    self.store.discard_partial(partial)?;
                    return Err(error);
                }
            }
        }
    }

    /// Unpacks a layer once; whether its blob is new.
    fn attempt(
        &self,
        ingest: &Ingest<'_>,
        job: &Job<'_>,
        kind: LayerKind,
        shared: &Shared<'_, '_>,
        partial: &Partial,
    ) -> Result<(Unpacked, bool), LayerError> {
        let descriptor = job.descriptor;
        let settings = Unpack {
            ingest,
            kind: ApplyKind::Layer,
            limits: &self.options.limits,
            budget: shared.budget,
            size: Some(descriptor.size),
            keep: None,
        };
        let (is_new, mut unpacked) = unpack(settings, |pipe| {
            let fetch = Fetch {
                pull: self,
                descriptor,
                partial,
                workers: shared.workers,
                stop: &shared.stop,
            };
            let is_new = fetch.run(pipe).map_err(|error| match error {
                LayerError::Registry(source)
                    if kind == LayerKind::Nondistributable && source.is_not_found() =>
                {
                    LayerError::Nondistributable { source }
                }
                error => error,
            })?;
            (self.progress)(PullEvent::LayerDownloaded {
                id: descriptor.digest,
            });
            if is_new {
                // While the rest is unpacked. The layer itself is synced by nobody who is waited
                // for: it can be made of this again.
                partial.sync()?;
            }
            Ok(is_new)
        })?;
        unpacked.record.blob = Some(descriptor.digest);
        if unpacked.diff_id != *job.diff_id {
            return Err(LayerError::DiffId {
                expected: *job.diff_id,
                actual: unpacked.diff_id,
            });
        }
        (self.progress)(PullEvent::LayerExtracted {
            id: descriptor.digest,
        });
        Ok((unpacked, is_new))
    }
}

/// Whether a failure leaves open if the bytes that have come are the right ones: then they are
/// kept for the next attempt.
fn says_nothing_of_the_bytes(error: &LayerError) -> bool {
    match error {
        LayerError::Registry(source) => !matches!(
            **source,
            RegistryError::BlobSize { .. } | RegistryError::DigestMismatch { .. }
        ),
        LayerError::Store(source) => !matches!(
            source,
            StoreError::DigestMismatch { .. } | StoreError::SizeMismatch { .. }
        ),
        LayerError::Apply(source) => matches!(source, ApplyError::Io { .. }),
        LayerError::Stopped
        | LayerError::Thread { .. }
        | LayerError::Read { .. }
        | LayerError::Nondistributable { .. } => true,
        _ => false,
    }
}

/// What came of one layer.
enum Outcome {
    /// Somebody else works on it.
    Busy,
    /// Somebody else has made it.
    Exists,
    /// It is unpacked; its blob, if that is new.
    Made(Option<StagedBlob>, Box<Unpacked>),
}

/// One layer to fetch.
#[derive(Clone, Copy)]
struct Job<'a> {
    number: usize,
    descriptor: &'a Descriptor,
    diff_id: &'a Digest,
}

/// A layer that waits for its name.
type Waiting = (StagedLayer, Digest, LayerRecord);

/// What one round brought, and what somebody else works on.
type Round<'jobs> = (Vec<StagedBlob>, Vec<Waiting>, Vec<Job<'jobs>>);

/// Blobs and layers that wait for their names.
pub(super) struct Layers<'store> {
    pub(super) ingest: Ingest<'store>,
    pub(super) blobs: Vec<StagedBlob>,
    pub(super) layers: Vec<Waiting>,
    /// Whether any layer was missing at first.
    pub(super) any: bool,
}

/// What the threads of one round share.
struct Shared<'a, 'jobs> {
    budget: &'a Budget,
    next: AtomicUsize,
    workers: usize,
    stop: AtomicBool,
    outcome: Mutex<Result<Round<'jobs>, PullError>>,
}
