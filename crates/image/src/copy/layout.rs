//! A directory in OCI image layout as source and as target (image-layout.md).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{Arrival, BlobSource, BlobTarget, CopyError, SourceManifest, Verified};
use crate::digest::{Digest, Sha256Writer};
use crate::model::{DOCUMENT_LIMIT, Descriptor, Index, media_type};

/// Annotation with the name of an entry of `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What `oci-layout` holds.
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image in an OCI layout.
#[derive(Debug)]
pub struct LayoutSource {
    directory: PathBuf,
    tag: Option<String>,
}

/// A name in an OCI layout, which is made if it is not there.
#[derive(Debug)]
pub struct LayoutTarget {
    directory: PathBuf,
    tag: Option<String>,
}

fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> CopyError + use<'a> {
    move |source| CopyError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn shown(directory: &Path, tag: Option<&str>) -> String {
    match tag {
        Some(tag) => format!("{}:{tag}", directory.display()),
        None => directory.display().to_string(),
    }
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// Whether a file is a blob. One that is damaged, or whose writer was killed, has its name and may
/// have its size; what is no file of the layout's own, such as a link, is replaced.
fn is_whole(path: &Path, descriptor: &Descriptor) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else {
        return false;
    };
    let right_size = file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.len() == descriptor.size);
    let mut hashed = Sha256Writer::new(io::sink());
    right_size
        && io::copy(&mut file.take(descriptor.size), &mut hashed).is_ok()
        && hashed.finish().1 == descriptor.digest
}

fn read_capped(path: &Path) -> Result<Vec<u8>, CopyError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(CopyError::Unusable {
            name: path.display().to_string(),
            reason: format!("is larger than {DOCUMENT_LIMIT} bytes"),
        });
    }
    Ok(bytes)
}

fn read_index(directory: &Path) -> Result<Index, CopyError> {
    let path = directory.join("index.json");
    let bytes = read_capped(&path)?;
    serde_json::from_slice(&bytes).map_err(|error| CopyError::Unusable {
        name: path.display().to_string(),
        reason: format!("is no image index ({error})"),
    })
}

impl LayoutSource {
    /// The image with the name `tag` in `directory`, or the only one.
    pub fn new(directory: &Path, tag: Option<&str>) -> Self {
        Self {
            directory: directory.to_owned(),
            tag: tag.map(str::to_owned),
        }
    }
}

impl BlobSource for LayoutSource {
    fn name(&self) -> String {
        shown(&self.directory, self.tag.as_deref())
    }

