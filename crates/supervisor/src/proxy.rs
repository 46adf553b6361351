//! Clients on [::1] and link-local addresses, which no rule can serve.
//!
//! They connect to a listening socket of the supervisor, which connects to the container
//! and passes bytes on in both directions.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::order::PublishedPort;
use crate::relay::Relay;
use crate::task::Task;

/// Most connections at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 512;

/// All proxied ports and connections of a sandbox.
#[derive(Debug, Default)]
pub struct Proxies {
    listeners: Vec<Listener>,
    connections: Vec<Connection>,
    relays: Vec<Relay>,
    target: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    host_port: u16,
    container_port: u16,
}

#[derive(Debug)]
struct Connection {
    halves: [Half; 2],
}

/// One direction.
#[derive(Debug)]
struct Half {
    from: OwnedFd,
    to: OwnedFd,
    pipe: (OwnedFd, OwnedFd),
    held: usize,
    ended: bool,
    done: bool,
}

impl Proxies {
    /// Sets the address that connections go to.
    pub fn add(&mut self, target: Ipv4Addr, _ports: &[PublishedPort]) {
        self.target = Some(target);
    }

    /// Takes the listening sockets among a task's reserved ones.
    pub fn listen(&mut self, task: &Task) {
        if self.target.is_none() {
            self.target = task
                .record
                .summary
                .get("address")
                .and_then(serde_json::Value::as_str)
                .and_then(|text| text.parse().ok());
        }
        for socket in &task.ports {
            self.relays.extend(relay(task, socket));
            if !rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false) {
                continue;
            }
            let address = rustix::net::getsockname(socket)
                .ok()
                .and_then(|any| SocketAddr::try_from(any).ok());
            let Some(address) = address else { continue };
            let port = task
                .record
                .ports
                .iter()
                .find(|port| port.host_port == address.port() && port.protocol == "tcp");
            if let (Some(port), Ok(socket)) = (port, socket.try_clone()) {
                let _ = rustix::io::ioctl_fionbio(&socket, true);
                self.listeners.push(Listener {
                    socket,
                    host_port: port.host_port,
                    container_port: port.container_port,
                });
            }
        }
    }

    /// Lets go of ports. Connections that are open go on to their own end.
    pub fn remove(&mut self, ports: &[PublishedPort]) {
        let goes = |host_port| ports.iter().any(|port| port.host_port == host_port);
        self.listeners.retain(|listener| !goes(listener.host_port));
        self.relays.retain(|relay| !goes(relay.host_port));
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds: Vec<PollFd<'_>> = self.relays.iter().flat_map(Relay::poll_fds).collect();
        if self.connections.len() < MAX_CONNECTIONS {
            fds.extend(
                self.listeners
                    .iter()
                    .map(|listener| PollFd::new(&listener.socket, PollFlags::IN)),
            );
        }
        for half in self
            .connections
            .iter()
            .flat_map(|connection| &connection.halves)
        {
            if half.held > 0 {
                fds.push(PollFd::new(&half.to, PollFlags::OUT));
            } else if !half.ended {
                fds.push(PollFd::new(&half.from, PollFlags::IN));
            }
        }
        fds
    }

    /// Accepts and passes on whatever can be now.
    pub fn work(&mut self) {
        if let Some(target) = self.target {
            for relay in &mut self.relays {
                relay.work(target);
            }
            for listener in &self.listeners {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                while self.connections.len() < MAX_CONNECTIONS {
                    let Ok(client) = rustix::net::accept_with(&listener.socket, flags) else {
                        break;
                    };
                    self.connections
                        .extend(connect(client, target, listener.container_port));
                }
            }
        }
        for connection in &mut self.connections {
            for half in &mut connection.halves {
                half.pass_on();
            }
        }
        self.connections
            .retain(|connection| !connection.halves.iter().all(|half| half.done));
    }
}

/// The relay of a reserved socket, if it is one for datagrams on an IPv6 address.
fn relay(task: &Task, socket: &OwnedFd) -> Option<Relay> {
    if rustix::net::sockopt::socket_type(socket) != Ok(SocketType::DGRAM) {
        return None;
    }
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let mut ports = task.record.ports.iter();
    let port = ports.find(|port| port.host_port == address.port() && port.protocol == "udp")?;
    let socket = socket.try_clone().ok().filter(|_| address.is_ipv6())?;
    Some(Relay::new(socket, port.host_port, port.container_port))
}

fn connect(client: OwnedFd, target: Ipv4Addr, port: u16) -> Option<Connection> {
    // When the container hangs up first, TIME_WAIT is ours. It must not keep the port from
    // being bound again by the next start (`gantry_network::ports`).
    let _ = rustix::net::sockopt::set_socket_reuseaddr(&client, true);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let server =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).ok()?;
    match rustix::net::connect(&server, &SocketAddrV4::new(target, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(_) => return None,
    }
    let half = |from: &OwnedFd, to: &OwnedFd| -> Option<Half> {
        Some(Half {
            from: from.try_clone().ok()?,
            to: to.try_clone().ok()?,
            pipe: rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?,
            held: 0,
            ended: false,
            done: false,
        })
    };
    Some(Connection {
        halves: [half(&client, &server)?, half(&server, &client)?],
    })
}

impl Half {
    fn pass_on(&mut self) {
        const PART: usize = 64 * 1024;
        /// A connection that never runs dry must not keep the supervisor from the rest.
        const ROUNDS: usize = 16;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        for _ in 0..ROUNDS {
            if self.done {
                return;
            }
            if self.held == 0 && !self.ended {
                match rustix::pipe::splice(&self.from, None, &self.pipe.1, None, PART, flags) {
                    Ok(0) => self.ended = true,
                    Ok(moved) => self.held += moved,
                    Err(Errno::INTR) => continue,
                    // ENOTCONN: the connection to the container is still being made.
                    Err(Errno::AGAIN | Errno::NOTCONN) => return,
                    Err(_) => self.ended = true,
                }
            }
            if self.held > 0 {
                match rustix::pipe::splice(&self.pipe.0, None, &self.to, None, self.held, flags) {
                    Ok(moved) => self.held -= moved,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN | Errno::NOTCONN) => return,
                    Err(_) => (self.held, self.ended) = (0, true),
                }
            }
            if self.held == 0 && self.ended {
                let _ = rustix::net::shutdown(&self.to, rustix::net::Shutdown::Write);
                self.done = true;
            }
        }
    }
}
