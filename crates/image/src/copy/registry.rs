//! A repository of a registry as source and as target.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::{Arrival, BlobSource, BlobTarget, CopyError, SourceManifest, Verified};
use crate::digest::Digest;
use crate::model::Descriptor;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{
    Beginning, Client, ClientOptions, ManifestName, Progress, RegistryError, Upload, UploadStart,
};

/// Blobs up to this many bytes go in one request.
const MONOLITHIC: u64 = 512 << 10;
/// Least time between two reports about one blob.
const PROGRESS_STEP: Duration = Duration::from_millis(100);

/// An image in a registry.
pub struct RegistrySource {
    client: Client,
    reference: Reference,
}

/// A name in a registry.
pub struct RegistryTarget {
    client: Client,
    reference: Reference,
}

fn client(reference: &Reference, options: &ClientOptions) -> Result<Client, CopyError> {
    Client::new(reference.registry(), options).map_err(failed(reference))
}

fn failed(reference: &Reference) -> impl Fn(RegistryError) -> CopyError + use<> {
    let name = reference.familiar();
    move |source| CopyError::Registry {
        name: name.clone(),
        source: Box::new(source),
    }
}

impl RegistrySource {
    /// The image that `reference` names, `latest` if it has neither tag nor digest.
    ///
    /// # Errors
    /// [`CopyError::Registry`].
    pub fn new(reference: &Reference, options: &ClientOptions) -> Result<Self, CopyError> {
        Ok(Self {
            client: client(reference, options)?,
            reference: reference.clone(),
        })
    }

    fn fetch(&self, name: ManifestName<'_>) -> Result<SourceManifest, CopyError> {
        let repository = self.reference.repository();
        let fetched = self
            .client
            .manifest(repository, name)
            .map_err(failed(&self.reference))?;
        Ok(SourceManifest {
            bytes: fetched.bytes,
            media_type: fetched.content_type,
            digest: fetched.digest,
        })
    }
}

impl BlobSource for RegistrySource {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn root(&self) -> Result<SourceManifest, CopyError> {
        self.fetch(match self.reference.digest() {
            Some(digest) => ManifestName::Digest(digest),
            None => ManifestName::Tag(self.reference.tag().unwrap_or(DEFAULT_TAG)),
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<SourceManifest, CopyError> {
        self.fetch(ManifestName::Digest(&descriptor.digest))
    }

    fn open<'a>(
        &'a self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Box<dyn Read + 'a>, CopyError> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let reader = self
            .client
            .blob_range(self.reference.repository(), digest, size, offset..size)
            .map_err(failed(&self.reference))?;
        Ok(Box::new(reader))
    }

    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        self.client
            .referrers(self.reference.repository(), digest, None)
            .map_err(failed(&self.reference))
    }

    fn repository(&self) -> Option<(&str, &str)> {
        Some((self.reference.registry(), self.reference.repository()))
    }
}

impl RegistryTarget {
    /// The name `reference`, `latest` if it has neither tag nor digest.
    ///
    /// # Errors
    /// [`CopyError::Registry`].
    pub fn new(reference: &Reference, options: &ClientOptions) -> Result<Self, CopyError> {
        Ok(Self {
            client: client(reference, options)?,
            reference: reference.clone(),
        })
    }
}

impl BlobTarget for RegistryTarget {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn has_manifest(&self, digest: &Digest) -> Result<bool, CopyError> {
        self.client
            .head_pushed(self.reference.repository(), ManifestName::Digest(digest))
            .map(|found| found.is_some())
            .map_err(failed(&self.reference))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        progress: &dyn Fn(u64),
    ) -> Result<Arrival, CopyError> {
        let failed = failed(&self.reference);
        let (repository, digest) = (self.reference.repository(), &descriptor.digest);
        if self
            .client
            .has_blob(repository, digest)
            .map_err(&failed)?
            .is_some()
        {
            return Ok(Arrival::Existed);
        }
        let mut started = None;
        if let Some((registry, from)) = source.repository()
            && registry == self.reference.registry()
            && from != repository
        {
            let mount = Some((digest, from));
            match self
                .client
                .start_upload(repository, mount)
                .map_err(&failed)?
            {
                UploadStart::Mounted => return Ok(Arrival::Mounted),
                UploadStart::Started(location) => started = Some(location),
            }
        }
        let upload = Upload {
            repository,
            digest,
            size: descriptor.size,
            monolithic: MONOLITHIC,
            open: &|offset| {
                let reader = source.open(descriptor, offset).map_err(io::Error::other)?;
                Ok(Box::new(Verified::new(reader, descriptor, offset)) as Box<dyn Read>)
            },
            progress: &Watch {
                report: progress,
                total: descriptor.size,
                reported: Cell::new(Instant::now()),
            },
        };
        let beginning = match &started {
            Some(location) => Beginning::At(location),
            None => Beginning::New,
        };
        self.client.upload(&upload, beginning).map_err(&failed)?;
        Ok(Arrival::Sent)
    }

    fn put_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        is_root: bool,
    ) -> Result<(), CopyError> {
        let name = match (self.reference.tag(), self.reference.digest()) {
            (Some(tag), _) if is_root => ManifestName::Tag(tag),
            (None, None) if is_root => ManifestName::Tag(DEFAULT_TAG),
            _ => ManifestName::Digest(&descriptor.digest),
        };
        self.client
            .put_manifest(
                self.reference.repository(),
                name,
                &descriptor.media_type,
                bytes,
            )
            .map(drop)
            .map_err(failed(&self.reference))
    }
}

/// Watches one upload, which nobody continues: what is sent comes from elsewhere.
struct Watch<'a> {
    report: &'a dyn Fn(u64),
    total: u64,
    reported: Cell<Instant>,
}

impl Progress for Watch<'_> {
    fn sent(&self, bytes: u64) {
        if bytes == self.total || self.reported.get().elapsed() >= PROGRESS_STEP {
            self.reported.set(Instant::now());
            (self.report)(bytes);
        }
    }

    fn location(&self, _location: Option<&str>) {}

    fn stopped(&self) -> bool {
        false
    }
}
