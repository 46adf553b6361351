//! `mounts`: every option, and what a mount must not do.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::{Bundle, check, push, without_namespace};

/// Options of a mount and of its superblock, as the container's table has them.
const OPTIONS: &str = "awk '$5 == \"/m\" {print $6}' /proc/self/mountinfo";

fn tmpfs(options: &[&str]) -> Value {
    json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[test]
fn options_become_attributes_of_the_mount() {
    let bundle = Bundle::new();
    for (options, seen) in [
        (&["ro"][..], "ro,relatime"),
        (&["ro", "rw"], "rw,relatime"),
        (&["nosuid"], "rw,nosuid,relatime"),
        (&["nosuid", "suid"], "rw,relatime"),
        (&["nodev"], "rw,nodev,relatime"),
        (&["nodev", "dev"], "rw,relatime"),
        (&["noexec"], "rw,noexec,relatime"),
        (&["noexec", "exec"], "rw,relatime"),
        (&["noatime"], "rw,noatime"),
        (&["noatime", "atime"], "rw,relatime"),
        (&["relatime"], "rw,relatime"),
        (&["noatime", "norelatime"], "rw,relatime"),
        (&["strictatime"], "rw"),
        (&["strictatime", "nostrictatime"], "rw,relatime"),
        (&["nodiratime"], "rw,nodiratime,relatime"),
        (&["nodiratime", "diratime"], "rw,relatime"),
        (&["nosymfollow"], "rw,relatime,nosymfollow"),
        (&["nosymfollow", "symfollow"], "rw,relatime"),
        (
            &["defaults", "async", "loud", "silent", "iversion"],
            "rw,relatime",
        ),
        (
            &[
                "nosuid",
                "nodev",
                "noexec",
                "ro",
                "nodiratime",
                "strictatime",
            ],
            "ro,nosuid,nodev,noexec,nodiratime",
        ),
        (&["rro"], "ro,relatime"),
        (
            &["rnosuid", "rnodev", "rnoexec"],
            "rw,nosuid,nodev,noexec,relatime",
        ),
    ] {
        let said = bundle.says(
            &|config| push(&mut config["mounts"], tmpfs(options)),
            OPTIONS,
        );
        assert_eq!(said, seen, "{options:?}");
    }
}

/// A directory with another mount in it, in a mount namespace of the test's own: runs the
/// container there.
fn with_submount(bundle: &Bundle, source_options: &str, edit: &dyn Fn(&mut Value)) -> String {
    let source = bundle.file("source");
    fs::create_dir_all(&source).unwrap();
    bundle.configure(
        edit,
        "awk '$5 == \"/m\" || $5 == \"/m/sub\" {print $5, $6, $7}' /proc/self/mountinfo | \
         sed 's/:[0-9]*//'",
    );
    let runtime = crate::support::bin_dir().join("gantry-runtime");
    let script = format!(
        "mount -t tmpfs outer {source} && mkdir {source}/sub && \
         mount -t tmpfs -o {source_options} inner {source}/sub && \
         mount --make-rshared {source} && {} --root {}/state run submount-{}",
        runtime.display(),
        bundle.path.display(),
        std::process::id(),
    );
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", &script])
        .current_dir(&bundle.path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn recursive_options_reach_the_mounts_below() {
    let bundle = Bundle::new();
    let source = bundle.file("source");
    for (options, outer, inner) in [
        (&["rbind", "ro"][..], "ro,relatime -", "rw,relatime -"),
        (&["rbind", "rro"], "ro,relatime -", "ro,relatime -"),
        (&["rbind", "rro", "rrw"], "rw,relatime -", "rw,relatime -"),
        (
            &["rbind", "rnosuid"],
            "rw,nosuid,relatime -",
            "rw,nosuid,relatime -",
        ),
        (
            &["rbind", "rnosuid", "rsuid"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (
            &["rbind", "rnodev"],
            "rw,nodev,relatime -",
            "rw,nodev,relatime -",
        ),
        (
            &["rbind", "rnodev", "rdev"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (
            &["rbind", "rnoexec"],
            "rw,noexec,relatime -",
            "rw,noexec,relatime -",
        ),
        (
            &["rbind", "rnoexec", "rexec"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (&["rbind", "rnoatime"], "rw,noatime -", "rw,noatime -"),
        (
            &["rbind", "rnoatime", "ratime"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (&["rbind", "rstrictatime"], "rw -", "rw -"),
        (
            &["rbind", "rstrictatime", "rnostrictatime"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (
            &["rbind", "rnoatime", "rrelatime"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (&["rbind", "rnorelatime"], "rw,relatime -", "rw,relatime -"),
        (
            &["rbind", "rnodiratime"],
            "rw,nodiratime,relatime -",
            "rw,nodiratime,relatime -",
        ),
        (
            &["rbind", "rnodiratime", "rdiratime"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (
            &["rbind", "rnosymfollow"],
            "rw,relatime,nosymfollow -",
            "rw,relatime,nosymfollow -",
        ),
        (
            &["rbind", "rnosymfollow", "rsymfollow"],
            "rw,relatime -",
            "rw,relatime -",
        ),
        (&["rbind", "rprivate"], "rw,relatime -", "rw,relatime -"),
        (
            &["rbind", "rslave"],
            "rw,relatime master",
            "rw,relatime master",
        ),
        (
            &["rbind", "rshared"],
            "rw,relatime shared",
            "rw,relatime shared",
        ),
        (
            &["rbind", "runbindable"],
            "rw,relatime unbindable",
            "rw,relatime unbindable",
        ),
        (&["rbind", "private"], "rw,relatime -", "rw,relatime shared"),
        (
            &["rbind", "slave"],
            "rw,relatime master",
            "rw,relatime shared",
        ),
        (
            &["rbind", "shared"],
            "rw,relatime shared",
            "rw,relatime shared",
        ),
        (
            &["rbind", "unbindable"],
            "rw,relatime unbindable",
            "rw,relatime shared",
        ),
    ] {
        let said = with_submount(&bundle, "rw", &|config| {
            push(
                &mut config["mounts"],
                json!({"destination": "/m", "type": "none", "source": source, "options": options}),
            );
        });
        assert_eq!(said, format!("/m {outer}\n/m/sub {inner}"), "{options:?}");
    }
    let said = with_submount(&bundle, "rw", &|config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/m", "type": "bind", "source": source, "options": ["bind"]}),
        );
    });
    assert_eq!(said, "/m rw,relatime -", "only the top without rbind");
}

#[test]
fn file_systems_get_their_own_options() {
    let bundle = Bundle::new();
    fs::create_dir(bundle.root().join("there")).unwrap();
    fs::write(bundle.root().join("there/file"), "kept").unwrap();
    fs::write(bundle.file("single"), "one file").unwrap();
    fs::create_dir(bundle.file("relative")).unwrap();
    fs::write(bundle.file("relative/inside"), "found").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1751);
    fs::set_permissions(bundle.root().join("there"), mode).unwrap();
    let at = |destination: &str, options: &[&str]| {
        json!({
            "destination": destination, "type": "tmpfs", "source": "the-source",
            "options": options
        })
    };
    check(
        &bundle,
        &[
            (
                "size, mode and owner of a tmpfs",
                &|config| {
                    push(
                        &mut config["mounts"],
                        at(
                            "/m",
                            &["size=64k", "mode=0711", "uid=5", "gid=6", "nr_inodes=50"],
                        ),
                    );
                },
                "stat -c '%a %u:%g' /m; df -k /m | tail -n 1 | awk '{print $1, $2}'",
                "711 5:6\nthe-source 64",
            ),
            // X7: the mode of what was there, and only of that.
            (
                "a tmpfs keeps the mode of what it covers",
                &|config| push(&mut config["mounts"], at("/there", &[])),
                "stat -c %a /there; ls /there | wc -l",
                "1751\n0",
            ),
            (
                "a tmpfs on what was not there",
                &|config| push(&mut config["mounts"], at("/fresh", &[])),
                "stat -c %a /fresh",
                "1777",
            ),
            (
                "copy-up",
                &|config| push(&mut config["mounts"], at("/there", &["tmpcopyup", "ro"])),
                "cat /there/file; stat -c ' %a' /there; touch /there/x 2>&1 | grep -o Read-only",
                "kept 1751\nRead-only",
            ),
            (
                "a single file, made where it is missing",
                &|config| {
                    push(
                        &mut config["mounts"],
                        json!({"destination": "/new/place", "type": "bind",
                               "source": bundle.file("single"), "options": ["bind", "ro"]}),
                    );
                },
                "cat /new/place; (echo x > /new/place) 2>&1 | grep -o Read-only",
                "one fileRead-only",
            ),
            (
                "a destination that is not absolute, and a source that is the bundle's",
                &|config| {
                    push(
                        &mut config["mounts"],
                        json!({"destination": "a/b", "type": "bind", "source": "relative",
                               "options": ["bind"]}),
                    );
                },
                "cat /a/b/inside",
                "found",
            ),
            (
                "message queues and other types",
                &|config| {
                    push(
                        &mut config["mounts"],
                        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}),
                    );
                },
                "grep ' /dev/mqueue ' /proc/self/mountinfo | sed 's/.* - //'",
                "mqueue mqueue rw",
            ),
        ],
    );
    let error = bundle.refused(&|config| push(&mut config["mounts"], at("/m", &["bogus=1"])));
    assert!(error.contains("/m") && error.contains("bogus"), "{error}");
    let error = bundle.refused(&|config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/m", "type": "nosuchfs"}),
        );
    });
    assert!(error.contains("cannot mount nosuchfs on /m"), "{error}");
    let error = bundle.refused(&|config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/m", "source": "/no/such/source", "options": ["bind"]}),
        );
    });
    assert!(
        error.contains("/no/such/source") && error.contains("/m"),
        "{error}"
    );
}

#[test]
fn control_groups_are_those_of_the_container() {
    let bundle = Bundle::new();
    let mount = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["ro", "nosuid", "noexec", "nodev"]
    });
    // The container's own process is in the group that is at the top, with and without a
    // namespace: others of the host are not to be seen on version 1.
    let script = "cd /sys/fs/cgroup; for d in memory pids cpu .; do \
                  if test -e $d/cgroup.procs; then grep -c . $d/cgroup.procs; break; fi; done; \
                  touch /sys/fs/cgroup/x 2>&1 | grep -o Read-only";
    let hybrid = fs::exists("/sys/fs/cgroup/memory").unwrap();
    for own in [true, false] {
        let said = bundle.says(
            &|config| {
                push(&mut config["mounts"], mount.clone());
                if !own {
                    without_namespace(config, "cgroup");
                }
            },
            script,
        );
        let (count, read_only) = said.split_once('\n').unwrap();
        assert_eq!(read_only, "Read-only");
        if own || hybrid {
            assert!(count.parse::<u32>().unwrap() <= 4, "{own}: {said}");
        }
    }
}

// R12, CVE-2019-19921, CVE-2023-27561; R13, CVE-2025-54867; R20, CVE-2026-41579: also in a
// user namespace and with hooks, where the host's root is still there when mounts are made.
#[test]
fn links_in_the_root_lead_nowhere() {
    for users in [false, true] {
        for hooks in [false, true] {
            let bundle = Bundle::new();
            let outside = bundle.file("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(format!("{outside}/ptmx"), "canary").unwrap();
            let before = fs::metadata(&outside).unwrap();
            let edit = |config: &mut Value| {
                if users {
                    crate::bundle::map_users(config, 200_000);
                }
                if hooks {
                    config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
                }
                push(
                    &mut config["mounts"],
                    json!({"destination": "/inner/m", "type": "tmpfs", "source": "tmpfs"}),
                );
            };
            for place in ["proc", "sys", "dev"] {
                for target in [&*outside, "../outside", "/tmp", "nowhere"] {
                    let link = bundle.root().join(place);
                    let _ = fs::remove_dir_all(&link);
                    let _ = fs::remove_file(&link);
                    symlink(target, &link).unwrap();
                    bundle.give_root_to(200_000);
                    let error = bundle.refused(&edit);
                    assert!(error.contains("must be a directory"), "{place}: {error}");
                    fs::remove_file(&link).unwrap();
                }
            }
            // A link on the way to another target stays inside.
            symlink(&outside, bundle.root().join("inner")).unwrap();
            bundle.give_root_to(200_000);
            let _ = bundle.run(&edit, "true");
            let after = fs::metadata(&outside).unwrap();
            assert_eq!(
                (
                    before.ino(),
                    before.mtime_nsec(),
                    before.mode(),
                    before.uid()
                ),
                (after.ino(), after.mtime_nsec(), after.mode(), after.uid())
            );
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            assert_eq!(
                fs::read_to_string(format!("{outside}/ptmx")).unwrap(),
                "canary"
            );
        }
    }
}

// R11, CVE-2019-16884; R06, CVE-2015-3631: nothing but procfs over /proc.
#[test]
fn nothing_covers_procfs() {
    let bundle = Bundle::new();
    for (destination, kind, source) in [
        ("/proc", "tmpfs", "tmpfs"),
        ("/proc/self", "tmpfs", "tmpfs"),
        ("/proc", "bind", "/tmp"),
        ("/proc/sys", "bind", "/tmp"),
        ("/sys", "bind", "/tmp"),
    ] {
        let error = bundle.refused(&|config| {
            push(
                &mut config["mounts"],
                json!({"destination": destination, "type": kind, "source": source}),
            );
        });
        assert!(
            error.contains("only procfs and sysfs themselves"),
            "{destination}: {error}"
        );
    }
}
