//! From a container's record to the supervisor's order.

use std::path::PathBuf;

use gantry_runtime::birth::default_mounts;
use gantry_runtime::capabilities::{self, CapabilitySet};
use gantry_runtime::cgroup::default_device_rules;
use gantry_runtime::seccomp;
use gantry_runtime::spec::{
    Capabilities, ConsoleSize, Cpu, Device, DeviceRule, Linux, Memory, Mount, Namespace,
    NamespaceKind, OCI_VERSION, Pids, Process, Resources, Rlimit, Root, Seccomp, Spec,
};
use gantry_supervisor::order::{BirthOrder, LogOrder, NetworkOrder, PROTOCOL};

use crate::config::{ContainerConfig, MountSource, NetworkMode, SeccompChoice, Security};
use crate::error::Error;
use crate::paths::Roots;

/// Paths that are hidden from a container, as Docker hides them.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that a container can only read.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Everything an order is made of.
pub struct Source<'a> {
    /// Where the installation is.
    pub roots: &'a Roots,
    /// The container.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Creation, in nanoseconds since 1970.
    pub created_at: i64,
    /// Id of its image.
    pub image_id: &'a str,
    /// The container's configuration.
    pub config: &'a ContainerConfig,
    /// Directories of the image's layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Volumes, in the order of the configuration's mounts that are volumes.
    pub volumes: &'a [String],
    /// Network.
    pub network: NetworkOrder,
    /// Initial size of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// What settles the end.
    pub settle_command: Vec<String>,
}

/// Makes the order.
///
/// # Errors
/// [`Error::Invalid`].
pub fn make(source: Source<'_>) -> Result<BirthOrder, Error> {
    let config = source.config;
    let roots = source.roots;
    let data = roots.container_data(source.id);
    let allowed = allowed_capabilities(&config.security)?;
    let mut mounts = default_mounts(if config.shm_size == 0 {
        64 << 20
    } else {
        config.shm_size
    });
    if config.security.privileged {
        for mount in &mut mounts {
            mount.options.retain(|option| option != "ro");
        }
    }
    mounts.extend(user_mounts(&source));
    mounts.extend(managed_files(&source));
    let host_network = config.network == NetworkMode::Host;
    let hostname = hostname(source.id, config);
    let process = process(config, &hostname, allowed, config.tty, source.console_size)?;
    let spec = Spec {
        oci_version: OCI_VERSION.into(),
        process: Some(process),
        root: Some(Root {
            path: String::new(),
            readonly: config.security.read_only,
        }),
        hostname: if host_network {
            String::new()
        } else {
            hostname
        },
        // The host's own would change with it.
        domainname: if host_network {
            String::new()
        } else {
            config.domainname.clone()
        },
        mounts,
        linux: Some(linux(
            config,
            allowed,
            &source.network,
            roots.cgroup(source.id),
        )?),
        ..Spec::default()
    };
    Ok(BirthOrder {
        protocol: PROTOCOL,
        container: source.id.into(),
        spec,
        upper: data.join("upper"),
        work: data.join("work"),
        volatile: config.auto_remove,
        user: config.user.clone(),
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        init: config.init,
        cgroup: roots.cgroup(source.id),
        run_dir: roots.container_run(source.id),
        settle_marker: crate::operation::end_mark(roots, source.id),
        settle_command: source.settle_command.clone(),
        log: Some(log(roots, source.id, config)?),
        summary: summary(&source),
        runtime: crate::runtimes::find(&config.runtime)?,
        lower: source.layers,
        network: source.network,
    })
}

