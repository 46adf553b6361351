//! Unpacked layers, and which of them a power cut may have taken.
//!
//! Syncing a layer of many small files takes as long as unpacking it, so nobody waits for it: the
//! layer gets its name unsynced, its blob is durable, and its record carries the boot under which
//! it was made. [`Store::sync_layers`] takes that mark away after one `syncfs`. A record that has
//! the mark of another boot, or that cannot be read, as one of length zero after a power cut, means
//! that the layer is not there: it is unpacked again.
//!
//! The directory of all layers is locked while a layer and its record change together, which takes
//! a few renames. A reader needs no lock: it looks at the record first, and the record comes before
//! the directory and goes after it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Store, StoreError, error_at, exists, list, open_directory};
use crate::digest::Digest;

/// What the kernel draws anew at each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Longest record that is read, in bytes.
const RECORD_LIMIT: u64 = 4096;

/// What is recorded about an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct LayerRecord {
    /// Version of this record.
    pub version: u32,
    /// Bytes in its files.
    pub bytes: u64,
    /// Number of its entries.
    pub entries: u64,
    /// The blob that it was unpacked from, if that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    /// Set as long as it may not outlive a power cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsynced: Option<Unsynced>,
    /// What newer versions write.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Who made a layer that is not known to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Unsynced {
    /// The boot id of the kernel at that time.
    pub boot: String,
    /// The operation: a layer that was removed and made again is another one.
    pub operation: String,
}

impl LayerRecord {
    /// A record of the current version.
    pub fn new(bytes: u64, entries: u64) -> Self {
        Self {
            version: 1,
            bytes,
            entries,
            blob: None,
            unsynced: None,
            extra: Map::new(),
        }
    }
}

/// The directory of all unpacked layers of a data root.
#[derive(Debug)]
pub struct Layers {
    directory: OwnedFd,
    path: PathBuf,
    boot: OnceLock<Option<String>>,
}

impl Layers {
    /// Opens it for reading; cheaper than [`Store::open`], for who starts a container.
    ///
    /// # Errors
    /// [`StoreError::Io`], also if nothing was ever stored there.
    pub fn open(data_root: &Path) -> Result<Self, StoreError> {
        let path = data_root.join("layers/sha256");
        let directory = open_directory(rustix::fs::CWD, &path)
            .map_err(|errno| error_at("open", &path)(errno.into()))?;
        Ok(Self::new(directory, data_root))
    }

    pub(super) fn new(directory: OwnedFd, data_root: &Path) -> Self {
        Self {
            directory,
            path: data_root.join("layers/sha256"),
            boot: OnceLock::new(),
        }
    }

