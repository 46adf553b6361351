//! The program of a set of rules.
//!
//! For every architecture, neighbouring calls of equal fate are merged into ranges, and a
//! binary search over the ranges is written. A range leads to a return, or to the
//! conditions on arguments of one call. The search uses only the instructions that the
//! kernel (5.11) evaluates when a filter is installed, so calls that are always allowed
//! do not run the filter at all.

use std::collections::HashMap;

use gantry_sys::seccomp::SockFilter;

use super::Architecture;
use super::assemble::{Assembler, Label, Test};
use super::rules::{
    ACTION_MASK, ALLOW, ARM_PRIVATE, Calls, Compiler, Condition, KILL_PROCESS, LOG, Operator,
    PRIVATE_SLOT, SLOTS, TRACE, Target, errno_action,
};

const ENOSYS: u32 = 38;

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// What sets numbers of x32 apart from those of x86_64.
const X32_BIT: u32 = 0x4000_0000;

/// Writes the program of a [`Compiler`], the last instruction first.
pub(super) struct Writer<'a> {
    compiler: &'a Compiler,
    assembler: Assembler,
    returns: Vec<(u32, Label)>,
    /// Where rules are written already, for 64-bit and for 32-bit arguments.
    written: HashMap<&'a [usize], [Option<Label>; 2]>,
}

