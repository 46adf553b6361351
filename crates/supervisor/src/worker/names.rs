//! The sandbox's name server: a process of its own, so that a question is answered whatever the
//! worker is busy with.
//!
//! It lives no longer than the worker that forked it; a successor starts another one on other
//! ports. What it answers it finds in files of the run root, which the engine swaps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_network::attach::configure_container;
use gantry_network::dns::Server;
use gantry_network::dns::redirect::{self, Sockets};
use gantry_sys::process::{Child, Fork, close_all_but, exit_now, fork, set_command_line};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space};

use super::Worker;
use crate::chain;

/// How often a name server that ends is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a name server needs once its sockets are there.
const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// A running name server.
#[derive(Debug)]
pub(super) struct NameServer {
    pub(super) process: Child,
    started: Instant,
    /// Kept for another one: questions wait in them.
    sockets: Sockets,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        // Of a predecessor's it is the other process that hears of the end.
        let options = rustix::process::WaitIdOptions::EXITED;
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.process.pidfd.as_fd()),
            options,
        );
    }
}

impl Worker {
    /// Starts the name server of a container's sandbox, if it is to have one and has none.
    pub(super) fn start_names(&mut self, id: &str) -> Result<(), String> {
        let Some(task) = self.shared.tasks.get(id) else {
            return Ok(());
        };
        let (Some(settings), Some(network)) = (&task.record.dns, &task.network) else {
            return Ok(());
        };
        if self.names.contains_key(id) {
            return Ok(());
        }
        let sockets = listen(network)?;
        let server = NameServer::start(sockets, settings)?;
        self.names.insert(id.to_owned(), server);
        Ok(())
    }

    /// Gives a container that runs a name server.
    pub(super) fn give_names(&mut self, index: usize, id: &str, settings: PathBuf) {
        let message = match self.shared.tasks.get_mut(id) {
            None => Some("the container is not running".to_owned()),
            Some(task) => {
                task.record.dns = Some(settings);
                let _ = crate::task::send_task(self.partner.as_fd(), task);
                self.start_names(id).err()
            }
        };
        let reply = match message {
            None => crate::protocol::Reply::Done,
            Some(message) => crate::protocol::Reply::Refused { message },
        };
        self.connections[index].reply(&reply, None);
    }

    /// Starts what has ended anew, and forgets what nobody asks any more.
    pub(super) fn look_after_names(&mut self) {
        let tasks = &self.shared.tasks;
        self.names.retain(|id, _| tasks.contains_key(id));
        for (id, server) in &mut self.names {
            if !server.has_ended() || server.started.elapsed() < PAUSE {
                continue;
            }
            let settings = tasks.get(id).and_then(|task| task.record.dns.as_ref());
            // Without names a container still runs; the next round tries again.
            if let Some(settings) = settings {
                let _ = server.restart(settings);
            }
        }
    }
}

impl NameServer {
    fn start(sockets: Sockets, settings: &Path) -> Result<NameServer, String> {
        Ok(NameServer {
            process: spawn(&sockets, settings)?,
            started: Instant::now(),
            sockets,
        })
    }

    fn restart(&mut self, settings: &Path) -> Result<(), String> {
        super::reap(self.process.pidfd.as_fd());
        self.started = Instant::now();
        self.process = spawn(&self.sockets, settings)?;
        Ok(())
    }

    pub(super) fn has_ended(&self) -> bool {
        super::has_ended(self.process.pidfd.as_fd())
    }

    /// When it is to be started again, if it has ended.
    pub(super) fn due(&self) -> Instant {
        self.started + PAUSE
    }
}

/// Makes the sockets in a network namespace and has questions led to them.
fn listen(network: &OwnedFd) -> Result<Sockets, String> {
    let kind = Some(LinkNameSpaceType::Network);
    let host = std::fs::File::open("/proc/self/ns/net")
        .map_err(|error| format!("cannot open the host's network namespace: {error}"))?;
    move_into_link_name_space(network.as_fd(), kind)
        .map_err(|errno| format!("cannot enter the container's network namespace: {errno}"))?;
    let sockets = make_sockets();
    // A worker that stayed there would answer for the container from then on.
    if move_into_link_name_space(host.as_fd(), kind).is_err() {
        exit_now(1);
    }
    sockets
}

/// What is made in the container's namespace.
fn make_sockets() -> Result<Sockets, String> {
    // Where nothing routes to 127.0.0.0/8 yet a socket bound to 127.0.0.11 would answer from
    // another address.
    configure_container(&[]).map_err(|error| chain(&error))?;
    let sockets = redirect::make_sockets().map_err(|error| chain(&error))?;
    redirect::install(sockets.udp_port, sockets.tcp_port).map_err(|error| chain(&error))?;
    Ok(sockets)
}

/// Forks the server, which itself stays in the host's namespace: from there it asks others.
fn spawn(sockets: &Sockets, settings: &Path) -> Result<Child, String> {
    match fork().map_err(|error| format!("cannot start the name server: {error}"))? {
        Fork::Parent(process) => Ok(process),
        Fork::Child => live(sockets, settings),
    }
}

/// What the name server's process does.
fn live(sockets: &Sockets, settings: &Path) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let own = sockets
        .udp
        .try_clone()
        .and_then(|udp| Ok((udp, sockets.tcp.try_clone()?)));
    let Ok((udp, tcp)) = own else { exit_now(1) };
    // The worker's connections and the sandbox's lock are not this one's.
    close_all_but(3, &mut [udp.as_raw_fd(), tcp.as_raw_fd()]);
    // What it parses comes from containers and strangers, and files of root's it reads as root.
    let unprivileged = rustix::thread::set_no_new_privs(true)
        .and_then(|()| rustix::thread::set_capabilities(None, NO_CAPABILITIES));
    if unprivileged.is_err() {
        exit_now(1);
    }
    let _ = set_command_line(&[b"gantry-names", settings.as_os_str().as_encoded_bytes()]);
    if let Ok(server) = Server::new(vec![udp], vec![tcp], settings.to_owned()) {
        let _ = server.run();
    }
    exit_now(1)
}
