//! Images and their names.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Durability, ImageRow, Store, TagRow};
use crate::error::Error;

/// Tables that came after the first release. Older programs do not know them and lose nothing:
/// what they hold is in addition to the first tables.
const ADDITIONS: &str = "
CREATE TABLE IF NOT EXISTS tag_facts (
    repository TEXT NOT NULL, tag TEXT NOT NULL, target TEXT NOT NULL, tagged_at INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS variants (
    target TEXT NOT NULL, image_id TEXT NOT NULL, PRIMARY KEY (target, image_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS variant_images ON variants (image_id);
CREATE TABLE IF NOT EXISTS blob_sources (
    blob TEXT NOT NULL, repository TEXT NOT NULL, PRIMARY KEY (blob, repository)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made_manifests (
    digest TEXT PRIMARY KEY, pushed TEXT NOT NULL
) WITHOUT ROWID;
";

/// What a tag stands for, besides the image that is used under its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagFact {
    /// Registry and repository, canonical.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Digest of the manifest or index.
    pub target: String,
    /// When it was given, in nanoseconds since 1970.
    pub tagged_at: i64,
}

/// What keeps an image: its names and the containers that use it, each sorted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bonds {
    /// Its names.
    pub tags: Vec<TagRow>,
    /// Ids of the containers.
    pub users: Vec<String>,
}

/// Images and names that go on record at once.
#[derive(Clone, Debug, Default)]
pub struct NewImages<'a> {
    /// The images.
    pub images: &'a [ImageRow],
    /// Names of images that are among them or on record.
    pub tags: &'a [TagRow],
    /// What the tags stand for.
    pub facts: &'a [TagFact],
    /// Images of an index, as `(digest of the index, id of the image)`.
    pub variants: &'a [(String, String)],
    /// Repositories that have a blob, as `(digest, registry and repository)`.
    pub sources: &'a [(String, String)],
    /// Manifests that were written here and nowhere published, as `(digest, digest of the one
    /// with compressed layers or nothing)`.
    pub made: &'a [(String, String)],
}

impl Store {
    /// Puts images and names on record.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn put_images(&mut self, new: &NewImages<'_>) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            match put(transaction, new).map_err(fail)? {
                None => Ok(()),
                Some(name) => Err(Error::NoSuchImage { name }),
            }
        })
    }

    /// Notes the digest under which a pushed name can be pulled, unless the name has gone to
    /// another image or away since `tag` was read; and who has the blobs, in any case.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn note_push(
        &mut self,
        tag: &TagRow,
        digest: &str,
        sources: &[(String, String)],
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        let note = if tag.tag.is_empty() {
            // A name by digest stays what it is; the new digest is a further one.
            "INSERT OR IGNORE INTO tags SELECT repository, tag, ?1, image_id FROM tags \
             WHERE repository = ?2 AND tag = ?3 AND image_id = ?4 LIMIT 1"
        } else {
            "UPDATE tags SET digest = ?1 WHERE repository = ?2 AND tag = ?3 AND image_id = ?4"
        };
        self.write(Durability::Full, |transaction| {
            transaction
                .execute(note, params![digest, tag.repository, tag.tag, tag.image_id])
                .map_err(fail)?;
            let new = NewImages {
                sources,
                ..NewImages::default()
            };
            put(transaction, &new).map_err(fail)?;
            Ok(())
        })
    }

    /// Names and users of an image, as one transaction sees them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn image_bonds(&mut self, id: &str) -> Result<Bonds, Error> {
        let path = self.path.clone();
        self.connection
            .transaction()
            .and_then(|transaction| bonds(&transaction, id))
            .map_err(|source| Error::Store { path, source })
    }

    /// Leaves an image with the names `left` only, and takes it off record if `remove` says so.
    /// False, and nothing is changed, unless its names and users are still the `known` ones:
    /// what was decided by them must be decided again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn loosen(
        &mut self,
        id: &str,
        known: &Bonds,
        left: &[TagRow],
        remove: bool,
    ) -> Result<bool, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            loosen(transaction, id, known, left, remove).map_err(fail)
        })
    }

    /// Takes an image out of those that the index `target` stands for. Its names that mean the
    /// index go to `heir`, another image of it; the image goes off record unless it has further
    /// names or a container uses it. Returns whether it did; nothing, and nothing is changed,
    /// unless its names and users are still the `known` ones.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] if there is no such heir, [`Error::Store`].
    pub fn leave_index(
        &mut self,
        target: &str,
        id: &str,
        heir: &str,
        known: &Bonds,
    ) -> Result<Option<bool>, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            let is_here = has_image(transaction, id).map_err(fail)?;
            if !is_here || bonds(transaction, id).map_err(fail)? != *known {
                return Ok(None);
            }
            if !has_image(transaction, heir).map_err(fail)? {
                return Err(Error::NoSuchImage { name: heir.into() });
            }
            leave_index(transaction, target, id, heir)
                .map(Some)
                .map_err(fail)
        })
    }

    /// What tags stand for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn tag_facts(&self) -> Result<Vec<TagFact>, Error> {
        self.added(
            "SELECT repository, tag, target, tagged_at FROM tag_facts",
            [],
            |row| {
                Ok(TagFact {
                    repository: row.get(0)?,
                    tag: row.get(1)?,
                    target: row.get(2)?,
                    tagged_at: row.get(3)?,
                })
            },
        )
    }

    /// Every image that was chosen from an index, as `(digest of the index, id of the image)`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn variants(&self) -> Result<Vec<(String, String)>, Error> {
        self.added("SELECT target, image_id FROM variants", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// Images of one index that are here.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn variants_of(&self, target: &str) -> Result<Vec<ImageRow>, Error> {
        self.added(
            "SELECT i.id, i.config, i.manifest, i.size FROM variants v \
             JOIN images i ON i.id = v.image_id WHERE v.target = ?1",
            [target],
            image_row,
        )
    }

    /// Repositories that have a blob.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn blob_sources(&self, blob: &str) -> Result<Vec<String>, Error> {
        self.added(
            "SELECT repository FROM blob_sources WHERE blob = ?1",
            [blob],
            |row| row.get(0),
        )
    }

    /// The manifest with compressed layers that stands for one that was written here, empty if
    /// none was made yet; nothing for a manifest that came from elsewhere.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn made_manifest(&self, digest: &str) -> Result<Option<String>, Error> {
        Ok(self
            .added(
                "SELECT pushed FROM made_manifests WHERE digest = ?1",
                [digest],
                |row| row.get(0),
            )?
            .pop())
    }

    /// Manifests with compressed layers that stand for others.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn made_manifests(&self) -> Result<Vec<(String, String)>, Error> {
        self.added("SELECT digest, pushed FROM made_manifests", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// Rows of a table that a store of the first release lacks until something is written.
    fn added<T, P: rusqlite::Params>(
        &self,
        query: &str,
        parameters: P,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        match self.all(query, parameters, read) {
            Err(Error::Store { source, .. }) if is_missing_table(&source) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The image that a repository and a tag or digest name.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn find_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &str,
    ) -> Result<Option<TagRow>, Error> {
        let query = "SELECT repository, tag, digest, image_id FROM tags \
            WHERE repository = ?1 AND (?2 = '' OR tag = ?2) AND (?3 = '' OR digest = ?3) LIMIT 1";
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| {
                statement
                    .query_row([repository, tag, digest], tag_row)
                    .optional()
            })
            .map_err(|source| self.fail(source))
    }

    /// One image.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn image(&self, id: &str) -> Result<Option<ImageRow>, Error> {
        self.connection
            .query_row(
                "SELECT id, config, manifest, size FROM images WHERE id = ?1",
                [id],
                image_row,
            )
            .optional()
            .map_err(|source| self.fail(source))
    }

    /// Images whose id begins with `prefix` (with `sha256:`); at most two.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn images_by_prefix(&self, prefix: &str) -> Result<Vec<ImageRow>, Error> {
        self.all(
            "SELECT id, config, manifest, size FROM images WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2",
            [prefix],
            image_row,
        )
    }

    /// Every image.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn images(&self) -> Result<Vec<ImageRow>, Error> {
        self.all(
            "SELECT id, config, manifest, size FROM images",
            [],
            image_row,
        )
    }

    /// Every name of every image.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn tags(&self) -> Result<Vec<TagRow>, Error> {
        self.all(
            "SELECT repository, tag, digest, image_id FROM tags ORDER BY repository, tag",
            [],
            tag_row,
        )
    }
}

