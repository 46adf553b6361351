//! The compiler of seccomp profiles against libseccomp: random profiles are compiled by
//! both, and both programs judge the same random calls.
//!
//! The verdicts have to be equal but for the differences that [`Difference`] lists, each
//! of which is intended; a difference that is not in the list, or is found where its
//! description does not hold, is a failure. libseccomp is called by a small program that
//! the test compiles, so nothing of it gets near Gantry itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use gantry_runtime::capabilities::CapabilitySet;
use gantry_runtime::seccomp::{self, Architecture};
use gantry_runtime::spec::{Seccomp, SeccompArg, SeccompRule};
use gantry_sys::seccomp::SockFilter;
use support::filter::{self, Call};
use support::libseccomp::Oracle;
use support::random::Random;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const X32_BIT: u32 = 0x4000_0000;

/// Where this compiler means to differ from libseccomp 2.5.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Difference {
    /// A call by an architecture that the profile does not name: libseccomp kills the
    /// thread, this compiler the process, which cannot go on half-dead.
    ForeignArchitecture,
    /// A call newer than all that the profile names gives ENOSYS, where the default is to
    /// refuse. runc puts this before libseccomp's program; here it is part of the search.
    NewerCall,
    /// Several rules concern one call, some with conditions. Here one without conditions
    /// holds before all others, then the first that matches. libseccomp refuses some of
    /// them (`EEXIST`, on which runc gives up); others it merges into a tree that it sorts by argument and
    /// value, so another one that matches may hold, and 2.5 is wrong even where only one
    /// does: of `a < 0x26` and `a > 0x1_0000_0028` the second then tests whatever half of
    /// the argument was loaded last. What is compared instead is each of the rules alone,
    /// compiled by libseccomp, in the profile's order.
    SeveralRules,
    /// `socketcall` and `ipc` of x86 keep their arguments in memory. Conditions of a
    /// carried call are taken as met where that refuses more, and not met otherwise;
    /// libseccomp compares them with the carrier's own arguments, which are others.
    CarriedCondition,
    /// The upper half of the first argument of `ipc` is a version that libseccomp does not
    /// mask: there `semop` with a version set passes a rule against it.
    IpcVersion,
    /// x32 passes 64 bits in each argument, of which libseccomp looks at 32. What is
    /// compared instead is what libseccomp says of the same call of x86_64.
    WideArgumentOfX32,
}

/// Architectures by libseccomp's names; the first three run on one machine.
const ARCHITECTURES: [(&str, Architecture); 5] = [
    ("x86_64", Architecture::X86_64),
    ("x86", Architecture::X86),
    ("x32", Architecture::X32),
    ("aarch64", Architecture::Aarch64),
    ("arm", Architecture::Arm),
];

/// What profiles name as their architectures.
const FAMILIES: [&[&str]; 5] = [
    &[],
    &["SCMP_ARCH_X86"],
    &["SCMP_ARCH_X32"],
    &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
];

/// Calls of x86 that another one carries: its name, and theirs with the numbers by which
/// it knows them.
const CARRIERS: [(&str, &[(&str, u64)]); 2] = [
    (
        "socketcall",
        &[("socket", 1), ("connect", 3), ("recv", 10), ("sendmsg", 16)],
    ),
    (
        "ipc",
        &[("semop", 1), ("semctl", 3), ("msgget", 13), ("shmctl", 24)],
    ),
];

/// Few names, so that rules meet, and some that have other numbers everywhere. Of those
/// that are carried, only the ones that [`CARRIERS`] knows.
const NAMES: [&str; 20] = [
    "read",
    "write",
    "openat",
    "mkdir",
    "socket",
    "connect",
    "recv",
    "sendmsg",
    "semop",
    "semctl",
    "msgget",
    "shmctl",
    "socketcall",
    "ipc",
    "clone",
    "personality",
    "execve",
    "ioctl",
    "ptrace",
    "openat2",
];

const OPERATORS: [(&str, u32); 7] = [
    ("SCMP_CMP_NE", 1),
    ("SCMP_CMP_LT", 2),
    ("SCMP_CMP_LE", 3),
    ("SCMP_CMP_EQ", 4),
    ("SCMP_CMP_GE", 5),
    ("SCMP_CMP_GT", 6),
    ("SCMP_CMP_MASKED_EQ", 7),
];

