//! The names of one network: the table that the engine writes, and the index that the server keeps
//! of it.
//!
//! ```text
//! gantry-names 1
//! network backend
//! generation 12
//! endpoint web 172.18.0.2,fd00::2 www 0123456789ab
//! endpoint db -
//! end
//! ```

use super::file::{self, FileError, checked_name};
use rustix::fd::AsFd;
use std::cmp::Ordering;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// The first line of a table.
const FORMAT: &str = "gantry-names 1";
/// Stands in the place of the addresses of what has none.
const NO_ADDRESS: &str = "-";

/// A container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// What reverse look-ups give, before a dot and the network's name.
    pub name: String,
    /// The addresses; none if the container is stopped.
    pub addresses: Vec<IpAddr>,
    /// Further names, each of which may be shared with other endpoints.
    pub aliases: Vec<String>,
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The network's name.
    pub network: String,
    /// Raised by the writer with every change.
    pub generation: u64,
    /// What has names. Stopped containers belong here too, so that their names are not looked for
    /// elsewhere.
    pub endpoints: Vec<Endpoint>,
}

impl Table {
    /// Swaps the file `name` of `directory` for this table. Readers see the old or the new one.
    ///
    /// # Errors
    /// [`FileError::Word`] before anything is written, or the system's refusal.
    pub fn write(&self, directory: impl AsFd, name: &str) -> Result<(), FileError> {
        file::swap(directory.as_fd(), name, FORMAT, &self.body()?)
    }

    fn body(&self) -> Result<String, FileError> {
        let mut body = format!(
            "network {}\ngeneration {}\n",
            checked_name(&self.network)?,
            self.generation
        );
        for endpoint in &self.endpoints {
            body.push_str("endpoint ");
            body.push_str(checked_name(&endpoint.name)?);
            body.push(' ');
            write_addresses(&mut body, &endpoint.addresses);
            for alias in &endpoint.aliases {
                body.push(' ');
                body.push_str(checked_name(alias)?);
            }
            body.push('\n');
        }
        Ok(body)
    }

    /// Reads the table in the file `name` of `directory`.
    ///
    /// # Errors
    /// [`FileError::Format`] or the system's refusal.
    pub fn read(directory: impl AsFd, name: &str) -> Result<Self, FileError> {
        let path = Path::new(name);
        let text = file::read(directory.as_fd(), path)?;
        Table::parse(&text).ok_or_else(|| FileError::Format {
            path: path.to_owned(),
            format: FORMAT,
        })
    }

    fn parse(text: &str) -> Option<Table> {
        let mut table = Table::default();
        for (keyword, rest) in file::lines(text, FORMAT)? {
            match keyword {
                "network" => table.network = checked_name(rest).ok()?.to_owned(),
                "generation" => table.generation = rest.parse().ok()?,
                "endpoint" => {
                    let mut words = rest.split(' ');
                    table.endpoints.push(Endpoint {
                        name: checked_name(words.next()?).ok()?.to_owned(),
                        addresses: parse_addresses(words.next()?)?,
                        aliases: words
                            .map(|word| checked_name(word).ok().map(str::to_owned))
                            .collect::<Option<_>>()?,
                    });
                }
                _ => return None,
            }
        }
        (!table.network.is_empty()).then_some(table)
    }
}

pub(super) fn write_addresses(body: &mut String, addresses: &[IpAddr]) {
    for (index, address) in addresses.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(body, "{comma}{address}");
    }
    if addresses.is_empty() {
        body.push_str(NO_ADDRESS);
    }
}

pub(super) fn parse_addresses(word: &str) -> Option<Vec<IpAddr>> {
    if word == NO_ADDRESS {
        return Some(Vec::new());
    }
    word.split(',').map(|text| text.parse().ok()).collect()
}

/// A table as the server keeps it: the text and sorted places in it, so that a network of a
/// thousand names costs little more than its file in each of its sandboxes.
#[derive(Debug)]
pub(super) struct Index {
    text: Box<str>,
    network: Place,
    /// The names, sorted without regard to case.
    names: Box<[Place]>,
    /// The addresses, sorted.
    addresses: Box<[Place]>,
}

/// Where a word begins, and where the endpoint that it belongs to does.
#[derive(Debug, Clone, Copy)]
struct Place {
    word: u32,
    endpoint: u32,
}

/// What a network knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    No,
    /// It belongs to stopped containers only.
    Stopped,
    /// It has addresses.
    Running,
}

