//! Reservation of host ports by bound sockets.
//!
//! A published port is served by NAT rules, which do not stop another program from binding the
//! same port; a socket that we bound does. It is bound without `SO_REUSEADDR`, since two sockets
//! that both have it may share a port until one of them listens. IPv4 TCP sockets do not listen:
//! the rules translate packets before a socket is looked for, and if the rules are gone a client
//! is refused instead of hanging.
//!
//! No rule can serve clients on `[::1]`, so on IPv6 addresses TCP sockets do listen, and the
//! supervisor accepts and forwards.

mod holder;

pub use holder::Holder;

use crate::Protocol;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, shutdown,
    socket_with, sockopt,
};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How many ports are tried when any will do and the other family has taken the first choice.
const EPHEMERAL_ATTEMPTS: usize = 64;
/// Connections that wait while the supervisor is busy.
const BACKLOG: i32 = 512;
/// Sockets that only hold a port should not hold packets as well; the kernel raises this to its
/// minimum of about 2 KiB.
const RECEIVE_BUFFER: usize = 1;

/// Which port is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPort {
    /// Whichever is free in the kernel's range (`ip_local_port_range`).
    Any,
    /// This one.
    Exactly(u16),
    /// The first free one of an inclusive range.
    Between(u16, u16),
}

/// A port to reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRequest {
    /// The host's address. If absent, all of them: 0.0.0.0 and `[::]` with the same port.
    pub host_address: Option<IpAddr>,
    /// The port.
    pub port: HostPort,
    /// The protocol.
    pub protocol: Protocol,
}

/// A socket that holds a port.
#[derive(Debug)]
pub struct ReservedSocket {
    /// The socket.
    pub fd: OwnedFd,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// Whether it listens, so that clients wait for somebody to accept them: TCP on IPv6.
    pub listening: bool,
}

/// A port that nobody else can bind as long as the sockets live.
#[derive(Debug)]
pub struct Reservation {
    /// The port.
    pub port: u16,
    /// One socket for each address family.
    pub sockets: Vec<ReservedSocket>,
}

/// A port that cannot be reserved.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it.
    #[error("port {address}/{protocol} is in use{}", holder_suffix(.holder.as_ref()))]
    InUse {
        /// The address and port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The process that has it, where that could be found out.
        holder: Option<Holder>,
    },
    /// All ports of the range are taken.
    #[error("all {protocol} ports from {first} to {last} of {address} are in use")]
    RangeInUse {
        /// The address.
        address: IpAddr,
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The range has no port.
    #[error("the port range {first} to {last} is empty")]
    EmptyRange {
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
    },
    /// The host has no such address.
    #[error("the host has no address {0} to publish a port on")]
    NoSuchAddress(IpAddr),
    /// Another refusal.
    #[error("cannot reserve port {address}/{protocol}")]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The cause.
        #[source]
        source: Errno,
    },
}

fn holder_suffix(holder: Option<&Holder>) -> String {
    holder
        .map(|holder| format!(" by {holder}"))
        .unwrap_or_default()
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (pid {})", self.name, self.pid)
    }
}

/// Reserves a port in the calling thread's network namespace.
///
/// # Errors
/// [`PortError`]; nothing stays reserved then.
pub fn reserve(request: &PortRequest) -> Result<Reservation, PortError> {
    let PortRequest {
        host_address,
        port,
        protocol,
    } = *request;
    match port {
        HostPort::Exactly(0) | HostPort::Any => reserve_any(host_address, protocol),
        HostPort::Exactly(port) => {
            reserve_port(host_address, port, protocol).map_err(|failure| failure.explain(protocol))
        }
        HostPort::Between(first, last) if first == 0 || first > last => {
            Err(PortError::EmptyRange { first, last })
        }
        HostPort::Between(first, last) => {
            for port in first..=last {
                match reserve_port(host_address, port, protocol) {
                    Err(failure) if failure.errno == Errno::ADDRINUSE => {}
                    other => return other.map_err(|failure| failure.explain(protocol)),
                }
            }
            let address = host_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            Err(PortError::RangeInUse {
                address,
                first,
                last,
                protocol,
            })
        }
    }
}

/// A refusal before anybody has asked who has the port.
struct Failure {
    address: SocketAddr,
    errno: Errno,
}

