//! The files that tell a container of its networks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use gantry_network::dns::{Endpoint, Meaning, NetworkNames, OwnName, Settings, Table, Upstream};
use gantry_supervisor::order::NetworkOrder;
use gantry_supervisor::{client, record};
use rustix::fs::FlockOperation;

use super::Net;
use super::endpoints::Place;
use crate::Engine;
use crate::config::{ContainerConfig, NetworkMode};
use crate::error::{Error, chain};

/// `/etc/hosts` of a container.
pub(crate) fn hosts_file(own_names: &str, network: &NetworkOrder) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let NetworkOrder::Bridge(bridge) = network {
        for endpoint in &bridge.endpoints {
            let _ = writeln!(text, "{}\t{own_names}", endpoint.address);
        }
        // Where there is a name server it knows them.
        if let (None, Some(way_out)) = (&bridge.dns, bridge.way_out()) {
            let _ = writeln!(text, "{}\t{}", way_out.gateway, HOST_NAMES.join(" "));
        }
    }
    text
}

/// Lines that the user adds to `/etc/hosts`.
pub(crate) fn extra_hosts(
    config: &ContainerConfig,
    network: &NetworkOrder,
) -> Result<String, Error> {
    let mut text = String::new();
    for (name, address) in &config.extra_hosts {
        let address = match (address.as_str(), network) {
            ("host-gateway", NetworkOrder::Bridge(bridge)) => {
                bridge.way_out().or(bridge.endpoints.first()).map_or_else(
                    || "127.0.0.1".into(),
                    |endpoint| endpoint.gateway.to_string(),
                )
            }
            ("host-gateway", _) => "127.0.0.1".into(),
            (other, _) => other
                .parse::<IpAddr>()
                .map(|address| address.to_string())
                .map_err(|_| Error::Invalid {
                    option: format!("add-host {name}:{other}"),
                    reason: "expected an IP address or host-gateway".into(),
                })?,
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    Ok(text)
}

/// What a container's `/etc/resolv.conf` says.
pub(crate) struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// The host's, with what the user said instead.
    pub(crate) fn of(config: &ContainerConfig) -> Resolver {
        let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
        for line in host.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                Some("options") => options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        if config.network != NetworkMode::Host {
            servers.retain(|server| {
                let address = server.split('%').next().unwrap_or_default();
                address
                    .parse::<IpAddr>()
                    .is_ok_and(|address| !address.is_loopback())
            });
            if servers.is_empty() {
                // As in Docker: a resolver of the host alone is of no use inside.
                servers = vec!["8.8.8.8".into(), "8.8.4.4".into()];
            }
        }
        if !config.dns.is_empty() {
            servers.clone_from(&config.dns);
        }
        if !config.dns_search.is_empty() {
            search = config
                .dns_search
                .iter()
                .filter(|domain| *domain != ".")
                .cloned()
                .collect();
        }
        if !config.dns_options.is_empty() {
            options.clone_from(&config.dns_options);
        }
        Resolver {
            servers,
            search,
            options,
        }
    }

    /// The file; with `has_names` it names the sandbox's own server, which asks the others.
    pub(crate) fn text(mut self, has_names: bool) -> String {
        if has_names {
            self.servers = vec![NAME_SERVER.into()];
            if !self
                .options
                .iter()
                .any(|option| option.starts_with("ndots:"))
            {
                self.options.push("ndots:0".into());
            }
        }
        let mut text = String::new();
        for server in self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// Settings of a sandbox's name server, in its directory.
pub(super) const DNS: &str = "dns";

/// Where a sandbox's name server is reached.
const NAME_SERVER: &str = "127.0.0.11";

/// Names of the host, as Docker Desktop has them.
const HOST_NAMES: [&str; 2] = ["host.docker.internal", "gateway.docker.internal"];

impl Engine {
    fn networks_directory(&self) -> PathBuf {
        self.roots.run.join("networks")
    }

    /// Forgets what the run root has of a network.
    pub(super) fn remove_network_files(&self, net: &Net) {
        for name in [table_name(net), lock_name(net)] {
            let _ = fs::remove_file(self.networks_directory().join(name));
        }
    }

    /// Writes down who is on a network, for the name servers of its containers.
    pub(super) fn publish_names(&self, net: &Net) -> Result<(), Error> {
        if !net.has_names() {
            return Ok(());
        }
        let path = self.networks_directory();
        crate::paths::private_directory(&path)?;
        let fail = |source| Error::Path {
            action: "use",
            path: path.clone(),
            source,
        };
        // Whoever reads the state later also writes later.
        let lock = fs::File::create(path.join(lock_name(net))).map_err(fail)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| fail(errno.into()))?;
        let leases: BTreeMap<String, u32> = self.store()?.leases(&net.name)?.into_iter().collect();
        let mut endpoints = Vec::new();
        let members = self.store()?.network_members(&net.name)?;
        for member in members {
            // A damaged record hides one container's further names, not the others'.
            let config: ContainerConfig =
                serde_json::from_str(&member.container).unwrap_or_default();
            let wish = serde_json::from_str(&member.endpoint).unwrap_or_default();
            let mut names = names_of(&member.id, &member.name, &config, &wish).into_iter();
            let address = leases.get(&member.id).copied().map(Ipv4Addr::from);
            endpoints.push(Endpoint {
                name: names.next().unwrap_or_default(),
                addresses: address.map(IpAddr::V4).into_iter().collect(),
                aliases: names.filter(|name| is_plain(name)).collect(),
            });
        }
        let table = Table {
            network: net.name.clone(),
            generation: record::now().unsigned_abs(),
            endpoints,
        };
        let directory = fs::File::open(&path).map_err(fail)?;
        table
            .write(&directory, &table_name(net))
            .map_err(|error| Error::Network {
                network: net.name.clone(),
                message: chain(&error),
            })
    }

    /// [`Engine::publish_names`] for what may be gone meanwhile, after which nobody looks.
    pub(crate) fn publish_names_of(&self, networks: &[String]) -> Result<(), Error> {
        for network in networks.iter().filter(|network| *network != super::DEFAULT) {
            match self.net(network) {
                Ok(net) => self.publish_names(&net)?,
                Err(Error::NoSuchNetwork { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back the addresses of a sandbox, and takes them out of the tables of names.
    pub(crate) fn release_addresses(&self, sandbox: &str) -> Result<(), Error> {
        let networks = self.store()?.leased_networks(sandbox)?;
        self.store()?.release(sandbox)?;
        self.publish_names_of(&networks)
    }

    /// Writes the settings of a sandbox's name server, if it has one.
    pub(super) fn write_name_settings(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        places: &[Place],
    ) -> Result<(), Error> {
        let way_out = super::endpoints::way_out(places).map(|index| &places[index].net);
        let mut names = Vec::new();
        if let Some(net) = way_out {
            for name in HOST_NAMES {
                names.push(OwnName {
                    name: name.into(),
                    meaning: Meaning::Addresses(vec![net.gateway.into()]),
                });
            }
        }
        for link in places.iter().flat_map(|place| &place.wish.links) {
            let (container, alias) = link.split_once(':').unwrap_or((link, link));
            let target = self.find(container)?.name;
            if alias != target {
                names.push(OwnName {
                    name: alias.into(),
                    meaning: Meaning::SameAs(target),
                });
            }
        }
        let resolver = Resolver::of(config);
        let servers: Vec<SocketAddr> = config
            .dns
            .iter()
            .filter_map(|server| server.parse::<IpAddr>().ok())
            .map(|address| SocketAddr::new(address, 53))
            .collect();
        let settings = Settings {
            networks: places
                .iter()
                .filter(|place| place.net.has_names())
                .map(|place| NetworkNames {
                    table: self.networks_directory().join(table_name(&place.net)),
                    internal: place.net.config.internal,
                })
                .collect(),
            names,
            search: resolver.search,
            forward: way_out.is_some(),
            upstream: if servers.is_empty() {
                Upstream::default()
            } else {
                Upstream::Servers(servers)
            },
        };
        let path = self.roots.sandbox(sandbox);
        let directory = fs::File::open(&path).map_err(|source| Error::Path {
            action: "open",
            path: path.clone(),
            source,
        })?;
        settings
            .write(&directory, DNS)
            .map_err(|error| Error::Invalid {
                option: "link or search domain".into(),
                reason: chain(&error),
            })
    }

    /// Tells a running container of the networks that it is on now.
    pub(super) fn tell_of_networks(&self, id: &str, config: &ContainerConfig) -> Result<(), Error> {
        let places = self.places(id, config)?;
        let directory = self.roots.container_run(id);
        let mut addresses = Vec::new();
        for place in &places {
            let leased = self.store()?.leased(&place.net.name, id)?;
            addresses.extend(leased.map(Ipv4Addr::from));
        }
        let names = crate::order::own_names(id, config);
        rewrite(&directory.join("hosts"), |hosts| {
            current_hosts(hosts, &names, &addresses)
        })?;
        let had_names = self.roots.sandbox(id).join(DNS).exists();
        let has_names = places.iter().any(|place| place.net.has_names());
        if !had_names && !has_names {
            return Ok(());
        }
        self.write_name_settings(id, config, &places)?;
        if !had_names {
            let sandbox = self.roots.sandbox(id);
            client::give_names(&sandbox, id, &sandbox.join(DNS)).map_err(|source| {
                Error::Supervisor {
                    id: id.into(),
                    source,
                }
            })?;
            rewrite(&directory.join("resolv.conf"), |_| {
                Resolver::of(config).text(true)
            })?;
        }
        Ok(())
    }
}

fn table_name(net: &Net) -> String {
    format!("{}.names", net.id)
}

fn lock_name(net: &Net) -> String {
    format!("{}.lock", net.id)
}

/// Whether a name can stand in a table.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    (1..=253).contains(&name.len()) && name.bytes().all(plain)
}

/// Changes a file in place: it is mounted into a container.
fn rewrite(path: &Path, change: impl FnOnce(&str) -> String) -> Result<(), Error> {
    let fail = |source| Error::Path {
        action: "rewrite",
        path: path.into(),
        source,
    };
    let old = fs::read_to_string(path).map_err(fail)?;
    let new = change(&old);
    if new == old {
        return Ok(());
    }
    let file = fs::File::options().write(true).open(path).map_err(fail)?;
    // Longer first, then cut: a reader in between finds every line that stays.
    std::os::unix::fs::FileExt::write_all_at(&file, new.as_bytes(), 0).map_err(fail)?;
    file.set_len(new.len() as u64).map_err(fail)
}

/// The lines of a hosts file, with those of the container's own name brought up to date.
fn current_hosts(hosts: &str, own_names: &str, addresses: &[Ipv4Addr]) -> String {
    let first = own_names.split(' ').next();
    let mut text = String::new();
    let mut seen = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
        if let Some(address) = address
            && words.next() == first
            && !address.is_loopback()
        {
            if !addresses.contains(&address) {
                continue;
            }
            seen.push(address);
        }
        text.push_str(line);
        text.push('\n');
    }
    for address in addresses.iter().filter(|address| !seen.contains(address)) {
        let _ = writeln!(text, "{address}\t{own_names}");
    }
    text
}

/// The names that containers of a network find a container by, its own first.
pub(crate) fn names_of(
    id: &str,
    name: &str,
    config: &ContainerConfig,
    wish: &crate::config::EndpointConfig,
) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let short = id.get(..12).unwrap_or(id);
    let others = wish.aliases.iter().map(String::as_str);
    let others = others.chain([short, config.hostname.as_str()]);
    for other in others.filter(|other| !other.is_empty()) {
        if !names.iter().any(|known| known == other) {
            names.push(other.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_of_a_hosts_file_follow_the_networks() {
        let one = Ipv4Addr::new(172, 18, 0, 2);
        let two = Ipv4Addr::new(172, 19, 0, 2);
        let base = "127.0.0.1\tlocalhost\n10.0.0.1\tdb web\n";
        let first = current_hosts(base, "web", &[one]);
        assert_eq!(first, format!("{base}172.18.0.2\tweb\n"));
        let both = current_hosts(&first, "web", &[one, two]);
        assert_eq!(both, format!("{first}172.19.0.2\tweb\n"));
        assert_eq!(
            current_hosts(&both, "web", &[two]),
            format!("{base}172.19.0.2\tweb\n")
        );
        assert_eq!(current_hosts(&both, "web", &[]), base);
        let whole = current_hosts(base, "web.example.org web", &[one]);
        assert_eq!(whole, format!("{base}172.18.0.2\tweb.example.org web\n"));
        assert_eq!(current_hosts(&whole, "web.example.org web", &[]), base);
    }

    #[test]
    fn a_container_with_names_asks_its_own_server() {
        let config = ContainerConfig {
            dns: vec!["192.0.2.1".into()],
            dns_search: vec!["corp.example".into()],
            dns_options: vec!["timeout:1".into()],
            ..ContainerConfig::default()
        };
        assert_eq!(
            Resolver::of(&config).text(true),
            "nameserver 127.0.0.11\nsearch corp.example\noptions timeout:1 ndots:0\n"
        );
        assert_eq!(
            Resolver::of(&config).text(false),
            "nameserver 192.0.2.1\nsearch corp.example\noptions timeout:1\n"
        );
    }
}
