//! Archives as ends of a copy ([`crate::copy`]): read from and written to without the store of
//! the installation. What does not fit into memory lies in files without names meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::layout::tagged;
use super::load::{LoadError, read_contents};
use super::spool::{Content, Spool};
use super::{SavedImage, save};
use crate::copy::{Arrival, BlobSource, BlobTarget, CopyError, LayoutTarget, SourceManifest};
use crate::digest::Digest;
use crate::model::{Descriptor, Document, Platform, choose};
use crate::reference::Reference;
use crate::store::Store;
use crate::unpack::Expansion;

/// The two kinds of archives. What is written is both at once; the kind says what a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI layout in a tar archive.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// A directory for what a copy has in passing.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, CopyError> {
        use std::os::unix::fs::DirBuilderExt;
        let mut bytes = [0_u8; 8];
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Io {
                operation: "create",
                path,
                source,
            }
        };
        let home = std::env::temp_dir();
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| failed(&home)(errno.into()))?;
        let path = home.join(format!("gantry-copy-{:016x}", u64::from_ne_bytes(bytes)));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(failed(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn unusable(name: &str, reason: &dyn std::error::Error) -> CopyError {
    let mut text = reason.to_string();
    let mut source = reason.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    CopyError::Unusable {
        name: name.to_owned(),
        reason: format!("cannot be used: {text}"),
    }
}

/// One image of an archive.
#[derive(Debug)]
pub struct ArchiveSource {
    name: String,
    root: Digest,
    documents: BTreeMap<Digest, Vec<u8>>,
    spool: Spool,
}

impl ArchiveSource {
    /// The image called `tag`, or the only one, of the archive at `path`.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Self, CopyError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|source| CopyError::Io {
            operation: "open",
            path: path.to_owned(),
            source,
        })?;
        let scratch = Scratch::new()?;
        let store = Store::open(&scratch.0).map_err(|error| unusable(&shown, &error))?;
        let spool = {
            let ingest = store.ingest().map_err(|error| unusable(&shown, &error))?;
            // The files stay open when their names go with the scratch directory.
            Spool::read(file, &ingest, Expansion::default())
                .map_err(|error| unusable(&shown, &error))?
        };
        let contents = read_contents(&spool).map_err(|error| unusable(&shown, &error))?;
        let wanted =
            tag.and_then(|tag| Reference::parse(tag).ok().map(Reference::with_default_tag));
        let mut targets: Vec<Digest> = Vec::new();
        for found in &contents.images {
            let named = match (tag, &wanted) {
                (None, _) => true,
                (Some(tag), wanted) => {
                    wanted
                        .as_ref()
                        .is_some_and(|name| found.names.contains(name))
                        || found.names.iter().any(|name| name.tag() == Some(tag))
                        || contents.plain_names.get(tag) == Some(&found.target)
                }
            };
            if named && !targets.contains(&found.target) {
                targets.push(found.target);
            }
        }
        let unfit = |reason: &str| CopyError::Unusable {
            name: shown.clone(),
            reason: reason.to_owned(),
        };
        let root = match *targets.as_slice() {
            [root] => root,
            [] => return Err(unfit("holds no such image")),
            _ => return Err(unfit("has several images; say which by FILE:NAME")),
        };
        Ok(Self {
            name: shown,
            root,
            documents: contents.documents,
            spool,
        })
    }

    fn document(&self, digest: &Digest) -> Result<SourceManifest, CopyError> {
        let bytes = self
            .documents
            .get(digest)
            .ok_or_else(|| CopyError::Unusable {
                name: self.name.clone(),
                reason: format!("has no manifest {digest}"),
            })?;
        Ok(SourceManifest {
            bytes: bytes.clone(),
            media_type: None,
            digest: *digest,
        })
    }

    fn content(&self, digest: &Digest) -> Result<&Content, CopyError> {
        self.spool
            .blob(digest)
            .or_else(|| self.spool.of_digest(digest))
            .ok_or_else(|| CopyError::Unusable {
                name: self.name.clone(),
                reason: format!("has no blob {digest}"),
            })
    }
}

impl BlobSource for ArchiveSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn root(&self) -> Result<SourceManifest, CopyError> {
        self.document(&self.root)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<SourceManifest, CopyError> {
        self.document(&descriptor.digest)
    }

