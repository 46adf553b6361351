//! Questions that other servers are asked.
//!
//! The servers are raced: the first one is asked at once, each further one when the one before has
//! failed or said nothing for a while, and the first good answer wins. Every try has a socket of
//! its own, connected and thus on a random port, and a random id; what does not come from the
//! server, or does not repeat id and question exactly, is passed over. The same question is never
//! under way twice over the same transport, which would make guessing easier (RFC 5452, section 5).

use super::attempt::{Progress, Stream, Try};
use super::cache::Cache;
use super::message::{Kept, Query, code, strip};
use super::server::{Client, Token};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// At most so many questions are under way; each takes at most four sockets.
const MAX_FLIGHTS: usize = 128;
/// At most so many clients wait.
const MAX_WAITERS: usize = 512;
/// How long a server may be silent until the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(150);
/// How long one try may take.
const TRY_TIME: Duration = Duration::from_secs(2);
/// How long a question may take. Resolvers give up after five seconds.
const FLIGHT_TIME: Duration = Duration::from_secs(5);

/// Who waits for an answer, and for which question.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) client: Client,
    pub(super) query: Kept,
}

/// A question that is settled.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) waiters: Vec<Waiter>,
    /// The stripped answer, or the response code for want of one.
    pub(super) answer: Result<Vec<u8>, u8>,
}

/// The questions that are under way, and the answers that are remembered.
#[derive(Debug)]
pub(super) struct Forwarder {
    epoll: Rc<OwnedFd>,
    flights: Vec<Option<Flight>>,
    waiters: usize,
    generation: u32,
    cache: Cache,
}

#[derive(Debug)]
struct Flight {
    generation: u32,
    key: Box<[u8]>,
    stream: bool,
    query: Kept,
    waiters: Vec<Waiter>,
    servers: Rc<[SocketAddr]>,
    /// The server to ask next.
    next: usize,
    /// When it is asked even if no other try has failed.
    next_at: Option<Instant>,
    deadline: Instant,
    tries: Vec<Option<Try>>,
    /// What a server said instead of an answer.
    failure: Option<u8>,
    /// Whether a server said nothing, so that asking again may help.
    silence: bool,
    /// Whether other servers are to be asked since this began.
    outdated: bool,
}

impl Forwarder {
    pub(super) fn new(epoll: Rc<OwnedFd>) -> Self {
        Forwarder {
            epoll,
            flights: Vec::new(),
            waiters: 0,
            generation: 0,
            cache: Cache::default(),
        }
    }

    /// The remembered answer to a question, and its age in seconds.
    pub(super) fn remembered(&self, key: &[u8], now: Instant) -> Option<(&[u8], u32)> {
        self.cache.get(key, now)
    }

    /// Forgets what servers said that are no longer the ones to ask. If no other server may be asked
    /// any more, nothing is sent again either.
    pub(super) fn forget(&mut self, may_ask: bool) {
        self.cache.clear();
        for flight in self.flights.iter_mut().flatten() {
            flight.outdated = true;
            if !may_ask {
                flight.servers = Rc::from([]);
            }
        }
    }

