//! Bad input and bad surroundings: one line that names the object, a hint, the right exit
//! code, and everything as it was.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};

use support::{Installation, text, wait_until};

/// Asserts that an error is told in one line, with this in it, and at most a hint beside.
#[track_caller]
fn one_line(said: &str, parts: &[&str]) {
    let mut lines = said.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("gantry: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    for other in lines {
        let usage = other.is_empty()
            || other.starts_with("Run 'gantry ") && other.ends_with("--help' for more information");
        assert!(
            usage || other.starts_with("hint: "),
            "more than one line: {said}"
        );
    }
    assert!(
        !said.contains("os error") && !said.contains("panicked"),
        "{said}"
    );
}

/// What an installation has on record, to be compared.
fn listing(gantry: &Installation) -> String {
    let images = gantry.ok(&["images", "--format", "{{.ID}} {{.Repository}} {{.Tag}}"]);
    let containers = gantry.ok(&[
        "ps",
        "-a",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Names}} {{.State}}",
    ]);
    let mut directories: Vec<String> = ["containers", "volumes"]
        .iter()
        .flat_map(|name| {
            fs::read_dir(gantry.data.join(name))
                .into_iter()
                .flatten()
                .flatten()
        })
        .map(|entry| entry.path().display().to_string())
        .collect();
    directories.sort_unstable();
    format!("{images}\n{containers}\n{}", directories.join("\n"))
}

#[test]
fn unknown_and_invalid_names() {
    let gantry = Installation::with_busybox();
    gantry.ok(&["create", "--name", "taken", "busybox", "true"]);
    let before = listing(&gantry);
    for (code, arguments, parts) in [
        (
            125,
            &["run", "--pull", "never", "nosuch", "true"][..],
            &["nosuch", "hint: ", "gantry pull"][..],
        ),
        (
            125,
            &["create", "--pull", "never", "nosuch:1.2"],
            &["nosuch:1.2"],
        ),
        (125, &["run", "Not/A/Reference"], &["Not/A/Reference"]),
        (125, &["run", "busybox:", "true"], &["busybox:"]),
        (
            125,
            &["run", "busybox@sha256:12", "true"],
            &["busybox@sha256:12"],
        ),
        (125, &["run", "", "true"], &["image"]),
        (
            125,
            &["run", "--name", "taken", "busybox", "true"],
            &["\"taken\"", "already in use", "hint: ", "gantry rm taken"],
        ),
        (
            125,
            &["create", "--name", "taken", "busybox"],
            &["\"taken\"", "already in use"],
        ),
        (125, &["run", "--name", "-bad-", "busybox"], &["-bad-"]),
        (125, &["run", "--name", "../up", "busybox"], &["../up"]),
        (
            1,
            &["start", "nosuch"],
            &["no such container: nosuch", "hint: "],
        ),
        (1, &["stop", "nosuch"], &["no such container: nosuch"]),
        (1, &["kill", "nosuch"], &["no such container: nosuch"]),
        (1, &["rm", "nosuch"], &["no such container: nosuch"]),
        (1, &["wait", "nosuch"], &["no such container: nosuch"]),
        (1, &["logs", "nosuch"], &["no such container: nosuch"]),
        (1, &["attach", "nosuch"], &["no such container: nosuch"]),
        (
            1,
            &["exec", "nosuch", "true"],
            &["no such container: nosuch"],
        ),
        (1, &["kill", "taken"], &["is not running", "hint: "]),
        (
            1,
            &["exec", "taken", "true"],
            &["is not running", "gantry start"],
        ),
        (
            1,
            &["kill", "-s", "NOSUCHSIGNAL", "taken"],
            &["NOSUCHSIGNAL"],
        ),
        (1, &["rmi", "nosuch"], &["nosuch"]),
        (
            1,
            &["rmi", "busybox"],
            &["busybox", "is using its referenced image", "hint: "],
        ),
    ] {
        one_line(&gantry.fails(code, arguments), parts);
        assert_eq!(
            listing(&gantry),
            before,
            "{arguments:?} has changed something"
        );
    }
    // What inspect does not find is said, after an empty list.
    let output = gantry.gantry(&["inspect", "nosuch"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(1), "[]")
    );
    one_line(&text(&output.stderr), &["no such object: nosuch"]);
    gantry.ok(&["rm", "taken"]);
    gantry.assert_clean();
}

