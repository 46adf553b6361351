//! An interpreter of filters, a direct reading of profiles, and calls to try them with.

use gantry_sys::seccomp::SockFilter;

use super::super::*;
use crate::spec::{Seccomp, SeccompArg, SeccompRule};

pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const EPERM: u32 = 0x0005_0001;
pub(super) const ENOSYS: u32 = 0x0005_0026;

pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_X86: u32 = 0x4000_0003;
pub(super) const AUDIT_AARCH64: u32 = 0xc000_00b7;
pub(super) const AUDIT_ARM: u32 = 0x4000_0028;
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) audit: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    pub(super) fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (argument >> (8 * (offset % 8))) as u32
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Runs a program as the kernel does: the action, and the number of instructions.
pub(super) fn run(program: &Program, call: &Call) -> (u32, usize) {
    let code = &program.instructions;
    let (mut pc, mut accumulator, mut executed) = (0_usize, 0_u32, 0);
    loop {
        let SockFilter { code, jt, jf, k } = code[pc];
        pc += 1;
        executed += 1;
        let mut branch = |holds: bool| pc += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x05 => pc += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return (k, executed),
            _ => panic!("instruction {code:#x}"),
        }
    }
}

pub(super) fn action(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_ALLOW" => ALLOW,
        _ => panic!("{name}"),
    }
}

pub(super) fn holds(arg: &SeccompArg, argument: u64, is_32_bit: bool) -> bool {
    let cut = |value: u64| {
        if is_32_bit {
            value & 0xffff_ffff
        } else {
            value
        }
    };
    let (argument, value, value_two) = (cut(argument), cut(arg.value), cut(arg.value_two));
    match arg.op.as_str() {
        "SCMP_CMP_NE" => argument != value,
        "SCMP_CMP_LT" => argument < value,
        "SCMP_CMP_LE" => argument <= value,
        "SCMP_CMP_EQ" => argument == value,
        "SCMP_CMP_GE" => argument >= value,
        "SCMP_CMP_GT" => argument > value,
        "SCMP_CMP_MASKED_EQ" => argument & value == value_two & value,
        _ => panic!("{}", arg.op),
    }
}

/// What a profile says of a call, rule by rule, by name.
pub(super) fn evaluate(profile: &Seccomp, native: Architecture, call: &Call) -> u32 {
    let default = action(&profile.default_action, profile.default_errno_ret);
    let names = |name: &str| profile.architectures.iter().any(|known| known == name);
    let architecture = match (native, call.audit) {
        (Architecture::X86_64, AUDIT_X86_64)
            if call.number == u32::MAX && !names("SCMP_ARCH_X32") =>
        {
            Architecture::X86_64
        }
        (Architecture::X86_64, AUDIT_X86_64) if call.number < X32_BIT => Architecture::X86_64,
        (Architecture::X86_64, AUDIT_X86_64) if names("SCMP_ARCH_X32") => Architecture::X32,
        (Architecture::X86_64, AUDIT_X86) if names("SCMP_ARCH_X86") => Architecture::X86,
        (Architecture::Aarch64, AUDIT_AARCH64) => Architecture::Aarch64,
        (Architecture::Aarch64, AUDIT_ARM) if names("SCMP_ARCH_ARM") => Architecture::Arm,
        _ => return KILL_PROCESS,
    };
    let bit = if architecture == Architecture::X32 {
        X32_BIT
    } else {
        0
    };
    let is_32_bit = matches!(architecture, Architecture::X86 | Architecture::Arm);
    let newest = profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.names)
        .filter_map(|name| number(name, architecture))
        .filter(|number| *number < 0xf_0000)
        .max()
        .unwrap_or(0);
    let carries = |name: &str, rule: &SeccompRule| {
        let table: &[(&str, &str, u64)] = &[
            ("socketcall", "socket", 1),
            ("socketcall", "recv", 10),
            ("socketcall", "sendmmsg", 20),
            ("ipc", "semop", 1),
            ("ipc", "shmctl", 24),
        ];
        let severity = |action: u32| -i64::from((action & 0xffff_0000) as i32);
        let is_stricter = severity(action(&rule.action, rule.errno_ret)) > severity(default);
        architecture == Architecture::X86
            && (rule.args.is_empty() || is_stricter)
            && table.iter().any(|(carrier, carried, which)| {
                name == *carried
                    && number(carrier, architecture) == Some(call.number)
                    && (call.arguments[0] == *which
                        || *carrier == "ipc" && call.arguments[0] & 0xffff == *which)
            })
    };
    let mut conditional = None;
    let (mut carried, mut carried_conditional) = (None, None);
    for rule in &profile.syscalls {
        let verdict = action(&rule.action, rule.errno_ret);
        if verdict == default {
            continue;
        }
        for name in &rule.names {
            if carries(name, rule) {
                let place = if rule.args.is_empty() {
                    &mut carried
                } else {
                    &mut carried_conditional
                };
                *place = place.or(Some(verdict));
            }
            if number(name, architecture).map(|number| number | bit) != Some(call.number) {
                continue;
            }
            if rule.args.is_empty() {
                return verdict;
            }
            let test = |arg: &SeccompArg| holds(arg, call.arguments[arg.index as usize], is_32_bit);
            let mut indexes: Vec<u32> = rule.args.iter().map(|arg| arg.index).collect();
            indexes.sort_unstable();
            let repeats = indexes.windows(2).any(|pair| pair[0] == pair[1]);
            let matches = if repeats {
                rule.args.iter().any(test)
            } else {
                rule.args.iter().all(test)
            };
            if matches {
                conditional = conditional.or(Some(verdict));
            }
        }
    }
    if let Some(verdict) = conditional.or(carried).or(carried_conditional) {
        return verdict;
    }
    let permits = matches!(default & 0xffff_0000, ALLOW | 0x7ffc_0000 | 0x7ff0_0000);
    let plain = call.number & !bit;
    let private = (0xf_0000..0xf_0010).contains(&plain) && architecture == Architecture::Arm;
    if plain > newest && !permits && !private {
        if architecture == Architecture::Arm && plain >= 0xf_0010 {
            return default;
        }
        return ENOSYS;
    }
    default
}

