//! The firewall and NAT rules of an installation: one nf_tables table named `gantry-INSTANCE`.
//!
//! The rules are constant; what varies (bridges and published ports) are elements of its sets and
//! maps, so that a change costs the same whatever is there already, and each is one transaction.
//! Other tables are never touched, so the host's own firewall keeps its say.

mod published;
mod ruleset;
#[cfg(test)]
mod ruleset_tests;
#[cfg(test)]
mod traffic_tests;

pub use published::{
    PortMapping, Published, list_published, publish, publish_with, unpublish, unpublish_owner,
    unpublish_with,
};

use crate::ipam::Subnet;
use crate::link::is_valid_name;
use crate::netlink::{Family, NetlinkError, Socket};
use crate::nft::{Element, ElementKey, Transaction, dump_elements, find_element};
use rustix::io::Errno;
use std::net::Ipv4Addr;

/// How often a transaction is tried again after another process changed the same elements.
const ATTEMPTS: usize = 4;

/// A change of the firewall that failed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An installation's id that cannot be part of a table's name.
    #[error("{0:?} is not an installation id of 1 to 32 lower case hexadecimal digits")]
    Instance(String),
    /// A bridge that no link can be.
    #[error("{0:?} is not a link name")]
    Bridge(String),
    /// The installation has no table: it was never made or somebody removed it, for example by
    /// `nft flush ruleset`.
    #[error("the nf_tables table gantry-{instance} is missing")]
    Missing {
        /// The installation.
        instance: String,
    },
    /// Ports beyond 65535, or port 0.
    #[error("a range of {count} ports from {first} is not within 1 to 65535")]
    Ports {
        /// The first port.
        first: u16,
        /// The number of ports.
        count: u16,
    },
}

/// A bridge and what its containers may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeSpec<'a> {
    /// The link's name.
    pub name: &'a str,
    /// The network of the containers.
    pub subnet: Subnet,
    /// The host's address on the bridge.
    pub gateway: Ipv4Addr,
    /// Whether containers of this bridge reach each other. Routed traffic only; for frames within
    /// the bridge isolate its ports ([`crate::link::PortOptions`]).
    pub icc: bool,
    /// Whether connections of the containers to elsewhere carry the host's address.
    pub masquerade: bool,
    /// Whether the containers reach nothing but the host and each other.
    pub internal: bool,
}

impl BridgeSpec<'_> {
    /// What is kept with the bridge's element, so that a later process knows what belongs to it.
    fn note(&self) -> String {
        let mut note = format!("{} {}", self.subnet, self.gateway);
        for (set, word) in [
            (self.icc, " icc"),
            (self.masquerade, " masquerade"),
            (self.internal, " internal"),
        ] {
            if set {
                note.push_str(word);
            }
        }
        note
    }

    fn from_note<'a>(name: &'a str, note: &str) -> Option<BridgeSpec<'a>> {
        let mut words = note.split(' ');
        let subnet = words.next()?.parse().ok()?;
        let gateway = words.next()?.parse().ok()?;
        let (mut icc, mut masquerade, mut internal) = (false, false, false);
        for word in words {
            match word {
                "icc" => icc = true,
                "masquerade" => masquerade = true,
                "internal" => internal = true,
                _ => return None,
            }
        }
        Some(BridgeSpec {
            name,
            subnet,
            gateway,
            icc,
            masquerade,
            internal,
        })
    }

    /// The elements that the bridge has in each set.
    fn elements(&self) -> Vec<(&'static str, Element)> {
        let name = link_key(self.name);
        let exact = |start: Vec<u8>| Element {
            key: ElementKey::exact(start),
            data: Vec::new(),
            comment: String::new(),
        };
        let subnet = ElementKey::ranges(
            [&name[..], &self.subnet.network().octets()].concat(),
            [&name[..], &self.subnet.broadcast().octets()].concat(),
        );
        let mut elements = vec![
            (
                ruleset::BRIDGES,
                Element {
                    comment: self.note(),
                    ..exact(name.to_vec())
                },
            ),
            (
                ruleset::SUBNETS,
                Element {
                    key: subnet,
                    ..exact(Vec::new())
                },
            ),
        ];
        if self.icc {
            elements.push((ruleset::CONNECTED, exact([name, name].concat())));
        }
        if self.masquerade {
            elements.push((ruleset::MASQUERADED, exact(name.to_vec())));
        }
        if self.internal {
            elements.push((ruleset::INTERNAL, exact(name.to_vec())));
        }
        elements
    }
}

/// A link's name as a key: 16 bytes, padded with zeros.
fn link_key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key[..name.len()].copy_from_slice(name.as_bytes());
    key
}

/// Makes sure that the installation's rules are in place and cover a bridge, in one transaction.
/// If they are already, nothing is changed, at the cost of two look-ups.
///
/// To be called before the bridge gets `route_localnet` and before its first container.
///
/// # Errors
/// [`FirewallError::Instance`], [`FirewallError::Bridge`], the kernel's refusal.
pub fn ensure(instance: &str, bridge: &BridgeSpec<'_>) -> Result<(), FirewallError> {
    ensure_with(&mut Socket::open(Family::Netfilter)?, instance, bridge)
}