    /// Where the layer is or would be.
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.path.join(diff_id.hex())
    }

    /// Whether the layer is there and whole, whatever happened to the machine meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn is_usable(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        let hex = diff_id.hex();
        Ok(self
            .record(diff_id)?
            .is_some_and(|record| self.outlived(&record))
            && exists(self.directory.as_fd(), &hex)
                .map_err(|errno| error_at("look at", &self.path(diff_id))(errno.into()))?)
    }

    /// Whether nothing that was written of the layer can have been lost.
    fn outlived(&self, record: &LayerRecord) -> bool {
        match &record.unsynced {
            None => true,
            Some(made) => self.boot() == Some(&made.boot),
        }
    }

    /// The boot id; `None` where procfs does not tell it, and then nothing can be marked.
    pub(super) fn boot(&self) -> Option<&str> {
        self.boot
            .get_or_init(|| {
                let text = std::fs::read_to_string(BOOT_ID).ok()?;
                Some(text.trim().to_owned()).filter(|id| !id.is_empty())
            })
            .as_deref()
    }

    /// What is recorded; `None` if nothing is, or nothing that can be read.
    fn record(&self, diff_id: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        let name = record_name(diff_id);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, &name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(error_at("open", &self.path.join(name))(errno.into())),
        };
        let mut bytes = Vec::with_capacity(256);
        File::from(file)
            .take(RECORD_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|source| error_at("read", &self.path.join(name))(source))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Layers of this boot that are not known to be on the disk.
    fn unsynced(&self) -> Result<Vec<(Digest, LayerRecord)>, StoreError> {
        let failed = |errno: Errno| error_at("list", &self.path)(errno.into());
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().ok();
            let diff_id = name
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(Digest::from_hex);
            let Some(diff_id) = diff_id else { continue };
            if let Some(record) = self.record(&diff_id)?
                && record.unsynced.is_some()
                && self.outlived(&record)
            {
                found.push((diff_id, record));
            }
        }
        Ok(found)
    }

    /// The right to change layers together with their records; waits for whoever has it.
    pub(super) fn lock(&self) -> Result<LayersLock<'_>, StoreError> {
        let failed = |errno: Errno| error_at("lock", &self.path)(errno.into());
        let directory = open_directory(&self.directory, ".").map_err(failed)?;
        lock(&directory).map_err(failed)?;
        Ok(LayersLock {
            layers: self,
            _lock: directory,
        })
    }

    /// The place for new records; waits for whoever has it.
    fn drafts(&self) -> Result<Drafts, StoreError> {
        let path = self.path.parent().unwrap_or(&self.path).to_owned();
        let failed = |operation, errno: Errno| error_at(operation, &path)(errno.into());
        let directory =
            open_directory(&self.directory, "..").map_err(|errno| failed("open", errno))?;
        lock(&directory).map_err(|errno| failed("lock", errno))?;
        // What somebody left who was killed.
        for entry in Dir::read_from(&directory).map_err(|errno| failed("list", errno))? {
            let entry = entry.map_err(|errno| failed("list", errno))?;
            if entry.file_name().to_bytes().ends_with(b".json") {
                rustix::fs::unlinkat(&directory, entry.file_name(), AtFlags::empty())
                    .map_err(|errno| failed("remove a draft in", errno))?;
            }
        }
        Ok(Drafts { directory, path })
    }

    /// Has the names on the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.directory)
            .map_err(|errno| error_at("sync", &self.path)(errno.into()))
    }
}

/// `DATA_ROOT/layers`, locked: where new records are written. Not under `ingest`, where it would
/// be in the way of whoever looks whether the store is empty.
struct Drafts {
    directory: OwnedFd,
    path: PathBuf,
}

impl Drafts {
    fn write(&self, diff_id: &Digest, record: &LayerRecord) -> Result<(), StoreError> {
        let name = record_name(diff_id);
        let failed = |source| error_at("write", &self.path.join(&name))(source);
        let bytes = serde_json::to_vec(record).map_err(|source| failed(source.into()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(errno.into()))?;
        File::from(file).write_all(&bytes).map_err(failed)
    }
}

fn lock(directory: &OwnedFd) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(directory, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What may be done with the lock.
pub(super) struct LayersLock<'a> {
    layers: &'a Layers,
    _lock: OwnedFd,
}

impl LayersLock<'_> {
    /// Gives the directory `layer` and the file `record`, both in `ingest`, their names, in place
    /// of what a power cut may have damaged. Nothing happens if a usable layer is there: the
    /// content is the same.
    pub(super) fn publish(
        &self,
        ingest: BorrowedFd<'_>,
        layer: &str,
        record: &str,
        diff_id: &Digest,
    ) -> Result<(), StoreError> {
        let layers = self.layers;
        if layers.is_usable(diff_id)? {
            return Ok(());
        }
        let failed = |errno: Errno| error_at("rename", &layers.path(diff_id))(errno.into());
        self.set_aside(ingest, &format!("damaged-{layer}"), diff_id)?;
        rustix::fs::renameat(ingest, record, &layers.directory, record_name(diff_id))
            .map_err(failed)?;
        rustix::fs::renameat(ingest, layer, &layers.directory, diff_id.hex()).map_err(failed)
    }

    /// Takes a layer away, its directory to `name` in `ingest`. In this order a crash half-way
    /// leaves something for the sweep and no damaged layer.
    fn set_aside(
        &self,
        ingest: BorrowedFd<'_>,
        name: &str,
        diff_id: &Digest,
    ) -> Result<(), StoreError> {
        let layers = self.layers;
        match rustix::fs::renameat(&layers.directory, diff_id.hex(), ingest, name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(error_at("remove", &layers.path(diff_id))(errno.into())),
        }
        let record = record_name(diff_id);
        match rustix::fs::unlinkat(&layers.directory, &record, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error_at("remove", &layers.path.join(record))(errno.into())),
        }
    }
}

