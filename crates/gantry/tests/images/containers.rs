//! `commit` and `export`.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::id_of;
use crate::support::{Installation, bin_dir, text, wait_until};

#[test]
fn containers_become_images_and_archives() {
    let here = Installation::with_busybox();
    let script = "mkdir /d && echo new > /d/file && ln /d/file /d/link && ln -s file /d/soft \
                  && chown 1000:1001 /d/file && chmod 4755 /d/file && rm /bin/vi \
                  && rm -r /home/app && mkdir /home/app";
    here.ok(&[
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let id = here.ok(&[
        "commit",
        "-a",
        "Somebody",
        "-m",
        "remark",
        "-c",
        "ENV A=b",
        "-c",
        "CMD [\"cat\", \"/d/link\"]",
        "made",
        "committed:1",
    ]);
    assert_eq!(id, id_of(&here, "committed:1"));
    let image = here.inspect("committed:1");
    assert_eq!(image["Author"], "Somebody");
    assert_eq!(image["Comment"], "remark");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "committed:1"]),
        "new"
    );
    let check =
        "stat -c '%a %u:%g %h' /d/link; readlink /d/soft; ls -A /home/app; ls /bin/vi || echo $A";
    let output = here.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "committed:1",
        "sh",
        "-c",
        check,
    ]);
    assert_eq!(text(&output.stdout), "4755 1000:1001 2\nfile\nb");
    let history = here.ok(&[
        "history",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Comment}} {{.Size}}",
        "committed:1",
    ]);
    assert!(history.starts_with(&format!("{id} remark 4B")), "{history}");

    // The layer of the commit has no blob until it is saved, and the image is the same then.
    let file = here.root.join("committed.tar");
    here.ok(&["save", "-o", file.to_str().unwrap(), "committed:1"]);
    let other = Installation::new();
    other.ok(&["load", "-i", file.to_str().unwrap()]);
    assert_eq!(id_of(&other, "committed:1"), id);
    assert_eq!(
        other.ok(&["run", "--rm", "--network", "none", "committed:1"]),
        "new"
    );
    other.assert_clean();

    let exported = here.root.join("exported.tar");
    here.ok(&[
        "container",
        "export",
        "-o",
        exported.to_str().unwrap(),
        "made",
    ]);
    let listing = Command::new("tar")
        .arg("tvf")
        .arg(&exported)
        .output()
        .unwrap();
    let listing = text(&listing.stdout);
    assert!(listing.contains("-rwsr-xr-x 1000/1001"), "{listing}");
    assert!(listing.contains("d/link link to d/file"), "{listing}");
    assert!(
        !listing.contains("bin/vi\n") && !listing.contains(".wh."),
        "{listing}"
    );
    here.ok(&["import", exported.to_str().unwrap(), "flat"]);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "flat", "cat", "/d/file"]),
        "new"
    );

    // A container that runs is paused meanwhile, and goes on.
    here.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /one; sleep 1000",
    ]);
    wait_until("the file is written", || {
        here.gantry(&["exec", "runs", "cat", "/one"]).stdout == b"1\n"
    });
    here.ok(&["container", "commit", "runs", "live"]);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "live", "cat", "/one"]),
        "1"
    );
    assert_eq!(here.ok(&["exec", "runs", "echo", "on"]), "on");
    here.ok(&["rm", "-f", "made", "runs"]);
    here.assert_clean();
}

