//! What a container is: the user's words over the image's.

use gantry_image::model::{ImageConfig, RuntimeConfig};

use crate::config::{ContainerConfig, ContainerPort, MountRequest, MountSource, Protocol};
use crate::error::Error;

/// What the user said about a new container.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Name; absent means that one is made up.
    pub name: Option<String>,
    /// Platform, as `os/architecture[/variant]`.
    pub platform: Option<String>,
    /// What the flags said.
    pub config: ContainerConfig,
    /// Whether `--entrypoint` was given, if only to clear the image's.
    pub entrypoint_set: bool,
}

/// Merges the image's configuration into the request's.
///
/// # Errors
/// [`Error::Invalid`].
pub fn merge(request: &CreateRequest, image: &ImageConfig) -> Result<ContainerConfig, Error> {
    let mut config = request.config.clone();
    let defaults = &image.config;
    // As in Docker, an entry point of the user's own drops the image's command too.
    if !request.entrypoint_set {
        config.entrypoint = defaults.entrypoint.clone().unwrap_or_default();
        if config.cmd.is_empty() {
            config.cmd = defaults.cmd.clone().unwrap_or_default();
        }
    }
    if config.entrypoint.is_empty() && config.cmd.is_empty() {
        return Err(Error::Invalid {
            option: "command".into(),
            reason: "no command specified: the image has none, so name one after the image".into(),
        });
    }
    config.env = merge_environment(&defaults.env, &config.env);
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&defaults.working_dir);
    }
    if config.user.is_empty() {
        config.user.clone_from(&defaults.user);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = defaults.stop_signal.clone().unwrap_or_default();
    }
    for (name, value) in &defaults.labels {
        config
            .labels
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    merge_ports(&mut config, defaults);
    merge_volumes(&mut config, defaults);
    check(&config)?;
    Ok(config)
}

fn merge_environment(image: &[String], user: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    // An entry of an image without `=` would, passed on, ask for the host's value
    // (CVE-2026-57231).
    let image = image.iter().filter(|variable| variable.contains('='));
    for variable in image.chain(user) {
        let wanted = name(variable);
        merged.retain(|known| name(known) != wanted);
        merged.push(variable.clone());
    }
    // The user's own word without `=` takes the image's value away, as in Docker.
    merged.retain(|variable| variable.contains('='));
    if !merged.iter().any(|variable| variable.starts_with("PATH=")) {
        merged.insert(
            0,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        );
    }
    merged
}

fn merge_ports(config: &mut ContainerConfig, defaults: &RuntimeConfig) {
    for text in defaults.exposed_ports.keys() {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        // A range, or what is no port at all, publishes nothing.
        if let Ok(port) = port.parse() {
            config.exposed_ports.push(ContainerPort { port, protocol });
        }
    }
    config
        .exposed_ports
        .extend(config.ports.iter().map(|binding| binding.container));
    config.exposed_ports.sort_unstable();
    config.exposed_ports.dedup();
}

fn merge_volumes(config: &mut ContainerConfig, defaults: &RuntimeConfig) {
    for target in defaults.volumes.keys() {
        // Cleaned, so that `/../../etc` is a path in the container (CVE-2022-23648).
        let target = gantry_runtime::path::clean(target);
        let forbidden =
            target == "/" || target == "/sys" || target == "/proc" || target.starts_with("/proc/");
        let taken = config
            .mounts
            .iter()
            .any(|mount| gantry_runtime::path::clean(&mount.target) == target);
        if !forbidden && !taken {
            config.mounts.push(MountRequest {
                source: MountSource::Volume {
                    name: None,
                    copy_up: true,
                },
                target,
                read_only: false,
                propagation: String::new(),
                recursive: false,
            });
        }
    }
}

fn check(config: &ContainerConfig) -> Result<(), Error> {
    let invalid = |option: String, reason: &str| Error::Invalid {
        option,
        reason: reason.into(),
    };
    for variable in &config.env {
        if variable.contains('\0') {
            return Err(invalid(
                format!("environment variable {variable:?}"),
                "it must not hold a NUL",
            ));
        }
        // A line end in HOME has forged entries of /etc/passwd elsewhere (CVE-2022-4318).
        if variable.starts_with("HOME=") && variable.contains(['\n', '\r', ':']) {
            return Err(invalid(
                format!("environment variable {variable:?}"),
                "a home directory is a plain path",
            ));
        }
    }
    if config.hostname.len() > 63 {
        return Err(invalid(
            format!("host name {:?}", config.hostname),
            "it has more than 63 characters",
        ));
    }
    // The kernel's bound; more than one line would forge entries of /etc/hosts.
    let is_plain = |byte: u8| byte.is_ascii_graphic();
    if config.domainname.len() > 64 || !config.domainname.bytes().all(is_plain) {
        return Err(invalid(
            format!("domain name {:?}", config.domainname),
            "it has more than 64 characters, or others than a domain has",
        ));
    }
    for mount in &config.mounts {
        if !mount.target.starts_with('/') {
            return Err(invalid(
                format!("mount target {:?}", mount.target),
                "it must be an absolute path",
            ));
        }
        let target = gantry_runtime::path::clean(&mount.target);
        if target == "/" {
            return Err(invalid(
                format!("mount target {:?}", mount.target),
                "it must not be the root",
            ));
        }
        let kernel = target == "/sys" || target == "/proc" || target.starts_with("/proc/");
        if kernel
            && !matches!(&mount.source, MountSource::Bind { path, .. } if path.starts_with("/proc") || path.starts_with("/sys"))
        {
            return Err(invalid(
                format!("mount target {:?}", mount.target),
                "only procfs and sysfs themselves may be mounted there",
            ));
        }
    }
    let mut targets: Vec<String> = config
        .mounts
        .iter()
        .map(|mount| gantry_runtime::path::clean(&mount.target))
        .collect();
    targets.sort_unstable();
    if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(
            format!("mount target {:?}", pair[0]),
            "it is given twice",
        ));
    }
    for name in config.sysctls.keys() {
        check_sysctl(name, config)?;
    }
    if config.resources.memory != 0 && config.resources.memory < 6 * 1024 * 1024 {
        return Err(invalid(
            format!("memory limit {}", config.resources.memory),
            "the least is 6 MB",
        ));
    }
    Ok(())
}

