//! Name resolution without the C library: our binaries are static, where getaddrinfo would load
//! the host's NSS modules into a foreign libc.
//!
//! `/etc/hosts` first, then the name servers of `/etc/resolv.conf` (resolv.conf(5)): A and AAAA
//! over UDP, TCP for truncated answers, the search list, `ndots`, `timeout` and `attempts`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for one server, whatever the configuration says.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How long the second kind of addresses is waited for once the first is known.
const SECOND_ANSWER: Duration = Duration::from_millis(300);
/// Largest configuration file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// Longest chain of aliases that is followed.
const ALIASES: usize = 16;

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It is not a host name.
    #[error("{name:?} is not a host name")]
    Malformed {
        /// The name.
        name: String,
    },
    /// The name servers say that it does not exist or has no address.
    #[error("no such host {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// No name server answered.
    #[error("no answer about {name:?} from the name servers {servers:?}")]
    NoAnswer {
        /// The name.
        name: String,
        /// Who was asked.
        servers: Vec<SocketAddr>,
    },
}

/// Where names are looked up.
#[derive(Debug, Clone)]
pub struct ResolverFiles {
    /// hosts(5).
    pub hosts: PathBuf,
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
}

impl Default for ResolverFiles {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// The addresses of `name`, IPv4 first and at most 16: connections are tried one after the other,
/// and a host without working IPv6 is commoner than one without IPv4.
pub(crate) fn resolve(name: &str, files: &ResolverFiles) -> Result<Vec<IpAddr>, ResolveError> {
    let name = name
        .strip_suffix('.')
        .map_or((name, false), |name| (name, true));
    let (name, absolute) = name;
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if encode_name(name).is_none() {
        return Err(ResolveError::Malformed {
            name: name.chars().take(255).collect(),
        });
    }
    let mut found = from_hosts(&read(&files.hosts), name);
    if found.is_empty()
        && (name.eq_ignore_ascii_case("localhost")
            || name.to_ascii_lowercase().ends_with(".localhost"))
    {
        // RFC 6761, section 6.3: never ask a server about it.
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if found.is_empty() {
        found = from_servers(
            name,
            absolute,
            &Configuration::parse(&read(&files.resolv_conf)),
        )?;
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found.truncate(16);
    Ok(found)
}

fn read(path: &std::path::Path) -> String {
    let mut bytes = Vec::new();
    // Both files may be missing, as in the smallest containers.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(FILE_LIMIT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn without_comment(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default()
}

fn from_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in hosts.lines() {
        let mut words = without_comment(line).split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// What resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    dots: usize,
    wait: Duration,
    attempts: u32,
}

impl Configuration {
    fn parse(text: &str) -> Self {
        let mut result = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            wait: LONGEST_WAIT,
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = without_comment(line).split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if let Some(address) = words.next().and_then(parse_server)
                        && result.servers.len() < 3
                    {
                        result.servers.push(address);
                    }
                }
                Some("search" | "domain") => {
                    result.search = words.take(6).map(str::to_owned).collect()
                }
                Some("options") => {
                    for option in words {
                        let value = |prefix| {
                            option
                                .strip_prefix(prefix)
                                .and_then(|v| v.parse::<u32>().ok())
                        };
                        if let Some(dots) = value("ndots:") {
                            result.dots = dots.min(15) as usize;
                        } else if let Some(seconds) = value("timeout:") {
                            result.wait =
                                Duration::from_secs(seconds.max(1).into()).min(LONGEST_WAIT);
                        } else if let Some(attempts) = value("attempts:") {
                            result.attempts = attempts.clamp(1, 5);
                        }
                    }
                }
                _ => {}
            }
        }
        if result.servers.is_empty() {
            result.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        result
    }

    /// The names to try in order (resolv.conf(5), "search" and "ndots").
    fn candidates(&self, name: &str, absolute: bool) -> Vec<String> {
        let searched = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_matches('.')));
        let as_given = std::iter::once(name.to_owned());
        if absolute {
            as_given.collect()
        } else if name.matches('.').count() >= self.dots {
            as_given.chain(searched).collect()
        } else {
            searched.chain(as_given).collect()
        }
    }
}

