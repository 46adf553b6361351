//! `exec`.

use std::fs;

use serde_json::json;

use crate::bundle::{Runtime, hierarchies};
use crate::support::wait_until;

#[test]
fn exec_runs_beside_the_program() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let exec = |arguments: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(arguments);
        runtime.ok(&all)
    };
    assert_eq!(exec(&["one", "echo", "-n", "hello"]), "hello");
    assert_eq!(
        runtime.ends(3, &["exec", "one", "sh", "-c", "exit 3"]).0,
        ""
    );
    assert_eq!(
        runtime.ends(143, &["exec", "one", "sh", "-c", "kill $$"]).0,
        ""
    );
    assert_eq!(exec(&["--cwd", "/tmp", "one", "pwd"]), "/tmp");
    assert_eq!(
        exec(&[
            "-e",
            "A=1",
            "--env=B=2",
            "one",
            "sh",
            "-c",
            "echo $A$B $PATH"
        ]),
        "12 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    assert_eq!(
        exec(&["--user", "1000:1001", "one", "id"]),
        "uid=1000(app) gid=1001(app)"
    );
    assert_eq!(
        exec(&["-u", "7", "one", "sh", "-c", "id -u; id -g"]),
        "7\n0"
    );
    assert_eq!(
        exec(&["-g", "44", "-g", "50", "one", "id", "-G"]),
        "0 44 50"
    );
    // In the container's namespaces and group.
    assert_eq!(exec(&["one", "hostname"]), "gantry");
    assert!(exec(&["one", "ps"]).contains("sleep 1000"));
    let refused = runtime.fails(255, &["exec", "one", "nope"]);
    assert!(
        refused.contains("executable file not found in $PATH"),
        "{refused}"
    );
    let refused = runtime.fails(255, &["exec", "one", "/bin/nope"]);
    assert!(refused.contains("no such file or directory"), "{refused}");
    let refused = runtime.fails(255, &["exec", "one", "/etc/passwd"]);
    assert!(refused.contains("permission denied"), "{refused}");
    runtime.fails(255, &["exec", "one"]);
    runtime.fails(255, &["exec", "two", "true"]);
    // CVE-2026-30892: what is no number is not root.
    for user in ["root", "01", "+1", " 1", ":5", "4294967296", "-1"] {
        let refused = runtime.fails(255, &["exec", "--user", user, "one", "id"]);
        assert!(refused.contains("invalid user"), "{user}: {refused}");
    }
    // CVE-2024-21626: a working directory that leads outside.
    for number in 3..12 {
        let cwd = format!("/proc/self/fd/{number}");
        runtime.fails(255, &["exec", "--cwd", &cwd, "one", "true"]);
    }
}

#[test]
fn exec_adds_capabilities_that_nobody_inherits() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let sets = |flags: &[&str]| {
        let mut arguments = vec!["exec"];
        arguments.extend(flags);
        arguments.extend(["one", "grep", "^Cap", "/proc/self/status"]);
        let text = runtime.ok(&arguments);
        let set = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(set)
    };
    // CAP_AUDIT_WRITE, CAP_KILL and CAP_NET_BIND_SERVICE, as `spec` writes them.
    let own = 1 << 29 | 1 << 5 | 1 << 10;
    assert_eq!(sets(&[]), [0, own, own, own, 0]);
    let more = own | 1 << 12;
    // CVE-2022-29162 and CVE-2025-27612: neither inheritable nor ambient.
    assert_eq!(sets(&["--cap", "CAP_NET_ADMIN"]), [0, more, more, more, 0]);
    runtime.fails(255, &["exec", "--cap", "CAP_NOPE", "one", "true"]);
}

#[test]
fn exec_takes_a_process_from_a_file() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let file = runtime.directory.join("process.json");
    let process = json!({
        "args": ["sh", "-c", "echo $GREETING; pwd; id -u; grep NoNewPrivs /proc/self/status"],
        "env": ["PATH=/bin", "GREETING=hello"],
        "cwd": "/home",
        "user": {"uid": 1000, "gid": 1001},
        "noNewPrivileges": true,
    });
    fs::write(&file, process.to_string()).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(
        runtime.ok(&["exec", "--process", path, "one"]),
        "hello\n/home\n1000\nNoNewPrivs:\t1"
    );
    runtime.fails(255, &["exec", "--process", path, "one", "true"]);
    fs::write(&file, "{").unwrap();
    let refused = runtime.fails(255, &["exec", "--process", path, "one"]);
    assert!(refused.contains("process.json"), "{refused}");
}

