//! Published ports: elements of three maps.
//!
//! Single ports are in hash tables, one for each address and one for all addresses. A range on all
//! addresses whose ports keep their numbers is one interval in a tree; other ranges are single
//! ports. So a change costs the same whatever is there already.

use super::ruleset::{PUBLISHED, PUBLISHED_ANY, RANGES};
use super::{FirewallError, attempt, missing, table_name};
use crate::Protocol;
use crate::netlink::{Family, NetlinkError, Socket};
use crate::nft::{Element, ElementKey, Transaction, dump_elements};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;

const MAPS: [&str; 5] = [
    PUBLISHED,
    PUBLISHED_ANY,
    RANGES[0].1,
    RANGES[1].1,
    RANGES[2].1,
];

/// Consecutive ports of the host that lead to consecutive ports of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapping {
    /// The host's address; all of them if absent or 0.0.0.0.
    pub host_address: Option<Ipv4Addr>,
    /// The first port of the host.
    pub host_port: u16,
    /// The container's address.
    pub container_address: Ipv4Addr,
    /// The first port of the container.
    pub container_port: u16,
    /// The number of ports, at least one.
    pub count: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A mapping that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The mapping. A range whose ports change their numbers, or on one address only, shows as
    /// single ports.
    pub mapping: PortMapping,
    /// Who published it.
    pub owner: String,
}

/// Publishes ports, all in one transaction, with `owner` (at most 252 bytes) noted on each.
///
/// The caller must hold the ports' reservation ([`crate::ports::reserve`]). So if one of them is
/// published already, that is left over from an owner that died, and is replaced.
///
/// # Errors
/// [`FirewallError::Ports`], [`FirewallError::Instance`], [`FirewallError::Missing`], the kernel's
/// refusal.
pub fn publish(instance: &str, owner: &str, mappings: &[PortMapping]) -> Result<(), FirewallError> {
    publish_with(
        &mut Socket::open(Family::Netfilter)?,
        instance,
        owner,
        mappings,
    )
}

/// [`publish`] through a socket that the caller keeps.
///
/// Closing a netfilter socket waits for the kernel to free what was deleted last in the network
/// namespace, by whomever: 10 to 15 ms on Linux 6.18, where publishing itself takes 0.1 ms. Who
/// starts and stops containers keeps one socket for as long as it lives.
///
/// # Errors
/// As [`publish`].
pub fn publish_with(
    socket: &mut Socket,
    instance: &str,
    owner: &str,
    mappings: &[PortMapping],
) -> Result<(), FirewallError> {
    let table = table_name(instance)?;
    let new = placed(mappings, owner)?;
    match add(&table, &new, &[]).commit(socket) {
        // ENOTEMPTY: a range that overlaps another one partly.
        Err(error) if matches!(error.errno, Errno::EXIST | Errno::NOTEMPTY) => {
            attempt(|| replace(socket, &table, &new))
        }
        other => other,
    }
    .map_err(|error| missing(instance, error))
}

/// Ends the publication of ports, all in one transaction. Ones that are not there are passed over.
///
/// To be called before their reservation is given up.
///
/// # Errors
/// [`FirewallError::Ports`], [`FirewallError::Instance`], the kernel's refusal.
pub fn unpublish(instance: &str, mappings: &[PortMapping]) -> Result<(), FirewallError> {
    unpublish_with(&mut Socket::open(Family::Netfilter)?, instance, mappings)
}

/// [`unpublish`] through a socket that the caller keeps, for the reason given at
/// [`publish_with`]: the first close after a deletion is the one that waits.
///
/// # Errors
/// As [`unpublish`].
pub fn unpublish_with(
    socket: &mut Socket,
    instance: &str,
    mappings: &[PortMapping],
) -> Result<(), FirewallError> {
    let table = table_name(instance)?;
    let old = placed(mappings, "")?;
    let mut transaction = Transaction::new(&table);
    remove(&mut transaction, &old);
    match transaction.commit(socket) {
        Err(error) if error.errno == Errno::NOENT => {
            let keys: HashSet<_> = old.iter().map(Placed::identity).collect();
            remove_where(socket, &table, |present| keys.contains(&present.identity())).map(|_| ())
        }
        other => Ok(other?),
    }
}

