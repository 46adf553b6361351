//! `linux.namespaces`: made, joined and refused; clocks and network interfaces in them.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, config, join, map_users, mounts_of, push, without_namespace};

const KINDS: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn own(file: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{file}"))
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn namespaces_are_made_or_left_as_they_are() {
    let bundle = Bundle::new();
    let all = bundle.says(
        &|config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
            map_users(config, 0);
        },
        "for n in pid net ipc uts mnt cgroup time user; do readlink /proc/self/ns/$n; done",
    );
    for (line, file) in all
        .lines()
        .zip(["pid", "net", "ipc", "uts", "mnt", "cgroup", "time", "user"])
    {
        assert!(line.starts_with(&format!("{file}:[")), "{line}");
        assert_ne!(line, own(file));
    }
    assert_eq!(all.lines().count(), 8);
    for (kind, file) in KINDS {
        // There always is a mount namespace of the container's own.
        if kind == "mount" {
            continue;
        }
        let script = format!("readlink /proc/self/ns/{file}");
        let said = bundle.says(&|config| without_namespace(config, kind), &script);
        assert_eq!(said, own(file), "{kind}");
    }
}

#[test]
fn namespaces_are_joined_by_path() {
    let bundle = Bundle::new();
    let other = Bundle::new();
    let first = other.waiting(
        &|config| push(&mut config["linux"]["namespaces"], json!({"type": "time"})),
        "echo there",
    );
    for (kind, file) in KINDS {
        let path = first.namespace(file);
        let theirs = fs::read_link(&path).unwrap();
        let said = bundle.says(
            &|config| {
                join(config, kind, &path);
                if kind == "mount" {
                    // The root that is entered would be the other container's too.
                    config["root"]["path"] = json!(other.root());
                }
            },
            &format!("readlink /proc/self/ns/{file}"),
        );
        assert_eq!(said, theirs.to_str().unwrap(), "{kind}");
        if kind == "mount" {
            return;
        }
    }
}

