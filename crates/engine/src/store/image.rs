//! Images and their names.

use rusqlite::{OptionalExtension, params};

use super::{Durability, ImageRow, Store, TagRow};
use crate::error::Error;

impl Store {
    /// Puts an image and a name for it on record.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn put_image(&mut self, image: &ImageRow, tag: Option<&TagRow>) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3, ?4)",
                    params![image.id, image.config, image.manifest, image.size],
                )
                .map_err(fail)?;
            if let Some(tag) = tag {
                // A tag names one image: the new one.
                transaction
                    .execute(
                        "DELETE FROM tags WHERE repository = ?1 AND tag = ?2 AND (?2 <> '' OR digest = ?3)",
                        params![tag.repository, tag.tag, tag.digest],
                    )
                    .map_err(fail)?;
                transaction
                    .execute(
                        "INSERT INTO tags VALUES (?1, ?2, ?3, ?4)",
                        params![tag.repository, tag.tag, tag.digest, tag.image_id],
                    )
                    .map_err(fail)?;
            }
            Ok(())
        })
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
            transaction
                .execute("DELETE FROM images WHERE id = ?1", [id])
                .map_err(fail)?;
            Ok(true)
        })
    }
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
