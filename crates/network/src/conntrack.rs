//! Connection tracking entries. A tracked flow keeps the translation that it began with, so an
//! endless UDP stream would go on to the address of a container that is gone, or past a port that
//! was published after it began.

use crate::Protocol;
use crate::netlink::{Batch, Body, Family, NetlinkError, Purpose, Socket, flag};
use rustix::io::Errno;
use std::net::Ipv4Addr;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NEW: u16 = NFNL_SUBSYS_CTNETLINK << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;
/// `struct nfgenmsg` for IPv4.
const HEADER: [u8; 4] = [2, 0, 0, 0];

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_SOURCE: u32 = 1 << 0;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;

/// Which entries to forget.
#[derive(Debug, Clone, Copy)]
enum Selection {
    /// Flows that the address began.
    From(Ipv4Addr),
    /// Flows that the address answers, which it does also under a published port.
    To(Ipv4Addr),
    /// Flows that were addressed to the port.
    Port(Protocol, u16),
}

/// Forgets all flows from and to the address of a container that is gone; returns how many there
/// were.
///
/// # Errors
/// The kernel's refusal.
pub fn flush_address(address: Ipv4Addr) -> Result<usize, NetlinkError> {
    flush_address_with(&mut Socket::open(Family::Netfilter)?, address)
}

/// [`flush_address`] through a socket that the caller keeps
/// ([`crate::firewall::publish_with`] says why).
///
/// # Errors
/// The kernel's refusal.
pub fn flush_address_with(socket: &mut Socket, address: Ipv4Addr) -> Result<usize, NetlinkError> {
    Ok(flush(socket, Selection::From(address))? + flush(socket, Selection::To(address))?)
}

/// Forgets all flows to a port of the host, so that those that began before the port was published
/// are translated from their next packet on; returns how many there were. Of use for UDP.
///
/// # Errors
/// The kernel's refusal.
pub fn flush_port(protocol: Protocol, port: u16) -> Result<usize, NetlinkError> {
    flush_port_with(&mut Socket::open(Family::Netfilter)?, protocol, port)
}

/// [`flush_port`] through a socket that the caller keeps ([`crate::firewall::publish_with`] says
/// why).
///
/// # Errors
/// The kernel's refusal.
pub fn flush_port_with(
    socket: &mut Socket,
    protocol: Protocol,
    port: u16,
) -> Result<usize, NetlinkError> {
    flush(socket, Selection::Port(protocol, port))
}

struct Entry {
    tuple: Vec<u8>,
    id: Vec<u8>,
    zone: Vec<u8>,
}

/// Lists the entries, filtered in the kernel, and deletes them one by one: a deletion by filter is
/// ignored by kernels before 6.9, which then delete everything.
fn flush(socket: &mut Socket, selection: Selection) -> Result<usize, NetlinkError> {
    let mut batch = Batch::new();
    let purpose = Purpose::new("list", "connection tracking entries");
    batch.request(GET, flag::DUMP, purpose, &HEADER, |body| {
        selection.encode(body)
    });
    let entries = socket.dump(&mut batch, |reply| {
        let attributes = reply.attributes(HEADER.len());
        if reply.kind != NEW || !selection.matches(&attributes) {
            return None;
        }
        let value = |kind| attributes.find(kind).map(<[u8]>::to_vec);
        Some(Entry {
            tuple: value(CTA_TUPLE_ORIG)?,
            id: value(CTA_ID)?,
            zone: value(CTA_ZONE).unwrap_or_default(),
        })
    })?;
    for entries in entries.chunks(256) {
        let mut batch = Batch::new();
        for entry in entries {
            let purpose =
                Purpose::new("delete connection tracking entry", "").tolerating(&[Errno::NOENT]);
            batch.request(DELETE, flag::ACK, purpose, &HEADER, |body| {
                body.nested(CTA_TUPLE_ORIG, |tuple| tuple.raw(&entry.tuple));
                // Without it a new flow between the same ends could be hit.
                body.bytes(CTA_ID, &entry.id);
                if !entry.zone.is_empty() {
                    body.bytes(CTA_ZONE, &entry.zone);
                }
            });
        }
        socket.execute(&mut batch)?;
    }
    Ok(entries.len())
}

impl Selection {
    fn encode(self, body: &mut Body<'_>) {
        let (tuple, flags, original) = match self {
            Selection::From(_) => (CTA_TUPLE_ORIG, FILTER_SOURCE, true),
            Selection::To(_) => (CTA_TUPLE_REPLY, FILTER_SOURCE, false),
            Selection::Port(..) => (
                CTA_TUPLE_ORIG,
                FILTER_PROTOCOL | FILTER_DESTINATION_PORT,
                true,
            ),
        };
        body.nested(tuple, |tuple| match self {
            Selection::From(address) | Selection::To(address) => {
                tuple.nested(CTA_TUPLE_IP, |ip| {
                    ip.bytes(CTA_IP_V4_SRC, &address.octets())
                });
            }
            Selection::Port(protocol, port) => tuple.nested(CTA_TUPLE_PROTO, |proto| {
                proto.u8(CTA_PROTO_NUM, protocol.number());
                proto.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            }),
        });
        body.nested(CTA_FILTER, |filter| {
            filter.u32(CTA_FILTER_ORIG_FLAGS, if original { flags } else { 0 });
            filter.u32(CTA_FILTER_REPLY_FLAGS, if original { 0 } else { flags });
        });
    }

    /// Checks an entry again, because a kernel that did not know the filter would list them all.
    fn matches(self, entry: &crate::netlink::Attributes<'_>) -> bool {
        let source = |tuple, address: Ipv4Addr| {
            entry.nested(tuple).nested(CTA_TUPLE_IP).find(CTA_IP_V4_SRC)
                == Some(&address.octets()[..])
        };
        match self {
            Selection::From(address) => source(CTA_TUPLE_ORIG, address),
            Selection::To(address) => source(CTA_TUPLE_REPLY, address),
            Selection::Port(protocol, port) => {
                let transport = entry.nested(CTA_TUPLE_ORIG).nested(CTA_TUPLE_PROTO);
                transport.find(CTA_PROTO_NUM) == Some(&[protocol.number()][..])
                    && transport.find(CTA_PROTO_DST_PORT) == Some(&port.to_be_bytes()[..])
            }
        }
    }
}
