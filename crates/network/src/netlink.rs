//! A small blocking netlink socket with strict acknowledgement.
//!
//! Except for dumps the kernel works through all requests of a send before the send returns, so the
//! answers are then waiting in the socket and are read without blocking: a missing one is an error,
//! never a hang.

mod message;

pub use message::{
    Attributes, Batch, Body, Purpose, Reply, attributes, flag, read_be32, read_string, read_u32,
};

use message::{HEADER, replies};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the table changed while it was dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the failing request is not repeated in the error.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const ERROR_ATTRIBUTES: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;
/// The kernel fills dumps up to 32 KiB per datagram, so nothing is ever cut off at this size.
const RECEIVE_BUFFER: usize = 32 * 1024;
/// A default socket takes sends up to about 208 KiB; larger ones need a larger buffer.
const LARGE_SEND: usize = 96 * 1024;
/// How often a dump is begun anew when its table changes meanwhile.
const DUMP_ATTEMPTS: usize = 16;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}{}", detail_suffix(detail.as_deref()))]
pub struct NetlinkError {
    /// What was attempted, such as `create bridge`.
    pub operation: &'static str,
    /// The name of the object, empty if the operation has none.
    pub object: String,
    /// What the kernel answered.
    #[source]
    pub errno: Errno,
    /// The kernel's own explanation, where it gives one.
    pub detail: Option<String>,
}

fn detail_suffix(detail: Option<&str>) -> String {
    detail.map(|text| format!(" ({text})")).unwrap_or_default()
}

impl NetlinkError {
    pub(crate) fn new(operation: &'static str, object: &str, errno: Errno) -> Self {
        NetlinkError {
            operation,
            object: object.to_owned(),
            errno,
            detail: None,
        }
    }
}