    fn open<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Box<dyn Read + 'a>, CopyError> {
        let failed = |source| CopyError::Io {
            operation: "read",
            path: PathBuf::from(&self.name),
            source,
        };
        let mut reader = self.content(&descriptor.digest)?.reader().map_err(failed)?;
        io::copy(&mut (&mut reader).take(offset), &mut io::sink()).map_err(failed)?;
        Ok(reader)
    }
}

/// An archive of one image that is being written.
#[derive(Debug)]
pub struct ArchiveTarget {
    path: PathBuf,
    names: Vec<Reference>,
    plain: Option<String>,
    layout: LayoutTarget,
    root: std::sync::Mutex<Option<Digest>>,
    scratch: Scratch,
}

impl ArchiveTarget {
    /// The archive at `path`, in which the image is called `tag`.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn new(path: &Path, tag: Option<&str>, kind: ArchiveKind) -> Result<Self, CopyError> {
        let names: Vec<Reference> = match (tag, kind) {
            (None, _) => Vec::new(),
            (Some(tag), ArchiveKind::Docker) => tagged(tag).into_iter().collect(),
            // In an OCI layout a mere tag is a name.
            (Some(tag), ArchiveKind::Oci) => tag
                .contains([':', '/'])
                .then(|| tagged(tag))
                .flatten()
                .into_iter()
                .collect(),
        };
        let plain = tag.filter(|_| names.is_empty()).map(str::to_owned);
        let scratch = Scratch::new()?;
        Ok(Self {
            path: path.to_owned(),
            names,
            plain,
            layout: LayoutTarget::new(&scratch.0, None)?,
            root: std::sync::Mutex::new(None),
            scratch,
        })
    }

    fn write(&self, target: Digest) -> Result<(), CopyError> {
        let name = self.path.display().to_string();
        let store = Store::open(&self.scratch.0).map_err(|error| unusable(&name, &error))?;
        let manifest = one_manifest(&store, &target).map_err(|error| unusable(&name, &error))?;
        let image = SavedImage {
            target,
            manifest,
            names: self.names.clone(),
            tag: self.plain.clone(),
        };
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Io {
                operation,
                path,
                source,
            }
        };
        let file_name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let draft = self
            .path
            .with_file_name(format!(".{file_name}.{}", std::process::id()));
        let file = File::create_new(&draft).map_err(failed("create", &draft))?;
        let output = io::BufWriter::with_capacity(256 << 10, file);
        let written = save(&store, &[image], output)
            .map_err(|error| unusable(&name, &error))
            .and_then(|output| {
                output
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)
                    .and_then(|file| file.sync_data())
                    .and_then(|()| fs::rename(&draft, &self.path))
                    .map_err(failed("write", &self.path))
            });
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// The manifest that stands for an index in a docker-archive: the host's, or the first.
fn one_manifest(store: &Store, target: &Digest) -> Result<Digest, LoadError> {
    let mut digest = *target;
    for _ in 0..4 {
        let bytes = store.read_blob(&digest, crate::model::DOCUMENT_LIMIT)?;
        let parsed = Document::parse(&bytes, None).map_err(|source| LoadError::Document {
            name: digest.to_string(),
            source,
        })?;
        match parsed {
            Document::Manifest(_) => return Ok(digest),
            Document::Index(index) => {
                let entry = choose(&index.manifests, &Platform::host())
                    .or_else(|| index.manifests.iter().find(|entry| !entry.is_attestation()))
                    .ok_or(LoadError::NoImages)?;
                digest = entry.digest;
            }
        }
    }
    Err(LoadError::NoImages)
}

impl BlobTarget for ArchiveTarget {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn has_manifest(&self, _digest: &Digest) -> Result<bool, CopyError> {
        Ok(false)
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        progress: &dyn Fn(u64),
    ) -> Result<Arrival, CopyError> {
        self.layout.put_blob(descriptor, source, progress)
    }

    fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        is_root: bool,
    ) -> Result<(), CopyError> {
        if is_root && let Ok(mut root) = self.root.lock() {
            *root = Some(descriptor.digest);
        }
        self.layout.put_manifest(descriptor, bytes, is_root)
    }

    fn finish(&self) -> Result<(), CopyError> {
        self.layout.finish()?;
        let root = self.root.lock().ok().and_then(|root| *root);
        match root {
            Some(root) => self.write(root),
            None => Ok(()),
        }
    }
}
