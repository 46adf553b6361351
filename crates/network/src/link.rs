//! Links: bridges, veth pairs and their attributes, as requests to put into a [`Batch`].

use crate::netlink::{
    Batch, Body, NetlinkError, Purpose, Reply, Socket, flag, read_string, read_u32,
};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `RTEXT_FILTER_SKIP_STATS`: statistics are most of a link's answer and of its cost.
const SKIP_STATISTICS: u32 = 1 << 3;
const AF_INET6: u16 = 10;
const IFF_UP: u32 = 1;
/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;
/// Bytes of `struct ifinfomsg`.
const INFO_HEADER: usize = 16;

/// The index of `lo`, the same in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// A kernel without IPv6, or a link on which it cannot run, refuses IPv6 attributes; a link
/// without IPv6 is what they were to achieve.
const WITHOUT_IPV6: &[Errno] = &[Errno::AFNOSUPPORT];

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The locally administered address `02:42:` followed by the IPv4 address. A neighbour's ARP
    /// entry for an address stays right when that address passes from one container to the next.
    pub fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// A random locally administered unicast address.
    ///
    /// # Errors
    /// Whatever `getrandom` reports.
    pub fn random() -> Result<Self, Errno> {
        let mut bytes = [0; 6];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text that is not an Ethernet address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a unicast MAC address of six hexadecimal octets")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let refuse = || MacError(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = text.split(separator);
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let octet = octets.next().ok_or_else(refuse)?;
            if octet.len() != 2 || !octet.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *byte = u8::from_str_radix(octet, 16).map_err(|_| refuse())?;
        }
        // The kernel accepts neither a group address nor all zeros as a link's own.
        if octets.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(refuse());
        }
        Ok(Mac(bytes))
    }
}

/// Whether the kernel accepts `name` as a link's name. It also is then a single harmless path
/// component below `/proc/sys/net`.
pub fn is_valid_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// How a link is named in a request.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// By name.
    Name(&'a str),
    /// By index.
    Index(u32),
}

impl Target<'_> {
    fn index(self) -> u32 {
        match self {
            Target::Index(index) => index,
            Target::Name(_) => 0,
        }
    }

    fn encode(self, body: &mut Body<'_>) {
        if let Target::Name(name) = self {
            body.string(IFLA_IFNAME, name);
        }
    }
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// The index in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The driver's kind (`veth`, `bridge`), absent for hardware and `lo`.
    pub kind: Option<String>,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// The note that its maker left on it.
    pub alias: Option<String>,
    /// The Ethernet address, absent for links that have none.
    pub mac: Option<Mac>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether packets pass: it is up, has a carrier, and the kernel has taken note of that.
    pub operational: bool,
}

/// Reads the answer to a [`get`] or one entry of a [`list`].
pub fn parse(reply: Reply<'_>) -> Option<LinkInfo> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let index = read_u32(reply.payload.get(4..8)?)?;
    let flags = read_u32(reply.payload.get(8..12)?)?;
    let mut info = LinkInfo {
        index,
        name: String::new(),
        kind: None,
        master: None,
        alias: None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        operational: false,
    };
    let attributes = reply.attributes(INFO_HEADER);
    for (kind, value) in attributes.clone() {
        match kind {
            IFLA_IFNAME => info.name = read_string(value)?.to_owned(),
            IFLA_MASTER => info.master = read_u32(value),
            IFLA_IFALIAS => info.alias = read_string(value).map(str::to_owned),
            IFLA_ADDRESS => info.mac = value.try_into().ok().map(Mac),
            IFLA_OPERSTATE => info.operational = value == [OPERATIONAL],
            IFLA_MTU => info.mtu = read_u32(value)?,
            _ => {}
        }
    }
    info.kind = attributes
        .nested(IFLA_LINKINFO)
        .find(IFLA_INFO_KIND)
        .and_then(read_string)
        .map(str::to_owned);
    Some(info)
}

/// Asks for one link; `object` is its name in an error.
pub fn get<'a>(batch: &mut Batch<'a>, target: Target<'a>, object: &'a str, tolerated: &'a [Errno]) {
    let purpose = Purpose::new("find link", object).tolerating(tolerated);
    batch.request(
        RTM_GETLINK,
        flag::ACK,
        purpose,
        &header(target.index(), 0, 0),
        |body| {
            target.encode(body);
            body.u32(IFLA_EXT_MASK, SKIP_STATISTICS);
        },
    );
}