/// Only parameters of namespaces that the container has of its own (CVE-2022-0811).
fn check_sysctl(name: &str, config: &ContainerConfig) -> Result<(), Error> {
    let dotted = name.replace('/', ".");
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let plain = dotted
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let own = ipc.contains(&dotted.as_str())
        || dotted.starts_with("fs.mqueue.")
        || (dotted.starts_with("net.") && config.network != crate::config::NetworkMode::Host);
    if plain && own {
        return Ok(());
    }
    Err(Error::Invalid {
        option: format!("sysctl {name:?}"),
        reason: "it is not a parameter of a namespace of the container's own".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageConfig {
        ImageConfig::parse(text.as_bytes()).unwrap()
    }

    fn request(cmd: &[&str]) -> CreateRequest {
        let mut request = CreateRequest::default();
        request.config.cmd = cmd.iter().map(|&word| word.into()).collect();
        request
    }

    const IMAGE: &str = r#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/e"],"Cmd":["c"],
        "Env":["A=1","PATH=/p","BARE","*"],"Volumes":{"/v":{},"/../../etc":{},"/proc":{}},"User":"app",
        "ExposedPorts":{"80/tcp":{},"53/udp":{}},"Labels":{"a":"image","b":"image"},"WorkingDir":"/w"}}"#;

    #[test]
    fn the_user_comes_before_the_image() {
        let merged = merge(&request(&[]), &image(IMAGE)).unwrap();
        assert_eq!(
            (&merged.entrypoint[..], &merged.cmd[..]),
            (&["/e".to_owned()][..], &["c".to_owned()][..])
        );
        // CVE-2026-57231: an entry without a value must not bring the host's in.
        assert_eq!(merged.env, ["A=1", "PATH=/p"]);
        let merged = merge(&request(&["x"]), &image(IMAGE)).unwrap();
        assert_eq!(
            (merged.entrypoint.len(), &merged.cmd[..]),
            (1, &["x".to_owned()][..])
        );
        let mut own = request(&[]);
        own.entrypoint_set = true;
        own.config.entrypoint = vec!["/mine".into()];
        own.config.labels.insert("a".into(), "user".into());
        let merged = merge(&own, &image(IMAGE)).unwrap();
        assert!(merged.cmd.is_empty());
        assert_eq!(
            (&*merged.labels["a"], &*merged.labels["b"]),
            ("user", "image")
        );
        assert_eq!(merged.exposed_ports.len(), 2);
    }

    // CVE-2022-23648: a volume's path stays a path of the container; CVE-2015-3631: none
    // goes over /proc.
    #[test]
    fn image_volumes_are_paths_of_the_container() {
        let merged = merge(&request(&[]), &image(IMAGE)).unwrap();
        let targets: Vec<&str> = merged.mounts.iter().map(|mount| &*mount.target).collect();
        assert_eq!(targets, ["/etc", "/v"]);
    }

    #[test]
    fn nonsense_is_refused() {
        let plain = r#"{"os":"linux","architecture":"amd64"}"#;
        assert!(merge(&request(&[]), &image(plain)).is_err());
        // CVE-2022-4318 (R28), CVE-2022-0811 (R42).
        for variable in ["HOME=/x\nroot2::0:0", "HOME=/x\r", "A=\0"] {
            let mut bad = request(&["x"]);
            bad.config.env = vec![variable.into()];
            assert!(merge(&bad, &image(plain)).is_err(), "{variable:?}");
        }
        for sysctl in [
            "kernel.shm_rmid_forced=1+kernel.core_pattern",
            "kernel.core_pattern",
            "vm.swappiness",
            "net/../kernel/x y",
        ] {
            let mut bad = request(&["x"]);
            bad.config.sysctls.insert(sysctl.into(), "1".into());
            assert!(merge(&bad, &image(plain)).is_err(), "{sysctl:?}");
        }
    }
}
