//! Users and groups: R08, R24, R25, R26, R27, R28.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::escapes::{Canary, hostile_image, import, refused, run};
use crate::support::{Installation, text, wait_until};

// R08, CVE-2016-3697; R24, CVE-2026-30892; R25, CVE-2024-40635, CVE-2026-46680: users given
// as numbers.
#[test]
fn r08_r24_r25_a_numeric_user_is_that_number_or_refused() {
    let installation = Installation::with_busybox();
    hostile_image(&installation, "passwd", &[], |root| {
        let mut entries = fs::read_to_string(root.join("etc/passwd")).unwrap();
        entries
            .push_str("wrap:x:4294967296:4294967296::/:/bin/sh\nhigh:x:4294967295:0::/:/bin/sh\n");
        entries.push_str("minus:x:-1:0::/:/bin/sh\nempty:x:::::\n4294967296:x:0:0::/:/bin/sh\n");
        fs::write(root.join("etc/passwd"), entries).unwrap();
    });
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "idle",
        "--network",
        "none",
        "passwd",
        "sleep",
        "1000",
    ]);
    let who = ["sh", "-c", "echo $(id -u):$(id -g)"];
    for (user, expected) in [
        ("1", "1:0"),
        ("1:2", "1:2"),
        ("0", "0:0"),
        ("app", "1000:1001"),
        // The image has an entry whose name is 1000, with the uid 0.
        ("1000", "1000:1001"),
        ("2147483648", "2147483648:0"),
        ("4294967294:4294967294", "4294967294:4294967294"),
    ] {
        let mut arguments = vec!["run", "--rm", "--network", "none", "-u", user, "passwd"];
        arguments.extend(who);
        assert_eq!(installation.ok(&arguments), expected, "run -u {user}");
        let mut arguments = vec!["exec", "-u", user, "idle"];
        arguments.extend(who);
        assert_eq!(installation.ok(&arguments), expected, "exec -u {user}");
    }
    for user in [
        ":5",
        "01",
        "+1",
        " 1",
        "1 ",
        "-1",
        "0x0",
        "00",
        "1:",
        "1:-1",
        "1:+0",
        "1:4294967296",
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "18446744073709551616",
        "wrap",
        "high",
        "minus",
        "empty",
        "1\n",
        "１",
    ] {
        let user = format!("--user={user}");
        refused(
            &installation,
            &["run", "--rm", "--network", "none", &user, "passwd", "id"],
        );
        refused(&installation, &["exec", &user, "idle", "id"]);
    }
    for user in ["4294967296", "wrap", "0x0", "01"] {
        let image = format!("user{user}");
        let made = import(&installation, &image, &[&format!("USER {user}")], |root| {
            fs::write(root.join("etc/passwd"), "wrap:x:4294967296:0::/:/bin/sh\n").unwrap();
        });
        if made.status.success() {
            refused(
                &installation,
                &["run", "--rm", "--network", "none", &image, "id"],
            );
        }
    }
}

// R26, CVE-2022-36109, CVE-2022-2989, CVE-2022-2990, CVE-2022-2995, CVE-2023-25173: groups
// that are not set lift the permissions that deny.
#[test]
fn r26_supplementary_groups_are_set() {
    let installation = Installation::with_busybox();
    hostile_image(&installation, "denied", &["USER app"], |root| {
        for (name, group) in [("primary", 1001), ("extra", 50)] {
            let path = root.join(name);
            fs::write(&path, "denied").unwrap();
            std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        }
    });
    let script = "id -G; sed -n 's/^Groups:\\t//p' /proc/self/status; cat /primary /extra 2>/dev/null; echo end";
    let check = |said: String| {
        let lines: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 3, "{said}");
        for (line, what) in lines.iter().zip(["id", "the kernel"]) {
            for group in ["1001", "50", "44"] {
                assert!(line.contains(&group), "{what} lacks {group}: {said}");
            }
        }
        assert_eq!(
            lines[2],
            ["end"],
            "a member read what denies its group: {said}"
        );
    };
    check(installation.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "denied",
        "sh",
        "-c",
        script,
    ]));
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "idle",
        "--network",
        "none",
        "denied",
        "sleep",
        "1000",
    ]);
    check(installation.ok(&["exec", "-u", "app", "idle", "sh", "-c", script]));
    check(installation.ok(&["exec", "-u", "1000", "idle", "sh", "-c", script]));
    let groups = "sed -n 's/^Groups:\\t//p' /proc/self/status";
    assert_eq!(installation.shell(&["-u", "7:8"], groups).trim(), "8");
}

