//! Networks as objects: made, listed, described and removed.

mod bridge;
mod endpoints;
mod files;
mod request;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_network::ipam::Subnet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Engine;
use crate::error::Error;
use crate::store::NetworkRow;
use gantry_supervisor::log::format_time;
use gantry_supervisor::order::Attachment;

pub(crate) use files::{Resolver, extra_hosts, hosts_file, names_of};
pub use request::{NetworkRequest, SubnetRequest};

/// Name of the network that a container is on if nothing else is said.
pub const DEFAULT: &str = "bridge";

/// What the store keeps of a network in JSON. Fields are only ever added.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct NetworkConfig {
    /// Driver: `bridge`, `macvlan` or `ipvlan`.
    pub driver: String,
    /// Whether the network has no way out.
    pub internal: bool,
    /// Whether a swarm's containers may be put on it by hand: of no effect here.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, as given.
    pub options: BTreeMap<String, String>,
    /// Part of the subnet that addresses are chosen from.
    pub ip_range: Option<String>,
    /// Addresses of the subnet that are never leased, by what they are for.
    pub aux_addresses: BTreeMap<String, Ipv4Addr>,
    /// Whether the subnet is the user's choice: then containers may ask for addresses.
    pub chosen_subnet: bool,
    /// Whether containers of the network reach each other.
    pub icc: bool,
    /// Whether connections to elsewhere carry the host's address.
    pub masquerade: bool,
    /// Address that ports are published at if none is given.
    pub host_address: Option<std::net::IpAddr>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            driver: "bridge".into(),
            internal: false,
            attachable: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            ip_range: None,
            aux_addresses: BTreeMap::new(),
            chosen_subnet: false,
            icc: true,
            masquerade: true,
            host_address: None,
            mtu: None,
        }
    }
}

impl NetworkConfig {
    /// How containers get a link.
    pub(crate) fn attachment(&self) -> Attachment {
        let mode = |option: &str, default: &str| {
            let given = self.options.get(option);
            given.map_or_else(|| default.to_owned(), Clone::clone)
        };
        match self.driver.as_str() {
            "macvlan" => Attachment::Macvlan {
                mode: mode("macvlan_mode", "bridge"),
            },
            "ipvlan" => Attachment::Ipvlan {
                mode: mode("ipvlan_mode", "l2"),
            },
            _ => Attachment::Bridge,
        }
    }
}

/// A network that containers get a link to.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Creation, in nanoseconds since 1970.
    pub created_at: i64,
    /// Name of the bridge, or of the link that containers share.
    pub bridge: String,
    /// Subnet.
    pub subnet: Subnet,
    /// The bridge's own address, or of the router that containers use.
    pub gateway: Ipv4Addr,
    /// The rest.
    pub config: NetworkConfig,
}

impl Net {
    fn of_row(row: NetworkRow) -> Result<Net, Error> {
        let damaged = || Error::Network {
            network: row.name.clone(),
            message: "its record is damaged".into(),
        };
        Ok(Net {
            subnet: row.subnet.parse().map_err(|_| damaged())?,
            gateway: row.gateway.parse().map_err(|_| damaged())?,
            config: serde_json::from_str(&row.config).map_err(|_| damaged())?,
            id: row.id,
            created_at: row.created_at,
            bridge: row.bridge,
            name: row.name,
        })
    }

    /// Whether names are looked up by us: on the default network they never were.
    pub(crate) fn has_names(&self) -> bool {
        self.name != DEFAULT
    }
}

/// A network, for a list.
#[derive(Clone, Debug)]
pub struct NetworkSummary {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Creation, in nanoseconds since 1970.
    pub created_at: i64,
    /// Driver.
    pub driver: String,
    /// Whether it has no way out.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it belongs to the installation.
    pub predefined: bool,
    /// Number of containers that have a place on it, running or not.
    pub containers: usize,
}

/// Networks that there is always exactly one of, with their drivers.
const PREDEFINED: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