    /// Asks on behalf of a client. The result is returned if there is one at once.
    pub(super) fn ask(
        &mut self,
        query: &Query<'_>,
        key: &[u8],
        client: Client,
        servers: &Rc<[SocketAddr]>,
        now: Instant,
    ) -> Option<Settled> {
        let stream = matches!(client, Client::Stream { .. });
        let waiter = Waiter {
            client,
            query: query.keep(),
        };
        let refused = |waiter| {
            Some(Settled {
                waiters: vec![waiter],
                answer: Err(code::SERVER_FAILURE),
            })
        };
        if self.waiters >= MAX_WAITERS {
            return refused(waiter);
        }
        let same = |flight: &&mut Flight| {
            !flight.outdated && flight.stream == stream && *flight.key == *key
        };
        if let Some(flight) = self.flights.iter_mut().flatten().find(same) {
            flight.waiters.push(waiter);
            self.waiters += 1;
            return None;
        }
        let slot = match self.flights.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.flights.len() < MAX_FLIGHTS => {
                self.flights.push(None);
                self.flights.len() - 1
            }
            None => return refused(waiter),
        };
        self.generation = self.generation.wrapping_add(1);
        self.waiters += 1;
        self.flights[slot] = Some(Flight {
            generation: self.generation,
            key: key.into(),
            stream,
            query: query.keep(),
            waiters: vec![waiter],
            servers: Rc::clone(servers),
            next: 0,
            next_at: None,
            deadline: now + FLIGHT_TIME,
            tries: Vec::new(),
            failure: None,
            silence: false,
            outdated: false,
        });
        self.advance(slot, now)
    }

    /// Works on a socket on which something happened.
    pub(super) fn event(
        &mut self,
        slot: usize,
        index: usize,
        generation: u32,
        now: Instant,
        buffer: &mut [u8],
    ) -> Option<Settled> {
        let flight = self.flights.get_mut(slot)?.as_mut()?;
        if flight.generation != generation {
            return None;
        }
        let attempt = flight.tries.get_mut(index)?.as_mut()?;
        let progress = if attempt.stream.is_some() {
            attempt.on_stream(self.epoll.as_fd(), slot, index, generation, buffer)
        } else {
            attempt.on_datagram(buffer)
        };
        let server = attempt.server;
        match progress {
            Progress::Waiting => return None,
            Progress::Answered(message) => {
                let query = flight.query.query();
                if let Some(answer) = strip(message, query.question.len()) {
                    if !flight.outdated {
                        self.cache.put(&query, &answer, now);
                    }
                    return self.settle(slot, Ok(answer));
                }
                flight.failure = Some(code::SERVER_FAILURE);
                flight.tries[index] = None;
            }
            Progress::Failed(failure) => {
                flight.failure = flight.failure.or(failure);
                flight.tries[index] = None;
            }
            Progress::Again { stream, edns } => {
                flight.tries[index] = None;
                if flight.start(self.epoll.as_fd(), slot, server, stream, edns, now) {
                    return None;
                }
            }
        }
        self.advance(slot, now)
    }

    /// Asks the next server that can be asked, or gives up.
    fn advance(&mut self, slot: usize, now: Instant) -> Option<Settled> {
        let flight = self.flights.get_mut(slot)?.as_mut()?;
        loop {
            if let Some(server) = (flight.next < flight.servers.len()).then_some(flight.next) {
                flight.next += 1;
                let started =
                    flight.start(self.epoll.as_fd(), slot, server, flight.stream, true, now);
                if started {
                    let more = flight.next < flight.servers.len();
                    flight.next_at = more.then(|| now + HEAD_START);
                    return None;
                }
                continue;
            }
            flight.next_at = None;
            if flight.tries.iter().any(Option::is_some) {
                return None;
            }
            // A datagram may have been lost; who was refused is refused again.
            if !flight.silence {
                break;
            }
            flight.silence = false;
            flight.next = 0;
        }
        let failure = flight.failure.unwrap_or(code::SERVER_FAILURE);
        self.settle(slot, Err(failure))
    }

    fn settle(&mut self, slot: usize, answer: Result<Vec<u8>, u8>) -> Option<Settled> {
        let flight = self.flights.get_mut(slot)?.take()?;
        self.waiters -= flight.waiters.len();
        Some(Settled {
            waiters: flight.waiters,
            answer,
        })
    }

    /// Works on what has taken too long, and hands over what is settled by that.
    pub(super) fn expire(&mut self, now: Instant, mut settled: impl FnMut(Settled)) {
        for slot in 0..self.flights.len() {
            let Some(flight) = &mut self.flights[slot] else {
                continue;
            };
            if flight.deadline <= now {
                let failure = flight.failure.unwrap_or(code::SERVER_FAILURE);
                if let Some(flight) = self.settle(slot, Err(failure)) {
                    settled(flight);
                }
                continue;
            }
            let mut late = flight.next_at.is_some_and(|at| at <= now);
            for attempt in &mut flight.tries {
                if attempt.as_ref().is_some_and(|attempt| attempt.until <= now) {
                    *attempt = None;
                    flight.silence = true;
                    late = true;
                }
            }
            if late && let Some(flight) = self.advance(slot, now) {
                settled(flight);
            }
        }
    }

    /// When [`Forwarder::expire`] is needed next.
    pub(super) fn timer(&self) -> Option<Instant> {
        let flights = self.flights.iter().flatten();
        flights
            .flat_map(|flight| {
                let tries = flight.tries.iter().flatten().map(|attempt| attempt.until);
                tries.chain(flight.next_at).chain([flight.deadline])
            })
            .min()
    }
}

impl Flight {
    /// Asks a server; returns whether that could be begun.
    fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        slot: usize,
        server: usize,
        stream: bool,
        edns: bool,
        now: Instant,
    ) -> bool {
        // Gone if it may not be asked any more.
        let Some(address) = self.servers.get(server).copied() else {
            return false;
        };
        let index = match self.tries.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.tries.push(None);
                self.tries.len() - 1
            }
        };
        let token = Token::Try {
            slot,
            index,
            generation: self.generation,
        };
        let attempt = Try::start(
            epoll,
            token,
            address,
            self.query.query().forwarded(edns),
            stream,
        );
        let Ok((socket, sent)) = attempt else {
            return false;
        };
        self.tries[index] = Some(Try {
            socket,
            server,
            edns,
            sent,
            until: now + TRY_TIME,
            stream: stream.then(Stream::default),
        });
        true
    }
}
