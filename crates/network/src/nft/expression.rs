//! The expressions that rules are made of.

use crate::netlink::Body;

/// A register of four bytes. Longer values take several in a row, which is how a concatenation is
/// put together for a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    /// The number in the protocol: `NFT_REG32_00` and up.
    fn number(self) -> u32 {
        8 + self.0
    }
}

/// `NFT_META_*`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

/// `NFT_PAYLOAD_*_HEADER`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadBase {
    Network = 1,
    Transport = 2,
}

/// `NFT_CT_*`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Conntrack {
    State = 0,
    Status = 2,
}

/// `NFT_CMP_*`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Drop,
    Accept,
    Jump(&'a str),
}

/// A mask over a register of four bytes, in memory order.
pub(crate) type Bitmask = [u8; 4];

/// One step of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expression<'a> {
    /// Loads packet metadata.
    Meta(Meta, Register),
    /// Loads `length` bytes of a header.
    Payload {
        base: PayloadBase,
        offset: u32,
        length: u32,
        into: Register,
    },
    /// Loads connection tracking metadata.
    Conntrack(Conntrack, Register),
    /// Loads the type (`RTN_*`) of the route to the packet's destination address.
    DestinationType(Register),
    /// Keeps the bits of `mask`.
    Mask(Register, Bitmask),
    /// Ends the rule unless the comparison holds.
    Compare(Register, Comparison, &'a [u8]),
    /// Ends the rule unless the key is in the set.
    InSet(&'a str, Register),
    /// Ends the rule if the key is in the set.
    NotInSet(&'a str, Register),
    /// Replaces the key by what the map has for it; ends the rule if it has nothing.
    Map {
        map: &'a str,
        key: Register,
        into: Register,
    },
    /// Rewrites the destination of an IPv4 connection.
    DestinationNat {
        address: Register,
        port: Option<Register>,
    },
    /// Rewrites the source to the address of the outgoing link.
    Masquerade,
    /// Decides.
    Verdict(Verdict<'a>),
}

const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

impl Expression<'_> {
    /// Adds the expression's name and its attributes.
    pub(super) fn encode(&self, body: &mut Body<'_>) {
        body.string(NAME, self.name());
        body.nested(DATA, |data| self.attributes(data));
    }

    fn name(&self) -> &'static str {
        match self {
            Expression::Meta(..) => "meta",
            Expression::Payload { .. } => "payload",
            Expression::Conntrack(..) => "ct",
            Expression::DestinationType(_) => "fib",
            Expression::Mask(..) => "bitwise",
            Expression::Compare(..) => "cmp",
            Expression::InSet(..) | Expression::NotInSet(..) | Expression::Map { .. } => "lookup",
            Expression::DestinationNat { .. } => "nat",
            Expression::Masquerade => "masq",
            Expression::Verdict(_) => "immediate",
        }
    }

    fn attributes(&self, data: &mut Body<'_>) {
        match *self {
            // NFTA_META_DREG, NFTA_META_KEY
            Expression::Meta(key, into) => {
                data.be32(1, into.number());
                data.be32(2, key as u32);
            }
            // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
            Expression::Payload {
                base,
                offset,
                length,
                into,
            } => {
                data.be32(1, into.number());
                data.be32(2, base as u32);
                data.be32(3, offset);
                data.be32(4, length);
            }
            // NFTA_CT_DREG, NFTA_CT_KEY
            Expression::Conntrack(key, into) => {
                data.be32(1, into.number());
                data.be32(2, key as u32);
            }
            // NFTA_FIB_DREG, NFTA_FIB_RESULT (NFT_FIB_RESULT_ADDRTYPE), NFTA_FIB_FLAGS (F_DADDR)
            Expression::DestinationType(into) => {
                data.be32(1, into.number());
                data.be32(2, 3);
                data.be32(3, 1 << 1);
            }
            // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
            Expression::Mask(register, mask) => {
                data.be32(1, register.number());
                data.be32(2, register.number());
                data.be32(3, 4);
                data.nested(4, |value| value.bytes(DATA_VALUE, &mask));
                data.nested(5, |value| value.bytes(DATA_VALUE, &[0; 4]));
            }
            // NFTA_CMP_SREG, _OP, _DATA
            Expression::Compare(register, comparison, value) => {
                data.be32(1, register.number());
                data.be32(2, comparison as u32);
                data.nested(3, |nest| nest.bytes(DATA_VALUE, value));
            }
            Expression::InSet(set, key) => lookup(data, set, key, None, 0),
            Expression::NotInSet(set, key) => lookup(data, set, key, None, 1),
            Expression::Map { map, key, into } => lookup(data, map, key, Some(into), 0),
            // NFTA_NAT_TYPE (NFT_NAT_DNAT), _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN
            Expression::DestinationNat { address, port } => {
                data.be32(1, 1);
                data.be32(2, u32::from(super::FAMILY_IPV4));
                data.be32(3, address.number());
                if let Some(port) = port {
                    data.be32(5, port.number());
                }
            }
            Expression::Masquerade => {}
            // NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA
            Expression::Verdict(verdict) => {
                data.be32(1, VERDICT_REGISTER);
                data.nested(2, |nest| {
                    nest.nested(DATA_VERDICT, |value| encode(verdict, value))
                });
            }
        }
    }
}

/// NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS (`NFT_LOOKUP_F_INV`).
fn lookup(data: &mut Body<'_>, set: &str, key: Register, into: Option<Register>, flags: u32) {
    data.string(1, set);
    data.be32(2, key.number());
    if let Some(into) = into {
        data.be32(3, into.number());
    }
    data.be32(5, flags);
}

/// NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN.
fn encode(verdict: Verdict<'_>, value: &mut Body<'_>) {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
    };
    value.bytes(1, &code.to_be_bytes());
    if let Verdict::Jump(chain) = verdict {
        value.string(2, chain);
    }
}