// R27, CVE-2026-47262, GHSA-72x6-4j93-7w86, CVE-2025-4437, CVE-2024-9676: what stands where
// passwd and group should be exhausts memory or blocks for ever.
#[test]
fn r27_strange_passwd_files_are_refused_at_once() {
    let installation = Installation::with_busybox();
    let canary = Canary::new(&installation, "canary");
    let fifo = installation.root.join("fifo");
    run(Command::new("mkfifo").arg(&fifo));
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    let fill: [(&str, String); 6] = [
        ("huge", "truncate -s 2G /etc/F".into()),
        ("fifo", "mkfifo /etc/F".into()),
        ("zero", "mknod /etc/F c 1 5".into()),
        ("directory", "mkdir /etc/F".into()),
        ("secret", format!("ln -s {}/secret /etc/F", canary.text())),
        (
            "outside",
            format!("ln -s ../../../../..{} /etc/F", name(&fifo)),
        ),
    ];
    for (kind, make) in &fill {
        for file in ["passwd", "group"] {
            let script = format!(
                "rm /etc/{file}; {}; exec sleep 1000",
                make.replace('F', file)
            );
            let container = format!("{kind}-{file}");
            installation.ok(&[
                "run",
                "-d",
                "--name",
                &container,
                "--network",
                "none",
                "-m",
                "64m",
                "busybox",
                "sh",
                "-c",
                &script,
            ]);
            wait_until("the file to be exchanged", || {
                let gone = "[ ! -f /etc/F -o $(stat -c %s /etc/F) -gt 1000000 ] && [ -e /etc/F -o -L /etc/F ]".replace('F', file);
                installation
                    .gantry(&["exec", "-u", "0", &container, "true"])
                    .status
                    .success()
                    && installation
                        .gantry(&["exec", &container, "sh", "-c", &gone])
                        .status
                        .success()
                    || !installation
                        .gantry(&["exec", &container, "true"])
                        .status
                        .success()
            });
            let begin = Instant::now();
            for user in ["app:staff", "nobody"] {
                let output = installation.gantry(&["exec", "-u", user, &container, "id"]);
                assert!(
                    !output.status.success(),
                    "{container}: {}",
                    text(&output.stdout)
                );
                assert!(!text(&output.stderr).contains("host's secret"));
            }
            let took = begin.elapsed();
            assert!(
                took < Duration::from_secs(4),
                "{container}: two refusals took {took:?}"
            );
        }
    }
    canary.assert_untouched("links at /etc/passwd");
    for container in ["huge-passwd", "fifo-passwd"] {
        installation.ok(&["kill", container]);
        let begin = Instant::now();
        let output = installation.gantry(&["start", "-a", container]);
        assert!(!output.status.success());
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "start of {container}: {:?}",
            begin.elapsed()
        );
    }
}

// R28, CVE-2022-4318, CVE-2026-15809: a line end in HOME forges entries of passwd.
#[test]
fn r28_home_cannot_forge_a_user() {
    let installation = Installation::with_busybox();
    let lines = installation.shell(&[], "wc -l < /etc/passwd");
    let script = "wc -l < /etc/passwd; grep root2 /etc/passwd; echo end";
    // The first fix elsewhere looked for the two characters \\n.
    for (home, forged) in [
        ("/x\nroot2::0:0", true),
        ("/x\rroot2::0:0", true),
        ("/x\\nroot2", false),
    ] {
        let variable = format!("HOME={home}");
        let arguments = [
            "run",
            "--rm",
            "--network",
            "none",
            "-e",
            &variable,
            "busybox",
            "sh",
            "-c",
            script,
        ];
        let output = installation.gantry(&arguments);
        if forged {
            assert_eq!(
                output.status.code(),
                Some(125),
                "{home:?}: {}",
                text(&output.stderr)
            );
        } else {
            assert_eq!(text(&output.stdout), format!("{lines}\nend"), "{home:?}");
        }
    }
}
