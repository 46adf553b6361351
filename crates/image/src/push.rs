//! Pushing an image: from the store to a repository of a registry.
//!
//! Blobs first, several at once, then manifests, an index's children before the index: what is
//! referred to is there before what refers to it, so that nobody ever pulls half an image. What
//! is pushed are the very bytes of the store, under their own digests. Nothing here knows about
//! tags beyond the one in the reference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::{Client, ClientOptions, ManifestName, RegistryError};
use crate::store::Store;

mod blobs;
mod error;
mod plan;

pub use error::PushError;

use plan::Plan;

/// Which manifests of an index are pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Platforms {
    /// All of them; it is an error if a blob of one is not in the store.
    #[default]
    All,
    /// Those whose blobs are all in the store. The index itself is pushed only if that is all of
    /// them, since a registry may refuse an index with entries that it does not have; otherwise
    /// there must be just one, which is pushed in its place.
    Present,
}

/// How to push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// How to talk to the registry.
    pub client: ClientOptions,
    /// Blobs that are pushed at the same time, at least one. 5 by default.
    pub parallel: usize,
    /// Repositories of the same registry that are known to have a blob, best first: the registry
    /// is asked to mount it from there (distribution specification, "Mounting a blob").
    pub mounts: BTreeMap<Digest, Vec<String>>,
    /// Which manifests of an index are pushed.
    pub platforms: Platforms,
    /// Blobs up to this many bytes go in one request; larger ones are streamed in an upload that
    /// can be resumed. 512 KiB by default: what is lost when this process dies is then little.
    pub monolithic: u64,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            parallel: 5,
            mounts: BTreeMap::new(),
            platforms: Platforms::default(),
            monolithic: 512 << 10,
        }
    }
}

/// What happens during a push. Layers are named by the digest of their blob; configs and
/// manifests are not reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// The registry is being asked.
    Resolving {
        /// The reference in its short form.
        reference: String,
    },
    /// Something that the user should know and that does not stop the push.
    Warning {
        /// The text.
        message: String,
    },
    /// The layer is to be pushed.
    Preparing {
        /// The layer.
        id: Digest,
        /// Its size in bytes.
        total: u64,
    },
    /// The registry took it from another of its repositories.
    Mounted {
        /// The layer.
        id: Digest,
        /// The repository.
        from: String,
    },
    /// The registry has it already.
    Exists {
        /// The layer.
        id: Digest,
    },
    /// Some of the layer has gone; at most every 100 ms.
    Progress {
        /// The layer.
        id: Digest,
        /// Bytes so far.
        uploaded: u64,
        /// Its size in bytes.
        total: u64,
    },
    /// The registry has acknowledged the layer.
    Pushed {
        /// The layer.
        id: Digest,
    },
    /// Everything is in the registry.
    Done {
        /// Digest of what was pushed: the index if it is one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

/// An image that is in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Bytes of blobs that were sent: neither mounted nor there already.
    pub sent: u64,
}

/// Pushes the manifest or index `target` of the store to the repository of `reference`, under its
/// tag, or by digest alone if it has none. `progress` is called from several threads.
///
/// # Errors
/// [`PushError`].
pub fn push(
    store: &Store,
    options: &PushOptions,
    reference: &Reference,
    target: &Digest,
    progress: &(dyn Fn(PushEvent) + Sync),
) -> Result<Pushed, PushError> {
    let familiar = reference.familiar();
    progress(PushEvent::Resolving {
        reference: familiar.clone(),
    });
    let plan = Plan::make(store, options.platforms, &familiar, target)?;
    let root = plan.root();
    if let Some(digest) = reference.digest()
        && *digest != root.digest
    {
        return Err(PushError::OtherDigest {
            reference: familiar,
            target: root.digest,
        });
    }
    let failed = |source| PushError::Registry {
        reference: familiar.clone(),
        source: Box::new(source),
    };
    let client = Client::new(reference.registry(), &options.client).map_err(failed)?;
    let push = Push {
        store,
        options,
        client: &client,
        reference,
        familiar: familiar.clone(),
        progress,
        sent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let known = push.known_manifests(&plan)?;
    if let Some(error) = client.unused_credentials() {
        progress(PushEvent::Warning {
            message: format!("pushing without credentials: {}", crate::pull::chain(error)),
        });
    }
    push.blobs(&plan, &known)?;
    match push.manifests(&plan, &known) {
        // A registry may keep manifests whose blobs it has lost.
        Err(PushError::Registry { source, .. })
            if !known.is_empty()
                && matches!(
                    *source,
                    RegistryError::NotFound { .. } | RegistryError::Status { status: 400, .. }
                ) =>
        {
            let none = BTreeSet::new();
            push.blobs(&plan, &none)?;
            push.manifests(&plan, &none)?;
        }
        other => other?,
    }
    let pushed = Pushed {
        digest: root.digest,
        size: root.bytes.len() as u64,
        media_type: root.media_type.clone(),
        sent: push.sent.into_inner(),
    };
    progress(PushEvent::Done {
        digest: pushed.digest,
        size: pushed.size,
    });
    Ok(pushed)
}

/// What all steps of one push need.
struct Push<'a> {
    store: &'a Store,
    options: &'a PushOptions,
    client: &'a Client,
    reference: &'a Reference,
    familiar: String,
    progress: &'a (dyn Fn(PushEvent) + Sync),
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Push<'_> {
    fn failed(&self, source: RegistryError) -> PushError {
        PushError::Registry {
            reference: self.familiar.clone(),
            source: Box::new(source),
        }
    }

    /// Manifests that the registry has, and with them their blobs.
    fn known_manifests(&self, plan: &Plan) -> Result<BTreeSet<Digest>, PushError> {
        let repository = self.reference.repository();
        let mut known = BTreeSet::new();
        // From the root down: who has an index has all of it.
        for document in plan.documents.iter().rev() {
            let covered = known.contains(&plan.root().digest);
            let there = covered
                || self
                    .client
                    .head_pushed(repository, ManifestName::Digest(&document.digest))
                    .map_err(|source| self.failed(source))?
                    .is_some();
            if there {
                known.insert(document.digest);
            }
        }
        Ok(known)
    }

    /// Puts the manifests, what others refer to first, the root last and under its tag.
    fn manifests(&self, plan: &Plan, known: &BTreeSet<Digest>) -> Result<(), PushError> {
        let repository = self.reference.repository();
        let root = plan.root();
        for document in &plan.documents {
            let is_root = document.digest == root.digest;
            let tag = self.reference.tag().filter(|_| is_root);
            let name = match tag {
                Some(tag) => ManifestName::Tag(tag),
                None => ManifestName::Digest(&document.digest),
            };
            if known.contains(&document.digest) {
                let same = match tag {
                    None => true,
                    Some(_) => self
                        .client
                        .head_pushed(repository, name)
                        .map_err(|source| self.failed(source))?
                        .is_some_and(|head| head.digest == Some(document.digest)),
                };
                if same {
                    continue;
                }
            }
            self.client
                .put_manifest(repository, name, &document.media_type, &document.bytes)
                .map_err(|source| self.failed(source))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