/// [`ensure`] through a socket that the caller keeps ([`publish_with`] says why).
///
/// # Errors
/// As [`ensure`].
pub fn ensure_with(
    socket: &mut Socket,
    instance: &str,
    bridge: &BridgeSpec<'_>,
) -> Result<(), FirewallError> {
    let table = table_name(instance)?;
    check_link(bridge.name)?;
    attempt(|| {
        let current = ruleset::is_current(socket, &table)?;
        let known = find_bridge(socket, &table, bridge.name)?;
        let unchanged = known.as_deref() == Some(bridge.note().as_str());
        if current && unchanged {
            return Ok(());
        }
        let mut transaction = Transaction::new(&table);
        if !current {
            ruleset::install(&mut transaction);
        }
        if !unchanged {
            if let Some(old) = known.and_then(|note| BridgeSpec::from_note(bridge.name, &note)) {
                remove_elements(&mut transaction, &old);
            }
            for (set, element) in bridge.elements() {
                transaction.add_elements(set, &[element], false);
            }
        }
        transaction.commit(socket)
    })?;
    Ok(())
}

/// Removes a bridge from the rules; returns whether it was there. To be called after its last
/// container is gone.
///
/// # Errors
/// [`FirewallError::Instance`], [`FirewallError::Bridge`], the kernel's refusal.
pub fn remove_bridge(instance: &str, name: &str) -> Result<bool, FirewallError> {
    let table = table_name(instance)?;
    check_link(name)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    let removed = attempt(|| {
        let note = find_bridge(&mut socket, &table, name)?;
        let Some(spec) = note.and_then(|note| BridgeSpec::from_note(name, &note)) else {
            return Ok(false);
        };
        let mut transaction = Transaction::new(&table);
        remove_elements(&mut transaction, &spec);
        transaction.commit(&mut socket)?;
        Ok(true)
    })?;
    Ok(removed)
}

/// The names of the bridges that the installation's rules cover.
///
/// # Errors
/// [`FirewallError::Instance`], [`FirewallError::Missing`], the kernel's refusal.
pub fn list_bridges(instance: &str) -> Result<Vec<String>, FirewallError> {
    let table = table_name(instance)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    let elements = dump_elements(&mut socket, &table, ruleset::BRIDGES)
        .map_err(|error| missing(instance, error))?;
    let name =
        |element: &Element| crate::netlink::read_string(&element.key.start).map(str::to_owned);
    Ok(elements.iter().filter_map(name).collect())
}

/// Whether the installation's rules are in place, at the cost of one look-up.
///
/// # Errors
/// [`FirewallError::Instance`], the kernel's refusal.
pub fn exists(instance: &str) -> Result<bool, FirewallError> {
    let table = table_name(instance)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    Ok(ruleset::is_current(&mut socket, &table)?)
}

/// Removes everything of the installation; returns whether there was anything.
///
/// # Errors
/// [`FirewallError::Instance`], the kernel's refusal.
pub fn remove_all(instance: &str) -> Result<bool, FirewallError> {
    let table = table_name(instance)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut transaction = Transaction::new(&table);
    transaction.delete_table();
    match transaction.commit(&mut socket) {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::NOENT => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn find_bridge(
    socket: &mut Socket,
    table: &str,
    name: &str,
) -> Result<Option<String>, NetlinkError> {
    let key = ElementKey::exact(link_key(name).to_vec());
    let element = find_element(socket, table, ruleset::BRIDGES, &key)?;
    Ok(element.map(|element| element.comment))
}

fn remove_elements(transaction: &mut Transaction<'_>, bridge: &BridgeSpec<'_>) {
    for (set, element) in bridge.elements() {
        transaction.delete_elements(set, [&element.key]);
    }
}

fn table_name(instance: &str) -> Result<String, FirewallError> {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if (1..=32).contains(&instance.len()) && instance.bytes().all(hexadecimal) {
        Ok(format!("gantry-{instance}"))
    } else {
        Err(FirewallError::Instance(instance.to_owned()))
    }
}

fn check_link(name: &str) -> Result<(), FirewallError> {
    if is_valid_name(name) {
        Ok(())
    } else {
        Err(FirewallError::Bridge(name.to_owned()))
    }
}

/// What `ENOENT` means where the table is needed.
fn missing(instance: &str, error: NetlinkError) -> FirewallError {
    if error.errno == Errno::NOENT {
        FirewallError::Missing {
            instance: instance.to_owned(),
        }
    } else {
        error.into()
    }
}

/// Repeats a look-up and the transaction that follows from it when another process came between.
fn attempt<T>(mut change: impl FnMut() -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    let mut attempts = 1;
    loop {
        match change() {
            Err(error)
                if attempts < ATTEMPTS && matches!(error.errno, Errno::NOENT | Errno::EXIST) =>
            {
                attempts += 1;
            }
            other => return other,
        }
    }
}
