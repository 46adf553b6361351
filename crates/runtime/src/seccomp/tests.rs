//! The compiler against a direct reading of the profile, on an interpreter and the kernel.

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
fn the_default_program_agrees_with_the_profile() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let sets = [
        CapabilitySet::EMPTY,
        CapabilitySet::DEFAULT,
        CapabilitySet::KNOWN,
        CapabilitySet::from_names(&["SYS_ADMIN"]).unwrap(),
        CapabilitySet::from_names(&["PERFMON", "BPF", "SYSLOG", "SYS_TIME"]).unwrap(),
    ];
    for native in [Architecture::X86_64, Architecture::Aarch64] {
        for capabilities in sets {
            let profile = default_profile(capabilities, native);
            let program = compile_for(&profile, native).unwrap();
            assert_eq!(default_program(capabilities, native).unwrap(), program);
            check_shape(&program);
            for _ in 0..1_500 {
                let call = random_call(&mut random, native);
                assert_eq!(
                    run(&program, &call).0,
                    evaluate(&profile, native, &call),
                    "{native:?} {call:x?} with {capabilities:?}"
                );
            }
        }
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

/// The verdict of the default profile on a call by name.
fn verdict(capabilities: &[&str], audit: u32, name: &str, first: u64) -> u32 {
    let capabilities = CapabilitySet::from_names(capabilities).unwrap();
    let program = default_program(capabilities, Architecture::X86_64).unwrap();
    let architecture = match audit {
        AUDIT_X86 => Architecture::X86,
        _ => Architecture::X86_64,
    };
    let call = Call {
        number: number(name, architecture).unwrap(),
        audit,
        arguments: [first, 0, 0, 0, 0, 0],
    };
    run(&program, &call).0
}

/// R33, CVE-2022-0185: the calls that exploits of the kernel begin with.
#[test]
fn dangerous_calls_are_refused_by_default() {
    let default = CapabilitySet::DEFAULT.names();
    let default: Vec<&str> = default.iter().map(String::as_str).collect();
    for name in [
        "unshare",
        "setns",
        "mount",
        "umount2",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "move_mount",
        "open_tree",
        "open_tree_attr",
        "mount_setattr",
        "pivot_root",
        "bpf",
        "perf_event_open",
        "keyctl",
        "add_key",
        "request_key",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "open_by_handle_at",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "settimeofday",
        "clock_settime",
        "quotactl",
        "nfsservctl",
        "iopl",
        "ioperm",
        "syslog",
        "fanotify_init",
        "kcmp",
        "pidfd_getfd",
        "process_madvise",
        "mbind",
        "sethostname",
        "setdomainname",
        "vhangup",
        "uselib",
        "ustat",
        "sysfs",
    ] {
        // What is newer than the profile is not there at all.
        let expected = match name {
            "open_tree_attr" => ENOSYS,
            _ => EPERM,
        };
        let native = verdict(&default, AUDIT_X86_64, name, 0);
        assert_eq!(native, expected, "{name}");
        if number(name, Architecture::X86).is_some() {
            let x86 = verdict(&default, AUDIT_X86, name, 0);
            assert_eq!(x86, expected, "{name} on x86");
        }
    }
    // Libraries fall back to clone, whose flags a filter can see.
    assert_eq!(verdict(&default, AUDIT_X86_64, "clone3", 0), ENOSYS);
    assert_eq!(verdict(&default, AUDIT_X86, "clone3", 0), ENOSYS);
    for flag in [
        0x2_0000,
        0x200_0000,
        0x400_0000,
        0x800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        for audit in [AUDIT_X86_64, AUDIT_X86] {
            assert_eq!(
                verdict(&default, audit, "clone", flag | 17),
                EPERM,
                "{flag:x}"
            );
        }
        // Bits that the kernel does not look at must not hide those that it does.
        assert_eq!(
            verdict(&default, AUDIT_X86_64, "clone", flag | 1 << 40),
            EPERM
        );
    }
    let thread = 0x3d_0f00;
    assert_eq!(verdict(&default, AUDIT_X86_64, "clone", thread), ALLOW);
    assert_eq!(verdict(&default, AUDIT_X86_64, "chroot", 0), ALLOW);
    assert_eq!(verdict(&[], AUDIT_X86_64, "chroot", 0), EPERM);
}

#[test]
fn capabilities_widen_the_default() {
    for (capability, names) in [
        (
            "SYS_ADMIN",
            &["unshare", "mount", "fsopen", "bpf", "clone3", "setns"][..],
        ),
        ("DAC_READ_SEARCH", &["open_by_handle_at"]),
        ("SYS_PTRACE", &["kcmp", "pidfd_getfd"]),
        ("SYS_MODULE", &["init_module", "finit_module"]),
        ("BPF", &["bpf"]),
        ("PERFMON", &["perf_event_open"]),
        ("SYSLOG", &["syslog"]),
        ("SYS_NICE", &["mbind"]),
        ("SYS_TIME", &["settimeofday", "clock_settime"]),
        ("SYS_BOOT", &["reboot"]),
        ("SYS_RAWIO", &["iopl"]),
        ("SYS_PACCT", &["acct"]),
        ("SYS_TTY_CONFIG", &["vhangup"]),
    ] {
        for name in names {
            assert_eq!(
                verdict(&[capability], AUDIT_X86_64, name, 0),
                ALLOW,
                "{name}"
            );
            assert_ne!(verdict(&["CHOWN"], AUDIT_X86_64, name, 0), ALLOW, "{name}");
        }
    }
    assert_eq!(
        verdict(&["SYS_ADMIN"], AUDIT_X86_64, "clone", 0x1000_0000),
        ALLOW
    );
    for name in ["io_uring_setup", "keyctl", "userfaultfd", "kexec_load"] {
        let every = CapabilitySet::KNOWN.names();
        let every: Vec<&str> = every.iter().map(String::as_str).collect();
        assert_eq!(verdict(&every, AUDIT_X86_64, name, 0), EPERM, "{name}");
    }
}

/// R34, CVE-2026-31431: AF_ALG and AF_VSOCK are refused, also with bits set that the
/// kernel drops; everything else is not, and 32-bit programs keep their sockets.
#[test]
fn families_of_sockets_are_filtered_by_what_the_kernel_reads() {
    for family in 0..64 {
        let expected = if matches!(family, 38 | 40) {
            EPERM
        } else {
            ALLOW
        };
        assert_eq!(
            verdict(&[], AUDIT_X86_64, "socket", family),
            expected,
            "{family}"
        );
        assert_eq!(
            verdict(&[], AUDIT_X86, "socket", family),
            expected,
            "{family}"
        );
        assert_eq!(
            verdict(&[], AUDIT_X86_64, "socket", family | 1 << 32),
            expected,
            "{family} with bit 32"
        );
        assert_eq!(
            verdict(&[], AUDIT_X86_64, "socket", family | 0xffff_ffff_0000_0000),
            expected,
            "{family} with all upper bits"
        );
    }
    assert_eq!(verdict(&[], AUDIT_X86, "socketcall", 1), ALLOW);
}

#[test]
fn calls_by_another_architecture_kill_and_newer_calls_are_unknown() {
    let program = default_program(CapabilitySet::DEFAULT, Architecture::X86_64).unwrap();
    let at = |audit, number| {
        let call = Call {
            number,
            audit,
            arguments: [0; 6],
        };
        run(&program, &call).0
    };
    assert_eq!(at(AUDIT_AARCH64, 63), KILL_PROCESS);
    assert_eq!(at(0, 0), KILL_PROCESS);
    for audit in [AUDIT_X86_64, AUDIT_X86] {
        // listxattrat and removexattrat are the newest that the profile names.
        assert_eq!(at(audit, 466), ALLOW);
        assert_eq!(at(audit, 467), ENOSYS);
        assert_eq!(at(audit, 5000), ENOSYS);
        assert_eq!(at(audit, u32::MAX), ENOSYS);
    }
    assert_eq!(at(AUDIT_X86_64, X32_BIT), ALLOW);
    assert_eq!(at(AUDIT_X86_64, X32_BIT + 520), ALLOW);
    // 59 is execve of x86_64, which x32 does not have.
    assert_eq!(at(AUDIT_X86_64, X32_BIT + 59), EPERM);

    let native_only = profile(
        "SCMP_ACT_ERRNO",
        &[],
        vec![rule(&["read"], "SCMP_ACT_ALLOW")],
    );
    let program = compile_for(&native_only, Architecture::X86_64).unwrap();
    let at = |audit, number| {
        let call = Call {
            number,
            audit,
            arguments: [0; 6],
        };
        run(&program, &call).0
    };
    assert_eq!(at(AUDIT_X86_64, 0), ALLOW);
    assert_eq!(at(AUDIT_X86_64, X32_BIT), KILL_PROCESS);
    assert_eq!(at(AUDIT_X86, 3), KILL_PROCESS);
    assert_eq!(at(AUDIT_X86_64, u32::MAX), ENOSYS);
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

/// The search is a tree: no call waits behind as many comparisons as there are rules.
#[test]
fn the_search_is_balanced() {
    // Every second call, so that nothing can be merged.
    let names: Vec<&str> = (0..335)
        .step_by(2)
        .filter_map(|wanted| {
            let mut rows = table::SYSTEM_CALLS.iter();
            rows.find(|(_, row)| row[0] == wanted)
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(names.len() > 150, "{}", names.len());
    let sparse = profile("SCMP_ACT_ERRNO", &[], vec![rule(&names, "SCMP_ACT_ALLOW")]);
    let program = compile_for(&sparse, Architecture::X86_64).unwrap();
    check_shape(&program);
    for number in 0..400 {
        let call = Call {
            number,
            audit: AUDIT_X86_64,
            ..Call::default()
        };
        let (_, executed) = run(&program, &call);
        // Two loads, the architecture, 335 ranges (nine steps), perhaps a jump, the return.
        assert!(executed <= 15, "{executed} instructions for call {number}");
    }
}

/// Unknown names are skipped; a profile that outgrows the kernel's limit is an error.
#[test]
fn a_program_beyond_the_kernels_limit_is_refused() {
    let mut rules = vec![rule(&["not_a_call"], "SCMP_ACT_KILL")];
    for value in 0..900 {
        let mut next = rule(&["read"], "SCMP_ACT_ERRNO");
        next.args = vec![arg(0, "SCMP_CMP_EQ", value, 0)];
        rules.push(next);
    }
    let large = profile("SCMP_ACT_ALLOW", &[], rules.clone());
    let program = compile_for(&large, Architecture::X86_64).unwrap();
    check_shape(&program);
    let call = |first| Call {
        number: 0,
        audit: AUDIT_X86_64,
        arguments: [first, 0, 0, 0, 0, 0],
    };
    assert_eq!(run(&program, &call(899)).0, EPERM);
    assert_eq!(run(&program, &call(900)).0, ALLOW);

    rules.extend(rules.clone());
    let error = compile_for(&profile("SCMP_ACT_ALLOW", &[], rules), Architecture::X86_64);
    assert!(matches!(error, Err(SeccompError::TooLarge { instructions }) if instructions > 4096));
}

#[test]
fn a_program_survives_its_cached_form() {
    let program = default_program(CapabilitySet::DEFAULT, Architecture::NATIVE).unwrap();
    let bytes = program.to_bytes();
    assert_eq!(Program::from_bytes(&bytes), Ok(program));
    assert_eq!(
        Program::from_bytes(&bytes[..bytes.len() - 1]),
        Err(ProgramError::Length {
            length: bytes.len() - 1
        })
    );
    for length in 0..16 {
        assert!(Program::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    let mut other = bytes.clone();
    other[3] += 1;
    assert_eq!(Program::from_bytes(&other), Err(ProgramError::Format));
    let mut long = bytes;
    long.resize(8 + 8 * 4097, 0);
    assert!(Program::from_bytes(&long).is_err());
}

/// Common calls stay cheap also where the kernel does not cache verdicts (before 5.11).
#[test]
fn common_calls_take_few_instructions() {
    let program = default_program(CapabilitySet::DEFAULT, Architecture::X86_64).unwrap();
    let mut total = 0;
    let names = ["read", "write", "openat", "futex"];
    for name in names {
        let call = Call {
            number: number(name, Architecture::X86_64).unwrap(),
            audit: AUDIT_X86_64,
            arguments: [0; 6],
        };
        let (verdict, executed) = run(&program, &call);
        assert_eq!(verdict, ALLOW, "{name}");
        total += executed;
    }
    eprintln!(
        "{} instructions, {} executed on average",
        program.instructions.len(),
        total as f64 / names.len() as f64
    );
    assert!(total <= 12 * names.len(), "{total}");
}

#[test]
#[ignore = "a measurement, for a release build"]
fn time_of_compiling_the_default_profile() {
    let native = Architecture::NATIVE;
    let profile = default_profile(CapabilitySet::DEFAULT, native);
    let measure = |what: &str, work: &dyn Fn()| {
        let mut best = f64::MAX;
        for _ in 0..200 {
            let start = std::time::Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
        eprintln!("{what}: {best:.1} us");
    };
    measure("default_profile", &|| {
        std::hint::black_box(default_profile(CapabilitySet::DEFAULT, native));
    });
    measure("compile", &|| {
        std::hint::black_box(compile_for(&profile, native).unwrap());
    });
    measure("default_program", &|| {
        std::hint::black_box(default_program(CapabilitySet::DEFAULT, native).unwrap());
    });
    let bytes = default_program(CapabilitySet::DEFAULT, native)
        .unwrap()
        .to_bytes();
    measure("from_bytes", &|| {
        std::hint::black_box(Program::from_bytes(&bytes).unwrap());
    });
}

/// R33, R34 on the running kernel. A filter belongs to the thread that installs it.
#[test]
fn the_kernel_takes_the_default_program_and_obeys_it() {
    use rustix::net::{AddressFamily, SocketType, socket};
    use rustix::thread::UnshareFlags;

    let program = default_program(CapabilitySet::DEFAULT, Architecture::NATIVE).unwrap();
    std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        gantry_sys::seccomp::install(&program.instructions, program.flags).unwrap();
        let family = |number| socket(AddressFamily::from_raw(number), SocketType::DGRAM, None);
        assert_eq!(family(38).unwrap_err(), Errno::PERM);
        assert_eq!(family(40).unwrap_err(), Errno::PERM);
        family(1).unwrap();
        family(2).unwrap();
        assert_eq!(
            gantry_sys::process::unshare(UnshareFlags::NEWUSER.bits() as i32)
                .map_err(|error| error.raw_os_error()),
            Err(Some(1))
        );
        assert_eq!(
            rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()).unwrap_err(),
            Errno::PERM
        );
        // The C library asks for clone3 first and must fall back.
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        std::fs::read("/proc/self/stat").unwrap();
    })
    .join()
    .unwrap();
    // Other threads are as before.
    rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()).unwrap();
}
