//! The compiler against a direct reading of the profile, on an interpreter and the kernel.

mod default_profile;
mod form;
mod model;

use rustix::io::Errno;

use super::*;
use crate::capabilities::CapabilitySet;
use crate::spec::Seccomp;

use model::*;

#[test]
fn the_table_is_sorted_and_fits_the_compiler() {
    for pair in table::SYSTEM_CALLS.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
    }
    for (name, row) in &table::SYSTEM_CALLS {
        for number in row.iter().filter_map(|number| table::decode(*number)) {
            let fits = number < 624 || (0xf_0000..0xf_0010).contains(&number);
            assert!(fits, "{name} is {number}");
        }
    }
    for (name, architecture, expected) in [
        ("read", Architecture::X86_64, Some(0)),
        ("read", Architecture::X86, Some(3)),
        ("read", Architecture::Aarch64, Some(63)),
        ("execve", Architecture::X32, Some(520)),
        ("openat2", Architecture::Arm, Some(437)),
        ("set_tls", Architecture::Arm, Some(0xf_0005)),
        ("set_tls", Architecture::X86_64, None),
        ("socketcall", Architecture::X86, Some(102)),
        ("socketcall", Architecture::X86_64, None),
        ("file_setattr", Architecture::X86_64, Some(469)),
        ("no_such_call", Architecture::X86_64, None),
        ("", Architecture::X86_64, None),
    ] {
        assert_eq!(number(name, architecture), expected, "{name}");
    }
}

#[test]
fn random_profiles_agree_with_their_programs() {
    const OPERATORS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    const ACTIONS: [&str; 8] = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
    ];
    // Few names, so that rules meet; only those carriers that `evaluate` knows.
    const NAMES: [&str; 12] = [
        "read",
        "write",
        "openat",
        "socket",
        "recv",
        "semop",
        "shmctl",
        "socketcall",
        "ipc",
        "clone",
        "set_tls",
        "mseal",
    ];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    // Refused as a default.
    let defaults = &ACTIONS[..7];
    for round in 0..300 {
        let native = random.pick(&[Architecture::X86_64, Architecture::Aarch64]);
        let count = if round % 20 == 0 {
            150
        } else {
            random.below(12)
        };
        let mut rules = Vec::new();
        for _ in 0..count {
            // A large profile names everything, so that targets are far away.
            let name = match random.below(2) {
                0 if count == 150 => loop {
                    let (name, _) = random.pick(&table::SYSTEM_CALLS);
                    if evaluate_knows(name) {
                        break name;
                    }
                },
                _ => random.pick(&NAMES),
            };
            let mut rule = rule(&[name], random.pick(&ACTIONS));
            if matches!(rule.action.as_str(), "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") {
                rule.errno_ret = random.pick(&[None, Some(1), Some(38), Some(95)]);
            }
            for _ in 0..random.pick(&[0, 1, 1, 2, 3]) {
                let mut value = random_value(&mut random);
                let value_two = match random.below(3) {
                    0 => random_value(&mut random),
                    _ => random_value(&mut random) & value,
                };
                if random.below(10) == 0 {
                    value = 0;
                }
                rule.args.push(arg(
                    random.below(6) as u32,
                    random.pick(&OPERATORS),
                    value,
                    value_two,
                ));
            }
            rules.push(rule);
        }
        let architectures: &[&str] = random.pick(&[
            &[][..],
            &X86_FAMILY[..],
            &X86_FAMILY[..2],
            &["SCMP_ARCH_ARM", "SCMP_ARCH_S390X"][..],
        ]);
        let profile = profile(random.pick(defaults), architectures, rules);
        let program = compile_for(&profile, native).unwrap();
        check_shape(&program);
        for _ in 0..200 {
            let mut call = random_call(&mut random, native);
            // Aim at what the rules speak of.
            if let Some(rule) = profile
                .syscalls
                .get(random.below(count.max(1)) as usize)
                .filter(|_| random.below(4) != 0)
            {
                let architecture = match call.audit {
                    AUDIT_X86 => Architecture::X86,
                    AUDIT_ARM => Architecture::Arm,
                    AUDIT_AARCH64 => Architecture::Aarch64,
                    _ => Architecture::X86_64,
                };
                if let Some(number) = number(&rule.names[0], architecture) {
                    call.number = number;
                }
                for arg in &rule.args {
                    let near = [arg.value, arg.value_two, arg.value.wrapping_add(1)];
                    let mut value = random.pick(&near);
                    if matches!(call.audit, AUDIT_X86 | AUDIT_ARM) {
                        value &= 0xffff_ffff;
                    }
                    call.arguments[arg.index as usize] = value;
                }
            }
            assert_eq!(
                run(&program, &call).0,
                evaluate(&profile, native, &call),
                "{native:?} {call:x?} in {profile:#x?}"
            );
        }
    }
}

