//! The everyday life of containers: what scripts that know Docker rely on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::process::Stdio;

use support::{Installation, text, wait_until};

#[test]
fn exit_codes_are_the_programs_own_or_dockers() {
    let gantry = Installation::with_busybox();
    for code in [0, 1, 42, 255] {
        gantry.fails(
            code,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                &format!("exit {code}"),
            ],
        );
    }
    let run = |flags: &[&str], command: &[&str], code| {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(flags);
        arguments.push("busybox");
        arguments.extend(command);
        gantry.fails(code, &arguments)
    };
    run(&[], &["nosuchprogram"], 127);
    run(&[], &["/bin/nosuchprogram"], 127);
    run(&[], &["/etc"], 126);
    run(&[], &["/etc/passwd"], 126);
    run(&["--entrypoint", "nosuchprogram"], &[], 127);
    run(&["--cap-add", "NOSUCHCAP"], &["true"], 125);
    // A program in the container that died of a signal, reported by its shell.
    run(&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137);
    gantry.assert_clean();
}

#[test]
fn a_container_killed_by_a_signal_gives_128_and_its_number() {
    let gantry = Installation::with_busybox();
    for (signal, code) in [("KILL", 137), ("SIGTERM", 143), ("2", 130)] {
        let child = gantry
            .command(&[
                "run",
                "--network",
                "none",
                "--name",
                "victim",
                "--init",
                "busybox",
                "sleep",
                "1000",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the container runs", || {
            gantry.gantry(&["exec", "victim", "true"]).status.success()
        });
        let waiter = gantry
            .command(&["wait", "victim"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(gantry.ok(&["kill", "-s", signal, "victim"]), "victim");
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{signal}: {}",
            text(&output.stderr)
        );
        let waited = waiter.wait_with_output().unwrap();
        assert_eq!(text(&waited.stdout), code.to_string(), "{signal}");
        let state = &gantry.inspect("victim")["State"];
        assert_eq!(state["ExitCode"], code);
        assert_eq!(state["Status"], "exited");
        assert_eq!(state["OOMKilled"], false);
        assert_eq!(
            gantry.ok(&["wait", "victim"]),
            code.to_string(),
            "after the end"
        );
        gantry.ok(&["rm", "victim"]);
    }
    gantry.assert_clean();
}

#[test]
fn a_life_from_create_to_rm() {
    let gantry = Installation::with_busybox();
    let id = gantry.ok(&[
        "create",
        "--name",
        "life",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo x >> /count; wc -l < /count; exec sleep 1000",
    ]);
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let status = |all: bool| {
        let mut arguments = vec![
            "ps",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Names}} {{.Status}}",
        ];
        if all {
            arguments.push("-a");
        }
        gantry.ok(&arguments)
    };
    assert_eq!(status(false), "");
    assert_eq!(status(true), format!("{id} life Created"));
    assert_eq!(gantry.inspect("life")["State"]["Status"], "created");

    assert_eq!(gantry.ok(&["start", "life"]), "life");
    assert!(status(false).contains(" life Up "), "{}", status(false));
    let state = gantry.inspect("life")["State"].clone();
    assert_eq!(
        (&state["Status"], &state["Running"]),
        (&"running".into(), &true.into())
    );
    let pid = state["Pid"].as_i64().unwrap();
    assert!(
        fs::read(format!("/proc/{pid}/cmdline"))
            .unwrap()
            .starts_with(b"sleep")
            || pid > 0
    );
    // Starting what runs is no error, and no second process.
    gantry.ok(&["start", &id[..12]]);
    assert_eq!(gantry.inspect("life")["State"]["Pid"], pid);
    // A running container is not removed without force.
    let said = gantry.fails(1, &["rm", "life"]);
    assert!(said.contains("life") && said.contains("running"), "{said}");
    assert_eq!(gantry.inspect("life")["State"]["Pid"], pid);

    gantry.ok(&["stop", "-t", "0", "life"]);
    assert_eq!(status(false), "");
    assert!(
        status(true).contains("life Exited (137)"),
        "{}",
        status(true)
    );
    assert!(!std::path::Path::new(&format!("/proc/{pid}/ns")).exists());
    // Stopping what has stopped is no error.
    gantry.ok(&["stop", "life"]);
    // The writable layer and the log stay over a restart.
    gantry.ok(&["start", "life"]);
    wait_until("the second start has counted", || {
        gantry.ok(&["logs", "life"]) == "1\n2"
    });
    assert_eq!(gantry.ok(&["rm", "-f", "life"]), "life");
    assert_eq!(status(true), "");
    gantry.assert_clean();
}

