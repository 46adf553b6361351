//! What is printed for programs: the configuration, the state, the features, the list.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::bundle::{Runtime, rootfs};

/// The path of a member, and whether a value may stand there.
type Member = (&'static str, fn(&Value) -> bool);

/// Whether an object has these members, of these types (runtime-spec's schemas).
fn check(value: &Value, members: &[Member]) {
    for (name, is_right) in members {
        let mut found = value;
        for part in name.split('.') {
            found = &found[part];
        }
        assert!(is_right(found), "{name}: {found}");
    }
}

fn is_version(value: &Value) -> bool {
    let parts = value.as_str().unwrap_or_default().split('.');
    let numbers = parts.filter(|part| part.parse::<u32>().is_ok()).count();
    numbers == 3
}

fn is_list_of_texts(value: &Value) -> bool {
    let list = value.as_array();
    list.is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string))
}

#[test]
fn spec_writes_what_the_schema_asks_for() {
    let runtime = Runtime::new();
    for (name, flag) in [("plain", None), ("rootless", Some("--rootless"))] {
        let bundle = runtime.directory.join(name);
        fs::create_dir(&bundle).unwrap();
        let mut arguments = vec!["spec", "--bundle", bundle.to_str().unwrap()];
        arguments.extend(flag);
        runtime.ok(&arguments);
        let config: Value =
            serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
        check(
            &config,
            &[
                ("ociVersion", is_version),
                ("process.cwd", Value::is_string),
                ("process.args", is_list_of_texts),
                ("process.env", is_list_of_texts),
                ("process.user.uid", Value::is_u64),
                ("process.user.gid", Value::is_u64),
                ("process.capabilities.bounding", is_list_of_texts),
                ("process.noNewPrivileges", Value::is_boolean),
                ("process.terminal", Value::is_boolean),
                ("root.path", Value::is_string),
                ("root.readonly", Value::is_boolean),
                ("hostname", Value::is_string),
                ("linux.maskedPaths", is_list_of_texts),
                ("linux.readonlyPaths", is_list_of_texts),
            ],
        );
        for limit in config["process"]["rlimits"].as_array().unwrap() {
            check(
                limit,
                &[
                    ("type", |kind| {
                        kind.as_str()
                            .is_some_and(|kind| kind.starts_with("RLIMIT_"))
                    }),
                    ("soft", Value::is_u64),
                    ("hard", Value::is_u64),
                ],
            );
        }
        for mount in config["mounts"].as_array().unwrap() {
            assert!(mount["destination"].as_str().unwrap().starts_with('/'));
            assert!(mount["options"].is_null() || is_list_of_texts(&mount["options"]));
        }
        let kinds: Vec<&str> = config["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds.contains(&"user"), flag.is_some());
        assert_eq!(kinds.contains(&"network"), flag.is_none());
        if flag.is_some() {
            let mapping = &config["linux"]["uidMappings"][0];
            assert_eq!(mapping["containerID"], 0);
            assert_eq!(mapping["size"], 1);
        }
        // Never over a file that is there.
        let refused = runtime.fails(1, &arguments);
        assert!(refused.contains("config.json"), "{refused}");
    }
}

/// The state as the specification has it (runtime.md, "State"), and what runc adds to it.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct State {
    oci_version: String,
    id: String,
    status: Status,
    pid: u32,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
    // Not the specification's.
    rootfs: PathBuf,
    created: String,
    owner: String,
}

/// The specification's values, and with `paused` runc's, which it allows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Status {
    Creating,
    Created,
    Running,
    Stopped,
    Paused,
}

#[test]
fn state_says_what_the_schema_asks_for_at_every_moment() {
    let runtime = Runtime::new();
    // A hook of the birth is the one who sees the first.
    let seen = runtime.directory.join("seen");
    let bundle = runtime.bundle("one", &["sleep", "1000"], |config| {
        config["annotations"] = serde_json::json!({"org.example.key": "value"});
        let script = format!("cat >{}", seen.display());
        config["hooks"]["createRuntime"] =
            serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    });
    let state = |expected: Status| -> State {
        let state: State = serde_json::from_str(&runtime.ok(&["state", "one"])).unwrap();
        assert_eq!(state.status, expected);
        assert!(is_version(&Value::from(&*state.oci_version)));
        assert_eq!((&*state.id, &state.bundle), ("one", &bundle));
        assert_eq!(state.rootfs, rootfs());
        assert_eq!(state.annotations["org.example.key"], "value");
        assert!(state.created.ends_with('Z'), "{}", state.created);
        state
    };
    runtime.create("one", &bundle, &[]);
    let created = state(Status::Created);
    // Required as long as there is a process, as the runtime's own namespace counts it.
    assert!(Path::new(&format!("/proc/{}", created.pid)).exists());
    let told: Value = serde_json::from_slice(&fs::read(&seen).unwrap()).unwrap();
    let told_status: Status = serde_json::from_value(told["status"].clone()).unwrap();
    assert_eq!(told_status, Status::Creating);
    assert_eq!(told["pid"], created.pid);
    for (command, expected) in [
        ("start", Status::Running),
        ("pause", Status::Paused),
        ("resume", Status::Running),
    ] {
        runtime.ok(&[command, "one"]);
        let found = state(expected);
        assert_eq!(
            (found.pid, &found.created),
            (created.pid, &created.created),
            "{command}"
        );
    }
    runtime.ok(&["kill", "one", "KILL"]);
    runtime.wait_for_status("one", "stopped");
    // An id that has passed to somebody else is not shown.
    assert_eq!(state(Status::Stopped).pid, 0);
}

