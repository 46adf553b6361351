//! The constant part of an installation's table.

use crate::Protocol;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::{
    Bitmask, Comparison, Conntrack, Element, ElementKey, Expression, FORWARD, Hook, LOCAL_OUT,
    Meta, POST_ROUTING, PRE_ROUTING, PayloadBase, Register, SetDefinition, Transaction, Verdict,
    find_element, key_type,
};
use Comparison::{Equal, NotEqual};
use Expression::{Compare, DestinationNat, InSet, Map, Masquerade, NotInSet};

/// The number of this ruleset. Raise it with every change of chains or rules, so that a newer
/// release replaces them; a set whose type changes needs a new name.
const VERSION: u16 = 1;

/// Holds [`VERSION`].
const VERSIONS: &str = "version";
/// Our bridges; the comment says what belongs to each.
pub(super) const BRIDGES: &str = "bridges";
/// Bridge and network.
pub(super) const SUBNETS: &str = "subnets";
/// Pairs of links between which packets may pass: a bridge and itself.
pub(super) const CONNECTED: &str = "connected";
/// Bridges whose containers share the host's address outside.
pub(super) const MASQUERADED: &str = "masqueraded";
/// Bridges without a way out.
pub(super) const INTERNAL: &str = "internal";
/// Ports published on one address.
pub(super) const PUBLISHED: &str = "published";
/// Ports published on every address of the host.
pub(super) const PUBLISHED_ANY: &str = "published_any";
/// Ranges of ports published on every address under their own numbers, for each protocol.
pub(super) const RANGES: [(Protocol, &str); 3] = [
    (Protocol::Tcp, "published_tcp"),
    (Protocol::Udp, "published_udp"),
    (Protocol::Sctp, "published_sctp"),
];

const SETS: [SetDefinition; 11] = {
    use key_type::{IPV4, LINK, PORT, TRANSPORT};
    const fn set(
        name: &'static str,
        key: &'static [crate::nft::Field],
        data: &'static [crate::nft::Field],
        ranges: bool,
    ) -> SetDefinition {
        SetDefinition {
            name,
            key,
            data,
            ranges,
        }
    }
    [
        set(VERSIONS, &[PORT], &[], false),
        set(BRIDGES, &[LINK], &[], false),
        set(SUBNETS, &[LINK, IPV4], &[], true),
        set(CONNECTED, &[LINK, LINK], &[], false),
        set(MASQUERADED, &[LINK], &[], false),
        set(INTERNAL, &[LINK], &[], false),
        set(PUBLISHED, &[IPV4, TRANSPORT, PORT], &[IPV4, PORT], false),
        set(PUBLISHED_ANY, &[TRANSPORT, PORT], &[IPV4, PORT], false),
        set(RANGES[0].1, &[PORT], &[IPV4], true),
        set(RANGES[1].1, &[PORT], &[IPV4], true),
        set(RANGES[2].1, &[PORT], &[IPV4], true),
    ]
};

const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FORWARDING: &str = "forward";
const DESTINATION: &str = "destination";
const TO_BRIDGE: &str = "to_bridge";

/// Base chains with their hooks. Priorities are the customary ones: raw -300, destination NAT
/// -100, filter 0, source NAT 100.
const CHAINS: [(&str, Option<Hook>); 7] = [
    (DESTINATION, None),
    (TO_BRIDGE, None),
    (GUARD, hook("filter", PRE_ROUTING, -300)),
    (PREROUTING, hook("nat", PRE_ROUTING, -100)),
    (OUTPUT, hook("nat", LOCAL_OUT, -100)),
    (FORWARDING, hook("filter", FORWARD, 0)),
    (POSTROUTING, hook("nat", POST_ROUTING, 100)),
];

const fn hook(kind: &'static str, number: u32, priority: i32) -> Option<Hook> {
    Some(Hook {
        kind,
        number,
        priority,
    })
}

const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
/// The register behind a link's name, which takes four.
const R4: Register = Register(4);

