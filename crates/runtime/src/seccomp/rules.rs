//! Rules brought together: what becomes of each call of each architecture.
//!
//! Where rules meet, libseccomp's order holds, which runc's users are used to: a rule
//! equal to the default action says nothing; of rules without conditions the first wins,
//! and wins over all rules with conditions; of those the first that matches wins.

use super::program::{MAX_INSTRUCTIONS, Program};
use super::write::Writer;
use super::{Architecture, SeccompError, table};

/// Verdicts of a filter (`SECCOMP_RET_*`); the lower half of some is data.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const KILL_THREAD: u32 = 0;
pub(super) const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
pub(super) const NOTIFY: u32 = 0x7fc0_0000;
pub(super) const TRACE: u32 = 0x7ff0_0000;
pub(super) const LOG: u32 = 0x7ffc_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const ACTION_MASK: u32 = 0xffff_0000;

pub(super) const FLAG_WAIT_KILLABLE: u32 = 1 << 5;

/// Where 32-bit ARM's own calls begin.
pub(super) const ARM_PRIVATE: u32 = 0x000f_0000;
/// Elements of the array of one architecture, and where in it [`ARM_PRIVATE`] begins.
pub(super) const SLOTS: usize = 640;
pub(super) const PRIVATE_SLOT: u32 = 624;

/// Comparison of an argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

impl Operator {
    const NAMES: [(&'static str, Operator); 7] = [
        ("SCMP_CMP_NE", Operator::NotEqual),
        ("SCMP_CMP_LT", Operator::Less),
        ("SCMP_CMP_LE", Operator::LessOrEqual),
        ("SCMP_CMP_EQ", Operator::Equal),
        ("SCMP_CMP_GE", Operator::GreaterOrEqual),
        ("SCMP_CMP_GT", Operator::Greater),
        ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
    ];

    pub(super) fn from_name(name: &str) -> Option<Operator> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, operator)| *operator)
    }

    pub(super) fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, operator)| *operator == self);
        found.map_or("", |(name, _)| name)
    }
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) operator: Operator,
    /// The mask of [`Operator::MaskedEqual`].
    pub(super) value: u64,
    pub(super) value_two: u64,
}
/// The action that makes a call fail with `errno`.
pub(super) fn errno_action(errno: u32) -> u32 {
    ERRNO | errno & 0xffff
}

/// How much an action takes away: of several filters' verdicts, the kernel obeys the one
/// with the highest (`seccomp(2)`, "SECCOMP_SET_MODE_FILTER").
fn severity(action: u32) -> i64 {
    -i64::from((action & ACTION_MASK) as i32)
}

/// What becomes of a call.
pub(super) enum Target {
    /// The same, whatever its arguments.
    Return(u32),
    /// What the first of these rules says that matches.
    Rules(Vec<usize>),
}

/// A rule with conditions.
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// The calls of one architecture.
pub(super) struct Calls {
    pub(super) architecture: Architecture,
    /// Index of the target of each call.
    pub(super) slots: Vec<u32>,
    /// Highest number that the profile names, private calls of ARM apart.
    pub(super) newest: u32,
}

impl Calls {
    /// The place of a number in `slots`.
    fn slot(number: u32) -> usize {
        let slot = if number >= ARM_PRIVATE {
            PRIVATE_SLOT + (number - ARM_PRIVATE)
        } else {
            number
        };
        slot as usize
    }
}

/// Collects rules, then writes the program.
pub(super) struct Compiler {
    pub(super) default: u32,
    pub(super) calls: Vec<Calls>,
    /// The first one is the default.
    pub(super) targets: Vec<Target>,
    pub(super) rules: Vec<Rule>,
    /// Calls allowed or denied on x86 by the call that carries them.
    carried: Vec<Carried>,
}

/// A rule for a call that another one carries.
struct Carried {
    carrier: &'static str,
    /// By which the carrier knows the call.
    number: u32,
    action: u32,
    /// Whether the rule has conditions, which the carrier's arguments do not show.
    is_conditional: bool,
}

