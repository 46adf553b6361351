//! The pull-through cache: content of another registry is fetched once and kept.
//!
//! A tag is looked up at the upstream each time, and what is here is served when the upstream
//! cannot be reached. A blob is fetched only where a manifest of the same repository refers to
//! it, so that nobody can make the cache fetch just anything, nor read in one repository what was
//! fetched for another. However many clients ask for a blob, it is fetched once: all follow the
//! same file as it grows. It gets a name in the store when its digest is right and never
//! otherwise.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gantry_image::Digest;
use gantry_image::registry::{Client, ManifestName, RegistryError};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::api::{blocking, write_manifest};
use crate::body::ServerBody;
use crate::fault::{Fault, chain};
use crate::follow::{Follower, Progress};
use crate::manifest::{LIMIT, Outline};
use crate::name::{ManifestReference, RepositoryName};
use crate::options::UpstreamOptions;
use crate::storage::{Storage, StorageError, UploadFile};

/// Blobs that are fetched at once; each takes a thread.
const FETCHES: usize = 16;
/// Sizes of blobs that are remembered; others are looked up in the repository's manifests.
const REMEMBERED: usize = 100_000;
/// Bytes that are read from the upstream at once.
const PIECE: usize = 128 << 10;

/// The upstream registry and what is being fetched from it.
pub(crate) struct Upstream {
    client: Arc<Client>,
    storage: Arc<Storage>,
    sizes: Mutex<HashMap<(RepositoryName, Digest), u64>>,
    fetches: Arc<Mutex<HashMap<Digest, Arc<Fetch>>>>,
    slots: Arc<Semaphore>,
}

/// Where a blob comes from.
pub(crate) enum Source {
    /// The store has it.
    Stored,
    /// It is on its way.
    Fetching(Arc<Fetch>),
    /// A manifest says how long it is, which is all that was asked.
    Described(u64),
}

/// A blob on its way from the upstream.
pub(crate) struct Fetch {
    size: u64,
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    failure: Arc<OnceLock<Fault>>,
}

impl Fetch {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A part of it, as it comes.
    pub(crate) fn follow(&self, first: u64, length: u64) -> ServerBody {
        let (file, progress) = (Arc::clone(&self.file), self.progress.clone());
        let follower = Follower::new(file, progress, self.size, first, length);
        ServerBody::Follow(Box::new(follower))
    }

    /// Waits until the upstream has sent something: before that a failure can still be told.
    async fn begun(&self) -> Result<(), Fault> {
        let mut progress = self.progress.clone();
        let begun = progress
            .wait_for(|progress| *progress != Progress::Written(0))
            .await
            .map(|progress| progress.clone());
        match begun {
            Ok(Progress::Written(_) | Progress::Verified) => Ok(()),
            Ok(Progress::Failed) | Err(_) => {
                Err(self.failure.get().cloned().unwrap_or_else(|| {
                    Fault::upstream("the upstream registry failed", "a fetch ended".to_owned())
                }))
            }
        }
    }
}