/// Host name of a container; on the host's network it is the host's.
#[must_use]
pub fn hostname(id: &str, config: &ContainerConfig) -> String {
    if config.network == NetworkMode::Host {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else if config.hostname.is_empty() {
        id[..12].into()
    } else {
        config.hostname.clone()
    }
}

/// The names that `/etc/hosts` has for the container's own addresses: with its domain first, as
/// programs take the first one for the whole name.
#[must_use]
pub fn own_names(id: &str, config: &ContainerConfig) -> String {
    let hostname = hostname(id, config);
    if config.domainname.is_empty() {
        hostname
    } else {
        format!("{hostname}.{} {hostname}", config.domainname)
    }
}

/// What is needed to show a container while the state store cannot be read.
fn summary(source: &Source<'_>) -> serde_json::Value {
    let config = source.config;
    let address = match &source.network {
        NetworkOrder::Bridge(bridge) => bridge
            .endpoints
            .first()
            .map(|endpoint| endpoint.address.to_string()),
        _ => None,
    };
    serde_json::json!({
        "name": source.name, "created_at": source.created_at, "image": config.image, "image_id": source.image_id,
        "entrypoint": config.entrypoint, "cmd": config.cmd, "labels": config.labels, "sandbox": source.id,
        "auto_remove": config.auto_remove, "stop_signal": config.stop_signal, "stop_timeout": config.stop_timeout,
        "address": address, "env": config.env, "user": config.user, "working_dir": config.working_dir, "hostname": config.hostname,
        "security": config.security, "network": config.network, "log": source.roots.log(source.id),
    })
}

fn log(roots: &Roots, id: &str, config: &ContainerConfig) -> Result<LogOrder, Error> {
    let option = |name: &str| config.log_options.get(name);
    let max_size = match option("max-size") {
        None => 20 << 20,
        Some(text) => parse_size(text).ok_or_else(|| Error::Invalid {
            option: format!("log option max-size={text}"),
            reason: "expected a size such as 10m".into(),
        })?,
    };
    let max_files = match option("max-file") {
        None => 5,
        Some(text) => text
            .parse()
            .ok()
            .filter(|&count| count >= 1)
            .ok_or_else(|| Error::Invalid {
                option: format!("log option max-file={text}"),
                reason: "expected a number of at least 1".into(),
            })?,
    };
    Ok(LogOrder {
        path: roots.log(id),
        max_size,
        max_files,
    })
}

/// A size with an optional unit, in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Capabilities that a container may have.
///
/// # Errors
/// [`Error::Invalid`] for an unknown name.
pub fn allowed_capabilities(security: &Security) -> Result<CapabilitySet, Error> {
    let invalid = |reason: String| Error::Invalid {
        option: "capability".into(),
        reason,
    };
    let supported = CapabilitySet::supported().map_err(|error| invalid(error.to_string()))?;
    let allowed = capabilities::resolve(
        &security.cap_add,
        &security.cap_drop,
        security.privileged,
        supported,
    )
    .map_err(|error| invalid(error.to_string()))?;
    let all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if !security.privileged && !security.cap_add.iter().any(all) {
        return Ok(allowed);
    }
    // "Everything" is what we have ourselves; a name that we lack stays an error.
    let available = CapabilitySet::available().map_err(|error| invalid(error.to_string()))?;
    Ok(allowed.intersection(available))
}

/// Capability sets by which a process starts: never inheritable or ambient ones
/// (CVE-2022-24769).
#[must_use]
pub fn capability_sets(allowed: CapabilitySet) -> Capabilities {
    let names = allowed.names();
    Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

fn process(
    config: &ContainerConfig,
    hostname: &str,
    allowed: CapabilitySet,
    tty: bool,
    console_size: Option<(u16, u16)>,
) -> Result<Process, Error> {
    let mut env = config.env.clone();
    let mut set = |variable: String| {
        let name = format!("{}=", variable.split('=').next().unwrap_or_default());
        if !env.iter().any(|known| known.starts_with(&name)) {
            env.push(variable);
        }
    };
    set(format!("HOSTNAME={hostname}"));
    if tty {
        set("TERM=xterm".into());
    }
    Ok(Process {
        terminal: tty,
        console_size: console_size.map(|(height, width)| ConsoleSize { height, width }),
        args: config
            .entrypoint
            .iter()
            .chain(&config.cmd)
            .cloned()
            .collect(),
        env,
        cwd: if config.working_dir.is_empty() {
            "/".into()
        } else {
            config.working_dir.clone()
        },
        capabilities: Some(capability_sets(allowed)),
        rlimits: rlimits(config)?,
        no_new_privileges: config.security.no_new_privileges,
        ..Process::default()
    })
}

fn rlimits(config: &ContainerConfig) -> Result<Vec<Rlimit>, Error> {
    let limit = |value: i64| if value < 0 { u64::MAX } else { value as u64 };
    config
        .ulimits
        .iter()
        .map(|ulimit| {
            let (soft, hard) = (limit(ulimit.soft), limit(ulimit.hard));
            if soft > hard {
                return Err(Error::Invalid {
                    option: format!("ulimit {}", ulimit.name),
                    reason: format!(
                        "the soft limit {} is above the hard limit {}",
                        ulimit.soft, ulimit.hard
                    ),
                });
            }
            Ok(Rlimit {
                kind: format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
                soft,
                hard,
            })
        })
        .collect()
}

fn linux(
    config: &ContainerConfig,
    allowed: CapabilitySet,
    network: &NetworkOrder,
    cgroups_path: String,
) -> Result<Linux, Error> {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let mut kinds = vec![Mount, Pid, Ipc, Cgroup];
    if !matches!(network, NetworkOrder::Host) {
        kinds.push(Uts);
    }
    if matches!(network, NetworkOrder::None | NetworkOrder::Bridge(_)) {
        kinds.push(Network);
    }
    let privileged = config.security.privileged;
    let list = |paths: &[&str]| {
        if privileged {
            Vec::new()
        } else {
            paths.iter().map(|&path| path.into()).collect()
        }
    };
    Ok(Linux {
        namespaces: kinds
            .into_iter()
            .map(|kind| Namespace { kind, path: None })
            .collect(),
        devices: if privileged {
            host_devices()
        } else {
            Vec::new()
        },
        cgroups_path,
        resources: Some(resources(config)),
        sysctl: config.sysctls.clone(),
        seccomp: seccomp_profile(&config.security, allowed)?,
        masked_paths: list(&MASKED)
            .into_iter()
            .chain(if privileged {
                Vec::new()
            } else {
                thermal_paths()
            })
            .collect(),
        readonly_paths: list(&READ_ONLY),
        ..Linux::default()
    })
}

/// Counters of each processor's throttling, which tell of the work of others
/// (GHSA-6fw5-f8r9-fgfm). A system that has them at all has them for its first processor.
fn thermal_paths() -> Vec<String> {
    const PROCESSORS: &str = "/sys/devices/system/cpu";
    let of = |name: &str| format!("{PROCESSORS}/{name}/thermal_throttle");
    if !std::path::Path::new(&of("cpu0")).exists() {
        return Vec::new();
    }
    let names = std::fs::read_dir(PROCESSORS)
        .into_iter()
        .flatten()
        .flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("cpu")
                .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .map(|name| of(&name))
        .collect()
}

/// The system call filter of a container.
///
/// # Errors
/// [`Error::Invalid`] for a profile that cannot be read.
pub fn seccomp_profile(
    security: &Security,
    allowed: CapabilitySet,
) -> Result<Option<Seccomp>, Error> {
    match &security.seccomp {
        _ if security.privileged => Ok(None),
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::Default => Ok(Some(seccomp::default_profile(
            allowed,
            seccomp::Architecture::NATIVE,
        ))),
        SeccompChoice::Profile(text) => {
            let profile = serde_json::from_str(text).map_err(|error| Error::Invalid {
                option: "seccomp profile".into(),
                reason: error.to_string(),
            })?;
            Ok(Some(profile))
        }
    }
}

fn resources(config: &ContainerConfig) -> Resources {
    let asked = &config.resources;
    let devices = if config.security.privileged {
        vec![DeviceRule {
            allow: true,
            access: Some("rwm".into()),
            ..DeviceRule::default()
        }]
    } else {
        default_device_rules()
    };
    let positive = |value: i64| (value != 0).then_some(value);
    let memory = Memory {
        limit: positive(asked.memory),
        reservation: positive(asked.memory_reservation),
        // Twice the memory, as Docker has it.
        swap: match asked.memory_swap {
            0 if asked.memory > 0 => Some(asked.memory.saturating_mul(2)),
            0 => None,
            swap => Some(swap),
        },
        ..Memory::default()
    };
    const PERIOD: u64 = 100_000;
    let quota = (asked.nano_cpus > 0).then_some(asked.nano_cpus / 10_000);
    let cpu = Cpu {
        shares: (asked.cpu_shares > 0).then_some(asked.cpu_shares),
        quota,
        period: quota.map(|_| PERIOD),
        cpus: asked.cpuset_cpus.clone(),
        mems: asked.cpuset_mems.clone(),
        ..Cpu::default()
    };
    Resources {
        devices,
        memory: (memory.limit.is_some() || memory.reservation.is_some() || memory.swap.is_some())
            .then_some(memory),
        cpu: (cpu.shares.is_some()
            || quota.is_some()
            || !cpu.cpus.is_empty()
            || !cpu.mems.is_empty())
        .then_some(cpu),
        pids: (asked.pids_limit != 0).then_some(Pids {
            limit: asked.pids_limit,
        }),
        ..Resources::default()
    }
}

/// Every device node of the host, for a privileged container.
fn host_devices() -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut devices = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let kind = metadata.file_type();
            if kind.is_dir()
                && !["/dev/pts", "/dev/shm", "/dev/mqueue"]
                    .iter()
                    .any(|&known| path.as_os_str() == known)
            {
                directories.push(path);
                continue;
            }
            if !(kind.is_char_device() || kind.is_block_device())
                || path.as_os_str() == "/dev/console"
            {
                continue;
            }
            devices.push(Device {
                path: path.to_string_lossy().into_owned(),
                kind: if kind.is_block_device() {
                    "b".into()
                } else {
                    "c".into()
                },
                major: rustix::fs::major(metadata.rdev()),
                minor: rustix::fs::minor(metadata.rdev()),
                file_mode: Some(metadata.mode() & 0o7777),
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
    devices
}

fn user_mounts(source: &Source<'_>) -> Vec<Mount> {
    let mut volumes = source.volumes.iter();
    let mut mounts: Vec<Mount> = source
        .config
        .mounts
        .iter()
        .map(|request| {
            let mut options: Vec<String> = vec![if request.read_only {
                "ro".into()
            } else {
                "rw".into()
            }];
            let (kind, from) = match &request.source {
                MountSource::Bind { path, .. } => {
                    options.push(if request.recursive {
                        "rbind".into()
                    } else {
                        "bind".into()
                    });
                    options.push(if request.propagation.is_empty() {
                        "rprivate".into()
                    } else {
                        request.propagation.clone()
                    });
                    ("bind", path.clone())
                }
                MountSource::Volume { copy_up, .. } => {
                    options.extend(["bind".into(), "rprivate".into()]);
                    // A volume that is mounted read-only is never written to (CVE-2020-1726).
                    if *copy_up && !request.read_only {
                        options.push("copyup".into());
                    }
                    let name = volumes.next().map(String::as_str).unwrap_or_default();
                    (
                        "bind",
                        source
                            .roots
                            .volume(name)
                            .join("_data")
                            .to_string_lossy()
                            .into_owned(),
                    )
                }
                MountSource::Tmpfs {
                    size,
                    mode,
                    options: words,
                } => {
                    options.extend(["nosuid".into(), "nodev".into()]);
                    if !words.iter().any(|word| word == "exec") {
                        options.push("noexec".into());
                    }
                    options.extend(words.iter().cloned());
                    options.extend(size.map(|size| format!("size={size}")));
                    options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
                    ("tmpfs", "tmpfs".into())
                }
            };
            Mount {
                destination: request.target.clone(),
                kind: kind.into(),
                source: from,
                options,
                ..Mount::default()
            }
        })
        .collect();
    // What lies below another mount comes after it.
    mounts.sort_by_key(|mount| {
        gantry_runtime::path::clean(&mount.destination)
            .matches('/')
            .count()
    });
    mounts
}

fn managed_files(source: &Source<'_>) -> Vec<Mount> {
    let directory = source.roots.container_run(source.id);
    ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .filter(|name| {
            let target = format!("/etc/{name}");
            !source
                .config
                .mounts
                .iter()
                .any(|mount| gantry_runtime::path::clean(&mount.target) == target)
        })
        .map(|name| Mount {
            destination: format!("/etc/{name}"),
            kind: "bind".into(),
            source: directory.join(name).to_string_lossy().into_owned(),
            options: vec!["bind".into(), "rprivate".into()],
            ..Mount::default()
        })
        .collect()
}
