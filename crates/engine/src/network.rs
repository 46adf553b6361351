//! The default bridge, and the files that tell a container of its network.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_network::attach::{BridgeLink, ensure_bridge};
use gantry_network::firewall::{self, BridgeSpec};
use gantry_network::ipam::{DEFAULT_POOLS, FALLBACK_POOL, Subnet, next_address, pick_subnet};
use gantry_network::netlink::{Family, Socket};
use gantry_network::{route, sysctl};
use gantry_supervisor::order::{BridgeOrder, NetworkOrder, PortOrder};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::Engine;
use crate::config::{ContainerConfig, NetworkMode};
use crate::error::Error;

/// Name of the network that a container is on if nothing else is said.
pub const DEFAULT: &str = "bridge";

impl Engine {
    /// The network of a start, with everything made that has to be there before it.
    pub(crate) fn network_order(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        shared: bool,
    ) -> Result<NetworkOrder, Error> {
        if shared {
            return Ok(NetworkOrder::Shared);
        }
        match config.network {
            NetworkMode::Host => Ok(NetworkOrder::Host),
            NetworkMode::None => Ok(NetworkOrder::None),
            NetworkMode::Bridge | NetworkMode::Container(_) => self.bridge_order(sandbox, config),
        }
    }

    fn bridge_order(&self, sandbox: &str, config: &ContainerConfig) -> Result<NetworkOrder, Error> {
        // From the choice of a subnet to the route to it.
        let _choosing = self.settle_subnet()?;
        let (bridge, subnet, gateway) = self.default_network()?;
        let leased = self.store()?.lease(DEFAULT, sandbox, |used, last| {
            let taken = |address: Ipv4Addr| used.binary_search(&u32::from(address)).is_ok();
            let after = (last != 0).then(|| Ipv4Addr::from(last));
            next_address(subnet, None, Some(gateway), taken, after).map(u32::from)
        })?;
        self.ensure_network(&bridge, subnet, gateway)?;
        Ok(NetworkOrder::Bridge(BridgeOrder {
            instance: self.roots.instance(),
            bridge,
            address: Ipv4Addr::from(leased),
            prefix: subnet.prefix_length(),
            gateway,
            ports: port_orders(config),
        }))
    }

    /// Sees to it that the subnet is nobody else's before the bridge is made. The result keeps
    /// other installations from choosing meanwhile; there is none where the bridge is made
    /// already.
    fn settle_subnet(&self) -> Result<Option<OwnedFd>, Error> {
        let bridge = self.roots.bridge();
        let net = sysctl::open().map_err(|error| failed(&chain(&error)))?;
        let is_made = || {
            sysctl::routes_localnet(net.as_fd(), &bridge).map_err(|error| failed(&chain(&error)))
        };
        if is_made()? {
            return Ok(None);
        }
        let lock = lock_namespace()?;
        let mut socket = Socket::open(Family::Route).map_err(|error| failed(&chain(&error)))?;
        let half_made = gantry_network::link::find(&mut socket, &bridge)
            .map_err(|error| failed(&chain(&error)))?
            .is_some();
        if is_made()? || half_made {
            return Ok(Some(lock));
        }
        // After a reboot or a reset somebody else may have what the record says.
        let (_, subnet, _) = self.default_network()?;
        let routes = route::host_subnets(&mut socket).map_err(|error| failed(&chain(&error)))?;
        let taken = |route: &Subnet| route.prefix_length() > 0 && route.overlaps(subnet);
        if routes.iter().any(taken) {
            let subnet = free_subnet()?;
            let (gateway, _) = subnet.hosts();
            self.store()?
                .renumber(DEFAULT, &subnet.to_string(), &gateway.to_string())?;
        }
        Ok(Some(lock))
    }

    /// Bridge, subnet and gateway of the default network.
    pub(crate) fn default_network(&self) -> Result<(String, Subnet, Ipv4Addr), Error> {
        let roots = &self.roots;
        let (bridge, subnet, gateway) = self.store()?.network(DEFAULT, || {
            let subnet = free_subnet()?;
            let (gateway, _) = subnet.hosts();
            Ok((roots.bridge(), subnet.to_string(), gateway.to_string()))
        })?;
        let damaged = || failed("its record is damaged");
        let subnet: Subnet = subnet.parse().map_err(|_| damaged())?;
        let gateway: Ipv4Addr = gateway.parse().map_err(|_| damaged())?;
        Ok((bridge, subnet, gateway))
    }

