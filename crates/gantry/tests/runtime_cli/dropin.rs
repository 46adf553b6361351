//! In the place of runc, under the programs that people use.

use std::path::Path;
use std::process::Command;

use crate::bundle::{Runtime, rootfs};
use crate::support::engines::Docker;
use crate::support::{bin_dir, is_installed, is_root, text, wait_until};

/// Whether the programs are there, and may do what they have to.
fn can_run(programs: &[&str]) -> bool {
    is_root() && programs.iter().all(|program| is_installed(program))
}

/// Where the daemons and their containers are: with mounts and a network of their own.
fn apart(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net"])
        .arg(program);
    command
}

/// Runs a script, with what leads it to its daemon if that runs already.
fn drop_in(name: &str, runtime: &Runtime, docker: Option<&Docker>) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtime_cli/dropin");
    let work = runtime.directory.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let output = apart("sh")
        .arg(scripts.join(format!("{name}.sh")))
        .env("SCRIPTS", &scripts)
        .env("RUNTIME", bin_dir().join("gantry-runtime"))
        .env("ROOTFS", rootfs())
        .env("DIRECTORY", &work)
        .env("GROUP", &runtime.group)
        .envs(docker.into_iter().flat_map(Docker::environment))
        .output()
        .unwrap();
    let log = match docker {
        Some(docker) => docker.log(),
        None => std::fs::read_to_string(work.join("log")).unwrap_or_default(),
    };
    assert!(
        output.status.success(),
        "{}\n{}\nits daemon: {log}",
        text(&output.stdout),
        text(&output.stderr),
    );
}

fn nothing_is_left(runtime: &Runtime) {
    wait_until("nothing is left", || runtime.remains().is_empty());
}

#[test]
fn heavy_containerd_runs_containers_with_it() {
    if can_run(&["containerd", "ctr"]) {
        let runtime = Runtime::new();
        drop_in("containerd", &runtime, None);
        nothing_is_left(&runtime);
    }
}

#[test]
fn heavy_docker_runs_containers_with_it() {
    if can_run(&["dockerd", "docker", "containerd"]) {
        let runtime = Runtime::new();
        let ours = format!("gantry={}", bin_dir().join("gantry-runtime").display());
        let directory = runtime.directory.join("docker");
        let docker = Docker::start(&directory, apart, &["--add-runtime", &ours]);
        drop_in("docker", &runtime, Some(&docker));
        drop(docker);
        nothing_is_left(&runtime);
    }
}

#[test]
fn heavy_podman_runs_containers_with_it() {
    if can_run(&["podman", "conmon"]) {
        let runtime = Runtime::new();
        drop_in("podman", &runtime, None);
        nothing_is_left(&runtime);
    }
}