#[test]
fn stop_honours_signal_and_timeout() {
    let gantry = Installation::with_busybox();
    let script = "trap 'exit 3' TERM; trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    for (name, flags, stop, script, code) in [
        ("default", &[][..], &["stop"][..], script, 3),
        ("own", &["--stop-signal", "USR1"], &["stop"], script, 4),
        ("given", &[], &["stop", "-s", "SIGUSR1"], script, 4),
        ("short", &["--stop-timeout", "1"], &["stop"], deaf, 137),
        ("now", &[], &["stop", "-t", "0"], deaf, 137),
    ] {
        let mut arguments = vec!["run", "-d", "--network", "none", "--name", name];
        arguments.extend(flags);
        arguments.extend(["busybox", "sh", "-c", script]);
        gantry.ok(&arguments);
        wait_until("the traps are set", || {
            gantry.ok(&["logs", name]) == "ready"
        });
        let begun = std::time::Instant::now();
        let mut stop = stop.to_vec();
        stop.push(name);
        assert_eq!(gantry.ok(&stop), name);
        assert!(
            begun.elapsed().as_secs() < 8,
            "{name} took {:?}",
            begun.elapsed()
        );
        if name == "short" {
            assert!(
                begun.elapsed().as_millis() >= 950,
                "the timeout was not waited for"
            );
        }
        assert_eq!(gantry.inspect(name)["State"]["ExitCode"], code, "{name}");
        gantry.ok(&["rm", name]);
    }
    // The image's own.
    gantry.ok(&[
        "import",
        "-c",
        "STOPSIGNAL USR1",
        support::busybox_tar().to_str().unwrap(),
        "stopper",
    ]);
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "image",
        "stopper",
        "sh",
        "-c",
        script,
    ]);
    wait_until("the traps are set", || {
        gantry.ok(&["logs", "image"]) == "ready"
    });
    gantry.ok(&["stop", "image"]);
    assert_eq!(gantry.ok(&["wait", "image"]), "4");
    gantry.ok(&["rm", "image"]);
    gantry.assert_clean();
}

#[test]
fn signals_to_the_command_reach_the_program() {
    let gantry = Installation::with_busybox();
    let child = gantry
        .command(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--name",
            "proxied",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the trap is set", || {
        text(&gantry.gantry(&["logs", "proxied"]).stdout) == "ready"
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(9));
    gantry.assert_clean();
}

