//! Clients over TCP (RFC 7766). There are few of them and each has little room: who asks too much
//! at once is not read from until he has taken his answers, and who is idle makes place for others.

use super::message::MAX_QUERY;
use super::server::{Client, Core, Response, Token};
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// At most so many connections; the one that is idle for longest ends for a further one, so that
/// a thousand that say nothing keep nobody away (CVE-2024-8418).
const MAX_CLIENTS: usize = 64;
/// How long a connection may do nothing, or not take its answers.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// At most so many questions of one connection are passed on at a time.
const MAX_OUTSTANDING: usize = 16;
/// Nothing is read from who has so many bytes to take.
const MAX_UNSENT: usize = 64 * 1024;
/// At most so many connections are accepted in a row.
const MAX_ACCEPTED: usize = 64;
/// The length before each message.
const PREFIX: usize = 2;

/// The connections.
#[derive(Debug)]
pub(super) struct Clients {
    epoll: Rc<OwnedFd>,
    slots: Vec<Option<Connection>>,
    generation: u32,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    generation: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    outstanding: usize,
    /// When it last asked something whole or took all its answers. Single bytes do not count.
    last: Instant,
    interest: EventFlags,
    /// The client has said that it asks nothing more.
    ended: bool,
}

impl Clients {
    pub(super) fn new(epoll: Rc<OwnedFd>) -> Self {
        Clients {
            epoll,
            slots: Vec::new(),
            generation: 0,
        }
    }

    /// Takes new connections.
    pub(super) fn accept(&mut self, listener: BorrowedFd<'_>, now: Instant) {
        for _ in 0..MAX_ACCEPTED {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(listener, flags) {
                Ok(socket) => self.add(socket, now),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    self.evict();
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn add(&mut self, socket: OwnedFd, now: Instant) {
        let free = self.slots.iter().position(Option::is_none);
        let slot = match free {
            Some(slot) => slot,
            None if self.slots.len() < MAX_CLIENTS => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => match self.evict() {
                Some(slot) => slot,
                None => return,
            },
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let token = Token::Client { slot, generation };
        let interest = EventFlags::IN;
        if epoll::add(&*self.epoll, &socket, token.into(), interest).is_ok() {
            self.slots[slot] = Some(Connection {
                socket,
                generation,
                input: Vec::new(),
                output: Vec::new(),
                outstanding: 0,
                last: now,
                interest,
                ended: false,
            });
        }
    }

    /// Ends the connection that has done nothing for longest.
    fn evict(&mut self) -> Option<usize> {
        let connections = self.slots.iter().enumerate();
        let (slot, _) = connections
            .filter_map(|(slot, connection)| Some((slot, connection.as_ref()?)))
            .min_by_key(|(_, connection)| connection.last)?;
        self.slots[slot] = None;
        Some(slot)
    }

    /// Works on a connection on which something happened.
    pub(super) fn event(
        &mut self,
        slot: usize,
        generation: u32,
        flags: EventFlags,
        now: Instant,
        core: &mut Core,
    ) {
        self.work(slot, generation, |connection| {
            // Hung up is who takes no answers either.
            if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
                return false;
            }
            let readable = flags.contains(EventFlags::IN);
            (!readable || connection.receive())
                && connection.answer(slot, now, core)
                && connection.flush(now)
        });
    }

    /// Sends the answer to a question that was passed on.
    pub(super) fn reply(&mut self, slot: usize, generation: u32, now: Instant, core: &mut Core) {
        self.work(slot, generation, |connection| {
            connection.outstanding = connection.outstanding.saturating_sub(1);
            connection.put(&core.answer);
            // What was not read for want of room comes now.
            connection.answer(slot, now, core) && connection.flush(now)
        });
    }

    /// Changes a connection, ends it if that fails or if it is done, and asks for what it waits for.
    fn work(&mut self, slot: usize, generation: u32, change: impl FnOnce(&mut Connection) -> bool) {
        let Some(place) = self.slots.get_mut(slot) else {
            return;
        };
        let Some(connection) = place.as_mut().filter(|one| one.generation == generation) else {
            return;
        };
        if !change(connection) || connection.is_done() {
            *place = None;
            return;
        }
        let interest = connection.wanted();
        if interest != connection.interest {
            connection.interest = interest;
            let token = Token::Client { slot, generation };
            if epoll::modify(&*self.epoll, &connection.socket, token.into(), interest).is_err() {
                *place = None;
            }
        }
    }

    /// Ends the connections that have been idle for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        for place in &mut self.slots {
            if place
                .as_ref()
                .is_some_and(|one| one.last + IDLE_TIME <= now)
            {
                *place = None;
            }
        }
    }

    /// When [`Clients::expire`] is needed next.
    pub(super) fn timer(&self) -> Option<Instant> {
        let connections = self.slots.iter().flatten();
        connections.map(|one| one.last + IDLE_TIME).min()
    }
}

impl Connection {
    fn is_busy(&self) -> bool {
        self.outstanding >= MAX_OUTSTANDING || self.output.len() >= MAX_UNSENT
    }

    fn is_done(&self) -> bool {
        self.ended && self.outstanding == 0 && self.output.is_empty()
    }

    fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        if !self.ended && !self.is_busy() {
            wanted |= EventFlags::IN;
        }
        if !self.output.is_empty() {
            wanted |= EventFlags::OUT;
        }
        wanted
    }

    /// Reads what there is room for; `false` if the connection is broken.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; PREFIX + MAX_QUERY];
        let room = buffer.len().saturating_sub(self.input.len());
        if self.ended || room == 0 {
            return true;
        }
        match recv(&self.socket, &mut buffer[..room], RecvFlags::empty()) {
            Ok((0, _)) => self.ended = true,
            Ok((count, _)) => self.input.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Answers the whole messages that have come; `false` if one is longer than any query.
    fn answer(&mut self, slot: usize, now: Instant, core: &mut Core) -> bool {
        let mut from = 0;
        while !self.is_busy() {
            let Some((length, rest)) = self.input[from..].split_first_chunk::<PREFIX>() else {
                break;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            if !(1..=MAX_QUERY).contains(&length) {
                return false;
            }
            let Some(message) = rest.get(..length) else {
                break;
            };
            from += PREFIX + length;
            let client = Client::Stream {
                slot,
                generation: self.generation,
            };
            self.last = now;
            match core.respond(message, client, now) {
                Response::Now => self.put(&core.answer),
                Response::Later => self.outstanding += 1,
                Response::Never => {}
            }
        }
        self.input.drain(..from);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        true
    }

    fn put(&mut self, answer: &[u8]) {
        // No answer is longer: it is cut to what a message over TCP can be.
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(answer);
    }

    /// Sends what can be sent; `false` if the connection is broken.
    fn flush(&mut self, now: Instant) -> bool {
        let mut sent = 0;
        while sent < self.output.len() {
            match send(&self.socket, &self.output[sent..], SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.output.drain(..sent);
        if sent > 0 && self.output.is_empty() {
            self.output = Vec::new();
            self.last = now;
        }
        true
    }
}