/// Ends every publication of an owner; returns how many elements that were. Reads all published
/// ports: it is for what a dead process left behind.
///
/// # Errors
/// [`FirewallError::Instance`], the kernel's refusal.
pub fn unpublish_owner(instance: &str, owner: &str) -> Result<usize, FirewallError> {
    let table = table_name(instance)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    remove_where(&mut socket, &table, |present| {
        present.published.owner == owner
    })
}

/// Lists what is published.
///
/// # Errors
/// [`FirewallError::Instance`], [`FirewallError::Missing`], the kernel's refusal.
pub fn list_published(instance: &str) -> Result<Vec<Published>, FirewallError> {
    let table = table_name(instance)?;
    let mut socket = Socket::open(Family::Netfilter)?;
    let present = dump(&mut socket, &table).map_err(|error| missing(instance, error))?;
    let mut published: Vec<_> = present
        .into_iter()
        .map(|present| present.published)
        .collect();
    published.sort_unstable_by_key(|entry| entry.mapping);
    Ok(published)
}

/// A mapping with the elements that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    map: &'static str,
    published: Published,
    /// One, or the beginning and the end of a range.
    elements: Vec<Element>,
}

impl Placed {
    /// What no two have in common.
    fn identity(&self) -> (&'static str, &[u8]) {
        let key = self.elements.first().map(|element| &element.key.start[..]);
        (self.map, key.unwrap_or_default())
    }
}

fn of_map<'p>(placed: &'p [Placed], map: &'static str) -> impl Iterator<Item = &'p Element> {
    placed
        .iter()
        .filter(move |placed| placed.map == map)
        .flat_map(|placed| &placed.elements)
}

fn add<'t>(table: &'t str, new: &[Placed], old: &[Placed]) -> Transaction<'t> {
    let mut transaction = Transaction::new(table);
    remove(&mut transaction, old);
    for map in MAPS {
        transaction.add_elements(map, of_map(new, map), true);
    }
    transaction
}

fn remove(transaction: &mut Transaction<'_>, old: &[Placed]) {
    for map in MAPS {
        transaction.delete_elements(map, of_map(old, map).map(|element| &element.key));
    }
}

fn remove_where(
    socket: &mut Socket,
    table: &str,
    select: impl Fn(&Placed) -> bool,
) -> Result<usize, FirewallError> {
    let removed = attempt(|| {
        let mut old = match dump(socket, table) {
            Err(error) if error.errno == Errno::NOENT => return Ok(0),
            other => other?,
        };
        old.retain(&select);
        let mut transaction = Transaction::new(table);
        remove(&mut transaction, &old);
        transaction.commit(socket)?;
        Ok(old.len())
    })?;
    Ok(removed)
}

/// Adds elements in place of those that have a port in common with them.
fn replace(socket: &mut Socket, table: &str, new: &[Placed]) -> Result<(), NetlinkError> {
    let mut old = dump(socket, table)?;
    old.retain(|present| {
        new.iter()
            .any(|wanted| collide(&wanted.published.mapping, &present.published.mapping))
    });
    add(table, new, &old).commit(socket)
}

fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    let same_address = match (one.host_address, other.host_address) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    same_address
        && one.protocol == other.protocol
        && one.host_port <= last_port(other)
        && other.host_port <= last_port(one)
}

fn last_port(mapping: &PortMapping) -> u16 {
    mapping.host_port + (mapping.count - 1)
}

/// Splits mappings into what is one entry of a map each.
fn placed(mappings: &[PortMapping], owner: &str) -> Result<Vec<Placed>, FirewallError> {
    let mut entries = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        check(mapping.host_port, mapping.count)?;
        check(mapping.container_port, mapping.count)?;
        let host_address = mapping
            .host_address
            .filter(|address| !address.is_unspecified());
        let mapping = PortMapping {
            host_address,
            ..*mapping
        };
        let keeps_numbers = mapping.host_port == mapping.container_port;
        if mapping.count > 1 && host_address.is_none() && keeps_numbers {
            entries.push(place(mapping, owner));
            continue;
        }
        entries.extend((0..mapping.count).map(|offset| {
            let host_port = mapping.host_port + offset;
            let container_port = mapping.container_port + offset;
            place(
                PortMapping {
                    host_port,
                    container_port,
                    count: 1,
                    ..mapping
                },
                owner,
            )
        }));
    }
    Ok(entries)
}