    /// Makes bridge, rules and kernel parameters, as far as they are missing.
    fn ensure_network(&self, bridge: &str, subnet: Subnet, gateway: Ipv4Addr) -> Result<(), Error> {
        let net = sysctl::open().map_err(|error| failed(&chain(&error)))?;
        sysctl::enable_forwarding(net.as_fd()).map_err(|error| failed(&chain(&error)))?;
        // The last step below: where it was done, all was. Whether the rules are still there
        // is seen to by the supervisor, which has a netfilter socket open anyway.
        if sysctl::routes_localnet(net.as_fd(), bridge).map_err(|error| failed(&chain(&error)))? {
            return Ok(());
        }
        let spec = BridgeSpec {
            name: bridge,
            subnet,
            gateway,
            icc: true,
            masquerade: true,
            internal: false,
        };
        // Before route_localnet: without the rules it opens the host's loopback to containers
        // (CVE-2020-8558).
        firewall::ensure(&self.roots.instance(), &spec).map_err(|error| failed(&chain(&error)))?;
        let mut socket = Socket::open(Family::Route).map_err(|error| failed(&chain(&error)))?;
        let link = BridgeLink {
            name: bridge,
            address: Some((gateway, subnet.prefix_length())),
            mtu: None,
            alias: None,
        };
        ensure_bridge(&mut socket, &link).map_err(|error| failed(&chain(&error)))?;
        sysctl::disable_ipv6_on(net.as_fd(), bridge).map_err(|error| failed(&chain(&error)))?;
        sysctl::route_localnet(net.as_fd(), bridge).map_err(|error| failed(&chain(&error)))
    }

    /// Removes bridge and rules of the installation.
    pub(crate) fn remove_network(&self) -> Result<(), Error> {
        firewall::remove_all(&self.roots.instance()).map_err(|error| failed(&chain(&error)))?;
        let mut socket = Socket::open(Family::Route).map_err(|error| failed(&chain(&error)))?;
        let bridge = self.roots.bridge();
        if gantry_network::link::find(&mut socket, &bridge).is_ok_and(|found| found.is_some()) {
            gantry_network::link::delete(&mut socket, &bridge)
                .map_err(|error| failed(&chain(&error)))?;
        }
        Ok(())
    }
}

fn failed(message: &str) -> Error {
    Error::Network {
        network: DEFAULT.into(),
        message: message.into(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// A lock that everybody has in common who chooses subnets in this network namespace: on the
/// namespace itself. Any user may take it, so nobody is waited for very long.
fn lock_namespace() -> Result<OwnedFd, Error> {
    const PATH: &str = "/proc/self/ns/net";
    const PATIENCE: Duration = Duration::from_secs(2);
    let refuse = |error: std::io::Error| failed(&format!("cannot lock {PATH}: {error}"));
    let lock = OwnedFd::from(fs::File::open(PATH).map_err(refuse)?);
    let until = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::WOULDBLOCK) => return Ok(lock),
            Err(errno) => return Err(refuse(errno.into())),
        }
    }
}

/// A subnet that neither a route of the host nor another installation has.
fn free_subnet() -> Result<Subnet, Error> {
    let mut socket = Socket::open(Family::Route).map_err(|error| failed(&chain(&error)))?;
    let routes = route::host_subnets(&mut socket).map_err(|error| failed(&chain(&error)))?;
    let mut pools = DEFAULT_POOLS.to_vec();
    pools.push(FALLBACK_POOL);
    pick_subnet(&pools, &[], &routes)
        .ok_or_else(|| failed("every address pool clashes with a route of the host"))
}

fn port_orders(config: &ContainerConfig) -> Vec<PortOrder> {
    let mut orders: Vec<PortOrder> = config
        .ports
        .iter()
        .map(|binding| PortOrder {
            host_ip: binding
                .host_ip
                .filter(|address| !address.is_unspecified() || address.is_ipv6()),
            host_port: binding.host_port,
            host_port_end: binding.host_port_end,
            container_port: binding.container.port,
            protocol: binding.container.protocol.to_string(),
        })
        .collect();
    if config.publish_all {
        for port in &config.exposed_ports {
            if !config
                .ports
                .iter()
                .any(|binding| binding.container == *port)
            {
                orders.push(PortOrder {
                    host_ip: None,
                    host_port: 0,
                    host_port_end: 0,
                    container_port: port.port,
                    protocol: port.protocol.to_string(),
                });
            }
        }
    }
    orders
}

/// `/etc/hosts` of a container.
pub(crate) fn hosts_file(hostname: &str, network: &NetworkOrder) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let NetworkOrder::Bridge(bridge) = network {
        let _ = writeln!(text, "{}\t{hostname}", bridge.address);
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
            ("host-gateway", NetworkOrder::Bridge(bridge)) => bridge.gateway.to_string(),
            ("host-gateway", _) => "127.0.0.1".into(),
            (other, _) => other
                .parse::<std::net::IpAddr>()
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

/// `/etc/resolv.conf` of a container: the host's, without name servers that only the
/// host can reach.
pub(crate) fn resolver_file(config: &ContainerConfig, host_network: bool) -> String {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut servers = Vec::new();
    let mut search = Vec::new();
    let mut options = Vec::new();
    for line in host.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            Some("options") => options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    if !host_network {
        servers.retain(|server| {
            let address = server.split('%').next().unwrap_or_default();
            address
                .parse::<std::net::IpAddr>()
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
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}