#[test]
fn ps_filters_and_formats() {
    let gantry = Installation::with_busybox();
    let base = ["run", "-d", "--network", "none"];
    let run = |flags: &[&str], command: &[&str]| {
        let mut arguments = base.to_vec();
        arguments.extend(flags);
        arguments.push("busybox");
        arguments.extend(command);
        gantry.ok(&arguments)
    };
    let one = run(
        &["--name", "one", "--label", "tier=web", "--label", "solo"],
        &["sleep", "1000"],
    );
    let two = run(
        &["--name", "two", "--label", "tier=db"],
        &["sh", "-c", "exit 3"],
    );
    gantry.ok(&["wait", "two"]);
    for (filters, expected) in [
        (&["label=tier=web"][..], &["one"][..]),
        (&["label=tier"], &["one", "two"]),
        (&["label=solo"], &["one"]),
        (&["label=tier=nothing"], &[]),
        (&["name=tw"], &["two"]),
        (&["status=running"], &["one"]),
        (&["status=exited"], &["two"]),
        (&["exited=3"], &["two"]),
        (&["exited=0"], &[]),
        (&["ancestor=busybox"], &["one", "two"]),
        (&["label=tier", "status=exited"], &["two"]),
        (&["status=running", "status=exited"], &["one", "two"]),
    ] {
        let mut arguments = vec!["ps", "-a", "--format", "{{.Names}}"];
        for filter in filters {
            arguments.extend(["--filter", filter]);
        }
        let listing = gantry.ok(&arguments);
        let mut names: Vec<&str> = listing.lines().collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{filters:?}");
    }
    // The newest first, short ids, and a table that is one line per container.
    assert_eq!(
        gantry.ok(&["ps", "-a", "-q"]),
        format!("{}\n{}", &two[..12], &one[..12])
    );
    let table = gantry.ok(&["ps", "-a"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("CONTAINER ID   IMAGE "), "{table}");
    let row = table.lines().find(|line| line.ends_with(" two")).unwrap();
    assert!(
        row.contains("busybox") && row.contains("\"sh -c 'exit 3'\"") && row.contains("Exited (3)"),
        "{row}"
    );
    let labels = &gantry.inspect("one")["Config"]["Labels"];
    assert_eq!(labels["tier"], "web");
    assert_eq!(labels["solo"], "");
    gantry.ok(&["rm", "-f", "one", "two"]);
    gantry.assert_clean();
}

#[test]
fn environment_comes_from_image_file_and_flags_in_this_order() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "import",
        "-c",
        "ENV FROM_IMAGE=1 OVER=image",
        "-c",
        "ENTRYPOINT [\"env\"]",
        support::busybox_tar().to_str().unwrap(),
        "withenv",
    ]);
    let file = gantry.root.join("env");
    fs::write(
        &file,
        "# a comment\nFROM_FILE=two words\nOVER=file\nEMPTY=\nHERITED\nNOT_THERE\n",
    )
    .unwrap();
    let output = gantry
        .command(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--env-file",
            file.to_str().unwrap(),
            "-e",
            "OVER=flag",
            "-e",
            "HERE",
            "-e",
            "EQUALS=a=b",
            "-h",
            "named",
            "withenv",
        ])
        .env("HERITED", "from the caller")
        .env("HERE", "also")
        .env("SECRET_OF_THE_CALLER", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listing = text(&output.stdout);
    let mut lines: Vec<&str> = listing.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "EMPTY=",
            "EQUALS=a=b",
            "FROM_FILE=two words",
            "FROM_IMAGE=1",
            "HERE=also",
            "HERITED=from the caller",
            "HOME=/root",
            "HOSTNAME=named",
            "OVER=flag",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
    );
}

#[test]
fn entrypoint_command_and_working_directory() {
    let gantry = Installation::with_busybox();
    let tar = support::busybox_tar();
    gantry.ok(&[
        "import",
        "-c",
        "ENTRYPOINT [\"echo\",\"entry\"]",
        "-c",
        "CMD [\"default\"]",
        "-c",
        "WORKDIR /srv/app",
        tar.to_str().unwrap(),
        "entry",
    ]);
    let run = |arguments: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(arguments);
        gantry.ok(&all)
    };
    assert_eq!(run(&["entry"]), "entry default");
    assert_eq!(
        run(&["entry", "given", "two words"]),
        "entry given two words"
    );
    assert_eq!(
        run(&["--entrypoint", "pwd", "entry"]),
        "/srv/app",
        "WORKDIR is made, CMD forgotten"
    );
    assert_eq!(
        run(&["--entrypoint", "", "entry", "echo", "plain"]),
        "plain"
    );
    assert_eq!(
        run(&["--entrypoint", "pwd", "-w", "/made/up/dir", "entry"]),
        "/made/up/dir"
    );
    assert_eq!(
        gantry.shell(&["-w", "/new"], "stat -c '%a %u %g' . && touch file && ls"),
        "755 0 0\nfile"
    );
    gantry.assert_clean();
}