/// Actions, and how the kernel's interface knows them.
const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_KILL", KILL_THREAD),
    ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
];

fn verdict_of(action: &str, errno: Option<u32>) -> u32 {
    let (_, verdict) = ACTIONS.iter().find(|(name, _)| *name == action).unwrap();
    match action {
        "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE" => verdict | errno.unwrap_or(1),
        _ => *verdict,
    }
}

/// Every name of the compiler's table.
fn table() -> Vec<&'static str> {
    let source = include_str!("../src/seccomp/table.rs");
    let rows = source.lines().filter_map(|line| {
        let rest = line.strip_prefix("    (\"")?;
        Some(rest.split_once('"')?.0)
    });
    let names: Vec<_> = rows.collect();
    assert!(names.len() > 480, "{} rows", names.len());
    names
}

fn is_carried(name: &str) -> bool {
    let known = |name: &str| {
        CARRIERS
            .iter()
            .any(|(_, carried)| carried.iter().any(|(carried, _)| *carried == name))
    };
    // On x86 these are all between 359 and 373, and between 393 and 402, or have no number.
    let number = seccomp::number(name, Architecture::X86);
    let carried = matches!(number, Some(359..=373 | 393..=402 | 337 | 345))
        || matches!(name, "send" | "recv" | "accept" | "semop" | "semtimedop");
    carried && !known(name)
}

/// The call that carries another, or the call itself.
fn carrier_of(name: &str) -> &str {
    let carrier = CARRIERS
        .iter()
        .find(|(_, carried)| carried.iter().any(|(carried, _)| *carried == name));
    carrier.map_or(name, |(carrier, _)| carrier)
}

fn random_value(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => *random.pick(&[0, 8, 0xffff_ffff, u64::MAX, 1 << 32, 0x7e02_0000]),
        2 => 1 << random.below(64),
        3 => (1 << 32) + random.below(64) as u64,
        _ => random.below(40) as u64,
    }
}

fn random_profile(random: &mut Random, names: &[&str]) -> Seccomp {
    let count = match random.below(10) {
        0 => 0,
        1 => 120,
        _ => random.below(14),
    };
    let mut syscalls = Vec::new();
    // A further rule beside one without conditions is an error to libseccomp, on which runc
    // gives up; here it has no effect.
    let mut settled: Vec<&str> = Vec::new();
    for _ in 0..count {
        let (action, _) = *random.pick(&ACTIONS);
        let errno_ret = match action {
            "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE" => *random.pick(&[None, Some(1), Some(95)]),
            _ => None,
        };
        let mut rule = SeccompRule {
            action: action.to_owned(),
            errno_ret,
            ..SeccompRule::default()
        };
        for _ in 0..random.below(4) + 1 {
            let name = if count > 100 || random.one_in(4) {
                *random.pick(names)
            } else {
                *random.pick(&NAMES)
            };
            if !settled.contains(&carrier_of(name)) {
                rule.names.push(name.to_owned());
            }
        }
        for _ in 0..*random.pick(&[0, 0, 1, 1, 2, 3]) {
            let value = random_value(random);
            let value_two = match random.below(3) {
                0 => random_value(random),
                _ => random_value(random) & value,
            };
            rule.args.push(SeccompArg {
                index: random.below(6) as u32,
                value,
                value_two,
                op: random.pick(&OPERATORS).0.to_owned(),
            });
        }
        if rule.names.is_empty() {
            continue;
        }
        if rule.args.is_empty() {
            for name in &rule.names {
                let known = names.iter().chain(&NAMES).find(|known| *known == name);
                settled.extend(known.map(|name| carrier_of(name)));
            }
        }
        syscalls.push(rule);
    }
    let architectures = *random.pick(&FAMILIES);
    // All but SCMP_ACT_NOTIFY, which is refused as a default.
    let (default, _) = *random.pick(&ACTIONS[..8]);
    // Where x32 is named and no rule concerns it, libseccomp 2.5 forgets to load the number
    // of the call, and compares the architecture instead.
    syscalls.push(SeccompRule {
        names: vec!["getpid".to_owned()],
        action: match default {
            "SCMP_ACT_ALLOW" => "SCMP_ACT_LOG".to_owned(),
            _ => "SCMP_ACT_ALLOW".to_owned(),
        },
        ..SeccompRule::default()
    });
    Seccomp {
        default_action: default.to_owned(),
        default_errno_ret: match default {
            "SCMP_ACT_ERRNO" => *random.pick(&[None, Some(13)]),
            _ => None,
        },
        architectures: architectures.iter().map(|&name| name.to_owned()).collect(),
        listener_path: Some("/run/agent".to_owned()),
        syscalls,
        ..Seccomp::default()
    }
}

