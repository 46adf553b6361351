//! The sandbox's place on a bridge: link, addresses, published ports.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use gantry_network::attach::{
    ContainerLink, HostLink, attach_host, configure_container, wait_until_connected,
};
use gantry_network::firewall::{
    BridgeSpec, PortMapping, ensure_with, publish_with, unpublish_owner, unpublish_with,
};
use gantry_network::ipam::Subnet;
use gantry_network::link::{self, Mac, PortOptions, SharedKind, SharedLink};
use gantry_network::netlink::{Batch, Family, Socket};
use gantry_network::ports::{HostPort, PortRequest, reserve};
use gantry_network::{Protocol, conntrack, sysctl};
use rustix::fs::{Mode, OFlags};

use crate::chain;
use crate::order::{
    Attachment, BridgeOrder, EndpointOrder, NetworkOrder, PortOrder, PublishedPort,
};

/// How long a start waits for its link. Normally that is no time at all; a program that
/// starts too early loses its first packets and no more.
const CONNECTION_PATIENCE: Duration = Duration::from_millis(250);

/// Ports of a container, held by bound sockets.
#[derive(Debug, Default)]
pub struct HeldPorts {
    /// The sockets.
    pub sockets: Vec<OwnedFd>,
    /// Which ports they are.
    pub published: Vec<PublishedPort>,
}

/// Reserves the ports that an order asks for.
///
/// # Errors
/// In words, naming the port and who has it.
pub fn reserve_ports(orders: &[PortOrder]) -> Result<HeldPorts, String> {
    let mut held = HeldPorts::default();
    for order in orders {
        let port = match (order.host_port, order.host_port_end) {
            (0, _) => HostPort::Any,
            (first, last) if last > first => HostPort::Between(first, last),
            (port, _) => HostPort::Exactly(port),
        };
        let request = PortRequest {
            host_address: order.host_ip,
            port,
            protocol: protocol(&order.protocol),
        };
        let reservation = reserve(&request).map_err(|error| chain(&error))?;
        held.sockets
            .extend(reservation.sockets.into_iter().map(|socket| socket.fd));
        held.published.push(PublishedPort {
            host_ip: order.host_ip,
            host_port: reservation.port,
            container_port: order.container_port,
            protocol: order.protocol.clone(),
        });
    }
    Ok(held)
}

/// The host's side of the links: a socket of the host's namespace, which keeps showing that
/// namespace to a child born into another one.
#[derive(Debug)]
pub struct HostSide {
    socket: Socket,
    /// Index of each endpoint's bridge.
    bridges: Vec<u32>,
}

/// Opens the host's side for a container on bridges.
///
/// # Errors
/// In words.
pub fn host_side(order: &NetworkOrder) -> Result<Option<HostSide>, String> {
    let NetworkOrder::Bridge(order) = order else {
        return Ok(None);
    };
    let mut socket = Socket::open(Family::Route).map_err(|error| chain(&error))?;
    let mut bridges = Vec::with_capacity(order.endpoints.len());
    for endpoint in &order.endpoints {
        let bridge = link::find(&mut socket, &endpoint.bridge)
            .map_err(|error| chain(&error))?
            .ok_or_else(|| format!("link {} is gone", endpoint.bridge))?;
        bridges.push(bridge.index);
    }
    Ok(Some(HostSide { socket, bridges }))
}

/// Connects the namespace of a process to the bridges.
///
/// # Errors
/// In words.
pub fn connect(
    order: &BridgeOrder,
    host: &mut HostSide,
    namespace: BorrowedFd<'_>,
) -> Result<(), String> {
    for (endpoint, bridge) in order.endpoints.iter().zip(host.bridges.clone()) {
        connect_endpoint(&mut host.socket, bridge, endpoint, namespace)?;
    }
    Ok(())
}

