//! The inner process: the containers' parent, which does the work.
//!
//! One loop, one thread. What changes is told to the outer process before it takes
//! effect, so that a successor finds it; what a client asked for and did not hear of, it
//! asks for again.

mod begin;
mod connection;
mod finish;
mod foreign;
mod names;
mod pump;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::Layout;
use gantry_sys::shared::SharedWords;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions};

use crate::network::Firewall;
use crate::protocol::{Reply, Request};
use crate::proxy::Proxies;
use crate::record;
use crate::stream::Scratch;
use crate::task::{self, Mirror, Shared, Task};
use connection::Connection;
use names::NameServer;

/// How long clients of a dead predecessor have to come back before output goes on
/// without them.
const RETURN_TIME: Duration = Duration::from_secs(3);

/// How long a supervisor without any task waits for the client of a dead predecessor: less
/// than anybody waits for the end of a supervisor.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What both processes inherit from the beginning.
#[derive(Debug)]
pub struct Sandbox {
    /// Its directory in the run root.
    pub directory: PathBuf,
    /// Where clients connect.
    pub listener: OwnedFd,
    /// Locked as long as either process lives.
    pub lock: Option<OwnedFd>,
    /// Shared memory.
    pub page: SharedWords,
}

/// How the loop ended.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing is left to do.
    Done,
    /// The other process has died.
    PartnerDied,
}

/// The worker.
#[derive(Debug)]
pub struct Worker {
    sandbox: Sandbox,
    shared: Shared,
    connections: Vec<Connection>,
    partner: OwnedFd,
    scratch: Scratch,
    layout: Option<Layout>,
    proxies: Proxies,
    /// Name servers, by the task that has one.
    names: BTreeMap<String, NameServer>,
    /// Clients of a predecessor that have not come back, and until when they may.
    ghosts_until: Option<Instant>,
    /// A predecessor died before it was told what to do: its client will come back.
    client_expected_until: Option<Instant>,
    served: bool,
    /// Whether another worker was there before.
    successor: bool,
    /// Last, since closing it takes its time: the sandbox's lock is released by then.
    firewall: Firewall,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Debug)]
enum Token {
    Partner,
    Listener,
    Connection(usize),
    Process(String),
    Birth(String),
    Output,
    Proxy,
    Names,
}