impl Upstream {
    pub(crate) fn new(
        options: &UpstreamOptions,
        storage: Arc<Storage>,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            client: Arc::new(Client::new(&options.registry, &options.client)?),
            storage,
            sizes: Mutex::default(),
            fetches: Arc::default(),
            slots: Arc::new(Semaphore::new(FETCHES)),
        })
    }

    /// Sees to it that the manifest is here, if the upstream has it.
    pub(crate) async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<(), Fault> {
        let (client, storage) = (Arc::clone(&self.client), Arc::clone(&self.storage));
        let (owned, reference) = (name.clone(), reference.clone());
        let outline = blocking(move || match &reference {
            ManifestReference::Digest(digest) => by_digest(&client, &storage, &owned, digest),
            ManifestReference::Tag(tag) => by_tag(&client, &storage, &owned, tag),
        })
        .await?;
        if let Some(outline) = outline {
            self.remember(name, &outline);
        }
        Ok(())
    }

    fn remember(&self, name: &RepositoryName, outline: &Outline) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() > REMEMBERED {
            sizes.clear();
        }
        for digest in outline.all_blobs() {
            if let Some(size) = outline.size_of(digest) {
                sizes.insert((name.clone(), *digest), size);
            }
        }
    }

    /// The upstream's tags; `None` if it does not tell.
    pub(crate) async fn tags(&self, name: &RepositoryName) -> Option<Vec<String>> {
        let (client, name) = (Arc::clone(&self.client), name.clone());
        let asked = tokio::task::spawn_blocking(move || client.tags(name.as_str()).ok());
        let mut tags = asked.await.ok().flatten()?;
        tags.retain(|tag| crate::name::is_tag(tag));
        tags.sort();
        Some(tags)
    }

    /// The upstream's referrers of a manifest, sorted by digest; `None` if it does not tell.
    pub(crate) async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Option<Vec<(Digest, Value)>> {
        let (client, name, subject) = (Arc::clone(&self.client), name.clone(), *subject);
        let asked = tokio::task::spawn_blocking(move || {
            let found = client.referrers(name.as_str(), &subject, None).ok()?;
            let mut found: Vec<(Digest, Value)> = found
                .into_iter()
                .filter_map(|entry| Some((entry.digest, serde_json::to_value(entry).ok()?)))
                .collect();
            found.sort_by_key(|(digest, _)| *digest);
            Some(found)
        });
        asked.await.ok().flatten()
    }

    /// Finds a blob here or begins to fetch it. `only_described` is for who wants its size alone.
    pub(crate) async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        only_described: bool,
    ) -> Result<Source, Fault> {
        let (storage, owned, digest) = (Arc::clone(&self.storage), name.clone(), *digest);
        let known = {
            let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            sizes.get(&(name.clone(), digest)).copied()
        };
        let found = blocking(move || {
            if storage.use_blob(&owned, &digest).map_err(internal)? {
                return Ok(None);
            }
            let size = match known {
                Some(size) => size,
                None => described(&storage, &owned, &digest)
                    .map_err(internal)?
                    .ok_or_else(Fault::blob_unknown)?,
            };
            // Another repository has it already, and this one is meant to.
            let _keep = storage.keep().map_err(internal)?;
            if storage
                .store
                .has_blob(&digest)
                .map_err(|error| Fault::internal(&error))?
            {
                storage.link_blob(&owned, &digest).map_err(internal)?;
                return Ok(None);
            }
            Ok(Some(size))
        })
        .await?;
        let Some(size) = found else {
            return Ok(Source::Stored);
        };
        if only_described {
            return Ok(Source::Described(size));
        }
        let Some(fetch) = self.fetch(name, digest, size).await? else {
            return Ok(Source::Stored);
        };
        fetch.begun().await?;
        Ok(Source::Fetching(fetch))
    }

    /// The fetch of a blob that is under way, or a new one; `None` if the blob is here by now.
    async fn fetch(
        &self,
        name: &RepositoryName,
        digest: Digest,
        size: u64,
    ) -> Result<Option<Arc<Fetch>>, Fault> {
        let storage = Arc::clone(&self.storage);
        let under_way = |fetches: &Mutex<HashMap<Digest, Arc<Fetch>>>| {
            let fetches = fetches.lock().unwrap_or_else(PoisonError::into_inner);
            fetches.get(&digest).cloned()
        };
        if let Some(fetch) = under_way(&self.fetches) {
            return Ok(Some(fetch));
        }
        let (upload, reader) = blocking(move || {
            let upload = storage.start_fetch().map_err(internal)?;
            let reader = upload.reader().map_err(internal)?;
            Ok((upload, reader))
        })
        .await?;
        let (told, progress) = watch::channel(Progress::Written(0));
        let failure = Arc::new(OnceLock::new());
        let fetch = Arc::new(Fetch {
            size,
            file: Arc::new(reader),
            progress,
            failure: Arc::clone(&failure),
        });
        let claimed = {
            let (fetches, storage) = (Arc::clone(&self.fetches), Arc::clone(&self.storage));
            let (fetch, name) = (Arc::clone(&fetch), name.clone());
            blocking(move || claim(&fetches, &storage, &name, digest, fetch, upload)).await?
        };
        let upload = match claimed {
            Claimed::Ours(upload) => upload,
            Claimed::Theirs(fetch) => return Ok(Some(fetch)),
            Claimed::Stored => return Ok(None),
        };
        let transfer = Transfer {
            client: Arc::clone(&self.client),
            storage: Arc::clone(&self.storage),
            name: name.clone(),
            digest,
            size,
            upload,
            told,
        };
        let (fetches, slots) = (Arc::clone(&self.fetches), Arc::clone(&self.slots));
        // A task of its own: the client that asked first may go away, the others stay.
        tokio::spawn(async move {
            let permit = slots.acquire_owned().await;
            let run = tokio::task::spawn_blocking(move || transfer.run(&failure, &fetches));
            let _ = run.await;
            drop(permit);
        });
        Ok(Some(fetch))
    }
}

