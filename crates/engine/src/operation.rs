//! Marks of operations: who changes a container holds a locked file in the run root.
//!
//! A mark that nobody holds belongs to an operation whose process died, or to a container
//! whose end nobody has settled. Every command looks for such marks first and finishes or
//! undoes what it finds.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::error::Error;
use crate::paths::Roots;

/// How long a command waits for another one that changes the same container.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is in the mark of an operation that changes nothing of its container.
const READS: &[u8] = b"reads";

/// The right to change one container. Dropped, it leaves the mark, unlocked.
#[derive(Debug)]
pub struct Operation {
    path: PathBuf,
    lock: fs::File,
    was_read: bool,
}

impl Operation {
    /// Waits for the right to change a container.
    ///
    /// # Errors
    /// [`Error::Busy`] after 30 s, [`Error::Path`].
    pub fn begin(roots: &Roots, id: &str) -> Result<Operation, Error> {
        let operation = Operation::wait(roots, id)?;
        if operation.was_read {
            operation.describe(b"")?;
        }
        Ok(operation)
    }

    /// Waits for the right to keep a container as it is. Should this process die, nothing of the
    /// container is undone for it.
    ///
    /// # Errors
    /// As [`Operation::begin`].
    pub fn begin_reading(roots: &Roots, id: &str) -> Result<Operation, Error> {
        let operation = Operation::wait(roots, id)?;
        operation.describe(READS)?;
        Ok(operation)
    }

    fn describe(&self, purpose: &[u8]) -> Result<(), Error> {
        let written = self
            .lock
            .set_len(purpose.len() as u64)
            .and_then(|()| self.lock.write_all_at(purpose, 0));
        written.map_err(|source| Error::Path {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }

    fn wait(roots: &Roots, id: &str) -> Result<Operation, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(operation) = Operation::take_over(roots, id)? {
                return Ok(operation);
            }
            if Instant::now() >= until {
                return Err(Error::Busy { id: id.into() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes the right to change a container, if nobody has it, to end what whoever had it before
    /// has left.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn take_over(roots: &Roots, id: &str) -> Result<Option<Operation>, Error> {
        let path = roots.operations().join(id);
        let fail = |source| Error::Path {
            action: "lock",
            path: path.clone(),
            source,
        };
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(fail(error.into())),
        }
        // Whoever held it before may have removed the file: then this is a lock on nothing.
        let held = file.metadata().map_err(fail)?;
        match fs::metadata(&path) {
            Ok(metadata) if metadata.ino() == held.ino() => Ok(Some(Operation {
                path,
                lock: file,
                was_read: held.len() == READS.len() as u64,
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Whether whoever had the right before, and left the mark, changed nothing.
    #[must_use]
    pub fn was_read(&self) -> bool {
        self.was_read
    }

    /// Ends the operation: nothing is left to be done.
    pub fn finish(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Suffix of the mark that a supervisor leaves when its container has ended.
const END: &str = ".end";

/// The mark of an end that is to be settled. It is not the operation's own: whoever has
/// started a container may finish that operation after the container has ended.
#[must_use]
pub fn end_mark(roots: &Roots, id: &str) -> PathBuf {
    roots.operations().join(format!("{id}{END}"))
}

/// Suffix of the mark of a container that is frozen while an operation goes on.
const FROZEN: &str = ".frozen";

/// The mark of a container that whoever holds its operation freezes. Who finds it and holds the
/// operation lets the container go on: the one that froze it is dead.
#[must_use]
pub fn frozen_mark(roots: &Roots, id: &str) -> PathBuf {
    roots.operations().join(format!("{id}{FROZEN}"))
}

/// Ids of containers that carry a mark.
///
/// # Errors
/// [`Error::Path`].
pub fn marked(roots: &Roots) -> Result<Vec<String>, Error> {
    let path = roots.operations();
    let fail = |source| Error::Path {
        action: "read",
        path: path.clone(),
        source,
    };
    let mut ids = Vec::new();
    for entry in fs::read_dir(&path).map_err(fail)? {
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
            let id = name.strip_suffix(END).or_else(|| name.strip_suffix(FROZEN));
            ids.push(id.unwrap_or(&name).to_owned());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_mark_stays_until_finished() {
        let root = std::env::temp_dir().join(format!("gantry-op-{}", std::process::id()));
        let roots = Roots {
            data: root.join("data"),
            run: root.clone(),
        };
        fs::create_dir_all(roots.operations()).unwrap();
        let first = Operation::begin(&roots, "abc").unwrap();
        assert!(Operation::take_over(&roots, "abc").unwrap().is_none());
        drop(first);
        assert_eq!(marked(&roots).unwrap(), ["abc"]);
        // The end of a container outlives the operation that has started it.
        fs::write(end_mark(&roots, "abc"), b"").unwrap();
        assert_eq!(marked(&roots).unwrap(), ["abc"]);
        Operation::begin(&roots, "abc").unwrap().finish();
        assert_eq!(marked(&roots).unwrap(), ["abc"]);
        fs::write(frozen_mark(&roots, "abc"), b"").unwrap();
        assert_eq!(marked(&roots).unwrap(), ["abc"]);
        fs::remove_file(end_mark(&roots, "abc")).unwrap();
        fs::remove_file(frozen_mark(&roots, "abc")).unwrap();
        Operation::begin(&roots, "abc").unwrap().finish();
        assert!(marked(&roots).unwrap().is_empty());
        // Only the last one to hold it says what it was for.
        drop(Operation::begin_reading(&roots, "abc").unwrap());
        let left = Operation::take_over(&roots, "abc").unwrap().unwrap();
        assert!(left.was_read());
        drop(left);
        drop(Operation::begin(&roots, "abc").unwrap());
        let left = Operation::take_over(&roots, "abc").unwrap().unwrap();
        assert!(!left.was_read());
        fs::remove_dir_all(&root).unwrap();
    }
}