/// The profile as runc gives it to libseccomp: rules equal to the default are left out,
/// and conditions that concern one argument twice become rules of their own.
fn commands(profile: &Seccomp) -> String {
    let mut text = String::new();
    let default = verdict_of(&profile.default_action, profile.default_errno_ret);
    writeln!(text, "filter {default}").unwrap();
    for name in &profile.architectures {
        let name = name.strip_prefix("SCMP_ARCH_").unwrap().to_lowercase();
        writeln!(text, "arch {name}").unwrap();
    }
    for rule in &profile.syscalls {
        let action = verdict_of(&rule.action, rule.errno_ret);
        if action == default {
            continue;
        }
        for name in &rule.names {
            for args in alternatives(rule) {
                write!(text, "rule {action} {name} {}", args.len()).unwrap();
                for arg in args {
                    let (_, operator) = OPERATORS.iter().find(|(op, _)| *op == arg.op).unwrap();
                    let (index, value, value_two) = (arg.index, arg.value, arg.value_two);
                    write!(text, " {index} {operator} {value} {value_two}").unwrap();
                }
                text.push('\n');
            }
        }
    }
    text.push_str("end\n");
    text
}

/// The conditions of a rule, in groups of which one has to hold as a whole.
fn alternatives(rule: &SeccompRule) -> Vec<&[SeccompArg]> {
    let mut indexes: Vec<u32> = rule.args.iter().map(|arg| arg.index).collect();
    indexes.sort_unstable();
    if indexes.windows(2).any(|pair| pair[0] == pair[1]) {
        rule.args.iter().map(std::slice::from_ref).collect()
    } else {
        vec![&rule.args]
    }
}

fn random_call(random: &mut Random, profile: &Seccomp) -> Call {
    let named = |name: &str, random: &mut Random| {
        // Seldom also by an architecture that the profile does not name.
        profile.architectures.iter().any(|known| known == name) || random.one_in(8)
    };
    let (audit, bit) = match random.below(16) {
        0 => (*random.pick(&[AUDIT_AARCH64, 0]), 0),
        1..=5 if named("SCMP_ARCH_X86", random) => (AUDIT_X86, 0),
        6..=9 if named("SCMP_ARCH_X32", random) => (AUDIT_X86_64, X32_BIT),
        _ => (AUDIT_X86_64, 0),
    };
    let mut call = Call {
        number: match random.below(20) {
            0 => random.next() as u32,
            1 => u32::MAX,
            _ => random.below(480) as u32 | bit,
        },
        audit,
        arguments: [0; 6],
    };
    let wide = audit != AUDIT_X86;
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    for argument in &mut call.arguments {
        *argument = cut(random_value(random));
    }
    // Most calls are aimed at what a rule speaks of.
    if !profile.syscalls.is_empty() && !random.one_in(5) {
        let rule = random.pick(&profile.syscalls);
        let name = random.pick(&rule.names).as_str();
        let architecture = architecture_of(&call);
        if let Some(number) = seccomp::number(name, architecture) {
            call.number = number | bit;
        }
        for arg in &rule.args {
            let near = [
                arg.value,
                arg.value_two,
                arg.value.wrapping_add(1),
                arg.value.wrapping_sub(1),
            ];
            call.arguments[arg.index as usize] = cut(*random.pick(&near));
        }
        let carrier = CARRIERS.iter().find_map(|(carrier, carried)| {
            let (_, which) = carried.iter().find(|(carried, _)| *carried == name)?;
            Some((*carrier, *which))
        });
        if let Some((carrier, which)) = carrier
            && audit == AUDIT_X86
            && random.one_in(2)
        {
            call.number = seccomp::number(carrier, Architecture::X86).unwrap();
            call.arguments[0] = which | if random.one_in(8) { 1 << 16 } else { 0 };
        }
    }
    call
}