fn bonds(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<Bonds> {
    let tags = transaction
        .prepare_cached(
            "SELECT repository, tag, digest, image_id FROM tags WHERE image_id = ?1 \
             ORDER BY repository, tag, digest",
        )?
        .query_map([id], tag_row)?
        .collect::<rusqlite::Result<_>>()?;
    let users = transaction
        .prepare_cached("SELECT id FROM containers WHERE image_id = ?1 ORDER BY id")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Bonds { tags, users })
}

fn has_image(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    let found = transaction
        .query_row("SELECT 1 FROM images WHERE id = ?1", [id], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

fn leave_index(
    transaction: &Transaction<'_>,
    target: &str,
    id: &str,
    heir: &str,
) -> rusqlite::Result<bool> {
    transaction.execute_batch(ADDITIONS)?;
    transaction.execute(
        "UPDATE tags SET image_id = ?3 WHERE image_id = ?2 AND (digest = ?1 OR EXISTS \
         (SELECT 1 FROM tag_facts f WHERE f.repository = tags.repository AND f.tag = tags.tag \
         AND f.target = ?1))",
        [target, id, heir],
    )?;
    transaction.execute(
        "DELETE FROM variants WHERE target = ?1 AND image_id = ?2",
        [target, id],
    )?;
    let removed = transaction.execute(
        "DELETE FROM images WHERE id = ?1 \
         AND NOT EXISTS (SELECT 1 FROM tags WHERE image_id = ?1) \
         AND NOT EXISTS (SELECT 1 FROM containers WHERE image_id = ?1) \
         AND NOT EXISTS (SELECT 1 FROM variants v JOIN tag_facts f ON f.target = v.target \
         WHERE v.image_id = ?1)",
        [id],
    )?;
    if removed > 0 {
        transaction.execute("DELETE FROM variants WHERE image_id = ?1", [id])?;
    }
    Ok(removed > 0)
}

fn loosen(
    transaction: &Transaction<'_>,
    id: &str,
    known: &Bonds,
    left: &[TagRow],
    remove: bool,
) -> rusqlite::Result<bool> {
    if !has_image(transaction, id)? || bonds(transaction, id)? != *known {
        return Ok(false);
    }
    transaction.execute_batch(ADDITIONS)?;
    transaction.execute("DELETE FROM tags WHERE image_id = ?1", [id])?;
    for tag in left {
        transaction.execute(
            "INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3, ?4)",
            params![tag.repository, tag.tag, tag.digest, tag.image_id],
        )?;
    }
    // Those of names that are gone by now, whoever has taken them away.
    transaction.execute(
        "DELETE FROM tag_facts WHERE NOT EXISTS (SELECT 1 FROM tags \
         WHERE tags.repository = tag_facts.repository AND tags.tag = tag_facts.tag)",
        [],
    )?;
    if remove {
        transaction.execute("DELETE FROM variants WHERE image_id = ?1", [id])?;
        transaction.execute("DELETE FROM images WHERE id = ?1", [id])?;
    }
    Ok(true)
}

/// Stores what is new; if an image that is to be named is not on record, its id, and then
/// nothing may be committed.
fn put(transaction: &Transaction<'_>, new: &NewImages<'_>) -> rusqlite::Result<Option<String>> {
    transaction.execute_batch(ADDITIONS)?;
    for image in new.images {
        transaction.execute(
            "INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3, ?4)",
            params![image.id, image.config, image.manifest, image.size],
        )?;
    }
    for tag in new.tags {
        // It was looked up before this transaction, and may have been removed meanwhile.
        let has_image = transaction
            .query_row(
                "SELECT 1 FROM images WHERE id = ?1",
                [&tag.image_id],
                |_| Ok(()),
            )
            .optional()?;
        if has_image.is_none() {
            return Ok(Some(tag.image_id.clone()));
        }
        // An image that loses its tag to another one is still known by its digest.
        transaction.execute(
            "INSERT OR IGNORE INTO tags SELECT repository, '', digest, image_id FROM tags \
             WHERE repository = ?1 AND tag = ?2 AND ?2 <> '' AND digest <> '' AND image_id <> ?3",
            params![tag.repository, tag.tag, tag.image_id],
        )?;
        // A tag names one image: the new one.
        transaction.execute(
            "DELETE FROM tags WHERE repository = ?1 AND tag = ?2 AND (?2 <> '' OR digest = ?3)",
            params![tag.repository, tag.tag, tag.digest],
        )?;
        transaction.execute(
            "INSERT INTO tags VALUES (?1, ?2, ?3, ?4)",
            params![tag.repository, tag.tag, tag.digest, tag.image_id],
        )?;
    }
    for fact in new.facts {
        transaction.execute(
            "INSERT OR REPLACE INTO tag_facts VALUES (?1, ?2, ?3, ?4)",
            params![fact.repository, fact.tag, fact.target, fact.tagged_at],
        )?;
    }
    for (target, image) in new.variants {
        transaction.execute(
            "INSERT OR IGNORE INTO variants VALUES (?1, ?2)",
            [target, image],
        )?;
    }
    for (digest, pushed) in new.made {
        transaction.execute(
            "INSERT OR REPLACE INTO made_manifests VALUES (?1, ?2)",
            [digest, pushed],
        )?;
    }
    for (blob, repository) in new.sources {
        transaction.execute(
            "INSERT OR IGNORE INTO blob_sources VALUES (?1, ?2)",
            [blob, repository],
        )?;
    }
    Ok(None)
}

fn is_missing_table(error: &rusqlite::Error) -> bool {
    error.to_string().contains("no such table")
}

fn image_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        id: row.get(0)?,
        config: row.get(1)?,
        manifest: row.get(2)?,
        size: row.get(3)?,
    })
}