/// An address, for IPv6 possibly with an interface (`fe80::1%eth0`), for tests with a port.
fn parse_server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some((address, 53).into());
    }
    if let Some((address, interface)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let index = match interface.parse() {
            Ok(index) => index,
            Err(_) => std::fs::read_to_string(format!(
                "/sys/class/net/{}/ifindex",
                interface.replace('/', "")
            ))
            .ok()?
            .trim()
            .parse()
            .ok()?,
        };
        return Some(SocketAddr::V6(std::net::SocketAddrV6::new(
            address, 53, 0, index,
        )));
    }
    word.parse().ok()
}

enum Answer {
    Addresses(Vec<IpAddr>),
    /// The name does not exist, or has no address of the kind.
    Nothing,
}

fn from_servers(
    name: &str,
    absolute: bool,
    configuration: &Configuration,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut answered = false;
    for candidate in configuration.candidates(name, absolute) {
        let Some(encoded) = encode_name(&candidate) else {
            continue;
        };
        match ask_servers(&encoded, configuration) {
            Some(found) if !found.is_empty() => return Ok(found),
            Some(_) => answered = true,
            None => {}
        }
    }
    if answered {
        Err(ResolveError::NotFound {
            name: name.to_owned(),
        })
    } else {
        Err(ResolveError::NoAnswer {
            name: name.to_owned(),
            servers: configuration.servers.clone(),
        })
    }
}

/// The addresses that the first server with an answer gives; `None` if no server has one.
fn ask_servers(name: &[u8], configuration: &Configuration) -> Option<Vec<IpAddr>> {
    for _ in 0..configuration.attempts {
        for server in &configuration.servers {
            if let Some(found) = ask_server(name, *server, configuration.wait) {
                return Some(found);
            }
        }
    }
    None
}

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;

/// Asks for both kinds of addresses at once. `None` if the server fails or does not answer in
/// time for both; one answer with addresses is enough.
fn ask_server(name: &[u8], server: SocketAddr, wait: Duration) -> Option<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // The kernel picks a random source port, and a connected socket takes answers from the
    // server only; with the identifier that is what stands against forged answers.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok()?;
    let first = u16::from_ne_bytes([random[0], random[1]]);
    let second = u16::from_ne_bytes([random[2], random[3]]);
    let second = if first == second {
        first.wrapping_add(1)
    } else {
        second
    };
    let mut pending = vec![(first, TYPE_A), (second, TYPE_AAAA)];
    for (id, kind) in &pending {
        socket.send(&query(*id, name, *kind)).ok()?;
    }
    let mut deadline = Instant::now() + wait;
    let mut found = Vec::new();
    let mut failed = false;
    let mut packet = [0; 4096];
    while !pending.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            break;
        }
        let Ok(length) = socket.recv(&mut packet) else {
            break;
        };
        let Some(at) = pending
            .iter()
            .position(|(id, kind)| answers(&packet[..length], *id, name, *kind))
        else {
            continue;
        };
        let (id, kind) = pending.remove(at);
        let answer = match parse_answer(&packet[..length], name, kind) {
            Some(Parsed::Truncated) => ask_by_tcp(id, name, kind, server, wait),
            Some(Parsed::Answer(answer)) => Some(answer),
            Some(Parsed::Failure) | None => None,
        };
        match answer {
            Some(Answer::Addresses(addresses)) => {
                found.extend(addresses);
                // Some servers never answer about AAAA; what was found is not held up for them.
                deadline = deadline.min(Instant::now() + SECOND_ANSWER);
            }
            Some(Answer::Nothing) => {}
            None => failed = true,
        }
    }
    (!found.is_empty() || (pending.is_empty() && !failed)).then_some(found)
}

fn ask_by_tcp(
    id: u16,
    name: &[u8],
    kind: u16,
    server: SocketAddr,
    wait: Duration,
) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, wait).ok()?;
    stream.set_read_timeout(Some(wait)).ok()?;
    stream.set_write_timeout(Some(wait)).ok()?;
    let query = query(id, name, kind);
    let mut message = u16::try_from(query.len()).ok()?.to_be_bytes().to_vec();
    message.extend(query);
    stream.write_all(&message).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut packet).ok()?;
    if !answers(&packet, id, name, kind) {
        return None;
    }
    match parse_answer(&packet, name, kind)? {
        Parsed::Answer(answer) => Some(answer),
        Parsed::Truncated | Parsed::Failure => None,
    }
}

