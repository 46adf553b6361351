//! The sandbox's place on a bridge: link, addresses, published ports.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_network::attach::{ContainerLink, HostLink, attach_host, configure_container};
use gantry_network::firewall::{PortMapping, publish, unpublish};
use gantry_network::link::{self, Mac, PortOptions};
use gantry_network::netlink::{Family, Socket};
use gantry_network::ports::{HostPort, PortRequest, reserve};
use gantry_network::{Protocol, conntrack, sysctl};
use rustix::fs::{Mode, OFlags};

use crate::order::{BridgeOrder, NetworkOrder, PortOrder, PublishedPort};

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

/// Connects the namespace of a process to the bridge.
///
/// # Errors
/// In words.
pub fn connect(
    order: &BridgeOrder,
    container: &str,
    namespace: BorrowedFd<'_>,
) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| chain(error);
    let mut socket = Socket::open(Family::Route).map_err(|error| failed(&error))?;
    let bridge = link::find(&mut socket, &order.bridge)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| format!("bridge {} is gone", order.bridge))?;
    let host = HostLink {
        name: &link_name(container),
        bridge: bridge.index,
        peer_name: "eth0",
        peer_mac: Mac::from_ipv4(order.address),
        mtu: None,
        port: PortOptions::default(),
        alias: None,
    };
    attach_host(&mut socket, &host, namespace).map_err(|error| failed(&error))
}

/// Name of the host's end of a container's link: it carries the installation by way of the
/// container's id, and fits into the 15 bytes that the kernel has for it.
#[must_use]
pub fn link_name(container: &str) -> String {
    format!("gv{}", container.get(..12).unwrap_or(container))
}

/// Publishes ports: one element each, all in one transaction.
///
/// # Errors
/// In words.
pub fn publish_ports(
    order: &BridgeOrder,
    owner: &str,
    ports: &[PublishedPort],
) -> Result<(), String> {
    let mappings = mappings(order.address, ports);
    if mappings.is_empty() {
        return Ok(());
    }
    publish(&order.instance, owner, &mappings).map_err(|error| chain(&error))?;
    for port in ports.iter().filter(|port| port.protocol == "udp") {
        // A flow that was known before the port was published would go on past it.
        let _ = conntrack::flush_port(Protocol::Udp, port.host_port);
    }
    Ok(())
}

/// Takes published ports back.
pub fn unpublish_ports(instance: &str, owner: &str, ports: &[PublishedPort]) {
    let known = mappings(std::net::Ipv4Addr::UNSPECIFIED, ports);
    if known.is_empty() || unpublish(instance, &known).is_ok() {
        return;
    }
    let _ = gantry_network::firewall::unpublish_owner(instance, owner);
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

/// What the birth process does inside its namespace. `proc` is the container's procfs.
///
/// # Errors
/// In words.
pub fn configure_inside(order: &NetworkOrder, proc: BorrowedFd<'_>) -> Result<(), String> {
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
            let link = ContainerLink {
                name: "eth0",
                address: bridge.address,
                prefix_length: bridge.prefix,
                gateway: Some(bridge.gateway),
                mtu: None,
                ipv6: None,
            };
            configure_container(&[link]).map_err(|error| chain(&error))
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
