//! Containers by other OCI runtimes: what works with our own works with them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "crash/pair.rs"]
mod pair;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pair::{Part, await_pair, kill, strike};
use support::{Installation, text, wait_until};

/// Runtimes that every test of the everyday life is done with.
const RUNTIMES: [&str; 2] = ["runc", "gantry-runtime"];

/// A program that says so, waits, and ends with 7 when it is told to.
const PROGRAM: &str = "trap 'exit 7' TERM; echo begun; sleep 1000 & wait; wait";

impl Installation {
    /// Runs a shell command in a fresh container of a runtime, without network.
    fn shell_by(&self, runtime: &str, flags: &[&str], script: &str) -> String {
        let flags: Vec<&str> = ["--runtime", runtime]
            .iter()
            .chain(flags)
            .copied()
            .collect();
        self.shell(&flags, script)
    }

    /// Starts a container of a runtime in the background; waits for its first line.
    fn start_by(&self, runtime: &str, name: &str, flags: &[&str], script: &str) {
        let mut arguments = vec!["run", "-d", "--name", name, "--runtime", runtime];
        arguments.extend(flags);
        arguments.extend(["busybox", "sh", "-c", script]);
        self.ok(&arguments);
        wait_until("the container to begin", || {
            self.ok(&["logs", name]).starts_with("begun")
        });
    }

