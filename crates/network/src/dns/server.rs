//! The loop of a sandbox's name server: one thread, one epoll instance, nothing that waits for
//! anything else.

use super::attempt::BUFFER;
use super::clients::Clients;
use super::file::FileError;
use super::forward::{Forwarder, Settled};
use super::message::{Answer, Query, STREAM_LIMIT, Unusable, code, refuse, relay};
use super::zone::{Outcome, Zone};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny, recvfrom, sendto};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

/// At most so many datagrams are answered in a row on one socket, so that the other sockets are
/// looked after as well.
const MAX_DATAGRAMS: usize = 64;
/// At most so many events are taken at once.
const MAX_EVENTS: usize = 64;

/// A buffer that had to grow beyond this is given back.
const KEPT_ANSWER: usize = 4096;

/// A name server that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The settings cannot be read.
    #[error(transparent)]
    Settings(#[from] FileError),
    /// The system refused.
    #[error("cannot {operation} of the name server")]
    System {
        /// What was attempted.
        operation: &'static str,
        /// The system's answer.
        #[source]
        errno: Errno,
    },
}

fn system(operation: &'static str) -> impl FnOnce(Errno) -> ServerError {
    move |errno| ServerError::System { operation, errno }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Datagrams(usize),
    Listener(usize),
    Client {
        slot: usize,
        generation: u32,
    },
    Try {
        slot: usize,
        index: usize,
        generation: u32,
    },
    Stop,
}

impl From<Token> for EventData {
    fn from(token: Token) -> EventData {
        let (kind, slot, index, generation) = match token {
            Token::Datagrams(slot) => (0, slot, 0, 0),
            Token::Listener(slot) => (1, slot, 0, 0),
            Token::Client { slot, generation } => (2, slot, 0, generation),
            Token::Try {
                slot,
                index,
                generation,
            } => (3, slot, index, generation),
            Token::Stop => (4, 0, 0, 0),
        };
        // Slots and indices are bounded by some hundred.
        let number = kind << 56
            | (slot as u64 & 0xffff) << 40
            | (index as u64 & 0xff) << 32
            | u64::from(generation);
        EventData::new_u64(number)
    }
}

impl Token {
    fn read(data: EventData) -> Token {
        let number = data.u64();
        let slot = (number >> 40 & 0xffff) as usize;
        let index = (number >> 32 & 0xff) as usize;
        let generation = number as u32;
        match number >> 56 {
            0 => Token::Datagrams(slot),
            1 => Token::Listener(slot),
            2 => Token::Client { slot, generation },
            3 => Token::Try {
                slot,
                index,
                generation,
            },
            _ => Token::Stop,
        }
    }
}

/// Who asked.
#[derive(Debug, Clone)]
pub(super) enum Client {
    /// Whoever sent a datagram to one of the sockets.
    Datagram { socket: usize, peer: SocketAddrAny },
    /// A connection.
    Stream { slot: usize, generation: u32 },
}

/// When a message of a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Response {
    /// Now, by [`Core::answer`].
    Now,
    /// When another server has answered.
    Later,
    /// It is no question.
    Never,
}

/// What answers: everything but the clients' sockets.
#[derive(Debug)]
pub(super) struct Core {
    zone: Zone,
    forwarder: Forwarder,
    key: Vec<u8>,
    /// The answer that was written last.
    pub(super) answer: Vec<u8>,
}

/// The name server of a sandbox.
#[derive(Debug)]
pub struct Server {
    epoll: Rc<OwnedFd>,
    udp: Vec<OwnedFd>,
    tcp: Vec<OwnedFd>,
    core: Core,
    clients: Clients,
    buffer: Box<[u8]>,
}

