//! From `create` to `delete`, and `run`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::Runtime;
use crate::support::{text, wait_until};

#[test]
fn a_container_goes_through_its_states() {
    let runtime = Runtime::new();
    let out = runtime.directory.join("out");
    fs::write(&out, "").unwrap();
    let bundle = runtime.bundle(
        "one",
        &["sh", "-c", "echo started; exec sleep 1000"],
        |_| {},
    );
    let created = runtime
        .command(&["create", "--bundle", bundle.to_str().unwrap(), "one"])
        .stdout(fs::File::create(&out).unwrap())
        .status()
        .unwrap();
    assert!(created.success());
    assert_eq!(runtime.status("one"), "created");
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "",
        "it ran before its start"
    );
    let pid = runtime.pid("one");
    runtime.ok(&["start", "one"]);
    assert_eq!(runtime.status("one"), "running");
    assert_eq!(runtime.pid("one"), pid);
    wait_until("the program has spoken", || {
        fs::read_to_string(&out).unwrap() == "started\n"
    });
    let refused = runtime.fails(1, &["start", "one"]);
    assert!(refused.contains("running"), "{refused}");
    let refused = runtime.fails(1, &["delete", "one"]);
    assert!(refused.contains("not stopped"), "{refused}");
    runtime.ok(&["kill", "one", "KILL"]);
    runtime.wait_for_status("one", "stopped");
    assert_eq!(runtime.pid("one"), 0);
    let refused = runtime.fails(1, &["kill", "one"]);
    // containerd takes these words for "it is gone already".
    assert!(refused.contains("container not running"), "{refused}");
    runtime.fails(1, &["start", "one"]);
    runtime.ok(&["delete", "one"]);
    let refused = runtime.fails(1, &["delete", "one"]);
    assert!(refused.contains("container does not exist"), "{refused}");
    runtime.ok(&["delete", "--force", "one"]);
    runtime.assert_clean();
}

#[test]
fn a_created_container_can_be_deleted() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["true"], |_| {});
    runtime.create("one", &bundle, &[]);
    let pid = runtime.pid("one");
    runtime.ok(&["delete", "one"]);
    assert!(!fs::exists(format!("/proc/{pid}/exe")).unwrap() || is_zombie(pid));
    // Its id is free again.
    runtime.create("one", &bundle, &[]);
    runtime.ok(&["delete", "-f", "one"]);
    runtime.assert_clean();
}

fn is_zombie(pid: i64) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[test]
fn run_returns_the_exit_code_and_leaves_nothing() {
    let runtime = Runtime::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$; exit 1", 1)] {
        let bundle = runtime.bundle("one", &["sh", "-c", script], |_| {});
        runtime.ends(code, &["run", "-b", bundle.to_str().unwrap(), "one"]);
    }
    // A signal from outside: 128 and its number.
    let bundle = runtime.bundle("two", &["sleep", "1000"], |_| {});
    let child = runtime
        .command(&["run", "--bundle", bundle.to_str().unwrap(), "two"])
        .spawn()
        .unwrap();
    wait_until("it runs", || {
        runtime.output(&["state", "two"]).status.success()
    });
    runtime.wait_for_status("two", "running");
    runtime.ok(&["kill", "two", "SIGKILL"]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    runtime.assert_clean();
}