impl Compiler {
    pub(super) fn new(architectures: &[Architecture], default: u32) -> Compiler {
        let calls = architectures.iter().map(|&architecture| Calls {
            architecture,
            slots: vec![0; SLOTS],
            newest: 0,
        });
        Compiler {
            default,
            calls: calls.collect(),
            targets: vec![Target::Return(default)],
            rules: Vec::new(),
            carried: Vec::new(),
        }
    }

    /// Adds one rule for each name; all conditions must hold.
    pub(super) fn add<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        action: u32,
        conditions: &[Condition],
    ) {
        let says_nothing = action == self.default;
        let mut target = None;
        let mut rule = None;
        let mut place = 0;
        for name in names {
            let Some(row) = table::row(name, &mut place) else {
                continue;
            };
            for calls in &mut self.calls {
                match table::decode(row[calls.architecture as usize]) {
                    Some(number) if number < ARM_PRIVATE => {
                        calls.newest = calls.newest.max(number);
                    }
                    _ => {}
                }
            }
            if says_nothing {
                continue;
            }
            if conditions.is_empty() {
                let target = *target.get_or_insert_with(|| {
                    self.targets.push(Target::Return(action));
                    self.targets.len() - 1
                });
                self.set(row, target);
            } else {
                // One for all names: calls with the same rules then share their code.
                let rule = *rule.get_or_insert_with(|| {
                    self.rules.push(Rule {
                        conditions: conditions.to_vec(),
                        action,
                    });
                    self.rules.len() - 1
                });
                self.append(row, rule);
            }
            // The arguments of a carried call lie in memory. A condition on them can only
            // count as met where that makes the filter stricter, not laxer.
            let is_conditional = !conditions.is_empty();
            if !is_conditional || severity(action) > severity(self.default) {
                self.carried
                    .extend(carrier(name).map(|(carrier, number)| Carried {
                        carrier,
                        number,
                        action,
                        is_conditional,
                    }));
            }
        }
    }

    /// Whether a target is a return that a rule asked for.
    fn is_settled(&self, target: u32) -> bool {
        target != 0 && matches!(self.targets[target as usize], Target::Return(_))
    }

    /// Gives a call a target without conditions, wherever it has none yet.
    fn set(&mut self, row: &[u16; 5], target: usize) {
        for index in 0..self.calls.len() {
            let calls = &self.calls[index];
            let Some(number) = table::decode(row[calls.architecture as usize]) else {
                continue;
            };
            let slot = Calls::slot(number);
            if !self.is_settled(calls.slots[slot]) {
                self.calls[index].slots[slot] = target as u32;
            }
        }
    }

    /// Appends a rule with conditions to those of a call.
    fn append(&mut self, row: &[u16; 5], rule: usize) {
        // A call usually has the same rules on every architecture, which then share them.
        let mut fresh = None;
        for index in 0..self.calls.len() {
            let calls = &self.calls[index];
            let Some(number) = table::decode(row[calls.architecture as usize]) else {
                continue;
            };
            let slot = Calls::slot(number);
            let current = calls.slots[slot];
            if current == 0 {
                let target = *fresh.get_or_insert_with(|| {
                    self.targets.push(Target::Rules(vec![rule]));
                    self.targets.len() as u32 - 1
                });
                self.calls[index].slots[slot] = target;
            } else if let Target::Rules(rules) = &mut self.targets[current as usize]
                && rules.last() != Some(&rule)
            {
                rules.push(rule);
            }
        }
    }

    /// Turns rules for carried calls into conditions on their carrier, on x86 alone.
    fn add_carried(&mut self) {
        let Some(x86) = self
            .calls
            .iter()
            .position(|calls| calls.architecture == Architecture::X86)
        else {
            return;
        };
        let mut all = std::mem::take(&mut self.carried);
        // As among the rules of a call: those without conditions win.
        all.sort_by_key(|carried| carried.is_conditional);
        for carried in all {
            let Some(carrier) = table::number(carried.carrier, Architecture::X86) else {
                continue;
            };
            let slot = Calls::slot(carrier);
            let calls = &mut self.calls[x86];
            calls.newest = calls.newest.max(carrier);
            let current = calls.slots[slot];
            if self.is_settled(current) {
                continue;
            }
            self.rules.push(Rule {
                conditions: vec![Condition {
                    index: 0,
                    operator: Operator::MaskedEqual,
                    // The upper half of ipc's first argument is a version.
                    value: if carried.carrier == "ipc" {
                        0xffff
                    } else {
                        0xffff_ffff
                    },
                    value_two: u64::from(carried.number),
                }],
                action: carried.action,
            });
            let rule = self.rules.len() - 1;
            match &mut self.targets[current as usize] {
                Target::Rules(rules) => rules.push(rule),
                Target::Return(_) => {
                    self.targets.push(Target::Rules(vec![rule]));
                    self.calls[x86].slots[slot] = self.targets.len() as u32 - 1;
                }
            }
        }
    }

    /// Writes the program.
    pub(super) fn finish(mut self, mut flags: u32) -> Result<Program, SeccompError> {
        self.add_carried();
        let listener = self.notifies();
        // The kernel knows the flag together with a listener only, and libseccomp is lenient.
        if !listener {
            flags &= !FLAG_WAIT_KILLABLE;
        }
        let instructions = Writer::new(&self).write();
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(SeccompError::TooLarge {
                instructions: instructions.len(),
            });
        }
        Ok(Program {
            instructions,
            flags,
            listener,
        })
    }

    fn notifies(&self) -> bool {
        let returns = self.targets.iter().filter_map(|target| match target {
            Target::Return(action) => Some(*action),
            Target::Rules(_) => None,
        });
        returns
            .chain(self.rules.iter().map(|rule| rule.action))
            .any(|action| action & ACTION_MASK == NOTIFY)
    }
}