const NFPROTO_IPV4: [u8; 1] = [2];
const RTN_LOCAL: [u8; 4] = 2u32.to_ne_bytes();
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)`.
const ESTABLISHED_OR_RELATED: Bitmask = 6u32.to_ne_bytes();
/// `IPS_DST_NAT`.
const DESTINATION_CHANGED: Bitmask = (1u32 << 5).to_ne_bytes();
const LOOPBACK_LINK: [u8; 16] = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

const IPV4: [Expression<'static>; 2] = [
    Expression::Meta(Meta::NetworkProtocol, R0),
    Compare(R0, Equal, &NFPROTO_IPV4),
];

const fn input_name(into: Register) -> Expression<'static> {
    Expression::Meta(Meta::InputName, into)
}

const fn output_name(into: Register) -> Expression<'static> {
    Expression::Meta(Meta::OutputName, into)
}

const fn source_address(into: Register) -> Expression<'static> {
    Expression::Payload {
        base: PayloadBase::Network,
        offset: 12,
        length: 4,
        into,
    }
}

const fn destination_address(into: Register) -> Expression<'static> {
    Expression::Payload {
        base: PayloadBase::Network,
        offset: 16,
        length: 4,
        into,
    }
}

const fn transport(into: Register) -> Expression<'static> {
    Expression::Meta(Meta::TransportProtocol, into)
}

const fn destination_port(into: Register) -> Expression<'static> {
    Expression::Payload {
        base: PayloadBase::Transport,
        offset: 2,
        length: 2,
        into,
    }
}

/// The first byte of the address at `offset` of the header is 127.
const fn loopback_address(offset: u32) -> [Expression<'static>; 2] {
    [
        Expression::Payload {
            base: PayloadBase::Network,
            offset,
            length: 1,
            into: R0,
        },
        Compare(R0, Equal, &[127]),
    ]
}

const fn conntrack(key: Conntrack, mask: Bitmask) -> [Expression<'static>; 3] {
    [
        Expression::Conntrack(key, R0),
        Expression::Mask(R0, mask),
        Compare(R0, NotEqual, &[0; 4]),
    ]
}

const fn verdict(verdict: Verdict<'static>) -> Expression<'static> {
    Expression::Verdict(verdict)
}

/// Whether the table exists with the rules of this version.
pub(super) fn is_current(socket: &mut Socket, table: &str) -> Result<bool, NetlinkError> {
    Ok(find_element(socket, table, VERSIONS, &version_key())?.is_some())
}

fn version_key() -> ElementKey {
    ElementKey::exact(VERSION.to_be_bytes().to_vec())
}

/// Makes the table what it should be, whatever it is; sets keep their elements.
pub(super) fn install(transaction: &mut Transaction<'_>) {
    transaction.table();
    for definition in &SETS {
        transaction.set(definition);
    }
    for (name, hook) in CHAINS {
        transaction.chain(name, hook);
    }
    transaction.delete_rules();
    add_rules(transaction);
    transaction.clear(VERSIONS);
    let version = Element {
        key: version_key(),
        data: Vec::new(),
        comment: String::new(),
    };
    transaction.add_elements(VERSIONS, &[version], true);
}

fn add_rules(transaction: &mut Transaction<'_>) {
    let mut rule = |chain, comment: &str, parts: &[&[Expression<'_>]]| {
        transaction.rule(chain, comment, &parts.concat());
    };
    guard_rules(&mut rule);
    nat_rules(&mut rule);
    forward_rules(&mut rule);
}

type AddRule<'r> = dyn FnMut(&'static str, &str, &[&[Expression<'_>]]) + 'r;

/// route_localnet makes the kernel accept 127.0.0.0/8 from our bridges. Only the host itself may
/// use it, so it is dropped before NAT could give it another destination (CVE-2020-8558), as a
/// source too: only the addresses that lo has are refused by the kernel, not 127.0.0.2.
fn guard_rules(rule: &mut AddRule<'_>) {
    let not_loopback = [input_name(R0), Compare(R0, NotEqual, &LOOPBACK_LINK)];
    for (offset, comment) in [(16, "no loopback destination"), (12, "no loopback source")] {
        rule(
            GUARD,
            comment,
            &[
                &IPV4,
                &not_loopback,
                &loopback_address(offset),
                &[verdict(Verdict::Drop)],
            ],
        );
    }
}

fn nat_rules(rule: &mut AddRule<'_>) {
    // Only what is addressed to the host: a connection that it forwards to another host's port of
    // the same number is not ours (CVE-2025-67499).
    let to_host = [
        Expression::DestinationType(R0),
        Compare(R0, Equal, &RTN_LOCAL),
    ];
    for chain in [PREROUTING, OUTPUT] {
        rule(
            chain,
            "published ports",
            &[&IPV4, &to_host, &[verdict(Verdict::Jump(DESTINATION))]],
        );
    }
    let specific = [destination_address(R0), transport(R1), destination_port(R2)];
    let any = [transport(R0), destination_port(R1)];
    let nat = DestinationNat {
        address: R0,
        port: Some(R1),
    };
    for (map, key, comment) in [
        (PUBLISHED, &specific[..], "on one address"),
        (PUBLISHED_ANY, &any[..], "on all addresses"),
    ] {
        rule(
            DESTINATION,
            comment,
            &[
                &IPV4,
                key,
                &[
                    Map {
                        map,
                        key: R0,
                        into: R0,
                    },
                    nat,
                ],
            ],
        );
    }
    // Without a port the kernel keeps the one that the client asked for.
    let nat = DestinationNat {
        address: R0,
        port: None,
    };
    for (protocol, map) in RANGES {
        let number = [protocol.number()];
        let matching = [
            transport(R0),
            Compare(R0, Equal, &number),
            destination_port(R0),
        ];
        rule(
            DESTINATION,
            "ranges",
            &[
                &IPV4,
                &matching,
                &[
                    Map {
                        map,
                        key: R0,
                        into: R0,
                    },
                    nat,
                ],
            ],
        );
    }

    // The host's own connections to 127.0.0.1: a container could not answer that address.
    rule(
        POSTROUTING,
        "host to published port",
        &[
            &IPV4,
            &loopback_address(12),
            &[output_name(R0), InSet(BRIDGES, R0), Masquerade],
        ],
    );
    // A container to a published port of its own network: the answer would go straight to it past
    // the host, from an address that it did not ask. Clients from outside keep their address.
    rule(
        POSTROUTING,
        "hairpin",
        &[
            &IPV4,
            &conntrack(Conntrack::Status, DESTINATION_CHANGED),
            &[
                output_name(R0),
                source_address(R4),
                InSet(SUBNETS, R0),
                Masquerade,
            ],
        ],
    );
    // Packets to our own bridges need no disguise: their answers pass through the host anyway.
    rule(
        POSTROUTING,
        "containers to elsewhere",
        &[
            &IPV4,
            &[input_name(R0), InSet(MASQUERADED, R0)],
            &[output_name(R0), NotInSet(BRIDGES, R0), Masquerade],
        ],
    );
}

fn forward_rules(rule: &mut AddRule<'_>) {
    let accept = [verdict(Verdict::Accept)];
    let drop = [verdict(Verdict::Drop)];
    let pair = [input_name(R0), output_name(R4)];
    rule(
        FORWARDING,
        "answers",
        &[
            &conntrack(Conntrack::State, ESTABLISHED_OR_RELATED),
            &accept,
        ],
    );
    rule(
        FORWARDING,
        "internal networks",
        &[
            &[input_name(R0), InSet(INTERNAL, R0)],
            &pair,
            &[NotInSet(CONNECTED, R0)],
            &drop,
        ],
    );
    rule(
        FORWARDING,
        "to our bridges",
        &[
            &[output_name(R0), InSet(BRIDGES, R0)],
            &[verdict(Verdict::Jump(TO_BRIDGE))],
        ],
    );
    // Whoever has a route to a container's address reaches no port that is not published (the
    // hardening of Docker 28); other bridges are outside too.
    rule(
        TO_BRIDGE,
        "published ports",
        &[&conntrack(Conntrack::Status, DESTINATION_CHANGED), &accept],
    );
    rule(
        TO_BRIDGE,
        "same bridge",
        &[&pair, &[InSet(CONNECTED, R0)], &accept],
    );
    rule(TO_BRIDGE, "everything else", &[&drop]);
}
