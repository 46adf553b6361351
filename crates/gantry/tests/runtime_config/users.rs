//! User namespaces: ids, devices and file systems in them, and id-mapped mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use serde_json::{Value, json};

use crate::bundle::{Bundle, check, map_users, push, without_namespace};

#[test]
fn ids_are_mapped_and_the_file_systems_are_there() {
    let bundle = Bundle::new();
    bundle.give_root_to(200_000);
    let users = |config: &mut Value| map_users(config, 200_000);
    check(
        &bundle,
        &[
            (
                "maps",
                &users,
                "echo $(cat /proc/self/uid_map) $(cat /proc/self/gid_map) $(cat /proc/self/setgroups)",
                "0 200000 65536 0 200000 65536 allow",
            ),
            (
                "root is the namespace's",
                &users,
                "touch /made && stat -c %u:%g /made /proc/self/status && id -u",
                "0:0\n0:0\n0",
            ),
            (
                "another user with groups",
                &|config| {
                    map_users(config, 200_000);
                    config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
                },
                "echo $(id -u) $(id -g) $(grep Groups /proc/self/status | cut -f2); echo x > /dev/stdout",
                "7 8 9\nx",
            ),
            (
                "devices are bound, where they cannot be made",
                &users,
                "for d in null zero full random urandom tty; do stat -c '%F %t:%T' /dev/$d; done; \
                 echo x > /dev/null && head -c 2 /dev/zero | od -An -tx1 && stat -c %F /dev/ptmx",
                "character special file 1:3\ncharacter special file 1:5\n\
                 character special file 1:7\ncharacter special file 1:8\n\
                 character special file 1:9\ncharacter special file 5:0\n 00 00\nsymbolic link",
            ),
            (
                "a device of the configuration too",
                &|config| {
                    map_users(config, 200_000);
                    config["linux"]["devices"] = json!([
                        {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
                        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}
                    ]);
                },
                "stat -c '%F %t:%T' /dev/kmsg; stat -c %F /dev/pipe",
                "character special file 1:b\nfifo",
            ),
            (
                "a score, which the process could not set itself",
                &|config| {
                    map_users(config, 200_000);
                    config["process"]["oomScoreAdj"] = json!(500);
                },
                "cat /proc/self/oom_score_adj",
                "500",
            ),
            (
                "control groups, kernel parameters, masks",
                &|config| {
                    map_users(config, 200_000);
                    push(
                        &mut config["mounts"],
                        json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                               "source": "cgroup", "options": ["ro"]}),
                    );
                    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                    config["linux"]["maskedPaths"] = json!(["/proc/version", "/sys/firmware"]);
                    config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
                    config["root"]["readonly"] = json!(true);
                },
                "test -n \"$(ls /sys/fs/cgroup)\" && cat /proc/sys/net/ipv4/ip_forward; \
                 stat -c %t:%T /proc/version; ls /sys/firmware | wc -l; \
                 touch /x 2>&1 | grep -o 'Read-only.*'",
                "1\n1:3\n0\nRead-only file system",
            ),
        ],
    );
    assert_eq!(
        fs::metadata(bundle.root().join("made")).unwrap().uid(),
        200_000
    );
    // The host's devices are found by what they are and not by their name only.
    let error = bundle.refused(&|config| {
        map_users(config, 200_000);
        config["linux"]["devices"] =
            json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]);
    });
    assert!(error.contains("/dev/null"), "{error}");
}

// CVE-2021-43784 (R21): all of a long list, and an error for what the kernel does not take.
#[test]
fn long_lists_of_ids_are_applied_as_a_whole() {
    let bundle = Bundle::new();
    bundle.give_root_to(200_000);
    let ranges = |count: u32| -> Value {
        (0..count)
            .map(|id| json!({"containerID": id * 2, "hostID": 200_000 + id * 2, "size": 1}))
            .collect()
    };
    let said = bundle.says(
        &|config| {
            map_users(config, 0);
            config["linux"]["uidMappings"] = ranges(280);
            config["linux"]["gidMappings"] = ranges(280);
        },
        "wc -l < /proc/self/uid_map; tail -n 1 /proc/self/gid_map | awk '{print $1, $2, $3}'",
    );
    assert_eq!(said, "280\n558 200558 1");
    for count in [340, 341, 10_000] {
        let error = bundle.refused(&|config| {
            map_users(config, 0);
            config["linux"]["uidMappings"] = ranges(count);
        });
        assert!(error.contains("linux.uidMappings"), "{error}");
    }
}

