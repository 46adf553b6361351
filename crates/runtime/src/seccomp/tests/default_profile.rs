//! The default profile: what it stops and what it lets through.

use super::*;

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
