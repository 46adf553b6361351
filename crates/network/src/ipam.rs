//! Address allocation: which network a new bridge gets and which address a new container gets.
//! Pure functions; the leases are stored by the engine.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR form, without host bits. Ordered by address, then by prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix_length: u8,
}

/// A text that is not an IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not `ADDRESS/BITS`.
    #[error("{0:?} is not an IPv4 network such as 172.20.0.0/16")]
    Malformed(String),
    /// More than 32 bits.
    #[error("the prefix of {0:?} is longer than 32 bits")]
    PrefixTooLong(String),
}

impl Subnet {
    /// The network of `prefix_length` bits that contains `address`; `None` above 32 bits.
    pub const fn new(address: Ipv4Addr, prefix_length: u8) -> Option<Self> {
        if prefix_length > 32 {
            return None;
        }
        let network = Ipv4Addr::from_bits(address.to_bits() & mask(prefix_length));
        Some(Subnet {
            network,
            prefix_length,
        })
    }

    /// The lowest address.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The highest address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !mask(self.prefix_length))
    }

    /// The length of the prefix in bits.
    pub fn prefix_length(self) -> u8 {
        self.prefix_length
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_length) == u32::from(self.network)
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The lowest and highest address that a host may have. Networks of 31 and 32 bits have no
    /// network and broadcast addresses (RFC 3021).
    pub fn hosts(self) -> (Ipv4Addr, Ipv4Addr) {
        let (first, last) = (u32::from(self.network), u32::from(self.broadcast()));
        if self.prefix_length >= 31 {
            (first.into(), last.into())
        } else {
            ((first + 1).into(), (last - 1).into())
        }
    }
}

const fn mask(prefix_length: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix_length as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    /// Parses `ADDRESS/BITS`; host bits are cleared.
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(malformed)?;
        let address = address.parse().map_err(|_| malformed())?;
        if bits.is_empty() || bits.len() > 2 || !bits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(malformed());
        }
        let bits = bits.parse().map_err(|_| malformed())?;
        Subnet::new(address, bits).ok_or_else(|| SubnetError::PrefixTooLong(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix_length)
    }
}

/// A range of addresses that is cut into networks of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The whole range.
    pub base: Subnet,
    /// The prefix length of each network, at least the base's.
    pub size: u8,
}

/// The pools that networks are taken from, in this order. 172.17.0.0/16 comes first and so is the
/// default bridge's, as people expect.
pub const DEFAULT_POOLS: [Pool; 4] = [
    pool([172, 17, 0, 0], 16, 16),
    pool([172, 18, 0, 0], 15, 16),
    pool([172, 20, 0, 0], 14, 16),
    pool([172, 24, 0, 0], 13, 16),
];

/// The pool after [`DEFAULT_POOLS`]: sixteen networks of 4,094 addresses.
pub const FALLBACK_POOL: Pool = pool([192, 168, 0, 0], 16, 20);

/// The pools that networks of users are taken from: small ones, since addresses run out sooner
/// than containers. 172.17.0.0/16 is left to the default bridge.
pub const USER_POOLS: [Pool; 4] = [
    pool([172, 18, 0, 0], 15, 24),
    pool([172, 20, 0, 0], 14, 24),
    pool([172, 24, 0, 0], 13, 24),
    pool([192, 168, 0, 0], 16, 24),
];

const fn pool([a, b, c, d]: [u8; 4], prefix_length: u8, size: u8) -> Pool {
    Pool {
        base: Subnet {
            network: Ipv4Addr::new(a, b, c, d),
            prefix_length,
        },
        size,
    }
}

/// Picks the first network of the pools that overlaps neither one in use by us nor one that the
/// host has a route to. A default route is not a clash.
pub fn pick_subnet(pools: &[Pool], used: &[Subnet], host_routes: &[Subnet]) -> Option<Subnet> {
    pools
        .iter()
        .find_map(|pool| pick_from(pool, used, host_routes))
}