impl Engine {
    /// Every network, the predefined ones first.
    ///
    /// # Errors
    /// [`Error::Store`]. A network whose record is damaged is listed without its details.
    pub fn networks(&self) -> Result<Vec<NetworkSummary>, Error> {
        let default = self.default_net()?;
        let mut list = vec![NetworkSummary {
            name: default.name,
            id: default.id,
            created_at: default.created_at,
            driver: "bridge".into(),
            internal: false,
            labels: BTreeMap::new(),
            predefined: true,
            containers: self.store()?.leases(DEFAULT)?.len(),
        }];
        for (name, driver) in PREDEFINED {
            list.push(NetworkSummary {
                name: name.into(),
                id: self.predefined_id(name),
                created_at: default.created_at,
                driver: driver.into(),
                internal: false,
                labels: BTreeMap::new(),
                predefined: true,
                containers: 0,
            });
        }
        let rows = self.store()?.networks()?;
        for row in rows {
            let config: NetworkConfig = serde_json::from_str(&row.config).unwrap_or_default();
            list.push(NetworkSummary {
                containers: self.store()?.network_members(&row.name)?.len(),
                name: row.name,
                id: row.id,
                created_at: row.created_at,
                driver: config.driver,
                internal: config.internal,
                labels: config.labels,
                predefined: false,
            });
        }
        Ok(list)
    }