impl Index {
    /// Reads a table.
    pub(super) fn parse(text: String) -> Option<Index> {
        let (mut names, mut addresses, mut network) = (Vec::new(), Vec::new(), None);
        let start = text.as_ptr().addr();
        let offset = |part: &str| u32::try_from(part.as_ptr().addr().checked_sub(start)?).ok();
        for (keyword, rest) in file::lines(&text, FORMAT)? {
            // Every line has something behind its first word, so that this is within the text.
            let endpoint = (!rest.is_empty()).then(|| offset(rest))??;
            match keyword {
                "network" => {
                    checked_name(rest).ok()?;
                    network = Some(Place {
                        word: endpoint,
                        endpoint,
                    });
                }
                "generation" => {}
                "endpoint" => {
                    let mut words = rest.split(' ');
                    let name = words.next()?;
                    let list = words.next()?;
                    if list != NO_ADDRESS {
                        for address in list.split(',') {
                            address.parse::<IpAddr>().ok()?;
                            let word = offset(address)?;
                            addresses.push(Place { word, endpoint });
                        }
                    }
                    for name in std::iter::once(name).chain(words) {
                        let word = offset(checked_name(name).ok()?)?;
                        names.push(Place { word, endpoint });
                    }
                }
                _ => return None,
            }
        }
        let (network, text) = (network?, text.into_boxed_str());
        // By place as well: the order of the file is kept among equals, and an endpoint that has
        // the same name twice is met twice in a row.
        names.sort_unstable_by(|one, other| {
            compare(word(&text, one.word), word(&text, other.word))
                .then(one.endpoint.cmp(&other.endpoint))
        });
        addresses.sort_unstable_by_key(|place| (address(&text, place.word), place.endpoint));
        Some(Index {
            text,
            network,
            names: names.into_boxed_slice(),
            addresses: addresses.into_boxed_slice(),
        })
    }

    pub(super) fn network(&self) -> &str {
        word(&self.text, self.network.word)
    }

    /// Adds the addresses of a name to `found`.
    pub(super) fn lookup(&self, name: &str, found: &mut Vec<IpAddr>) -> Known {
        let order = |place: &Place| compare(word(&self.text, place.word), name);
        let first = self
            .names
            .partition_point(|place| order(place) == Ordering::Less);
        let (mut known, mut last) = (Known::No, None);
        for place in &self.names[first..] {
            if order(place) != Ordering::Equal {
                break;
            }
            if last.replace(place.endpoint) == Some(place.endpoint) {
                continue;
            }
            let line = &self.text[place.endpoint as usize..];
            let list = line.split([' ', '\n']).nth(1).unwrap_or(NO_ADDRESS);
            let before = found.len();
            found.extend(
                list.split(',')
                    .filter_map(|text| text.parse::<IpAddr>().ok()),
            );
            known = match known {
                _ if found.len() > before => Known::Running,
                Known::No => Known::Stopped,
                other => other,
            };
        }
        known
    }

    /// Whether `name` is NAME.NETWORK, and if so NAME.
    pub(super) fn strip_network<'n>(&self, name: &'n str) -> Option<&'n str> {
        let network = self.network();
        let at = name.len().checked_sub(network.len() + 1)?;
        let (head, tail) = name.split_at_checked(at)?;
        let suffix = tail.strip_prefix('.')?;
        (!head.is_empty() && suffix.eq_ignore_ascii_case(network)).then_some(head)
    }

    /// The name of the endpoint with this address.
    pub(super) fn reverse(&self, wanted: IpAddr) -> Option<&str> {
        let first = self
            .addresses
            .partition_point(|place| address(&self.text, place.word) < Some(wanted));
        let place = self.addresses.get(first)?;
        (address(&self.text, place.word) == Some(wanted)).then(|| word(&self.text, place.endpoint))
    }
}

fn word(text: &str, place: u32) -> &str {
    let rest = &text[place as usize..];
    let end = rest.find([' ', ',', '\n']).unwrap_or(rest.len());
    &rest[..end]
}

fn address(text: &str, place: u32) -> Option<IpAddr> {
    word(text, place).parse().ok()
}