impl Store {
    /// Whether the unpacked layer is there, whole.
    pub fn has_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        self.layers.is_usable(diff_id)
    }

    /// As [`Store::has_layer`], once whoever is giving blobs and layers their names is done: for who
    /// has the lock of a layer's blob and would unpack it. That lock is free again as soon as the
    /// blob has its name.
    pub(crate) fn has_layer_by_now(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        if self.has_layer(diff_id)? {
            return Ok(true);
        }
        drop(self.layers.lock()?);
        self.has_layer(diff_id)
    }

    /// Opens the directory of an unpacked layer.
    pub fn open_layer(&self, diff_id: &Digest) -> Result<OwnedFd, StoreError> {
        let missing = || StoreError::LayerMissing { diff_id: *diff_id };
        if !self.has_layer(diff_id)? {
            return Err(missing());
        }
        match open_directory(&self.layers.directory, diff_id.hex()) {
            Ok(directory) => Ok(directory),
            Err(Errno::NOENT) => Err(missing()),
            Err(errno) => Err(error_at("open", &self.layer_path(diff_id))(errno.into())),
        }
    }

    /// What was recorded about an unpacked layer; `None` if nothing was.
    pub fn layer_record(&self, diff_id: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        self.layers.record(diff_id)
    }

    /// Removes an unpacked layer. Nothing happens if it is not there. Its name goes first, in one
    /// step: a crash half-way leaves something for [`Store::sweep`] and no damaged layer.
    pub fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let ingest = self.ingest()?;
        self.layers
            .lock()?
            .set_aside(ingest.directory(), "removed", diff_id)?;
        ingest.discard()
    }

    /// All unpacked layers by DiffID, in no order, also those that a power cut has damaged.
    pub fn list_layers(&self) -> Result<Vec<Digest>, StoreError> {
        list(self.layers.directory.as_fd(), &[FileType::Directory])
            .map_err(|errno| error_at("list", &self.layers.path)(errno.into()))
    }

    /// Whether any layer waits for [`Store::sync_layers`].
    pub fn has_unsynced_layers(&self) -> Result<bool, StoreError> {
        Ok(!self.layers.unsynced()?.is_empty())
    }

    /// Has all layers on the disk, and notes that they are; returns how many were not. Who is
    /// killed at it has changed nothing, and it can be done again. Waits for another that does it.
    pub fn sync_layers(&self) -> Result<usize, StoreError> {
        // From here on, what fails to be written is reported by this descriptor.
        let drafts = self.layers.drafts()?;
        let waiting = self.layers.unsynced()?;
        if waiting.is_empty() {
            return Ok(0);
        }
        for (diff_id, record) in &waiting {
            let synced = LayerRecord {
                unsynced: None,
                ..record.clone()
            };
            drafts.write(diff_id, &synced)?;
        }
        // The new records with the layers: a record without a mark has to be whole as well.
        rustix::fs::syncfs(&drafts.directory)
            .map_err(|errno| error_at("sync the file system of", &drafts.path)(errno.into()))?;
        let lock = self.layers.lock()?;
        for (diff_id, record) in &waiting {
            let name = record_name(diff_id);
            // It may have been removed, and unpacked again, since.
            let moved = if self.layers.record(diff_id)?.as_ref() == Some(record) {
                rustix::fs::renameat(&drafts.directory, &name, &self.layers.directory, &name)
            } else {
                rustix::fs::unlinkat(&drafts.directory, &name, AtFlags::empty())
            };
            moved
                .map_err(|errno| error_at("replace", &self.layers.path.join(name))(errno.into()))?;
        }
        drop(lock);
        self.layers.sync()?;
        Ok(waiting.len())
    }

    /// To be called before blobs are removed: layers that could be made again only from one of
    /// them are synced first.
    pub fn sync_layers_of(&self, blobs: &[Digest]) -> Result<(), StoreError> {
        let waits = self
            .layers
            .unsynced()?
            .iter()
            .any(|(_, record)| record.blob.is_none_or(|blob| blobs.contains(&blob)));
        if !blobs.is_empty() && waits {
            self.sync_layers()?;
        }
        Ok(())
    }
}

fn record_name(diff_id: &Digest) -> String {
    format!("{}.json", diff_id.hex())
}

#[cfg(test)]
mod tests;
