//! One large blob over several connections: parts of it are fetched ahead into the partial file,
//! and read from there in order, so that hashing and unpacking go on as they do with one.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use super::fetch::Fetch;
use crate::pipe::BUFFER;
use crate::registry::{BlobReader, RegistryError};
use crate::store::{Partial, StoreError};
use crate::unpack::LayerError;

/// Connections of one pull to one registry.
const CONNECTIONS: usize = 6;
/// Parts that may be fetched before the one that is read, per connection: what was fetched is
/// read from the page cache as long as it is not too far ahead.
const AHEAD: u64 = 2;

/// When several connections fetch one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOptions {
    /// Blobs of which this many bytes are missing are fetched so. 32 MiB by default: below, the
    /// connections are hardly up to speed before it is over.
    pub threshold: u64,
    /// Bytes of one request. 8 MiB by default.
    pub part: u64,
    /// Most connections for one blob. 4 by default.
    pub connections: usize,
    /// Whether to do so also with a registry on this host. Not by default: there a single
    /// connection is as fast as this host can hash, and more of them only cost.
    pub local: bool,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            threshold: 32 << 20,
            part: 8 << 20,
            connections: 4,
            local: false,
        }
    }
}

/// The parts of one blob.
pub(super) struct Plan {
    connections: usize,
    prefix: u64,
    parts: Vec<Part>,
}

/// One part: `start..end`, of which the bytes before `done` have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    done: u64,
    end: u64,
}

/// Whether and how several connections fetch what is behind the first `prefix` bytes.
pub(super) fn plan(fetch: &Fetch<'_>, prefix: u64) -> Option<Plan> {
    let options = fetch.pull.options.ranges?;
    let size = fetch.descriptor.size;
    let connections = options.connections.min(CONNECTIONS / fetch.workers.max(1));
    if size - prefix < options.threshold.max(1)
        || connections < 2
        || options.part == 0
        || (fetch.pull.client.is_local() && !options.local)
    {
        return None;
    }
    // Without it everything behind the prefix comes again, which is no loss of correctness.
    let present = fetch.partial.present(size).unwrap_or_default();
    Some(Plan {
        connections,
        prefix,
        parts: parts_of(prefix..size, options.part.max(BUFFER as u64), &present),
    })
}

/// Cuts `range` into parts, with what is `present` at the beginning of each.
fn parts_of(range: Range<u64>, length: u64, present: &[(u64, u64)]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut start = range.start;
    while start < range.end {
        // At multiples of the length, so that another pull cuts at the same places.
        let end = (start / length + 1).saturating_mul(length).min(range.end);
        let done = present
            .iter()
            .find(|(from, to)| *from <= start && start < *to)
            .map_or(start, |(_, to)| end.min(*to));
        parts.push(Part { start, done, end });
        start = end;
    }
    parts
}

/// A blob that several connections fetch.
pub(super) struct Ranged<'a> {
    partial: &'a Partial,
    offset: u64,
    prefix: u64,
    size: u64,
    shared: Arc<Shared>,
}

/// What the connections share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

struct State {
    parts: Vec<Part>,
    /// The next part that nobody fetches.
    next: usize,
    /// The part that is read.
    reading: usize,
    failure: Option<LayerError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: LayerError) {
        self.lock().failure.get_or_insert(error);
        self.stop();
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Taken once, so that nobody is between looking at the flag and waiting.
        drop(self.lock());
        self.changed.notify_all();
    }
}