// R37, CVE-2023-25809: the host's groups are not for who has no rights on the host.
#[test]
fn control_groups_of_the_host_are_read_only() {
    let bundle = Bundle::new();
    bundle.give_root_to(200_000);
    let said = bundle.says(
        &|config| {
            map_users(config, 200_000);
            without_namespace(config, "cgroup");
            push(
                &mut config["mounts"],
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                       "options": ["rw"]}),
            );
        },
        "awk '$5 ~ \"^/sys/fs/cgroup\" {print $6}' /proc/self/mountinfo | cut -d, -f1 | sort -u",
    );
    assert_eq!(said, "ro");
}

// The pipes of a container belong to its user, who opens them by name.
#[test]
fn the_streams_belong_to_the_user() {
    let bundle = Bundle::new();
    bundle.give_root_to(200_000);
    for users in [false, true] {
        let said = bundle.says(
            &|config| {
                if users {
                    map_users(config, 200_000);
                }
                config["process"]["user"] = json!({"uid": 5, "gid": 5});
            },
            "echo one > /dev/stdout; stat -L -c %u /dev/stdout",
        );
        assert_eq!(said, "one\n5");
    }
}

#[test]
fn mounts_map_ids() {
    let bundle = Bundle::new();
    let (data, deep) = (bundle.file("data"), bundle.file("data/deep"));
    fs::create_dir_all(&deep).unwrap();
    for (file, owner) in [("zero", 0), ("ten", 10), ("high", 200_010)] {
        let path = format!("{data}/{file}");
        fs::write(&path, "").unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
    }
    let mount = |options: &[&str], mappings: Value| {
        let mut mount = json!({
            "destination": "/mapped", "type": "bind", "source": data, "options": options
        });
        if !mappings.is_null() {
            mount["uidMappings"] = mappings.clone();
            mount["gidMappings"] = mappings;
        }
        mount
    };
    // In a user namespace of the id 1000 on: what a user of the disk is in the container.
    let shifted = json!([{"containerID": 0, "hostID": 1000, "size": 100}]);
    let script = "stat -c %u:%g /mapped/zero /mapped/ten";
    check(
        &bundle,
        &[
            (
                "with mappings, without an option",
                &|config| push(&mut config["mounts"], mount(&["bind"], shifted.clone())),
                script,
                "1000:1000\n1010:1010",
            ),
            (
                "with mappings and the option",
                &|config| {
                    push(
                        &mut config["mounts"],
                        mount(&["rbind", "ridmap"], shifted.clone()),
                    )
                },
                script,
                "1000:1000\n1010:1010",
            ),
            (
                "and what is written goes back to the disk",
                &|config| {
                    push(
                        &mut config["mounts"],
                        mount(&["bind", "idmap"], shifted.clone()),
                    );
                    config["process"]["user"] = json!({"uid": 1010, "gid": 1010});
                },
                "chmod 640 /mapped/ten && stat -c %a /mapped/ten",
                "640",
            ),
        ],
    );
    bundle.give_root_to(200_000);
    let said = bundle.says(
        &|config| {
            map_users(config, 200_000);
            push(
                &mut config["mounts"],
                mount(&["bind", "idmap"], Value::Null),
            );
        },
        "stat -c %u:%g /mapped/zero /mapped/ten && touch /mapped/new",
    );
    assert_eq!(said, "0:0\n10:10");
    assert_eq!(fs::metadata(format!("{data}/new")).unwrap().uid(), 0);
    let error = bundle.refused(&|config| {
        push(
            &mut config["mounts"],
            mount(&["bind", "idmap"], Value::Null),
        );
    });
    assert!(
        error.contains("/mapped: idmap needs uidMappings"),
        "{error}"
    );
    let error = bundle.refused(&|config| {
        let mut one = mount(&["bind"], shifted.clone());
        one.as_object_mut().unwrap().remove("gidMappings");
        push(&mut config["mounts"], one);
    });
    assert!(error.contains("gidMappings"), "{error}");
    let error = bundle.refused(&|config| {
        push(
            &mut config["mounts"],
            json!({"destination": "/mapped", "type": "tmpfs", "source": "tmpfs",
                   "options": ["idmap"]}),
        );
    });
    assert!(error.contains("only bind mounts"), "{error}");
}