fn check(first: u16, count: u16) -> Result<(), FirewallError> {
    let valid = first > 0 && count > 0 && first.checked_add(count - 1).is_some();
    if valid {
        Ok(())
    } else {
        Err(FirewallError::Ports { first, count })
    }
}

/// The elements of a mapping that is one entry.
fn place(mapping: PortMapping, owner: &str) -> Placed {
    let published = Published {
        mapping,
        owner: owner.to_owned(),
    };
    let element = |key, data: &[u8]| Element {
        key,
        data: data.to_vec(),
        comment: owner.to_owned(),
    };
    let address = mapping.container_address.octets();
    if mapping.count == 1 {
        let map = if mapping.host_address.is_some() {
            PUBLISHED
        } else {
            PUBLISHED_ANY
        };
        let key = key(mapping.host_address, mapping.protocol, mapping.host_port);
        let [high, low] = mapping.container_port.to_be_bytes();
        let data = [&address[..], &[high, low, 0, 0]].concat();
        return Placed {
            map,
            published,
            elements: vec![element(ElementKey::exact(key), &data)],
        };
    }
    let begin = ElementKey::exact(mapping.host_port.to_be_bytes().to_vec());
    let mut elements = vec![element(begin, &address)];
    // A range up to the last port there is has no end.
    if let Some(end) = last_port(&mapping).checked_add(1) {
        let key = ElementKey::closing(end.to_be_bytes().to_vec());
        elements.push(Element {
            key,
            data: Vec::new(),
            comment: String::new(),
        });
    }
    Placed {
        map: range_map(mapping.protocol),
        published,
        elements,
    }
}

fn range_map(protocol: Protocol) -> &'static str {
    let [tcp, udp, sctp] = RANGES.map(|(_, map)| map);
    match protocol {
        Protocol::Tcp => tcp,
        Protocol::Udp => udp,
        Protocol::Sctp => sctp,
    }
}

/// The concatenation of address, protocol and port, each padded to four bytes.
fn key(address: Option<Ipv4Addr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    if let Some(address) = address {
        key.extend_from_slice(&address.octets());
    }
    let [high, low] = port.to_be_bytes();
    key.extend_from_slice(&[protocol.number(), 0, 0, 0, high, low, 0, 0]);
    key
}

/// Reads all maps.
fn dump(socket: &mut Socket, table: &str) -> Result<Vec<Placed>, NetlinkError> {
    let mut all = Vec::new();
    for map in [PUBLISHED, PUBLISHED_ANY] {
        let elements = dump_elements(socket, table, map)?;
        all.extend(
            elements
                .iter()
                .filter_map(|element| read_single(map, element)),
        );
    }
    for (protocol, map) in RANGES {
        all.extend(read_ranges(protocol, &dump_elements(socket, table, map)?));
    }
    Ok(all)
}

fn read_single(map: &'static str, element: &Element) -> Option<Placed> {
    let key = &element.key.start[..];
    let (host_address, rest) = if map == PUBLISHED {
        let (address, rest) = key.split_first_chunk::<4>()?;
        (Some(Ipv4Addr::from(*address)), rest)
    } else {
        (None, key)
    };
    let (container_address, container_port) = element.data.split_first_chunk::<4>()?;
    let mapping = PortMapping {
        host_address,
        host_port: port(rest.get(4..6)?)?,
        container_address: Ipv4Addr::from(*container_address),
        container_port: port(container_port.get(..2)?)?,
        count: 1,
        protocol: Protocol::from_number(*rest.first()?)?,
    };
    Some(place(mapping, &element.comment))
}

