//! `process`, and what else is about the one process: names, parameters, scheduling.

use serde_json::json;

use crate::bundle::{Bundle, CAPABILITIES, check, push, without_namespace};

#[test]
fn a_process_is_who_and_where_it_was_asked_to_be() {
    let bundle = Bundle::new();
    check(
        &bundle,
        &[
            (
                "user, umask and additional groups",
                &|config| {
                    config["process"]["user"] = json!({
                        "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [50, 44],
                        "username": "ignored"
                    });
                },
                "echo $(id -u) $(id -g) $(grep Groups: /proc/self/status | cut -f2) $(umask)",
                "1000 1001 44 50 0027",
            ),
            (
                "working directory and environment",
                &|config| {
                    config["process"]["cwd"] = json!("/new/directory");
                    push(&mut config["process"]["env"], json!("GIVEN=a b=c"));
                },
                "echo \"$(pwd) $GIVEN $HOME $(env | grep -vc -E '^(PATH|GIVEN|PWD|SHLVL|HOME)=')\"",
                "/new/directory a b=c /root 0",
            ),
            (
                "resource limits",
                &|config| {
                    config["process"]["rlimits"] = json!([
                        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                        {"type": "RLIMIT_RTTIME", "soft": 5000, "hard": 6000}
                    ]);
                },
                "echo $(grep -E 'open files|core file|realtime timeout' /proc/self/limits)",
                "Max core file size 0 0 bytes Max open files 100 200 files \
                 Max realtime timeout 5000 6000 us",
            ),
            (
                "out-of-memory score",
                &|config| config["process"]["oomScoreAdj"] = json!(321),
                "cat /proc/self/oom_score_adj",
                "321",
            ),
            (
                "no new privileges",
                &|config| config["process"]["noNewPrivileges"] = json!(true),
                "grep NoNewPrivs /proc/self/status | cut -f2",
                "1",
            ),
            (
                "nothing of it by itself",
                &|_| {},
                "grep NoNewPrivs /proc/self/status | cut -f2; umask; cat /proc/self/oom_score_adj",
                "0\n0022\n0",
            ),
            (
                "host and domain name",
                &|config| {
                    config["hostname"] = json!("the-host");
                    config["domainname"] = json!("the-domain");
                },
                "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname",
                "the-host\nthe-domain",
            ),
        ],
    );
}

// R22, CVE-2022-24769 and its kin: nothing is inheritable that nobody asked for.
#[test]
fn capabilities_are_those_of_the_five_sets() {
    let bundle = Bundle::new();
    let script = "grep -E '^Cap' /proc/self/status | cut -f2 | sed 's/^0*//' | tr '\\n' ' '";
    // CAP_CHOWN is bit 0, CAP_KILL bit 5, CAP_NET_RAW bit 13.
    check(
        &bundle,
        &[
            (
                "ambient for another user",
                &|config| {
                    config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                    config["process"]["capabilities"] = json!({
                        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                        "effective": ["CAP_CHOWN", "CAP_KILL"],
                        "permitted": ["CAP_CHOWN", "CAP_KILL"],
                        "inheritable": ["CAP_CHOWN"],
                        "ambient": ["CAP_CHOWN"]
                    });
                },
                // The shell's own exec leaves of a user's capabilities the ambient ones.
                script,
                "1 1 1 2021 1",
            ),
            (
                "none inheritable",
                &|config| {
                    config["process"]["capabilities"] = json!({
                        "bounding": ["CAP_CHOWN", "CAP_KILL"],
                        "effective": ["CAP_CHOWN"],
                        "permitted": ["CAP_CHOWN", "CAP_KILL"]
                    });
                },
                script,
                " 21 21 21",
            ),
            (
                "ambient but not inheritable, as `runc spec` has it",
                &|config| {
                    config["process"]["capabilities"] = json!({
                        "bounding": ["CAP_CHOWN", "CAP_KILL"],
                        "effective": ["CAP_CHOWN"],
                        "permitted": ["CAP_CHOWN"],
                        "ambient": ["CAP_CHOWN"]
                    });
                },
                script,
                " 21 21 21",
            ),
        ],
    );
    // R09, CVE-2016-8867; R10, CVE-2018-10856: without ambient ones another user has none.
    let said = bundle.says(
        &|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}),
        "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | sort -u",
    );
    assert_eq!(said, "0000000000000000");
    let all = bundle.says(&|_| {}, "grep CapBnd /proc/self/status | cut -f2");
    let bits = u64::from_str_radix(&all, 16).unwrap().count_ones();
    assert_eq!(bits as usize, CAPABILITIES.len());
}