/// A name as a sequence of labels with lengths, in lower case; `None` if it cannot be one.
fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))?;
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return None;
        }
        encoded.push(length);
        encoded.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    encoded.push(0);
    (encoded.len() <= 255).then_some(encoded)
}

fn query(id: u16, name: &[u8], kind: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(name.len() + 16);
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(name);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Whether `packet` is the response to exactly this question.
fn answers(packet: &[u8], id: u16, name: &[u8], kind: u16) -> bool {
    let question_end = 12 + name.len() + 4;
    packet.len() >= question_end
        && packet[..2] == id.to_be_bytes()
        && packet[2] & 0x80 != 0
        && packet[4..6] == [0, 1]
        && packet[12..12 + name.len()].eq_ignore_ascii_case(name)
        && packet[12 + name.len()..question_end] == [(kind >> 8) as u8, kind as u8, 0, 1]
}

enum Parsed {
    Answer(Answer),
    Truncated,
    Failure,
}

/// Reads the answer section of a response that [`answers`] (RFC 1035, section 4). Only addresses
/// of the name itself or of what it is an alias for are taken. `None` if it is malformed.
fn parse_answer(packet: &[u8], name: &[u8], kind: u16) -> Option<Parsed> {
    if packet.get(2)? & 2 != 0 {
        return Some(Parsed::Truncated);
    }
    match packet.get(3)? & 15 {
        0 => {}
        3 => return Some(Parsed::Answer(Answer::Nothing)),
        _ => return Some(Parsed::Failure),
    }
    let count = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
    let mut position = 12 + name.len() + 4;
    let mut owner_wanted = name.to_vec();
    let mut aliases: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut addresses: Vec<(Vec<u8>, IpAddr)> = Vec::new();
    for _ in 0..count {
        let (owner, after) = read_name(packet, position)?;
        let header = packet.get(after..after + 10)?;
        let (record_kind, class) = (u16::from_be_bytes([header[0], header[1]]), &header[2..4]);
        let length = usize::from(u16::from_be_bytes([header[8], header[9]]));
        let data = packet.get(after + 10..after + 10 + length)?;
        if class == [0, 1] {
            if record_kind == TYPE_CNAME {
                aliases.push((owner, read_name(packet, after + 10)?.0));
            } else if record_kind == kind && kind == TYPE_A {
                addresses.push((owner, IpAddr::from(<[u8; 4]>::try_from(data).ok()?)));
            } else if record_kind == kind && kind == TYPE_AAAA {
                addresses.push((owner, IpAddr::from(<[u8; 16]>::try_from(data).ok()?)));
            }
        }
        position = after + 10 + length;
    }
    for _ in 0..ALIASES {
        match aliases.iter().find(|(owner, _)| *owner == owner_wanted) {
            Some((_, target)) => owner_wanted.clone_from(target),
            None => break,
        }
    }
    let found: Vec<_> = addresses
        .into_iter()
        .filter(|(owner, _)| *owner == owner_wanted)
        .map(|(_, address)| address)
        .collect();
    Some(Parsed::Answer(if found.is_empty() {
        Answer::Nothing
    } else {
        Answer::Addresses(found)
    }))
}

/// Reads a name that may end in pointers backwards; returns it in lower case with lengths, and
/// the position after it.
fn read_name(packet: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut position, mut after) = (start, None);
    loop {
        let length = *packet.get(position)?;
        match length {
            0 => {
                name.push(0);
                return Some((name, after.unwrap_or(position + 1)));
            }
            1..=63 => {
                let label = packet.get(position + 1..position + 1 + usize::from(length))?;
                name.push(length);
                name.extend(label.iter().map(u8::to_ascii_lowercase));
                position += 1 + usize::from(length);
                if name.len() > 254 {
                    return None;
                }
            }
            0xc0.. => {
                let target =
                    usize::from(length & 0x3f) << 8 | usize::from(*packet.get(position + 1)?);
                // Backwards only, so that pointers cannot form a loop.
                if target >= position {
                    return None;
                }
                after = after.or(Some(position + 2));
                position = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