#[test]
fn features_say_what_the_schema_asks_for() {
    let runtime = Runtime::new();
    let features: Value = serde_json::from_str(&runtime.ok(&["features"])).unwrap();
    check(
        &features,
        &[
            ("ociVersionMin", is_version),
            ("ociVersionMax", is_version),
            ("hooks", is_list_of_texts),
            ("mountOptions", is_list_of_texts),
            ("annotations", Value::is_object),
            ("linux.namespaces", is_list_of_texts),
            ("linux.capabilities", is_list_of_texts),
            ("linux.cgroup.v1", Value::is_boolean),
            ("linux.cgroup.v2", Value::is_boolean),
            ("linux.cgroup.systemd", Value::is_boolean),
            ("linux.cgroup.systemdUser", Value::is_boolean),
            ("linux.cgroup.rdma", Value::is_boolean),
            ("linux.seccomp.enabled", Value::is_boolean),
            ("linux.seccomp.actions", is_list_of_texts),
            ("linux.seccomp.operators", is_list_of_texts),
            ("linux.seccomp.archs", is_list_of_texts),
            ("linux.seccomp.knownFlags", is_list_of_texts),
            ("linux.seccomp.supportedFlags", is_list_of_texts),
            ("linux.apparmor.enabled", Value::is_boolean),
            ("linux.selinux.enabled", Value::is_boolean),
            ("linux.intelRdt.enabled", Value::is_boolean),
            ("linux.mountExtensions.idmap.enabled", Value::is_boolean),
            ("linux.netDevices.enabled", Value::is_boolean),
        ],
    );
    for (list, start) in [
        ("capabilities", "CAP_"),
        ("seccomp.actions", "SCMP_ACT_"),
        ("seccomp.operators", "SCMP_CMP_"),
        ("seccomp.archs", "SCMP_ARCH_"),
    ] {
        let found = list
            .split('.')
            .fold(&features["linux"], |value, part| &value[part]);
        for word in found.as_array().unwrap() {
            assert!(word.as_str().unwrap().starts_with(start), "{word}");
        }
    }
}

#[test]
fn version_and_help_are_there() {
    let runtime = Runtime::new();
    let version = runtime.ok(&["--version"]);
    assert!(version.starts_with("gantry-runtime version "), "{version}");
    assert!(version.contains("\nspec: 1."), "{version}");
    let help = runtime.ok(&["--help"]);
    for command in [
        "create",
        "start",
        "run",
        "state",
        "list",
        "ps",
        "kill",
        "delete",
        "exec",
        "pause",
        "resume",
        "update",
        "events",
        "spec",
        "features",
        "checkpoint",
        "restore",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let own = runtime.ok(&[command, "--help"]);
        assert!(own.contains(&format!("gantry-runtime {command}")), "{own}");
        let refused = runtime.fails(
            if command == "exec" { 255 } else { 1 },
            &[command, "--no-such-flag"],
        );
        assert!(refused.contains("unknown flag --no-such-flag"), "{refused}");
    }
}

#[test]
fn list_shows_all_and_survives_a_broken_one() {
    let runtime = Runtime::new();
    assert_eq!(runtime.ok(&["list", "--format", "json"]), "null");
    let bundle = runtime.idle("running");
    runtime.create(
        "created",
        &runtime.bundle("created", &["true"], |_| {}),
        &[],
    );
    // Half-created, damaged, not a container at all.
    fs::create_dir(runtime.root.join("empty")).unwrap();
    fs::create_dir(runtime.root.join("broken")).unwrap();
    fs::write(runtime.root.join("broken/state.json"), "{\"pid\": \"x\"").unwrap();
    fs::write(runtime.root.join("file"), "").unwrap();
    let (table, warnings) = runtime.ends(0, &["list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let heading: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        heading,
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    let row: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!((row[0], row[2], row[5]), ("running", "running", "root"));
    assert_eq!(row[3], bundle.to_str().unwrap());
    assert!(warnings.contains("broken"), "{warnings}");
    assert_eq!(runtime.ok(&["list", "-q"]), "created\nrunning");
    let (json, _) = runtime.ends(0, &["list", "-f", "json"]);
    let list: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list[0]["id"], "created");
    assert_eq!(list[1]["status"], "running");
    assert_eq!(list[1]["owner"], "root");
    // Whatever is there can be removed.
    for id in ["empty", "broken", "created", "running"] {
        runtime.ok(&["delete", "--force", id]);
    }
    fs::remove_file(runtime.root.join("file")).unwrap();
    runtime.assert_clean();
}

#[test]
fn only_the_owner_may_look_into_the_state() {
    use std::os::unix::fs::PermissionsExt as _;
    let runtime = Runtime::new();
    runtime.create("one", &runtime.bundle("one", &["true"], |_| {}), &[]);
    for path in [runtime.root.clone(), runtime.root.join("one")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{}", path.display());
    }
}