    /// A network in Docker's form (`GET /networks/{id}`).
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`], [`Error::Store`].
    pub fn inspect_network(&self, name: &str) -> Result<Value, Error> {
        if let Some((name, driver)) = self.predefined(name) {
            return Ok(json!({
                "Name": name, "Id": self.predefined_id(name), "Created": format_time(self.default_net()?.created_at),
                "Scope": "local", "Driver": driver, "EnableIPv4": true, "EnableIPv6": false,
                "IPAM": {"Driver": "default", "Options": null, "Config": null},
                "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
                "Containers": {}, "Options": {}, "Labels": {},
            }));
        }
        let net = self.net(name)?;
        let mut ipam = Map::new();
        ipam.insert("Subnet".into(), net.subnet.to_string().into());
        if let Some(range) = &net.config.ip_range {
            ipam.insert("IPRange".into(), range.clone().into());
        }
        ipam.insert("Gateway".into(), net.gateway.to_string().into());
        if !net.config.aux_addresses.is_empty() {
            ipam.insert("AuxiliaryAddresses".into(), json!(net.config.aux_addresses));
        }
        let mut containers = Map::new();
        let leases = self.store()?.leases(&net.name)?;
        for (sandbox, address) in leases {
            let address = Ipv4Addr::from(address);
            let name = self.store()?.container(&sandbox)?.map(|row| row.name);
            let mac = self.mac_of(&net.name, &sandbox, address)?;
            containers.insert(
                sandbox.clone(),
                json!({
                    "Name": name.unwrap_or_default(), "EndpointID": endpoint_id(&net.id, &sandbox),
                    "MacAddress": mac, "IPv4Address": format!("{address}/{}", net.subnet.prefix_length()),
                    "IPv6Address": "",
                }),
            );
        }
        let mut options = net.config.options.clone();
        if !net.has_names() {
            options.insert(request::BRIDGE_NAME.into(), net.bridge.clone());
            options.insert(
                "com.docker.network.bridge.default_bridge".into(),
                "true".into(),
            );
        }
        Ok(json!({
            "Name": net.name, "Id": net.id, "Created": format_time(net.created_at),
            "Scope": "local", "Driver": net.config.driver, "EnableIPv4": true, "EnableIPv6": false,
            "IPAM": {"Driver": "default", "Options": {}, "Config": [ipam]},
            "Internal": net.config.internal, "Attachable": net.config.attachable, "Ingress": false,
            "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
            "Containers": containers, "Options": options, "Labels": net.config.labels,
        }))
    }

    /// Removes a network that no running container is on, and returns its name. Containers that
    /// do not run keep their wish to be on it, as in Docker, and say so at their start.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`], [`Error::PredefinedNetwork`], [`Error::NetworkInUse`].
    pub fn remove_user_network(&self, name: &str) -> Result<String, Error> {
        if let Some((name, _)) = self.predefined(name) {
            return Err(predefined(name, "removed"));
        }
        // Whoever makes it is done with its bridge or has not begun, and the name stays with this
        // network: no bridge is left that nobody knows.
        let _choosing = self.lock_choice(name)?;
        self.finish_removals()?;
        let net = self.net(name)?;
        if !net.has_names() {
            return Err(predefined(DEFAULT, "removed"));
        }
        if !self.store()?.delete_network(&net.name)? {
            let leases = self.store()?.leases(&net.name)?;
            let mut holders = Vec::new();
            for (sandbox, _) in leases {
                let row = self.store()?.container(&sandbox)?;
                let name = row.map_or_else(|| sandbox.clone(), |row| row.name);
                holders.push(format!("name:{name:?} id:{:?}", &sandbox[..12]));
            }
            return Err(Error::NetworkInUse {
                name: net.name,
                holders: holders.join(", "),
            });
        }
        self.finish_removals()?;
        Ok(net.name)
    }

    /// Removes the links, rules and files of networks that are off the record. The caller keeps
    /// others from making networks.
    pub(crate) fn finish_removals(&self) -> Result<(), Error> {
        let rows = self.store()?.removed_networks()?;
        for text in rows {
            // One that cannot be read must not keep the others; its bridge is left to `reset`.
            if let Some(net) = serde_json::from_str(&text)
                .ok()
                .and_then(|row| Net::of_row(row).ok())
            {
                self.remove_bridge(&net)?;
                self.remove_network_files(&net);
            }
            self.store()?.forget_removed_network(&text)?;
        }
        Ok(())
    }

    /// Removes every network of a user that no container has a place on, running or not, and
    /// that `wanted` says yes to; returns their names.
    ///
    /// # Errors
    /// [`Error::Store`]. What cannot be removed is left out.
    pub fn prune_networks(
        &self,
        wanted: impl Fn(&NetworkSummary) -> bool,
    ) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for network in self.networks()? {
            if network.predefined || network.containers > 0 || !wanted(&network) {
                continue;
            }
            if let Ok(name) = self.remove_user_network(&network.name) {
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// A network on a bridge, by name, id or the beginning of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`], [`Error::Ambiguous`].
    pub(crate) fn net(&self, name: &str) -> Result<Net, Error> {
        if name == DEFAULT || name == "default" {
            return self.default_net();
        }
        let rows = self.store()?.networks()?;
        let exact = rows
            .iter()
            .position(|row| row.name == name)
            .or_else(|| rows.iter().position(|row| row.id == name));
        let found = match exact {
            Some(exact) => exact,
            None => {
                let is_prefix = |id: &str| !name.is_empty() && id.starts_with(name);
                let mut matching = (0..rows.len()).filter(|&index| is_prefix(&rows[index].id));
                match (matching.next(), matching.next()) {
                    (Some(one), None) => one,
                    (Some(_), Some(_)) => {
                        return Err(Error::Ambiguous {
                            prefix: name.into(),
                        });
                    }
                    (None, _) => {
                        let default = self.default_net()?;
                        if is_prefix(&default.id) {
                            return Ok(default);
                        }
                        return Err(Error::NoSuchNetwork { name: name.into() });
                    }
                }
            }
        };
        Net::of_row(rows[found].clone())
    }

    /// The default network.
    pub(crate) fn default_net(&self) -> Result<Net, Error> {
        let (bridge, subnet, gateway) = self.default_network()?;
        Ok(Net {
            name: DEFAULT.into(),
            id: self.predefined_id(DEFAULT),
            created_at: self.made_at(),
            bridge,
            subnet,
            gateway,
            config: NetworkConfig::default(),
        })
    }

    /// When the installation was made, in nanoseconds since 1970, if its file system knows.
    fn made_at(&self) -> i64 {
        std::fs::metadata(self.roots.data.join("state.db"))
            .and_then(|file| file.created())
            .ok()
            .and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_nanos()).ok())
            .unwrap_or_default()
    }

    /// Which predefined network without a bridge is meant.
    pub(crate) fn predefined(&self, name: &str) -> Option<(&'static str, &'static str)> {
        PREDEFINED.into_iter().find(|(known, _)| {
            *known == name || (name.len() >= 4 && self.predefined_id(known).starts_with(name))
        })
    }

    /// Id of a predefined network: the same for ever, and another one in each installation.
    pub(crate) fn predefined_id(&self, name: &str) -> String {
        let seed = format!("{} {name}", self.roots.instance());
        gantry_image::digest::Digest::of(seed.as_bytes()).hex()
    }
}

/// Id of a container's place on a network.
pub(crate) fn endpoint_id(network: &str, sandbox: &str) -> String {
    gantry_image::digest::Digest::of(format!("{network} {sandbox}").as_bytes()).hex()
}

fn predefined(name: &str, action: &'static str) -> Error {
    Error::PredefinedNetwork {
        name: name.into(),
        action,
    }
}