impl Server {
    /// A server on bound UDP and listening TCP sockets, of whatever network namespace. Other
    /// servers are asked from the network namespace of the thread that calls [`Server::run`].
    ///
    /// # Errors
    /// Settings that cannot be read; afterwards, ones that cannot are passed over.
    pub fn new(
        udp: Vec<OwnedFd>,
        tcp: Vec<OwnedFd>,
        settings: PathBuf,
    ) -> Result<Self, ServerError> {
        let zone = Zone::open(settings)?;
        let epoll =
            epoll::create(CreateFlags::CLOEXEC).map_err(system("create the event queue"))?;
        let epoll = Rc::new(epoll);
        let datagrams = udp.iter().enumerate();
        let listeners = tcp.iter().enumerate();
        let tokens = datagrams
            .map(|(slot, socket)| (socket, Token::Datagrams(slot)))
            .chain(listeners.map(|(slot, socket)| (socket, Token::Listener(slot))));
        for (socket, token) in tokens {
            ioctl_fionbio(socket, true)
                .and_then(|()| epoll::add(&*epoll, socket, token.into(), EventFlags::IN))
                .map_err(system("watch a socket"))?;
        }
        Ok(Server {
            core: Core {
                zone,
                forwarder: Forwarder::new(Rc::clone(&epoll)),
                key: Vec::new(),
                answer: Vec::new(),
            },
            clients: Clients::new(Rc::clone(&epoll)),
            epoll,
            udp,
            tcp,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// An event queue that fails.
    pub fn run(self) -> Result<(), ServerError> {
        self.serve()
    }

    /// Answers until `stop` can be read or is hung up, such as a pipe whose other end is held by
    /// whoever needs the server.
    ///
    /// # Errors
    /// An event queue that fails.
    pub fn run_until(self, stop: BorrowedFd<'_>) -> Result<(), ServerError> {
        epoll::add(&*self.epoll, stop, Token::Stop.into(), EventFlags::IN)
            .map_err(system("watch the end"))?;
        self.serve()
    }

    fn serve(mut self) -> Result<(), ServerError> {
        loop {
            let timer = [self.core.forwarder.timer(), self.clients.timer()]
                .into_iter()
                .flatten()
                .min();
            let timeout = timer.map(until);
            let mut events = [MaybeUninit::<Event>::uninit(); MAX_EVENTS];
            let events = match epoll::wait(&*self.epoll, &mut events[..], timeout.as_ref()) {
                Ok((events, _)) => &*events,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(system("wait for the sockets")(errno)),
            };
            let now = Instant::now();
            for event in events {
                match Token::read(event.data) {
                    Token::Datagrams(slot) => self.on_datagrams(slot, now),
                    Token::Listener(slot) => {
                        if let Some(listener) = self.tcp.get(slot) {
                            self.clients.accept(listener.as_fd(), now);
                        }
                    }
                    Token::Client { slot, generation } => {
                        let core = &mut self.core;
                        self.clients.event(slot, generation, event.flags, now, core);
                    }
                    Token::Try {
                        slot,
                        index,
                        generation,
                    } => {
                        let buffer = &mut self.buffer;
                        let forwarder = &mut self.core.forwarder;
                        if let Some(settled) = forwarder.event(slot, index, generation, now, buffer)
                        {
                            self.deliver(settled, now);
                        }
                    }
                    Token::Stop => return Ok(()),
                }
            }
            if timer.is_some_and(|timer| timer <= now) {
                // Before anything is sent again.
                self.core.refresh();
                let mut late = Vec::new();
                self.core
                    .forwarder
                    .expire(now, |settled| late.push(settled));
                for settled in late {
                    self.deliver(settled, now);
                }
                self.clients.expire(now);
            }
        }
    }

    fn on_datagrams(&mut self, slot: usize, now: Instant) {
        let Some(socket) = self.udp.get(slot) else {
            return;
        };
        for _ in 0..MAX_DATAGRAMS {
            let received = recvfrom(socket, &mut *self.buffer, RecvFlags::TRUNC);
            let (length, peer) = match received {
                Ok((length, whole, Some(peer))) if whole == length => (length, peer),
                // One that is longer than any query, or from nowhere.
                Ok(_) => continue,
                Err(_) => return,
            };
            let client = Client::Datagram {
                socket: slot,
                peer: peer.clone(),
            };
            let response = self.core.respond(&self.buffer[..length], client, now);
            if response == Response::Now {
                // A client that takes nothing more asks again.
                let _ = sendto(socket, &self.core.answer, SendFlags::DONTWAIT, &peer);
            }
        }
    }

    /// Sends what became of a question to those who wait for it.
    fn deliver(&mut self, settled: Settled, now: Instant) {
        for waiter in &settled.waiters {
            let query = waiter.query.query();
            self.core.write(&query, &waiter.client, &settled.answer);
            match &waiter.client {
                Client::Datagram { socket, peer } => {
                    if let Some(socket) = self.udp.get(*socket) {
                        let _ = sendto(socket, &self.core.answer, SendFlags::DONTWAIT, peer);
                    }
                }
                Client::Stream { slot, generation } => {
                    self.clients.reply(*slot, *generation, now, &mut self.core);
                }
            }
        }
    }
}

/// The time until `timer`, in whole milliseconds: what is left of one would be waited for by
/// asking the kernel over and over.
fn until(timer: Instant) -> Timespec {
    let left = timer.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    Timespec {
        tv_sec: i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX),
        tv_nsec: (milliseconds % 1000) as i64 * 1_000_000,
    }
}

impl Core {
    fn refresh(&mut self) {
        if self.zone.refresh() {
            self.forwarder.forget(self.zone.forwards());
        }
    }

    /// Works on a message of a client.
    pub(super) fn respond(&mut self, message: &[u8], client: Client, now: Instant) -> Response {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Unusable::Silent) => return Response::Never,
            Err(Unusable::Refused { id, flags, code }) => {
                refuse(&mut self.answer, id, flags, code);
                return Response::Now;
            }
        };
        // What was changed before the question was asked is in the answer.
        self.refresh();
        if self.answer.capacity() > KEPT_ANSWER {
            self.answer = Vec::new();
        }
        let limit = limit(&query, &client);
        if self.zone.answer(&query, limit, &mut self.answer) == Outcome::Answered {
            return Response::Now;
        }
        query.write_key(&mut self.key);
        if let Some((answer, age)) = self.forwarder.remembered(&self.key, now)
            && relay(&mut self.answer, answer, &query, limit, age)
        {
            return Response::Now;
        }
        let servers = self.zone.servers();
        let settled = self.forwarder.ask(&query, &self.key, client, servers, now);
        // Settled at once, it can only be this client's.
        let Some(settled) = settled else {
            return Response::Later;
        };
        for waiter in &settled.waiters {
            self.write(&query, &waiter.client, &settled.answer);
        }
        Response::Now
    }

    /// Writes what became of a question for one of those who asked it.
    fn write(&mut self, query: &Query<'_>, client: &Client, result: &Result<Vec<u8>, u8>) {
        let limit = limit(query, client);
        let failure = match result {
            Ok(answer) if relay(&mut self.answer, answer, query, limit, 0) => return,
            Ok(_) => code::SERVER_FAILURE,
            Err(failure) => *failure,
        };
        Answer::begin(&mut self.answer, query, limit).fail(failure);
    }
}

/// The longest answer that a client takes.
fn limit(query: &Query<'_>, client: &Client) -> usize {
    match client {
        Client::Datagram { .. } => query.datagram_limit(),
        Client::Stream { .. } => STREAM_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        for token in [
            Token::Datagrams(1),
            Token::Listener(2),
            Token::Client {
                slot: 63,
                generation: u32::MAX,
            },
            Token::Try {
                slot: 127,
                index: 9,
                generation: 7,
            },
            Token::Stop,
        ] {
            assert_eq!(Token::read(token.into()), token);
        }
    }
}