/// Finds a link of the socket's namespace by name.
///
/// # Errors
/// The kernel's refusal; a missing link is `None`.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<LinkInfo>, NetlinkError> {
    let mut batch = Batch::new();
    get(&mut batch, Target::Name(name), name, &[Errno::NODEV]);
    let mut found = None;
    socket.query(&mut batch, |_, reply| found = parse(reply))?;
    Ok(found)
}

/// Lists all links of the socket's namespace.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut Socket) -> Result<Vec<LinkInfo>, NetlinkError> {
    let mut batch = Batch::new();
    batch.request(
        RTM_GETLINK,
        flag::DUMP,
        Purpose::new("list", "links"),
        &header(0, 0, 0),
        |body| body.u32(IFLA_EXT_MASK, SKIP_STATISTICS),
    );
    socket.dump(&mut batch, parse)
}

/// A bridge to create.
#[derive(Debug, Clone, Copy)]
pub struct Bridge<'a> {
    /// The name, at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address. Given, it stays; otherwise a bridge takes its ports' lowest one and
    /// changes with them.
    pub mac: Mac,
    /// The largest packet in bytes; the kernel's default if absent.
    pub mtu: Option<u32>,
    /// A note for whoever looks for the owner later, at most 255 bytes.
    pub alias: Option<&'a str>,
}

/// Creates a bridge, down and without IPv6 addresses of its own making. One that exists is kept.
pub fn create_bridge<'a>(batch: &mut Batch<'a>, bridge: &Bridge<'a>) {
    let purpose = Purpose::new("create bridge", bridge.name).tolerating(&[Errno::EXIST]);
    let flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
    batch.request(RTM_NEWLINK, flags, purpose, &header(0, 0, 0), |body| {
        body.string(IFLA_IFNAME, bridge.name);
        body.bytes(IFLA_ADDRESS, &bridge.mac.0);
        if let Some(mtu) = bridge.mtu {
            body.u32(IFLA_MTU, mtu);
        }
        body.nested(IFLA_LINKINFO, |info| info.string(IFLA_INFO_KIND, "bridge"));
    });
    without_link_local(batch, Target::Name(bridge.name), bridge.name);
    if let Some(alias) = bridge.alias {
        set_alias(batch, bridge.name, alias);
    }
}

/// A veth pair to create, with its other end in another network namespace.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// The name of this end, at most 15 bytes.
    pub name: &'a str,
    /// The bridge of which this end becomes a port.
    pub master: Option<u32>,
    /// The name of the other end.
    pub peer_name: &'a str,
    /// The other end's Ethernet address.
    pub peer_mac: Mac,
    /// The largest packet of both ends, in bytes.
    pub mtu: Option<u32>,
}

/// Creates a veth pair, both ends down, with the peer directly in `namespace`: a link that is
/// created here and moved there costs more and for a moment shows in the host under a name that
/// may clash.
pub fn create_veth<'a>(batch: &mut Batch<'a>, pair: &VethPair<'a>, namespace: BorrowedFd<'_>) {
    let purpose = Purpose::new("create veth pair", pair.name);
    let flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
    batch.request(RTM_NEWLINK, flags, purpose, &header(0, 0, 0), |body| {
        body.string(IFLA_IFNAME, pair.name);
        if let Some(mtu) = pair.mtu {
            body.u32(IFLA_MTU, mtu);
        }
        if let Some(master) = pair.master {
            body.u32(IFLA_MASTER, master);
        }
        body.nested(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.raw(&header(0, 0, 0));
                    peer.string(IFLA_IFNAME, pair.peer_name);
                    peer.bytes(IFLA_ADDRESS, &pair.peer_mac.0);
                    if let Some(mtu) = pair.mtu {
                        peer.u32(IFLA_MTU, mtu);
                    }
                    peer.bytes(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
    });
}

/// How a link of a container shares a link of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedKind {
    /// With an Ethernet address of its own.
    Macvlan(MacvlanMode),
    /// With the host's Ethernet address.
    Ipvlan(IpvlanMode),
}

/// How far links on one parent reach each other (`MACVLAN_MODE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// By way of a switch outside that sends frames back.
    Vepa,
    /// Directly.
    Bridge,
    /// There is one link only, which takes the parent over.
    Passthru,
}

