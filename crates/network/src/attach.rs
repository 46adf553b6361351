//! How a container gets its link: [`ensure_bridge`] once per network, [`attach_host`] by the
//! parent in the host's namespace, [`configure_container`] by the birth process in the new one.

use crate::link::{self, Mac, PortOptions, Target};
use crate::netlink::{Batch, Family, NetlinkError, Socket};
use crate::{address, route};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often a kernel before 6.8 is asked whether a link has become operational.
const CONNECTION_POLL: Duration = Duration::from_micros(200);

/// The bridge of a network.
#[derive(Debug, Clone, Copy)]
pub struct BridgeLink<'a> {
    /// The name, at most 15 bytes.
    pub name: &'a str,
    /// The host's address on the bridge, which is the containers' gateway; none for a network
    /// without the host.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The largest packet in bytes; the kernel's default if absent.
    pub mtu: Option<u32>,
    /// A note for whoever looks for the owner later, at most 255 bytes.
    pub alias: Option<&'a str>,
}

/// Makes sure that a bridge exists, has its address and is up; returns its index.
///
/// # Errors
/// The kernel's refusal, and `EEXIST` if another kind of link has the name.
pub fn ensure_bridge(socket: &mut Socket, bridge: &BridgeLink<'_>) -> Result<u32, NetlinkError> {
    let mac = match bridge.address {
        Some((address, _)) => Mac::from_ipv4(address),
        None => Mac::random().map_err(|errno| {
            NetlinkError::new("choose a MAC address for bridge", bridge.name, errno)
        })?,
    };
    let (name, mtu, alias) = (bridge.name, bridge.mtu, bridge.alias);
    let mut batch = Batch::new();
    if link::find(socket, name)?.is_none() {
        link::create_bridge(
            &mut batch,
            &link::Bridge {
                name,
                mac,
                mtu,
                alias,
            },
        );
    }
    link::get(&mut batch, Target::Name(name), name, &[]);
    let mut found = None;
    socket.query(&mut batch, |_, reply| {
        found = link::parse(reply).or(found.take())
    })?;
    let refuse = |errno| NetlinkError::new("create bridge", name, errno);
    let found = found.ok_or_else(|| refuse(Errno::NODEV))?;
    if found.kind.as_deref() != Some("bridge") {
        return Err(refuse(Errno::EXIST));
    }
    let mut batch = Batch::new();
    if let Some((address, prefix_length)) = bridge.address {
        address::add(&mut batch, found.index, name, address.into(), prefix_length);
    }
    link::set_up(&mut batch, Target::Index(found.index), name);
    socket.execute(&mut batch)?;
    Ok(found.index)
}

/// The host's end of a container's link.
#[derive(Debug, Clone, Copy)]
pub struct HostLink<'a> {
    /// The name in the host, at most 15 bytes.
    pub name: &'a str,
    /// The index of the bridge.
    pub bridge: u32,
    /// The name in the container, such as `eth0`.
    pub peer_name: &'a str,
    /// The container's Ethernet address.
    pub peer_mac: Mac,
    /// The largest packet in bytes; the kernel's default if absent.
    pub mtu: Option<u32>,
    /// How the bridge treats the host's end: isolated if `icc` is off, and with hairpin mode where
    /// [`crate::sysctl::bridge_netfilter`] is on. That translates frames inside the bridge, so a
    /// container that reaches itself through a published port needs its frame back; otherwise the
    /// host routes it, and hairpin mode would only return every broadcast to its sender.
    pub port: PortOptions,
    /// A note for whoever looks for the owner later, at most 255 bytes.
    pub alias: Option<&'a str>,
}

/// Creates a container's link with its end in `namespace` and connects the host's end to the
/// bridge, all with one send. The caller's end of the link vanishes with the namespace.
///
/// # Errors
/// The kernel's refusal; nothing is left behind then.
pub fn attach_host(
    socket: &mut Socket,
    host: &HostLink<'_>,
    namespace: BorrowedFd<'_>,
) -> Result<(), NetlinkError> {
    let mut create = Batch::new();
    let pair = link::VethPair {
        name: host.name,
        master: Some(host.bridge),
        peer_name: host.peer_name,
        peer_mac: host.peer_mac,
        mtu: host.mtu,
    };
    link::create_veth(&mut create, &pair, namespace);
    // The kernel would carry out the rest of a batch after a failed creation and so change a link
    // of that name that belongs to somebody else.
    socket.execute(&mut create)?;

    let mut batch = Batch::new();
    link::without_link_local(&mut batch, Target::Name(host.name), host.name);
    if let Some(alias) = host.alias {
        link::set_alias(&mut batch, host.name, alias);
    }
    if host.port != PortOptions::default() {
        link::set_port_options(&mut batch, host.name, host.port);
    }
    // Up comes last: the port must not forward a frame before it is isolated.
    link::set_up(&mut batch, Target::Name(host.name), host.name);
    socket.execute(&mut batch).inspect_err(|_| {
        // The first error is the one to report.
        let _ = link::delete(socket, host.name);
    })
}