#[test]
fn run_passes_signals_on() {
    let runtime = Runtime::new();
    let script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let bundle = runtime.bundle("one", &["sh", "-c", script], |_| {});
    let out = runtime.directory.join("out");
    let mut child = runtime
        .command(&["run", "--bundle", bundle.to_str().unwrap(), "one"])
        .stdout(fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    wait_until("it is ready", || {
        fs::read_to_string(&out).unwrap() == "ready\n"
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(fs::read_to_string(&out).unwrap(), "ready\ngot it\n");
    runtime.assert_clean();
}

#[test]
fn run_can_detach_and_keep() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["sleep", "1000"], |_| {});
    let status = runtime
        .command(&["run", "-d", "-b", bundle.to_str().unwrap(), "one"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(runtime.status("one"), "running");
    runtime.ok(&["delete", "--force", "one"]);
    let bundle = runtime.bundle("two", &["true"], |_| {});
    runtime.ok(&["run", "--keep", "-b", bundle.to_str().unwrap(), "two"]);
    assert_eq!(runtime.status("two"), "stopped");
    runtime.ok(&["delete", "two"]);
    runtime.assert_clean();
}

#[test]
fn kill_all_reaches_children_that_share_their_ids_with_the_host() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle(
        "one",
        &["sh", "-c", "sleep 1000 & sleep 1000 & wait"],
        |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        },
    );
    runtime.create("one", &bundle, &[]);
    runtime.ok(&["start", "one"]);
    let processes = || -> Vec<i64> {
        let (out, _) = runtime.ends(0, &["ps", "--format", "json", "one"]);
        serde_json::from_str(&out).unwrap()
    };
    wait_until("all three run", || processes().len() == 3);
    let pids = processes();
    runtime.ok(&["kill", "--all", "one", "9"]);
    wait_until("all are gone", || pids.iter().all(|&pid| is_zombie(pid)));
    runtime.ok(&["delete", "one"]);
    runtime.assert_clean();
}

#[test]
fn what_cannot_run_is_named_in_every_form() {
    let runtime = Runtime::new();
    let missing = runtime.bundle("missing", &["nope"], |_| {});
    let missing_path = runtime.bundle("path", &["/bin/nope"], |_| {});
    let denied = runtime.bundle("denied", &["/etc/passwd"], |_| {});
    for (bundle, words) in [
        (&missing, "executable file not found in $PATH"),
        (&missing_path, "no such file or directory"),
        (&denied, "permission denied"),
    ] {
        let path = bundle.to_str().unwrap();
        for command in ["run", "create"] {
            let complaint = runtime.fails(1, &[command, "-b", path, "one"]);
            assert!(complaint.contains(words), "{complaint}");
        }
    }
    runtime.assert_clean();
}

#[test]
fn wrong_words_and_ids_are_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.idle("one");
    let path = bundle.to_str().unwrap();
    for (arguments, words) in [
        (
            &["create", "-b", path, "one"][..],
            "container with given ID already exists",
        ),
        (&["run", "-b", path, "../one"], "invalid container id"),
        (&["run", "-b", path, "a/b"], "invalid container id"),
        (&["run", "-b", path, ".."], "invalid container id"),
        (&["run", "-b", path], "container id is needed"),
        (&["run", "-b", "/nowhere", "two"], "/nowhere"),
        (&["run", "-b", path, "two", "three"], "unexpected argument"),
        (&["state", "two"], "container does not exist"),
        (&["start", "two"], "container does not exist"),
        (&["kill", "two"], "container does not exist"),
        (&["kill", "one", "NOSUCH"], "unknown signal"),
        (&["pause", "two"], "container does not exist"),
        (&["resume", "one"], "not paused"),
        (&["ps", "two"], "container does not exist"),
        (&["nonsense"], "unknown command"),
        (&["--log-format", "xml", "list"], "unknown log format"),
        (&["list", "-f", "xml"], "invalid format"),
        (&["state", "one", "--flag"], "unexpected argument"),
    ] {
        let complaint = runtime.fails(1, arguments);
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
        assert!(complaint.starts_with("gantry-runtime: "), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    assert_eq!(runtime.status("one"), "running");
}

#[test]
fn a_broken_configuration_is_an_error_and_leaves_nothing() {
    let runtime = Runtime::new();
    for (name, change) in [
        (
            "program",
            (|config| config["process"]["args"] = json!([])) as fn(&mut Value),
        ),
        ("root", |config| config["root"]["path"] = json!("/nowhere")),
        ("no-root", |config| {
            drop(config.as_object_mut().unwrap().remove("root"))
        }),
        ("mount", |config| {
            config["mounts"][0]["type"] = json!("nosuchfs");
        }),
        ("namespace", |config| {
            config["linux"]["namespaces"][0]["path"] = json!("/nowhere");
        }),
        ("capability", |config| {
            config["process"]["capabilities"]["effective"] = json!(["CAP_NOPE"]);
            config["process"]["user"]["uid"] = json!("x");
        }),
    ] {
        let bundle = runtime.bundle(name, &["true"], change);
        let complaint = runtime.fails(1, &["run", "-b", bundle.to_str().unwrap(), name]);
        assert!(!complaint.is_empty());
        assert!(!complaint.contains("panicked"), "{complaint}");
    }
    let bundle = runtime.bundle("text", &["true"], |_| {});
    fs::write(bundle.join("config.json"), "{").unwrap();
    let complaint = runtime.fails(1, &["run", "-b", bundle.to_str().unwrap(), "text"]);
    assert!(complaint.contains("config.json"), "{complaint}");
    runtime.assert_clean();
}

#[test]
fn unknown_capabilities_are_a_warning() {
    let runtime = Runtime::new();
    let script = "grep ^CapEff /proc/self/status";
    let bundle = runtime.bundle("one", &["sh", "-c", script], |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_NOPE", "CAP_KILL"]);
        }
    });
    let log = runtime.directory.join("log");
    let logged = || {
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        text
    };
    let with_log = ["--log", log.to_str().unwrap()];
    let run = |arguments: &[&str]| runtime.ends(0, &[&with_log, arguments].concat());
    let path = bundle.to_str().unwrap();
    let (out, _) = run(&["run", "--bundle", path, "one"]);
    assert_eq!(out, "CapEff:\t0000000000000020");
    // Once, however many sets name it.
    let words = "ignoring unknown capabilities: CAP_NOPE";
    assert_eq!(logged().matches(words).count(), 1);
    // Before `create` ends: `start` does not hear of it any more.
    let status = runtime
        .command(&[&with_log[..], &["create", "--bundle", path, "two"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert!(logged().contains(words));
    let process = runtime.directory.join("process.json");
    let document = json!({
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "capabilities": {"effective": ["CAP_NEVER"]},
    });
    fs::write(&process, document.to_string()).unwrap();
    run(&["exec", "--process", process.to_str().unwrap(), "two"]);
    assert!(logged().contains("ignoring unknown capabilities: CAP_NEVER"));
}

#[test]
fn relative_sources_of_mounts_begin_at_the_bundle() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["cat", "/mnt/file", "/tmp/file"], |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (source, destination) in [("data", "/mnt"), ("../beside", "/tmp")] {
            mounts.push(json!({"destination": destination, "source": source,
                "options": ["bind"]}));
        }
    });
    for (directory, content) in [
        (bundle.join("data"), "in"),
        (bundle.join("../beside"), "out"),
    ] {
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), content).unwrap();
    }
    // What lies in the caller's directory is another matter.
    let elsewhere = runtime.directory.join("elsewhere");
    fs::create_dir_all(elsewhere.join("data")).unwrap();
    fs::write(elsewhere.join("data/file"), "wrong").unwrap();
    let output = runtime
        .command(&["run", "--bundle", "../bundle-one", "one"])
        .current_dir(&elsewhere)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "inout", "{}", text(&output.stderr));
}