#[test]
fn users_by_name_and_number_get_their_groups() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "import",
        "-c",
        "USER app",
        support::busybox_tar().to_str().unwrap(),
        "asapp",
    ]);
    let full = "uid=1000(app) gid=1001(app) groups=44(video),50(staff),1001(app)";
    let id = |image: &str, flags: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(flags);
        arguments.extend([image, "sh", "-c", "id; echo $HOME"]);
        let said = gantry.ok(&arguments);
        let (line, home) = said.split_once('\n').unwrap();
        let (own, groups) = line.split_once(" groups=").unwrap();
        let mut groups: Vec<&str> = groups.split(',').collect();
        groups.sort_by_key(|group| group.split('(').next().unwrap().parse::<u32>().unwrap());
        groups.dedup();
        (
            format!("{own} groups={}", groups.join(",")),
            home.to_owned(),
        )
    };
    assert_eq!(id("asapp", &[]), (full.into(), "/home/app".into()));
    assert_eq!(
        id("busybox", &["-u", "app"]),
        (full.into(), "/home/app".into())
    );
    // A number is a number, even where somebody is called so (CVE-2016-3697).
    assert_eq!(
        id("busybox", &["-u", "1000"]),
        (full.into(), "/home/app".into())
    );
    assert_eq!(
        id("busybox", &["-u", "app:video"]).0,
        "uid=1000(app) gid=44(video) groups=44(video)"
    );
    assert_eq!(
        id("busybox", &["-u", "4242"]),
        ("uid=4242 gid=0(root) groups=0(root)".into(), "/".into())
    );
    assert_eq!(
        id("busybox", &["-u", "4242:4343"]).0,
        "uid=4242 gid=4343 groups=4343"
    );
    assert_eq!(
        id("asapp", &["-u", "0"]).0,
        "uid=0(root) gid=0(root) groups=0(root)"
    );
    // An ordinary user writes where it may: its streams, /tmp, nothing else.
    assert_eq!(
        gantry.shell(
            &["-u", "app"],
            "echo out > /dev/stdout; echo err > /dev/stderr; touch /file || echo refused; grep CapEff /proc/self/status"
        ),
        "out\nrefused\nCapEff:\t0000000000000000"
    );
    for (user, part) in [
        ("nobodyhere", "nobodyhere"),
        ("root:nogroup", "nogroup"),
        ("-1", "-1"),
    ] {
        let said = gantry.fails(
            125,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                &format!("--user={user}"),
                "busybox",
                "true",
            ],
        );
        assert!(said.contains(part), "{user}: {said}");
    }
    gantry.assert_clean();
}

