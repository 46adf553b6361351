//! Networks and the addresses that are leased from them.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use serde::{Deserialize, Serialize};

use super::{Durability, Store};
use crate::error::Error;

/// Begins the key of a network that is off the record while its links may still be there.
const REMOVED: &str = "removed-network ";

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
                .optional()
                .map_err(fail)?
                .ok_or_else(|| Error::NoSuchNetwork {
                    name: network.into(),
                })?;
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

    /// The address that a sandbox has on a network.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn leased(&self, network: &str, sandbox: &str) -> Result<Option<u32>, Error> {
        self.connection
            .query_row(
                "SELECT address FROM leases WHERE network = ?1 AND sandbox = ?2",
                [network, sandbox],
                |row| row.get(0),
            )
            .optional()
            .map_err(|source| self.fail(source))
    }

    /// Sandboxes with an address on a network, with that address.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn leases(&self, network: &str) -> Result<Vec<(String, u32)>, Error> {
        self.all(
            "SELECT sandbox, address FROM leases WHERE network = ?1 ORDER BY address",
            [network],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Networks that a sandbox has addresses on.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn leased_networks(&self, sandbox: &str) -> Result<Vec<String>, Error> {
        self.all(
            "SELECT network FROM leases WHERE sandbox = ?1 ORDER BY network",
            [sandbox],
            |row| row.get(0),
        )
    }

    /// Gives back the address that a sandbox has on one network.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn release_one(&mut self, network: &str, sandbox: &str) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute(
                    "DELETE FROM leases WHERE network = ?1 AND sandbox = ?2",
                    [network, sandbox],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Gives back what a sandbox has leased.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn release(&mut self, sandbox: &str) -> Result<(), Error> {
        if self.leased_networks(sandbox)?.is_empty() {
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

    /// Puts a user's network on record, with the row that addresses are leased by. Refused where
    /// the name is taken or the subnet overlaps that of another network; `overlaps` compares
    /// subnets in text form.
    ///
    /// # Errors
    /// [`Error::NetworkExists`], [`Error::SubnetTaken`], [`Error::Store`].
    pub fn insert_network(
        &mut self,
        row: &NetworkRow,
        overlaps: impl Fn(&str, &str) -> bool,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            let mut statement = transaction
                .prepare("SELECT name, subnet FROM networks")
                .map_err(fail)?;
            let known = statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect::<Result<Vec<(String, String)>, _>>)
                .map_err(fail)?;
            for (name, subnet) in known {
                if name == row.name {
                    return Err(Error::NetworkExists { name });
                }
                if overlaps(&subnet, &row.subnet) {
                    return Err(Error::SubnetTaken {
                        subnet: row.subnet.clone(),
                        holder: format!("network {name} ({subnet})"),
                    });
                }
            }
            transaction
                .execute(
                    "INSERT INTO networks VALUES (?1, ?2, ?3, ?4, 0)",
                    params![row.name, row.bridge, row.subnet, row.gateway],
                )
                .map_err(fail)?;
            transaction
                .execute(
                    "INSERT INTO network_objects VALUES (?1, ?2, ?3, ?4)",
                    params![row.name, row.id, row.created_at, row.config],
                )
                .map_err(fail)?;
            Ok(())
        })
    }

    /// The networks that users have made, the oldest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn networks(&self) -> Result<Vec<NetworkRow>, Error> {
        self.all(
            "SELECT o.name, o.id, o.created_at, o.config, n.bridge, n.subnet, n.gateway
             FROM network_objects o JOIN networks n ON n.name = o.name
             ORDER BY o.created_at, o.name",
            [],
            |row| {
                Ok(NetworkRow {
                    name: row.get(0)?,
                    id: row.get(1)?,
                    created_at: row.get(2)?,
                    config: row.get(3)?,
                    bridge: row.get(4)?,
                    subnet: row.get(5)?,
                    gateway: row.get(6)?,
                })
            },
        )
    }

    /// Takes a network off the record, unless an address of it is leased; whether it was there
    /// and is gone. That its links are still to be removed goes on record with it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete_network(&mut self, name: &str) -> Result<bool, Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        let networks = self.networks()?;
        let Some(row) = networks.into_iter().find(|row| row.name == name) else {
            return Ok(false);
        };
        let text = serde_json::to_string(&row).map_err(|source| Error::Record {
            id: row.id.clone(),
            source,
        })?;
        self.write(Durability::Full, |transaction| {
            let removed = transaction
                .execute(
                    "DELETE FROM networks WHERE name = ?1
                     AND NOT EXISTS (SELECT 1 FROM leases WHERE network = ?1)",
                    [name],
                )
                .map_err(fail)?;
            if removed > 0 {
                transaction
                    .execute("DELETE FROM network_objects WHERE name = ?1", [name])
                    .map_err(fail)?;
                transaction
                    .execute(
                        "INSERT OR REPLACE INTO meta VALUES (?1, ?2)",
                        [format!("{REMOVED}{}", row.id), text],
                    )
                    .map_err(fail)?;
            }
            Ok(removed > 0)
        })
    }

    /// Networks off the record whose links may still be there, as they were on record.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn removed_networks(&self) -> Result<Vec<String>, Error> {
        self.all(
            "SELECT value FROM meta WHERE substr(key, 1, length(?1)) = ?1",
            [REMOVED],
            |row| row.get(0),
        )
    }

    /// Nothing is left of a network in [`Store::removed_networks`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forget_removed_network(&mut self, text: &str) -> Result<(), Error> {
        let path = self.path.clone();
        self.write(Durability::Normal, |transaction| {
            transaction
                .execute(
                    "DELETE FROM meta WHERE substr(key, 1, length(?1)) = ?1 AND value = ?2",
                    [REMOVED, text],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(())
        })
    }

    /// Puts a container on a network. Refused where it is already.
    ///
    /// # Errors
    /// [`Error::EndpointExists`], [`Error::Store`].
    pub fn insert_endpoint(
        &mut self,
        container: &str,
        network: &str,
        config: &str,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Store {
            path: path.clone(),
            source,
        };
        self.write(Durability::Full, |transaction| {
            let added = transaction
                .execute(
                    "INSERT OR IGNORE INTO endpoints VALUES (?1, ?2,
                     (SELECT COALESCE(MAX(position) + 1, 0) FROM endpoints WHERE container = ?1),
                     ?3)",
                    [container, network, config],
                )
                .map_err(fail)?;
            if added == 0 {
                return Err(Error::EndpointExists {
                    container: container.into(),
                    network: network.into(),
                });
            }
            Ok(())
        })
    }

    /// Takes a container off a network; whether it was on it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn delete_endpoint(&mut self, container: &str, network: &str) -> Result<bool, Error> {
        let path = self.path.clone();
        self.write(Durability::Full, |transaction| {
            let removed = transaction
                .execute(
                    "DELETE FROM endpoints WHERE container = ?1 AND network = ?2",
                    [container, network],
                )
                .map_err(|source| Error::Store { path, source })?;
            Ok(removed > 0)
        })
    }

    /// The networks that a container is on, in the order in which it was put on them, with what
    /// was asked for there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn endpoints(&self, container: &str) -> Result<Vec<(String, String)>, Error> {
        self.all(
            "SELECT network, config FROM endpoints WHERE container = ?1 ORDER BY position",
            [container],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The networks of every container that has any on record, in order.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn all_endpoints(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut networks: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let rows = self.all(
            "SELECT container, network FROM endpoints ORDER BY container, position",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (container, network) in rows {
            networks.entry(container).or_default().push(network);
        }
        Ok(networks)
    }

    /// The containers on a network: id, name, host name's configuration and endpoint.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn network_members(&self, network: &str) -> Result<Vec<Member>, Error> {
        self.all(
            "SELECT c.id, c.name, c.config, e.config FROM endpoints e
             JOIN containers c ON c.id = e.container
             WHERE e.network = ?1 ORDER BY c.created_at, c.id",
            [network],
            |row| {
                Ok(Member {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    container: row.get(2)?,
                    endpoint: row.get(3)?,
                })
            },
        )
    }
}

/// A container on a network.
#[derive(Clone, Debug)]
pub struct Member {
    /// Id of the container.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its configuration, as JSON.
    pub container: String,
    /// What was asked for on this network, as JSON.
    pub endpoint: String,
}

/// A user's network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NetworkRow {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Creation, in nanoseconds since 1970.
    pub created_at: i64,
    /// Configuration, as JSON.
    pub config: String,
    /// Name of the bridge.
    pub bridge: String,
    /// IPv4 subnet.
    pub subnet: String,
    /// The bridge's own address.
    pub gateway: String,
}
