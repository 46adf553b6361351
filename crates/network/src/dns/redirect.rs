//! How a sandbox reaches its name server: at 127.0.0.11, port 53, which no process of the sandbox
//! has to give up.
//!
//! The server listens on that address on ports that the kernel picks, and rules in the sandbox's
//! own network namespace lead port 53 of the address there. A server of the container on 0.0.0.0
//! port 53 can bind and keeps every other address. The address is one of the loopback link, which
//! a sandbox without IPv4 networks has as well.

use crate::Protocol;
use crate::netlink::{Family, NetlinkError, Socket};
use crate::nft::{
    Comparison, Element, ElementKey, Expression, Hook, LOCAL_OUT, Meta, PayloadBase, Register,
    SetDefinition, Transaction, key_type,
};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The address at which every sandbox finds its name server, as in Docker.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port that is redirected.
const PORT: u16 = 53;
/// The nf_tables table in the sandbox's network namespace.
const TABLE: &str = "gantry-dns";
const CHAIN: &str = "output";
/// Leads from a protocol to the server's port.
const PORTS: &str = "ports";
/// What the kernel keeps of questions while the server is not running: some thousand.
const RECEIVE_BUFFER: usize = 512 * 1024;
/// What the kernel keeps of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets of a name server.
#[derive(Debug)]
pub struct Sockets {
    /// Bound to a UDP port.
    pub udp: OwnedFd,
    /// Listening on a TCP port.
    pub tcp: OwnedFd,
    /// The UDP port.
    pub udp_port: u16,
    /// The TCP port.
    pub tcp_port: u16,
}

/// Sockets that cannot be made, or rules that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// A socket.
    #[error("cannot {operation} of the name server at {ADDRESS}")]
    Socket {
        /// What was attempted.
        operation: &'static str,
        /// The system's answer.
        #[source]
        errno: Errno,
    },
    /// The rules.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Makes the sockets in the network namespace of the calling thread, where the loopback link need
/// not be up yet.
///
/// # Errors
/// The system's refusal.
pub fn make_sockets() -> Result<Sockets, RedirectError> {
    let udp = bound(SocketType::DGRAM).map_err(failed("make the UDP socket"))?;
    // Beyond what net.core.rmem_max allows; without the right to that, what it allows.
    sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER))
        .map_err(failed("size the UDP socket"))?;
    let tcp = bound(SocketType::STREAM).map_err(failed("make the TCP socket"))?;
    listen(&tcp, BACKLOG).map_err(failed("listen on the TCP socket"))?;
    let port = |socket: &OwnedFd| -> Result<u16, RedirectError> {
        getsockname(socket)
            .and_then(SocketAddr::try_from)
            .map(|address| address.port())
            .map_err(failed("read the port"))
    };
    Ok(Sockets {
        udp_port: port(&udp)?,
        tcp_port: port(&tcp)?,
        udp,
        tcp,
    })
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> RedirectError {
    move |errno| RedirectError::Socket { operation, errno }
}

fn bound(kind: SocketType) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    // While the loopback link is down it has no addresses.
    sockopt::set_ip_freebind(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(ADDRESS, 0))?;
    Ok(socket)
}

/// Leads 127.0.0.11 port 53 to these ports in the network namespace of the calling thread, whatever
/// led there before, in one transaction.
///
/// # Errors
/// The kernel's refusal.
pub fn install(udp_port: u16, tcp_port: u16) -> Result<(), RedirectError> {
    const R0: Register = Register(0);
    const R1: Register = Register(1);
    const R2: Register = Register(2);
    const OUTPUT: Hook = Hook {
        kind: "nat",
        number: LOCAL_OUT,
        // That of destination NAT.
        priority: -100,
    };
    const MAP: SetDefinition = SetDefinition {
        name: PORTS,
        key: &[key_type::TRANSPORT],
        data: &[key_type::PORT],
        ranges: false,
    };
    let elements =
        [(Protocol::Udp, udp_port), (Protocol::Tcp, tcp_port)].map(|(protocol, port)| Element {
            key: ElementKey::exact(vec![protocol.number()]),
            data: port.to_be_bytes().to_vec(),
            comment: String::new(),
        });
    let mut transaction = Transaction::new(TABLE);
    transaction.table();
    transaction.set(&MAP);
    transaction.chain(CHAIN, Some(OUTPUT));
    transaction.delete_rules();
    transaction.clear(PORTS);
    transaction.add_elements(PORTS, &elements, true);
    transaction.rule(
        CHAIN,
        "name server",
        &[
            // NFPROTO_IPV4
            Expression::Meta(Meta::NetworkProtocol, R0),
            Expression::Compare(R0, Comparison::Equal, &[2]),
            Expression::Payload {
                base: PayloadBase::Transport,
                offset: 2,
                length: 2,
                into: R0,
            },
            Expression::Compare(R0, Comparison::Equal, &PORT.to_be_bytes()),
            // Stays where it is for the NAT, which needs an address beside the port.
            Expression::Payload {
                base: PayloadBase::Network,
                offset: 16,
                length: 4,
                into: R0,
            },
            Expression::Compare(R0, Comparison::Equal, &ADDRESS.octets()),
            Expression::Meta(Meta::TransportProtocol, R1),
            Expression::Map {
                map: PORTS,
                key: R1,
                into: R2,
            },
            Expression::DestinationNat {
                address: R0,
                port: Some(R2),
            },
        ],
    );
    let mut socket = Socket::open(Family::Netfilter)?;
    Ok(transaction.commit(&mut socket)?)
}

/// Takes the rules away again; returns whether there were any.
///
/// # Errors
/// The kernel's refusal.
pub fn remove() -> Result<bool, RedirectError> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut transaction = Transaction::new(TABLE);
    transaction.delete_table();
    match transaction.commit(&mut socket) {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::NOENT => Ok(false),
        Err(error) => Err(error.into()),
    }
}
