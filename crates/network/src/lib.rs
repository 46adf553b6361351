//! The network of containers: links, addresses and routes through rtnetlink, firewall and NAT rules
//! through nf_tables, host port reservations and address allocation.
//!
//! Everything is blocking and hand-encoded, because this crate is linked into the supervisor of
//! every container. It keeps no state of its own: what is published is read back from the kernel,
//! and address leases are stored by the engine.
//!
//! Start reading at [`attach`] (how a container gets its link) and [`firewall`] (how packets find
//! it).

pub mod address;
pub mod attach;
pub mod conntrack;
pub mod dns;
pub mod firewall;
pub mod ipam;
pub mod link;
pub mod netlink;
mod nft;
pub mod ports;
pub mod route;
pub mod sysctl;
#[cfg(test)]
mod testing;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this number in an IP header.
    pub fn from_number(number: u8) -> Option<Self> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}