impl Writer<'_> {
    pub(super) fn new(compiler: &Compiler) -> Writer<'_> {
        Writer {
            compiler,
            assembler: Assembler::with_capacity(512),
            returns: Vec::new(),
            written: HashMap::new(),
        }
    }

    /// The instructions, in the order in which they run.
    pub(super) fn write(mut self) -> Vec<SockFilter> {
        let kill = self.return_value(KILL_PROCESS);
        let mut entry = kill;
        // Backwards, so that the native architecture is the first to be recognised.
        for calls in self.compiler.calls.iter().rev() {
            // x32 is told from x86_64 by the number.
            if calls.architecture == Architecture::X32 {
                continue;
            }
            let mut ranges = self.ranges(calls, 0);
            if calls.architecture == Architecture::X86_64 {
                let x32 = self.write_x32(kill);
                ranges.push((X32_BIT, x32));
                if x32 == kill {
                    // -1 is how a tracer skips a call; that must not kill.
                    let unknown = self.unknown();
                    ranges.push((u32::MAX, unknown));
                }
            }
            let search = self.search(&ranges);
            let search = self.assembler.load(OFFSET_NUMBER, search);
            let audit = calls.architecture.audit();
            entry = self.assembler.branch(Test::Equal, audit, search, entry);
        }
        self.assembler.load(OFFSET_ARCHITECTURE, entry);
        self.assembler.finish()
    }

    /// Writes the search among the calls of x32, if the profile names it.
    fn write_x32(&mut self, kill: Label) -> Label {
        let compiler = self.compiler;
        let x32 = compiler
            .calls
            .iter()
            .find(|calls| calls.architecture == Architecture::X32);
        match x32 {
            None => kill,
            Some(calls) => {
                let ranges = self.ranges(calls, X32_BIT);
                self.search(&ranges)
            }
        }
    }

    /// The calls of an architecture as ranges: the first number of each, and where it leads.
    fn ranges(&mut self, calls: &Calls, bit: u32) -> Vec<(u32, Label)> {
        let mut ranges: Vec<(u32, Label)> = Vec::with_capacity(160);
        let mut extend = |number: u32, label: Label| {
            if ranges.last().is_none_or(|(_, last)| *last != label) {
                ranges.push((number | bit, label));
            }
        };
        let width = calls.architecture.is_32_bit();
        let mut previous = None;
        for number in 0..=calls.newest {
            let target = calls.slots[number as usize];
            if previous == Some(target) {
                continue;
            }
            previous = Some(target);
            extend(number, self.target(target, width));
        }
        extend(calls.newest + 1, self.unknown());
        if calls.architecture == Architecture::Arm {
            for offset in 0..SLOTS as u32 - PRIVATE_SLOT {
                let target = calls.slots[(PRIVATE_SLOT + offset) as usize];
                extend(ARM_PRIVATE + offset, self.target(target, width));
            }
        }
        ranges
    }

    /// Writes the search for a number among ranges.
    fn search(&mut self, ranges: &[(u32, Label)]) -> Label {
        match ranges {
            [] => self.unknown(),
            [(_, label)] => *label,
            [(_, around), (number, inside), (next, after)]
                if around == after && *next == number.wrapping_add(1) =>
            {
                self.assembler
                    .branch(Test::Equal, *number, *inside, *around)
            }
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let from = right[0].0;
                let right = self.search(right);
                let left = self.search(left);
                self.assembler
                    .branch(Test::GreaterOrEqual, from, right, left)
            }
        }
    }

    fn return_value(&mut self, action: u32) -> Label {
        if let Some((_, label)) = self.returns.iter().find(|(known, _)| *known == action) {
            return *label;
        }
        let label = self.assembler.return_value(action);
        self.returns.push((action, label));
        label
    }

    /// What becomes of calls that are newer than the profile.
    fn unknown(&mut self) -> Label {
        let default = self.compiler.default;
        // A tracer is expected to know what to do with a new call.
        let permits = matches!(default & ACTION_MASK, ALLOW | LOG | TRACE);
        self.return_value(if permits {
            default
        } else {
            errno_action(ENOSYS)
        })
    }

    fn target(&mut self, target: u32, is_32_bit: bool) -> Label {
        let compiler = self.compiler;
        let rules = match &compiler.targets[target as usize] {
            Target::Return(action) => return self.return_value(*action),
            Target::Rules(rules) => rules,
        };
        let known = self.written.get(rules.as_slice());
        if let Some(label) = known.and_then(|known| known[usize::from(is_32_bit)]) {
            return label;
        }
        let mut entry = self.return_value(compiler.default);
        for &rule in rules.iter().rev() {
            let rule = &compiler.rules[rule];
            let otherwise = entry;
            entry = self.return_value(rule.action);
            for condition in rule.conditions.iter().rev() {
                entry = self.condition(condition, is_32_bit, entry, otherwise);
            }
        }
        self.written.entry(rules).or_default()[usize::from(is_32_bit)] = Some(entry);
        entry
    }

    /// Writes one condition. Arguments of 32-bit architectures have no upper half, so
    /// that of the value is not looked at, as in libseccomp.
    fn condition(
        &mut self,
        condition: &Condition,
        is_32_bit: bool,
        yes: Label,
        no: Label,
    ) -> Label {
        let low = Half {
            offset: OFFSET_ARGUMENTS + 8 * condition.index,
            value: condition.value as u32,
            value_two: condition.value_two as u32,
        };
        let high = Half {
            offset: low.offset + 4,
            value: (condition.value >> 32) as u32,
            value_two: (condition.value_two >> 32) as u32,
        };
        match condition.operator {
            Operator::Equal | Operator::NotEqual => {
                let (yes, no) = match condition.operator {
                    Operator::Equal => (yes, no),
                    _ => (no, yes),
                };
                let entry = self.equal(&low, u32::MAX, low.value, yes, no);
                if is_32_bit {
                    return entry;
                }
                self.equal(&high, u32::MAX, high.value, entry, no)
            }
            Operator::MaskedEqual => {
                let entry = self.equal(&low, low.value, low.value_two, yes, no);
                if is_32_bit {
                    return entry;
                }
                self.equal(&high, high.value, high.value_two, entry, no)
            }
            Operator::Greater => self.greater(Test::Greater, &low, &high, is_32_bit, yes, no),
            Operator::LessOrEqual => self.greater(Test::Greater, &low, &high, is_32_bit, no, yes),
            Operator::GreaterOrEqual => {
                self.greater(Test::GreaterOrEqual, &low, &high, is_32_bit, yes, no)
            }
            Operator::Less => self.greater(Test::GreaterOrEqual, &low, &high, is_32_bit, no, yes),
        }
    }

    /// Whether one half under a mask equals a value.
    fn equal(&mut self, half: &Half, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        let mut entry = self.assembler.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            entry = self.assembler.and(mask, entry);
        }
        self.assembler.load(half.offset, entry)
    }

    /// Whether an argument is greater than a value, or (for the lower half) equal to it.
    fn greater(
        &mut self,
        test: Test,
        low: &Half,
        high: &Half,
        is_32_bit: bool,
        yes: Label,
        no: Label,
    ) -> Label {
        let entry = self.assembler.branch(test, low.value, yes, no);
        let entry = self.assembler.load(low.offset, entry);
        if is_32_bit {
            return entry;
        }
        let entry = self.assembler.branch(Test::Equal, high.value, entry, no);
        let entry = self.assembler.branch(Test::Greater, high.value, yes, entry);
        self.assembler.load(high.offset, entry)
    }
}

/// Half of an argument, and of the values that it is compared with.
struct Half {
    offset: u32,
    value: u32,
    value_two: u32,
}