/// Whether `evaluate` needs no more carriers than it has for a rule on `name`.
fn evaluate_knows(name: &str) -> bool {
    let carried = [
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "semget",
        "semctl",
        "semtimedop",
        "msgsnd",
        "msgrcv",
        "msgget",
        "msgctl",
        "shmat",
        "shmdt",
        "shmget",
    ];
    !carried.contains(&name)
}

/// A rule against `socket` must not be evaded by the multiplexer of 32-bit x86.
#[test]
fn rules_reach_calls_that_socketcall_carries() {
    let deny = profile(
        "SCMP_ACT_ALLOW",
        &X86_FAMILY,
        vec![rule(&["socket", "semget"], "SCMP_ACT_ERRNO")],
    );
    let program = compile_for(&deny, Architecture::X86_64).unwrap();
    for (name, first, expected) in [
        ("socket", 2, EPERM),
        ("socketcall", 1, EPERM),
        ("socketcall", 2, ALLOW),
        ("ipc", 2, EPERM),
        ("ipc", 2 | 1 << 16, EPERM),
        ("ipc", 3, ALLOW),
    ] {
        let call = Call {
            number: number(name, Architecture::X86).unwrap(),
            audit: AUDIT_X86,
            arguments: [first, 0, 0, 0, 0, 0],
        };
        assert_eq!(run(&program, &call).0, expected, "{name}({first})");
    }
}

/// All calls that another one carries, by the numbers of `linux/net.h` and `linux/ipc.h`.
#[test]
fn every_carried_call_is_known() {
    let socketcall = "socket bind connect listen accept getsockname getpeername socketpair send \
                      recv sendto recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 \
                      recvmmsg sendmmsg";
    let ipc = "semop:1 semget:2 semctl:3 semtimedop:4 msgsnd:11 msgrcv:12 msgget:13 msgctl:14 \
               shmat:21 shmdt:22 shmget:23 shmctl:24";
    let socketcall = socketcall.split_whitespace().zip(1..);
    let socketcall = socketcall.map(|(name, which)| ("socketcall", name, which));
    let ipc = ipc.split_whitespace().map(|pair| {
        let (name, which) = pair.split_once(':').unwrap();
        ("ipc", name, which.parse().unwrap())
    });
    for (carrier, name, which) in socketcall.chain(ipc) {
        let deny = profile(
            "SCMP_ACT_ALLOW",
            &X86_FAMILY,
            vec![rule(&[name], "SCMP_ACT_ERRNO")],
        );
        let program = compile_for(&deny, Architecture::X86_64).unwrap();
        for first in 0..32 {
            let call = Call {
                number: number(carrier, Architecture::X86).unwrap(),
                audit: AUDIT_X86,
                arguments: [first, 0, 0, 0, 0, 0],
            };
            let expected = if first == which { EPERM } else { ALLOW };
            assert_eq!(
                run(&program, &call).0,
                expected,
                "{name} by {carrier}({first})"
            );
        }
    }
}

#[test]
fn words_that_the_specification_lacks_are_errors_with_the_word() {
    let error = |profile: &Seccomp| compile_for(profile, Architecture::X86_64).unwrap_err();
    let text = |profile: &Seccomp| error(profile).to_string();
    assert_eq!(
        text(&profile("SCMP_ACT_MAYBE", &[], vec![])),
        "unknown seccomp action \"SCMP_ACT_MAYBE\""
    );
    assert_eq!(
        text(&profile("SCMP_ACT_ALLOW", &["SCMP_ARCH_Z80"], vec![])),
        "unknown seccomp architecture \"SCMP_ARCH_Z80\""
    );
    let mut bad = profile(
        "SCMP_ACT_ALLOW",
        &[],
        vec![rule(&["read"], "SCMP_ACT_ERRNO")],
    );
    bad.flags = Some(vec!["SECCOMP_FILTER_FLAG_X".into()]);
    assert_eq!(text(&bad), "unknown seccomp flag \"SECCOMP_FILTER_FLAG_X\"");
    bad.flags = None;
    bad.syscalls[0].args = vec![arg(0, "SCMP_CMP_ISH", 0, 0)];
    assert_eq!(text(&bad), "unknown seccomp operator \"SCMP_CMP_ISH\"");
    bad.syscalls[0].args = vec![arg(6, "SCMP_CMP_EQ", 0, 0)];
    assert_eq!(
        error(&bad),
        SeccompError::ArgumentIndex {
            call: "read".into(),
            index: 6
        }
    );
    bad.syscalls[0].args.clear();
    bad.syscalls[0].action = "SCMP_ACT_LOG".into();
    bad.syscalls[0].errno_ret = Some(1);
    assert_eq!(
        error(&bad),
        SeccompError::UnexpectedErrno {
            action: "SCMP_ACT_LOG".into()
        }
    );
}