impl Worker {
    /// Takes over what is there, or begins with nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(sandbox: Sandbox, shared: Shared, partner: OwnedFd) -> io::Result<Worker> {
        // A client whose order was not told of yet asks again, and one that watched what has
        // ended in between; where there is neither, nobody is waited for.
        let untold = shared.tasks.is_empty() && shared.finished.is_empty();
        let unanswered = shared.tasks.values().any(|task| task.birth.is_some());
        let expected = untold || unanswered || !shared.watchers.is_empty();
        let mut worker = Worker {
            sandbox,
            shared,
            connections: Vec::new(),
            partner,
            scratch: Scratch::new()?,
            layout: None,
            proxies: Proxies::default(),
            names: BTreeMap::new(),
            ghosts_until: None,
            client_expected_until: expected.then(|| Instant::now() + LAST_CALL),
            served: false,
            successor: true,
            firewall: Firewall::default(),
        };
        worker.recover();
        Ok(worker)
    }

    /// Adds the connection that the supervisor was started with.
    ///
    /// # Errors
    /// The kernel's.
    pub fn serve(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.connections.push(Connection::new(socket)?);
        self.client_expected_until = None;
        self.successor = false;
        // While the client is still busy with the order.
        self.layout = Layout::detect().ok();
        Ok(())
    }

    /// Finishes what a predecessor was about.
    fn recover(&mut self) {
        let outputs = self.shared.tasks.values().flat_map(|task| &task.outputs);
        crate::stream::keep_slots(&self.sandbox.page, outputs.map(|output| output.slot));
        for task in self.shared.tasks.values_mut() {
            task.open_log();
            for output in &task.outputs {
                output.recover(&self.sandbox.page, task.log.as_mut());
            }
            self.proxies.listen(task);
        }
        let unborn = self.shared.tasks.iter();
        let unborn = unborn.filter(|(_, task)| task.birth.is_some());
        let unborn: Vec<String> = unborn.map(|(id, _)| id.clone()).collect();
        for id in unborn {
            self.resume_birth(&id);
        }
        let ids: Vec<String> = self.shared.tasks.keys().cloned().collect();
        for id in ids {
            // A container without names still runs.
            let _ = self.start_names(&id);
        }
        if !self.shared.watchers.is_empty() {
            self.ghosts_until = Some(Instant::now() + RETURN_TIME);
        }
    }

    /// Gives the parts back for another role.
    #[must_use]
    pub fn into_parts(self) -> (Sandbox, Shared) {
        (self.sandbox, self.shared)
    }

    /// Goes on with another partner: this process is the fork of the one that had the old.
    pub fn replace_partner(&mut self, partner: OwnedFd) {
        self.partner = partner;
    }

    /// Works until nothing is left to do.
    pub fn run(&mut self) -> Outcome {
        loop {
            self.pump();
            self.finish_ended();
            self.connections.retain(|connection| !connection.is_over());
            self.forget_gone_clients();
            if self.is_done() {
                self.names.clear();
                let _ = task::send(self.partner.as_fd(), &Mirror::Bye, &[]);
                return Outcome::Done;
            }
            let ready = self.wait();
            for (token, flags) in ready {
                match token {
                    Token::Partner => match self.hear_partner() {
                        Ok(true) => {}
                        Ok(false) | Err(_) => return Outcome::PartnerDied,
                    },
                    Token::Listener => self.accept(),
                    Token::Connection(index) => self.serve_connection(index, flags),
                    Token::Process(id) => self.note_end(&id),
                    Token::Birth(id) => self.hear_birth(&id),
                    Token::Output | Token::Proxy | Token::Names => {}
                }
            }
            self.proxies.work();
            self.look_after_names();
        }
    }

    fn wait(&mut self) -> Vec<(Token, PollFlags)> {
        let mut tokens = vec![Token::Partner, Token::Listener];
        let mut fds = vec![
            PollFd::new(&self.partner, PollFlags::IN),
            PollFd::new(&self.sandbox.listener, PollFlags::IN),
        ];
        for (index, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::IN;
            if connection.is_blocked() {
                flags |= PollFlags::OUT;
            }
            tokens.push(Token::Connection(index));
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), flags));
        }
        for (id, task) in &self.shared.tasks {
            if let Some(birth) = &task.birth {
                tokens.push(Token::Birth(id.clone()));
                fds.push(PollFd::from_borrowed_fd(birth.as_fd(), PollFlags::IN));
            } else if task.record.status.is_none() {
                tokens.push(Token::Process(id.clone()));
                fds.push(PollFd::new(&task.pidfd, PollFlags::IN));
            }
            for output in &task.outputs {
                if let (Some(source), false) = (&output.source, pump::is_stuck(output)) {
                    tokens.push(Token::Output);
                    fds.push(PollFd::new(source, PollFlags::IN));
                }
            }
        }
        for fd in self.proxies.poll_fds() {
            tokens.push(Token::Proxy);
            fds.push(fd);
        }
        for server in self.names.values().filter(|server| !server.has_ended()) {
            tokens.push(Token::Names);
            fds.push(PollFd::new(&server.process.pidfd, PollFlags::IN));
        }
        let timeout = self.timeout();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Vec::new(),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let ready = fds.iter().map(PollFd::revents).zip(tokens);
        ready
            .filter(|(flags, _)| !flags.is_empty())
            .map(|(flags, token)| (token, flags))
            .collect()
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let mut nearest: Option<Instant> = self.ghosts_until;
        if self.shared.tasks.is_empty() {
            nearest = nearest.or(self.client_expected_until);
        }
        // A process that ended and is somebody else's child: its status is on its way, or
        // has to be found out.
        if self.has_unclaimed_end() {
            let soon = now + Duration::from_millis(20);
            nearest = Some(nearest.map_or(soon, |other| other.min(soon)));
        }
        for server in self.names.values().filter(|server| server.has_ended()) {
            let due = server.due();
            nearest = Some(nearest.map_or(due, |other| other.min(due)));
        }
        let left = nearest?.saturating_duration_since(now);
        let left = left + Duration::from_millis(1);
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    fn has_unclaimed_end(&self) -> bool {
        self.shared
            .tasks
            .values()
            .any(|task| task.birth.is_none() && task.record.status.is_none() && is_ended(task))
    }

    fn is_done(&self) -> bool {
        let busy = !self.shared.tasks.is_empty()
            || self.connections.iter().any(Connection::is_blocked)
            // The client that started the supervisor has not said yet what it wants.
            || (!self.served && !self.connections.is_empty());
        !busy
            && self
                .client_expected_until
                .is_none_or(|until| self.served || Instant::now() >= until)
    }

    fn accept(&mut self) {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.sandbox.listener, flags) {
            // Only root of the host's own user namespace may give orders; the directory's
            // mode says so already, and this says it again (CVE-2020-15257).
            let trusted = rustix::net::sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
            if let (true, Ok(connection)) = (trusted, Connection::new(socket)) {
                self.connections.push(connection);
            }
        }
    }

    fn serve_connection(&mut self, index: usize, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.connections[index].flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        for request in self.connections[index].read() {
            self.served = true;
            match request {
                Request::Birth { order, attach } => self.begin_container(index, &order, attach),
                Request::Exec { order, attach } => self.begin_exec(index, &order, attach),
                Request::Attach { task, attach } => self.attach(index, &task, attach),
                Request::CloseStdin { task } => self.close_stdin(&task),
                Request::Wait { task } => self.wait_for(index, task),
                Request::Signal { task, signal } => self.signal(&task, signal),
                Request::Names { task, settings } => self.give_names(index, &task, settings),
            }
        }
    }

    fn wait_for(&mut self, index: usize, task: String) {
        let connection = &mut self.connections[index];
        if self.shared.tasks.contains_key(&task) {
            connection.waits.push(task);
        } else if let Some(code) = self.shared.exit_code(&task) {
            connection.reply(&Reply::Exited { code }, None);
        } else {
            connection.reply(
                &Reply::Refused {
                    message: format!("no such task {task}"),
                },
                None,
            );
        }
    }

    fn signal(&self, task: &str, signal: i32) {
        let signal = rustix::process::Signal::from_named_raw(signal);
        if let (Some(task), Some(signal)) = (self.shared.tasks.get(task), signal) {
            // The process may have ended by now; then there is nothing to signal.
            let _ = rustix::process::pidfd_send_signal(&task.pidfd, signal);
        }
    }

    fn close_stdin(&mut self, id: &str) {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return;
        };
        if task.stdin.take().is_some() {
            let _ = task::send(
                self.partner.as_fd(),
                &Mirror::StdinClosed { id: id.into() },
                &[],
            );
        }
    }

    /// Lets go of clients that are gone, and of those that did not come back.
    fn forget_gone_clients(&mut self) {
        if self
            .ghosts_until
            .is_some_and(|until| Instant::now() >= until)
        {
            self.ghosts_until = None;
        }
        if self.ghosts_until.is_some() {
            return;
        }
        let present = |client: &str| {
            self.connections.iter().any(|connection| {
                connection
                    .watch
                    .as_ref()
                    .is_some_and(|watch| watch.attach.client == client)
            })
        };
        let gone: Vec<String> = self
            .shared
            .watchers
            .keys()
            .filter(|client| !present(client))
            .cloned()
            .collect();
        for client in gone {
            let watcher = self.shared.watchers.remove(&client);
            let _ = task::send(
                self.partner.as_fd(),
                &Mirror::Detached {
                    client: client.clone(),
                },
                &[],
            );
            // Standard input that was to end with its client ends with it.
            if let Some((id, _)) = watcher
                && self
                    .shared
                    .tasks
                    .get(&id)
                    .is_some_and(|task| task.record.stdin_once)
            {
                self.close_stdin(&id);
            }
        }
    }

    /// Hears of ends of processes that are the other one's children; false when it is gone.
    fn hear_partner(&mut self) -> io::Result<bool> {
        let Some((message, fds)) = task::receive(self.partner.as_fd())? else {
            return Ok(false);
        };
        if let Mirror::Ended { id, status } = &message
            && let Some(task) = self.shared.tasks.get_mut(id)
            && task.record.status.is_none()
        {
            task.record.status = Some(*status);
            return Ok(true);
        }
        self.shared.apply(message, fds);
        Ok(true)
    }

    /// Learns how a process ended.
    fn note_end(&mut self, id: &str) {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return;
        };
        if task.record.status.is_some() || !is_ended(task) {
            return;
        }
        // Looked at first and reaped only when the other process knows: a death in
        // between must not lose the status.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = match rustix::process::waitid(WaitId::PidFd(task.pidfd.as_fd()), options) {
            Ok(Some(status)) => Some(raw_status(&status)),
            _ => foreign_status(task.pidfd.as_fd(), task.record.pid),
        };
        let Some(status) = status else { return };
        task.record.status = Some(status);
        let _ = task::send(
            self.partner.as_fd(),
            &Mirror::Ended {
                id: id.into(),
                status,
            },
            &[],
        );
        reap(task.pidfd.as_fd());
    }
}

/// Reaps a process, if it is this one's child.
pub fn reap(pidfd: BorrowedFd<'_>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd), options);
}

/// A status as wait(2) encodes it.
#[must_use]
pub fn raw_status(status: &rustix::process::WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal,
        (None, None) => 0xff00,
    }
}

/// Status of a process that is nobody's child here: its parents have died one after the
/// other. The kernel tells (6.15), or the zombie does; otherwise it is not known yet.
fn foreign_status(pidfd: BorrowedFd<'_>, pid: i32) -> Option<i32> {
    match gantry_sys::process::reaped_status(pidfd) {
        Ok(Some(gantry_sys::process::WaitStatus::Exited(code))) => return Some((code & 0xff) << 8),
        Ok(Some(gantry_sys::process::WaitStatus::Signaled(signal))) => return Some(signal),
        _ => {}
    }
    record::zombie_status(pid).ok()
}

/// Whether the process has ended: its handle is readable then.
fn is_ended(task: &Task) -> bool {
    has_ended(task.pidfd.as_fd())
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
