//! What a command does before it starts in earnest must never be noticed.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Installation, bin_dir, text, wait_until};

/// Runs a shell script in which `$G` is the program, on this installation.
fn script(gantry: &Installation, text: &str) -> Output {
    Command::new("/bin/sh")
        .args(["-c", text])
        .env("GANTRY_DATA_ROOT", &gantry.data)
        .env("GANTRY_RUN_ROOT", &gantry.run)
        .env("G", bin_dir().join("gantry"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A caller's descriptor that is open over exec, such as a lock or a pipe of a script, must not
/// stay open as long as the container runs.
#[test]
fn descriptors_of_the_caller_are_not_kept() {
    let gantry = Installation::with_busybox();
    // Flags that have the supervisor started before main, and those that do not.
    for flags in ["run -d", "container run -d"] {
        let begun = Instant::now();
        // The output ends when nobody has 9 any more.
        let run = format!("$G {flags} --name web busybox sleep 60 9>&1 >/dev/null");
        let output = script(&gantry, &run);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(begun.elapsed() < Duration::from_secs(30), "{flags}");
        gantry.ok(&["rm", "-f", "web"]);
    }
    script(&gantry, "$G create --name late busybox sleep 60");
    let begun = Instant::now();
    let output = script(&gantry, "$G start late 9>&1 >/dev/null");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(begun.elapsed() < Duration::from_secs(30));
    gantry.ok(&["rm", "-f", "late"]);
    gantry.assert_clean();
}

#[test]
fn closed_standard_streams_are_no_trouble() {
    let gantry = Installation::with_busybox();
    for (streams, expected) in [
        ("<&-", "hello\n0"),
        (">&-", ""),
        ("2>&-", "hello\n0"),
        ("<&- 2>&-", "hello\n0"),
    ] {
        let run = format!("$G run --rm --network none busybox echo hello {streams}; echo $?");
        let output = script(&gantry, &run);
        let said = text(&output.stdout);
        // Nothing can be written to a closed stream; what its exit code is then is not the point.
        assert!(said.starts_with(expected), "{streams}: {said:?}");
    }
    gantry.assert_clean();
}

/// A command line that says `run` and is refused has started a supervisor for nothing.
#[test]
fn a_supervisor_without_work_ends() {
    let gantry = Installation::with_busybox();
    for arguments in [
        "run --no-such-flag busybox",
        "run --help",
        "run",
        "container run",
    ] {
        // A process namespace of its own, so that the supervisors of other tests are not seen.
        let run = format!(
            "unshare --pid --fork --mount-proc sh -c '\"$G\" {arguments} >/dev/null 2>&1
             for i in 1 2 3 4 5 6 7 8 9 10; do
               left=$(cat /proc/[0-9]*/comm | grep -c gantry-super)
               [ $left = 0 ] && break; sleep 0.1
             done; echo $left'"
        );
        let output = script(&gantry, &run);
        assert_eq!(
            text(&output.stdout),
            "0",
            "{arguments}: {}",
            text(&output.stderr)
        );
    }
    gantry.assert_clean();
}

/// Nor does one stay beside a container that lives in another's sandbox.
#[test]
fn a_shared_sandbox_has_one_supervisor() {
    let gantry = Installation::with_busybox();
    gantry.ok(&["run", "-d", "--name", "first", "busybox", "sleep", "60"]);
    let mut second = gantry
        .command(&[
            "run",
            "--rm",
            "--network",
            "container:first",
            "busybox",
            "sleep",
            "3",
        ])
        .spawn()
        .unwrap();
    let all_run = || gantry.ok(&["ps", "-q"]).lines().count() == 2;
    wait_until("both run", all_run);
    wait_until("the command has no children", || {
        children(second.id()).is_empty()
    });
    assert!(
        second.try_wait().unwrap().is_none(),
        "it has ended too soon"
    );
    assert!(second.wait().unwrap().success());
    gantry.ok(&["rm", "-f", "first"]);
    gantry.assert_clean();
}

/// Process ids of the children of a process, zombies left aside.
fn children(parent: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        if fields[1] == parent.to_string() && fields[0] != "Z" {
            found.push(stat);
        }
    }
    found
}

/// Whoever looks at the list of processes sees which sandbox a supervisor is of.
#[test]
fn a_supervisor_is_known_by_its_command_line() {
    let gantry = Installation::with_busybox();
    let id = gantry.ok(&["run", "-d", "busybox", "sleep", "60"]);
    // Both of its processes.
    assert_eq!(gantry.supervisors().len(), 2);
    gantry.ok(&["rm", "-f", id.trim()]);
    let id = gantry.ok(&["create", "busybox", "sleep", "60"]);
    gantry.ok(&["start", id.trim()]);
    assert_eq!(gantry.supervisors().len(), 2);
    gantry.ok(&["rm", "-f", id.trim()]);
    gantry.assert_clean();
}