#[test]
fn values_of_flags_are_refused_before_anything_is_made() {
    let gantry = Installation::with_busybox();
    let before = listing(&gantry);
    for (flags, parts) in [
        (&["-p", "99999:80"][..], &["--publish", "99999"][..]),
        (&["-p", "eighty"], &["--publish", "eighty"]),
        (&["-m", "much"], &["--memory", "much"]),
        (&["-m", "-1"], &["--memory"]),
        (&["--cpus", "x"], &["--cpus", "x"]),
        (&["--pids-limit", "many"], &["--pids-limit", "many"]),
        (&["--shm-size", "0x"], &["--shm-size"]),
        (&["-e", ""], &["--env"]),
        (&["-v", "relative/../:"], &["--volume"]),
        (&["-v", "/a:relative"], &["--volume", "relative"]),
        (&["-v", "/a:/b:nosuchmode"], &["nosuchmode"]),
        (&["--mount", "type=nosuch,dst=/a"], &["--mount", "nosuch"]),
        (&["--mount", "type=bind,src=/a"], &["--mount"]),
        (&["--tmpfs", "relative"], &["relative"]),
        (&["-v", "/x", "-v", "/y:/x"], &["/x"]),
        (&["--network", "nosuchnetwork"], &["nosuchnetwork"]),
        (&["--network", "container:"], &["container:"]),
        (
            &["--network", "container:nosuch"],
            &["no such container: nosuch"],
        ),
        (&["--ulimit", "nosuch=1"], &["--ulimit", "nosuch"]),
        (&["--ulimit", "nofile=2:1"], &["nofile"]),
        (&["--sysctl", "novalue"], &["--sysctl", "novalue"]),
        (&["--add-host", "nohost"], &["--add-host", "nohost"]),
        (&["--dns", "noaddress"], &["--dns", "noaddress"]),
        (&["--cap-add", "NOSUCH"], &["NOSUCH"]),
        (&["--security-opt", "nosuch"], &["--security-opt", "nosuch"]),
        (
            &["--security-opt", "seccomp=/no/such/file"],
            &["/no/such/file"],
        ),
        (&["--env-file", "/no/such/file"], &["/no/such/file"]),
        (&["--stop-signal", "NOSUCH"], &["NOSUCH"]),
        (&["--stop-timeout", "soon"], &["--stop-timeout", "soon"]),
        (&["--pull", "sometimes"], &["sometimes"]),
        (&["--platform", "a/b/c/d"], &["a/b/c/d"]),
        (&["--log-opt", "max-size=x"], &["max-size"]),
        (&["--log-opt", "max-file=0"], &["max-file"]),
        (&["--log-driver", "nosuch"], &["nosuch"]),
        (&["--detach-keys", "ctrl-1"], &["--detach-keys"]),
        (
            &["--nosuchflag"],
            &["unknown flag: --nosuchflag", "gantry run --help"],
        ),
        (&["-w", "relative"], &["relative"]),
        (&["-u", "nosuchuser"], &["nosuchuser"]),
        (
            &["--mount", "type=bind,src=/no/such/dir,dst=/a"],
            &["/no/such/dir"],
        ),
    ] {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(flags);
        arguments.extend(["busybox", "true"]);
        one_line(&gantry.fails(125, &arguments), parts);
        assert_eq!(listing(&gantry), before, "{flags:?} has changed something");
    }
    one_line(
        &gantry.fails(1, &["nosuchcommand"]),
        &["nosuchcommand", "gantry --help"],
    );
    one_line(
        &gantry.fails(1, &["start"]),
        &["requires at least 1 argument", "gantry start --help"],
    );
    one_line(
        &gantry.fails(1, &["run"]),
        &["requires at least 1 argument"],
    );
    gantry.assert_clean();
}

