//! The state store: durable objects in SQLite, shared by every process of an installation.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction: a deferred one that reads first and
//! writes later failed up to 97 times in 100 beside eight others. Connections do not
//! checkpoint when they close (1.1 ms for a short process); whoever finds the log above
//! 256 kB does: a process that is alone reads the whole log when it opens the store, which
//! takes 2 µs per page. What is acknowledged and must outlive a power cut commits with
//! `synchronous=FULL`, the rest with `NORMAL`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::error::Error;

/// Version of the schema that this program writes.
const SCHEMA: i64 = 1;

/// Size of the write-ahead log at which it is written back, in bytes.
const WAL_LIMIT: u64 = 256 * 1024;

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(20);

/// How far a commit has to be on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// It outlives a power cut.
    Full,
    /// It outlives the death of any process.
    Normal,
}

/// Repeats what finds the store busy. SQLite's own waiting does not cover the moment in which
/// another process turns the log of a new store on.
fn patiently<T>(
    mut step: impl FnMut() -> Result<T, rusqlite::Error>,
) -> Result<T, rusqlite::Error> {
    let until = Instant::now() + BUSY;
    loop {
        match step() {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

/// Where a container is in its life, as far as the store is concerned. Whether it runs,
/// the kernel knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It is whole.
    Present,
    /// Its removal has begun.
    Removing,
}

/// A container's row.
#[derive(Clone, Debug)]
pub struct ContainerRow {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Creation, in nanoseconds since 1970.
    pub created_at: i64,
    /// Id of the image.
    pub image_id: String,
    /// Configuration, as JSON.
    pub config: String,
    /// Id of the sandbox.
    pub sandbox: String,
    /// Phase.
    pub phase: Phase,
    /// Whether it is removed at its end.
    pub auto_remove: bool,
    /// How the last run ended.
    pub last_run: Option<LastRun>,
}

/// How a run ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LastRun {
    /// Exit code by the shell's convention.
    pub exit_code: i32,
    /// Start, in nanoseconds since 1970; 0 if it never ran.
    pub started_at: i64,
    /// End, in nanoseconds since 1970.
    pub finished_at: i64,
    /// Whether the kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// What went wrong, in words.
    pub error: String,
}

/// An image's row.
#[derive(Clone, Debug)]
pub struct ImageRow {
    /// Digest of the configuration.
    pub id: String,
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// Digest of the manifest.
    pub manifest: String,
    /// Size of the compressed layers in bytes.
    pub size: i64,
}

/// A name of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagRow {
    /// Registry and repository, canonical.
    pub repository: String,
    /// Tag; empty for a name by digest.
    pub tag: String,
    /// Digest by which it was pulled.
    pub digest: String,
    /// Id of the image.
    pub image_id: String,
}