/// Who fetches a blob.
enum Claimed {
    Ours(UploadFile),
    Theirs(Arc<Fetch>),
    /// Nobody has to any more.
    Stored,
}

/// Decides who fetches. A fetch leaves the map only after its blob is in the store, so looking
/// there while the map is locked leaves no gap in which a blob would be fetched twice.
fn claim(
    fetches: &Mutex<HashMap<Digest, Arc<Fetch>>>,
    storage: &Storage,
    name: &RepositoryName,
    digest: Digest,
    fetch: Arc<Fetch>,
    upload: UploadFile,
) -> Result<Claimed, Fault> {
    let claimed = {
        let mut fetches = fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = fetches.get(&digest) {
            Claimed::Theirs(Arc::clone(first))
        } else if storage
            .store
            .has_blob(&digest)
            .map_err(|error| Fault::internal(&error))?
        {
            Claimed::Stored
        } else {
            fetches.insert(digest, fetch);
            return Ok(Claimed::Ours(upload));
        }
    };
    storage.cancel_upload(&upload).map_err(internal)?;
    if matches!(claimed, Claimed::Stored) {
        let _keep = storage.keep().map_err(internal)?;
        storage.link_blob(name, &digest).map_err(internal)?;
    }
    Ok(claimed)
}

/// What fetching a blob takes.
struct Transfer {
    client: Arc<Client>,
    storage: Arc<Storage>,
    name: RepositoryName,
    digest: Digest,
    size: u64,
    upload: UploadFile,
    told: watch::Sender<Progress>,
}

impl Transfer {
    fn run(mut self, failure: &OnceLock<Fault>, fetches: &Mutex<HashMap<Digest, Arc<Fetch>>>) {
        let result = self.receive();
        let failed = match result {
            Ok(()) => None,
            Err(fault) => {
                let _ = self.storage.cancel_upload(&self.upload);
                Some(fault)
            }
        };
        let ended = match failed {
            None => Progress::Verified,
            Some(fault) => {
                let _ = failure.set(fault);
                Progress::Failed
            }
        };
        // Out of the map before the end is told: who asks after it finds the blob, or tries anew.
        fetches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.digest);
        self.told.send_replace(ended);
    }

    fn receive(&mut self) -> Result<(), Fault> {
        let mut hasher = gantry_image::digest::Hasher::default();
        let mut reader = self
            .client
            .blob(self.name.as_str(), &self.digest, self.size)
            .map_err(|error| refused(&error, Fault::blob_unknown()))?;
        let mut buffer = vec![0; PIECE];
        loop {
            let count = reader
                .read_some(&mut buffer)
                .map_err(|error| refused(&error, Fault::blob_unknown()))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            self.upload.append(&buffer[..count]).map_err(internal)?;
            self.told
                .send_replace(Progress::Written(self.upload.length()));
        }
        drop(reader);
        let (length, actual) = (hasher.length(), hasher.finish());
        if length != self.size || actual != self.digest {
            let message = "the upstream registry sent other content than its digest says";
            let internal = format!(
                "{}@{} from {} has digest {actual} and {length} bytes",
                self.name,
                self.digest,
                self.client.registry()
            );
            return Err(Fault::upstream(message, internal));
        }
        self.storage
            .finish_upload(&self.name, &self.upload, &self.digest)
            .map_err(internal)
    }
}

