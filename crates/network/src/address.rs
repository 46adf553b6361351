//! Addresses of links.

use crate::netlink::{Batch, NetlinkError, Purpose, Socket, flag, read_u32};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;

/// Gives a link an address. One that it has already is kept.
///
/// IPv6 addresses are added without duplicate address detection: we chose them, and the second
/// that detection takes would delay the container's first connection.
pub fn add<'a>(
    batch: &mut Batch<'a>,
    index: u32,
    object: &'a str,
    address: IpAddr,
    prefix_length: u8,
) {
    let (family, flags) = match address {
        IpAddr::V4(_) => (2, 0),
        IpAddr::V6(_) => (10, NO_DUPLICATE_DETECTION),
    };
    let [a, b, c, d] = index.to_ne_bytes();
    let header = [family, prefix_length, flags, 0, a, b, c, d];
    let purpose = Purpose::new("add address to link", object).tolerating(&[Errno::EXIST]);
    let request_flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
    batch.request(
        RTM_NEWADDR,
        request_flags,
        purpose,
        &header,
        |body| match address {
            IpAddr::V4(address) => {
                body.bytes(IFA_LOCAL, &address.octets());
                body.bytes(IFA_ADDRESS, &address.octets());
                if prefix_length < 31 {
                    let broadcast = u32::from(address) | u32::MAX >> prefix_length;
                    body.bytes(IFA_BROADCAST, &broadcast.to_be_bytes());
                }
            }
            IpAddr::V6(address) => {
                body.bytes(IFA_LOCAL, &address.octets());
                body.bytes(IFA_ADDRESS, &address.octets());
            }
        },
    );
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link's index.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix in bits.
    pub prefix_length: u8,
}

/// Lists the addresses of all links, of both families.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket) -> Result<Vec<LinkAddress>, NetlinkError> {
    let mut batch = Batch::new();
    let purpose = Purpose::new("list", "addresses");
    batch.request(RTM_GETADDR, flag::DUMP, purpose, &[0; HEADER], |_| ());
    socket.dump(&mut batch, |reply| {
        if reply.kind != RTM_NEWADDR {
            return None;
        }
        let attributes = reply.attributes(HEADER);
        // On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL is ours where present.
        let value = attributes
            .find(IFA_LOCAL)
            .or_else(|| attributes.find(IFA_ADDRESS))?;
        Some(LinkAddress {
            index: read_u32(reply.payload.get(4..8)?)?,
            address: read(value)?,
            prefix_length: *reply.payload.get(1)?,
        })
    })
}

/// Reads an address of either family by its length.
pub(crate) fn read(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}