/// Puts ranges together from where they begin and where they end.
fn read_ranges(protocol: Protocol, elements: &[Element]) -> Vec<Placed> {
    let ends: BTreeSet<u16> = elements
        .iter()
        .filter(|element| element.key.closes)
        .filter_map(|element| port(&element.key.start))
        .collect();
    let begins = elements.iter().filter(|element| !element.key.closes);
    begins
        .filter_map(|element| {
            let first = port(&element.key.start)?;
            let above = ends.range(first.checked_add(1)?..).next();
            let last = above.map_or(u16::MAX, |end| end - 1);
            let mapping = PortMapping {
                host_address: None,
                host_port: first,
                container_address: Ipv4Addr::from(<[u8; 4]>::try_from(&element.data[..]).ok()?),
                container_port: first,
                count: last.checked_sub(first)?.checked_add(1)?,
                protocol,
            };
            // Nobody but us writes these maps; a range of one port would not be ours.
            (mapping.count > 1).then(|| place(mapping, &element.comment))
        })
        .collect()
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: &str, host_port: u16, container_port: u16, count: u16) -> PortMapping {
        PortMapping {
            host_address: (host != "*").then(|| host.parse().unwrap()),
            host_port,
            container_address: Ipv4Addr::new(172, 17, 0, 2),
            container_port,
            count,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn mappings_become_elements_and_back() {
        for (wanted, map, entries) in [
            (mapping("*", 8080, 80, 1), PUBLISHED_ANY, 1),
            (mapping("127.0.0.1", 8080, 80, 1), PUBLISHED, 1),
            (mapping("*", 8000, 8000, 1000), "published_tcp", 1),
            (mapping("*", 1, 1, 65535), "published_tcp", 1),
            (mapping("*", 65534, 65534, 2), "published_tcp", 1),
            (mapping("192.0.2.1", 8000, 8000, 2), PUBLISHED, 2),
            (mapping("*", 8000, 9000, 20), PUBLISHED_ANY, 20),
        ] {
            let placed = placed(&[wanted], "owner").unwrap();
            assert_eq!(placed.len(), entries, "{wanted:?}");
            let covered: u32 = placed
                .iter()
                .map(|entry| u32::from(entry.published.mapping.count))
                .sum();
            assert_eq!(covered, u32::from(wanted.count));
            for entry in placed {
                assert_eq!(entry.map, map);
                assert_eq!(entry.published.owner, "owner");
                let read = if map == "published_tcp" {
                    read_ranges(Protocol::Tcp, &entry.elements).pop()
                } else {
                    read_single(map, &entry.elements[0])
                };
                assert_eq!(read, Some(entry));
            }
        }
    }

    #[test]
    fn adjacent_ranges_are_told_apart() {
        let ranges = [
            mapping("*", 9000, 9000, 10),
            mapping("*", 9010, 9010, 5),
            mapping("*", 65000, 65000, 536),
        ];
        let placed = placed(&ranges, "owner").unwrap();
        // In whatever order the kernel lists them.
        let mut elements: Vec<_> = placed
            .iter()
            .flat_map(|placed| placed.elements.clone())
            .collect();
        elements.reverse();
        let mut read = read_ranges(Protocol::Tcp, &elements);
        read.reverse();
        assert_eq!(read, placed);
        assert_eq!(read_ranges(Protocol::Tcp, &[]), []);
    }

    #[test]
    fn an_unspecified_address_is_all_addresses() {
        let explicit = placed(&[mapping("0.0.0.0", 80, 80, 1)], "").unwrap();
        assert_eq!(explicit, placed(&[mapping("*", 80, 80, 1)], "").unwrap());
    }

    #[test]
    fn ports_stay_in_range() {
        for (host_port, container_port, count) in [
            (0, 80, 1),
            (80, 0, 1),
            (80, 80, 0),
            (65535, 1, 2),
            (1, 65535, 2),
            (2, 2, 65535),
        ] {
            let refused = placed(&[mapping("*", host_port, container_port, count)], "");
            assert!(
                matches!(refused, Err(FirewallError::Ports { .. })),
                "{host_port} {container_port} {count}"
            );
        }
    }

    #[test]
    fn collisions() {
        for (one, other, expected) in [
            (mapping("*", 80, 1, 1), mapping("127.0.0.1", 80, 1, 1), true),
            (
                mapping("10.0.0.1", 80, 1, 1),
                mapping("127.0.0.1", 80, 1, 1),
                false,
            ),
            (mapping("*", 80, 1, 10), mapping("*", 89, 1, 1), true),
            (mapping("*", 80, 1, 10), mapping("*", 90, 1, 1), false),
            (mapping("*", 65530, 1, 6), mapping("*", 65535, 1, 1), true),
        ] {
            assert_eq!(collide(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(collide(&other, &one), expected, "{other:?} {one:?}");
        }
    }
}