#[test]
fn exec_runs_in_the_container() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "host",
        "-e",
        "OWN=1",
        "-w",
        "/home",
        "-h",
        "inside",
        "busybox",
        "sleep",
        "1000",
    ]);
    assert_eq!(
        gantry.ok(&[
            "exec",
            "host",
            "sh",
            "-c",
            "hostname; pwd; echo $OWN; id -u; cat /proc/1/comm"
        ]),
        "inside\n/home\n1\n0\nsleep"
    );
    assert_eq!(
        gantry.ok(&[
            "exec",
            "-u",
            "app",
            "-w",
            "/etc",
            "-e",
            "MORE=2",
            "-e",
            "OWN=3",
            "host",
            "sh",
            "-c",
            "id -un; pwd; echo $MORE $OWN $HOME"
        ]),
        "app\n/etc\n2 3 /home/app"
    );
    gantry.fails(42, &["exec", "host", "sh", "-c", "exit 42"]);
    gantry.fails(137, &["exec", "host", "sh", "-c", "kill -9 $$"]);
    let said = gantry.fails(127, &["exec", "host", "nosuchprogram"]);
    assert!(said.contains("nosuchprogram"), "{said}");
    gantry.fails(126, &["exec", "host", "/etc/passwd"]);
    // Streams stay apart; input arrives and ends.
    let output = gantry.feed(
        &["exec", "-i", "host", "sh", "-c", "cat; echo err >&2"],
        b"in\0\xff",
    );
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"in\0\xff"[..], &b"err\n"[..])
    );
    let output = gantry.feed(&["exec", "host", "cat"], b"");
    assert_eq!(output.stdout, b"");
    // In the same namespaces, capabilities and control groups as the container.
    let script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; grep -E 'Cap|Seccomp:' /proc/self/status";
    let own = gantry.ok(&["exec", "host", "sh", "-c", &script.replace("self", "1")]);
    assert_eq!(gantry.ok(&["exec", "host", "sh", "-c", script]), own);
    assert!(own.contains("Seccomp:\t2"), "{own}");
    gantry.ok(&["exec", "-d", "host", "sh", "-c", "echo done > /tmp/mark"]);
    wait_until("the detached exec has written", || {
        gantry
            .gantry(&["exec", "host", "grep", "-q", "done", "/tmp/mark"])
            .status
            .success()
    });
    // What an exec has started ends with the container.
    gantry.ok(&["exec", "-d", "host", "sleep", "2000"]);
    gantry.ok(&["stop", "-t", "0", "host"]);
    let said = gantry.fails(1, &["exec", "host", "true"]);
    assert!(
        said.contains("is not running") && said.contains("gantry start"),
        "{said}"
    );
    let said = gantry.fails(1, &["exec", "nosuch", "true"]);
    assert!(said.contains("no such container: nosuch"), "{said}");
    gantry.ok(&["rm", "host"]);
    gantry.assert_clean();
}

#[test]
fn init_reaps_orphans_and_forwards_signals() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run", "-d", "--init", "--network", "none", "--name", "tidy", "busybox", "sh", "-c",
        "trap 'exit 7' USR1; echo $$; for i in 1 2 3 4 5; do sh -c 'sleep 0.01 &'; done; touch /made; while :; do sleep 0.05; done",
    ]);
    wait_until("the orphans were made", || {
        gantry
            .gantry(&["exec", "tidy", "test", "-e", "/made"])
            .status
            .success()
    });
    assert_ne!(
        gantry.ok(&["logs", "tidy"]),
        "1",
        "the program is not process 1"
    );
    wait_until("the orphans are reaped", || {
        let states = gantry.ok(&[
            "exec",
            "tidy",
            "sh",
            "-c",
            "grep -h State /proc/[0-9]*/status 2>/dev/null; true",
        ]);
        !states.contains("(zombie)")
            && !gantry.ok(&["exec", "tidy", "ps"]).contains(" sleep 0.01\n")
    });
    gantry.ok(&["kill", "-s", "USR1", "tidy"]);
    assert_eq!(gantry.ok(&["wait", "tidy"]), "7");
    gantry.ok(&["rm", "tidy"]);
    gantry.assert_clean();
}

#[test]
fn ulimits_are_set_and_capped_with_a_warning() {
    let gantry = Installation::with_busybox();
    assert_eq!(
        gantry.shell(
            &["--ulimit", "nofile=512:1024", "--ulimit", "core=0"],
            "ulimit -Sn; ulimit -Hn; ulimit -c"
        ),
        "512\n1024\n0"
    );
    // The kernel allows nobody more open files than fs.nr_open.
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    let most: u64 = most.trim().parse().unwrap();
    let output = gantry.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--ulimit",
        &format!("nofile={0}:{0}", most + 1),
        "busybox",
        "sh",
        "-c",
        "ulimit -Hn",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).parse::<u64>().unwrap() <= most);
    let warning = text(&output.stderr);
    assert!(
        warning.starts_with("WARNING: ") && warning.contains("NOFILE"),
        "{warning:?}"
    );
    assert_eq!(warning.lines().count(), 1, "{warning}");
    gantry.assert_clean();
}