/// The call of x86 that carries `name` as an alternative to its own number, and the
/// number by which it does. Without this a rule against `socket` could be evaded.
fn carrier(name: &str) -> Option<(&'static str, u32)> {
    /// In alphabetical order.
    const CARRIED: [(&str, &str, u32); 32] = [
        ("accept", "socketcall", 5),
        ("accept4", "socketcall", 18),
        ("bind", "socketcall", 2),
        ("connect", "socketcall", 3),
        ("getpeername", "socketcall", 7),
        ("getsockname", "socketcall", 6),
        ("getsockopt", "socketcall", 15),
        ("listen", "socketcall", 4),
        ("msgctl", "ipc", 14),
        ("msgget", "ipc", 13),
        ("msgrcv", "ipc", 12),
        ("msgsnd", "ipc", 11),
        ("recv", "socketcall", 10),
        ("recvfrom", "socketcall", 12),
        ("recvmmsg", "socketcall", 19),
        ("recvmsg", "socketcall", 17),
        ("semctl", "ipc", 3),
        ("semget", "ipc", 2),
        ("semop", "ipc", 1),
        ("semtimedop", "ipc", 4),
        ("send", "socketcall", 9),
        ("sendmmsg", "socketcall", 20),
        ("sendmsg", "socketcall", 16),
        ("sendto", "socketcall", 11),
        ("setsockopt", "socketcall", 14),
        ("shmat", "ipc", 21),
        ("shmctl", "ipc", 24),
        ("shmdt", "ipc", 22),
        ("shmget", "ipc", 23),
        ("shutdown", "socketcall", 13),
        ("socket", "socketcall", 1),
        ("socketpair", "socketcall", 8),
    ];
    let index = CARRIED.binary_search_by(|(carried, ..)| (*carried).cmp(name));
    let (_, carrier, number) = CARRIED[index.ok()?];
    Some((carrier, number))
}
