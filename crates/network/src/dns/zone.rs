//! What a sandbox's name server knows itself: the names of its networks and its own.
//!
//! | question | answer |
//! | --- | --- |
//! | a name of the sandbox, a name on one of its networks, NAME.NETWORK | its addresses, in turn |
//! | the same, of a type that it does not have | no error and no record |
//! | a name of stopped containers only | the name does not exist; nobody else is asked |
//! | an address on one of its networks (`in-addr.arpa`, `ip6.arpa`) | NAME.NETWORK |
//! | anything else, while forwarding is allowed | what other servers say |
//! | anything else otherwise | server failure, as Docker answers |
//! | transfers of zones | refused |

use super::file::{FileError, Watched};
use super::message::{Answer, CLASS_INTERNET, Query, code, kind};
use super::names::{Index, Known};
use super::settings::{Meaning, Settings, Upstream, parse_resolv_conf};
use rustix::fs::CWD;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

/// How long a client may remember a local name, in seconds. Docker says 600, and its clients keep
/// the address of a container that is gone. An answer costs microseconds here, so this is the least
/// that no client takes for something else: 0 makes some refuse to use the answer at all.
const TTL: u32 = 1;
/// At most so many servers are asked.
const MAX_SERVERS: usize = 4;

/// How a question was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer is written.
    Answered,
    /// Another server is to be asked.
    Forward,
}

/// The names and settings of a sandbox.
#[derive(Debug)]
pub(super) struct Zone {
    file: Watched<Settings>,
    settings: Settings,
    tables: Vec<Watched<Index>>,
    resolver: Option<Watched<Vec<SocketAddr>>>,
    servers: Rc<[SocketAddr]>,
    forwards: bool,
    rotation: usize,
    found: Vec<IpAddr>,
}

impl Zone {
    /// Reads the settings and everything that they name.
    pub(super) fn open(path: PathBuf) -> Result<Self, FileError> {
        // For the error, which the later readings do not give.
        let settings = Settings::read(CWD, &path)?;
        let mut zone = Zone {
            file: Watched::new(path),
            settings: Settings::default(),
            tables: Vec::new(),
            resolver: None,
            servers: Rc::from([]),
            forwards: false,
            rotation: 0,
            found: Vec::new(),
        };
        zone.adopt(settings);
        zone.refresh();
        Ok(zone)
    }

    /// Takes notice of files that have changed; returns whether other servers are to be asked from
    /// now on, or whether that is now forbidden or allowed.
    pub(super) fn refresh(&mut self) -> bool {
        let mut changed = self.file.refresh(|text| Settings::parse(&text));
        // Settings that are gone stay as they were: the sandbox is about to end.
        if changed && let Some(settings) = self.file.value().cloned() {
            self.adopt(settings);
        }
        for table in &mut self.tables {
            table.refresh(Index::parse);
        }
        if let Some(resolver) = &mut self.resolver {
            changed |= resolver.refresh(|text| Some(parse_resolv_conf(&text)));
        }
        changed && self.update_servers()
    }

    /// Whether other servers may be asked.
    pub(super) fn forwards(&self) -> bool {
        self.forwards
    }

    fn adopt(&mut self, settings: Settings) {
        let mut known = std::mem::take(&mut self.tables);
        for network in &settings.networks {
            let table = known
                .iter()
                .position(|table| table.path() == network.table)
                .map(|index| known.swap_remove(index))
                .unwrap_or_else(|| Watched::new(network.table.clone()));
            self.tables.push(table);
        }
        self.resolver = match &settings.upstream {
            Upstream::Follow(path) => Some(Watched::new(path.clone())),
            Upstream::Servers(_) => None,
        };
        self.settings = settings;
    }

    fn update_servers(&mut self) -> bool {
        let before = std::mem::replace(&mut self.forwards, self.settings.may_forward());
        let changed = before != self.forwards;
        let followed = self.resolver.as_ref().and_then(Watched::value);
        let servers = match (&self.settings.upstream, followed) {
            (Upstream::Servers(servers), _) | (Upstream::Follow(_), Some(servers)) => servers,
            // Gone for as long as somebody takes to write it anew.
            (Upstream::Follow(_), None) => return changed,
        };
        let servers = &servers[..servers.len().min(MAX_SERVERS)];
        if *self.servers == *servers {
            return changed;
        }
        self.servers = Rc::from(servers);
        true
    }

    /// The servers to ask.
    pub(super) fn servers(&self) -> &Rc<[SocketAddr]> {
        &self.servers
    }