/// On which layer links on one parent are told apart (`IPVLAN_MODE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// By address, with ARP.
    L2,
    /// By routes of the host.
    L3,
    /// By routes of the host, whose netfilter sees the packets.
    L3s,
}

impl FromStr for MacvlanMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "private" => Ok(MacvlanMode::Private),
            "vepa" => Ok(MacvlanMode::Vepa),
            "bridge" => Ok(MacvlanMode::Bridge),
            "passthru" => Ok(MacvlanMode::Passthru),
            _ => Err(()),
        }
    }
}

impl FromStr for IpvlanMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "l2" => Ok(IpvlanMode::L2),
            "l3" => Ok(IpvlanMode::L3),
            "l3s" => Ok(IpvlanMode::L3s),
            _ => Err(()),
        }
    }
}

/// A link of a container on a link of the host.
#[derive(Debug, Clone, Copy)]
pub struct SharedLink<'a> {
    /// The name in the container.
    pub name: &'a str,
    /// The index of the host's link.
    pub parent: u32,
    /// How it is shared.
    pub kind: SharedKind,
    /// The Ethernet address; that of an ipvlan link is its parent's.
    pub mac: Mac,
    /// The largest packet in bytes; the parent's if absent.
    pub mtu: Option<u32>,
}

/// Creates a link on a link of the host, in another network namespace.
pub fn create_shared<'a>(batch: &mut Batch<'a>, link: &SharedLink<'a>, namespace: BorrowedFd<'_>) {
    let purpose = Purpose::new("create link on the host's link for", link.name);
    let flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
    batch.request(RTM_NEWLINK, flags, purpose, &header(0, 0, 0), |body| {
        body.string(IFLA_IFNAME, link.name);
        body.u32(IFLA_LINK, link.parent);
        if let Some(mtu) = link.mtu {
            body.u32(IFLA_MTU, mtu);
        }
        body.bytes(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        match link.kind {
            SharedKind::Macvlan(mode) => {
                // In passthru mode the address is the parent's, and setting it sets that too.
                if mode != MacvlanMode::Passthru {
                    body.bytes(IFLA_ADDRESS, &link.mac.0);
                }
                let number = match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                    MacvlanMode::Passthru => 8,
                };
                body.nested(IFLA_LINKINFO, |info| {
                    info.string(IFLA_INFO_KIND, "macvlan");
                    info.nested(IFLA_INFO_DATA, |data| data.u32(IFLA_MACVLAN_MODE, number));
                });
            }
            SharedKind::Ipvlan(mode) => {
                let number: u16 = match mode {
                    IpvlanMode::L2 => 0,
                    IpvlanMode::L3 => 1,
                    IpvlanMode::L3s => 2,
                };
                body.nested(IFLA_LINKINFO, |info| {
                    info.string(IFLA_INFO_KIND, "ipvlan");
                    info.nested(IFLA_INFO_DATA, |data| {
                        data.bytes(IFLA_IPVLAN_MODE, &number.to_ne_bytes());
                    });
                });
            }
        }
    });
}

/// Creates a link for one VLAN (IEEE 802.1Q) of a link of the host, with a note on it.
pub fn create_vlan<'a>(batch: &mut Batch<'a>, name: &'a str, parent: u32, vlan: u16) {
    let purpose = Purpose::new("create VLAN link", name);
    let flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
    batch.request(RTM_NEWLINK, flags, purpose, &header(0, 0, 0), |body| {
        body.string(IFLA_IFNAME, name);
        body.u32(IFLA_LINK, parent);
        body.nested(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "vlan");
            info.nested(IFLA_INFO_DATA, |data| {
                data.bytes(IFLA_VLAN_ID, &vlan.to_ne_bytes());
            });
        });
    });
}