fn architecture_of(call: &Call) -> Architecture {
    match (call.audit, call.number) {
        (AUDIT_X86, _) => Architecture::X86,
        (_, X32_BIT..) => Architecture::X32,
        _ => Architecture::X86_64,
    }
}

/// The rules that name a call.
fn about<'a>(profile: &'a Seccomp, call: &Call) -> impl Iterator<Item = &'a SeccompRule> {
    let architecture = architecture_of(call);
    let number = match architecture {
        Architecture::X32 => call.number & !X32_BIT,
        _ => call.number,
    };
    profile.syscalls.iter().filter(move |rule| {
        let mut names = rule.names.iter();
        names.any(|name| seccomp::number(name, architecture) == Some(number))
    })
}

/// What libseccomp knows of one profile.
struct Judge<'a> {
    oracle: &'a mut Oracle,
    profile: &'a Seccomp,
    default: u32,
    program: Vec<SockFilter>,
    /// Programs of single rules, by their commands.
    alone: HashMap<String, Vec<SockFilter>>,
}

impl<'a> Judge<'a> {
    fn new(oracle: &'a mut Oracle, profile: &'a Seccomp) -> Judge<'a> {
        Judge {
            program: oracle.compile(&commands(profile)),
            oracle,
            profile,
            default: verdict_of(&profile.default_action, profile.default_errno_ret),
            alone: HashMap::new(),
        }
    }

    /// Why the verdict of this compiler is another than libseccomp's, and what it has to
    /// be for that reason. None if there is no reason.
    fn difference(&mut self, call: &Call, theirs: u32) -> Option<(Difference, u32)> {
        let profile = self.profile;
        let names = |name: &str| profile.architectures.iter().any(|known| known == name);
        // By -1 a tracer skips a call.
        let is_skip = call.audit == AUDIT_X86_64 && call.number == u32::MAX;
        let is_foreign = match call.audit {
            AUDIT_X86 => !names("SCMP_ARCH_X86"),
            AUDIT_X86_64 => call.number >= X32_BIT && !names("SCMP_ARCH_X32") && !is_skip,
            _ => true,
        };
        if is_foreign {
            let reason = (Difference::ForeignArchitecture, KILL_PROCESS);
            return (theirs == KILL_THREAD).then_some(reason);
        }
        let architecture = architecture_of(call);
        let is_x32 = architecture == Architecture::X32;
        let number = if is_x32 {
            call.number & !X32_BIT
        } else {
            call.number
        };
        let newest = profile
            .syscalls
            .iter()
            .flat_map(|rule| &rule.names)
            .filter_map(|name| seccomp::number(name, architecture))
            .max()
            .unwrap_or(0);
        let permits = matches!(
            profile.default_action.as_str(),
            "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE"
        );
        if architecture == Architecture::X86
            && let Some((difference, verdict)) = self.carried(call)
        {
            let is_newer = number > newest && !permits && verdict == self.default;
            return Some((difference, if is_newer { ENOSYS } else { verdict }));
        }
        if number > newest && !permits && theirs == self.default {
            return Some((Difference::NewerCall, ENOSYS));
        }
        let conditions: Vec<&SeccompArg> =
            about(profile, call).flat_map(|rule| &rule.args).collect();
        let wide = |value: u64| value > 0xffff_ffff;
        let is_wide = is_x32
            && conditions.iter().any(|arg| {
                wide(arg.value) || wide(arg.value_two) || wide(call.arguments[arg.index as usize])
            });
        let difference = if is_wide {
            Difference::WideArgumentOfX32
        } else if conditions.len() > 1 || !conditions.is_empty() && about(profile, call).count() > 1
        {
            Difference::SeveralRules
        } else {
            return None;
        };
        Some((difference, self.rule_by_rule(call)?))
    }

    /// What the profile says of a call if libseccomp compiles each of its rules alone.
    fn rule_by_rule(&mut self, call: &Call) -> Option<u32> {
        let rules = || {
            about(self.profile, call)
                .map(|rule| (rule, verdict_of(&rule.action, rule.errno_ret)))
                .filter(|(_, action)| *action != self.default)
        };
        if let Some((_, action)) = rules().find(|(rule, _)| rule.args.is_empty()) {
            return Some(action);
        }
        let rules: Vec<_> = rules().collect();
        let architecture = architecture_of(call);
        let number = match architecture {
            Architecture::X32 => call.number & !X32_BIT,
            _ => call.number,
        };
        for (rule, action) in rules {
            let mut names = rule.names.iter();
            let name = names.find(|name| seccomp::number(name, architecture) == Some(number))?;
            let mut call = *call;
            if architecture == Architecture::X32 {
                call.number = seccomp::number(name, Architecture::X86_64)?;
            }
            for args in alternatives(rule) {
                let mut alone = self.profile.clone();
                // Nor alone with x32, which libseccomp 2.5 gets wrong: see `random_profile`.
                alone.architectures = vec!["SCMP_ARCH_X86".to_owned()];
                alone.syscalls = vec![SeccompRule {
                    names: vec![name.clone()],
                    args: args.to_vec(),
                    ..rule.clone()
                }];
                let oracle = &mut *self.oracle;
                let program = self
                    .alone
                    .entry(commands(&alone))
                    .or_insert_with_key(|commands| oracle.compile(commands));
                if filter::run(program, &call) == action {
                    return Some(action);
                }
            }
        }
        Some(self.default)
    }

    /// The reason and the verdict for a carrier of x86 that differs.
    fn carried(&mut self, call: &Call) -> Option<(Difference, u32)> {
        let (carrier, carried) = CARRIERS
            .iter()
            .find(|(name, _)| seccomp::number(name, Architecture::X86) == Some(call.number))?;
        let has_version = *carrier == "ipc" && call.arguments[0] > 0xffff;
        let which = if *carrier == "ipc" {
            call.arguments[0] & 0xffff
        } else {
            call.arguments[0]
        };
        let (name, _) = carried.iter().find(|(_, number)| *number == which)?;
        let (profile, default) = (self.profile, self.default);
        let rules = || {
            let rules = profile.syscalls.iter();
            rules
                .filter(|rule| rule.names.iter().any(|known| known == name))
                .map(|rule| (rule, verdict_of(&rule.action, rule.errno_ret)))
                .filter(|(_, action)| *action != default)
        };
        let difference = if has_version {
            Difference::IpcVersion
        } else if rules().any(|(rule, _)| !rule.args.is_empty()) {
            Difference::CarriedCondition
        } else if rules().next().is_some() && about(profile, call).next().is_some() {
            Difference::SeveralRules
        } else {
            return None;
        };
        let plain = rules().find(|(rule, _)| rule.args.is_empty());
        // Of several verdicts the kernel obeys the one that is lowest as a signed number.
        let strict = rules()
            .find(|(_, action)| ((action & 0xffff_0000) as i32) < (default & 0xffff_0000) as i32);
        let carried = plain.or(strict).map_or(default, |(_, action)| action);
        // Rules for the carrier itself come first.
        let direct = self.rule_by_rule(call)?;
        let verdict = if direct == default { carried } else { direct };
        Some((difference, verdict))
    }
}

