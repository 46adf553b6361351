//! Taking names away, and images with their last name; pruning.

use std::collections::BTreeSet;

use gantry_image::digest::{Digest, Hasher};
use gantry_image::model::ImageConfig;
use gantry_image::reference::Reference;

use super::{ImageError, ImageSummary, familiar_repository, short};
use crate::Engine;
use crate::error::Error;
use crate::store::{ImageRow, NewImages, TagRow};

/// One step of a removal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Removal {
    /// A name was taken away.
    Untagged(String),
    /// An image or a layer of it was deleted.
    Deleted(String),
}

/// One name of an image: by tag, or by digest.
struct Name {
    row: TagRow,
    by_digest: bool,
}

impl Name {
    fn familiar(&self) -> String {
        let repository = familiar_repository(&self.row.repository);
        if self.by_digest {
            format!("{repository}@{}", self.row.digest)
        } else {
            format!("{repository}:{}", self.row.tag)
        }
    }
}

impl Engine {
    /// Takes a name of an image away, and the image itself with its last name.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], and [`ImageError`] where a container or another name keeps it.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removal>, Error> {
        let removals = self.remove_image_rows(name, force)?;
        if removals
            .iter()
            .any(|removal| matches!(removal, Removal::Deleted(_)))
        {
            self.remove_unused_content()?;
        }
        Ok(removals)
    }

    fn remove_image_rows(&self, given: &str, force: bool) -> Result<Vec<Removal>, Error> {
        let row = self
            .find_image_here(given)?
            .ok_or_else(|| Error::NoSuchImage { name: given.into() })?;
        let names = self.names_of(&row.id)?;
        let users = self.store()?.image_users(&row.id)?;
        let mut removals = Vec::new();
        let chosen = names.iter().find(|name| means(name, given));
        match chosen {
            Some(chosen) => {
                if !force
                    && is_single(&names)
                    && let Some(user) = users.first()
                {
                    return Err(ImageError::NameInUse {
                        name: given.into(),
                        container: short(user).into(),
                        id: short(&row.id).into(),
                    }
                    .into());
                }
                self.untag(chosen, &mut removals)?;
                let repository = &chosen.row.repository;
                let mut left = self.names_of(&row.id)?;
                // Digests of a repository go with its last tag.
                if !chosen.by_digest
                    && !left
                        .iter()
                        .any(|name| !name.by_digest && name.row.repository == *repository)
                {
                    for name in left
                        .iter()
                        .filter(|name| name.row.repository == *repository)
                    {
                        self.untag(name, &mut removals)?;
                    }
                    left = self.names_of(&row.id)?;
                }
                if !left.is_empty() {
                    return Ok(removals);
                }
                // Its last name is gone, and with force it stays for whom it serves.
                if !users.is_empty() {
                    return Ok(removals);
                }
            }
            None => {
                self.check_removal_by_id(given, &row, &names, &users, force)?;
                for name in &names {
                    self.untag(name, &mut removals)?;
                }
                if !users.is_empty() {
                    return Ok(removals);
                }
            }
        }
        self.delete(&row, &mut removals)?;
        Ok(removals)
    }

    fn check_removal_by_id(
        &self,
        given: &str,
        row: &ImageRow,
        names: &[Name],
        users: &[String],
        force: bool,
    ) -> Result<(), Error> {
        let id = || given.strip_prefix("sha256:").unwrap_or(given);
        let shown: String = if id().len() > 12 {
            short(&row.id).into()
        } else {
            id().into()
        };
        if let Some(container) = users.iter().find(|user| self.is_running(user)) {
            return Err(ImageError::UsedByRunning {
                id: shown,
                container: short(container).into(),
            }
            .into());
        }
        if force {
            return Ok(());
        }
        if !is_single(names) {
            return Err(ImageError::SeveralNames { id: shown }.into());
        }
        match users.first() {
            Some(container) => Err(ImageError::UsedByStopped {
                id: shown,
                container: short(container).into(),
            }
            .into()),
            None => Ok(()),
        }
    }

    /// Names of an image, tags first.
    fn names_of(&self, id: &str) -> Result<Vec<Name>, Error> {
        let tags = self.store()?.tags()?;
        let rows: Vec<TagRow> = tags.into_iter().filter(|tag| tag.image_id == id).collect();
        let tags = rows.iter().filter(|row| !row.tag.is_empty());
        let mut names: Vec<Name> = tags
            .map(|row| Name {
                row: row.clone(),
                by_digest: false,
            })
            .collect();
        let mut seen = BTreeSet::new();
        for row in rows.iter().filter(|row| !row.digest.is_empty()) {
            if seen.insert((row.repository.clone(), row.digest.clone())) {
                names.push(Name {
                    row: row.clone(),
                    by_digest: true,
                });
            }
        }
        Ok(names)
    }

    fn untag(&self, name: &Name, removals: &mut Vec<Removal>) -> Result<(), Error> {
        let mut store = self.store()?;
        if !name.by_digest {
            store.remove_tag(&name.row)?;
            if !name.row.digest.is_empty() {
                store.keep_digest(&name.row)?;
            }
        } else {
            for row in store.tags()? {
                let same = row.repository == name.row.repository
                    && row.digest == name.row.digest
                    && row.image_id == name.row.image_id;
                if !same {
                    continue;
                }
                if row.tag.is_empty() {
                    store.remove_tag(&row)?;
                } else {
                    let plain = TagRow {
                        digest: String::new(),
                        ..row
                    };
                    store.put_images(&NewImages {
                        tags: &[plain],
                        ..NewImages::default()
                    })?;
                }
            }
        }
        removals.push(Removal::Untagged(name.familiar()));
        Ok(())
    }

    /// Takes an image without names off record, and the other images of its index that nothing
    /// names or uses.
    fn delete(&self, row: &ImageRow, removals: &mut Vec<Removal>) -> Result<(), Error> {
        let (variants, facts) = {
            let store = self.store()?;
            (store.variants()?, store.tag_facts()?)
        };
        let mut going = vec![row.clone()];
        let targets: BTreeSet<&String> = variants
            .iter()
            .filter(|(_, image)| *image == row.id)
            .map(|(target, _)| target)
            .collect();
        for (target, image) in &variants {
            let named = facts.iter().any(|fact| fact.target == *target);
            if *image == row.id || !targets.contains(target) || named {
                continue;
            }
            let tagged = self.names_of(image)?.iter().any(|name| !name.by_digest);
            if let (false, Some(other)) = (tagged, self.store()?.image(image)?) {
                going.push(other);
            }
        }
        for row in going {
            let removed = self.store()?.remove_image(&row.id)?;
            if !removed {
                continue;
            }
            removals.push(Removal::Deleted(row.id.clone()));
            removals.extend(self.chains_only_of(&row)?.into_iter().map(Removal::Deleted));
        }
        Ok(())
    }

    /// Chain ids of the layers that no other image begins with, the topmost first.
    fn chains_only_of(&self, row: &ImageRow) -> Result<Vec<String>, Error> {
        let chains = |row: &ImageRow| {
            ImageConfig::parse(&row.config)
                .map(|config| chain_ids(&config.rootfs.diff_ids))
                .unwrap_or_default()
        };
        let others: BTreeSet<Digest> = self.store()?.images()?.iter().flat_map(chains).collect();
        Ok(chains(row)
            .into_iter()
            .rev()
            .filter(|chain| !others.contains(chain))
            .map(|chain| chain.to_string())
            .collect())
    }

    /// Removes images that no container uses: those without a tag, or `all` of them. What
    /// `filter` refuses stays. Returns the bytes freed.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Content`].
    pub fn prune_images(
        &self,
        all: bool,
        filter: &dyn Fn(&ImageSummary) -> bool,
    ) -> Result<(Vec<Removal>, u64), Error> {
        let mut removals = Vec::new();
        for summary in self.images()? {
            let kept = summary.containers > 0
                || (!all && (!summary.tags.is_empty() || summary.variant))
                || !filter(&summary);
            if kept {
                continue;
            }
            let names = self.names_of(&summary.id)?;
            for name in &names {
                self.untag(name, &mut removals)?;
            }
            // Not within the condition: the store would stay borrowed in the body.
            let row = self.store()?.image(&summary.id)?;
            if let Some(row) = row {
                self.delete(&row, &mut removals)?;
            }
        }
        let freed = self.remove_unused_content()?;
        Ok((removals, freed))
    }
}