/// A removal waits for an export, which otherwise would lack files without a word.
#[test]
fn a_container_stays_while_it_is_read() {
    let here = Installation::with_busybox();
    let script = "head -c 4000000 /dev/zero > /large && echo whole > /zz";
    let arguments = [
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    here.ok(&arguments);
    let mut export = here
        .command(&["export", "made"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut archive = vec![0; 1000];
    let mut output = export.stdout.take().unwrap();
    output.read_exact(&mut archive).unwrap();
    // It waits for its reader now, with more to say than a pipe holds.
    let mut removal = here
        .command(&["rm", "made"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(removal.try_wait().unwrap().is_none(), "the removal waits");
    output.read_to_end(&mut archive).unwrap();
    assert!(export.wait().unwrap().success());
    assert!(removal.wait().unwrap().success());
    let file = here.root.join("exported.tar");
    fs::write(&file, archive).unwrap();
    let listing = Command::new("tar").arg("tvf").arg(&file).output().unwrap();
    let listing = text(&listing.stdout);
    assert!(
        listing.lines().any(|line| line.ends_with(" zz")),
        "it is whole: {listing}"
    );
    let error = here.fails(1, &["commit", "made"]);
    assert!(error.contains("no such container"), "{error}");
    here.assert_clean();
}

/// Whether the processes of a container are frozen, by either version of control groups.
fn is_frozen(here: &Installation, id: &str) -> bool {
    let group = format!("gantry-{}/{id}", here.instance());
    let read = |file: String| fs::read_to_string(file).unwrap_or_default();
    read(format!("/sys/fs/cgroup/freezer/{group}/freezer.state")).starts_with("FROZEN")
        || read(format!("/sys/fs/cgroup/{group}/cgroup.events")).contains("frozen 1")
}

/// A container that runs and has enough to be packed for some time; returns its id.
fn start_large(here: &Installation) -> String {
    let script = "head -c 300000000 /dev/zero > /large; echo > /ready; sleep 1000";
    let run = [
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
    ];
    let id = here.ok(&[&run[..], &["sh", "-c", script]].concat());
    wait_until("the file is written", || {
        here.gantry(&["exec", "runs", "cat", "/ready"]).stdout == b"\n"
    });
    id
}

/// A commit that is killed leaves nobody frozen for ever: the next command sees to that.
#[test]
fn a_killed_commit_does_not_leave_its_container_frozen() {
    let here = Installation::with_busybox();
    let id = start_large(&here);
    let mut commit = here
        .command(&["commit", "runs", "never"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the container is frozen", || is_frozen(&here, &id));
    commit.kill().unwrap();
    commit.wait().unwrap();
    assert!(is_frozen(&here, &id), "the commit was still at work");
    here.ok(&["ps"]);
    assert!(!is_frozen(&here, &id), "the next command has thawed it");
    assert_eq!(here.ok(&["exec", "runs", "echo", "on"]), "on");
    here.fails(1, &["inspect", "never"]);
    here.ok(&["rm", "-f", "runs"]);
    here.assert_clean();
}

/// Ctrl-C in a commit, and the end of the machine: the container goes on at once, and not with the
/// next command only.
#[test]
fn a_commit_that_is_told_to_end_lets_its_container_go_on() {
    let here = Installation::with_busybox();
    let id = start_large(&here);
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let mut commit = here
            .command(&["commit", "runs", "never"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the container is frozen", || is_frozen(&here, &id));
        let pid = commit.id().to_string();
        Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        let status = commit.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{status:?}");
        assert!(!is_frozen(&here, &id), "{signal} has thawed it");
        here.fails(1, &["inspect", "never"]);
    }
    // Who is not to hear of the end of a terminal does not (`nohup`).
    let script = "trap '' HUP; exec \"$0\" commit runs done";
    let gantry = bin_dir().join("gantry");
    let mut commit = Command::new("sh");
    commit
        .args(["-c", script])
        .arg(gantry)
        .envs([
            ("GANTRY_DATA_ROOT", &here.data),
            ("GANTRY_RUN_ROOT", &here.run),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut commit = commit.spawn().unwrap();
    wait_until("the container is frozen", || is_frozen(&here, &id));
    let pid = commit.id().to_string();
    Command::new("kill")
        .args(["-s", "HUP", &pid])
        .status()
        .unwrap();
    assert!(commit.wait().unwrap().success());
    assert!(!is_frozen(&here, &id));
    here.inspect("done");
    assert_eq!(here.ok(&["exec", "runs", "echo", "on"]), "on");
    here.ok(&["rm", "-f", "runs"]);
    here.assert_clean();
}

/// A mark of somebody who is dead is not the end of a container that has not begun.
#[test]
fn a_killed_reader_removes_nothing() {
    let here = Installation::with_busybox();
    let create = [
        "create",
        "--rm",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
    ];
    here.ok(&[&create[..], &["echo", "ran"]].concat());
    let mut export = here
        .command(&["export", "made"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun, and waits for its reader with more to say than a pipe holds.
    let mut output = export.stdout.take().unwrap();
    output.read_exact(&mut [0; 1000]).unwrap();
    export.kill().unwrap();
    export.wait().unwrap();
    drop(output);
    assert_eq!(here.ok(&["ps", "-a", "--format", "{{.Names}}"]), "made");
    assert_eq!(here.ok(&["start", "-a", "made"]), "ran");
    wait_until("it is removed at its end", || {
        here.ok(&["ps", "-a", "-q"]).is_empty()
    });
    here.assert_clean();
}