/// Names that libseccomp gives the same numbers as this compiler; 2.5 does not know the
/// newest ones yet.
fn comparable(oracle: &mut Oracle) -> Vec<&'static str> {
    let mut names = table();
    names.retain(|name| {
        !is_carried(name)
            && ARCHITECTURES[..3].iter().all(|&(known, architecture)| {
                let ours = seccomp::number(name, architecture);
                let theirs = u32::try_from(oracle.number(known, name)).ok();
                let is_carried = architecture == Architecture::X86 && carrier_of(name) != *name;
                is_carried || ours == theirs.map(|number| number & !X32_BIT)
            })
    });
    names
}

/// Tries a profile with random calls; counts the intended differences.
fn compare(
    oracle: &mut Oracle,
    profile: &Seccomp,
    random: &mut Random,
    found: &mut BTreeMap<Difference, u64>,
) {
    let ours = seccomp::compile_for(profile, Architecture::X86_64).unwrap();
    let mut judge = Judge::new(oracle, profile);
    for _ in 0..2_000 {
        let call = random_call(random, profile);
        let verdict = filter::run(&ours.instructions, &call);
        let theirs = filter::run(&judge.program, &call);
        if verdict == theirs {
            continue;
        }
        let reason = judge.difference(&call, theirs);
        match reason {
            Some((difference, expected)) if expected == verdict => {
                *found.entry(difference).or_default() += 1;
            }
            _ => panic!(
                "{verdict:#x} by us, {theirs:#x} by libseccomp, {reason:x?} for {call:x?} in {}, \
                 of {:x?}",
                profile.default_action,
                about(profile, &call).collect::<Vec<_>>()
            ),
        }
    }
}

