//! Who has a port: for error messages only, since it reads every process's descriptors.

use crate::Protocol;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most bytes read of a table of sockets: about 50,000 sockets.
const TABLE_LIMIT: u64 = 8 << 20;

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id in our pid namespace.
    pub pid: u32,
    /// Its name, as far as the kernel keeps it: 15 bytes.
    pub name: String,
}

/// Finds a process that keeps others from binding `address`.
pub(super) fn find(address: SocketAddr, protocol: Protocol) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let inode = tables.iter().find_map(|table| {
        let text = read_bounded(&format!("/proc/thread-self/net/{table}"))?;
        text.lines()
            .skip(1)
            .find_map(|line| inode_in_the_way(line, address))
    })?;
    owner(inode)
}

fn read_bounded(path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(TABLE_LIMIT)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// Reads one line of `/proc/net/tcp` or its siblings; the inode if that socket is in the way.
fn inode_in_the_way(line: &str, wanted: SocketAddr) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let inode = words.nth(7)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let address = parse_address(address)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // An unspecified IPv6 address may be bound for both families.
    let clash = match (address, wanted.ip()) {
        (IpAddr::V4(address), IpAddr::V4(wanted)) => {
            address == wanted || address.is_unspecified() || wanted.is_unspecified()
        }
        (IpAddr::V6(address), IpAddr::V6(wanted)) => {
            address == wanted || address.is_unspecified() || wanted.is_unspecified()
        }
        (IpAddr::V6(address), IpAddr::V4(wanted)) => {
            address.is_unspecified() || address.to_ipv4_mapped() == Some(wanted)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    // Sockets without an inode are connections that ended: nobody's.
    (port == wanted.port() && clash && inode != 0).then_some(inode)
}

/// Addresses are printed as numbers of 32 bits that are in network order in memory.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(text)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(text.get(index * 8..index * 8 + 8)?)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn owner(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.collect::<Vec<u32>>() {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == &*wanted));
        if holds {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                name: name.trim_end().to_owned(),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_tables() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
                  1000        0 12345 1 0000000000000000 100 0 0 10 0";
        let any = v4.replace("0100007F", "00000000");
        let v6 = v4.replace("0100007F", "00000000000000000000000001000000");
        let v6_any = v4.replace("0100007F", "00000000000000000000000000000000");
        let closed = v4.replace("12345", "0");
        for (line, wanted, expected) in [
            (v4, "127.0.0.1:8080", Some(12345)),
            (v4, "0.0.0.0:8080", Some(12345)),
            (v4, "127.0.0.2:8080", None),
            (v4, "127.0.0.1:8081", None),
            (v4, "[::]:8080", None),
            (&any, "127.0.0.2:8080", Some(12345)),
            (&v6, "[::1]:8080", Some(12345)),
            (&v6, "[::]:8080", Some(12345)),
            (&v6, "[::2]:8080", None),
            (&v6, "127.0.0.1:8080", None),
            (&v6_any, "127.0.0.1:8080", Some(12345)),
            (&closed, "127.0.0.1:8080", None),
            ("", "127.0.0.1:8080", None),
            ("0: x:y z", "127.0.0.1:8080", None),
        ] {
            assert_eq!(
                inode_in_the_way(line, wanted.parse().unwrap()),
                expected,
                "{line} {wanted}"
            );
        }
    }
}
