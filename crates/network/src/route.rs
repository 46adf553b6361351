//! Routes.

use crate::address;
use crate::ipam::Subnet;
use crate::netlink::{Batch, Family, NetlinkError, Purpose, Socket, flag, read_u32};
use std::net::IpAddr;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Adds a default route through `gateway` on the link. The link must be up and have an address in
/// the gateway's network; a default route that exists is replaced.
pub fn add_default<'a>(batch: &mut Batch<'a>, index: u32, object: &'a str, gateway: IpAddr) {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut header = [0; HEADER];
    header[0] = family;
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_BOOT;
    header[7] = RTN_UNICAST;
    let flags = flag::ACK | flag::CREATE | flag::REPLACE;
    let purpose = Purpose::new("add default route on link", object);
    batch.request(RTM_NEWROUTE, flags, purpose, &header, |body| {
        match gateway {
            IpAddr::V4(gateway) => body.bytes(RTA_GATEWAY, &gateway.octets()),
            IpAddr::V6(gateway) => body.bytes(RTA_GATEWAY, &gateway.octets()),
        }
        body.u32(RTA_OIF, index);
    });
}

/// Leads the default route of the calling thread's namespace through a gateway, whatever it led
/// through before. The link is the one that reaches the gateway.
///
/// # Errors
/// The kernel's refusal.
pub fn replace_default(gateway: std::net::Ipv4Addr) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Family::Route)?;
    let mut header = [0; HEADER];
    header[0] = AF_INET;
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_BOOT;
    header[7] = RTN_UNICAST;
    let flags = flag::ACK | flag::CREATE | flag::REPLACE;
    let purpose = Purpose::new("replace", "the default route");
    let mut batch = Batch::new();
    batch.request(RTM_NEWROUTE, flags, purpose, &header, |body| {
        body.bytes(RTA_GATEWAY, &gateway.octets());
    });
    socket.execute(&mut batch)
}

/// An IPv4 route to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destinations; a default route has a prefix of no bits.
    pub destination: Subnet,
    /// The next router, if it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// The index of the link; absent for routes with several next hops.
    pub link: Option<u32>,
}

/// Lists the unicast IPv4 routes of all tables, default routes included.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut batch = Batch::new();
    let mut header = [0; HEADER];
    header[0] = AF_INET;
    batch.request(
        RTM_GETROUTE,
        flag::DUMP,
        Purpose::new("list", "routes"),
        &header,
        |_| (),
    );
    socket.dump(&mut batch, |reply| {
        let payload = reply.payload;
        if reply.kind != RTM_NEWROUTE || *payload.get(7)? != RTN_UNICAST {
            return None;
        }
        let attributes = reply.attributes(HEADER);
        let network = match attributes.find(RTA_DST) {
            Some(value) => <[u8; 4]>::try_from(value).ok()?.into(),
            None => std::net::Ipv4Addr::UNSPECIFIED,
        };
        Some(Route {
            destination: Subnet::new(network, *payload.get(1)?)?,
            gateway: attributes.find(RTA_GATEWAY).and_then(address::read),
            link: attributes.find(RTA_OIF).and_then(read_u32),
        })
    })
}

/// The networks that the host reaches by IPv4 other than through a default route: none of them may
/// become a container network.
///
/// # Errors
/// The kernel's refusal.
pub fn host_subnets(socket: &mut Socket) -> Result<Vec<Subnet>, NetlinkError> {
    let mut subnets: Vec<_> = list(socket)?
        .into_iter()
        .map(|route| route.destination)
        .filter(|subnet| subnet.prefix_length() > 0)
        .collect();
    subnets.sort_unstable();
    subnets.dedup();
    Ok(subnets)
}
