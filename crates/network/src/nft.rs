//! The nf_tables protocol: transactions, tables, chains, rules, sets and their elements
//! (`linux/netfilter/nf_tables.h`). Numbers are in network order.

mod expression;
mod set;

pub(crate) use expression::{
    Bitmask, Comparison, Conntrack, Expression, Meta, PayloadBase, Register, Verdict,
};
pub(crate) use set::{
    Element, ElementKey, Field, SetDefinition, dump_elements, find_element, key_type,
};

use crate::netlink::{Batch, NetlinkError, Purpose, Socket, flag};

/// `NFPROTO_INET`: IPv4 and IPv6 packets; offers NAT since Linux 5.2.
const FAMILY_INET: u8 = 1;
/// `NFPROTO_IPV4`.
pub(crate) const FAMILY_IPV4: u8 = 2;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

const NEWTABLE: u16 = message(0);
const DELTABLE: u16 = message(2);
const NEWCHAIN: u16 = message(3);
const NEWRULE: u16 = message(6);
const DELRULE: u16 = message(8);
const NEWSET: u16 = message(9);
const NEWSETELEM: u16 = message(12);
const GETSETELEM: u16 = message(13);
const DELSETELEM: u16 = message(14);

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const POLICY_ACCEPT: u32 = 1;
/// `NFTNL_UDATA_*_COMMENT`: the entry of user data that `nft` prints as a comment.
const COMMENT: u8 = 0;

const fn message(number: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | number
}

/// `struct nfgenmsg`.
const GENERAL_HEADER: usize = 4;
const HEADER: [u8; GENERAL_HEADER] = [FAMILY_INET, 0, 0, 0];

/// The hook of a base chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    /// Lower ones come first.
    pub(crate) priority: i32,
}

/// `NF_INET_PRE_ROUTING`.
pub(crate) const PRE_ROUTING: u32 = 0;
/// `NF_INET_FORWARD`.
pub(crate) const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT`.
pub(crate) const LOCAL_OUT: u32 = 3;
/// `NF_INET_POST_ROUTING`.
pub(crate) const POST_ROUTING: u32 = 4;

/// A set of changes to one table that the kernel applies as a whole or not at all.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    batch: Batch<'a>,
    table: &'a str,
    sets: u32,
}

impl<'a> Transaction<'a> {
    /// An empty transaction on a table of the `inet` family.
    pub(crate) fn new(table: &'a str) -> Self {
        let mut batch = Batch::new();
        limit(&mut batch, NFNL_MSG_BATCH_BEGIN, table);
        Transaction {
            batch,
            table,
            sets: 0,
        }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    /// Applies the changes.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        self.batch.acknowledge_last();
        limit(&mut self.batch, NFNL_MSG_BATCH_END, self.table);
        socket.execute(&mut self.batch)
    }

    /// Creates the table unless it exists.
    pub(crate) fn table(&mut self) {
        let purpose = Purpose::new("create nf_tables table", self.table);
        self.batch
            .request(NEWTABLE, flag::CREATE, purpose, &HEADER, |body| {
                body.string(NFTA_TABLE_NAME, self.table);
            });
    }

    /// Deletes the table and everything in it.
    pub(crate) fn delete_table(&mut self) {
        let purpose = Purpose::new("delete nf_tables table", self.table);
        self.batch.request(DELTABLE, 0, purpose, &HEADER, |body| {
            body.string(NFTA_TABLE_NAME, self.table);
        });
    }

    /// Creates a chain unless it exists; a base chain accepts by default.
    pub(crate) fn chain(&mut self, name: &'static str, hook: Option<Hook>) {
        let purpose = Purpose::new("create nf_tables chain", name);
        self.batch
            .request(NEWCHAIN, flag::CREATE, purpose, &HEADER, |body| {
                body.string(NFTA_CHAIN_TABLE, self.table);
                body.string(NFTA_CHAIN_NAME, name);
                let Some(hook) = hook else { return };
                body.nested(NFTA_CHAIN_HOOK, |nest| {
                    nest.be32(NFTA_HOOK_HOOKNUM, hook.number);
                    nest.bytes(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
                });
                body.be32(NFTA_CHAIN_POLICY, POLICY_ACCEPT);
                body.string(NFTA_CHAIN_TYPE, hook.kind);
            });
    }

    /// Deletes all rules of the table.
    pub(crate) fn delete_rules(&mut self) {
        let purpose = Purpose::new("delete nf_tables rules of", self.table);
        self.batch.request(DELRULE, 0, purpose, &HEADER, |body| {
            body.string(NFTA_RULE_TABLE, self.table);
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(
        &mut self,
        chain: &'static str,
        comment: &str,
        expressions: &[Expression<'_>],
    ) {
        let purpose = Purpose::new("add nf_tables rule to chain", chain);
        let flags = flag::CREATE | flag::APPEND;
        self.batch
            .request(NEWRULE, flags, purpose, &HEADER, |body| {
                body.string(NFTA_RULE_TABLE, self.table);
                body.string(NFTA_RULE_CHAIN, chain);
                body.nested(NFTA_RULE_EXPRESSIONS, |list| {
                    for expression in expressions {
                        list.nested(NFTA_LIST_ELEM, |entry| expression.encode(entry));
                    }
                });
                body.bytes(NFTA_RULE_USERDATA, &comment_data(comment));
            });
    }
}

fn limit<'a>(batch: &mut Batch<'a>, kind: u16, table: &'a str) {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let purpose = Purpose::new("change nf_tables table", table);
    batch.request(kind, 0, purpose, &[0, 0, high, low], |_| ());
}

/// User data that `nft` prints as a comment; cut to what fits.
fn comment_data(comment: &str) -> Vec<u8> {
    let text = &comment.as_bytes()[..comment.len().min(usize::from(u8::MAX) - 3)];
    let length = u8::try_from(text.len() + 1).expect("the text was cut to less than 255 bytes");
    let mut data = Vec::with_capacity(text.len() + 3);
    data.extend_from_slice(&[COMMENT, length]);
    data.extend_from_slice(text);
    data.push(0);
    data
}

/// Reads the comment of user data.
fn read_comment(data: &[u8]) -> Option<&str> {
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return crate::netlink::read_string(value);
        }
        rest = &tail[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_back() {
        for comment in ["", "web", "a-container-id-of-64-characters"] {
            assert_eq!(read_comment(&comment_data(comment)), Some(comment));
        }
        assert_eq!(
            read_comment(&comment_data(&"x".repeat(300))).map(str::len),
            Some(252)
        );
        for (name, data) in [
            ("empty", &[][..]),
            ("cut", &[0, 5, b'a'][..]),
            ("no length", &[0][..]),
            ("another entry only", &[7, 1, b'a'][..]),
        ] {
            assert_eq!(read_comment(data), None, "{name}");
        }
        assert_eq!(read_comment(&[7, 1, 9, 0, 2, b'a', 0]), Some("a"));
    }
}
