//! Sending the blobs of one push, several at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::plan::{Needed, Plan};
use super::{Push, PushError, PushEvent};
use crate::digest::Digest;
use crate::registry::{Beginning, Progress, RegistryError, Upload, UploadStart};
use crate::store::{StoreError, UploadLock};

/// Least time between two events about the bytes of one layer.
const PROGRESS_STEP: Duration = Duration::from_millis(100);
/// Repositories that are tried for a mount.
const MOUNTS: usize = 3;

impl Push<'_> {
    /// Brings the blobs of all manifests but the known ones into the registry.
    pub(super) fn blobs(&self, plan: &Plan, known: &BTreeSet<Digest>) -> Result<(), PushError> {
        let jobs = plan.blobs(|document| !known.contains(&document.digest));
        for blob in plan.blobs(|document| known.contains(&document.digest)) {
            if blob.is_layer && !jobs.iter().any(|job| job.digest == blob.digest) {
                (self.progress)(PushEvent::Exists { id: blob.digest });
            }
        }
        for job in jobs.iter().filter(|job| job.is_layer) {
            (self.progress)(PushEvent::Preparing {
                id: job.digest,
                total: job.size,
            });
        }
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok(()));
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.blob(job) {
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    // The first error is the one that stopped the others.
                    if !self.stop.swap(true, Ordering::Relaxed) {
                        *outcome = Err(error);
                    }
                    return;
                }
            }
        };
        let workers = self.options.parallel.max(1).min(jobs.len());
        std::thread::scope(|scope| {
            // The last of them works in this thread.
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob(&self, job: &Needed) -> Result<(), PushError> {
        let report = |event: PushEvent| {
            if job.is_layer {
                (self.progress)(event);
            }
        };
        let id = job.digest;
        let failed = |source: RegistryError| PushError::Blob {
            reference: self.familiar.clone(),
            digest: id,
            source: Box::new(source),
        };
        let repository = self.reference.repository();
        // Two pushes of one blob: the second waits and finds it there. Small ones are not worth it.
        let is_large = job.size > self.options.monolithic;
        let lock = if is_large {
            let registry = self.client.registry();
            Some(self.store.upload_lock(registry, repository, &id)?)
        } else {
            None
        };
        if self
            .client
            .has_blob(repository, &id)
            .map_err(failed)?
            .is_some()
        {
            if let Some(lock) = &lock {
                lock.remember(None);
            }
            report(PushEvent::Exists { id });
            return Ok(());
        }
        let known = lock.as_ref().and_then(UploadLock::location);
        let mut started = None;
        if known.is_none() {
            let sources = self.options.mounts.get(&id).map_or(&[][..], Vec::as_slice);
            for from in sources
                .iter()
                .filter(|from| *from != repository)
                .take(MOUNTS)
            {
                match self
                    .client
                    .start_upload(repository, Some((&id, from)))
                    .map_err(failed)?
                {
                    UploadStart::Mounted => {
                        let from = from.clone();
                        report(PushEvent::Mounted { id, from });
                        return Ok(());
                    }
                    // Left over from the attempt before it, the registry drops it in time.
                    UploadStart::Started(location) => started = Some(location),
                }
            }
        }
        let beginning = match (&known, &started) {
            (Some(location), _) => Beginning::Perhaps(location),
            (None, Some(location)) => Beginning::At(location),
            (None, None) => Beginning::New,
        };
        let watch = Watch {
            lock: &lock,
            stop: &self.stop,
            report: &|uploaded| {
                report(PushEvent::Progress {
                    id,
                    uploaded,
                    total: job.size,
                });
            },
            total: job.size,
            reported: Cell::new(Instant::now()),
            remembered: RefCell::new(known.clone()),
        };
        let open_error = |error: StoreError| std::io::Error::other(error);
        let upload = Upload {
            repository,
            digest: &id,
            size: job.size,
            monolithic: self.options.monolithic,
            open: &|offset| {
                let mut file = self.store.open_blob(&id).map_err(open_error)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file) as Box<dyn Read>)
            },
            progress: &watch,
        };
        let sent = self.client.upload(&upload, beginning).map_err(failed)?;
        self.sent.fetch_add(sent, Ordering::Relaxed);
        report(PushEvent::Pushed { id });
        Ok(())
    }
}

/// Watches one upload.
struct Watch<'a> {
    lock: &'a Option<UploadLock<'a>>,
    stop: &'a AtomicBool,
    report: &'a dyn Fn(u64),
    total: u64,
    reported: Cell<Instant>,
    remembered: RefCell<Option<String>>,
}

impl Progress for Watch<'_> {
    fn sent(&self, bytes: u64) {
        if bytes == self.total || self.reported.get().elapsed() >= PROGRESS_STEP {
            self.reported.set(Instant::now());
            (self.report)(bytes);
        }
    }

    fn location(&self, location: Option<&str>) {
        let Some(lock) = self.lock else { return };
        let mut remembered = self.remembered.borrow_mut();
        if remembered.as_deref() != location {
            lock.remember(location);
            *remembered = location.map(str::to_owned);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