    fn root(&self) -> Result<SourceManifest, CopyError> {
        let index = read_index(&self.directory)?;
        let named = |entry: &&Descriptor| match &self.tag {
            None => true,
            Some(tag) => {
                entry.annotations.get(REF_NAME) == Some(tag) || entry.digest.to_string() == *tag
            }
        };
        let mut found = index.manifests.iter().filter(named);
        let unusable = |reason: &str| CopyError::Unusable {
            name: self.name(),
            reason: reason.to_owned(),
        };
        let Some(entry) = found.next() else {
            return Err(unusable("does not exist"));
        };
        if self.tag.is_none() && found.next().is_some() {
            return Err(unusable("has several images; say which by DIRECTORY:NAME"));
        }
        self.manifest(entry)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<SourceManifest, CopyError> {
        let path = blob_path(&self.directory, &descriptor.digest);
        let bytes = match read_capped(&path) {
            Err(CopyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(CopyError::Missing {
                    name: self.name(),
                    digest: descriptor.digest,
                });
            }
            other => other?,
        };
        let digest = Digest::of(&bytes);
        if digest != descriptor.digest {
            return Err(CopyError::Damaged {
                name: self.name(),
                digest: descriptor.digest,
            });
        }
        Ok(SourceManifest {
            bytes,
            media_type: Some(descriptor.media_type.clone()).filter(|name| !name.is_empty()),
            digest,
        })
    }

    fn open<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Box<dyn Read + 'a>, CopyError> {
        let path = blob_path(&self.directory, &descriptor.digest);
        let opened = File::open(&path).and_then(|mut file| {
            io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
            Ok(file)
        });
        match opened {
            Ok(file) => Ok(Box::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CopyError::Missing {
                name: self.name(),
                digest: descriptor.digest,
            }),
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    /// What is in the layout and has it as its subject.
    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        let index = read_index(&self.directory)?;
        let mut found = Vec::new();
        for entry in index.manifests {
            // What is damaged or no manifest refers to nothing that could be copied.
            let Ok(manifest) = self.manifest(&entry) else {
                continue;
            };
            let subject = serde_json::from_slice::<serde_json::Value>(&manifest.bytes)
                .ok()
                .and_then(|value| value["subject"]["digest"].as_str()?.parse().ok());
            if subject == Some(*digest) {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

impl LayoutTarget {
    /// The name `tag` in the layout `directory`.
    ///
    /// # Errors
    /// [`CopyError::Io`].
    pub fn new(directory: &Path, tag: Option<&str>) -> Result<Self, CopyError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
        let target = Self {
            directory: directory.to_owned(),
            tag: tag.map(str::to_owned),
        };
        let marker = directory.join("oci-layout");
        if !marker.exists() {
            target.write(&marker, MARKER)?;
        }
        Ok(target)
    }

    /// Writes a file under another name first.
    fn place(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), CopyError> {
        let mut random = [0_u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io_error("write", path)(errno.into()))?;
        let temporary = self
            .directory
            .join(format!(".new-{:016x}", u64::from_ne_bytes(random)));
        // The directory may be one that others write to: what is there by that name, perhaps a
        // link, is neither followed nor removed.
        let mut file = File::create_new(&temporary).map_err(io_error("write", path))?;
        let result = write(&mut file)
            .and_then(|()| file.sync_data())
            .and_then(|()| fs::rename(&temporary, path));
        result.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            io_error("write", path)(error)
        })
    }

    /// Keeps other writers of the layout out until the file is closed.
    fn lock(&self) -> Result<File, CopyError> {
        let failed = |errno: rustix::io::Errno| io_error("lock", &self.directory)(errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.directory, flags, Mode::empty()).map_err(failed)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive))
            .map_err(failed)?;
        Ok(directory.into())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CopyError> {
        self.place(path, |file| file.write_all(bytes))
    }
}

impl BlobTarget for LayoutTarget {
    fn name(&self) -> String {
        shown(&self.directory, self.tag.as_deref())
    }

    /// Never: what is in a directory may be half of an image.
    fn has_manifest(&self, _digest: &Digest) -> Result<bool, CopyError> {
        Ok(false)
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        progress: &dyn Fn(u64),
    ) -> Result<Arrival, CopyError> {
        let path = blob_path(&self.directory, &descriptor.digest);
        if is_whole(&path, descriptor) {
            return Ok(Arrival::Existed);
        }
        let mut reader = Verified::new(source.open(descriptor, 0)?, descriptor, 0);
        self.place(&path, |file| {
            let (mut buffer, mut copied) = (vec![0; 256 << 10], 0);
            loop {
                let count = match reader.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                file.write_all(&buffer[..count])?;
                copied += count as u64;
                progress(copied);
            }
        })?;
        Ok(Arrival::Sent)
    }

    fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        is_root: bool,
    ) -> Result<(), CopyError> {
        self.write(&blob_path(&self.directory, &descriptor.digest), bytes)?;
        let refers = serde_json::from_slice::<serde_json::Value>(bytes)
            .is_ok_and(|value| value.get("subject").is_some());
        // What refers to something has no place but the index; a child is found by its parent.
        if !is_root && !refers {
            return Ok(());
        }
        let path = self.directory.join("index.json");
        let _lock = self.lock()?;
        let mut index = if path.exists() {
            read_index(&self.directory)?
        } else {
            Index {
                schema_version: 2,
                media_type: Some(media_type::INDEX.to_owned()),
                manifests: Vec::new(),
                annotations: Default::default(),
                extra: Default::default(),
            }
        };
        let mut entry = descriptor.clone();
        if let Some(tag) = self.tag.as_ref().filter(|_| is_root) {
            entry.annotations.insert(REF_NAME.to_owned(), tag.clone());
            // The name moves.
            for other in &mut index.manifests {
                if other.annotations.get(REF_NAME) == Some(tag) {
                    other.annotations.remove(REF_NAME);
                }
            }
        }
        index.manifests.retain(|known| {
            known.digest != entry.digest
                || known
                    .annotations
                    .get(REF_NAME)
                    .is_some_and(|name| Some(name) != entry.annotations.get(REF_NAME))
        });
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index)
            .map_err(|error| io_error("write", &path)(io::Error::other(error)))?;
        self.write(&path, &bytes)
    }
}