fn tag_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<TagRow> {
    Ok(TagRow {
        repository: row.get(0)?,
        tag: row.get(1)?,
        digest: row.get(2)?,
        image_id: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ContainerRow, NewContainer, Phase};

    /// A store of its own with the image `one` by the name `r:t`; it goes with its value.
    struct Scratch {
        store: Store,
        directory: std::path::PathBuf,
    }

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let directory =
                std::env::temp_dir().join(format!("gantry-images-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let mut store = Store::open(&directory).unwrap();
            store
                .put_images(&NewImages {
                    images: &[image("one"), image("two")],
                    tags: &[tag("t", "", "one")],
                    facts: &[fact("t")],
                    ..NewImages::default()
                })
                .unwrap();
            Scratch { store, directory }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    fn image(id: &str) -> ImageRow {
        ImageRow {
            id: id.into(),
            config: Vec::new(),
            manifest: String::new(),
            size: 0,
        }
    }

    fn tag(tag: &str, digest: &str, image: &str) -> TagRow {
        TagRow {
            repository: "r".into(),
            tag: tag.into(),
            digest: digest.into(),
            image_id: image.into(),
        }
    }

    fn fact(tag: &str) -> TagFact {
        TagFact {
            repository: "r".into(),
            tag: tag.into(),
            target: "x".into(),
            tagged_at: 1,
        }
    }

    fn add_user(store: &mut Store, image: &str) {
        let row = ContainerRow {
            id: "c".into(),
            name: "c".into(),
            created_at: 0,
            image_id: image.into(),
            config: String::new(),
            sandbox: String::new(),
            phase: Phase::Present,
            auto_remove: false,
            last_run: None,
        };
        let new = NewContainer {
            row: &row,
            volumes: &[],
            endpoints: &[],
        };
        store.insert_container(&new).unwrap();
    }

    /// A push that takes minutes notes its digest only where the name still means what was
    /// pushed: it neither moves a name back nor brings a removed one back.
    #[test]
    fn a_push_changes_only_the_name_it_pushed() {
        let mut here = Scratch::new("push");
        let store = &mut here.store;
        let pushed = tag("t", "", "one");
        store.note_push(&pushed, "d1", &[]).unwrap();
        assert_eq!(store.tags().unwrap(), [tag("t", "d1", "one")]);
        let moved = NewImages {
            tags: &[tag("t", "", "two")],
            ..NewImages::default()
        };
        store.put_images(&moved).unwrap();
        store.note_push(&pushed, "d2", &[]).unwrap();
        let expected = [tag("", "d1", "one"), tag("t", "", "two")];
        assert_eq!(store.tags().unwrap(), expected);
        let known = store.image_bonds("two").unwrap();
        assert!(store.loosen("two", &known, &[], true).unwrap());
        let sources = [("b".into(), "r".into())];
        store
            .note_push(&tag("t", "", "two"), "d2", &sources)
            .unwrap();
        assert_eq!(store.tags().unwrap(), [tag("", "d1", "one")]);
        assert_eq!(store.blob_sources("b").unwrap(), ["r"]);
        store.note_push(&tag("", "d1", "one"), "d3", &[]).unwrap();
        let expected = [tag("", "d1", "one"), tag("", "d3", "one")];
        assert_eq!(store.tags().unwrap(), expected);
    }

    /// An image leaves an index with the names that mean the index, and the record with its last
    /// bond: a container, a name of its own, or another index that has a name.
    #[test]
    fn an_image_leaves_its_index() {
        let variants = |targets: &[&str]| -> Vec<(String, String)> {
            let of = |id: &'static str| {
                let targets = targets.iter();
                targets.map(move |target| ((*target).to_owned(), id.to_owned()))
            };
            of("one").chain(of("two")).collect()
        };
        let mut other = fact("u");
        other.target = "y".into();
        let named_otherwise = [tag("t", "", "two"), tag("u", "", "one")];
        let by_digest = [tag("", "x", "two"), tag("t", "", "two")];
        for (number, (tags, targets, used, removed, left)) in [
            (vec![], &["x"][..], false, true, vec![tag("t", "", "two")]),
            (vec![], &["x", "z"], false, true, vec![tag("t", "", "two")]),
            (vec![], &["x"], true, false, vec![tag("t", "", "two")]),
            (
                vec![tag("", "x", "one")],
                &["x"],
                false,
                true,
                by_digest.to_vec(),
            ),
            (
                vec![tag("u", "", "one")],
                &["x"],
                false,
                false,
                named_otherwise.to_vec(),
            ),
            (
                vec![tag("u", "", "two")],
                &["x", "y"],
                false,
                false,
                vec![tag("t", "", "two"), tag("u", "", "two")],
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let mut here = Scratch::new(&format!("leave-{number}"));
            let store = &mut here.store;
            let new = NewImages {
                tags: &tags,
                facts: if tags.iter().any(|tag| tag.tag == "u") {
                    std::slice::from_ref(&other)
                } else {
                    &[]
                },
                variants: &variants(targets),
                ..NewImages::default()
            };
            store.put_images(&new).unwrap();
            if used {
                add_user(store, "one");
            }
            let known = store.image_bonds("one").unwrap();
            let stale = Bonds {
                users: vec!["other".into()],
                ..known.clone()
            };
            assert_eq!(store.leave_index("x", "one", "two", &stale).unwrap(), None);
            assert_eq!(store.leave_index("x", "none", "two", &known).unwrap(), None);
            assert!(store.leave_index("x", "one", "none", &known).is_err());
            assert_eq!(store.image_bonds("one").unwrap(), known, "{number}");
            let outcome = store.leave_index("x", "one", "two", &known).unwrap();
            assert_eq!(outcome, Some(removed), "{number}");
            assert_eq!(store.image("one").unwrap().is_none(), removed, "{number}");
            assert_eq!(store.tags().unwrap(), left, "{number}");
            let of_index = store.variants_of("x").unwrap();
            let of_index: Vec<&str> = of_index.iter().map(|row| row.id.as_str()).collect();
            assert_eq!(of_index, ["two"], "{number}");
            let elsewhere = store.variants().unwrap();
            let is_elsewhere = elsewhere.iter().any(|(_, image)| image == "one");
            assert_eq!(is_elsewhere, targets.contains(&"y"), "{number}");
        }
    }

    #[test]
    fn no_name_is_given_to_an_image_that_is_gone() {
        let mut here = Scratch::new("gone");
        let store = &mut here.store;
        let known = store.image_bonds("two").unwrap();
        assert!(store.loosen("two", &known, &[], true).unwrap());
        let new = NewImages {
            tags: &[tag("u", "", "one"), tag("t", "", "two")],
            ..NewImages::default()
        };
        let result = store.put_images(&new);
        assert!(
            matches!(result, Err(Error::NoSuchImage { .. })),
            "{result:?}"
        );
        assert_eq!(store.tags().unwrap(), [tag("t", "", "one")], "none of it");
    }

    /// What is decided on names and users holds only while they are the same.
    #[test]
    fn an_image_with_a_new_user_keeps_its_names() {
        let mut here = Scratch::new("user");
        let store = &mut here.store;
        let known = store.image_bonds("one").unwrap();
        assert_eq!(known.tags, [tag("t", "", "one")]);
        add_user(store, "one");
        assert!(!store.loosen("one", &known, &[], true).unwrap());
        assert_eq!(store.tags().unwrap(), known.tags);
        assert!(store.image("one").unwrap().is_some());
        let known = store.image_bonds("one").unwrap();
        assert_eq!(known.users, ["c"]);
        // And so with another name.
        let other = NewImages {
            tags: &[tag("u", "", "one")],
            facts: &[fact("u")],
            ..NewImages::default()
        };
        store.put_images(&other).unwrap();
        assert!(!store.loosen("one", &known, &[], false).unwrap());
        let known = store.image_bonds("one").unwrap();
        assert!(
            store
                .loosen("one", &known, &known.tags[1..], false)
                .unwrap()
        );
        assert_eq!(store.tags().unwrap(), [tag("u", "", "one")]);
        assert_eq!(store.tag_facts().unwrap(), [fact("u")]);
        assert!(!store.loosen("none", &Bonds::default(), &[], true).unwrap());
    }
}