#[test]
fn what_is_no_program_says_so_itself() {
    let runtime = Runtime::new();
    let programs = runtime.directory.join("programs");
    fs::create_dir(&programs).unwrap();
    for (name, content, mode) in [
        ("garbage", "garbage", 0o755),
        ("link", "#!/nowhere\n", 0o755),
        ("roots", "#!/bin/sh\n", 0o700),
    ] {
        let path = programs.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // The words by which docker and Podman find the exit codes 127 and 126.
    for (name, words) in [
        ("link", "no such file or directory"),
        ("roots", "permission denied"),
        ("garbage", ""),
    ] {
        let bundle = runtime.bundle(name, &[&format!("/mnt/{name}")], |config| {
            config["process"]["user"]["uid"] = json!(1000);
            let mount = json!({"destination": "/mnt", "source": programs, "options": ["bind"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        });
        let said = runtime.directory.join("said");
        let created = runtime
            .command(&["create", "--bundle", bundle.to_str().unwrap(), name])
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said).unwrap())
            .status();
        assert!(created.unwrap().success());
        if words.is_empty() {
            // They know none for this: it is started, and ends with 126 of its own accord.
            runtime.ok(&["start", name]);
            runtime.wait_for_status(name, "stopped");
            let said = fs::read_to_string(&said).unwrap();
            assert!(said.contains("Exec format error"), "{said}");
        } else {
            let refused = runtime.fails(1, &["start", name]);
            assert!(refused.contains(words), "{refused}");
        }
        runtime.ok(&["delete", name]);
    }
    runtime.assert_clean();
}

#[test]
fn logs_have_the_form_that_clients_read() {
    let runtime = Runtime::new();
    let log = runtime.directory.join("log");
    let path = log.to_str().unwrap();
    let complaint = runtime.fails(1, &["--log", path, "--log-format", "json", "state", "two"]);
    assert!(
        complaint.contains("container does not exist"),
        "{complaint}"
    );
    let written = fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(written.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(
        last["msg"]
            .as_str()
            .unwrap()
            .contains("container does not exist")
    );
    assert!(last["time"].as_str().unwrap().ends_with('Z'));
    fs::remove_file(&log).unwrap();
    runtime.fails(1, &["--log", path, "state", "two"]);
    let written = fs::read_to_string(&log).unwrap();
    assert!(written.starts_with("time=\""), "{written}");
    assert!(
        written.contains(" level=error msg=\"container does not exist"),
        "{written}"
    );
    fs::remove_file(&log).unwrap();
    // Nothing to say, no file.
    runtime.ok(&["--log", path, "list"]);
    assert!(!log.exists());
    let bundle = runtime.bundle("one", &["true"], |_| {});
    runtime.ok(&[
        "--debug",
        "--log",
        path,
        "run",
        "-b",
        bundle.to_str().unwrap(),
        "one",
    ]);
    assert!(fs::read_to_string(&log).unwrap().contains("level=debug"));
}

#[test]
fn a_status_is_never_that_of_a_stranger() {
    let runtime = Runtime::new();
    runtime.idle("one");
    // As if the process had died and its id had passed to another one.
    let file = runtime.root.join("one/state.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let pid = record["pid"].clone();
    record["startTime"] = json!(record["startTime"].as_u64().unwrap() + 1);
    fs::write(&file, record.to_string()).unwrap();
    assert_eq!(runtime.status("one"), "stopped");
    runtime.fails(1, &["kill", "one", "KILL"]);
    assert!(!is_zombie(pid.as_i64().unwrap()), "a stranger was killed");
}

/// CVE-2019-5736: the file that a container could get hold of is not the one on the host.
#[test]
fn a_birth_runs_from_a_read_only_file() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["sleep", "1000"], |_| {});
    let mut child = runtime
        .command(&["run", "-b", bundle.to_str().unwrap(), "one"])
        .spawn()
        .unwrap();
    wait_until("it runs", || {
        runtime.output(&["state", "one"]).status.success()
    });
    runtime.wait_for_status("one", "running");
    let own = format!("/proc/{}/exe", child.id());
    let found = rustix::fs::statvfs(&*own).unwrap();
    assert!(found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // It lies in no mount namespace: nobody can make it writable again.
    let id = mount_id(&own);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts
            .lines()
            .any(|line| line.split(' ').next() == Some(&*id))
    );
    // The same for a created container's process, which waits in our program.
    let created = runtime.bundle("two", &["sleep", "1000"], |_| {});
    runtime.create("two", &created, &[]);
    let waiting = format!("/proc/{}/exe", runtime.pid("two"));
    let found = rustix::fs::statvfs(&*waiting).unwrap();
    assert!(found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    runtime.ok(&["delete", "-f", "two"]);
    runtime.ok(&["delete", "-f", "one"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

fn mount_id(path: &str) -> String {
    let file = fs::File::open(path).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
    let line = info
        .lines()
        .find(|line| line.starts_with("mnt_id:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_killed_create_leaves_what_delete_removes() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["sleep", "1000"], |_| {});
    let path = bundle.to_str().unwrap();
    // How long a whole one takes, to spread the kills over it.
    let start = Instant::now();
    runtime.create("one", &bundle, &[]);
    let whole = start.elapsed();
    runtime.ok(&["delete", "--force", "one"]);
    let rounds: u32 = if crate::is_long() { 300 } else { 25 };
    for round in 0..rounds {
        let mut child = runtime
            .command(&["create", "-b", path, "one"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(whole * round / rounds);
        let _ = child.kill();
        child.wait().unwrap();
        runtime.ok(&["delete", "--force", "one"]);
        let left = runtime.remains();
        assert!(left.is_empty(), "round {round}: {left:#?}");
    }
    let waiting = processes_in(path);
    assert!(waiting.is_empty(), "left: {waiting:?}");
}

/// Processes that still wait in our program, by their command line.
fn processes_in(word: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("create") && line.contains(word))
        .collect()
}

#[test]
fn a_container_with_a_damaged_record_can_be_removed() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let pid = runtime.pid("one");
    fs::write(runtime.root.join("one/state.json"), "{").unwrap();
    let complaint = runtime.fails(1, &["state", "one"]);
    assert!(complaint.contains("state.json"), "{complaint}");
    runtime.fails(1, &["delete", "one"]);
    runtime.ok(&["delete", "--force", "one"]);
    wait_until("its process is gone", || is_zombie(pid));
    runtime.assert_clean();
}

#[test]
fn a_start_that_was_killed_can_be_done_again() {
    use std::io::Read as _;
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &["sleep", "1000"], |_| {});
    runtime.create("one", &bundle, &[]);
    // As `start` does it, but for the note that it is done.
    let fifo = runtime.root.join("one/exec.fifo");
    let mut passed = Vec::new();
    fs::File::open(&fifo)
        .unwrap()
        .read_to_end(&mut passed)
        .unwrap();
    assert_eq!(passed, b"0");
    assert_eq!(runtime.status("one"), "created");
    runtime.ok(&["start", "one"]);
    assert_eq!(runtime.status("one"), "running");
    runtime.ok(&["delete", "-f", "one"]);
    runtime.assert_clean();
}

#[test]
fn readiness_is_passed_on() {
    use std::os::unix::net::UnixDatagram;
    let runtime = Runtime::new();
    let socket = runtime.directory.join("notify.sock");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // busybox has nothing that speaks to a datagram socket, so the test does it from
    // outside, through the directory that the container sees.
    let bundle = runtime.bundle(
        "one",
        &[
            "sh",
            "-c",
            "echo $NOTIFY_SOCKET; ls /run/notify; exec sleep 1000",
        ],
        |_| {},
    );
    let out = runtime.directory.join("out");
    let created = runtime
        .command(&["create", "-b", bundle.to_str().unwrap(), "one"])
        .env("NOTIFY_SOCKET", &socket)
        .stdout(fs::File::create(&out).unwrap())
        .status()
        .unwrap();
    assert!(created.success());
    let mut start = runtime
        .command(&["start", "one"])
        .env("NOTIFY_SOCKET", &socket)
        .spawn()
        .unwrap();
    wait_until("it has spoken", || {
        fs::read_to_string(&out).unwrap().lines().count() == 2
    });
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "/run/notify/notify.sock\nnotify.sock\n"
    );
    assert!(
        start.try_wait().unwrap().is_none(),
        "start waits for readiness"
    );
    let sender = UnixDatagram::unbound().unwrap();
    let inside = runtime.root.join("one/notify/notify.sock");
    sender.send_to(b"STATUS=loading", &inside).unwrap();
    sender.send_to(b"READY=1\nSTATUS=up", &inside).unwrap();
    let mut buffer = [0u8; 256];
    let length = receiver.recv(&mut buffer).unwrap();
    assert_eq!(
        text(&buffer[..length]),
        format!("READY=1\nMAINPID={}", runtime.pid("one"))
    );
    assert!(start.wait().unwrap().success());
    runtime.ok(&["delete", "-f", "one"]);
    runtime.assert_clean();
}

#[test]
fn a_container_has_a_keyring_of_its_own() {
    let runtime = Runtime::new();
    let unmasked = |config: &mut Value| {
        let masked = config["linux"]["maskedPaths"].as_array_mut().unwrap();
        masked.retain(|path| path != "/proc/keys");
    };
    // Keyrings of other containers are seen too, so the names are this test's own.
    let (own, none) = (
        format!("a-{}", runtime.group),
        format!("b-{}", runtime.group),
    );
    let keys = runtime.shell(&own, "cat /proc/keys", unmasked);
    assert!(keys.contains(&format!("_ses.{own}")), "{keys}");
    let bundle = runtime.bundle(&none, &["cat", "/proc/keys"], unmasked);
    let bundle = bundle.to_str().unwrap();
    let keys = runtime.ok(&["run", "--no-new-keyring", "-b", bundle, &none]);
    assert!(!keys.contains(&format!("_ses.{none}")), "{keys}");
}

#[test]
fn the_loopback_interface_is_up_and_devices_are_there() {
    let runtime = Runtime::new();
    let seen = runtime.shell(
        "one",
        "cat /sys/class/net/lo/operstate /sys/class/net/lo/flags; \
         echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls /dev | tr '\\n' ' '",
        |_| {},
    );
    assert!(seen.contains("0x9\n3\n"), "{seen}");
    for name in [
        "full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero",
    ] {
        assert!(seen.contains(name), "{seen}");
    }
}

#[test]
fn poststart_and_poststop_are_run_and_told() {
    let runtime = Runtime::new();
    let hook = |name: &str| {
        let file = runtime.directory.join(name);
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", file.display())]}])
    };
    let bundle = runtime.bundle("one", &["sleep", "1000"], |config| {
        config["hooks"] = json!({"poststart": hook("poststart"), "poststop": hook("poststop")});
    });
    runtime.create("one", &bundle, &[]);
    assert!(!runtime.directory.join("poststart").exists());
    runtime.ok(&["start", "one"]);
    let told = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(runtime.directory.join(name)).unwrap()).unwrap()
    };
    let state = told("poststart");
    assert_eq!(
        (&state["id"], &state["status"]),
        (&json!("one"), &json!("running"))
    );
    assert_eq!(state["pid"], runtime.pid("one"));
    assert!(!runtime.directory.join("poststop").exists());
    runtime.ok(&["delete", "--force", "one"]);
    assert_eq!(told("poststop")["status"], "stopped");
    // A failure is told and changes nothing.
    let bundle = runtime.bundle("two", &["true"], |config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/false"}]});
    });
    let (_, warning) = runtime.ends(0, &["run", "-b", bundle.to_str().unwrap(), "two"]);
    assert!(warning.contains("poststop"), "{warning}");
    runtime.assert_clean();
}