#[test]
fn sysctls_shared_memory_and_temporary_file_systems() {
    let gantry = Installation::with_busybox();
    assert_eq!(
        gantry.shell(
            &[
                "--sysctl",
                "net.core.somaxconn=99",
                "--sysctl",
                "kernel.msgmax=4242"
            ],
            "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax"
        ),
        "99\n4242"
    );
    // One that is not the container's own would change the host.
    let before = fs::read_to_string("/proc/sys/kernel/threads-max").unwrap();
    let said = gantry.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--sysctl",
            "kernel.threads-max=99999",
            "busybox",
            "true",
        ],
    );
    assert!(said.contains("kernel.threads-max"), "{said}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/threads-max").unwrap(),
        before
    );
    assert_eq!(
        gantry.shell(&[], "df -k /dev/shm | tail -n 1 | awk '{print $2}'"),
        "65536"
    );
    assert_eq!(
        gantry.shell(
            &["--shm-size", "8m"],
            "df -k /dev/shm | tail -n 1 | awk '{print $2}'"
        ),
        "8192"
    );
    assert_eq!(
        gantry.shell(
            &["--tmpfs", "/scratch:size=1m,mode=0711"],
            "stat -c %a /scratch; head -c 2000000 /dev/zero > /scratch/file 2>/dev/null || echo full; grep ' /scratch ' /proc/mounts | cut -d' ' -f3,4"
        )
        .split_once("tmpfs")
        .map(|(before, options)| (before.to_owned(), options.contains("noexec") && options.contains("nosuid"))),
        Some(("711\nfull\n".into(), true))
    );
    assert_eq!(
        gantry.shell(
            &["--read-only", "--tmpfs", "/run", "-v", "/data"],
            "for d in / /etc /tmp; do touch $d/f 2>/dev/null || echo $d; done; touch /run/f /data/f /dev/shm/f && echo fine"
        ),
        "/\n/etc\n/tmp\nfine"
    );
    gantry.assert_clean();
}

#[test]
fn hostname_hosts_and_name_servers() {
    let gantry = Installation::with_busybox();
    let said = gantry.ok(&[
        "run",
        "--rm",
        "-h",
        "box.example.org",
        "--add-host",
        "db:10.1.2.3",
        "--add-host",
        "six:::1",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.net",
        "--dns-option",
        "ndots:3",
        "busybox",
        "sh",
        "-c",
        "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf",
    ]);
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(&lines[..2], [["box.example.org"], ["box.example.org"]]);
    for line in [
        &["127.0.0.1", "localhost"][..],
        &["10.1.2.3", "db"],
        &["::1", "six"],
        &["nameserver", "192.0.2.53"],
        &["search", "example.net"],
        &["options", "ndots:3"],
    ] {
        assert!(
            lines.iter().any(|given| given == line),
            "{line:?} is not in:\n{said}"
        );
    }
    assert!(
        lines.iter().any(|line| line.len() >= 2
            && line[0].split('.').count() == 4
            && line[1] == "box.example.org"),
        "its own address and name:\n{said}"
    );
    // Without a name, the beginning of the id.
    let id = gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "named",
        "busybox",
        "hostname",
    ]);
    gantry.ok(&["wait", "named"]);
    assert_eq!(gantry.ok(&["logs", "named"]), id[..12]);
    gantry.ok(&["rm", "named"]);
    gantry.assert_clean();
}