/// Waits until packets pass between a container and its bridge; returns whether they do.
///
/// To be called in the host's namespace after [`configure_container`] and before the container's
/// program starts. When the second end of a link goes up, a kernel thread opens the first one and
/// the bridge port, and until it has got the lock that every change of links anywhere on the host
/// takes, packets are dropped. A lost ARP request is repeated after a second only. From Linux 6.8
/// on the question alone makes the kernel catch up; before, this asks until it has.
///
/// # Errors
/// The kernel's refusal.
pub fn wait_until_connected(
    socket: &mut Socket,
    name: &str,
    bridge: u32,
    patience: Duration,
) -> Result<bool, NetlinkError> {
    let start = Instant::now();
    loop {
        let mut batch = Batch::new();
        link::get(&mut batch, Target::Name(name), name, &[]);
        // The bridge has no carrier before its first port has.
        link::get(&mut batch, Target::Index(bridge), name, &[]);
        let mut operational = 0;
        socket.query(&mut batch, |_, reply| {
            operational += usize::from(link::parse(reply).is_some_and(|link| link.operational));
        })?;
        if operational == 2 {
            return Ok(true);
        }
        if start.elapsed() >= patience {
            return Ok(false);
        }
        std::thread::sleep(CONNECTION_POLL);
    }
}

/// An IPv6 address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Endpoint {
    /// The address.
    pub address: Ipv6Addr,
    /// The length of the network's prefix in bits.
    pub prefix_length: u8,
    /// The router of the default route.
    pub gateway: Option<Ipv6Addr>,
}

/// The container's end of a link.
#[derive(Debug, Clone, Copy)]
pub struct ContainerLink<'a> {
    /// The name, such as `eth0`.
    pub name: &'a str,
    /// The address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix in bits.
    pub prefix_length: u8,
    /// The router of the default route, on one of a container's links at most.
    pub gateway: Option<Ipv4Addr>,
    /// Another MTU in bytes than the one the link was created with.
    pub mtu: Option<u32>,
    /// The IPv6 address. Without one the link gets no IPv6 address at all, not even a link-local
    /// one (CVE-2020-13401); call [`crate::sysctl::disable_ipv6`] before as well, since the kernel
    /// would still take an address from a router's advertisement (CVE-2024-32473).
    pub ipv6: Option<Ipv6Endpoint>,
}

/// Brings up `lo` and the given links in the calling thread's network namespace, with two sends
/// at most.
///
/// # Errors
/// The kernel's refusal.
pub fn configure_container(links: &[ContainerLink<'_>]) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Family::Route)?;
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(link::LOOPBACK_INDEX), "lo");
    for container in links {
        link::get(
            &mut batch,
            Target::Name(container.name),
            container.name,
            &[],
        );
    }
    // Addresses are added by index, so that a second send is needed for the answer.
    let mut indices = vec![0; links.len()];
    socket.query(&mut batch, |request, reply| {
        if let (Some(slot), Some(info)) = (indices.get_mut(request - 1), link::parse(reply)) {
            *slot = info.index;
        }
    })?;

    let mut batch = Batch::new();
    for (container, index) in links.iter().zip(indices) {
        configure(&mut batch, container, index);
    }
    socket.execute(&mut batch)
}

fn configure<'a>(batch: &mut Batch<'a>, container: &ContainerLink<'a>, index: u32) {
    let (name, target) = (container.name, Target::Index(index));
    address::add(
        batch,
        index,
        name,
        container.address.into(),
        container.prefix_length,
    );
    match container.ipv6 {
        Some(ipv6) => address::add(batch, index, name, ipv6.address.into(), ipv6.prefix_length),
        None => link::without_link_local(batch, target, name),
    }
    match container.mtu {
        Some(mtu) => link::set_up_with_mtu(batch, target, name, mtu),
        None => link::set_up(batch, target, name),
    }
    // A gateway is reachable only when the link is up.
    if let Some(gateway) = container.gateway {
        route::add_default(batch, index, name, gateway.into());
    }
    if let Some(gateway) = container.ipv6.and_then(|ipv6| ipv6.gateway) {
        route::add_default(batch, index, name, IpAddr::V6(gateway));
    }
}

#[cfg(test)]
mod tests;
