//! Configurations that are refused, by the name of the field.

use serde_json::{Value, json};

use crate::bundle::{Bundle, Edit, config, map_users, push, without_namespace};

#[test]
fn what_is_wrong_is_named() {
    let bundle = Bundle::new();
    let set = |pointer: &'static str, value: Value| {
        move |config: &mut Value| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[field] = value.clone();
        }
    };
    let hook = |hook: Value| json!({"createRuntime": [hook]});
    for (pointer, value, part) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion: "),
        ("/ociVersion", json!(""), "ociVersion: "),
        ("/hostname", json!("x".repeat(65)), "hostname: "),
        ("/process/args", json!([]), "no command specified"),
        ("/process/cwd", json!("relative"), "working directory"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: "),
        ("/process/user/umask", json!(512), "process.user.umask: "),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
                   {"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]),
            "process.rlimits[1]: ",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0]: ",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "RLIMIT_X",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_BATCH", "nice": 20}),
            "process.scheduler.nice: ",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO"}),
            "process.scheduler.priority: ",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "process.scheduler.priority: ",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "runtime": 1}),
            "process.scheduler.runtime: ",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: ",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0-4294967295"}),
            "process.execCPUAffinity.initial: ",
        ),
        (
            "/process/execCPUAffinity",
            json!({"final": "x"}),
            "process.execCPUAffinity.final: ",
        ),
        (
            "/mounts",
            json!([{"type": "tmpfs"}]),
            "mounts[0].destination: ",
        ),
        (
            "/mounts",
            json!([{"destination": "/", "type": "tmpfs"}]),
            "it must not be the root",
        ),
        (
            "/hooks",
            hook(json!({"path": "sh"})),
            "hooks.createRuntime[0].path: ",
        ),
        (
            "/hooks",
            hook(json!({"path": "/bin/true", "timeout": 0})),
            "hooks.createRuntime[0].timeout: ",
        ),
        (
            "/hooks",
            hook(json!({"path": "/bin/true", "env": ["X"]})),
            "hooks.createRuntime[0].env: ",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            "linux.uidMappings: it needs a user namespace",
        ),
        (
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1}}),
            "linux.timeOffsets: ",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "a/b"}}),
            "linux.netDevices.eth0: ",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "sixteen-letters!"}}),
            "linux.netDevices.eth0: ",
        ),
        (
            "/linux/devices",
            json!([{"path": "dev/x", "type": "c"}]),
            "linux.devices[0].path: ",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "d"}]),
            "linux.devices[0].type: ",
        ),
        (
            "/linux/rootfsPropagation",
            json!("spread"),
            "linux.rootfsPropagation: ",
        ),
        ("/linux/maskedPaths", json!(["x"]), "linux.maskedPaths: "),
        (
            "/linux/readonlyPaths",
            json!(["x"]),
            "linux.readonlyPaths: ",
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "../x"}),
            "linux.intelRdt.closID: ",
        ),
        (
            "/linux/intelRdt",
            json!({"memBwSchema": "L3:0=f"}),
            "linux.intelRdt.memBwSchema: ",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
            "linux.personality.flags: ",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy.nodes: ",
        ),
        // Types and enumerations, by line and field.
        (
            "/process/user/uid",
            json!("0"),
            "process.user.uid: invalid type",
        ),
        (
            "/process/user/uid",
            json!(-1),
            "process.user.uid: invalid value",
        ),
        (
            "/process/user/uid",
            json!(4_294_967_296i64),
            "process.user.uid: invalid value",
        ),
        (
            "/process/terminal",
            json!("no"),
            "process.terminal: invalid type",
        ),
        (
            "/process/env",
            json!({"A": "b"}),
            "process.env: invalid type",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_MINE"}),
            "process.scheduler.policy: unknown variant",
        ),
        (
            "/process/ioPriority",
            json!({"class": "HIGH"}),
            "process.ioPriority.class: unknown variant",
        ),
        (
            "/linux/personality",
            json!({"domain": "BSD"}),
            "linux.personality.domain: unknown variant",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_MINE"}),
            "linux.memoryPolicy.mode: unknown variant",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}),
            "linux.memoryPolicy.flags[0]: unknown variant",
        ),
    ] {
        let error = bundle.refused(&set(pointer, value.clone()));
        assert!(error.contains(part), "{pointer} = {value}: {error}");
    }
}

#[test]
fn what_does_not_go_together_is_named() {
    let bundle = Bundle::new();
    let cases: [(Edit<'_>, &str); 8] = [
        (
            &|config| {
                without_namespace(config, "uts");
                config["hostname"] = json!("x");
            },
            "hostname: it needs a uts namespace",
        ),
        (
            &|config| {
                without_namespace(config, "uts");
                config["domainname"] = json!("x");
            },
            "domainname: it needs a uts namespace",
        ),
        (
            &|config| push(&mut config["linux"]["namespaces"], json!({"type": "user"})),
            "linux.uidMappings: a new user namespace needs it",
        ),
        (
            &|config| {
                map_users(config, 0);
                config["linux"]["gidMappings"] = json!([]);
            },
            "linux.gidMappings: a new user namespace needs it",
        ),
        (
            &|config| push(&mut config["linux"]["namespaces"], json!({"type": "pid"})),
            "linux.namespaces[6]: pid is there twice",
        ),
        (
            &|config| {
                push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
                config["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
            },
            "linux.timeOffsets.realtime: ",
        ),
        (
            &|config| {
                push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
                config["linux"]["timeOffsets"] = json!({"boottime": {"nanosecs": 1_000_000_000}});
            },
            "linux.timeOffsets.boottime.nanosecs: ",
        ),
        (
            &|config| push(&mut config["linux"]["namespaces"], json!({"type": "disk"})),
            "linux.namespaces[6].type: unknown variant",
        ),
    ];
    for (edit, part) in cases {
        let error = bundle.refused(edit);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn documents_that_are_none_are_errors() {
    let bundle = Bundle::new();
    let pretty = serde_json::to_string_pretty(&config()).unwrap();
    for (text, part) in [
        (String::new(), "EOF"),
        ("[]".into(), ""),
        ("{".into(), "line 1"),
        (
            format!("{}[]{}", "[".repeat(500), "]".repeat(500)),
            "config.json",
        ),
        (
            pretty.replacen("\"cwd\": \"/\"", "\"cwd\": 7", 1),
            "process.cwd: invalid type: integer `7`, expected a string at line",
        ),
    ] {
        bundle.write(&text);
        let output = bundle.command(&["run", "invalid"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(part), "{error}");
    }
}

#[test]
fn what_is_unknown_is_ignored() {
    let bundle = Bundle::new();
    let said = bundle.says(
        &|config| {
            config["unknown"] = json!({"deep": [1, 2]});
            config["annotations"] = json!({"org.example.unknown": "x"});
            config["process"]["commandLine"] = json!("for another system");
            config["linux"]["unknown"] = json!(5);
            config["windows"] = json!({"layerFolders": []});
            config["solaris"] = json!({});
            config["vm"] = json!({"kernel": {"path": "/x"}});
            config["hooks"] = Value::Null;
            config["linux"]["devices"] = Value::Null;
        },
        "echo ran",
    );
    assert_eq!(said, "ran");
}