#[test]
fn cidfile_holds_the_id_and_stops_a_second_run() {
    let gantry = Installation::with_busybox();
    let file = gantry.root.join("cid");
    let path = file.to_str().unwrap();
    let id = gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--cidfile",
        path,
        "busybox",
        "true",
    ]);
    assert_eq!(fs::read_to_string(&file).unwrap(), id);
    let said = gantry.fails(
        125,
        &[
            "run",
            "-d",
            "--network",
            "none",
            "--cidfile",
            path,
            "busybox",
            "true",
        ],
    );
    assert!(said.contains(path), "{said}");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        id,
        "the file is not touched"
    );
    gantry.ok(&["wait", &id]);
    gantry.ok(&["rm", &id]);
    fs::remove_file(&file).unwrap();
    let output = gantry.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--cidfile",
        path,
        "busybox",
        "echo",
        "attached",
    ]);
    assert_eq!(output, "attached");
    assert_eq!(fs::read_to_string(&file).unwrap().len(), 64);
    // A failed creation leaves no file; a failed start no container.
    fs::remove_file(&file).unwrap();
    gantry.fails(
        125,
        &["run", "--pull", "never", "--cidfile", path, "nosuchimage"],
    );
    assert!(!file.exists());
    gantry.fails(
        127,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--cidfile",
            path,
            "busybox",
            "nosuchprogram",
        ],
    );
    gantry.assert_clean();
}

#[test]
fn memory_beyond_the_limit_kills_and_says_so() {
    let gantry = Installation::with_busybox();
    let flags = [
        "run",
        "--network",
        "none",
        "--name",
        "greedy",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
    ];
    let mut arguments = flags.to_vec();
    arguments.extend([
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200M",
        "count=1",
    ]);
    gantry.fails(137, &arguments);
    let container = gantry.inspect("greedy");
    assert_eq!(container["State"]["OOMKilled"], true);
    assert_eq!(container["State"]["ExitCode"], 137);
    assert_eq!(container["HostConfig"]["Memory"], 16 << 20);
    // A later, tamer end says nothing of it.
    gantry.ok(&["rm", "greedy"]);
    gantry.assert_clean();
}

#[test]
fn limits_are_in_the_control_group() {
    let gantry = Installation::with_busybox();
    let id = gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "-m",
        "64m",
        "--pids-limit",
        "15",
        "busybox",
        "sleep",
        "1000",
    ]);
    let value = |names: &[&str]| {
        let mut directories = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
        directories.extend(
            fs::read_dir("/sys/fs/cgroup")
                .unwrap()
                .flatten()
                .map(|entry| entry.path()),
        );
        let found = directories
            .iter()
            .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
            .filter_map(|path| {
                let name = path.file_name()?.to_owned();
                let group = path
                    .parent()?
                    .join(format!("gantry-{}", gantry.instance()))
                    .join(&id);
                fs::read_to_string(group.join(name)).ok()
            })
            .next();
        found
            .unwrap_or_else(|| panic!("no {names:?}"))
            .trim()
            .to_owned()
    };
    let cpu = value(&["cpu.max", "cpu.cfs_quota_us"]);
    assert!(cpu == "50000 100000" || cpu == "50000", "{cpu}");
    assert_eq!(
        value(&["memory.max", "memory.limit_in_bytes"]),
        (64 << 20).to_string()
    );
    assert_eq!(value(&["pids.max"]), "15");
    let weight = value(&["cpu.weight", "cpu.shares"]);
    assert!(["512", "20", "59"].contains(&weight.as_str()), "{weight}");
    // The limit counts every process of the container, those of an exec too.
    let said = gantry.gantry(&[
        "exec",
        &id,
        "sh",
        "-c",
        "for i in $(seq 40); do sleep 5 & done; wait",
    ]);
    assert!(
        text(&said.stderr).contains("can't fork"),
        "{}",
        text(&said.stderr)
    );
    gantry.ok(&["rm", "-f", &id]);
    gantry.assert_clean();
}

