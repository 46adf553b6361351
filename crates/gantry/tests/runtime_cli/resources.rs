//! `ps`, `pause`, `update` and `events`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bundle::{Runtime, hierarchies};
use crate::support::wait_until;

/// The text of a control file of a container, in whichever hierarchy has it.
fn control(runtime: &Runtime, id: &str, names: &[&str]) -> Option<String> {
    for hierarchy in hierarchies() {
        for name in names {
            let file = hierarchy.join(&runtime.group).join(id).join(name);
            if let Ok(text) = fs::read_to_string(file) {
                return Some(text.trim().to_owned());
            }
        }
    }
    None
}

#[test]
fn ps_lists_the_processes_of_the_container_only() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let pid = runtime.pid("one");
    let (list, _) = runtime.ends(0, &["ps", "--format", "json", "one"]);
    assert_eq!(serde_json::from_str::<Vec<i64>>(&list).unwrap(), [pid]);
    let table = runtime.ok(&["ps", "one"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].contains("PID") && lines[1].contains("sleep 1000"),
        "{table}"
    );
    let table = runtime.ok(&["ps", "one", "-e", "-o", "pid,comm"]);
    assert!(table.contains(&format!("{pid} sleep")), "{table}");
    let refused = runtime.fails(1, &["ps", "one", "-e", "-o", "comm"]);
    assert!(refused.contains("PID"), "{refused}");
}

#[test]
fn pause_stops_and_resume_goes_on() {
    let runtime = Runtime::new();
    let out = runtime.directory.join("out");
    let script = "while :; do echo x; sleep 0.02; done";
    let bundle = runtime.bundle("one", &["sh", "-c", script], |_| {});
    let created = runtime
        .command(&["create", "-b", bundle.to_str().unwrap(), "one"])
        .stdout(fs::File::create(&out).unwrap())
        .status()
        .unwrap();
    assert!(created.success());
    runtime.ok(&["start", "one"]);
    let length = || fs::metadata(&out).unwrap().len();
    wait_until("it speaks", || length() > 4);
    runtime.ok(&["pause", "one"]);
    assert_eq!(runtime.status("one"), "paused");
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(length(), before);
    let refused = runtime.fails(1, &["pause", "one"]);
    assert!(refused.contains("paused"), "{refused}");
    runtime.ok(&["resume", "one"]);
    wait_until("it goes on", || length() > before);
    // A paused container dies all the same.
    runtime.ok(&["pause", "one"]);
    runtime.ok(&["kill", "one", "KILL"]);
    runtime.wait_for_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
    runtime.idle("two");
    runtime.ok(&["pause", "two"]);
    runtime.ok(&["delete", "--force", "two"]);
    runtime.assert_clean();
}

#[test]
fn update_changes_limits() {
    let runtime = Runtime::new();
    runtime.idle("one");
    runtime.ok(&[
        "update",
        "--memory",
        "64m",
        "--memory-reservation=32m",
        "--pids-limit",
        "55",
        "--cpu-share",
        "512",
        "--cpu-period",
        "100000",
        "--cpu-quota",
        "50000",
        "one",
    ]);
    let is = |names: &[&str], values: &[&str]| {
        let found = control(&runtime, "one", names);
        // A host without the controller has no file for it.
        assert!(
            found.as_deref().is_none_or(|found| values.contains(&found)),
            "{names:?}: {found:?}"
        );
    };
    is(&["memory.limit_in_bytes", "memory.max"], &["67108864"]);
    is(&["memory.soft_limit_in_bytes", "memory.low"], &["33554432"]);
    is(&["pids.max"], &["55"]);
    is(&["cpu.shares"], &["512"]);
    is(&["cpu.cfs_quota_us", "cpu.max"], &["50000", "50000 100000"]);
    let file = runtime.directory.join("resources.json");
    let limits = json!({
        "memory": {"limit": 128 << 20, "reservation": 0, "swap": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "blockIO": {"weight": 0},
        "pids": {"limit": 77},
    });
    fs::write(&file, limits.to_string()).unwrap();
    runtime.ok(&["update", "--resources", file.to_str().unwrap(), "one"]);
    is(&["memory.limit_in_bytes", "memory.max"], &["134217728"]);
    is(&["pids.max"], &["77"]);
    // What was zero has stayed.
    is(&["cpu.shares"], &["512"]);
    let mut child = runtime
        .command(&["update", "-r", "-", "one"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        br#"{"pids": {"limit": 99}}"#,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    is(&["pids.max"], &["99"]);
    for (arguments, words) in [
        (&["update", "--memory", "lots", "one"][..], "--memory"),
        (&["update", "-r", "/nowhere", "one"], "/nowhere"),
        (&["update", "--memory", "64m", "two"], "does not exist"),
    ] {
        let refused = runtime.fails(1, arguments);
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn events_show_what_is_used() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let event: Value = serde_json::from_str(&runtime.ok(&["events", "--stats", "one"])).unwrap();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], "one");
    let data = &event["data"];
    assert!(
        data["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{data}"
    );
    assert!(data["cpu"]["throttling"].is_object());
    assert!(
        data["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{data}"
    );
    assert!(data["memory"]["raw"].is_object());
    assert_eq!(data["pids"]["current"], 1);
    for name in ["cpuset", "blkio", "hugetlb", "intel_rdt"] {
        assert!(data[name].is_object(), "{name}: {data}");
    }
    let refused = runtime.fails(1, &["events", "--interval", "0s", "one"]);
    assert!(refused.contains("interval"), "{refused}");
    // Line by line, until the container ends.
    let mut child = runtime
        .command(&["events", "--interval", "50ms", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    runtime.ok(&["kill", "one", "KILL"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn events_tell_of_want_of_memory() {
    let runtime = Runtime::new();
    // Without a memory controller nobody is killed for want of it.
    runtime.idle("probe");
    let files = ["memory.limit_in_bytes", "memory.max"];
    if control(&runtime, "probe", &files).is_none() {
        return;
    }
    let script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; tail /dev/zero; sleep 1000";
    let bundle = runtime.bundle("one", &["sh", "-c", script], |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
        }));
    });
    runtime.create("one", &bundle, &[]);
    runtime.ok(&["start", "one"]);
    let mut child = runtime
        .command(&["events", "--interval", "1h", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its watch has to be there first; only its descriptors tell.
    let fds = format!("/proc/{}/fd", child.id());
    wait_until("events watches", || {
        fs::read_dir(&fds).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                fs::read_link(entry.path()).is_ok_and(|target| {
                    let target = target.to_string_lossy().into_owned();
                    target.contains("eventfd") || target.contains("inotify")
                })
            })
        })
    });
    runtime.ok(&["exec", "one", "touch", "/tmp/go"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(event, json!({"type": "oom", "id": "one"}));
    runtime.ok(&["delete", "-f", "one"]);
    assert!(child.wait().unwrap().success());
}