    /// Answers a question into `message` unless another server is to be asked.
    pub(super) fn answer(
        &mut self,
        query: &Query<'_>,
        limit: usize,
        message: &mut Vec<u8>,
    ) -> Outcome {
        let answer = Answer::begin(message, query, limit);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            answer.bad_version();
            return Outcome::Answered;
        }
        if matches!(query.kind, kind::AXFR | kind::IXFR) {
            answer.fail(code::REFUSED);
            return Outcome::Answered;
        }
        let mut buffer = [0; 255];
        match text(query.name, &mut buffer) {
            Some(name) if self.answer_name(query, name, answer) => return Outcome::Answered,
            _ if self.forwards => return Outcome::Forward,
            _ => {}
        }
        Answer::begin(message, query, limit).fail(code::SERVER_FAILURE);
        Outcome::Answered
    }

    /// Answers if the name is known here.
    fn answer_name(&mut self, query: &Query<'_>, name: &str, mut answer: Answer<'_, '_>) -> bool {
        let internet = query.class == CLASS_INTERNET;
        if let Some(address) = reverse_name(name) {
            let mut wire = [0; 255];
            let Some(pointer) = self.reverse(address, &mut wire) else {
                return false;
            };
            if internet && matches!(query.kind, kind::PTR | kind::ANY) {
                answer.pointer(TTL, pointer);
            }
            answer.finish(code::NO_ERROR);
            return true;
        }
        match self.find(name) {
            Known::No => return false,
            Known::Stopped => answer.finish(code::NAME_ERROR),
            Known::Running => {
                let wanted = |address: &IpAddr| match query.kind {
                    kind::A => address.is_ipv4(),
                    kind::AAAA => address.is_ipv6(),
                    kind::ANY => true,
                    _ => false,
                };
                self.found.retain(|address| internet && wanted(address));
                if !self.found.is_empty() {
                    let first = self.rotation % self.found.len();
                    self.rotation = self.rotation.wrapping_add(1);
                    self.found.rotate_left(first);
                }
                for address in &self.found {
                    answer.address(TTL, *address);
                }
                answer.finish(code::NO_ERROR);
            }
        }
        true
    }

    /// Collects the addresses of a name.
    fn find(&mut self, name: &str) -> Known {
        let Zone {
            settings,
            tables,
            found,
            ..
        } = self;
        found.clear();
        let mut own = Known::No;
        for entry in &settings.names {
            if !entry.name.eq_ignore_ascii_case(name) {
                continue;
            }
            match &entry.meaning {
                Meaning::Addresses(addresses) => found.extend(addresses),
                Meaning::SameAs(other) => {
                    find_on_networks(tables, other, found);
                }
            }
            own = Known::Stopped;
        }
        if own != Known::No {
            return if found.is_empty() {
                own
            } else {
                Known::Running
            };
        }
        let known = find_on_networks(tables, name, found);
        if known != Known::No {
            return known;
        }
        // What a resolver makes of a name that it was told does not exist.
        let stopped = settings.search.iter().any(|domain| {
            let head = name
                .len()
                .checked_sub(domain.len() + 1)
                .and_then(|at| name.split_at_checked(at))
                .and_then(|(head, tail)| Some((head, tail.strip_prefix('.')?)))
                .filter(|(_, tail)| tail.eq_ignore_ascii_case(domain));
            head.is_some_and(|(head, _)| {
                let known = find_on_networks(tables, head, found);
                found.clear();
                known == Known::Stopped
            })
        });
        if stopped { Known::Stopped } else { Known::No }
    }

    /// The full name of an address, in wire form.
    fn reverse<'b>(&self, address: IpAddr, wire: &'b mut [u8; 255]) -> Option<&'b [u8]> {
        let mut tables = self.tables.iter().filter_map(Watched::value);
        let (name, network) =
            tables.find_map(|table| Some((table.reverse(address)?, table.network())))?;
        let mut length = 0;
        for label in name.split('.').chain(network.split('.')) {
            let size = u8::try_from(label.len())
                .ok()
                .filter(|size| (1..=63).contains(size))?;
            // One byte is left for the end.
            let place = wire[..254].get_mut(length..length + 1 + label.len())?;
            place[0] = size;
            place[1..].copy_from_slice(label.as_bytes());
            length += 1 + label.len();
        }
        wire[length] = 0;
        Some(&wire[..=length])
    }
}

/// Collects the addresses of a name on the first network that has it.
fn find_on_networks(tables: &[Watched<Index>], name: &str, found: &mut Vec<IpAddr>) -> Known {
    let before = found.len();
    let mut known = Known::No;
    let tables = || tables.iter().filter_map(Watched::value);
    let plain = tables().map(|table| (table, Some(name)));
    let full = tables().map(|table| (table, table.strip_network(name)));
    for (table, name) in plain.chain(full) {
        let Some(name) = name else { continue };
        match table.lookup(name, found) {
            Known::Running => return Known::Running,
            Known::Stopped => known = Known::Stopped,
            Known::No => {}
        }
    }
    found.truncate(before);
    known
}

/// A name in wire form as text; `None` for one that cannot be of a container.
fn text<'b>(wire: &[u8], buffer: &'b mut [u8; 255]) -> Option<&'b str> {
    let (mut rest, mut length) = (wire, 0);
    while let [size, tail @ ..] = rest {
        if *size == 0 {
            break;
        }
        let (label, tail) = tail.split_at_checked(usize::from(*size))?;
        if label.iter().any(|byte| *byte <= b' ' || *byte == b'.') {
            return None;
        }
        if length > 0 {
            *buffer.get_mut(length)? = b'.';
            length += 1;
        }
        buffer
            .get_mut(length..length + label.len())?
            .copy_from_slice(label);
        length += label.len();
        rest = tail;
    }
    std::str::from_utf8(&buffer[..length]).ok()
}

/// The address whose name is asked for by a name of `in-addr.arpa` or `ip6.arpa`.
fn reverse_name(name: &str) -> Option<IpAddr> {
    let strip = |suffix: &str| {
        let (head, tail) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
        tail.eq_ignore_ascii_case(suffix).then_some(head)
    };
    if let Some(head) = strip(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = head.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            // A plus sign and leading zeros are no part of such a name.
            let plain = label.bytes().all(|byte| byte.is_ascii_digit())
                && (label.len() == 1 || !label.starts_with('0'));
            *octet = plain.then(|| label.parse().ok())??;
        }
        return labels
            .next()
            .is_none()
            .then_some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let head = strip(".ip6.arpa")?;
    let mut bits: u128 = 0;
    let mut labels = 0;
    for label in head.rsplit('.') {
        let [digit] = label.as_bytes() else {
            return None;
        };
        let digit = char::from(*digit).to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
        labels += 1;
    }
    (labels == 32).then_some(IpAddr::V6(Ipv6Addr::from(bits)))
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