#[test]
fn long_random_profiles_agree_with_libseccomp() {
    let Some(mut oracle) = Oracle::start("profiles") else {
        return;
    };
    let rounds = if std::env::var_os("GANTRY_TEST_LONG").is_some() {
        4_000
    } else {
        200
    };
    let names = comparable(&mut oracle);
    let mut found = BTreeMap::new();
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let profile = random_profile(&mut random, &names);
        let _note = Note(format!("seed {seed}"));
        compare(&mut oracle, &profile, &mut random, &mut found);
    }
    eprintln!(
        "of {} verdicts differ as intended: {found:?}",
        rounds * 2_000
    );
    // A difference that is never seen is no longer one, and hides nothing.
    assert_eq!(found.len(), 6, "{found:?}");
    // Nearly all comparisons are whole programs against whole programs.
    assert!(found[&Difference::SeveralRules] < rounds * 2_000 / 50);
}

/// Says what a test was at if it fails.
struct Note(String);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at {}", self.0);
        }
    }
}

#[test]
fn the_default_profile_agrees_with_libseccomp() {
    let Some(mut oracle) = Oracle::start("default") else {
        return;
    };
    let known = comparable(&mut oracle);
    let mut random = Random::new(7);
    let mut found = BTreeMap::new();
    for capabilities in [
        CapabilitySet::EMPTY,
        CapabilitySet::DEFAULT,
        CapabilitySet::KNOWN,
    ] {
        let mut profile = seccomp::default_profile(capabilities, Architecture::X86_64);
        for rule in &mut profile.syscalls {
            rule.names.retain(|name| known.contains(&name.as_str()));
        }
        profile.syscalls.retain(|rule| !rule.names.is_empty());
        for _ in 0..20 {
            compare(&mut oracle, &profile, &mut random, &mut found);
        }
    }
    eprintln!("differ as intended: {found:?}");
}

/// The table of calls, name by name, on all architectures of both.
#[test]
fn numbers_of_calls_agree_with_libseccomp() {
    let Some(mut oracle) = Oracle::start("numbers") else {
        return;
    };
    let mut differences = Vec::new();
    let mut compared = 0;
    for name in table() {
        for (known, architecture) in ARCHITECTURES {
            let ours = seccomp::number(name, architecture);
            // Negative: unknown, or not a call of its own on this architecture.
            let theirs = u32::try_from(oracle.number(known, name)).ok();
            let theirs = theirs.map(|number| match architecture {
                Architecture::X32 => number & !X32_BIT,
                _ => number,
            });
            let is_newer = ours.is_some_and(|number| number >= 457)
                || matches!(name, "uprobe" | "uretprobe" | "map_shadow_stack");
            let is_carried = architecture == Architecture::X86
                && matches!(ours, Some(337 | 345 | 359..=373 | 393..=402));
            // An alias of arm_sync_file_range.
            let is_alias = (name, known) == ("sync_file_range2", "arm");
            if ours == theirs {
                compared += 1;
            } else if theirs.is_some() || !(is_newer || is_carried || is_alias) {
                differences.push(format!("{name} of {known}: {ours:?} and {theirs:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 2_000, "{compared}");
}