#[test]
fn privileged_sees_the_devices_of_the_host() {
    let gantry = Installation::with_busybox();
    let usual = [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
    ];
    let device = fs::read_dir("/dev")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_char_device()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| !usual.contains(&name.as_str()))
        .expect("the host has a device of its own");
    let script = format!(
        "test -c /dev/{device} && echo there; grep CapBnd /proc/self/status; grep Seccomp: /proc/self/status; test -w /proc/sys/kernel/hostname && mount -t tmpfs none /tmp && echo mounted"
    );
    let status = fs::read_to_string("/proc/self/status").unwrap();
    // What the caller itself can do, which in a container is not everything.
    let all = status
        .lines()
        .find(|line| line.starts_with("CapPrm"))
        .unwrap()
        .replace("Prm", "Bnd");
    assert_eq!(
        gantry.shell(&["--privileged"], &script),
        format!("there\n{all}\nSeccomp:\t0\nmounted")
    );
    let output = gantry.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        &script,
    ]);
    assert!(!output.status.success());
    let said = text(&output.stdout);
    assert!(
        said.starts_with("CapBnd:\t00000000a80425fb\nSeccomp:\t2"),
        "{said}"
    );
    gantry.assert_clean();
}

#[test]
fn the_embedded_image_needs_no_network() {
    let gantry = Installation::new();
    let said = gantry.ok(&["run", "--rm", "--network", "none", "hello-world"]);
    assert!(said.contains("Hello from Gantry!"), "{said}");
    // Nothing is pulled, so nothing is said of pulling.
    let output = gantry.gantry(&["run", "--rm", "hello-world"]);
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    gantry.assert_clean();
}

#[test]
fn a_shared_network_outlives_the_container_that_made_it() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "-d",
        "--name",
        "first",
        "--add-host",
        "peer:10.9.8.7",
        "busybox",
        "sleep",
        "1000",
    ]);
    let script = "ip -4 -o addr show eth0 | awk '{print $4}'; readlink /proc/self/ns/net; cat /etc/hosts | grep peer | wc -l";
    let own = gantry.ok(&["exec", "first", "sh", "-c", script]);
    assert_eq!(own.lines().count(), 3, "{own}");
    gantry.ok(&[
        "run",
        "-d",
        "--name",
        "second",
        "--network",
        "container:first",
        "busybox",
        "sleep",
        "1000",
    ]);
    let shared = || gantry.ok(&["exec", "second", "sh", "-c", script]);
    assert_eq!(shared(), own);
    assert_ne!(
        gantry.ok(&["exec", "first", "readlink", "/proc/self/ns/mnt"]),
        gantry.ok(&["exec", "second", "readlink", "/proc/self/ns/mnt"])
    );
    gantry.ok(&["rm", "-f", "first"]);
    assert_eq!(shared(), own, "after the first is gone");
    let gateway = gantry.ok(&[
        "exec",
        "second",
        "sh",
        "-c",
        "ip route | awk '/default/ {print $3}'",
    ]);
    gantry.ok(&["exec", "second", "ping", "-c", "1", "-W", "3", &gateway]);
    // Nobody else gets the address meanwhile.
    let other = gantry.ok(&["run", "--rm", "busybox", "sh", "-c", script]);
    assert_ne!(other.lines().next(), own.lines().next());
    gantry.ok(&["rm", "-f", "second"]);
    gantry.assert_clean();
    let said = gantry.fails(
        125,
        &[
            "run",
            "--rm",
            "--network",
            "container:first",
            "busybox",
            "true",
        ],
    );
    assert!(said.contains("no such container: first"), "{said}");
    gantry.assert_clean();
}

#[test]
fn several_names_at_once_and_parts_of_ids() {
    let gantry = Installation::with_busybox();
    let ids: Vec<String> = (0..3)
        .map(|_| gantry.ok(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]))
        .collect();
    // One bad name does not keep the others from their turn.
    let output = gantry.gantry(&["kill", &ids[0][..12], "nosuch", &ids[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        format!("{}\n{}", &ids[0][..12], ids[1])
    );
    assert!(text(&output.stderr).contains("no such container: nosuch"));
    assert_eq!(gantry.ok(&["wait", &ids[0], &ids[1]]), "137\n137");
    assert_eq!(gantry.ok(&["ps", "-q", "--no-trunc"]), ids[2]);
    let output = gantry.gantry(&["rm", "-f", &ids[0], "nosuch", &ids[1][..12], &ids[2]]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    gantry.assert_clean();
}
