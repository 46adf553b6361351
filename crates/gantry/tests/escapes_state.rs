//! Abuses of what an installation keeps: sockets, directories, environments. Each test names
//! the advisory whose flaw it would show.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod escapes;
mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use escapes::{hostile_image, run};
use support::{Installation, bin_dir, text};

/// Everything below a directory, itself included.
fn everything(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let path = found[next].clone();
        next += 1;
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            found.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
    }
    found
}

/// Runs a program as a user of the host who has nothing to do with the installation.
fn as_nobody(arguments: &[&str]) -> Output {
    Command::new("/bin/busybox")
        .args(arguments)
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

// S01, CVE-2020-15257: a socket that every container in the host's network can reach.
#[test]
fn s01_sockets_are_paths_that_only_root_can_reach() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "own",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "host",
        "--network",
        "host",
        "busybox",
        "sleep",
        "1000",
    ]);
    let root = installation.root.to_str().unwrap();
    let id = installation.ok(&["inspect", "-f", "{{.Id}}", "own"]);
    let listed = fs::read_to_string("/proc/net/unix").unwrap();
    for line in listed.lines() {
        let name = line.split_whitespace().nth(7).unwrap_or_default();
        let ours = [root, &id, "gantry", "ctl.sock"]
            .iter()
            .any(|word| name.contains(word));
        assert!(
            !(name.starts_with('@') && ours),
            "an abstract socket: {line}"
        );
    }
    let mut sockets = 0;
    for path in everything(&installation.root) {
        let found = fs::symlink_metadata(&path).unwrap();
        if !found.file_type().is_socket() {
            continue;
        }
        sockets += 1;
        assert_eq!(found.mode() & 0o7777, 0o600, "{}", path.display());
        let directory = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(directory.mode() & 0o7777, 0o700, "{}", path.display());
        assert_eq!((found.uid(), directory.uid()), (0, 0));
    }
    assert!(sockets >= 2, "a supervisor without a socket?");
    // In the host's network a container sees the names, and reaches none of them.
    let seen = installation.ok(&[
        "exec",
        "host",
        "sh",
        "-c",
        "grep -c ctl.sock /proc/net/unix; ls -d /tmp/gantry* /run/gantry* 2>/dev/null; true",
    ]);
    assert!(
        seen.parse::<u32>().is_ok(),
        "paths of the host are visible: {seen}"
    );
    // The descriptors that a container was born with are no sockets of ours.
    let count = "ls -l /proc/1/fd | grep socket | wc -l";
    let fds = installation.ok(&["exec", "host", "sh", "-c", count]);
    assert_eq!(fds, "0");
}

// S02, CVE-2021-41091, CVE-2021-41103, CVE-2024-25621: a user of the host reaches programs
// with set-id bits in layers, or state.
#[test]
fn s02_users_of_the_host_can_look_into_nothing() {
    for umask in ["022", "000"] {
        let installation = Installation::new();
        let gantry = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
                .arg(bin_dir().join("gantry"))
                .args(arguments)
                .env("GANTRY_DATA_ROOT", &installation.data)
                .env("GANTRY_RUN_ROOT", &installation.run)
                .stdin(Stdio::null());
            run(&mut command)
        };
        // The first command of the installation makes its directories with this umask.
        gantry(&["ps"]);
        hostile_image(&installation, "setid", &["VOLUME /data"], |root| {
            fs::copy("/bin/busybox", root.join("bin/root")).unwrap();
            fs::set_permissions(root.join("bin/root"), fs::Permissions::from_mode(0o4755)).unwrap();
        });
        let script = "umask 000; cp /bin/root /setid; chmod 4755 /setid; cp /setid /data/setid; chmod 4755 /data/setid; \
            touch /ready; exec sleep 1000";
        gantry(&[
            "run",
            "-d",
            "--name",
            "one",
            "--network",
            "none",
            "-v",
            "named:/named",
            "setid",
            "sh",
            "-c",
            script,
        ]);
        support::wait_until("the container's files", || {
            installation
                .gantry(&["exec", "one", "test", "-e", "/ready"])
                .status
                .success()
        });
        gantry(&["exec", "one", "true"]);
        gantry(&["run", "--rm", "--network", "none", "setid", "true"]);
        for top in [&installation.data, &installation.run] {
            let mode = fs::metadata(top).unwrap().mode() & 0o7777;
            assert_eq!(
                mode & 0o067,
                0,
                "umask {umask}: {} has mode {mode:o}",
                top.display()
            );
        }
        let all: Vec<PathBuf> = [&installation.data, &installation.run]
            .iter()
            .flat_map(|top| everything(top).into_iter().skip(1))
            .collect();
        assert!(all.len() > 200, "only {} paths", all.len());
        // None can be looked at, and none executed; the way to each goes through the roots.
        for chunk in all.chunks(200) {
            let mut arguments = vec!["stat", "-c", "%n"];
            arguments.extend(chunk.iter().map(|path| path.to_str().unwrap()));
            let output = as_nobody(&arguments);
            assert_eq!(
                text(&output.stdout),
                "",
                "umask {umask}: a user of the host sees these"
            );
        }
        let programs: Vec<&PathBuf> = all
            .iter()
            .filter(|path| path.ends_with("setid") || path.ends_with("bin/root"))
            .collect();
        assert!(programs.len() >= 3, "{programs:?}");
        for program in programs {
            let output = as_nobody(&["sh", "-c", "exec \"$0\" id", program.to_str().unwrap()]);
            assert!(
                !output.status.success() && output.stdout.is_empty(),
                "{}",
                program.display()
            );
        }
        // And nothing of ours is open to be written by others: only what a container made
        // has the modes that it chose.
        let of_containers = ["/upper/", "/layers/", "/_data/"];
        for path in &all {
            let name = path.to_str().unwrap();
            let found = fs::symlink_metadata(path).unwrap();
            if found.is_symlink() || of_containers.iter().any(|part| name.contains(part)) {
                continue;
            }
            assert_eq!(
                found.mode() & 0o022,
                0,
                "umask {umask}: {name} has mode {:o}",
                found.mode()
            );
        }
        gantry(&["rm", "-f", "one"]);
    }
}