/// What creation writes at once.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// The row.
    pub row: &'a ContainerRow,
    /// Volumes that it uses; made if they are new. The flag says whether they go with it.
    pub volumes: &'a [(String, bool)],
}

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    id TEXT PRIMARY KEY, config BLOB NOT NULL, manifest TEXT NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE tags (
    repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, image_id TEXT NOT NULL,
    PRIMARY KEY (repository, tag, digest)
) WITHOUT ROWID;
CREATE UNIQUE INDEX tag_names ON tags (repository, tag) WHERE tag <> '';
CREATE INDEX tag_images ON tags (image_id);
CREATE TABLE containers (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    image_id TEXT NOT NULL, config TEXT NOT NULL, sandbox TEXT NOT NULL, phase INTEGER NOT NULL,
    auto_remove INTEGER NOT NULL, exit_code INTEGER, started_at INTEGER, finished_at INTEGER,
    oom_killed INTEGER, error TEXT
) WITHOUT ROWID;
CREATE INDEX container_images ON containers (image_id);
CREATE TABLE volumes (
    name TEXT PRIMARY KEY, created_at INTEGER NOT NULL, anonymous INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE container_volumes (
    container TEXT NOT NULL, position INTEGER NOT NULL, volume TEXT NOT NULL,
    PRIMARY KEY (container, position)
) WITHOUT ROWID;
CREATE INDEX volume_users ON container_volumes (volume);
CREATE TABLE networks (
    name TEXT PRIMARY KEY, bridge TEXT NOT NULL, subnet TEXT NOT NULL, gateway TEXT NOT NULL,
    last_address INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE leases (
    network TEXT NOT NULL, address INTEGER NOT NULL, sandbox TEXT NOT NULL,
    PRIMARY KEY (network, address)
) WITHOUT ROWID;
CREATE INDEX lease_sandboxes ON leases (sandbox);
";

impl Store {
    /// Opens the store below the data root, or makes it.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::NewerStore`] where a newer release has changed it so
    /// that this one would misread it.
    pub fn open(data_root: &Path) -> Result<Store, Error> {
        let path = data_root.join("state.db");
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(fail)?;
        connection.busy_timeout(BUSY).map_err(fail)?;
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(fail)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", 0)
            .map_err(fail)?;
        let mut store = Store {
            connection,
            path: path.clone(),
        };
        let version: i64 = patiently(|| {
            store
                .connection
                .query_row("PRAGMA user_version", [], |row| row.get(0))
        })
        .map_err(fail)?;
        if version == 0 {
            store.create_tables()?;
        } else if version > SCHEMA {
            store.check_reader(version)?;
        }
        Ok(store)
    }

    fn create_tables(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        patiently(|| self.connection.pragma_update(None, "journal_mode", "WAL")).map_err(fail)?;
        self.connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(fail)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        // Another process may have been first.
        let version: i64 = transaction
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if version == 0 {
            transaction.execute_batch(TABLES).map_err(fail)?;
            transaction
                .execute(
                    "INSERT INTO meta VALUES ('minimum_reader', ?1)",
                    [SCHEMA.to_string()],
                )
                .map_err(fail)?;
            transaction
                .pragma_update(None, "user_version", SCHEMA)
                .map_err(fail)?;
        }
        transaction.commit().map_err(fail)
    }

    /// A newer schema is fine as long as it says that this reader understands it.
    fn check_reader(&self, version: i64) -> Result<(), Error> {
        let minimum = self
            .meta("minimum_reader")?
            .and_then(|text| text.parse().ok())
            .unwrap_or(version);
        if minimum > SCHEMA {
            return Err(Error::NewerStore {
                path: self.path.clone(),
                version,
            });
        }
        Ok(())
    }

    fn fail(&self, source: rusqlite::Error) -> Error {
        Error::Store {
            path: self.path.clone(),
            source,
        }
    }

    /// One write transaction.
    fn write<T>(
        &mut self,
        durability: Durability,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        let synchronous = match durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        };
        self.connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(fail)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let version: i64 = transaction
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if version > SCHEMA {
            let minimum: Option<String> = transaction
                .query_row(
                    "SELECT value FROM meta WHERE key = 'minimum_reader'",
                    [],
                    |row| row.get(0),
                )
                .optional()
                .map_err(fail)?;
            if minimum
                .and_then(|text| text.parse::<i64>().ok())
                .unwrap_or(version)
                > SCHEMA
            {
                return Err(Error::NewerStore {
                    path: path.clone(),
                    version,
                });
            }
        }
        let value = work(&transaction)?;
        transaction.commit().map_err(fail)?;
        Ok(value)
    }

    /// Writes the log back if it has grown. To be called after the user was answered.
    pub fn tidy(&self) {
        let log = self.path.with_extension("db-wal");
        if std::fs::metadata(log).is_ok_and(|metadata| metadata.len() > WAL_LIMIT) {
            // Another process may hold it; then that one or the next one does it.
            let _ = self
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }

    /// A value of the installation's own.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn meta(&self, key: &str) -> Result<Option<String>, Error> {
        self.connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                row.get(0)
            })
            .optional()
            .map_err(|source| self.fail(source))
    }

    /// Sets a value of the installation's own.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", [key, value])
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    // Images.

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

    // Containers.

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
            transaction.execute("DELETE FROM containers WHERE id = ?1", [id]).map_err(fail)?;
            Ok(orphans)
        })
    }

    // Networks.

    /// The network's row: bridge, subnet, gateway. Made by `make` if it is new.
    ///
    /// # Errors
    /// [`Error::Store`], and what `make` says.
    pub fn network(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<(String, String, String), Error>,
    ) -> Result<(String, String, String), Error> {
        let query = "SELECT bridge, subnet, gateway FROM networks WHERE name = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let found = self.connection.query_row(query, [name], read).optional();
        if let Some(found) = found.map_err(|source| self.fail(source))? {
            return Ok(found);
        }
        let (bridge, subnet, gateway) = make()?;
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            transaction
                .execute(
                    "INSERT OR IGNORE INTO networks VALUES (?1, ?2, ?3, ?4, 0)",
                    params![name, bridge, subnet, gateway],
                )
                .map_err(fail)?;
            transaction.query_row(query, [name], read).map_err(fail)
        })
    }

    /// Gives a network another subnet, unless an address of it is leased; whether it has it now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn renumber(&mut self, name: &str, subnet: &str, gateway: &str) -> Result<bool, Error> {
        let path = self.path.clone();
        self.write(Durability::Full, |transaction| {
            let changed = transaction
                .execute(
                    "UPDATE networks SET subnet = ?2, gateway = ?3, last_address = 0
                     WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM leases WHERE network = ?1)",
                    params![name, subnet, gateway],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(changed > 0)
        })
    }

    /// Leases an address to a sandbox; `choose` gets the leased ones in order and the one
    /// leased last.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::NoAddress`] where `choose` finds none.
    pub fn lease(
        &mut self,
        network: &str,
        sandbox: &str,
        choose: impl FnOnce(&[u32], u32) -> Option<u32>,
    ) -> Result<u32, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Normal, |transaction| {
            let query = "SELECT address FROM leases WHERE network = ?1 AND sandbox = ?2";
            let held = transaction
                .query_row(query, [network, sandbox], |row| row.get(0))
                .optional()
                .map_err(fail)?;
            if let Some(held) = held {
                return Ok(held);
            }
            let mut statement = transaction
                .prepare("SELECT address FROM leases WHERE network = ?1 ORDER BY address")
                .map_err(fail)?;
            let rows = statement
                .query_map([network], |row| row.get(0))
                .map_err(fail)?;
            let used: Vec<u32> = rows.collect::<Result<_, _>>().map_err(fail)?;
            let last: u32 = transaction
                .query_row(
                    "SELECT last_address FROM networks WHERE name = ?1",
                    [network],
                    |row| row.get(0),
                )
                .map_err(fail)?;
            let address = choose(&used, last).ok_or_else(|| Error::NoAddress {
                network: network.into(),
            })?;
            transaction
                .execute(
                    "INSERT INTO leases VALUES (?1, ?2, ?3)",
                    params![network, address, sandbox],
                )
                .map_err(fail)?;
            transaction
                .execute(
                    "UPDATE networks SET last_address = ?2 WHERE name = ?1",
                    params![network, address],
                )
                .map_err(fail)?;
            Ok(address)
        })
    }

    /// The address that a sandbox has.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn leased(&self, sandbox: &str) -> Result<Option<u32>, Error> {
        self.connection
            .query_row(
                "SELECT address FROM leases WHERE sandbox = ?1",
                [sandbox],
                |row| row.get(0),
            )
            .optional()
            .map_err(|source| self.fail(source))
    }

    /// Gives back what a sandbox has leased.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn release(&mut self, sandbox: &str) -> Result<(), Error> {
        if self.leased(sandbox)?.is_none() {
            return Ok(());
        }
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute("DELETE FROM leases WHERE sandbox = ?1", [sandbox])
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Sandboxes that hold leases.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn lease_holders(&self) -> Result<Vec<String>, Error> {
        self.all("SELECT sandbox FROM leases", [], |row| row.get(0))
    }

    fn all<T, P: rusqlite::Params>(
        &self,
        query: &str,
        parameters: P,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_map(parameters, read)?.collect())
            .map_err(|source| self.fail(source))
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
