//! One try to have a question answered by one server, over UDP or TCP.

use super::message::{DATAGRAM_LIMIT, HEADER, STREAM_LIMIT, code, is_format_refusal, match_answer};
use super::server::Token;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::net::SocketAddr;
use std::time::Instant;

/// At most so many datagrams are looked at in a row on one socket.
const MAX_DATAGRAMS: usize = 16;

/// The length of the buffer that an event needs: a datagram longer than was asked for is asked for
/// again over TCP.
pub(super) const BUFFER: usize = {
    assert!(HEADER < DATAGRAM_LIMIT && DATAGRAM_LIMIT < STREAM_LIMIT);
    4096
};

#[derive(Debug)]
pub(super) struct Try {
    pub(super) socket: OwnedFd,
    pub(super) server: usize,
    pub(super) edns: bool,
    pub(super) sent: Vec<u8>,
    pub(super) until: Instant,
    pub(super) stream: Option<Stream>,
}

/// The state of a try over TCP.
#[derive(Debug, Default)]
pub(super) struct Stream {
    written: usize,
    received: Vec<u8>,
}

/// What became of a try.
#[derive(Debug)]
pub(super) enum Progress {
    Waiting,
    Answered(Vec<u8>),
    /// The server refused or cannot be reached.
    Failed(Option<u8>),
    /// To be asked again: over TCP, or without EDNS.
    Again {
        stream: bool,
        edns: bool,
    },
}

impl Try {
    /// Opens a socket and, unless it is a stream, sends the query.
    pub(super) fn start(
        epoll: BorrowedFd<'_>,
        token: Token,
        server: SocketAddr,
        mut message: Vec<u8>,
        stream: bool,
    ) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        message[..2].copy_from_slice(&id);
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let (kind, interest) = if stream {
            (SocketType::STREAM, EventFlags::OUT)
        } else {
            (SocketType::DGRAM, EventFlags::IN)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, kind, flags, None)?;
        match retry_on_intr(|| connect(&socket, &server)) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) if stream => {}
            Err(errno) => return Err(errno),
        }
        epoll::add(epoll, &socket, token.into(), interest)?;
        if !stream {
            retry_on_intr(|| send(&socket, &message, SendFlags::NOSIGNAL))?;
        }
        Ok((socket, message))
    }

    pub(super) fn on_datagram(&mut self, buffer: &mut [u8]) -> Progress {
        for _ in 0..MAX_DATAGRAMS {
            let (length, whole) = match recv(&self.socket, &mut *buffer, RecvFlags::TRUNC) {
                Ok((length, whole)) => (length, whole),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Waiting,
                // What the network says: nobody listens there, or there is no way.
                Err(_) => return Progress::Failed(None),
            };
            let message = &buffer[..length];
            match Try::judge(&self.sent, self.edns, false, message, whole > length) {
                Progress::Waiting => {}
                progress => return progress,
            }
        }
        Progress::Waiting
    }

    /// What a message from the server means.
    fn judge(sent: &[u8], edns: bool, stream: bool, message: &[u8], cut: bool) -> Progress {
        let Some(received) = match_answer(sent, message) else {
            return match is_format_refusal(sent, message) {
                true if edns => Progress::Again {
                    stream,
                    edns: false,
                },
                true => Progress::Failed(Some(code::SERVER_FAILURE)),
                false => Progress::Waiting,
            };
        };
        match received.code {
            // A server from before EDNS.
            code::FORMAT_ERROR | code::NOT_IMPLEMENTED if edns => Progress::Again {
                stream,
                edns: false,
            },
            code::NO_ERROR | code::NAME_ERROR if !stream && (received.truncated || cut) => {
                Progress::Again { stream: true, edns }
            }
            // There is nowhere to fetch the rest from.
            _ if stream && received.truncated => Progress::Failed(Some(code::SERVER_FAILURE)),
            code::NO_ERROR | code::NAME_ERROR => Progress::Answered(message.to_vec()),
            failure => Progress::Failed(Some(failure)),
        }
    }

    pub(super) fn on_stream(
        &mut self,
        epoll: BorrowedFd<'_>,
        slot: usize,
        index: usize,
        generation: u32,
        buffer: &mut [u8],
    ) -> Progress {
        let Some(stream) = &mut self.stream else {
            return Progress::Waiting;
        };
        let length = u16::try_from(self.sent.len()).unwrap_or(0).to_be_bytes();
        let framed = [&length[..], &self.sent].concat();
        if stream.written < framed.len() {
            if !matches!(sockopt::socket_error(&self.socket), Ok(Ok(()))) {
                return Progress::Failed(None);
            }
            let rest = &framed[stream.written..];
            match retry_on_intr(|| send(&self.socket, rest, SendFlags::NOSIGNAL)) {
                Ok(count) => stream.written += count,
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Failed(None),
            }
            if stream.written < framed.len() {
                return Progress::Waiting;
            }
            let token = Token::Try {
                slot,
                index,
                generation,
            };
            let data: EventData = token.into();
            if epoll::modify(epoll, &self.socket, data, EventFlags::IN).is_err() {
                return Progress::Failed(None);
            }
        }
        loop {
            let count = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Progress::Failed(None),
                Ok((count, _)) => count,
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Waiting,
                Err(_) => return Progress::Failed(None),
            };
            stream.received.extend_from_slice(&buffer[..count]);
            let Some((length, rest)) = stream.received.split_first_chunk::<2>() else {
                continue;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            if let Some(message) = rest.get(..length) {
                // Nothing else can come on a stream of one question.
                return match Try::judge(&self.sent, self.edns, true, message, false) {
                    Progress::Waiting => Progress::Failed(Some(code::SERVER_FAILURE)),
                    progress => progress,
                };
            }
        }
    }
}
