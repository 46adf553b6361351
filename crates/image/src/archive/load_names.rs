//! Which image of an archive has which name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contents, Found, LoadError};
use crate::archive::layout::{ArchivedImage, tagged};
use crate::archive::spool::Spool;
use crate::digest::Digest;
use crate::model::Platform;
use crate::reference::Reference;

/// A name stands, and a name that it has lost stood, for one image of an index: the host's, or the
/// first.
pub(super) fn name_one_of_each(images: &mut [Found]) {
    let host = Platform::host();
    let mut best: BTreeMap<(Reference, Digest), (usize, u32)> = BTreeMap::new();
    for (index, found) in images.iter().enumerate() {
        let distance = host
            .distance(&found.config.platform())
            .unwrap_or(u32::MAX - 1);
        for name in found.names.iter().chain(&found.renamed) {
            let key = (name.clone(), found.target);
            let held = best.entry(key).or_insert((index, u32::MAX));
            if distance < held.1 {
                *held = (index, distance);
            }
        }
    }
    for (index, found) in images.iter_mut().enumerate() {
        let target = found.target;
        let is_held = |name: &Reference| {
            best.get(&(name.clone(), target))
                .is_some_and(|(held, _)| *held == index)
        };
        found.names.retain(is_held);
        found.renamed.retain(is_held);
    }
}

/// Of several images that one list gives the same name the last one has it, as with Docker, which
/// loads one after the other.
pub(super) fn name_the_last(contents: &mut Contents) {
    for found in &mut contents.images {
        let target = found.target;
        let is_last = |name: &Reference| contents.last.get(name) == Some(&target);
        let lost = found.names.iter().filter(|name| !is_last(name)).cloned();
        let lost: BTreeSet<Reference> = lost.collect();
        found.names.retain(is_last);
        found.renamed.extend(lost);
    }
}

/// `manifest.json` may give the images of `index.json` more names, and nothing else: a name that
/// stands for one image in the one and for another in the other is what readers of the two would
/// disagree about (CVE-2021-41190).
pub(super) fn agree(
    spool: &Spool,
    archived: &[ArchivedImage],
    contents: &mut Contents,
) -> Result<(), LoadError> {
    let mut holders: BTreeMap<Reference, BTreeSet<Digest>> = BTreeMap::new();
    for found in &contents.images {
        for name in &found.names {
            let config = found.manifest.config.digest;
            holders.entry(name.clone()).or_default().insert(config);
        }
    }
    let mut listed = Vec::new();
    let mut last: BTreeMap<Reference, Digest> = BTreeMap::new();
    for image in archived {
        let digest = spool
            .find(&image.config)
            .ok_or_else(|| LoadError::Missing {
                name: image.config.clone(),
            })?
            .digest();
        let names = image.repo_tags.iter().flatten();
        let names: Vec<Reference> = names.filter_map(|name| tagged(name)).collect();
        last.extend(names.iter().map(|name| (name.clone(), digest)));
        listed.push((digest, names));
    }
    for (digest, names) in listed {
        let known = contents
            .images
            .iter_mut()
            .find(|known| known.manifest.config.digest == digest);
        let Some(known) = known else {
            return Err(LoadError::Ambiguous {
                reason: format!("manifest.json names image {digest}, which index.json does not"),
            });
        };
        for name in names {
            if last.get(&name) != Some(&digest) {
                known.renamed.insert(name);
                continue;
            }
            match holders.get(&name) {
                None => drop(known.names.insert(name)),
                Some(configs) if configs.contains(&digest) => {}
                Some(_) => {
                    return Err(LoadError::Ambiguous {
                        reason: format!(
                            "{} is one image in index.json and another in manifest.json",
                            name.familiar()
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}
