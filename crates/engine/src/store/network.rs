//! Networks and the addresses that are leased from them.

use rusqlite::{OptionalExtension, params};

use super::{Durability, Store};
use crate::error::Error;

impl Store {
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
}
