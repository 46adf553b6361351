//! Containers, their volumes and how their last run ended.

use rusqlite::{OptionalExtension, params};

use super::{ContainerRow, Durability, LastRun, NewContainer, Phase, Store};
use crate::error::Error;

impl Store {
    /// Puts a container on record.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::Store`].
    pub fn insert_container(&mut self, new: &NewContainer<'_>) -> Result<(), Error> {
        let row = new.row;
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        let durability = if row.auto_remove {
            Durability::Normal
        } else {
            Durability::Full
        };
        self.write(durability, |transaction| {
            let holder: Option<String> = transaction
                .query_row("SELECT id FROM containers WHERE name = ?1", [&row.name], |found| found.get(0))
                .optional()
                .map_err(fail)?;
            if let Some(holder) = holder {
                return Err(Error::NameTaken { name: row.name.clone(), holder });
            }
            // Whoever removes an image looks for containers in one transaction, too: one of the
            // two sees the other, and no lock is held between looking an image up and this.
            let has_image = transaction
                .query_row("SELECT 1 FROM images WHERE id = ?1", [&row.image_id], |_| Ok(()))
                .optional()
                .map_err(fail)?;
            if has_image.is_none() {
                return Err(Error::NoSuchImage { name: row.image_id.clone() });
            }
            transaction
                .execute(
                    "INSERT INTO containers (id, name, created_at, image_id, config, sandbox, phase, auto_remove) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)",
                    params![row.id, row.name, row.created_at, row.image_id, row.config, row.sandbox, row.auto_remove],
                )
                .map_err(fail)?;
            for (position, (volume, anonymous)) in (0_i64..).zip(new.volumes) {
                transaction
                    .execute(
                        "INSERT OR IGNORE INTO volumes VALUES (?1, ?2, ?3)",
                        params![volume, row.created_at, anonymous],
                    )
                    .map_err(fail)?;
                transaction
                    .execute("INSERT INTO container_volumes VALUES (?1, ?2, ?3)", params![row.id, position, volume])
                    .map_err(fail)?;
            }
            for (position, (network, wish)) in (0_i64..).zip(new.endpoints) {
                transaction
                    .execute("INSERT INTO endpoints VALUES (?1, ?2, ?3, ?4)", params![row.id, network, position, wish])
                    .map_err(fail)?;
            }
            Ok(())
        })
    }

    /// One container.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn container(&self, id: &str) -> Result<Option<ContainerRow>, Error> {
        let query = format!("{CONTAINER} WHERE id = ?1");
        self.connection
            .query_row(&query, [id], container_row)
            .optional()
            .map_err(|source| self.fail(source))
    }

    /// Containers by name, by id, or by the beginning of an id; at most two.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn find_containers(&self, name: &str) -> Result<Vec<ContainerRow>, Error> {
        let exact = self.all(
            &format!("{CONTAINER} WHERE name = ?1 OR id = ?1"),
            [name],
            container_row,
        )?;
        if !exact.is_empty() || name.is_empty() {
            return Ok(exact.into_iter().take(1).collect());
        }
        self.all(
            &format!("{CONTAINER} WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2"),
            [name],
            container_row,
        )
    }

    /// Every container, the newest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn containers(&self) -> Result<Vec<ContainerRow>, Error> {
        self.all(
            &format!("{CONTAINER} ORDER BY created_at DESC"),
            [],
            container_row,
        )
    }

    /// Number of containers that use an image.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn image_users(&self, image: &str) -> Result<Vec<String>, Error> {
        self.all(
            "SELECT id FROM containers WHERE image_id = ?1",
            [image],
            |row| row.get(0),
        )
    }

    /// Anonymous volumes of a container, in the order of their making.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn anonymous_volumes(&self, container: &str) -> Result<Vec<String>, Error> {
        self.all(
            "SELECT v.name FROM volumes v JOIN container_volumes c ON c.volume = v.name \
             WHERE c.container = ?1 AND v.anonymous = 1 ORDER BY c.position",
            [container],
            |row| row.get(0),
        )
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_last_run(&mut self, id: &str, run: &LastRun) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute(
                    "UPDATE containers SET exit_code = ?2, started_at = ?3, finished_at = ?4, oom_killed = ?5, error = ?6 WHERE id = ?1",
                    params![id, run.exit_code, run.started_at, run.finished_at, run.oom_killed, run.error],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Begins a removal: from here on it can only be finished.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn begin_removal(&mut self, id: &str) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute("UPDATE containers SET phase = 1 WHERE id = ?1", [id])
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Takes a container off record; returns the anonymous volumes that
    /// nobody uses any more if they are to go too.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete_container(
        &mut self,
        id: &str,
        with_volumes: bool,
        durability: Durability,
    ) -> Result<Vec<String>, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(durability, |transaction| {
            let mut orphans = Vec::new();
            if with_volumes {
                let query = "SELECT v.name FROM volumes v JOIN container_volumes c ON c.volume = v.name \
                    WHERE c.container = ?1 AND v.anonymous = 1 AND NOT EXISTS \
                    (SELECT 1 FROM container_volumes o WHERE o.volume = v.name AND o.container <> ?1)";
                let mut statement = transaction.prepare(query).map_err(fail)?;
                let rows = statement.query_map([id], |row| row.get::<_, String>(0)).map_err(fail)?;
                orphans = rows.collect::<Result<_, _>>().map_err(fail)?;
            }
            for orphan in &orphans {
                transaction.execute("DELETE FROM volumes WHERE name = ?1", [orphan]).map_err(fail)?;
            }
            transaction.execute("DELETE FROM container_volumes WHERE container = ?1", [id]).map_err(fail)?;
            transaction.execute("DELETE FROM endpoints WHERE container = ?1", [id]).map_err(fail)?;
            transaction.execute("DELETE FROM containers WHERE id = ?1", [id]).map_err(fail)?;
            Ok(orphans)
        })
    }
}

const CONTAINER: &str = "SELECT id, name, created_at, image_id, config, sandbox, phase, auto_remove, \
    exit_code, started_at, finished_at, oom_killed, error FROM containers";

fn container_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ContainerRow> {
    let last_run = match row.get::<_, Option<i32>>(8)? {
        None => None,
        Some(exit_code) => Some(LastRun {
            exit_code,
            started_at: row.get(9)?,
            finished_at: row.get(10)?,
            oom_killed: row.get(11)?,
            error: row.get(12)?,
        }),
    };
    Ok(ContainerRow {
        id: row.get(0)?,
        name: row.get(1)?,
        created_at: row.get(2)?,
        image_id: row.get(3)?,
        config: row.get(4)?,
        sandbox: row.get(5)?,
        phase: if row.get::<_, i64>(6)? == 0 {
            Phase::Present
        } else {
            Phase::Removing
        },
        auto_remove: row.get(7)?,
        last_run,
    })
}
