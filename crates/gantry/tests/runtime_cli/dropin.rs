//! In the place of runc, under the programs that people use.

use std::path::Path;
use std::process::Command;

use crate::bundle::{Runtime, rootfs};
use crate::support::{bin_dir, text, wait_until};

/// Runs a script in mount and network namespaces of its own, with daemons of its own.
fn drop_in(name: &str, programs: &[&str]) {
    for program in programs {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        if !found.unwrap().status.success() {
            eprintln!("skipped: {program} is not installed");
            return;
        }
    }
    let runtime = Runtime::new();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtime_cli/dropin");
    let work = runtime.directory.join("work");
    std::fs::create_dir(&work).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "sh"])
        .arg(scripts.join(format!("{name}.sh")))
        .env("SCRIPTS", &scripts)
        .env("RUNTIME", bin_dir().join("gantry-runtime"))
        .env("ROOTFS", rootfs())
        .env("DIRECTORY", &work)
        .env("GROUP", &runtime.group)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\nits daemon: {}",
        text(&output.stdout),
        text(&output.stderr),
        std::fs::read_to_string(work.join("log")).unwrap_or_default()
    );
    wait_until("nothing is left", || runtime.remains().is_empty());
}

#[test]
fn heavy_containerd_runs_containers_with_it() {
    drop_in("containerd", &["containerd", "ctr"]);
}

#[test]
fn heavy_docker_runs_containers_with_it() {
    drop_in("docker", &["dockerd", "docker", "containerd"]);
}

#[test]
fn heavy_podman_runs_containers_with_it() {
    drop_in("podman", &["podman", "conmon"]);
}