#[test]
fn exec_can_detach() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let file = runtime.directory.join("pid");
    let status = runtime
        .command(&[
            "exec",
            "-d",
            "--pid-file",
            file.to_str().unwrap(),
            "one",
            "sleep",
            "777",
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let pid: i64 = fs::read_to_string(&file).unwrap().parse().unwrap();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line.split('\0').collect::<Vec<_>>(), ["sleep", "777", ""]);
    let (list, _) = runtime.ends(0, &["ps", "-f", "json", "one"]);
    let pids: Vec<i64> = serde_json::from_str(&list).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
}

#[test]
fn exec_waits_for_nothing_in_a_paused_container() {
    let runtime = Runtime::new();
    runtime.idle("one");
    runtime.ok(&["pause", "one"]);
    assert_eq!(runtime.status("one"), "paused");
    let refused = runtime.fails(255, &["exec", "one", "true"]);
    assert!(
        refused.contains("cannot exec in a paused container (use --ignore-paused to override)"),
        "{refused}"
    );
    // Asked for, it waits with the others, and for nothing else.
    let waiting = runtime
        .command(&["exec", "--ignore-paused", "one", "echo", "late"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let is_in = || {
        let (list, _) = runtime.ends(0, &["ps", "-f", "json", "one"]);
        serde_json::from_str::<Vec<i64>>(&list).unwrap().len() == 2
    };
    wait_until("the exec is in the frozen group", is_in);
    assert_eq!(runtime.status("one"), "paused");
    runtime.ok(&["resume", "one"]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"late\n"[..])
    );
    assert_eq!(runtime.status("one"), "running");
    runtime.ok(&["exec", "one", "true"]);
}

#[test]
fn exec_goes_into_a_group_inside() {
    let runtime = Runtime::new();
    runtime.idle("one");
    for hierarchy in hierarchies() {
        let group = hierarchy.join(&runtime.group).join("one");
        // A new group of version 1 has no processors and takes no processes.
        if !group.join("cpuset.sched_load_balance").exists() {
            let _ = fs::create_dir(group.join("inner"));
        }
    }
    let status = runtime
        .command(&["exec", "-d", "--cgroup", "inner", "one", "sleep", "555"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let is_inside = |hierarchy: &std::path::Path| {
        let file = hierarchy
            .join(&runtime.group)
            .join("one/inner/cgroup.procs");
        fs::read_to_string(file).is_ok_and(|procs| procs.lines().count() == 1)
    };
    wait_until("it is in the group", || {
        hierarchies().iter().any(|path| is_inside(path))
    });
    // Where there is no such group the process is in the container's.
    for hierarchy in hierarchies() {
        let group = hierarchy.join(&runtime.group).join("one");
        let count = |path: &std::path::Path| {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            procs.lines().count()
        };
        let all = count(&group) + count(&group.join("inner"));
        assert_eq!(all, 2, "{}", group.display());
    }
    for wrong in ["../..", "nothing", "nocontroller:inner"] {
        runtime.fails(255, &["exec", "--cgroup", wrong, "one", "true"]);
    }
    runtime.ok(&["delete", "-f", "one"]);
    runtime.assert_clean();
}

#[test]
fn an_exec_of_a_stopped_container_is_refused() {
    let runtime = Runtime::new();
    runtime.idle("one");
    runtime.ok(&["kill", "one", "9"]);
    runtime.wait_for_status("one", "stopped");
    let refused = runtime.fails(255, &["exec", "one", "true"]);
    assert!(refused.contains("stopped container"), "{refused}");
    // One that is created can be entered, as with runc.
    runtime.create("two", &runtime.bundle("two", &["true"], |_| {}), &[]);
    assert_eq!(runtime.ok(&["exec", "two", "echo", "early"]), "early");
}
