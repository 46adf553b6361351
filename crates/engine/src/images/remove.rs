//! Taking names away, and images with their last name; pruning.

use std::collections::BTreeSet;

use gantry_image::digest::{Digest, Hasher};
use gantry_image::model::{ImageConfig, Platform};
use gantry_image::reference::Reference;

use super::find::{fits, other_platform};
use super::{ImageError, ImageSummary, familiar_repository, parse_platform, short};
use crate::Engine;
use crate::error::Error;
use crate::store::{Bonds, ImageRow, TagRow};

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

/// What a removal leaves of an image's names, and what it says of the others.
struct Plan {
    left: Vec<TagRow>,
    untagged: Vec<String>,
}

impl Plan {
    fn new(known: &Bonds) -> Plan {
        Plan {
            left: known.tags.clone(),
            untagged: Vec::new(),
        }
    }

    /// Takes one name away. The digest stays when a tag goes, and a tag when its digest goes.
    fn untag(&mut self, name: &Name) {
        let mut left: Vec<TagRow> = Vec::new();
        for mut row in std::mem::take(&mut self.left) {
            let same = row.repository == name.row.repository && row.digest == name.row.digest;
            if name.by_digest && same {
                row.digest.clear();
            } else if !name.by_digest && same && row.tag == name.row.tag {
                row.tag.clear();
            }
            let names_something = !row.tag.is_empty() || !row.digest.is_empty();
            if names_something && !left.contains(&row) {
                left.push(row);
            }
        }
        self.left = left;
        self.untagged.push(name.familiar());
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

    /// Takes the images for `platforms` out of what a name stands for, and the name with the
    /// last of them.
    ///
    /// # Errors
    /// As [`Engine::remove_image`], and [`ImageError::OtherPlatform`] before anything is removed.
    pub fn remove_image_platforms(
        &self,
        given: &str,
        platforms: &[String],
        force: bool,
    ) -> Result<Vec<Removal>, Error> {
        let row = self
            .find_image_here(given)?
            .ok_or_else(|| Error::NoSuchImage { name: given.into() })?;
        let target = match self.tag_of(given)? {
            Some(tag) => self.target_of(&tag)?,
            None => row.manifest.clone(),
        };
        let here = self.images_behind(given, &row)?;
        let mut chosen: Vec<&ImageRow> = Vec::new();
        for text in platforms {
            let wanted = parse_platform(text)?;
            let fitting = here
                .iter()
                .filter_map(|image| Some((fits(image, &wanted)?, image)));
            let best = fitting.min_by_key(|(distance, _)| *distance);
            let (_, best) = best.ok_or_else(|| other_platform(given, text, &here))?;
            if !chosen.iter().any(|image| image.id == best.id) {
                chosen.push(best);
            }
        }
        let is_chosen = |image: &&ImageRow| chosen.iter().any(|other| other.id == image.id);
        let host = Platform::host();
        let heir = here
            .iter()
            .filter(|image| !is_chosen(image))
            .min_by_key(|image| fits(image, &host).unwrap_or(u32::MAX));
        let Some(heir) = heir else {
            return self.remove_image(given, force);
        };
        // All of them or none, as far as can be told beforehand.
        for image in &chosen {
            let known = self.store()?.image_bonds(&image.id)?;
            self.check_users(image, &known, force)?;
        }
        let mut removals = Vec::new();
        for image in chosen {
            self.leave_index(&target, image, &heir.id, force, &mut removals)?;
        }
        if !removals.is_empty() {
            self.remove_unused_content()?;
        }
        Ok(removals)
    }

    /// Refuses what containers use: those that run always, others unless forced.
    fn check_users(&self, image: &ImageRow, known: &Bonds, force: bool) -> Result<(), Error> {
        let id = || short(&image.id).into();
        let running = known.users.iter().find(|user| self.is_running(user));
        let error = match (running, known.users.first()) {
            (Some(container), _) => ImageError::UsedByRunning {
                id: id(),
                container: short(container).into(),
            },
            (None, Some(container)) if !force => ImageError::UsedByStopped {
                id: id(),
                container: short(container).into(),
            },
            _ => return Ok(()),
        };
        Err(error.into())
    }

    /// Takes one image out of an index; what had its name has the heir then.
    fn leave_index(
        &self,
        target: &str,
        image: &ImageRow,
        heir: &str,
        force: bool,
        removals: &mut Vec<Removal>,
    ) -> Result<(), Error> {
        loop {
            let known = self.store()?.image_bonds(&image.id)?;
            self.check_users(image, &known, force)?;
            let left = self.store()?.leave_index(target, &image.id, heir, &known)?;
            match left {
                Some(true) => return self.note_deleted(image, removals),
                Some(false) => return Ok(()),
                // Somebody has named it, or uses it, since it was looked at.
                None => {}
            }
        }
    }

    fn remove_image_rows(&self, given: &str, force: bool) -> Result<Vec<Removal>, Error> {
        loop {
            let row = self
                .find_image_here(given)?
                .ok_or_else(|| Error::NoSuchImage { name: given.into() })?;
            let known = self.store()?.image_bonds(&row.id)?;
            let plan = self.plan_removal(given, &row, &known, force)?;
            if let Some(removals) = self.carry_out(&row, &known, plan)? {
                return Ok(removals);
            }
            // Somebody has named it, or uses it, since it was looked at: the same rules for that.
        }
    }

    /// What a removal of `given` takes away, by what is known.
    fn plan_removal(
        &self,
        given: &str,
        row: &ImageRow,
        known: &Bonds,
        force: bool,
    ) -> Result<Plan, Error> {
        let names = names_of(&known.tags);
        let mut plan = Plan::new(known);
        let Some(chosen) = names.iter().find(|name| means(name, given)) else {
            self.check_removal_by_id(given, row, &names, &known.users, force)?;
            for name in &names {
                plan.untag(name);
            }
            return Ok(plan);
        };
        if !force
            && is_single(&names)
            && let Some(user) = known.users.first()
        {
            return Err(ImageError::NameInUse {
                name: given.into(),
                container: short(user).into(),
                id: short(&row.id).into(),
            }
            .into());
        }
        plan.untag(chosen);
        let repository = &chosen.row.repository;
        let mut of_repository = names_of(&plan.left);
        of_repository.retain(|name| name.row.repository == *repository);
        // Digests of a repository go with its last tag.
        if !chosen.by_digest && of_repository.iter().all(|name| name.by_digest) {
            for name in &of_repository {
                plan.untag(name);
            }
        }
        Ok(plan)
    }

    /// Takes the names away, and the image with the last one unless containers use it: with
    /// force its names go, and it stays for whom it serves. Nothing is done and returned if what
    /// is `known` is no longer so.
    fn carry_out(
        &self,
        row: &ImageRow,
        known: &Bonds,
        plan: Plan,
    ) -> Result<Option<Vec<Removal>>, Error> {
        let remove = plan.left.is_empty() && known.users.is_empty();
        // They are no longer known as such once it is gone.
        let siblings = if remove {
            self.siblings(&row.id)?
        } else {
            Vec::new()
        };
        if !self.store()?.loosen(&row.id, known, &plan.left, remove)? {
            return Ok(None);
        }
        let mut removals: Vec<Removal> = plan.untagged.into_iter().map(Removal::Untagged).collect();
        if remove {
            self.note_deleted(row, &mut removals)?;
            self.remove_siblings(siblings, &mut removals)?;
        }
        Ok(Some(removals))
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

    fn note_deleted(&self, row: &ImageRow, removals: &mut Vec<Removal>) -> Result<(), Error> {
        removals.push(Removal::Deleted(row.id.clone()));
        removals.extend(self.chains_only_of(row)?.into_iter().map(Removal::Deleted));
        Ok(())
    }

    /// Images that came with this one in an index.
    fn siblings(&self, id: &str) -> Result<Vec<(String, ImageRow)>, Error> {
        let variants = self.store()?.variants()?;
        let targets: BTreeSet<&String> = variants
            .iter()
            .filter(|(_, image)| image == id)
            .map(|(target, _)| target)
            .collect();
        let mut siblings = Vec::new();
        for (target, image) in &variants {
            if image != id
                && targets.contains(target)
                && let Some(row) = { self.store()?.image(image)? }
            {
                siblings.push((target.clone(), row));
            }
        }
        Ok(siblings)
    }

    /// Takes images of an index off record that went by the name of one that is gone, if nothing
    /// names or uses them.
    fn remove_siblings(
        &self,
        siblings: Vec<(String, ImageRow)>,
        removals: &mut Vec<Removal>,
    ) -> Result<(), Error> {
        for (target, row) in siblings {
            let named = self
                .store()?
                .tag_facts()?
                .iter()
                .any(|fact| fact.target == target);
            let known = self.store()?.image_bonds(&row.id)?;
            let tagged = known.tags.iter().any(|tag| !tag.tag.is_empty());
            if named || tagged || !known.users.is_empty() {
                continue;
            }
            if self.store()?.loosen(&row.id, &known, &[], true)? {
                self.note_deleted(&row, removals)?;
            }
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
            // Not within the condition: the store would stay borrowed in the body.
            let row = self.store()?.image(&summary.id)?;
            let Some(row) = row else { continue };
            let known = self.store()?.image_bonds(&row.id)?;
            let tagged = known.tags.iter().any(|tag| !tag.tag.is_empty());
            // What has changed since the list was made.
            if !known.users.is_empty() || (!all && tagged) {
                continue;
            }
            let mut plan = Plan::new(&known);
            for name in names_of(&known.tags) {
                plan.untag(&name);
            }
            // Otherwise it has just got a name or a user, and stays.
            if let Some(removed) = self.carry_out(&row, &known, plan)? {
                removals.extend(removed);
            }
        }
        let freed = self.remove_unused_content()?;
        Ok((removals, freed))
    }
}

/// Names that rows of one image give it, tags first.
fn names_of(rows: &[TagRow]) -> Vec<Name> {
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
    names
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
    fn a_tag_leaves_its_digest_and_a_digest_its_tag() {
        let row = |tag: &str, digest: &str| name("r", tag, digest).row;
        for (rows, chosen, left) in [
            (vec![row("1", "")], 0, vec![]),
            (vec![row("1", "d")], 0, vec![row("", "d")]),
            (vec![row("1", "d")], 1, vec![row("1", "")]),
            (vec![row("", "d"), row("1", "d")], 0, vec![row("", "d")]),
            (vec![row("", "d"), row("1", "d")], 1, vec![row("1", "")]),
            (
                vec![row("1", "d"), row("2", "e")],
                1,
                vec![row("1", "d"), row("", "e")],
            ),
        ] {
            let known = Bonds {
                tags: rows,
                users: Vec::new(),
            };
            let mut plan = Plan::new(&known);
            plan.untag(&names_of(&known.tags)[chosen]);
            assert_eq!(plan.left, left, "{:?} {chosen}", known.tags);
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