#[test]
fn scheduling_is_as_asked() {
    let bundle = Bundle::new();
    // Fields of stat behind the name: 17 is the niceness, 39 the policy, 38 the priority.
    let script = "cut -d')' -f2- /proc/self/stat | cut -d' ' -f18,39,40";
    check(
        &bundle,
        &[
            (
                "batch",
                &|config| {
                    config["process"]["scheduler"] = json!({
                        "policy": "SCHED_BATCH", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]
                    });
                },
                // Without a child, as it is reset for those.
                "read -r line < /proc/self/stat; set -- ${line##*)}; echo ${17} ${39}",
                "7 3",
            ),
            (
                "idle",
                &|config| config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"}),
                script,
                "0 0 5",
            ),
            (
                "other",
                &|config| {
                    config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -3});
                },
                script,
                "-3 0 0",
            ),
            (
                "I/O priority",
                &|config| {
                    config["process"]["ioPriority"] =
                        json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
                },
                "ionice -p $$",
                "best-effort: prio 6",
            ),
            (
                "idle I/O priority",
                &|config| config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE"}),
                "ionice -p $$ | cut -d: -f1",
                "idle",
            ),
            (
                "32-bit personality",
                &|config| config["linux"]["personality"] = json!({"domain": "LINUX32"}),
                "uname -m",
                if cfg!(target_arch = "x86_64") {
                    "i686"
                } else {
                    "armv8l"
                },
            ),
            (
                "native personality",
                &|config| config["linux"]["personality"] = json!({"domain": "LINUX", "flags": []}),
                "uname -m",
                std::env::consts::ARCH,
            ),
            (
                "memory policy",
                &|config| {
                    config["linux"]["memoryPolicy"] = json!({
                        "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]
                    });
                },
                "grep -m1 -o 'bind=static:0' /proc/self/numa_maps",
                "bind=static:0",
            ),
            (
                "default memory policy",
                &|config| config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_DEFAULT"}),
                "head -1 /proc/self/numa_maps | cut -d' ' -f2",
                "default",
            ),
        ],
    );
}

// R42, CVE-2022-0811: only what belongs to a namespace of the container's own can be set, and
// no value smuggles in another parameter.
#[test]
fn kernel_parameters_are_those_of_the_containers_namespaces() {
    let bundle = Bundle::new();
    let said = bundle.says(
        &|config| {
            config["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1",
                "net/ipv4/ip_default_ttl": "99",
                "kernel.shm_rmid_forced": "1",
                "fs.mqueue.msg_max": "7",
                "kernel.domainname": "by-parameter"
            });
        },
        "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/ip_default_ttl kernel/shm_rmid_forced \
         fs/mqueue/msg_max kernel/domainname",
    );
    assert_eq!(said, "1\n99\n1\n7\nby-parameter");
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for (name, missing, part) in [
        ("kernel.core_pattern", "", "belongs to no namespace"),
        ("kernel/core_pattern", "", "belongs to no namespace"),
        ("vm.swappiness", "", "belongs to no namespace"),
        ("fs.file-max", "", "belongs to no namespace"),
        ("kernel.hostname", "", "hostname"),
        ("net.ipv4.ip_forward", "network", "network namespace"),
        ("kernel.shmmax", "ipc", "ipc namespace"),
        ("fs.mqueue.msg_max", "ipc", "ipc namespace"),
        ("kernel.domainname", "uts", "uts namespace"),
        ("net/../kernel/core_pattern", "", "invalid kernel parameter"),
        ("net.//.kernel.core_pattern", "", "invalid kernel parameter"),
        ("net..ipv4", "", "invalid kernel parameter"),
        (
            "kernel.shm_rmid_forced=1+kernel.core_pattern",
            "",
            "invalid kernel parameter",
        ),
    ] {
        let error = bundle.refused(&|config| {
            without_namespace(config, missing);
            config["linux"]["sysctl"] = json!({name: "|/bin/true"});
        });
        assert!(
            error.contains("linux.sysctl") && error.contains(part),
            "{name}: {error}"
        );
    }
    // The value of an allowed one is a value only.
    let error = bundle.refused(&|config| {
        config["linux"]["sysctl"] =
            json!({"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/true"});
    });
    assert!(error.contains("cannot set kernel parameter"), "{error}");
    assert_eq!(
        std::fs::read("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
}

// R02, CVE-2024-21626.
#[test]
fn a_working_directory_outside_is_refused() {
    let bundle = Bundle::new();
    for number in (3..64).step_by(5) {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.refused(&|config| config["process"]["cwd"] = json!(cwd));
    }
    // The last one is the listed directory itself.
    let open = bundle.says(
        &|config| config["process"]["args"] = json!(["ls", "/proc/self/fd"]),
        "",
    );
    assert_eq!(open, "0\n1\n2\n3");
}

// What is to confine a program is never left out in silence.
#[test]
fn labels_of_modules_that_are_not_there_are_errors() {
    let bundle = Bundle::new();
    let has = |directory: &str| std::path::Path::new(directory).exists();
    if !has("/sys/kernel/security/apparmor") {
        let error = bundle
            .refused(&|config| config["process"]["apparmorProfile"] = json!("docker-default"));
        assert!(error.contains("process.apparmorProfile"), "{error}");
        bundle.says(
            &|config| config["process"]["apparmorProfile"] = json!("unconfined"),
            "true",
        );
    }
    if !has("/sys/fs/selinux") {
        let label = "system_u:system_r:container_t:s0";
        let error = bundle.refused(&|config| config["process"]["selinuxLabel"] = json!(label));
        assert!(error.contains("process.selinuxLabel"), "{error}");
        let error = bundle.refused(&|config| config["linux"]["mountLabel"] = json!(label));
        assert!(error.contains("linux.mountLabel"), "{error}");
    }
    if !has("/sys/fs/resctrl/schemata") {
        let error =
            bundle.refused(&|config| config["linux"]["intelRdt"] = json!({"closID": "one"}));
        assert!(
            error.contains("linux.intelRdt: resctrl is not mounted"),
            "{error}"
        );
    }
}