impl Ranged<'_> {
    /// Asks for the first part, and starts the other connections if the server sends parts. If it
    /// does not, the result is a reader of everything behind the prefix.
    pub(super) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        fetch: &'env Fetch<'env>,
        plan: &Plan,
    ) -> Result<Result<Ranged<'env>, Box<BlobReader<'env>>>, LayerError> {
        let first = plan.parts.iter().position(|part| part.done < part.end);
        let size = fetch.descriptor.size;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                parts: plan.parts.clone(),
                next: first.map_or(plan.parts.len(), |first| first + 1),
                reading: 0,
                failure: None,
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let ranged = Ranged {
            partial: fetch.partial,
            offset: 0,
            prefix: plan.prefix,
            size,
            shared: shared.clone(),
        };
        let Some(first) = first else {
            return Ok(Ok(ranged));
        };
        let part = plan.parts[first];
        let mut reader = open(fetch, part.done..part.end)?;
        if !reader.has_ranges() {
            // What is present behind the prefix is of no use then.
            if part.done != plan.prefix {
                reader = open(fetch, plan.prefix..size)?;
            }
            reader.widen();
            return Ok(Err(Box::new(reader)));
        }
        fetch.partial.cut(size)?;
        let connections = plan.connections.min(plan.parts.len() - first);
        let mut opened = Some((first, reader));
        for _ in 0..connections {
            let (shared, opened) = (shared.clone(), opened.take());
            let started = std::thread::Builder::new()
                .name("layer-range".to_owned())
                .spawn_scoped(scope, move || work(fetch, &shared, opened));
            if let Err(source) = started {
                ranged.shared.stop();
                return Err(LayerError::Thread { source });
            }
        }
        Ok(Ok(ranged))
    }

    /// Reads the next bytes; waits for them if they have not come. Zero at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        if self.offset == self.size {
            return Ok(0);
        }
        let available = if self.offset < self.prefix {
            self.prefix
        } else {
            self.wait()?
        };
        let left = usize::try_from(available - self.offset).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        self.partial.read_at(&mut buffer[..count], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    /// The end of the bytes that have come from the offset on.
    fn wait(&mut self) -> Result<u64, LayerError> {
        let mut state = self.shared.lock();
        loop {
            let mut reading = state.reading;
            while state
                .parts
                .get(reading)
                .is_some_and(|part| part.end <= self.offset)
            {
                reading += 1;
            }
            if reading != state.reading {
                state.reading = reading;
                self.shared.changed.notify_all();
            }
            let done = state.parts.get(reading).map_or(self.size, |part| part.done);
            if done > self.offset {
                return Ok(done);
            }
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(LayerError::Stopped);
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ranged<'_> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

fn open<'a>(fetch: &Fetch<'a>, range: Range<u64>) -> Result<BlobReader<'a>, RegistryError> {
    let descriptor = fetch.descriptor;
    let repository = fetch.pull.reference.repository();
    let client = fetch.pull.client;
    client.blob_range(repository, &descriptor.digest, descriptor.size, range)
}

/// Fetches one part after the other, beginning with the one that is `opened`.
fn work(fetch: &Fetch<'_>, shared: &Shared, mut opened: Option<(usize, BlobReader<'_>)>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (number, reader) = match opened.take() {
            Some(opened) => opened,
            None => {
                let Some(number) = next_part(fetch, shared) else {
                    return;
                };
                let part = shared.lock().parts[number];
                match open(fetch, part.done..part.end) {
                    Ok(reader) => (number, reader),
                    Err(error) => return shared.fail(error.into()),
                }
            }
        };
        if let Err(error) = carry(fetch.partial, shared, number, reader, &mut buffer) {
            return shared.fail(error);
        }
    }
}

/// The next part to fetch; waits as long as all are too far ahead.
fn next_part(fetch: &Fetch<'_>, shared: &Shared) -> Option<usize> {
    let connections = fetch.pull.options.ranges?.connections as u64;
    let mut state = shared.lock();
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        while state
            .parts
            .get(state.next)
            .is_some_and(|part| part.done == part.end)
        {
            state.next += 1;
        }
        if state.next >= state.parts.len() {
            return None;
        }
        if ((state.next - state.reading) as u64) < connections * AHEAD {
            state.next += 1;
            return Some(state.next - 1);
        }
        state = shared
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

fn carry(
    partial: &Partial,
    shared: &Shared,
    number: usize,
    mut reader: BlobReader<'_>,
    buffer: &mut [u8],
) -> Result<(), LayerError> {
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let count = reader.read_some(buffer)?;
        let part = shared.lock().parts[number];
        if count == 0 {
            return if part.done == part.end {
                Ok(())
            } else {
                Err(LayerError::Store(StoreError::SizeMismatch {
                    digest: partial.digest(),
                    expected: part.end,
                    actual: part.done,
                }))
            };
        }
        partial.write_at(&buffer[..count], part.done)?;
        // Only now may it be read.
        shared.lock().parts[number].done += count as u64;
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let part = |start, done, end| Part { start, done, end };
        for (range, present, expected) in [
            (
                0..25,
                vec![],
                vec![part(0, 0, 10), part(10, 10, 20), part(20, 20, 25)],
            ),
            (
                13..25,
                vec![(0, 13)],
                vec![part(13, 13, 20), part(20, 20, 25)],
            ),
            (
                3..30,
                vec![(0, 3), (10, 14), (20, 30)],
                vec![part(3, 3, 10), part(10, 14, 20), part(20, 30, 30)],
            ),
            (
                3..30,
                vec![(0, 3), (12, 28)],
                vec![part(3, 3, 10), part(10, 10, 20), part(20, 28, 30)],
            ),
            (5..5, vec![(0, 5)], vec![]),
        ] {
            assert_eq!(parts_of(range.clone(), 10, &present), expected, "{range:?}");
        }
    }
}
