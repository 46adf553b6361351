//! Network interfaces of the host that move into a container (runtime-spec, config-linux.md,
//! "Network devices"): with their global addresses, and up.
//!
//! Netlink here and not from crates/network, which lies above this crate.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_sys::process::setns;
use rustix::fs::OFlags;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{BirthError, Step};
use crate::namespaces::flags::NEWNET;
use crate::path;
use crate::spec::NetDevice;

/// Moves interfaces into the network namespace of the process `pid`.
///
/// # Errors
/// [`BirthError::Step`].
pub(crate) fn move_all(pid: i32, devices: &BTreeMap<String, NetDevice>) -> Result<(), BirthError> {
    if devices.is_empty() {
        return Ok(());
    }
    let failed = || "cannot open the network namespaces".to_owned();
    let own = path::open_host("/proc/self/ns/net", OFlags::RDONLY).step(failed)?;
    let theirs = path::open_host(&format!("/proc/{pid}/ns/net"), OFlags::RDONLY).step(failed)?;
    let outside = socket().step(failed)?;
    // A socket stays in the namespace that it was made in.
    setns(theirs.as_fd(), NEWNET as i32).step(failed)?;
    let made = socket();
    setns(own.as_fd(), NEWNET as i32).step(failed)?;
    let inside = made.step(failed)?;
    for (name, device) in devices {
        let new_name = if device.name.is_empty() {
            name
        } else {
            &device.name
        };
        move_one(&outside, &inside, pid, name, new_name)
            .step(|| format!("linux.netDevices.{name}: cannot move the interface to {new_name}"))?;
    }
    Ok(())
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE, which has the number of no protocol.
        None,
    )?)
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

fn move_one(
    outside: &OwnedFd,
    inside: &OwnedFd,
    pid: i32,
    name: &str,
    new_name: &str,
) -> io::Result<()> {
    let index = rustix::net::netdevice::name_to_index(outside, name)?;
    // The move takes the addresses away.
    let addresses = addresses(outside, index)?;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_NET_NS_PID: u16 = 19;
    let mut request = Request::new(RTM_NEWLINK, NLM_F_ACK, &link_header(index, 0));
    request.attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes());
    let mut text = new_name.as_bytes().to_vec();
    text.push(0);
    request.attribute(IFLA_IFNAME, &text);
    request.perform(outside)?;
    let index = rustix::net::netdevice::name_to_index(inside, new_name)?;
    for address in addresses {
        let mut header = address.header;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &header);
        for (kind, value) in &address.attributes {
            request.attribute(*kind, value);
        }
        request.perform(inside)?;
    }
    const IFF_UP: u32 = 1;
    Request::new(RTM_NEWLINK, NLM_F_ACK, &link_header(index, IFF_UP)).perform(inside)
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0u8; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// One address of an interface, as the kernel tells it.
#[derive(Debug, Eq, PartialEq)]
struct Address {
    /// `struct ifaddrmsg`.
    header: [u8; 8],
    attributes: Vec<(u16, Vec<u8>)>,
}

/// The global, permanent addresses of an interface.
fn addresses(socket: &OwnedFd, index: u32) -> io::Result<Vec<Address>> {
    Request::new(RTM_GETADDR, NLM_F_DUMP, &[0; 8]).send(socket)?;
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let length = receive(socket, &mut buffer)?;
        for (kind, payload) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => check(payload)?,
                RTM_NEWADDR => found.extend(address(payload, index)),
                _ => {}
            }
        }
    }
}

/// Reads one address; `None` for one of another interface, or that goes or comes by itself.
fn address(payload: &[u8], wanted: u32) -> Option<Address> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_BROADCAST: u16 = 4;
    const IFA_F_PERMANENT: u8 = 0x80;
    let header: [u8; 8] = payload.get(..8)?.try_into().ok()?;
    let [_, _, flags, scope, index @ ..] = header;
    if u32::from_ne_bytes(index) != wanted || scope != 0 || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let mut attributes = Vec::new();
    let mut rest = &payload[8..];
    while let Some((kind, value, after)) = split_attribute(rest) {
        if [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(&kind) {
            attributes.push((kind, value.to_vec()));
        }
        rest = after;
    }
    Some(Address { header, attributes })
}

fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
    let value = bytes.get(4..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind & 0x3fff, value, after))
}

/// Splits what was received into types and payloads.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let payload = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The result in an `NLMSG_ERROR`: a negative error number, or 0.
fn check(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) => return Ok(length),
        }
    }
}

/// A request that is being written.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Request {
        let mut bytes = vec![0u8; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        Request { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Names and addresses: far below the 65531 bytes that an attribute holds.
        self.bytes
            .extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn send(mut self, socket: &OwnedFd) -> io::Result<()> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(socket, &self.bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    fn perform(self, socket: &OwnedFd) -> io::Result<()> {
        self.send(socket)?;
        let mut buffer = [0u8; 4096];
        let length = receive(socket, &mut buffer)?;
        match messages(&buffer[..length]).next() {
            Some((NLMSG_ERROR, payload)) => check(payload),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_stay_are_taken_along() {
        let payload = |flags: u8, scope: u8, index: u32| {
            let mut request = Request::new(RTM_NEWADDR, 0, &[2, 24, flags, scope]);
            request.bytes.extend_from_slice(&index.to_ne_bytes());
            request.attribute(2, &[10, 0, 0, 1]);
            request.attribute(3, b"name\0");
            request.bytes[16..].to_vec()
        };
        let taken = address(&payload(0x80, 0, 7), 7).unwrap();
        assert_eq!(taken.attributes, [(2, vec![10, 0, 0, 1])]);
        for (flags, scope, index) in [(0, 0, 7), (0x80, 253, 7), (0x80, 0, 8)] {
            assert_eq!(address(&payload(flags, scope, index), 7), None);
        }
        // What the kernel would never send ends the reading.
        assert_eq!(address(&[0; 3], 0), None);
        assert!(split_attribute(&[3, 0, 0, 0]).is_none());
        assert_eq!(messages(&[0; 16]).count(), 0);
    }
}