#[test]
fn all_namespaces_of_another_container_are_joined_its_users_too() {
    let bundle = Bundle::new();
    let other = Bundle::new();
    other.give_root_to(300_000);
    bundle.give_root_to(300_000);
    let first = other.waiting(&|config| map_users(config, 300_000), "echo there");
    let files = ["user", "pid", "net", "ipc", "uts", "cgroup"];
    let said = bundle.says(
        &|config| {
            for (kind, file) in [
                ("user", "user"),
                ("pid", "pid"),
                ("network", "net"),
                ("ipc", "ipc"),
                ("uts", "uts"),
                ("cgroup", "cgroup"),
            ] {
                join(config, kind, &first.namespace(file));
            }
            config["hostname"] = json!("renamed");
            config["process"]["oomScoreAdj"] = json!(5);
        },
        "for n in user pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; \
         cat /proc/self/oom_score_adj; hostname; id -u",
    );
    let mut expected: Vec<String> = files
        .iter()
        .map(|file| {
            fs::read_link(first.namespace(file))
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    expected.extend(["5", "renamed", "0"].map(ToOwned::to_owned));
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

// A user namespace is made while others, of the host's, are joined.
#[test]
fn namespaces_of_other_owners_are_joined_before_the_users_change() {
    let bundle = Bundle::new();
    bundle.give_root_to(300_000);
    let said = bundle.says(
        &|config| {
            map_users(config, 300_000);
            join(config, "uts", "/proc/self/ns/uts");
            join(config, "pid", "/proc/self/ns/pid");
            // Of a pid namespace that belongs to others no procfs can be mounted.
            config["mounts"][0] = json!({
                "destination": "/proc", "type": "bind", "source": "/proc",
                "options": ["rbind", "ro"]
            });
        },
        "readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; id -u",
    );
    assert_eq!(said, format!("{}\n{}\n0", own("uts"), own("pid")));
}

#[test]
fn wrong_namespaces_are_refused_by_name() {
    let bundle = Bundle::new();
    for (kind, file) in KINDS {
        let wrong = if file == "uts" { "ipc" } else { "uts" };
        let path = format!("/proc/self/ns/{wrong}");
        let error = bundle.refused(&|config| join(config, kind, &path));
        assert!(
            error.contains(&format!(
                "linux.namespaces: {path} is not a {kind} namespace"
            )),
            "{error}"
        );
    }
    let file = bundle.file("config.json");
    let error = bundle.refused(&|config| join(config, "network", &file));
    assert!(
        error.contains(&file) && error.contains("is no namespace"),
        "{error}"
    );
    let error = bundle.refused(&|config| join(config, "network", "/nowhere/ns"));
    assert!(
        error.contains("cannot open the network namespace /nowhere/ns"),
        "{error}"
    );
    // A FIFO in the place of a namespace does not hold the start up.
    let fifo = bundle.file("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    bundle.refused(&|config| join(config, "network", &fifo));
}

#[test]
fn clocks_are_set_off() {
    let bundle = Bundle::new();
    for users in [false, true] {
        if users {
            bundle.give_root_to(300_000);
        }
        let said = bundle.says(
            &|config| {
                push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
                config["linux"]["timeOffsets"] = json!({
                    "boottime": {"secs": 1_000_000_000i64, "nanosecs": 5},
                    "monotonic": {"secs": 3600}
                });
                if users {
                    map_users(config, 300_000);
                }
            },
            "cut -d. -f1 /proc/uptime; echo $(cat /proc/self/timens_offsets)",
        );
        let (uptime, offsets) = said.split_once('\n').unwrap();
        assert!(uptime.parse::<u64>().unwrap() >= 1_000_000_000, "{said}");
        assert_eq!(offsets, "monotonic 3600 0 boottime 1000000000 5");
    }
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn network_interfaces_move_in_with_their_addresses() {
    let bundle = Bundle::new();
    let number = std::process::id() % 1_000_000;
    let (name, second) = (format!("gcd{number}"), format!("gce{number}"));
    ip(&format!("link add {name} type veth peer name {second}"));
    struct Link(String);
    impl Drop for Link {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["link", "del", &self.0]).output();
        }
    }
    let _link = Link(second.clone());
    ip(&format!("addr add 192.0.2.7/28 dev {name}"));
    ip(&format!("addr add 2001:db8::7/64 dev {name} nodad"));
    ip(&format!("link set {name} mtu 1400 up"));
    let mac = fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap();
    let said = bundle.says(
        &|config| {
            config["linux"]["netDevices"] = json!({(name.as_str()): {"name": "inner0"}});
        },
        "cat /sys/class/net/inner0/address /sys/class/net/inner0/mtu; \
         ip addr show dev inner0 | grep -E 'UP|192.0.2|2001:db8' | grep -oE 'UP|192[^ ]*|2001[^ ]*'",
    );
    assert_eq!(said, format!("{mac}1400\nUP\n192.0.2.7/28\n2001:db8::7/64"));
    assert!(!ip("-o link").contains(&format!("{name}@")));
    // The pair ends with the container. Names: the same one, one that is not there.
    let (third, second) = (format!("gcf{number}"), format!("gcg{number}"));
    ip(&format!("link add {third} type veth peer name {second}"));
    let _other = Link(third);
    let said = bundle.says(
        &|config| {
            config["linux"]["netDevices"] = json!({(second.as_str()): {}});
        },
        "ls /sys/class/net",
    );
    assert!(said.contains(&second), "{said}");
    let error = bundle.refused(&|config| {
        config["linux"]["netDevices"] = json!({"no-such-link0": {"name": "inner0"}});
    });
    assert!(error.contains("linux.netDevices.no-such-link0"), "{error}");
    let error = bundle.refused(&|config| {
        without_namespace(config, "network");
        config["linux"]["netDevices"] = json!({(second.as_str()): {}});
    });
    assert!(
        error.contains("linux.netDevices") && error.contains("network namespace"),
        "{error}"
    );
}

// Whatever the bundle lies on: what a container mounts never shows on the host.
#[test]
fn mounts_do_not_spread_to_the_host() {
    let bundle = Bundle::new();
    let script = format!(
        "mount -t tmpfs shared {0} && mount --make-shared {0} && cp -a {1} {0}/rootfs && \
         cp config.json {0}/ && cd {0} && {2} --root {0}/state run spread-{3} && \
         test $(grep -c {0} /proc/self/mountinfo) = 1",
        bundle.file("mnt"),
        bundle.root().display(),
        crate::support::bin_dir().join("gantry-runtime").display(),
        std::process::id(),
    );
    fs::create_dir(bundle.file("mnt")).unwrap();
    for propagation in ["", "private", "slave", "shared", "unbindable"] {
        // With a mount left behind it would be seen after the container too: propagated
        // mounts do not go with the namespace.
        bundle.configure(
            &|config| {
                if !propagation.is_empty() {
                    config["linux"]["rootfsPropagation"] = json!(propagation);
                }
            },
            "mount -t tmpfs inner /tmp && grep ' / / ' /proc/self/mountinfo; true",
        );
        let output = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-ec", &script])
            .current_dir(&bundle.path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{propagation}: {output:?}");
    }
    assert_eq!(mounts_of(&bundle.path), Vec::<String>::new());
    let _ = config();
}
