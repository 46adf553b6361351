//! The kernel's own files, devices, groups and parameters: R06, R07, R32, R38, R42.

use std::fs;

use crate::escapes::{hostile_image, probe, refused};
use crate::support::{Installation, text};
use crate::{idle, link};

// R06, CVE-2015-3631, and R11, CVE-2019-16884: volumes on the kernel's own file systems,
// by their name or by a link of the image.
#[test]
fn r06_nothing_is_mounted_over_procfs_and_sysfs() {
    let installation = Installation::with_busybox();
    for target in [
        "/proc",
        "/proc/self",
        "/proc/sys/kernel",
        "/proc/../proc",
        "//proc/.",
        "/sys",
        "/proc/self/attr",
    ] {
        let volume = format!("stuff:{target}");
        for flags in [["-v", &volume], ["--tmpfs", target]] {
            let mut arguments = vec!["run", "--rm", "--network", "none"];
            arguments.extend(flags);
            arguments.extend(["busybox", "true"]);
            let said = refused(&installation, &arguments);
            assert!(said.contains("procfs"), "{arguments:?}: {said}");
        }
    }
    // A source that only looks like procfs by its name.
    let fake = installation.root.join("fake");
    fs::create_dir(&fake).unwrap();
    let dots = format!("/proc/..{}:/proc", fake.display());
    refused(
        &installation,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &dots,
            "busybox",
            "true",
        ],
    );
    let view = "stat -f -c %T /proc /proc/sys /proc/self /sys; cat /proc/self/comm";
    let usual = installation.shell(&[], view);
    for (image, at) in [
        ("toproc", "/proc"),
        ("toself", "/proc/self"),
        ("tosys", "/sys"),
        ("tosysctl", "/proc/sys/net"),
    ] {
        hostile_image(&installation, image, &["VOLUME /x"], |root| {
            link(root, "x", at);
        });
        for flags in [&[][..], &["-v", "stuff:/x"], &["--tmpfs", "/x"]] {
            let mut arguments = vec!["run", "--rm", "--network", "none"];
            arguments.extend(flags);
            arguments.extend([image, "sh", "-c", view]);
            let said = refused(&installation, &arguments);
            assert!(said.contains("procfs"), "{arguments:?}: {said}");
        }
    }
    // An image's own VOLUME of that name is no reason to hide the real one.
    hostile_image(
        &installation,
        "volume",
        &["VOLUME /proc /sys /proc/self /../proc"],
        |_| {},
    );
    let output = installation.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "volume",
        "sh",
        "-c",
        view,
    ]);
    if output.status.success() {
        assert_eq!(text(&output.stdout), usual);
    }
}

// R07: CVE-2015-3630, CVE-2017-16539, CVE-2018-10892, CVE-2020-8694, GHSA-7ww5-4wqc-m92c,
// GHSA-6fw5-f8r9-fgfm: information and controls of the kernel that are left open.
#[test]
fn r07_the_kernels_secrets_are_masked() {
    let installation = Installation::with_busybox();
    let hidden = "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
        /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/firmware \
        /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle";
    let script = format!(
        "for p in {hidden}; do
           [ -e $p ] || continue
           if [ -d $p ]; then [ -z \"$(ls -A $p)\" ] || echo open $p
           elif [ \"$(stat -c '%F %t:%T' $p)\" != 'character special file 1:3' ]; then echo open $p; fi
           umount $p 2>/dev/null && echo lifted $p
         done
         for p in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do
           [ -e $p ] || continue
           f=$p; [ -d $p ] && f=$(find $p -type f -perm -200 | head -n1)
           [ -z \"$f\" ] || (: >> $f) 2>/dev/null && [ -n \"$f\" ] && echo writable $f
           mount -o remount,rw,bind $p 2>/dev/null && echo remounted $p
         done; echo end"
    );
    assert_eq!(installation.shell(&[], &script), "end");
    idle(&installation, "idle", &[]);
    assert_eq!(
        installation.ok(&["exec", "idle", "sh", "-c", &script]),
        "end"
    );
    // The probe of this test itself: without the masks there is something to see.
    let open = installation.shell(
        &["--privileged"],
        "ls -d /proc/kcore /proc/keys; head -c 4 /proc/interrupts | wc -c",
    );
    assert!(open.contains("/proc/keys") && open.ends_with('4'), "{open}");
}

// R32, CVE-2022-0492: the host's release_agent from a container.
#[test]
fn r32_control_groups_cannot_be_used_to_get_out() {
    let installation = Installation::with_busybox();
    let flag = probe(&installation);
    let script = "/probe calls | grep -E 'mount_cgroup|unshare_user_cgroup'
        find /sys/fs/cgroup -name release_agent | while read f; do echo found $f; done
        for f in $(find /sys/fs/cgroup -name notify_on_release -o -name cgroup.procs -o -name cgroup.subtree_control); do
          (: >> $f) 2>/dev/null && echo writable $f; done
        mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x 2>/dev/null && echo made
        mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted; echo end";
    assert_eq!(
        installation.shell(&["-v", &flag], script),
        "unshare_user_cgroup 1\nmount_cgroup 1\nend"
    );
}

// R38, GHSA-g54h-m393-cpwq: devices that nobody has allowed.
#[test]
fn r38_devices_are_denied_unless_allowed() {
    let installation = Installation::with_busybox();
    let flag = probe(&installation);
    let script = "cd /root; mknod disk b 8 0 2>/dev/null; mknod mem c 1 1 2>/dev/null; mknod kmsg c 1 11 2>/dev/null; mknod null c 1 3
        for f in disk mem kmsg null; do [ -e $f ] || mknod $f p; echo $f $(/probe open $PWD/$f); done";
    let expected = "disk open 1\nmem open 1\nkmsg open 1\nnull open 0";
    assert_eq!(installation.shell(&["-v", &flag], script), expected);
    idle(&installation, "idle", &["-v", &flag]);
    assert_eq!(
        installation.ok(&["exec", "idle", "sh", "-c", script]),
        expected
    );
}

// R42, CVE-2022-0811, CVE-2022-0532, GHSA-w2j5-3rcx-vx7x: kernel parameters of the host.
#[test]
fn r42_only_parameters_of_own_namespaces_can_be_set() {
    let installation = Installation::with_busybox();
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    for sysctl in [
        "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x",
        "kernel.shm_rmid_forced+kernel.core_pattern=x",
        "kernel.core_pattern=|/x",
        "kernel/core_pattern=|/x",
        "net.../kernel/core_pattern=|/x",
        "net/../kernel/core_pattern=|/x",
        "net.ipv4/../../kernel/core_pattern=|/x",
        "fs.mqueue./../../kernel/core_pattern=|/x",
        "vm.overcommit_memory=1",
        "kernel.sysrq=1",
        "=1",
    ] {
        refused(
            &installation,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "--sysctl",
                sysctl,
                "busybox",
                "true",
            ],
        );
        assert_eq!(before, pattern(), "{sysctl}");
    }
    let ttl = || fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let before = ttl();
    for sysctl in ["net.ipv4.ip_default_ttl=33", "net/ipv4/ip_default_ttl=33"] {
        refused(
            &installation,
            &[
                "run",
                "--rm",
                "--network",
                "host",
                "--sysctl",
                sysctl,
                "busybox",
                "true",
            ],
        );
        assert_eq!(before, ttl(), "{sysctl}");
    }
    let read = "cat /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(
        installation.shell(&["--sysctl", "kernel.shm_rmid_forced=1"], read),
        "1"
    );
    assert_eq!(
        installation.shell(&["--sysctl", "kernel.shm_rmid_forced=0"], read),
        "0"
    );
}
