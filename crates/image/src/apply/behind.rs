//! Filling small files behind the one who makes them.
//!
//! A layer of many small files is bound by the kernel's work on each of them. Names have an order
//! that must be kept (a later entry replaces, links to or hides an earlier one), so they are made
//! by one thread. What is left to do with a file, its contents, owner, mode and times, goes by its
//! descriptor, touches no name, and so another thread does it in the meantime.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::ApplyError;
use super::node::{set_metadata, timestamps};
use crate::tar::{Entry, escape_name};

/// Files larger than this, in bytes, are filled at once: writing them takes longer than waking
/// somebody else.
pub(super) const SMALL: u64 = 32 << 10;

/// Files and bytes that are handed over together: one wake-up costs as much as filling one.
const BATCH: usize = 16;
const BATCH_BYTES: usize = 128 << 10;

/// Batches that wait. With the two that are being made and worked on, at most 64 files are open
/// and half a megabyte is held.
const WAITING: usize = 2;

/// A file that has its name and nothing else.
struct Unfilled {
    file: File,
    entry: Entry,
    /// Where in the batch's bytes its contents end.
    end: usize,
}

/// Files and their contents, one after the other.
#[derive(Default)]
struct Batch {
    files: Vec<Unfilled>,
    bytes: Vec<u8>,
}

/// The side of the thread that makes files.
pub(super) struct Behind<'scope> {
    batch: Batch,
    worker: Option<Worker<'scope>>,
    stop: &'scope AtomicBool,
}

struct Worker<'scope> {
    batches: SyncSender<Batch>,
    thread: ScopedJoinHandle<'scope, Result<(), ApplyError>>,
}

impl<'scope> Behind<'scope> {
    /// Nothing is started before the first batch is full: most layers are small.
    pub(super) fn new(stop: &'scope AtomicBool) -> Self {
        Self {
            batch: Batch::default(),
            worker: None,
            stop,
        }
    }

    /// Takes a small file to be filled with what `contents` gives.
    pub(super) fn add<'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        file: File,
        entry: Entry,
        contents: impl FnOnce(&mut Vec<u8>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        contents(&mut self.batch.bytes)?;
        let end = self.batch.bytes.len();
        self.batch.files.push(Unfilled { file, entry, end });
        if self.batch.files.len() < BATCH && end < BATCH_BYTES {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        if self.worker.is_none() {
            self.worker = start(scope, self.stop);
        }
        match &self.worker {
            // Without a thread, or after its end, the work is done here.
            None => fill(&batch),
            Some(worker) => match worker.batches.send(batch) {
                Ok(()) => Ok(()),
                Err(SendError(batch)) => self.join().and_then(|()| fill(&batch)),
            },
        }
    }

    /// Fills what is left and waits for the rest.
    pub(super) fn finish(&mut self) -> Result<(), ApplyError> {
        let own = fill(&std::mem::take(&mut self.batch));
        self.join().and(own)
    }

    fn join(&mut self) -> Result<(), ApplyError> {
        let Some(worker) = self.worker.take() else {
            return Ok(());
        };
        drop(worker.batches);
        match worker.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        // After an error nobody wants the rest.
        if self.worker.is_some() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Starts the thread, if the machine has a processor for it and lets us.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stop: &'scope AtomicBool,
) -> Option<Worker<'scope>> {
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        return None;
    }
    let (batches, receiver) = sync_channel(WAITING);
    let thread = Builder::new()
        .name("layer-write".to_owned())
        .spawn_scoped(scope, move || work(&receiver, stop))
        .ok()?;
    Some(Worker { batches, thread })
}

fn work(batches: &Receiver<Batch>, stop: &AtomicBool) -> Result<(), ApplyError> {
    while let Ok(batch) = batches.recv() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        fill(&batch)?;
    }
    Ok(())
}

fn fill(batch: &Batch) -> Result<(), ApplyError> {
    let mut start = 0;
    for Unfilled { file, entry, end } in &batch.files {
        let contents = &batch.bytes[start..*end];
        start = *end;
        if !contents.is_empty() {
            file.write_all_at(contents, 0)
                .map_err(|source| failed("write", entry, source))?;
        }
        complete(file, entry)?;
    }
    Ok(())
}

/// Gives a file whose contents are written all else that it has.
pub(super) fn complete(file: &File, entry: &Entry) -> Result<(), ApplyError> {
    set_metadata(file.as_fd(), entry)
        .map_err(|errno| failed("set the attributes of", entry, errno.into()))?;
    rustix::fs::futimens(file, &timestamps(entry.mtime))
        .map_err(|errno| failed("set the times of", entry, errno.into()))
}

fn failed(operation: &'static str, entry: &Entry, source: std::io::Error) -> ApplyError {
    ApplyError::Io {
        operation,
        entry: escape_name(&entry.path),
        source,
    }
}
