//! The state store: durable objects in SQLite, shared by every process of an installation.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction: a deferred one that reads first and
//! writes later failed up to 97 times in 100 beside eight others. Connections do not
//! checkpoint when they close (1.1 ms for a short process); whoever finds the log above
//! 256 kB does: a process that is alone reads the whole log when it opens the store, which
//! takes 2 µs per page. What is acknowledged and must outlive a power cut commits with
//! `synchronous=FULL`, the rest with `NORMAL`.

mod container;
mod image;
mod network;

pub use image::{Bonds, NewImages, TagFact};
pub use network::NetworkRow;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::error::Error;

/// Version of the schema that this program writes.
const SCHEMA: i64 = 2;

/// Oldest reader that does not misread what this schema holds: since 1, tables were only added.
const MINIMUM_READER: i64 = 1;

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
    /// Networks that it is put on, by name, with what is asked for there as JSON.
    pub endpoints: &'a [(String, String)],
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

/// What each schema adds to the one before it, from 2 on.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE network_objects (
    name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    config TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE endpoints (
    container TEXT NOT NULL, network TEXT NOT NULL, position INTEGER NOT NULL,
    config TEXT NOT NULL,
    PRIMARY KEY (container, network)
) WITHOUT ROWID;
CREATE INDEX endpoint_networks ON endpoints (network);
"];

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
        if version < SCHEMA {
            store.migrate(version == 0)?;
        } else if version > SCHEMA {
            store.check_reader(version)?;
        }
        Ok(store)
    }

    /// Makes the tables, or adds those that later schemas have.
    fn migrate(&mut self, is_new: bool) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        if is_new {
            patiently(|| self.connection.pragma_update(None, "journal_mode", "WAL"))
                .map_err(fail)?;
        }
        self.connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(fail)?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        // Another process may have been first.
        let mut version: i64 = transaction
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fail)?;
        if version >= SCHEMA {
            return Ok(());
        }
        if version == 0 {
            transaction.execute_batch(TABLES).map_err(fail)?;
            transaction
                .execute(
                    "INSERT INTO meta VALUES ('minimum_reader', ?1)",
                    [MINIMUM_READER.to_string()],
                )
                .map_err(fail)?;
            version = 1;
        }
        for migration in (2..)
            .zip(MIGRATIONS)
            .filter(|(schema, _)| *schema > version)
        {
            transaction.execute_batch(migration.1).map_err(fail)?;
        }
        transaction
            .pragma_update(None, "user_version", SCHEMA)
            .map_err(fail)?;
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