#[test]
fn flags_follow_the_profile() {
    let mut wanted = profile("SCMP_ACT_ALLOW", &[], vec![]);
    let flags = |profile: &Seccomp| compile_for(profile, Architecture::X86_64).unwrap().flags;
    assert_eq!(flags(&wanted), 4);
    let set = |wanted: &mut Seccomp, names: &[&str]| {
        wanted.flags = Some(
            names
                .iter()
                .map(|name| format!("SECCOMP_FILTER_FLAG_{name}"))
                .collect(),
        );
    };
    // An empty list is a list.
    set(&mut wanted, &[]);
    assert_eq!(flags(&wanted), 0);
    set(&mut wanted, &["TSYNC", "LOG"]);
    assert_eq!(flags(&wanted), 2);
    set(&mut wanted, &["SPEC_ALLOW", "LOG"]);
    assert_eq!(flags(&wanted), 4 | 2);
    // The kernel refuses this one without a listener.
    set(&mut wanted, &["WAIT_KILLABLE_RECV"]);
    let program = compile_for(&wanted, Architecture::X86_64).unwrap();
    assert_eq!((program.flags, program.listener), (0, false));
    wanted.syscalls = vec![rule(&["mkdir"], "SCMP_ACT_NOTIFY")];
    let program = compile_for(&wanted, Architecture::X86_64).unwrap();
    assert_eq!((program.flags, program.listener), (1 << 5, true));
    assert_eq!(Program::from_bytes(&program.to_bytes()), Ok(program));
}

#[test]
fn a_listener_is_named_where_it_is_asked_and_never_asked_by_default() {
    let compiled = |profile: &Seccomp| compile_for(profile, Architecture::X86_64);
    let mut notify = profile(
        "SCMP_ACT_ALLOW",
        &[],
        vec![rule(&["write"], "SCMP_ACT_NOTIFY")],
    );
    assert!(compiled(&notify).unwrap().listener);
    notify.listener_metadata = Some("colour=blue".into());
    assert!(compiled(&notify).unwrap().listener);
    notify.listener_path = None;
    assert_eq!(
        compiled(&notify),
        Err(SeccompError::MetadataWithoutListener)
    );
    notify.listener_metadata = None;
    assert_eq!(compiled(&notify), Err(SeccompError::NoListener));
    notify.listener_path = Some(String::new());
    assert_eq!(compiled(&notify), Err(SeccompError::NoListener));
    // A rule for a call that is not there asks nobody.
    notify.syscalls[0].names = vec!["no_such_call".into()];
    assert!(!compiled(&notify).unwrap().listener);
    notify.default_action = "SCMP_ACT_NOTIFY".into();
    assert_eq!(
        compiled(&notify).unwrap_err().to_string(),
        "SCMP_ACT_NOTIFY cannot be used as default action"
    );
}

/// 65536 would be cut to 0, by which the call seems to succeed.
#[test]
fn error_numbers_beyond_the_kernels_are_refused() {
    for (action, highest) in [("SCMP_ACT_ERRNO", 4095), ("SCMP_ACT_TRACE", 65535)] {
        let verdict = |number| {
            let mut profile = profile("SCMP_ACT_ALLOW", &[], vec![rule(&["read"], action)]);
            profile.syscalls[0].errno_ret = Some(number);
            compile_for(&profile, Architecture::X86_64).map(|program| {
                let call = Call {
                    audit: AUDIT_X86_64,
                    ..Call::default()
                };
                run(&program, &call).0 & 0xffff
            })
        };
        assert_eq!(verdict(0), Ok(0));
        assert_eq!(verdict(highest), Ok(highest));
        for number in [highest + 1, 0x1_0000, u32::MAX] {
            assert_eq!(
                verdict(number),
                Err(SeccompError::ErrnoRange {
                    action: action.into(),
                    number,
                    highest
                })
            );
        }
    }
}

/// What a filter cannot see may only make it stricter: `socketcall` keeps the arguments
/// of `socket` in memory.
#[test]
fn conditions_on_carried_calls_fall_on_the_safe_side() {
    let verdict = |default: &str, action: &str| {
        let mut conditional = rule(&["socket"], action);
        conditional.args = vec![arg(0, "SCMP_CMP_EQ", 38, 0)];
        let profile = profile(default, &X86_FAMILY, vec![conditional]);
        let program = compile_for(&profile, Architecture::X86_64).unwrap();
        let by = |name, first| {
            let call = Call {
                number: number(name, Architecture::X86).unwrap(),
                audit: AUDIT_X86,
                arguments: [first, 0, 0, 0, 0, 0],
            };
            run(&program, &call).0
        };
        (by("socket", 38), by("socket", 2), by("socketcall", 1))
    };
    assert_eq!(
        verdict("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"),
        (EPERM, ALLOW, EPERM)
    );
    assert_eq!(
        verdict("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"),
        (ALLOW, EPERM, EPERM)
    );
}
