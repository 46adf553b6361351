//! `hooks`: all six, in their order and places, with the state on their input.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::Bundle;

/// A hook that appends a line to a log of the bundle.
fn note(bundle: &Bundle, line: &str) -> Value {
    let log = bundle.file("log");
    json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", format!("echo \"{line}\" >> {log}")],
        "env": ["GIVEN=1"],
        "timeout": 20
    })
}

fn log(bundle: &Bundle) -> Vec<String> {
    fs::read_to_string(bundle.file("log"))
        .unwrap_or_default()
        .lines()
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let bundle = Bundle::new();
    let state = "$(cat | tr -d '\\\"' | sed 's/.*status:\\([a-z]*\\).*/\\1/')";
    let here = "$(readlink /proc/self/ns/mnt | tr -cd 0-9)";
    let root = bundle.root().display().to_string();
    // In the container the bundle's log is not there: its own root is.
    let inner = json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", "cat > /start.json; readlink /proc/self/ns/mnt > /start.ns"]
    });
    // The mounts are there and can be changed through the path of the root.
    let create_container = json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", format!(
            "echo createContainer {state} {here} >> {0}; grep -c ' {root}/proc ' \
             /proc/self/mountinfo >> {0}; echo given > {root}/dev/shm-file",
            bundle.file("log")
        )]
    });
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let own: String = own
        .to_str()
        .unwrap()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let said = bundle.says(
        &|config| {
            config["annotations"] = json!({"org.example.key": "value"});
            config["hooks"] = json!({
                "prestart": [note(&bundle, &format!("prestart {state} {here}"))],
                "createRuntime": [
                    note(&bundle, &format!("createRuntime {state} {here}")),
                    note(&bundle, "second $GIVEN $HOME$PATH_TO $(pwd)")
                ],
                "createContainer": [create_container.clone()],
                "startContainer": [inner.clone()],
                "poststart": [note(&bundle, &format!("poststart {state} {here}"))],
                "poststop": [note(&bundle, &format!("poststop {state} {here}"))]
            });
        },
        "readlink /proc/self/ns/mnt | tr -cd 0-9; echo; cat /dev/shm-file; sleep 0.3",
    );
    let (container, given) = said.split_once('\n').unwrap();
    assert_eq!(given, "given");
    assert_ne!(container, own);
    assert_eq!(
        log(&bundle),
        [
            format!("prestart creating {own}"),
            format!("createRuntime creating {own}"),
            "second 1  /".to_owned(),
            format!("createContainer creating {container}"),
            "1".to_owned(),
            format!("poststart running {own}"),
            format!("poststop stopped {own}"),
        ]
    );
    let start = fs::read(bundle.root().join("start.json")).unwrap();
    let start: Value = serde_json::from_slice(&start).unwrap();
    assert_eq!(start["status"], "created");
    assert_eq!(start["pid"], 1);
    assert_eq!(start["ociVersion"], "1.3.0");
    assert_eq!(start["annotations"]["org.example.key"], "value");
    assert!(start["bundle"].as_str().unwrap().starts_with('/'));
    let ns = fs::read_to_string(bundle.root().join("start.ns")).unwrap();
    assert!(ns.contains(container), "{ns}");
}

#[test]
fn a_failing_hook_undoes_the_creation() {
    let bundle = Bundle::new();
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        let error = bundle.refused(&|config| {
            config["hooks"] = json!({
                (kind): [
                    {"path": "/bin/sh", "args": ["sh", "-c", "echo the reason >&2; exit 4"]},
                    note(&bundle, "never")
                ],
                "poststop": [note(&bundle, kind)]
            });
        });
        assert!(
            error.contains("hook /bin/sh failed: exit status: 4: the reason"),
            "{kind}: {error}"
        );
    }
    assert!(!log(&bundle).contains(&"never".to_owned()));
    let left = fs::read_dir(bundle.path.join("state")).map(|entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .count()
    });
    assert_eq!(left.unwrap_or(0), 0);
    let error = bundle.refused(&|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/no/such/hook"}]});
    });
    assert!(error.contains("cannot run hook /no/such/hook"), "{error}");
    // What comes after the start is warned of only.
    let said = bundle.says(
        &|config| {
            config["hooks"] = json!({
                "poststart": [{"path": "/bin/false"}],
                "poststop": [{"path": "/bin/false"}]
            });
        },
        "sleep 0.2; echo ran",
    );
    assert_eq!(said, "ran");
}

#[test]
fn a_slow_hook_is_killed_at_its_timeout() {
    let bundle = Bundle::new();
    let pids = bundle.file("pids");
    for kind in ["createRuntime", "createContainer"] {
        let begun = Instant::now();
        let error = bundle.refused(&|config| {
            config["hooks"] = json!({(kind): [{
                "path": "/bin/sh",
                "args": ["sh", "-c", format!("readlink /proc/self > {pids}; sleep 30 & sleep 30")],
                "timeout": 1
            }]});
        });
        assert!(error.contains("longer than 1 s"), "{kind}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let pid = fs::read_to_string(&pids).unwrap();
        assert!(kind != "createRuntime" || !fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    }
}

// R48, CVE-2024-0132, CVE-2025-23266: neither the environment of the container nor files of
// its root reach a hook of the host's.
#[test]
fn hooks_have_nothing_of_the_containers() {
    let bundle = Bundle::new();
    let library = bundle.root().join("x.so");
    fs::write(&library, "not a library").unwrap();
    fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).unwrap();
    bundle.says(
        &|config| {
            config["process"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=./x.so", "MARK=1"]);
            let check = "test -z \"$LD_PRELOAD$MARK\" && test \"$(pwd)\" = /";
            let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", check]}]);
            config["hooks"] = json!({
                "prestart": hook, "createRuntime": hook, "createContainer": hook
            });
        },
        "true",
    );
}