/// Keeps IPv6 from giving the link a link-local address. To be asked for before the link goes up.
pub fn without_link_local<'a>(batch: &mut Batch<'a>, target: Target<'a>, object: &'a str) {
    let purpose = Purpose::new("turn off IPv6 on link", object).tolerating(WITHOUT_IPV6);
    change(batch, target, purpose, 0, |body| {
        body.nested(IFLA_AF_SPEC, |families| {
            families.nested(AF_INET6, |inet6| {
                inet6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    });
}

/// Leaves a note on a link.
pub fn set_alias<'a>(batch: &mut Batch<'a>, name: &'a str, alias: &'a str) {
    let purpose = Purpose::new("set alias of link", name);
    change(batch, Target::Name(name), purpose, 0, |body| {
        body.bytes(IFLA_IFALIAS, alias.as_bytes());
    });
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// Frames are exchanged with the bridge only, not with other isolated ports. Done in the
    /// bridge itself, so it holds for ARP too and without br_netfilter.
    pub isolated: bool,
    /// Frames may leave by the port that they came from.
    pub hairpin: bool,
}

/// Sets the options of a bridge port.
pub fn set_port_options<'a>(batch: &mut Batch<'a>, name: &'a str, options: PortOptions) {
    let purpose = Purpose::new("set bridge port options of link", name);
    change(batch, Target::Name(name), purpose, 0, |body| {
        body.nested(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nested(IFLA_INFO_SLAVE_DATA, |port| {
                port.u8(IFLA_BRPORT_ISOLATED, options.isolated.into());
                port.u8(IFLA_BRPORT_MODE, options.hairpin.into());
            });
        });
    });
}

/// Sets the bridge of which a link is a port; zero releases it.
pub fn set_master<'a>(batch: &mut Batch<'a>, name: &'a str, master: u32) {
    let purpose = Purpose::new("set master of link", name);
    change(batch, Target::Name(name), purpose, 0, |body| {
        body.u32(IFLA_MASTER, master)
    });
}

/// Brings a link up.
pub fn set_up<'a>(batch: &mut Batch<'a>, target: Target<'a>, object: &'a str) {
    change(
        batch,
        target,
        Purpose::new("bring up link", object),
        IFF_UP,
        |_| (),
    );
}

/// Brings a link up with another MTU, in bytes.
pub fn set_up_with_mtu<'a>(batch: &mut Batch<'a>, target: Target<'a>, object: &'a str, mtu: u32) {
    change(
        batch,
        target,
        Purpose::new("bring up link", object),
        IFF_UP,
        |body| {
            body.u32(IFLA_MTU, mtu);
        },
    );
}

/// Deletes a link by name, which for a veth waits about 20 ms for the kernel; let the namespace of
/// its peer die where nobody needs the name at once.
///
/// # Errors
/// The kernel's refusal; a missing link is `false`.
pub fn delete(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    let mut batch = Batch::new();
    let purpose = Purpose::new("delete link", name);
    batch.request(RTM_DELLINK, flag::ACK, purpose, &header(0, 0, 0), |body| {
        body.string(IFLA_IFNAME, name);
    });
    match socket.execute(&mut batch) {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::NODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes an existing link. RTM_NEWLINK rather than RTM_SETLINK, which ignores the attributes of
/// bridge ports.
fn change<'a>(
    batch: &mut Batch<'a>,
    target: Target<'a>,
    purpose: Purpose<'a>,
    up: u32,
    body: impl FnOnce(&mut Body<'_>),
) {
    let fixed = header(target.index(), up, up);
    batch.request(RTM_NEWLINK, flag::ACK, purpose, &fixed, |request| {
        target.encode(request);
        body(request);
    });
}

/// `struct ifinfomsg`.
fn header(index: u32, flags: u32, change: u32) -> [u8; INFO_HEADER] {
    let mut bytes = [0; INFO_HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(
            Mac::from_ipv4(Ipv4Addr::new(172, 17, 0, 2)).to_string(),
            "02:42:ac:11:00:02"
        );
        for _ in 0..64 {
            let mac = Mac::random().unwrap();
            assert_eq!(mac.0[0] & 3, 2, "{mac} is a local unicast address");
        }
        for (text, expected) in [
            ("02:42:ac:11:00:02", Some([2, 0x42, 0xac, 0x11, 0, 2])),
            ("02-42-AC-11-00-02", Some([2, 0x42, 0xac, 0x11, 0, 2])),
            ("01:42:ac:11:00:02", None),
            ("00:00:00:00:00:00", None),
            ("02:42:ac:11:00", None),
            ("02:42:ac:11:00:02:03", None),
            ("02:42:ac:11:00:+2", None),
            ("2:42:ac:11:00:02", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Mac>().ok(), expected.map(Mac), "{text}");
        }
    }

    #[test]
    fn link_names() {
        for name in ["eth0", "a", "gantry0", "veth-12.34", "fifteen-bytes-1"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "sixteen-bytes-12",
            "a\0",
            "ä",
        ] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