fn internal(error: StorageError) -> Fault {
    Fault::internal(&error)
}

/// What the upstream's refusal means to our client. What it denies is as good as absent.
fn refused(error: &RegistryError, absent: Fault) -> Fault {
    match error {
        error if error.is_not_found() => absent,
        RegistryError::Denied { .. } => absent,
        error => Fault::upstream("the upstream registry failed", chain(error)),
    }
}

/// The size that a manifest of the repository states for the blob.
fn described(
    storage: &Storage,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Option<u64>, StorageError> {
    for (manifest, _) in storage.manifests(name)? {
        let Ok(bytes) = storage.store.read_blob(&manifest, LIMIT) else {
            continue;
        };
        let size = Outline::read(&bytes, None)
            .ok()
            .and_then(|outline| outline.size_of(digest));
        if size.is_some() {
            return Ok(size);
        }
    }
    Ok(None)
}

fn by_digest(
    client: &Client,
    storage: &Storage,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Outline>, Fault> {
    if storage.has_manifest(name, digest).map_err(internal)? {
        return Ok(None);
    }
    get(client, storage, name, ManifestName::Digest(digest), None).map(Some)
}

fn by_tag(
    client: &Client,
    storage: &Storage,
    name: &RepositoryName,
    tag: &str,
) -> Result<Option<Outline>, Fault> {
    let here = storage.tag(name, tag).map_err(internal)?;
    let head = match client.head_manifest(name.as_str(), ManifestName::Tag(tag)) {
        Ok(Some(head)) => head,
        Ok(None) => return Err(Fault::manifest_unknown()),
        Err(error) => {
            let fault = refused(&error, Fault::manifest_unknown());
            // An upstream that cannot be reached is what the cache is there for; one that says no
            // is obeyed.
            let stale = fault.internal.is_some() && here.is_some();
            return if stale { Ok(None) } else { Err(fault) };
        }
    };
    if let Some(digest) = head.digest
        && storage.has_manifest(name, &digest).map_err(internal)?
    {
        if here != Some(digest) {
            let _keep = storage.keep().map_err(internal)?;
            let _changing = storage.changing(name);
            storage.set_tag(name, tag, &digest).map_err(internal)?;
        }
        return Ok(None);
    }
    get(client, storage, name, ManifestName::Tag(tag), Some(tag)).map(Some)
}

fn get(
    client: &Client,
    storage: &Storage,
    name: &RepositoryName,
    wanted: ManifestName<'_>,
    tag: Option<&str>,
) -> Result<Outline, Fault> {
    let fetched = client
        .manifest(name.as_str(), wanted)
        .map_err(|error| refused(&error, Fault::manifest_unknown()))?;
    let outline =
        Outline::read(&fetched.bytes, fetched.content_type.as_deref()).map_err(|fault| {
            Fault::upstream("the upstream's manifest cannot be used", fault.message)
        })?;
    let _keep = storage.keep().map_err(internal)?;
    let _changing = storage.changing(name);
    write_manifest(
        storage,
        name,
        tag,
        &fetched.digest,
        &outline,
        &fetched.bytes,
    )
    .map_err(internal)?;
    Ok(outline)
}
