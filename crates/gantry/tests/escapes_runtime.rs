//! Escapes from the runtime (root file system, mounts, procfs, capabilities, users, control
//! groups): every one that was published elsewhere must fail here. Each test names the
//! advisory whose flaw it would show.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod escapes;
mod support;

#[path = "escapes_runtime/calls.rs"]
mod calls;
#[path = "escapes_runtime/capabilities.rs"]
mod capabilities;
#[path = "escapes_runtime/kernel.rs"]
mod kernel;
#[path = "escapes_runtime/links.rs"]
mod links;
#[path = "escapes_runtime/places.rs"]
mod places;
#[path = "escapes_runtime/programs.rs"]
mod programs;
#[path = "escapes_runtime/races.rs"]
mod races;
#[path = "escapes_runtime/users.rs"]
mod users;
#[path = "escapes_runtime/volumes.rs"]
mod volumes;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use escapes::{probe, race_seconds};
use support::{Installation, wait_until};

/// A running container that does nothing.
fn idle(installation: &Installation, name: &str, flags: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name, "--network", "none"];
    arguments.extend(flags);
    arguments.extend(["busybox", "sleep", "1000"]);
    installation.ok(&arguments);
}

/// Replaces a path of an image's root by a link.
fn link(root: &Path, name: &str, target: &str) {
    let path = root.join(name);
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
    symlink(target, path).unwrap();
}

/// The lines of the probe as pairs of name and error number.
fn attempts(output: &str) -> Vec<(String, i32)> {
    output
        .lines()
        .map(|line| {
            let (name, error) = line.split_once(' ').unwrap();
            (name.to_owned(), error.parse().unwrap())
        })
        .collect()
}

const EPERM: i32 = 1;

const ENOSYS: i32 = 38;

const EROFS: i32 = 30;

/// Starts a container that exchanges two names in the volume `racy` until it is removed.
fn race(installation: &Installation, prepare: &str, one: &str, other: &str) {
    let flag = probe(installation);
    let script = format!(
        "{prepare}; touch /v/ready; exec /probe swap {one} {other} {}",
        race_seconds()
    );
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "racer",
        "--network",
        "none",
        "-v",
        "racy:/v",
        "-v",
        &flag,
        "busybox",
        "sh",
        "-c",
        &script,
    ]);
    let ready = installation.data.join("volumes/racy/_data/ready");
    wait_until("the race to begin", || ready.exists());
}