/// Compares names without regard to the case of ASCII letters (RFC 4343).
fn compare(one: &str, other: &str) -> Ordering {
    let lower = |text: &str| -> [u8; 8] {
        let mut head = [0; 8];
        let length = text.len().min(8);
        head[..length].copy_from_slice(&text.as_bytes()[..length]);
        head.make_ascii_lowercase();
        head
    };
    // Names differ early, mostly.
    lower(one).cmp(&lower(other)).then_with(|| {
        let fold = |byte: u8| byte.to_ascii_lowercase();
        one.bytes().map(fold).cmp(other.bytes().map(fold))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::Directory;

    fn endpoint(name: &str, addresses: &[&str], aliases: &[&str]) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        }
    }

    fn table() -> Table {
        Table {
            network: "Back.End".to_owned(),
            generation: 7,
            endpoints: vec![
                endpoint(
                    "web-1",
                    &["172.18.0.2", "fd00::2"],
                    &["web", "0123456789ab"],
                ),
                endpoint("Web-2", &["172.18.0.3"], &["WEB", "web"]),
                endpoint("web-3", &[], &["web", "old"]),
                endpoint("db", &[], &[]),
            ],
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let directory = Directory::new();
        for table in [
            table(),
            Table {
                network: "n".to_owned(),
                ..Table::default()
            },
        ] {
            table.write(directory.fd(), "names").unwrap();
            assert_eq!(Table::read(directory.fd(), "names").unwrap(), table);
        }
        assert_eq!(directory.entries(), ["names"]);
    }

    #[test]
    fn names_that_would_become_lines_are_refused() {
        let directory = Directory::new();
        for (name, alias) in [("a\nendpoint b 1.2.3.4", "x"), ("a", "x y"), ("a", "")] {
            let table = Table {
                network: "n".to_owned(),
                generation: 0,
                endpoints: vec![endpoint(name, &[], &[alias])],
            };
            let refused = table.write(directory.fd(), "names");
            assert!(
                matches!(refused, Err(FileError::Word { .. })),
                "{name:?} {alias:?}"
            );
        }
        assert_eq!(directory.entries(), [""; 0]);
    }

    fn index() -> Index {
        let text = format!("{FORMAT}\n{}end\n", table().body().unwrap());
        Index::parse(text).unwrap()
    }

    #[test]
    fn look_ups() {
        let index = index();
        let mut found = Vec::new();
        for (name, known, expected) in [
            ("web-1", Known::Running, &["172.18.0.2", "fd00::2"][..]),
            ("WEB-1", Known::Running, &["172.18.0.2", "fd00::2"]),
            ("0123456789AB", Known::Running, &["172.18.0.2", "fd00::2"]),
            (
                "wEb",
                Known::Running,
                &["172.18.0.2", "fd00::2", "172.18.0.3"],
            ),
            ("old", Known::Stopped, &[]),
            ("db", Known::Stopped, &[]),
            ("d", Known::No, &[]),
            ("dbx", Known::No, &[]),
            ("", Known::No, &[]),
            ("zzz", Known::No, &[]),
        ] {
            found.clear();
            assert_eq!(index.lookup(name, &mut found), known, "{name}");
            let found: Vec<_> = found.iter().map(IpAddr::to_string).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn reverse_look_ups_and_suffixes() {
        let index = index();
        for (address, name) in [
            ("172.18.0.2", Some("web-1")),
            ("fd00::2", Some("web-1")),
            ("172.18.0.3", Some("Web-2")),
            ("172.18.0.1", None),
            ("172.18.0.4", None),
            ("fd00::3", None),
        ] {
            assert_eq!(index.reverse(address.parse().unwrap()), name, "{address}");
        }
        for (name, stripped) in [
            ("web.back.end", Some("web")),
            ("a.b.BACK.END", Some("a.b")),
            (".back.end", None),
            ("back.end", None),
            ("webback.end", None),
            ("web", None),
            ("\u{e9}b.back.end", Some("\u{e9}b")),
        ] {
            assert_eq!(index.strip_network(name), stripped, "{name}");
        }
    }

    #[test]
    fn tables_that_are_not_whole_are_refused_by_both_readers() {
        let body = table().body().unwrap();
        let whole = format!("{FORMAT}\n{body}end\n");
        assert!(Table::parse(&whole).is_some());
        for cut in 0..whole.len() {
            let text = &whole[..cut];
            assert!(Table::parse(text).is_none(), "{text}");
            assert!(Index::parse(text.to_owned()).is_none(), "{text}");
        }
        for line in [
            "",
            "endpoint",
            "endpoint ",
            "endpoint a",
            "endpoint a 1.2.3",
            "endpoint a 1.2.3.4,",
            "endpoint a  1.2.3.4",
            "endpoint a - ",
            "network",
            "network a b",
            "other x",
        ] {
            let text = format!("{FORMAT}\nnetwork n\n{line}\nend\n");
            assert!(Table::parse(&text).is_none(), "{line:?}");
            assert!(Index::parse(text).is_none(), "{line:?}");
        }
    }
}
