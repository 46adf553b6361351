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
use gantry_network::link::{self, Mac, PortOptions};
use gantry_network::netlink::{Family, Socket};
use gantry_network::ports::{HostPort, PortRequest, reserve};
use gantry_network::{Protocol, conntrack, sysctl};
use rustix::fs::{Mode, OFlags};

use crate::order::{BridgeOrder, NetworkOrder, PortOrder, PublishedPort};

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

/// The host's side of a link: a socket of the host's namespace, which keeps showing that
/// namespace to a child born into another one.
#[derive(Debug)]
pub struct HostSide {
    socket: Socket,
    bridge: u32,
    link: String,
}

/// Opens the host's side for a container on a bridge.
///
/// # Errors
/// In words.
pub fn host_side(order: &NetworkOrder, container: &str) -> Result<Option<HostSide>, String> {
    let NetworkOrder::Bridge(order) = order else {
        return Ok(None);
    };
    let mut socket = Socket::open(Family::Route).map_err(|error| chain(&error))?;
    let bridge = link::find(&mut socket, &order.bridge)
        .map_err(|error| chain(&error))?
        .ok_or_else(|| format!("bridge {} is gone", order.bridge))?;
    Ok(Some(HostSide {
        socket,
        bridge: bridge.index,
        link: link_name(container),
    }))
}

/// Connects the namespace of a process to the bridge.
///
/// # Errors
/// In words.
pub fn connect(
    order: &BridgeOrder,
    host: &mut HostSide,
    namespace: BorrowedFd<'_>,
) -> Result<(), String> {
    let net = sysctl::open().map_err(|error| chain(&error))?;
    let translated_in_bridge =
        sysctl::bridge_netfilter(net.as_fd()).map_err(|error| chain(&error))?;
    let link = HostLink {
        name: &host.link,
        bridge: host.bridge,
        peer_name: "eth0",
        peer_mac: Mac::from_ipv4(order.address),
        mtu: None,
        port: PortOptions {
            hairpin: translated_in_bridge,
            ..PortOptions::default()
        },
        alias: None,
    };
    let attached = match attach_host(&mut host.socket, &link, namespace) {
        // The namespace of an earlier start of the same container: the kernel takes it
        // down some time after its last process has ended, and its link with it.
        Err(error) if error.errno == rustix::io::Errno::EXIST => {
            link::delete(&mut host.socket, link.name).map_err(|error| chain(&error))?;
            attach_host(&mut host.socket, &link, namespace)
        }
        other => other,
    };
    attached.map_err(|error| chain(&error))
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

/// What the rules say of a bridge.
#[must_use]
pub fn bridge_spec(order: &BridgeOrder) -> Option<BridgeSpec<'_>> {
    Some(BridgeSpec {
        name: &order.bridge,
        subnet: Subnet::new(order.gateway, order.prefix)?,
        gateway: order.gateway,
        icc: true,
        masquerade: true,
        internal: false,
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
    let bridge = bridge_spec(order).ok_or("the network's prefix is no prefix")?;
    ensure_with(socket, &order.instance, &bridge).map_err(|error| chain(&error))?;
    let mappings = mappings(order.address, ports);
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

/// Removes link and published ports of a container, whoever has made them.
pub fn clear(order: &BridgeOrder, container: &str) {
    if let Ok(mut socket) = Socket::open(Family::Route) {
        let _ = link::delete(&mut socket, &link_name(container));
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
            // The link is there already, and accept_ra of "all" does not reach it.
            sysctl::disable_ipv6_on(net.as_fd(), "eth0").map_err(|error| chain(&error))?;
            let link = ContainerLink {
                name: "eth0",
                address: bridge.address,
                prefix_length: bridge.prefix,
                gateway: Some(bridge.gateway),
                mtu: None,
                ipv6: None,
            };
            configure_container(&[link]).map_err(|error| chain(&error))?;
            if let Some(host) = host {
                // A lost first packet costs the program a second, not its start.
                let _ = wait_until_connected(
                    &mut host.socket,
                    &host.link,
                    host.bridge,
                    CONNECTION_PATIENCE,
                );
            }
            Ok(())
        }
    }
}

fn protocol(name: &str) -> Protocol {
    match name {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