/// Xorshift: tests need spread, not secrecy, and the same numbers every time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub(super) fn rule(names: &[&str], action: &str) -> SeccompRule {
    SeccompRule {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: action.to_owned(),
        ..SeccompRule::default()
    }
}

pub(super) fn arg(index: u32, op: &str, value: u64, value_two: u64) -> SeccompArg {
    SeccompArg {
        index,
        value,
        value_two,
        op: op.to_owned(),
    }
}

pub(super) fn profile(
    default: &str,
    architectures: &[&str],
    syscalls: Vec<SeccompRule>,
) -> Seccomp {
    Seccomp {
        default_action: default.to_owned(),
        architectures: architectures
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        syscalls,
        listener_path: Some("/run/agent".into()),
        ..Seccomp::default()
    }
}

pub(super) const X86_FAMILY: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

/// Jumps stay inside, every path ends in a return, and no code is unreachable.
pub(super) fn check_shape(program: &Program) {
    let code = &program.instructions;
    let mut reached = vec![false; code.len()];
    reached[0] = true;
    for (index, instruction) in code.iter().enumerate() {
        let mut reach = |offset: usize| reached[index + 1 + offset] = true;
        match instruction.code {
            0x06 => {}
            0x05 => reach(instruction.k as usize),
            0x15 | 0x25 | 0x35 => {
                reach(instruction.jt.into());
                reach(instruction.jf.into());
            }
            _ => reach(0),
        }
    }
    let dead = reached.iter().filter(|reached| !**reached).count();
    assert!(dead <= 8, "{dead} of {} instructions are dead", code.len());
}

pub(super) fn random_call(random: &mut Random, native: Architecture) -> Call {
    let audits: &[u32] = match native {
        Architecture::X86_64 => &[AUDIT_X86_64, AUDIT_X86_64, AUDIT_X86, AUDIT_ARM, 0],
        _ => &[AUDIT_AARCH64, AUDIT_ARM, AUDIT_X86],
    };
    let number = match random.below(12) {
        0 => random.next() as u32,
        1 => u32::MAX,
        2 => 0xf_0000 + random.below(24) as u32,
        3..=5 => X32_BIT + random.below(600) as u32,
        _ => random.below(600) as u32,
    };
    let mut call = Call {
        number,
        audit: random.pick(audits),
        arguments: [0; 6],
    };
    let is_32_bit = matches!(call.audit, AUDIT_X86 | AUDIT_ARM);
    for argument in &mut call.arguments {
        *argument = random_value(random);
        // The kernel never presents more than 32 bits for these.
        if is_32_bit {
            *argument &= 0xffff_ffff;
        }
    }
    call
}

pub(super) fn random_value(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next(),
        1 => random.pick(&[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff, u64::MAX, 1 << 32]),
        2 => 1 << random.below(64),
        3 => (1 << 32) + random.below(64),
        _ => random.below(64),
    }
}
