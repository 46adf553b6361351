//! The installation and its host, in Docker's form.

use std::collections::BTreeMap;
use std::fs;

use gantry_runtime::cgroup::{Hierarchy, Layout};
use serde_json::{Value, json};

use crate::error::Error;
use crate::runtimes;
use crate::{Engine, order};

impl Engine {
    /// What `GET /info` of Docker says, as far as it is known here.
    ///
    /// # Errors
    /// What the state store says.
    pub fn info(&self) -> Result<Value, Error> {
        let containers = self.list(true)?;
        let running = containers
            .iter()
            .filter(|container| container.state == "running")
            .count();
        let paused = containers
            .iter()
            .filter(|container| container.state == "paused")
            .count();
        let runtimes: BTreeMap<&str, Value> = runtimes::available()
            .into_iter()
            .map(|(name, program)| match program {
                Some(program) => (name, json!({"path": program})),
                None => (name, json!({"path": ""})),
            })
            .collect();
        let layout = Layout::detect().ok();
        let has = |controller: &str| {
            let mut hierarchies = layout.iter().flat_map(Layout::hierarchies);
            hierarchies.any(|hierarchy| has_controller(hierarchy, controller))
        };
        // On a hybrid host the controllers are those of the first version.
        let version = if layout.as_ref().is_some_and(is_unified) {
            "2"
        } else {
            "1"
        };
        let kernel = rustix::system::uname();
        let host = order::hostname(
            "",
            &crate::config::ContainerConfig {
                network: crate::config::NetworkMode::Host,
                ..Default::default()
            },
        );
        Ok(json!({
            "ID": self.roots.instance(),
            "Name": host,
            "Containers": containers.len(),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": containers.len() - running - paused,
            "Images": self.images()?.len(),
            "Driver": "overlayfs",
            "DriverStatus": [],
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": version,
            "MemoryLimit": has("memory"),
            "SwapLimit": has("memory"),
            "CpuShares": has("cpu"),
            "CpuCfsPeriod": has("cpu"),
            "CpuCfsQuota": has("cpu"),
            "CPUSet": has("cpuset"),
            "PidsLimit": has("pids"),
            "Runtimes": runtimes,
            "DefaultRuntime": runtimes::DEFAULT,
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "KernelVersion": kernel.release().to_string_lossy(),
            "OperatingSystem": operating_system(),
            "OSType": "linux",
            "Architecture": kernel.machine().to_string_lossy(),
            "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
            "MemTotal": total_memory(),
            "DockerRootDir": self.roots.data,
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "LiveRestoreEnabled": true,
            "Swarm": {"LocalNodeState": "inactive"},
            "Warnings": null,
        }))
    }
}

fn has_controller(hierarchy: &Hierarchy, controller: &str) -> bool {
    if !hierarchy.is_v2() {
        return hierarchy
            .controllers()
            .iter()
            .any(|name| name == controller);
    }
    let file = format!("{}/cgroup.controllers", hierarchy.mount_point());
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace().any(|name| name == controller)
}

fn is_unified(layout: &Layout) -> bool {
    layout
        .hierarchies()
        .iter()
        .all(|hierarchy| hierarchy.is_v2())
}

/// The distribution, by os-release(5).
fn operating_system() -> String {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(
        || "Linux".to_owned(),
        |name| name.trim_matches('"').to_owned(),
    )
}

/// Memory of the host, in bytes.
fn total_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    kilobytes
        .and_then(|number| number.trim().parse::<u64>().ok())
        .map_or(0, |number| number * 1024)
}