    /// A runtime of the test's own: a shell script.
    fn script(&self, name: &str, body: &str) -> String {
        let path = self.root.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// runc, but slow: every call that changes something takes its time before and after.
    fn slow_runc(&self) -> String {
        self.script(
            "slow-runc",
            "case \" $* \" in *' create '*|*' start '*|*' exec '*) sleep 0.2; runc \"$@\"; code=$?; sleep 0.2; exit $code;; esac\n\
             exec runc \"$@\"",
        )
    }
}

/// Processes whose command line holds a text.
fn processes(mark: &str) -> Vec<String> {
    let lines = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
    lines.filter(|line| line.contains(mark)).collect()
}

/// Nothing is left, not even of the runtime's own processes.
fn assert_gone(gantry: &Installation) {
    gantry.assert_clean();
    let mark = gantry.run.to_string_lossy().into_owned();
    wait_until("the runtime's processes to be gone", || {
        processes(&mark).is_empty()
    });
}

#[test]
fn a_life_by_another_runtime() {
    let gantry = Installation::with_busybox();
    for runtime in RUNTIMES {
        gantry.start_by(runtime, "life", &["--network", "none"], PROGRAM);
        let seen = gantry.inspect("life");
        assert_eq!(seen["HostConfig"]["Runtime"], runtime);
        assert_eq!(seen["State"]["Status"], "running");
        let pid = seen["State"]["Pid"].as_i64().unwrap();
        let program = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(program.starts_with(b"sh\0"), "{runtime}: {program:?}");
        // Its root is mounted in no namespace but those of the runtime and the container.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = gantry.root.to_string_lossy();
        assert!(!mounts.contains(&*root), "{runtime}: {mounts}");

        gantry.fails(5, &["exec", "life", "sh", "-c", "exit 5"]);
        assert_eq!(
            gantry.ok(&["exec", "-u", "app", "life", "id", "-u"]),
            "1000"
        );
        let inside = gantry.ok(&[
            "exec",
            "-e",
            "A=b",
            "-w",
            "/tmp",
            "life",
            "sh",
            "-c",
            "pwd; echo $A $HOME",
        ]);
        assert_eq!(inside, "/tmp\nb /root", "{runtime}");
        let fed = gantry.feed(&["exec", "-i", "life", "cat"], b"through");
        assert_eq!(text(&fed.stdout), "through", "{runtime}");
        gantry.ok(&["exec", "life", "sh", "-c", "echo kept > /file"]);

        gantry.ok(&["stop", "life"]);
        assert_eq!(gantry.inspect("life")["State"]["ExitCode"], 7, "{runtime}");
        gantry.fails(1, &["exec", "life", "true"]);
        gantry.ok(&["start", "life"]);
        assert_eq!(gantry.ok(&["exec", "life", "cat", "/file"]), "kept");
        let waiter = gantry
            .command(&["wait", "life"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        gantry.ok(&["kill", "life"]);
        let waited = waiter.wait_with_output().unwrap();
        assert_eq!(text(&waited.stdout), "137", "{runtime}");
        gantry.ok(&["start", "life"]);
        gantry.ok(&["rm", "-f", "life"]);
        assert_gone(&gantry);
    }
}

#[test]
fn exit_codes_and_errors_are_those_of_our_own() {
    let gantry = Installation::with_busybox();
    for runtime in RUNTIMES {
        for (code, command) in [
            (0, &["true"][..]),
            (42, &["sh", "-c", "exit 42"]),
            (137, &["sh", "-c", "kill -9 $$"]),
            (127, &["nosuchprogram"]),
            (127, &["/bin/nosuchprogram"]),
            (126, &["/etc"]),
            (126, &["/etc/passwd"]),
        ] {
            let mut arguments = vec![
                "run",
                "--rm",
                "--network",
                "none",
                "--runtime",
                runtime,
                "busybox",
            ];
            arguments.extend(command);
            // A first process of a namespace is deaf to its own kill.
            let code = if code == 137 { 0 } else { code };
            let said = gantry.fails(code, &arguments);
            let ours = said
                .lines()
                .filter(|line| line.starts_with("gantry: "))
                .count();
            let expected = usize::from(code == 126 || code == 127);
            assert_eq!(ours, expected, "{runtime} {command:?}: {said}");
            assert!(expected == 0 || said.contains(runtime), "{said}");
        }
        gantry.start_by(runtime, "exec", &["--network", "none"], PROGRAM);
        gantry.fails(127, &["exec", "exec", "nosuchprogram"]);
        gantry.fails(126, &["exec", "exec", "/etc/passwd"]);
        gantry.ok(&["rm", "-f", "exec"]);
    }
    assert_gone(&gantry);
}

#[test]
fn isolation_and_limits_are_the_same() {
    let gantry = Installation::with_busybox();
    for runtime in RUNTIMES {
        let said = gantry.shell_by(
            runtime,
            &["-u", "app", "-h", "place"],
            "id -u; id -g; echo $HOME; hostname; echo x > /dev/stdout; grep -h -e CapEff -e Seccomp: /proc/self/status",
        );
        assert_eq!(
            said, "1000\n1001\n/home/app\nplace\nx\nCapEff:\t0000000000000000\nSeccomp:\t2",
            "{runtime}"
        );
        let own = gantry.shell(
            &[],
            "grep Cap /proc/self/status; ls /dev; ls /sys/class/net",
        );
        let other = gantry.shell_by(
            runtime,
            &[],
            "grep Cap /proc/self/status; ls /dev; ls /sys/class/net",
        );
        assert_eq!(own, other, "{runtime}");
        let mut command = vec![
            "run",
            "--rm",
            "--network",
            "none",
            "--runtime",
            runtime,
            "--read-only",
        ];
        command.extend(["busybox", "touch", "/file"]);
        let said = gantry.fails(1, &command);
        assert!(said.contains("Read-only"), "{runtime}: {said}");
        let group = gantry.shell_by(
            runtime,
            &["--pids-limit", "50", "-m", "64m"],
            "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true",
        );
        assert_eq!(group, "50\n67108864", "{runtime}");
        // A volume is filled from the image, and keeps what was written.
        gantry.shell_by(
            runtime,
            &["-v", "filled:/home"],
            "ls -d /home/app && echo 1 > /home/n",
        );
        let kept = gantry.shell_by(
            runtime,
            &["-v", "filled:/mnt:ro"],
            "cat /mnt/n; ls -d /mnt/app",
        );
        assert_eq!(kept, "1\n/mnt/app", "{runtime}");
        let made = gantry.shell_by(runtime, &["-w", "/new/place"], "pwd");
        assert_eq!(made, "/new/place", "{runtime}");
    }
    assert_gone(&gantry);
}

#[test]
fn a_terminal_is_handed_over() {
    let gantry = Installation::with_busybox();
    for runtime in RUNTIMES {
        let said = gantry.ok(&[
            "run",
            "--rm",
            "-t",
            "--network",
            "none",
            "--runtime",
            runtime,
            "busybox",
            "tty",
        ]);
        assert_eq!(said, "/dev/pts/0\r", "{runtime}");
        gantry.start_by(runtime, "term", &["-t", "--network", "none"], PROGRAM);
        assert_eq!(gantry.ok(&["logs", "term"]), "begun\r");
        let said = gantry.ok(&["exec", "-t", "term", "sh", "-c", "test -t 0 && tty"]);
        assert_eq!(said, "/dev/pts/1\r", "{runtime}");
        gantry.ok(&["rm", "-f", "term"]);
    }
    assert_gone(&gantry);
}

#[test]
fn networks_and_ports_are_the_same() {
    let gantry = Installation::with_busybox();
    for runtime in RUNTIMES {
        let serve =
            "echo begun; while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 80; done";
        gantry.start_by(runtime, "web", &["-p", "127.0.0.1:0:80"], serve);
        let ports =
            gantry.inspect("web")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].clone();
        let port: u16 = ports.as_str().unwrap().parse().unwrap();
        wait_until("the page", || {
            let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
                return false;
            };
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut page = String::new();
            let _ = stream.read_to_string(&mut page);
            page.ends_with("hello")
        });
        let address = "ip -4 -o addr show eth0 | awk '{print $4}'";
        let own = gantry.ok(&["exec", "web", "sh", "-c", address]);
        for other in ["gantry", runtime] {
            let flags = [
                "run",
                "--rm",
                "--network",
                "container:web",
                "--runtime",
                other,
            ];
            let arguments: Vec<&str> = flags
                .into_iter()
                .chain(["busybox", "sh", "-c", address])
                .collect();
            assert_eq!(gantry.ok(&arguments), own, "{runtime}, joined by {other}");
        }
        let host = gantry.ok(&[
            "run",
            "--rm",
            "--network",
            "host",
            "--runtime",
            runtime,
            "busybox",
            "readlink",
            "/proc/self/ns/net",
        ]);
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(host, ours.to_string_lossy(), "{runtime}");
        gantry.ok(&["rm", "-f", "web"]);
    }
    assert_gone(&gantry);
}

#[test]
fn what_is_no_runtime_is_refused_before_anything_is_made() {
    let gantry = Installation::with_busybox();
    let plain = gantry.root.join("plain");
    fs::write(&plain, "no program").unwrap();
    let plain = plain.to_str().unwrap();
    for name in [
        "nosuch",
        "sh",
        "runc2",
        "/nowhere/runc",
        plain,
        "/etc",
        "./runc",
    ] {
        for verb in ["run", "create"] {
            let said = gantry.fails(125, &[verb, "--runtime", name, "busybox", "true"]);
            let expected = format!("unknown or invalid runtime name: {name}");
            assert!(said.contains(&expected), "{said}");
        }
    }
    gantry.fails(
        125,
        &["run", "--init", "--runtime", "runc", "busybox", "true"],
    );
    assert_gone(&gantry);
    // Docker's clients name the default so.
    for name in ["io.containerd.runc.v2", "gantry", ""] {
        gantry.ok(&[
            "run",
            "--network",
            "none",
            "--name",
            "own",
            "--runtime",
            name,
            "busybox",
            "true",
        ]);
        assert_eq!(gantry.inspect("own")["HostConfig"]["Runtime"], "gantry");
        gantry.ok(&["rm", "own"]);
    }
    // One that was removed since the container was made.
    let gone = gantry.script("gone", "exec runc \"$@\"");
    gantry.ok(&[
        "create",
        "--network",
        "none",
        "--name",
        "late",
        "--runtime",
        &gone,
        "busybox",
        "true",
    ]);
    fs::remove_file(&gone).unwrap();
    let said = gantry.fails(1, &["start", "late"]);
    assert!(said.contains("unknown or invalid runtime name"), "{said}");
    gantry.ok(&["rm", "late"]);
    assert_gone(&gantry);
}

#[test]
fn info_lists_the_runtimes() {
    let gantry = Installation::with_busybox();
    gantry.ok(&["create", "busybox", "true"]);
    let info: serde_json::Value =
        serde_json::from_str(&gantry.ok(&["info", "--format", "json"])).unwrap();
    assert_eq!(info["DefaultRuntime"], "gantry");
    let runc = info["Runtimes"]["runc"]["path"].as_str().unwrap();
    assert!(PathBuf::from(runc).is_file(), "{runc}");
    assert!(info["Runtimes"]["gantry"].is_object());
    assert!(info["Runtimes"]["nosuch"].is_null());
    assert_eq!(
        (&info["Containers"], &info["Images"]),
        (&1.into(), &1.into())
    );
    let said = gantry.ok(&["system", "info"]);
    let line = said
        .lines()
        .find(|line| line.starts_with(" Runtimes:"))
        .unwrap();
    assert!(line.contains("gantry") && line.contains("runc"), "{line}");
    assert_eq!(gantry.ok(&["info", "-f", "{{.ContainersRunning}}"]), "0");
}

#[test]
fn a_runtime_that_fails_is_named_and_leaves_nothing() {
    let gantry = Installation::with_busybox();
    let log = "for word in \"$@\"; do [ \"$before\" = --log ] && log=$word; before=$word; done";
    for (body, expected) in [
        ("exit 3", "odd: it ended with exit code 3 and said nothing"),
        ("kill -9 $$", "odd: it was killed by signal 9"),
        (
            &*format!(
                "{log}; printf '%s\\n' '{{\"level\":\"error\",\"msg\":\"no\\nmood\"}}' > \"$log\"; exit 1"
            ),
            "odd: no mood",
        ),
        // It says that all is well, and there is nothing.
        ("exit 0", "cannot use"),
        // It starts what it made only in its own opinion.
        (
            "case \" $* \" in *' start '*) exit 4;; esac; exec runc \"$@\"",
            "odd: it ended with exit code 4",
        ),
    ] {
        let runtime = gantry.script("odd", body);
        let said = gantry.fails(
            125,
            &[
                "run",
                "--rm",
                "-p",
                "0:80",
                "--runtime",
                &runtime,
                "busybox",
                "true",
            ],
        );
        assert!(said.contains(expected), "{body}: {said}");
        assert_gone(&gantry);
    }
    // A delete that hangs does not take the container's end with it.
    let runtime = gantry.script(
        "odd",
        "case \" $* \" in *' delete '*) exec sleep 1000;; esac; exec runc \"$@\"",
    );
    let begun = Instant::now();
    gantry.fails(
        6,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--runtime",
            &runtime,
            "busybox",
            "sh",
            "-c",
            "exit 6",
        ],
    );
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    assert_gone(&gantry);
}