/// The kernel subsystem that a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses and routes.
    Route,
    /// nf_tables and connection tracking.
    Netfilter,
}

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next_sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Whatever `socket` and `connect` report.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        let (protocol, name) = match family {
            Family::Route => (None, "route"),
            Family::Netfilter => (Some(NETFILTER), "netfilter"),
        };
        let open = || -> Result<OwnedFd, Errno> {
            let fd = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                protocol,
            )?;
            // A connected socket takes messages from the kernel only, so no other process can
            // forge an acknowledgement.
            connect(&fd, &SocketAddrNetlink::new(0, 0))?;
            Ok(fd)
        };
        let fd = open().map_err(|errno| NetlinkError::new("open netlink socket", name, errno))?;
        Ok(Socket {
            fd,
            next_sequence: 1,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Sends a batch of which every request with `ACK` must be acknowledged and returns when all
    /// are. Requests after a failing one are still carried out by the kernel (unless they are an
    /// nf_tables transaction); the first failure is reported.
    ///
    /// # Errors
    /// The first refusal that its request does not tolerate.
    pub fn execute(&mut self, batch: &mut Batch<'_>) -> Result<(), NetlinkError> {
        self.query(batch, |_, _| ())
    }

    /// Like [`Socket::execute`], and hands each answer that is not an acknowledgement to `receive`
    /// with the index of its request.
    ///
    /// # Errors
    /// The first refusal that its request does not tolerate.
    pub fn query(
        &mut self,
        batch: &mut Batch<'_>,
        mut receive: impl FnMut(usize, Reply<'_>),
    ) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.send(batch)?;
        let mut outstanding = batch
            .requests
            .iter()
            .filter(|request| batch.flags(request) & flag::ACK != 0)
            .count();
        let mut failure = None;
        while outstanding > 0 {
            let length = match self.receive(RecvFlags::DONTWAIT) {
                Ok(length) => length,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(whole_batch(batch, errno)),
            };
            for reply in replies(&self.buffer[..length]) {
                let index = reply.sequence.wrapping_sub(first) as usize;
                let Some(request) = batch.requests.get(index) else {
                    continue;
                };
                if reply.kind != ERROR {
                    receive(index, reply);
                    continue;
                }
                if batch.flags(request) & flag::ACK != 0 {
                    outstanding -= 1;
                }
                let (errno, detail) = read_error(reply);
                let Some(errno) = errno else { continue };
                if request.tolerated.contains(&errno) || failure.is_some() {
                    continue;
                }
                failure = Some(NetlinkError {
                    operation: request.operation,
                    object: request.object.to_owned(),
                    errno,
                    detail,
                });
            }
        }
        match failure {
            Some(failure) => Err(failure),
            // EPROTO: the kernel owes an answer that it did not give.
            None if outstanding > 0 => Err(whole_batch(batch, Errno::PROTO)),
            None => Ok(()),
        }
    }

    /// Runs the only request of `batch`, a dump, and collects what `parse` makes of each entry.
    /// A dump during which the table changed is repeated.
    ///
    /// # Errors
    /// The kernel's refusal, or `EINTR` when the table kept changing.
    pub fn dump<T>(
        &mut self,
        batch: &mut Batch<'_>,
        mut parse: impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(batch, &mut parse) {
                Err(error) if error.errno == Errno::INTR => {}
                other => return other,
            }
        }
        Err(whole_batch(batch, Errno::INTR))
    }

    fn dump_once<T>(
        &mut self,
        batch: &mut Batch<'_>,
        parse: &mut impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let first = self.send(batch)?;
        let mut entries = Vec::new();
        let mut interrupted = false;
        loop {
            let length = self
                .receive(RecvFlags::empty())
                .map_err(|errno| whole_batch(batch, errno))?;
            for reply in replies(&self.buffer[..length]) {
                if reply.sequence != first {
                    continue;
                }
                interrupted |= reply.flags & DUMP_INTERRUPTED != 0;
                match reply.kind {
                    ERROR => {
                        let (errno, detail) = read_error(reply);
                        let mut error = whole_batch(batch, errno.unwrap_or(Errno::PROTO));
                        error.detail = detail;
                        return Err(error);
                    }
                    DONE if interrupted => return Err(whole_batch(batch, Errno::INTR)),
                    // The payload is the dump's result: zero or a negated error number.
                    DONE => {
                        return match reply.payload.get(..4).and_then(read_errno) {
                            Some(errno) => Err(whole_batch(batch, errno)),
                            None => Ok(entries),
                        };
                    }
                    _ => entries.extend(parse(reply)),
                }
            }
        }
    }

    fn send(&mut self, batch: &mut Batch<'_>) -> Result<u32, NetlinkError> {
        let first = self.next_sequence;
        batch.number(first);
        let count = u32::try_from(batch.len()).expect("a batch has fewer than 2^32 requests");
        self.next_sequence = first.wrapping_add(count);
        let size = batch.bytes.len();
        if size > LARGE_SEND {
            sockopt::set_socket_send_buffer_size_force(&self.fd, size * 2)
                .map_err(|errno| whole_batch(batch, errno))?;
        }
        let sent = retry_on_intr(|| send(&self.fd, &batch.bytes, SendFlags::empty()))
            .map_err(|errno| whole_batch(batch, errno))?;
        if sent == size {
            Ok(first)
        } else {
            Err(whole_batch(batch, Errno::MSGSIZE))
        }
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Errno> {
        let (_, length) = retry_on_intr(|| {
            recv(
                &self.fd,
                self.buffer.as_mut_slice(),
                flags | RecvFlags::TRUNC,
            )
        })?;
        if length > self.buffer.len() {
            Err(Errno::MSGSIZE)
        } else {
            Ok(length)
        }
    }
}

/// An error that concerns no single request: named after the first one.
fn whole_batch(batch: &Batch<'_>, errno: Errno) -> NetlinkError {
    match batch.requests.first() {
        Some(request) => NetlinkError::new(request.operation, request.object, errno),
        None => NetlinkError::new("send", "nothing", errno),
    }
}

/// Reads `struct nlmsgerr` and the text of an extended acknowledgement.
fn read_error(reply: Reply<'_>) -> (Option<Errno>, Option<String>) {
    let payload = reply.payload;
    let Some(code) = payload.get(..4) else {
        return (Some(Errno::PROTO), None);
    };
    let errno = read_errno(code);
    if reply.flags & ERROR_ATTRIBUTES == 0 {
        return (errno, None);
    }
    // The header of the failing request follows, and its body unless that was left out.
    let request = if reply.flags & CAPPED != 0 {
        HEADER
    } else {
        payload
            .get(4..8)
            .and_then(read_u32)
            .map_or(HEADER, |length| length as usize)
    };
    let detail = attributes(
        payload
            .get(4 + request.next_multiple_of(4)..)
            .unwrap_or_default(),
    )
    .find(ERROR_TEXT)
    .and_then(read_string)
    .map(str::to_owned);
    (errno, detail)
}

fn read_errno(code: &[u8]) -> Option<Errno> {
    match i32::from_ne_bytes(code.try_into().ok()?) {
        0 => None,
        code @ -4095..0 => Some(Errno::from_raw_os_error(-code)),
        _ => Some(Errno::PROTO),
    }
}