fn pick_from(pool: &Pool, used: &[Subnet], host_routes: &[Subnet]) -> Option<Subnet> {
    let end = u64::from(u32::from(pool.base.broadcast())) + 1;
    let mut next = u64::from(u32::from(pool.base.network));
    while next < end {
        let address = Ipv4Addr::from(u32::try_from(next).ok()?);
        let candidate = Subnet::new(address, pool.size.max(pool.base.prefix_length))?;
        let clash = used
            .iter()
            .chain(host_routes.iter().filter(|route| route.prefix_length > 0))
            .filter(|other| other.overlaps(candidate))
            .map(|other| u64::from(u32::from(other.broadcast())))
            .max();
        let Some(clash) = clash else {
            return Some(candidate);
        };
        // Continues behind what is in the way, so that one large route costs one step.
        next = (clash.max(u64::from(u32::from(candidate.broadcast()))) + 1)
            .next_multiple_of(1 << (32 - u32::from(candidate.prefix_length)));
    }
    None
}

/// The next free address of a network after `after`, the one that was allocated last, wrapping
/// around at the end: an address just freed is the last to be given out again, so that a late
/// packet or a stale cache entry does not reach the wrong container.
///
/// `used` answers whether an address is leased. The network and broadcast addresses and the
/// gateway are never given out. `range` limits the choice to a part of the network.
pub fn next_address(
    subnet: Subnet,
    range: Option<Subnet>,
    gateway: Option<Ipv4Addr>,
    used: impl Fn(Ipv4Addr) -> bool,
    after: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let (mut first, mut last) = subnet.hosts();
    if let Some(range) = range {
        first = first.max(range.network());
        last = last.min(range.broadcast());
    }
    let (first, last) = (u32::from(first), u32::from(last));
    let after = after
        .map(u32::from)
        .filter(|after| (first..last).contains(after));
    let start = after.map_or(first, |after| after + 1);
    (start..=last)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .find(|address| Some(*address) != gateway && !used(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_parse_and_print() {
        for (text, expected) in [
            ("172.17.0.0/16", Some("172.17.0.0/16")),
            ("172.17.3.4/16", Some("172.17.0.0/16")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.1.2.3/32", Some("10.1.2.3/32")),
            ("10.1.2.3/33", None),
            ("10.1.2.3", None),
            ("10.1.2/24", None),
            ("10.1.2.3/", None),
            ("10.1.2.3/+8", None),
            ("10.1.2.3/016", None),
            ("fd00::/8", None),
            ("", None),
        ] {
            let parsed = text.parse::<Subnet>().ok().map(|subnet| subnet.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn subnet_arithmetic() {
        let net = subnet("172.17.0.0/16");
        assert_eq!(net.broadcast(), address("172.17.255.255"));
        assert_eq!(
            net.hosts(),
            (address("172.17.0.1"), address("172.17.255.254"))
        );
        assert!(net.contains(address("172.17.9.9")) && !net.contains(address("172.18.0.0")));
        assert!(net.overlaps(subnet("172.16.0.0/12")) && net.overlaps(subnet("172.17.4.0/24")));
        assert!(!net.overlaps(subnet("172.18.0.0/16")));
        assert!(subnet("0.0.0.0/0").overlaps(subnet("255.255.255.255/32")));
        assert_eq!(
            subnet("10.0.0.0/31").hosts(),
            (address("10.0.0.0"), address("10.0.0.1"))
        );
        assert_eq!(
            subnet("10.0.0.7/32").hosts(),
            (address("10.0.0.7"), address("10.0.0.7"))
        );
        assert_eq!(subnet("0.0.0.0/0").broadcast(), address("255.255.255.255"));
    }

    #[test]
    fn networks_avoid_each_other_and_the_host() {
        let mut pools = DEFAULT_POOLS.to_vec();
        pools.push(FALLBACK_POOL);
        let cases: &[(&[&str], &[&str], Option<&str>)] = &[
            (&[], &[], Some("172.17.0.0/16")),
            (&[], &["0.0.0.0/0"], Some("172.17.0.0/16")),
            (&["172.17.0.0/16"], &[], Some("172.18.0.0/16")),
            (
                &["172.18.0.0/16"],
                &["172.17.4.0/24"],
                Some("172.19.0.0/16"),
            ),
            (&[], &["172.17.0.5/32"], Some("172.18.0.0/16")),
            (&[], &["172.16.0.0/13"], Some("172.24.0.0/16")),
            (&[], &["172.16.0.0/12"], Some("192.168.0.0/20")),
            (
                &["192.168.16.0/20"],
                &["172.16.0.0/12", "192.168.1.0/24"],
                Some("192.168.32.0/20"),
            ),
            (&[], &["172.16.0.0/12", "192.168.0.0/16"], None),
            (&[], &["128.0.0.0/1"], None),
        ];
        for (used, routes, expected) in cases {
            let used: Vec<_> = used.iter().map(|text| subnet(text)).collect();
            let routes: Vec<_> = routes.iter().map(|text| subnet(text)).collect();
            let picked = pick_subnet(&pools, &used, &routes);
            assert_eq!(picked, expected.map(subnet), "{used:?} {routes:?}");
        }
    }

    #[test]
    fn a_pool_is_used_up_without_overlap() {
        let mut pools = DEFAULT_POOLS.to_vec();
        pools.push(FALLBACK_POOL);
        let mut used = Vec::new();
        while let Some(next) = pick_subnet(&pools, &used, &[]) {
            assert!(
                used.iter().all(|other| !next.overlaps(*other)),
                "{next} in {used:?}"
            );
            used.push(next);
        }
        assert_eq!(used.len(), 15 + 16);
    }

    #[test]
    fn the_top_of_the_address_space_is_an_end() {
        let top = Pool {
            base: subnet("255.255.0.0/16"),
            size: 24,
        };
        assert_eq!(pick_subnet(&[top], &[subnet("255.255.0.0/16")], &[]), None);
        let all = Pool {
            base: subnet("0.0.0.0/0"),
            size: 0,
        };
        assert_eq!(pick_subnet(&[all], &[], &[]), Some(subnet("0.0.0.0/0")));
        assert_eq!(pick_subnet(&[all], &[subnet("10.0.0.0/8")], &[]), None);
    }

    #[test]
    fn addresses_go_round() {
        let net = subnet("10.0.0.0/29");
        let gateway = Some(address("10.0.0.1"));
        let cases: &[(&[u8], Option<u8>, Option<u8>)] = &[
            (&[], None, Some(2)),
            (&[2], Some(2), Some(3)),
            // Freed a moment ago, and still not the next.
            (&[], Some(2), Some(3)),
            (&[], Some(6), Some(2)),
            (&[2, 3], Some(6), Some(4)),
            (&[3, 4, 5, 6], Some(6), Some(2)),
            (&[2, 3, 4, 5, 6], Some(6), None),
            // An address of another network, left over from before a change.
            (&[], Some(77), Some(2)),
        ];
        for (used, after, expected) in cases {
            let host = |last: u8| Ipv4Addr::new(10, 0, 0, last);
            let next = next_address(
                net,
                None,
                gateway,
                |candidate| used.iter().any(|last| host(*last) == candidate),
                after.map(host),
            );
            assert_eq!(next, expected.map(host), "{used:?} after {after:?}");
        }
    }

    #[test]
    fn addresses_stay_in_their_range() {
        let net = subnet("10.0.0.0/24");
        let range = Some(subnet("10.0.0.8/30"));
        let mut given = Vec::new();
        let mut after = None;
        while let Some(next) =
            next_address(net, range, None, |address| given.contains(&address), after)
        {
            given.push(next);
            after = Some(next);
        }
        let expected: Vec<_> = (8..12).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
        assert_eq!(given, expected);
        let everything = next_address(subnet("10.0.0.0/31"), None, None, |_| false, None);
        assert_eq!(everything, Some(address("10.0.0.0")));
        assert_eq!(
            next_address(net, Some(subnet("10.9.0.0/30")), None, |_| false, None),
            None
        );
    }
}