#[test]
fn a_container_survives_the_deaths_of_its_supervisor() {
    let gantry = Installation::with_busybox();
    gantry.start_by("runc", "survivor", &["--network", "none"], PROGRAM);
    let pid = gantry.inspect("survivor")["State"]["Pid"].clone();
    for part in [Part::Inner, Part::Outer, Part::Outer, Part::Inner] {
        strike(&gantry, part);
        assert_eq!(
            gantry.ok(&["exec", "survivor", "echo", "here"]),
            "here",
            "{part:?}"
        );
        assert_eq!(gantry.inspect("survivor")["State"]["Pid"], pid);
    }
    gantry.ok(&["stop", "survivor"]);
    assert_eq!(gantry.inspect("survivor")["State"]["ExitCode"], 7);
    gantry.ok(&["rm", "survivor"]);
    assert_gone(&gantry);
}

#[test]
fn what_is_left_by_two_deaths_at_once_can_be_removed() {
    let gantry = Installation::with_busybox();
    let slow = gantry.slow_runc();
    // While it runs, and while it is being made.
    for after in [None, Some(100), Some(300), Some(500), Some(700)] {
        let arguments = [
            "run",
            "-d",
            "--name",
            "target",
            "-p",
            "0:80",
            "--runtime",
            &slow,
            "busybox",
            "sh",
            "-c",
            PROGRAM,
        ];
        let mut command = gantry.command(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (outer, inner) = oldest_pair(&gantry);
        match after {
            None => drop(child.wait().unwrap()),
            Some(after) => std::thread::sleep(Duration::from_millis(after)),
        }
        kill(outer);
        kill(inner);
        let _ = child.wait();
        gantry.ok(&["rm", "-f", "target"]);
        assert_gone(&gantry);
    }
}

/// Kills one process of the supervisor at some moment of a start that takes a second.
fn kill_while(gantry: &Installation, arguments: &[&str], part: Part, after: Duration) -> String {
    let child = gantry
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (outer, inner) = oldest_pair(gantry);
    std::thread::sleep(after);
    kill(if part == Part::Outer { outer } else { inner });
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{part:?} after {after:?}: {said}");
    text(&output.stdout)
}

/// The two processes of a supervisor; its helpers are children of the inner one.
fn oldest_pair(gantry: &Installation) -> (i32, i32) {
    let mut found = None;
    wait_until("both processes of the supervisor", || {
        let all = gantry.supervisors();
        let outer = all.iter().find(|&&pid| !all.contains(&pair::parent(pid)));
        found = outer.and_then(|&outer| {
            let inner = all.iter().find(|&&pid| pair::parent(pid) == outer);
            Some((outer, *inner?))
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_start_goes_on_when_a_process_of_the_supervisor_dies() {
    let gantry = Installation::with_busybox();
    let slow = gantry.slow_runc();
    for (part, tenths) in [Part::Inner, Part::Outer]
        .into_iter()
        .flat_map(|part| [1, 3, 5, 7, 9].map(|tenths| (part, tenths)))
    {
        let after = Duration::from_millis(tenths * 100);
        let arguments = [
            "run",
            "-d",
            "--name",
            "target",
            "-p",
            "0:80",
            "--runtime",
            &slow,
            "busybox",
            "sh",
            "-c",
            PROGRAM,
        ];
        kill_while(&gantry, &arguments, part, after);
        wait_until("the container to begin", || {
            gantry.ok(&["logs", "target"]) == "begun"
        });
        gantry.ok(&["stop", "target"]);
        let code = gantry.inspect("target")["State"]["ExitCode"].clone();
        assert_eq!(code, 7, "{part:?} after {after:?}");
        gantry.ok(&["rm", "target"]);
        assert_gone(&gantry);
    }
}

#[test]
fn an_exec_is_started_once_whoever_dies() {
    let gantry = Installation::with_busybox();
    let slow = gantry.slow_runc();
    gantry.start_by(&slow, "target", &["--network", "none"], PROGRAM);
    let mut rounds = 0;
    for (part, tenths) in [Part::Inner, Part::Outer]
        .into_iter()
        .flat_map(|part| [0, 1, 2, 3, 4].map(|tenths| (part, tenths)))
    {
        await_pair(&gantry);
        let after = Duration::from_millis(50 + tenths * 100);
        let arguments = ["exec", "target", "sh", "-c", "echo x >> /count; echo said"];
        assert_eq!(
            kill_while(&gantry, &arguments, part, after),
            "said",
            "{part:?} after {after:?}"
        );
        rounds += 1;
        let count = gantry.ok(&["exec", "target", "sh", "-c", "wc -l < /count"]);
        assert_eq!(count, rounds.to_string(), "{part:?} after {after:?}");
    }
    gantry.ok(&["rm", "-f", "target"]);
    assert_gone(&gantry);
}

#[test]
fn the_death_of_a_helper_is_a_start_that_failed() {
    let gantry = Installation::with_busybox();
    let slow = gantry.slow_runc();
    for tenths in [1, 3, 5, 7] {
        let child = gantry
            .command(&[
                "run",
                "--rm",
                "-p",
                "0:80",
                "--runtime",
                &slow,
                "busybox",
                "sh",
                "-c",
                PROGRAM,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (_, inner) = oldest_pair(&gantry);
        std::thread::sleep(Duration::from_millis(tenths * 100));
        let helper = gantry
            .supervisors()
            .into_iter()
            .find(|&pid| pair::parent(pid) == inner);
        kill(helper.unwrap());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{tenths}");
        assert!(
            text(&output.stderr).contains("slow-runc was interrupted"),
            "{}",
            text(&output.stderr)
        );
        assert_gone(&gantry);
    }
}

/// crun refuses a host with both versions of control groups: it is given a view of one.
#[test]
fn crun_in_a_view_of_the_first_version_alone() {
    let unified = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let unified = unified.contains("/sys/fs/cgroup/unified");
    if Command::new("crun").arg("--version").output().is_err() {
        eprintln!("skipped: there is no crun here");
        return;
    }
    let gantry = Installation::with_busybox();
    let run = |arguments: &[&str]| {
        let inner = gantry.command(arguments);
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c"])
            .arg(if unified {
                "umount /sys/fs/cgroup/unified; exec \"$0\" \"$@\""
            } else {
                "exec \"$0\" \"$@\""
            })
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let by_crun = |flags: &[&str], command: &[&str]| {
        let start: [&str; 5] = ["run", "--runtime", "crun", "--network", "none"];
        let all: Vec<&str> = start
            .iter()
            .chain(flags)
            .chain(&["busybox"])
            .chain(command)
            .copied()
            .collect();
        run(&all)
    };
    let (code, said, error) = by_crun(&["--rm"], &["sh", "-c", "echo by crun; exit 3"]);
    assert_eq!((code, &*said), (3, "by crun"), "{error}");
    assert_eq!(by_crun(&["--rm"], &["nosuchprogram"]).0, 127);
    assert_eq!(by_crun(&["--rm"], &["/etc"]).0, 126);
    let (code, said, error) = by_crun(&["--rm", "-t"], &["tty"]);
    assert_eq!((code, &*said), (0, "/dev/pts/0\r"), "{error}");
    let (code, _, error) = by_crun(&["-d", "--name", "target"], &["sh", "-c", PROGRAM]);
    assert_eq!(code, 0, "{error}");
    let (code, said, error) = run(&["exec", "-u", "app", "target", "sh", "-c", "id -u; exit 5"]);
    assert_eq!((code, &*said), (5, "1000"), "{error}");
    wait_until("the container to begin", || {
        gantry.ok(&["logs", "target"]) == "begun"
    });
    assert_eq!(run(&["stop", "target"]).0, 0);
    assert_eq!(gantry.inspect("target")["State"]["ExitCode"], 7);
    gantry.ok(&["rm", "target"]);
    assert_gone(&gantry);
}
