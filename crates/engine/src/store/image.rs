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
            put(transaction, new).map_err(fail)
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

    /// Takes a name away.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn remove_tag(&mut self, tag: &TagRow) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Full, |transaction| {
            transaction
                .execute(
                    "DELETE FROM tags WHERE repository = ?1 AND tag = ?2 AND digest = ?3",
                    params![tag.repository, tag.tag, tag.digest],
                )
                .and_then(|_| transaction.execute_batch(ADDITIONS))
                .and_then(|()| {
                    transaction.execute(
                        "DELETE FROM tag_facts WHERE repository = ?1 AND tag = ?2",
                        params![tag.repository, tag.tag],
                    )
                })
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Replaces a name's digest, which is what stays when its tag goes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keep_digest(&mut self, tag: &TagRow) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Full, |transaction| {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO tags VALUES (?1, '', ?2, ?3)",
                    params![tag.repository, tag.digest, tag.image_id],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Takes an image off record, with all its names; false while a container uses it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn remove_image(&mut self, id: &str) -> Result<bool, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            let users: i64 = transaction
                .query_row(
                    "SELECT count(*) FROM containers WHERE image_id = ?1",
                    [id],
                    |row| row.get(0),
                )
                .map_err(fail)?;
            if users > 0 {
                return Ok(false);
            }
            transaction
                .execute("DELETE FROM tags WHERE image_id = ?1", [id])
                .map_err(fail)?;
            transaction.execute_batch(ADDITIONS).map_err(fail)?;
            transaction
                .execute("DELETE FROM variants WHERE image_id = ?1", [id])
                .map_err(fail)?;
            transaction
                .execute("DELETE FROM images WHERE id = ?1", [id])
                .map_err(fail)?;
            Ok(true)
        })
    }
}

fn put(transaction: &Transaction<'_>, new: &NewImages<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(ADDITIONS)?;
    for image in new.images {
        transaction.execute(
            "INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3, ?4)",
            params![image.id, image.config, image.manifest, image.size],
        )?;
    }
    for tag in new.tags {
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
    Ok(())
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
