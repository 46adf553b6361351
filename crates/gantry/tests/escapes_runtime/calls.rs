//! System calls that the default filter stops: R33, R34, R35.

use crate::escapes::probe;
use crate::support::Installation;
use crate::{ENOSYS, EPERM, attempts, idle};

// R33, CVE-2022-0185, R35, "Shocker": system calls that the default filter has to stop.
#[test]
fn r33_the_default_filter_stops_the_dangerous_calls() {
    let installation = Installation::with_busybox();
    let flag = probe(&installation);
    idle(&installation, "idle", &["-v", &flag]);
    for said in [
        installation.ok(&["exec", "idle", "/probe", "calls"]),
        installation.ok(&["exec", "-u", "1000", "idle", "/probe", "calls"]),
        installation.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &flag,
            "busybox",
            "/probe",
            "calls",
        ]),
    ] {
        let found = attempts(&said);
        assert!(found.len() > 25, "{said}");
        for (call, error) in found {
            match call.as_str() {
                // Anything else would stop a C library from falling back to clone.
                "clone3" => assert_eq!(error, ENOSYS, "clone3"),
                _ => assert!(error == EPERM || error == ENOSYS, "{call} gave {error}"),
            }
        }
    }
    assert_eq!(
        installation.shell(&[], "grep Seccomp: /proc/self/status"),
        "Seccomp:\t2"
    );
}

// R34, CVE-2026-31431 "Copy Fail": AF_ALG, natively and by the 32-bit call, while
// 32-bit programs keep their network.
#[test]
fn r34_af_alg_is_out_of_reach() {
    let installation = Installation::with_busybox();
    let flag = probe(&installation);
    for user in ["0", "1000"] {
        let said = installation.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-u",
            user,
            "-v",
            &flag,
            "busybox",
            "/probe",
            "sockets",
        ]);
        for (door, error) in attempts(&said) {
            if door == "alg_socketcall" {
                // Its arguments lie in memory, where no filter can look; to deny the call
                // as a whole takes the network from 32-bit programs. A gap, then.
                continue;
            }
            if door.starts_with("inet") {
                assert_eq!(error, 0, "{door}");
            } else {
                // Not EAFNOSUPPORT: that would be the kernel's word, and not the filter's.
                assert!(error == EPERM || error == ENOSYS, "{door} gave {error}");
            }
        }
    }
}