// R36, CVE-2015-8709; R03, CVE-2016-9962; R10, CVE-2018-10856.
#[test]
fn an_exec_enters_the_users_and_clocks_of_the_container() {
    let bundle = Bundle::new();
    bundle.give_root_to(200_000);
    let container = bundle.waiting(
        &|config| {
            map_users(config, 200_000);
            push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000i64}});
            config["process"]["oomScoreAdj"] = json!(7);
        },
        "echo there",
    );
    let exec = |flags: &[&str], script: &str| {
        let mut words = vec!["exec"];
        words.extend(flags);
        words.extend([&container.id, "sh", "-c", script]);
        let output = bundle.command(&words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {error}");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    let names = "for n in user pid net ipc uts mnt cgroup time; do readlink /proc/self/ns/$n; done";
    let theirs: Vec<String> = ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup", "time"]
        .iter()
        .map(|file| {
            let link = fs::read_link(container.namespace(file)).unwrap();
            link.to_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(exec(&[], names).lines().collect::<Vec<_>>(), theirs);
    assert_eq!(
        exec(
            &[],
            "id -u; cat /proc/self/oom_score_adj; test $(cut -d. -f1 /proc/uptime) -gt 999999999 && echo late"
        ),
        "0\n7\nlate"
    );
    assert_eq!(
        exec(
            &["--user", "7:8"],
            "id -u; id -g; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | sort -u; \
             echo x > /dev/stdout"
        ),
        "7\n8\n0000000000000000\nx"
    );
    // A process that the container could trace would give its descriptors away.
    // By then it may have become the program, which has the standard streams only.
    let watch = "for i in $(seq 300); do for p in /proc/[0-9]*; do \
                 case $p in /proc/1|/proc/$$) continue;; esac; \
                 n=$(cat $p/comm 2>/dev/null); case $n in gantry*) \
                 ls $p/fd 2>/dev/null | grep -v '^[012]$';; esac; done; done; echo watched";
    let seen = std::thread::scope(|scope| {
        let watching = scope.spawn(|| exec(&[], watch));
        for _ in 0..20 {
            exec(&[], "true");
        }
        watching.join().unwrap()
    });
    assert_eq!(seen, "watched");
}

#[test]
fn processors_of_an_exec_are_as_asked() {
    let bundle = Bundle::new();
    let container = bundle.waiting(&|_| {}, "echo there");
    let affinity = |value: Value| {
        let file = bundle.file("process.json");
        let mut process = json!({
            "args": ["sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f2"],
            "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}
        });
        process["execCPUAffinity"] = value;
        fs::write(&file, process.to_string()).unwrap();
        let output = bundle
            .command(&["exec", "--process", &file, &container.id])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(affinity(json!({"initial": "0", "final": "0"})), "0\n");
    assert_eq!(affinity(json!({"final": "0"})), "0\n");
    assert_eq!(affinity(json!({"initial": "0"})), "0\n");
    assert!(affinity(json!({"final": "900"})).contains("process.execCPUAffinity.final"));
    assert!(affinity(json!({"final": "9000"})).contains("process.execCPUAffinity.final"));
}

/// The groups of a user namespace of an unprivileged user cannot be changed.
#[test]
fn an_unprivileged_user_has_containers_too() {
    let bundle = Bundle::new();
    bundle.give_root_to(65_534);
    let status = std::process::Command::new("chown")
        .arg("65534:65534")
        .arg(&bundle.path)
        .status();
    assert!(status.unwrap().success());
    fs::create_dir(bundle.file("shared")).unwrap();
    fs::write(bundle.file("shared/file"), "mine").unwrap();
    fs::create_dir(bundle.file("programs")).unwrap();
    let program = bundle.file("programs/gantry-runtime");
    // Not by this process: a child of another thread would keep it open for writing.
    let status = std::process::Command::new("cp")
        .arg(crate::support::bin_dir().join("gantry-runtime"))
        .arg(&program)
        .status();
    assert!(status.unwrap().success());
    bundle.configure(
        &|config| {
            map_users(config, 0);
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 65_534, "size": 1}]);
            }
            without_namespace(config, "cgroup");
            config["linux"].as_object_mut().unwrap().remove("resources");
            push(
                &mut config["mounts"],
                json!({"destination": "/shared", "type": "bind", "source": "shared",
                       "options": ["rbind", "ro"]}),
            );
        },
        "id -u; cat /proc/self/setgroups /shared/file; echo; stat -c %t:%T /dev/null; \
         touch /shared/x 2>&1 | grep -o Read-only",
    );
    let output = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(program)
        .arg("--root")
        .arg(bundle.path.join("state"))
        .args(["run", &format!("rootless-{}", std::process::id())])
        .current_dir(&bundle.path)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0\ndeny\nmine\n1:3\nRead-only\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
