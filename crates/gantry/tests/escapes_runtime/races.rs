//! Paths that are exchanged while the runtime works: R14, R15, R16, R19.

use crate::escapes::{Canary, for_a_while, refused};
use crate::race;
use crate::support::{Installation, text};

// R16, CVE-2025-31133, CVE-2025-62161: the mask's source /dev/null is exchanged for a link,
// so that the link's target is mounted where it can be written.
#[test]
fn r16_masks_hold_against_a_racing_null_device() {
    let installation = Installation::with_busybox();
    let prepare = "mknod /v/null c 1 3; ln -s /proc/sys/kernel/core_pattern /v/link";
    race(&installation, prepare, "/v/null", "/v/link");
    let look = "for p in /proc/kcore /proc/keys /proc/interrupts /proc/timer_list; do
          [ -e $p ] && [ \"$(stat -c '%F %t:%T' $p)\" != 'character special file 1:3' ] && echo open $p; done
        (: >> /proc/sys/kernel/core_pattern) 2>/dev/null && echo writable
        grep ' /sys/kernel/core_pattern ' /proc/self/mountinfo; echo end";
    let (mut started, mut stopped) = (0, 0);
    for_a_while(|_| {
        let arguments = [
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "racy:/dev",
            "busybox",
            "sh",
            "-c",
            look,
        ];
        let output = installation.gantry(&arguments);
        if output.status.success() {
            started += 1;
            assert_eq!(text(&output.stdout), "end");
        } else {
            stopped += 1;
            assert_eq!(text(&output.stdout), "", "{}", text(&output.stderr));
        }
    });
    assert!(started + stopped > 0);
    // Without a race: always the link, and something that is not the null device.
    installation.ok(&["rm", "-f", "racer"]);
    for make in [
        "ln -s /proc/sys/kernel/core_pattern /v/null",
        "mknod /v/null c 1 5",
        "touch /v/null",
    ] {
        let script = format!("rm -f /v/*; {make}");
        installation.shell(&["-v", "racy:/v"], &script);
        let said = refused(
            &installation,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                "racy:/dev",
                "busybox",
                "true",
            ],
        );
        assert!(said.contains("mask"), "{make}: {said}");
    }
}

// R14, CVE-2021-30465; R15, CVE-2024-45310; R19, CVE-2025-52881 and its kin: a mount target
// in a shared volume is exchanged for a link, so that a mount lands on the host or on procfs
// and swallows what is written there.
#[test]
fn r14_r15_r19_mounts_and_kernel_parameters_reach_their_place() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let flags = ["--sysctl", "net.ipv4.ip_default_ttl=77"];
    let read = "cat /proc/sys/net/ipv4/ip_default_ttl";
    assert_eq!(installation.shell(&flags, read), "77");
    for (number, target) in [
        "/proc/sys/net/ipv4".to_owned(),
        format!("../../../../../../..{}/folder", canary.text()),
    ]
    .iter()
    .enumerate()
    {
        let prepare = format!("rm -rf /v/*; mkdir /v/d; ln -s {target} /v/link");
        race(&installation, &prepare, "/v/d", "/v/link");
        let look = format!(
            "{read}; awk '$5 ~ \"^/proc/sys/\"' /proc/self/mountinfo; ls /v/d; touch /v/d/deep/mark"
        );
        let mut started = 0;
        for_a_while(|round| {
            // A nested target makes directories on the way as well (CVE-2024-45310).
            let nested = ["other:/v/d", "other:/v/d/deep/er"][round as usize % 2];
            let mut arguments = vec![
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                "racy:/v",
                "-v",
                nested,
            ];
            arguments.extend(flags);
            arguments.extend(["busybox", "sh", "-c", &look]);
            let output = installation.gantry(&arguments);
            let said = text(&output.stdout);
            if said.is_empty() {
                assert!(!output.status.success());
            } else {
                started += 1;
                assert_eq!(said.lines().next(), Some("77"), "{said}");
                assert!(!said.contains(" /proc/sys/"), "{said}");
                assert!(!said.contains("file"), "{said}");
            }
        });
        assert!(
            started > 0,
            "no container started: race {number} proves nothing"
        );
        canary.assert_untouched("races on mount targets");
        installation.ok(&["rm", "-f", "racer"]);
    }
}
