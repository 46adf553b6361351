//! Datagrams of clients on [::1] and link-local addresses: what [`crate::proxy`] is for
//! connections.
//!
//! Each client has a socket of its own towards the container, so that answers find their way
//! back. There is no end of a conversation: the one that was silent for longest makes room.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Most clients of one port at once.
const MAX_CLIENTS: usize = 256;

/// Largest datagram, in bytes.
const LARGEST: usize = 65_535;

/// Datagrams taken from one socket before the others have their turn.
const BURST: usize = 64;

/// Room for datagrams that wait, in bytes: a socket that only reserves a port has next to none.
const RECEIVE_BUFFER: usize = 208 * 1024;

/// A published port.
#[derive(Debug)]
pub struct Relay {
    socket: OwnedFd,
    /// The port of the host.
    pub host_port: u16,
    container_port: u16,
    /// The one heard of last is the last.
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    address: SocketAddr,
    socket: OwnedFd,
}

impl Relay {
    /// Serves a reserved socket.
    #[must_use]
    pub fn new(socket: OwnedFd, host_port: u16, container_port: u16) -> Relay {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        Relay {
            socket,
            host_port,
            container_port,
            clients: Vec::new(),
        }
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        std::iter::once(&self.socket)
            .chain(self.clients.iter().map(|client| &client.socket))
            .map(|socket| PollFd::new(socket, PollFlags::IN))
    }

    /// Passes on whatever is there, in both directions. A datagram that cannot be passed on is
    /// lost, as datagrams are.
    pub fn work(&mut self, target: Ipv4Addr) {
        let mut buffer = Vec::new();
        for _ in 0..BURST {
            let Some((length, address)) = receive(&self.socket, &mut buffer) else {
                break;
            };
            let Some(Ok(address)) = address.map(SocketAddr::try_from) else {
                continue;
            };
            if let Some(client) = self.client(address, target) {
                let _ = rustix::net::send(&client.socket, &buffer[..length], SendFlags::DONTWAIT);
            }
        }
        for client in &self.clients {
            for _ in 0..BURST {
                let Some((length, _)) = receive(&client.socket, &mut buffer) else {
                    break;
                };
                let answer = &buffer[..length];
                let flags = SendFlags::DONTWAIT;
                let _ = rustix::net::sendto(&self.socket, answer, flags, &client.address);
            }
        }
    }

    fn client(&mut self, address: SocketAddr, target: Ipv4Addr) -> Option<&Client> {
        let known = self
            .clients
            .iter()
            .position(|client| client.address == address);
        let client = match known {
            Some(place) => self.clients.remove(place),
            None => {
                let socket = rustix::net::socket_with(
                    AddressFamily::INET,
                    SocketType::DGRAM,
                    SocketFlags::CLOEXEC,
                    None,
                )
                .ok()?;
                let server = SocketAddrV4::new(target, self.container_port);
                rustix::net::connect(&socket, &server).ok()?;
                if self.clients.len() == MAX_CLIENTS {
                    self.clients.remove(0);
                }
                Client { address, socket }
            }
        };
        self.clients.push(client);
        self.clients.last()
    }
}

/// One datagram and where it comes from; `None` when there is none. Looks first, so that the
/// buffer gets its size only when it is needed: most wake-ups are about something else.
fn receive(
    socket: &OwnedFd,
    buffer: &mut Vec<u8>,
) -> Option<(usize, Option<rustix::net::SocketAddrAny>)> {
    if !is_ready(socket) {
        return None;
    }
    buffer.resize(LARGEST, 0);
    loop {
        match rustix::net::recvfrom(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((length, _, address)) => return Some((length, address)),
            // An earlier datagram was refused by the container; that was said here.
            Err(Errno::INTR | Errno::CONNREFUSED) => {}
            Err(_) => return None,
        }
    }
}

fn is_ready(socket: &OwnedFd) -> bool {
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
