//! The settings of a sandbox's name server, as the engine writes them.
//!
//! ```text
//! gantry-dns 1
//! network external /run/gantry/networks/backend/names
//! network internal /run/gantry/networks/private/names
//! name host.docker.internal 172.17.0.1,fd00::1
//! alias database db
//! search corp.example
//! forward yes
//! server 192.0.2.53:53
//! follow /etc/resolv.conf
//! end
//! ```

use super::file::{self, FileError, checked_name, checked_path};
use super::names::{parse_addresses, write_addresses};
use rustix::fd::AsFd;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The first line of the settings.
const FORMAT: &str = "gantry-dns 1";

/// What the name server of a sandbox knows and may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The networks that the sandbox is on. The first one that knows a name answers.
    pub networks: Vec<NetworkNames>,
    /// Names of this sandbox alone, which come before those of the networks.
    pub names: Vec<OwnName>,
    /// The search domains of the sandbox's `resolv.conf` in which names of stopped containers are
    /// kept from being looked for: a resolver that is told that `db` does not exist asks for
    /// `db.corp.example` next.
    pub search: Vec<String>,
    /// Whether other names may be asked of other servers. If the sandbox is on internal networks
    /// only they are not, whatever this says.
    pub forward: bool,
    /// The servers to ask.
    pub upstream: Upstream,
}

/// A network's part in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkNames {
    /// The file of its [`Table`](super::Table), absolute. It need not exist yet.
    pub table: PathBuf,
    /// Whether the network has no way out.
    pub internal: bool,
}

/// A name that only one sandbox knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnName {
    /// The name, in full.
    pub name: String,
    /// What it means.
    pub meaning: Meaning,
}

/// What a sandbox's own name means. Names that are the same add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Fixed addresses, such as those of `host.docker.internal`.
    Addresses(Vec<IpAddr>),
    /// Whatever addresses another name has on the networks now, as with `--link NAME:ALIAS`.
    SameAs(String),
}

/// Other name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// These, in this order.
    Servers(Vec<SocketAddr>),
    /// Those in a file in the manner of `resolv.conf(5)`, which is read again when it changes.
    Follow(PathBuf),
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream::Follow(PathBuf::from("/etc/resolv.conf"))
    }
}

impl Settings {
    /// Whether questions may leave the sandbox (CVE-2024-29018: never from internal networks only,
    /// because they would leave from the host's network).
    pub(super) fn may_forward(&self) -> bool {
        let internal_only =
            !self.networks.is_empty() && self.networks.iter().all(|network| network.internal);
        self.forward && !internal_only
    }

    /// Swaps the file `name` of `directory` for these settings.
    ///
    /// # Errors
    /// [`FileError::Word`] before anything is written, or the system's refusal.
    pub fn write(&self, directory: impl AsFd, name: &str) -> Result<(), FileError> {
        file::swap(directory.as_fd(), name, FORMAT, &self.body()?)
    }

    fn body(&self) -> Result<String, FileError> {
        let mut body = String::new();
        for network in &self.networks {
            let reach = if network.internal {
                "internal"
            } else {
                "external"
            };
            let _ = writeln!(body, "network {reach} {}", checked_path(&network.table)?);
        }
        for OwnName { name, meaning } in &self.names {
            let name = checked_name(name)?;
            match meaning {
                Meaning::Addresses(addresses) => {
                    let _ = write!(body, "name {name} ");
                    write_addresses(&mut body, addresses);
                    body.push('\n');
                }
                Meaning::SameAs(other) => {
                    let _ = writeln!(body, "alias {name} {}", checked_name(other)?);
                }
            }
        }
        for domain in &self.search {
            let _ = writeln!(body, "search {}", checked_name(domain)?);
        }
        let forward = if self.forward { "yes" } else { "no" };
        let _ = writeln!(body, "forward {forward}");
        match &self.upstream {
            Upstream::Servers(servers) => {
                for server in servers {
                    let _ = writeln!(body, "server {server}");
                }
            }
            Upstream::Follow(path) => {
                let _ = writeln!(body, "follow {}", checked_path(path)?);
            }
        }
        Ok(body)
    }

    /// Reads the settings in the file `name` of `directory`.
    ///
    /// # Errors
    /// [`FileError::Format`] or the system's refusal.
    pub fn read(directory: impl AsFd, name: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = name.as_ref();
        let text = file::read(directory.as_fd(), path)?;
        Settings::parse(&text).ok_or_else(|| FileError::Format {
            path: path.to_owned(),
            format: FORMAT,
        })
    }