#[test]
fn programs_that_cannot_be_executed() {
    let gantry = Installation::with_busybox();
    for (code, program, parts) in [
        (
            127,
            "nosuchprogram",
            &["nosuchprogram", "not found", "hint: "][..],
        ),
        (127, "/no/such/program", &["/no/such/program"]),
        (126, "/etc", &["/etc"]),
        (126, "/etc/passwd", &["/etc/passwd", "ermission denied"]),
    ] {
        one_line(
            &gantry.fails(code, &["run", "--rm", "busybox", program]),
            parts,
        );
        gantry.assert_clean();
        // Without --rm the container stays, as created, and says why.
        one_line(
            &gantry.fails(code, &["run", "--name", "broken", "busybox", program]),
            parts,
        );
        let state = &gantry.inspect("broken")["State"];
        assert_eq!(
            (&state["ExitCode"], &state["Status"]),
            (&code.into(), &"created".into())
        );
        assert!(
            state["Error"].as_str().unwrap().contains(program),
            "{state}"
        );
        one_line(&gantry.fails(1, &["start", "broken"]), parts);
        gantry.ok(&["rm", "broken"]);
        gantry.assert_clean();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_made() {
    let gantry = Installation::new();
    let script = format!(
        "set -e
         mkdir {data}
         mount -t tmpfs -o size=6m,mode=700 none {data}
         {gantry} import -c 'CMD [\"sh\"]' {tar} busybox
         {gantry} run --rm --network none busybox true
         {gantry} ps -a
         before=$(find {data}/containers {data}/volumes)
         head -c 100m /dev/zero > {data}/filler 2> /dev/null || true
         for command in 'run --network none --name full busybox true' 'create busybox' 'import {tar} other' 'run -v new:/data busybox true'; do
             said=$({gantry} $command 2>&1) && echo \"went well: $command\" || echo \"$? $command: $said\"
         done
         test \"$before\" = \"$(find {data}/containers {data}/volumes)\" || echo changed
         rm {data}/filler
         {gantry} ps -a -q
         {gantry} images -q | wc -l
         {gantry} run --rm --network none busybox echo works again
         test \"$before\" = \"$(find {data}/containers {data}/volumes)\" || echo changed
         {gantry} system reset --force",
        data = gantry.data.display(),
        gantry = support::bin_dir().join("gantry").display(),
        tar = support::busybox_tar().display(),
    );
    let output = in_private_mounts(&gantry, &script);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    assert!(
        !said.contains("went well") && !said.contains("changed"),
        "{said}"
    );
    let refused: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(": gantry: "))
        .collect();
    assert_eq!(refused.len(), 4, "{said}");
    for line in refused {
        let code = if line.contains("import") {
            "1 "
        } else {
            "125 "
        };
        assert!(line.starts_with(code), "{line}");
        assert!(
            line.contains("No space left") || line.contains("full"),
            "{line}"
        );
    }
    assert!(
        said.lines()
            .filter(|line| line.starts_with("hint: free some space"))
            .count()
            >= 3,
        "{said}"
    );
    assert!(said.ends_with("1\nworks again"), "{said}");
}

#[test]
fn a_read_only_data_root_keeps_running_containers_in_hand() {
    let gantry = Installation::with_busybox();
    for name in ["one", "two"] {
        gantry.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "-e",
            "OWN=1",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.05; done",
        ]);
        wait_until("it has said hello", || {
            gantry.ok(&["logs", name]) == "hello"
        });
    }
    let before = gantry.ok(&[
        "ps",
        "-a",
        "--format",
        "{{.ID}} {{.Names}} {{.Image}} {{.Command}}",
    ]);
    // The containers live on in the host's mounts; the commands see a read-only file system.
    let script = format!(
        "mount --bind {data} {data}
         mount -o remount,bind,ro {data}
         gantry() {{ {gantry} \"$@\" 2>&1; echo \"=$?\"; }}
         gantry ps --format '{{{{.ID}}}} {{{{.Names}}}} {{{{.Image}}}} {{{{.Command}}}}'
         gantry logs one
         gantry exec one sh -c 'echo $OWN; exit 7'
         gantry stop one
         gantry kill two
         gantry wait one two
         gantry ps -q
         gantry run --rm busybox true
         gantry create busybox
         gantry start one
         gantry rm one",
        data = gantry.data.display(),
        gantry = support::bin_dir().join("gantry").display(),
    );
    let output = in_private_mounts(&gantry, &script);
    let said = text(&output.stdout);
    let (managed, refused) = said
        .split_once("\n3\n137\n=0\n=0\n")
        .unwrap_or_else(|| panic!("{said}\n{}", text(&output.stderr)));
    let ids: Vec<&str> = managed.lines().collect();
    let mut seen: Vec<&str> = ids[..2].to_vec();
    let mut expected: Vec<&str> = before.lines().collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!(
        ids[2..],
        ["=0", "hello", "=0", "1", "=7", "one", "=0", "two", "=0"],
        "{said}"
    );
    let refused: Vec<&str> = refused.lines().collect();
    assert_eq!(
        refused
            .iter()
            .filter(|line| line.starts_with('='))
            .collect::<Vec<_>>(),
        [&"=125", &"=125", &"=1", &"=1"],
        "{said}"
    );
    for line in &refused {
        let known =
            line.starts_with('=') || line.starts_with("hint: the data root must be writable");
        let named = line.starts_with("gantry: ") && line.contains(gantry.data.to_str().unwrap());
        assert!(known || named, "{said}");
    }
    assert_eq!(
        refused
            .iter()
            .filter(|line| line.starts_with("hint: "))
            .count(),
        4,
        "{said}"
    );
    // Writable again, the ends are on record.
    assert_eq!(gantry.inspect("one")["State"]["ExitCode"], 3);
    assert_eq!(gantry.inspect("two")["State"]["ExitCode"], 137);
    assert_eq!(gantry.ok(&["logs", "one"]), "hello\nbye");
    gantry.ok(&["rm", "one", "two"]);
    gantry.assert_clean();
}

#[test]
fn others_than_root_are_told_so() {
    let gantry = Installation::with_busybox();
    gantry.ok(&["create", "--name", "private", "busybox", "true"]);
    let before = listing(&gantry);
    for arguments in [
        &["ps"][..],
        &["run", "busybox"],
        &["rm", "-f", "private"],
        &["images"],
    ] {
        // The program itself may lie where only root gets: it is opened before.
        let output = Command::new("sh")
            .arg("-c")
            .arg("exec 9< \"$0\"; exec setpriv --reuid 65534 --regid 65534 --clear-groups /proc/self/fd/9 \"$@\"")
            .arg(support::bin_dir().join("gantry"))
            .args(arguments)
            .env("GANTRY_DATA_ROOT", &gantry.data)
            .env("GANTRY_RUN_ROOT", &gantry.run)
            .output()
            .unwrap();
        let code = if arguments[0] == "run" { 125 } else { 1 };
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        one_line(&text(&output.stderr), &["root", "hint: use sudo"]);
    }
    assert_eq!(listing(&gantry), before);
    // What needs no installation works for everybody.
    gantry.ok(&["rm", "private"]);
    gantry.assert_clean();
}

#[test]
fn roots_that_cannot_be_used_are_named() {
    let gantry = Installation::new();
    let file = gantry.root.join("file");
    fs::write(&file, "").unwrap();
    let path = file.join("below");
    let path = path.to_str().unwrap();
    one_line(
        &gantry.fails(1, &["--data-root", path, "images"]),
        &[path, "Not a directory"],
    );
    one_line(
        &gantry.fails(125, &["--run-root", path, "run", "hello-world"]),
        &[path, "Not a directory"],
    );
}

/// Runs a shell script with mounts of its own, which go with it.
fn in_private_mounts(gantry: &Installation, script: &str) -> Output {
    Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .env("GANTRY_DATA_ROOT", &gantry.data)
        .env("GANTRY_RUN_ROOT", &gantry.run)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