/// Connects a namespace to one bridge, whose index is `bridge`.
///
/// # Errors
/// In words.
pub fn connect_endpoint(
    socket: &mut Socket,
    bridge: u32,
    endpoint: &EndpointOrder,
    namespace: BorrowedFd<'_>,
) -> Result<(), String> {
    let shared = match &endpoint.attachment {
        Attachment::Bridge => None,
        Attachment::Macvlan { mode } => Some(SharedKind::Macvlan(
            mode.parse()
                .map_err(|()| format!("{mode:?} is no mode of macvlan"))?,
        )),
        Attachment::Ipvlan { mode } => Some(SharedKind::Ipvlan(
            mode.parse()
                .map_err(|()| format!("{mode:?} is no mode of ipvlan"))?,
        )),
    };
    if let Some(kind) = shared {
        let link = SharedLink {
            name: &endpoint.interface,
            parent: bridge,
            kind,
            mac: endpoint_mac(endpoint)?,
            mtu: endpoint.mtu,
        };
        let mut batch = Batch::new();
        link::create_shared(&mut batch, &link, namespace);
        return socket.execute(&mut batch).map_err(|error| chain(&error));
    }
    let net = sysctl::open().map_err(|error| chain(&error))?;
    let translated_in_bridge =
        sysctl::bridge_netfilter(net.as_fd()).map_err(|error| chain(&error))?;
    let link = HostLink {
        name: &endpoint.link,
        bridge,
        peer_name: &endpoint.interface,
        peer_mac: endpoint_mac(endpoint)?,
        mtu: endpoint.mtu,
        port: PortOptions {
            hairpin: translated_in_bridge,
            isolated: !endpoint.icc,
        },
        alias: None,
    };
    let attached = match attach_host(socket, &link, namespace) {
        // The namespace of an earlier start of the same container: the kernel takes it
        // down some time after its last process has ended, and its link with it.
        Err(error) if error.errno == rustix::io::Errno::EXIST => {
            link::delete(socket, link.name).map_err(|error| chain(&error))?;
            attach_host(socket, &link, namespace)
        }
        other => other,
    };
    attached.map_err(|error| chain(&error))
}

fn endpoint_mac(endpoint: &EndpointOrder) -> Result<Mac, String> {
    match &endpoint.mac {
        None => Ok(Mac::from_ipv4(endpoint.address)),
        Some(mac) => mac.parse().map_err(|error| chain(&error)),
    }
}

/// Name of the host's end of a container's link: it carries the installation by way of the
/// container's id, and fits into the 15 bytes that the kernel has for it.
#[must_use]
pub fn link_name(container: &str) -> String {
    format!("gv{}", container.get(..12).unwrap_or(container))
}

/// The supervisor's connection to nf_tables, opened when it is first needed and closed by
/// the supervisor's end: a close waits 10 to 15 ms for the kernel to free what anybody has
/// deleted last.
#[derive(Debug, Default)]
pub struct Firewall(Option<Socket>);

impl Firewall {
    fn socket(&mut self) -> Result<&mut Socket, String> {
        if self.0.is_none() {
            self.0 = Some(Socket::open(Family::Netfilter).map_err(|error| chain(&error))?);
        }
        self.0
            .as_mut()
            .ok_or_else(|| "no netfilter socket".to_owned())
    }
}

/// What the rules say of an endpoint's bridge.
#[must_use]
pub fn bridge_spec(endpoint: &EndpointOrder) -> Option<BridgeSpec<'_>> {
    Some(BridgeSpec {
        name: &endpoint.bridge,
        subnet: Subnet::new(endpoint.gateway, endpoint.prefix)?,
        gateway: endpoint.gateway,
        icc: endpoint.icc,
        masquerade: endpoint.masquerade,
        internal: endpoint.internal,
    })
}

/// Publishes ports: one element each, all in one transaction. The rules are put back
/// first if somebody has removed them, as `nft flush ruleset` does.
///
/// # Errors
/// In words.
pub fn publish_ports(
    firewall: &mut Firewall,
    order: &BridgeOrder,
    owner: &str,
    ports: &[PublishedPort],
) -> Result<(), String> {
    let socket = firewall.socket()?;
    let on_bridges = |endpoint: &&EndpointOrder| endpoint.attachment == Attachment::Bridge;
    for endpoint in order.endpoints.iter().filter(on_bridges) {
        let bridge = bridge_spec(endpoint).ok_or("the network's prefix is no prefix")?;
        ensure_with(socket, &order.instance, &bridge).map_err(|error| chain(&error))?;
    }
    let Some(published) = order.published() else {
        return Ok(());
    };
    let mappings = mappings(published.address, ports);
    if mappings.is_empty() {
        return Ok(());
    }
    publish_with(socket, &order.instance, owner, &mappings).map_err(|error| chain(&error))?;
    for port in ports.iter().filter(|port| port.protocol == "udp") {
        // A flow that was known before the port was published would go on past it.
        let _ = conntrack::flush_port(Protocol::Udp, port.host_port);
    }
    Ok(())
}