    pub(super) fn parse(text: &str) -> Option<Settings> {
        let mut settings = Settings {
            upstream: Upstream::Servers(Vec::new()),
            ..Settings::default()
        };
        let name = |word: &str| checked_name(word).ok().map(str::to_owned);
        let path = |word: &str| checked_path(Path::new(word)).ok().map(PathBuf::from);
        for (keyword, rest) in file::lines(text, FORMAT)? {
            match keyword {
                "network" => {
                    let (reach, table) = rest.split_once(' ')?;
                    settings.networks.push(NetworkNames {
                        table: path(table)?,
                        internal: match reach {
                            "internal" => true,
                            "external" => false,
                            _ => return None,
                        },
                    });
                }
                "name" => {
                    let (word, addresses) = rest.split_once(' ')?;
                    settings.names.push(OwnName {
                        name: name(word)?,
                        meaning: Meaning::Addresses(parse_addresses(addresses)?),
                    });
                }
                "alias" => {
                    let (word, other) = rest.split_once(' ')?;
                    settings.names.push(OwnName {
                        name: name(word)?,
                        meaning: Meaning::SameAs(name(other)?),
                    });
                }
                "search" => settings.search.push(name(rest)?),
                "forward" => {
                    settings.forward = match rest {
                        "yes" => true,
                        "no" => false,
                        _ => return None,
                    }
                }
                "server" => match &mut settings.upstream {
                    Upstream::Servers(servers) => servers.push(rest.parse().ok()?),
                    Upstream::Follow(_) => return None,
                },
                "follow" => match &settings.upstream {
                    Upstream::Servers(servers) if servers.is_empty() => {
                        settings.upstream = Upstream::Follow(path(rest)?);
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(settings)
    }
}

/// The servers of a `resolv.conf(5)`: at most three, as for every resolver, and the one of the same
/// machine if none is named.
pub(super) fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    const PORT: u16 = 53;
    const MAX_SERVERS: usize = 3;
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(|word| match word.split_once('%') {
            None => Some(SocketAddr::new(word.parse().ok()?, PORT)),
            // A link-local server is one of a link.
            Some((address, link)) => Some(SocketAddr::V6(std::net::SocketAddrV6::new(
                address.parse().ok()?,
                PORT,
                0,
                link_index(link)?,
            ))),
        })
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)));
    }
    servers
}

fn link_index(link: &str) -> Option<u32> {
    if let Ok(index) = link.parse() {
        return Some(index);
    }
    if !crate::link::is_valid_name(link) {
        return None;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?;
    index.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::Directory;

    fn settings() -> Settings {
        Settings {
            networks: vec![
                NetworkNames {
                    table: PathBuf::from("/run/with space/names"),
                    internal: false,
                },
                NetworkNames {
                    table: PathBuf::from("/run/b"),
                    internal: true,
                },
            ],
            names: vec![
                OwnName {
                    name: "host.docker.internal".to_owned(),
                    meaning: Meaning::Addresses(vec![
                        "172.17.0.1".parse().unwrap(),
                        "fd00::1".parse().unwrap(),
                    ]),
                },
                OwnName {
                    name: "database".to_owned(),
                    meaning: Meaning::SameAs("db".to_owned()),
                },
            ],
            search: vec!["corp.example".to_owned()],
            forward: true,
            upstream: Upstream::Servers(vec![
                "192.0.2.53:53".parse().unwrap(),
                "[2001:db8::53]:5353".parse().unwrap(),
            ]),
        }
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let directory = Directory::new();
        for settings in [
            settings(),
            Settings {
                upstream: Upstream::Follow(PathBuf::from("/etc/resolv.conf")),
                forward: false,
                ..settings()
            },
            Settings::default(),
        ] {
            settings.write(directory.fd(), "dns").unwrap();
            assert_eq!(Settings::read(directory.fd(), "dns").unwrap(), settings);
        }
        assert_eq!(directory.entries(), ["dns"]);
    }

    #[test]
    fn settings_that_are_not_whole_are_refused() {
        let whole = format!("{FORMAT}\n{}end\n", settings().body().unwrap());
        for cut in 0..whole.len() {
            assert!(Settings::parse(&whole[..cut]).is_none(), "{cut}");
        }
        for line in [
            "",
            "network /run/a",
            "network public /run/a",
            "name a",
            "alias a",
            "forward maybe",
            "server 1.2.3.4",
            "server 1.2.3.4:53\nfollow /x",
            "follow /x\nserver 1.2.3.4:53",
            "follow",
            "unknown",
        ] {
            let text = format!("{FORMAT}\n{line}\nend\n");
            assert!(Settings::parse(&text).is_none(), "{line:?}");
        }
    }

    #[test]
    fn cve_2024_29018_internal_networks_alone_never_forward() {
        let of = |internal: &[bool]| Settings {
            networks: internal
                .iter()
                .map(|internal| NetworkNames {
                    table: PathBuf::from("/x"),
                    internal: *internal,
                })
                .collect(),
            forward: true,
            ..Settings::default()
        };
        for (internal, expected) in [
            (&[true][..], false),
            (&[true, true], false),
            (&[true, false], true),
            (&[false], true),
            (&[], true),
        ] {
            assert_eq!(of(internal).may_forward(), expected, "{internal:?}");
        }
        let mut settings = of(&[false]);
        settings.forward = false;
        assert!(!settings.may_forward());
    }

    #[test]
    fn resolv_conf() {
        for (text, expected) in [
            ("nameserver 192.0.2.1\n", &["192.0.2.1:53"][..]),
            (
                "# nameserver 1.1.1.1\nsearch a b\n nameserver\t127.0.0.53 \nnameserver ::1",
                &["127.0.0.53:53", "[::1]:53"],
            ),
            ("nameserver fe80::1%3\n", &["[fe80::1%3]:53"]),
            ("nameserver fe80::1%../x\n", &["127.0.0.1:53"]),
            ("nameservers 1.2.3.4\nnameserver x\n", &["127.0.0.1:53"]),
            ("", &["127.0.0.1:53"]),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
                &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
            ),
        ] {
            let servers: Vec<_> = parse_resolv_conf(text)
                .iter()
                .map(SocketAddr::to_string)
                .collect();
            assert_eq!(servers, expected, "{text:?}");
        }
        let lo = parse_resolv_conf("nameserver fe80::1%lo");
        assert_eq!(lo, ["[fe80::1%1]:53".parse().unwrap()]);
    }
}