// S04, CVE-2021-21334, CVE-2020-14370, and B21, CVE-2021-3602; R29, CVE-2026-57231: values
// of the environment that come from another container, or from whoever runs gantry.
#[test]
fn s04_r29_no_environment_but_the_containers_own() {
    let installation = Installation::with_busybox();
    hostile_image(
        &installation,
        "shared",
        &["ENV FROM_IMAGE=yes", "CMD [\"env\"]"],
        |_| {},
    );
    let containers: Vec<_> = (0..8)
        .map(|number| {
            let variable = format!("ONLY_{number}=secret-{number}");
            installation
                .command(&[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "-e",
                    &variable,
                    "shared",
                ])
                .env("HOST_SECRET", "of the host")
                .env("AWS_SECRET", "of the host")
                .env("LD_PRELOAD_MARK", "of the host")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (number, container) in containers.into_iter().enumerate() {
        let output = container.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let mut names: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split('=').next())
            .collect();
        names.sort_unstable();
        let only = format!("ONLY_{number}");
        let mut expected = vec!["FROM_IMAGE", "HOME", "HOSTNAME", "PATH", only.as_str()];
        names.retain(|name| !["SHLVL", "PWD"].contains(name));
        expected.retain(|name| *name != "HOSTNAME" || names.contains(name));
        expected.sort_unstable();
        assert_eq!(names, expected, "{said}");
        assert!(said.contains(&format!("{only}=secret-{number}")) && !said.contains("of the host"));
    }
    // An exec has its container's, and its own.
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "--network",
        "none",
        "-e",
        "ONE=1",
        "shared",
        "sleep",
        "1000",
    ]);
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "two",
        "--network",
        "none",
        "-e",
        "TWO=2",
        "shared",
        "sleep",
        "1000",
    ]);
    installation.ok(&["exec", "-e", "EXTRA=3", "one", "true"]);
    let mut command = installation.command(&["exec", "two", "env"]);
    let said = run(command.env("HOST_SECRET", "of the host"));
    assert!(
        said.contains("TWO=2") && said.contains("FROM_IMAGE=yes"),
        "{said}"
    );
    for foreign in ["ONE=", "EXTRA=", "of the host", "GANTRY_"] {
        assert!(!said.contains(foreign), "{foreign} in {said}");
    }
    // An entry of the image without a value is no order to look it up on the host.
    for change in ["ENV AWS_SECRET", "ENV *", "ENV AWS_SECRET="] {
        let made = escapes::import(
            &installation,
            &format!("env{}", change.len()),
            &[change],
            |_| {},
        );
        if made.status.success() {
            let image = format!("env{}", change.len());
            let mut command =
                installation.command(&["run", "--rm", "--network", "none", &image, "env"]);
            let said = run(command.env("AWS_SECRET", "of the host"));
            assert!(!said.contains("of the host"), "{change}: {said}");
        }
    }
}