/// Takes published ports back.
pub fn unpublish_ports(
    firewall: &mut Firewall,
    instance: &str,
    owner: &str,
    ports: &[PublishedPort],
) {
    let known = mappings(std::net::Ipv4Addr::UNSPECIFIED, ports);
    if known.is_empty() {
        return;
    }
    let removed = firewall
        .socket()
        .is_ok_and(|socket| unpublish_with(socket, instance, &known).is_ok());
    if !removed {
        let _ = unpublish_owner(instance, owner);
    }
}

/// Removes links and published ports of a container, whoever has made them.
pub fn clear(order: &BridgeOrder, container: &str) {
    if let Ok(mut socket) = Socket::open(Family::Route) {
        for endpoint in &order.endpoints {
            let _ = link::delete(&mut socket, &endpoint.link);
        }
    }
    let _ = unpublish_owner(&order.instance, container);
}

fn mappings(address: std::net::Ipv4Addr, ports: &[PublishedPort]) -> Vec<PortMapping> {
    let mapping = |port: &PublishedPort| {
        let host_address = match port.host_ip {
            None => None,
            Some(IpAddr::V4(address)) => Some(address),
            // Served by the listening socket: no rule translates between the families.
            Some(IpAddr::V6(_)) => return None,
        };
        Some(PortMapping {
            host_address,
            host_port: port.host_port,
            container_address: address,
            container_port: port.container_port,
            count: 1,
            protocol: protocol(&port.protocol),
        })
    };
    ports.iter().filter_map(mapping).collect()
}

/// What the birth process does inside its namespace. `proc` is the container's procfs,
/// `host` was opened before the birth.
///
/// # Errors
/// In words.
pub fn configure_inside(
    order: &NetworkOrder,
    host: Option<&mut HostSide>,
    proc: BorrowedFd<'_>,
) -> Result<(), String> {
    match order {
        NetworkOrder::Host | NetworkOrder::Shared => Ok(()),
        NetworkOrder::None => configure_container(&[]).map_err(|error| chain(&error)),
        NetworkOrder::Bridge(bridge) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let net = rustix::fs::openat(proc, "sys/net", flags, Mode::empty())
                .map_err(|errno| format!("cannot open sys/net: {errno}"))?;
            // Without IPv6 of its own a network must not take any from a router that
            // somebody else announces (CVE-2020-13401, CVE-2024-32473).
            sysctl::disable_ipv6(net.as_fd()).map_err(|error| chain(&error))?;
            for endpoint in &bridge.endpoints {
                // The link is there already, and accept_ra of "all" does not reach it.
                sysctl::disable_ipv6_on(net.as_fd(), &endpoint.interface)
                    .map_err(|error| chain(&error))?;
            }
            let links: Vec<ContainerLink<'_>> =
                bridge.endpoints.iter().map(container_link).collect();
            bridge.endpoints.iter().try_for_each(mark_shared)?;
            configure_container(&links).map_err(|error| chain(&error))?;
            if let Some(host) = host {
                let all = bridge.endpoints.iter().zip(&host.bridges);
                for (endpoint, index) in
                    all.filter(|(endpoint, _)| endpoint.attachment == Attachment::Bridge)
                {
                    // A lost first packet costs the program a second, not its start.
                    let _ = wait_until_connected(
                        &mut host.socket,
                        &endpoint.link,
                        *index,
                        CONNECTION_PATIENCE,
                    );
                }
            }
            Ok(())
        }
    }
}

/// Puts a note on a link that has no end in the host, so that it is found again. To be called in
/// the container's namespace.
///
/// # Errors
/// In words.
pub fn mark_shared(endpoint: &EndpointOrder) -> Result<(), String> {
    if endpoint.attachment == Attachment::Bridge {
        return Ok(());
    }
    let mut socket = Socket::open(Family::Route).map_err(|error| chain(&error))?;
    let mut batch = Batch::new();
    link::set_alias(&mut batch, &endpoint.interface, &endpoint.link);
    socket.execute(&mut batch).map_err(|error| chain(&error))
}

/// The container's end of an endpoint.
#[must_use]
pub fn container_link(endpoint: &EndpointOrder) -> ContainerLink<'_> {
    ContainerLink {
        name: &endpoint.interface,
        address: endpoint.address,
        prefix_length: endpoint.prefix,
        gateway: endpoint.default_route.then_some(endpoint.gateway),
        mtu: None,
        ipv6: None,
    }
}

fn protocol(name: &str) -> Protocol {
    match name {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}