impl Failure {
    /// Looks for the holder, which reads much of `/proc`.
    fn explain(self, protocol: Protocol) -> PortError {
        let Failure { address, errno } = self;
        match errno {
            Errno::ADDRINUSE => {
                let holder = holder::find(address, protocol);
                PortError::InUse {
                    address,
                    protocol,
                    holder,
                }
            }
            Errno::ADDRNOTAVAIL => PortError::NoSuchAddress(address.ip()),
            source => PortError::Bind {
                address,
                protocol,
                source,
            },
        }
    }
}

/// The kernel chooses for the first family and the second one follows. Choices that the second
/// cannot follow are held until the end, so that the kernel does not make them again.
fn reserve_any(host_address: Option<IpAddr>, protocol: Protocol) -> Result<Reservation, PortError> {
    let mut rejected = Vec::new();
    loop {
        let (first, second) = addresses(host_address);
        let socket = bind_socket(SocketAddr::new(first, 0), protocol)
            .map_err(|failure| failure.explain(protocol))?;
        let port = socket.address.port();
        let Some(second) = second else {
            return Ok(Reservation {
                port,
                sockets: vec![socket],
            });
        };
        match second_socket(second, port, protocol) {
            Ok(second) => {
                let sockets = std::iter::once(socket).chain(second).collect();
                return Ok(Reservation { port, sockets });
            }
            Err(failure)
                if failure.errno == Errno::ADDRINUSE && rejected.len() < EPHEMERAL_ATTEMPTS =>
            {
                rejected.push(socket);
            }
            Err(failure) => return Err(failure.explain(protocol)),
        }
    }
}

fn reserve_port(
    host_address: Option<IpAddr>,
    port: u16,
    protocol: Protocol,
) -> Result<Reservation, Failure> {
    let (first, second) = addresses(host_address);
    let mut sockets = vec![bind_socket(SocketAddr::new(first, port), protocol)?];
    if let Some(second) = second {
        sockets.extend(second_socket(second, port, protocol)?);
    }
    Ok(Reservation { port, sockets })
}

fn addresses(host_address: Option<IpAddr>) -> (IpAddr, Option<IpAddr>) {
    match host_address {
        Some(address) => (address, None),
        None => (
            Ipv4Addr::UNSPECIFIED.into(),
            Some(Ipv6Addr::UNSPECIFIED.into()),
        ),
    }
}

/// The IPv6 half of "all addresses"; absent on a host without IPv6.
fn second_socket(
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Result<Option<ReservedSocket>, Failure> {
    match bind_socket(SocketAddr::new(address, port), protocol) {
        Err(failure) if matches!(failure.errno, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn bind_socket(address: SocketAddr, protocol: Protocol) -> Result<ReservedSocket, Failure> {
    let listening = protocol == Protocol::Tcp && address.is_ipv6();
    let attempt = || -> Result<(OwnedFd, SocketAddr), Errno> {
        let fd = match exclusive(address, protocol) {
            Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp && address.port() != 0 => {
                despite_closed_connections(address, listening)?
            }
            other => {
                let fd = other?;
                if listening {
                    listen(&fd, BACKLOG)?;
                }
                fd
            }
        };
        let bound = getsockname(&fd)?;
        let bound = SocketAddr::try_from(bound)?;
        Ok((fd, bound))
    };
    let (fd, address) = attempt().map_err(|errno| Failure { address, errno })?;
    Ok(ReservedSocket {
        fd,
        address,
        listening,
    })
}

fn exclusive(address: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let fd = open(address, protocol)?;
    bind(&fd, &address)?;
    if protocol != Protocol::Tcp {
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
    }
    Ok(fd)
}

/// Connections that ended less than a minute ago (TIME_WAIT) keep a TCP port from being bound
/// without `SO_REUSEADDR`, though nobody has it any more. With it the port can be bound, and
/// listening finds out whether somebody else really has it. Then the option is taken back; the
/// port is as exclusive as if it had never been set.
fn despite_closed_connections(address: SocketAddr, listening: bool) -> Result<OwnedFd, Errno> {
    let fd = open(address, Protocol::Tcp)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &address)?;
    listen(&fd, BACKLOG)?;
    sockopt::set_socket_reuseaddr(&fd, false)?;
    if !listening {
        // Ends the listening and keeps the port, because the port was named when binding.
        shutdown(&fd, rustix::net::Shutdown::Read)?;
    }
    Ok(fd)
}

fn open(address: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let fd = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        // Also keeps the port of 0.0.0.0 free for a socket of its own.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests;