/// Whether a name that the user gave means this one.
fn means(name: &Name, given: &str) -> bool {
    let Ok(reference) = Reference::parse(given) else {
        return false;
    };
    let digest = reference.digest().map(Digest::to_string);
    let reference = reference.with_default_tag();
    if reference.name() != name.row.repository {
        return false;
    }
    match digest {
        Some(digest) => name.by_digest && digest == name.row.digest,
        None => !name.by_digest && reference.tag().unwrap_or_default() == name.row.tag,
    }
}

/// Whether all names of an image are one tag and digests of its repository.
fn is_single(names: &[Name]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let mut tags = names.iter().filter(|name| !name.by_digest);
    let first = tags.next().or(names.first());
    tags.next().is_none()
        && first.is_some_and(|first| {
            names
                .iter()
                .all(|name| name.row.repository == first.row.repository)
        })
}

/// Chain ids (config.md, "Layer ChainID"), bottom first.
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let chain = match chains.last() {
            None => *diff_id,
            Some(below) => {
                let mut hasher = Hasher::default();
                hasher.update(format!("{below} {diff_id}").as_bytes());
                hasher.finish()
            }
        };
        chains.push(chain);
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(repository: &str, tag: &str, digest: &str) -> Name {
        Name {
            row: TagRow {
                repository: repository.into(),
                tag: tag.into(),
                digest: digest.into(),
                image_id: String::new(),
            },
            by_digest: tag.is_empty(),
        }
    }

    #[test]
    fn single_references() {
        for (names, single) in [
            (vec![], true),
            (vec![name("a", "1", "")], true),
            (vec![name("a", "1", ""), name("a", "2", "")], false),
            (vec![name("a", "1", ""), name("a", "", "d")], true),
            (vec![name("a", "1", ""), name("b", "", "d")], false),
            (vec![name("a", "1", ""), name("b", "1", "")], false),
        ] {
            let shown: Vec<String> = names.iter().map(Name::familiar).collect();
            assert_eq!(is_single(&names), single, "{shown:?}");
        }
    }

    #[test]
    fn chains() {
        let one = Digest::of(b"1");
        let two = Digest::of(b"2");
        assert_eq!(chain_ids(&[one])[0], one);
        assert_eq!(
            chain_ids(&[one, two])[1],
            Digest::of(format!("{one} {two}").as_bytes())
        );
    }
}
