//! `checkpoint` and `restore`.

use std::fs;
use std::process::{Command, Stdio};

use crate::bundle::Runtime;

/// Whether criu works on this kernel, which it does not on every one.
fn criu_works() -> bool {
    let works = Command::new("criu")
        .arg("check")
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: `criu check` fails here");
    }
    works
}

#[test]
fn a_container_comes_back_from_disk() {
    if !criu_works() {
        return;
    }
    let runtime = Runtime::new();
    let bundle = runtime.idle("one");
    let images = runtime.directory.join("images");
    let path = images.to_str().unwrap();
    runtime.ok(&["checkpoint", "--leave-running", "--image-path", path, "one"]);
    assert_eq!(runtime.status("one"), "running");
    fs::remove_dir_all(&images).unwrap();
    runtime.ok(&["checkpoint", "--image-path", path, "one"]);
    // As with runc, it is gone now.
    runtime.fails(1, &["state", "one"]);
    let restored = runtime
        .command(&[
            "restore",
            "-d",
            "--image-path",
            path,
            "-b",
            bundle.to_str().unwrap(),
            "one",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(restored.success());
    assert_eq!(runtime.status("one"), "running");
    assert!(runtime.ok(&["exec", "one", "ps"]).contains("sleep 1000"));
    runtime.ok(&["delete", "-f", "one"]);
    runtime.assert_clean();
}

#[test]
fn what_cannot_be_written_is_refused_and_goes_on() {
    let runtime = Runtime::new();
    runtime.idle("one");
    let images = runtime.directory.join("images");
    let path = images.to_str().unwrap();
    for (arguments, words) in [
        (
            &["checkpoint", "--image-path", path, "two"][..],
            "container does not exist",
        ),
        (
            &["checkpoint", "--manage-cgroups-mode", "hard", "one"],
            "hard",
        ),
        (&["checkpoint", "--lazy-pages", "one"], "not supported"),
        (
            &[
                "--criu",
                "/nowhere/criu",
                "checkpoint",
                "--image-path",
                path,
                "one",
            ],
            "/nowhere/criu",
        ),
        (
            &["--criu", "false", "checkpoint", "--image-path", path, "one"],
            "false dump failed",
        ),
    ] {
        let refused = runtime.fails(1, arguments);
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(runtime.status("one"), "running");
    runtime.ok(&["delete", "-f", "one"]);
    // A failed restore leaves nothing.
    let bundle = runtime.bundle("two", &["true"], |_| {});
    let bundle = bundle.to_str().unwrap();
    runtime.fails(
        1,
        &[
            "--criu",
            "false",
            "restore",
            "--image-path",
            path,
            "-b",
            bundle,
            "two",
        ],
    );
    runtime.assert_clean();
}
