//! What a configuration must not ask for. Every error names the field.
//!
//! Types and the values of enumerations are checked when the document is read; limits of
//! control groups and system call filters where they are applied.

use std::os::fd::OwnedFd;

use crate::error::BirthError;
use crate::spec::{
    Device, Hook, IdMapping, IntelRdt, Linux, Mount, NamespaceKind, Process, Spec, TimeOffset,
};
use crate::{id_map, path, schedule};

type Checked = Result<(), BirthError>;

fn invalid(field: impl std::fmt::Display, reason: impl std::fmt::Display) -> Checked {
    Err(BirthError::Invalid(format!("{field}: {reason}")))
}

/// Checks a configuration, and that the namespaces are there which some fields need; those in
/// `joined` are joined.
///
/// # Errors
/// [`BirthError::Invalid`].
pub fn check(spec: &Spec, joined: &[(NamespaceKind, OwnedFd)]) -> Checked {
    if !spec.oci_version.starts_with("1.") {
        return invalid(
            "ociVersion",
            format_args!(
                "{:?} is not a version 1 of the specification",
                spec.oci_version
            ),
        );
    }
    let no_linux = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&no_linux);
    let has = |kind: NamespaceKind| {
        linux.namespaces.iter().any(|one| one.kind == kind)
            || joined.iter().any(|(joined, _)| *joined == kind)
    };
    for (field, name) in [
        ("hostname", &spec.hostname),
        ("domainname", &spec.domainname),
    ] {
        if !name.is_empty() && !has(NamespaceKind::Uts) {
            return invalid(field, "it needs a uts namespace of the container's own");
        }
        if name.len() > 64 || name.contains('\0') {
            return invalid(field, "it is longer than 64 bytes");
        }
    }
    if let Some(process) = &spec.process {
        check_process(process, linux)?;
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        check_mount(&format!("mounts[{index}]"), mount)?;
    }
    if let Some(hooks) = &spec.hooks {
        for (kind, hooks) in [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
            ("startContainer", &hooks.start_container),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
        ] {
            for (index, hook) in hooks.iter().enumerate() {
                check_hook(&format!("hooks.{kind}[{index}]"), hook)?;
            }
        }
    }
    check_linux(linux, &has)?;
    for name in linux.sysctl.keys() {
        check_sysctl(name, &has, joined)?;
    }
    Ok(())
}

/// Checks a process; of an exec too.
///
/// # Errors
/// [`BirthError::Invalid`].
pub fn check_process(process: &Process, linux: &Linux) -> Checked {
    if let Some(score) = process.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return invalid(
            "process.oomScoreAdj",
            format_args!("{score} is not between -1000 and 1000"),
        );
    }
    if let Some(mask) = process.user.umask
        && mask > 0o777
    {
        return invalid(
            "process.user.umask",
            format_args!("{mask} is above 511 (0777)"),
        );
    }
    for (index, limit) in process.rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if process.rlimits[..index]
            .iter()
            .any(|one| one.kind == limit.kind)
        {
            return invalid(field, format_args!("{} is there twice", limit.kind));
        }
        if limit.soft > limit.hard {
            return invalid(field, "the soft limit is above the hard limit");
        }
    }
    schedule::check(process, Some(linux))
}

fn check_mount(field: &str, mount: &Mount) -> Checked {
    if mount.destination.is_empty() {
        return invalid(format_args!("{field}.destination"), "it is missing");
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return invalid(field, "uidMappings and gidMappings belong together");
    }
    if mount.uid_mappings.is_empty() {
        return Ok(());
    }
    if !mount.is_bind() {
        return invalid(
            format_args!("{field}.uidMappings"),
            "only bind mounts can be id-mapped",
        );
    }
    id_map::check(&format!("{field}.uidMappings"), &mount.uid_mappings)?;
    id_map::check(&format!("{field}.gidMappings"), &mount.gid_mappings)
}

fn check_hook(field: &str, hook: &Hook) -> Checked {
    if !hook.path.starts_with('/') {
        return invalid(
            format_args!("{field}.path"),
            format_args!("{:?} is not absolute", hook.path),
        );
    }
    if hook.timeout.is_some_and(|seconds| seconds <= 0) {
        return invalid(format_args!("{field}.timeout"), "it must be above zero");
    }
    match hook.env.iter().find(|variable| !variable.contains('=')) {
        Some(variable) => invalid(
            format_args!("{field}.env"),
            format_args!("{variable:?} has no value"),
        ),
        None => Ok(()),
    }
}

fn check_linux(linux: &Linux, has: &dyn Fn(NamespaceKind) -> bool) -> Checked {
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let earlier = &linux.namespaces[..index];
        if earlier.iter().any(|one| one.kind == namespace.kind) {
            return invalid(
                format_args!("linux.namespaces[{index}]"),
                format_args!("{} is there twice", namespace.kind.name()),
            );
        }
    }
    let makes = |kind: NamespaceKind| {
        linux
            .namespaces
            .iter()
            .any(|one| one.kind == kind && one.path.as_ref().is_none_or(String::is_empty))
    };
    check_ids("linux.uidMappings", &linux.uid_mappings, has, &makes)?;
    check_ids("linux.gidMappings", &linux.gid_mappings, has, &makes)?;
    if !linux.time_offsets.is_empty() && !makes(NamespaceKind::Time) {
        return invalid("linux.timeOffsets", "they need a new time namespace");
    }
    for (clock, TimeOffset { nanosecs, .. }) in &linux.time_offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if clock != "monotonic" && clock != "boottime" {
            return invalid(field, "there is no such clock");
        }
        if *nanosecs >= 1_000_000_000 {
            return invalid(format_args!("{field}.nanosecs"), "it is a second or more");
        }
    }
    for (device, moved) in &linux.net_devices {
        let field = format!("linux.netDevices.{device}");
        if !has(NamespaceKind::Network) {
            return invalid(field, "it needs a network namespace of the container's own");
        }
        for name in [device, &moved.name] {
            let plain = |byte: u8| !byte.is_ascii_whitespace() && !b"/:\0".contains(&byte);
            let empty_is_well = std::ptr::eq(name, &raw const moved.name) && name.is_empty();
            if !empty_is_well
                && (name.is_empty()
                    || name.len() > 15
                    || [".", ".."].contains(&name.as_str())
                    || !name.bytes().all(plain))
            {
                return invalid(field, format_args!("{name:?} is no name of an interface"));
            }
        }
    }
    for (index, device) in linux.devices.iter().enumerate() {
        check_device(&format!("linux.devices[{index}]"), device)?;
    }
    if ![
        "",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "runbindable",
    ]
    .contains(&linux.rootfs_propagation.as_str())
    {
        return invalid(
            "linux.rootfsPropagation",
            format_args!("{:?} is unknown", linux.rootfs_propagation),
        );
    }
    for (field, paths) in [
        ("linux.maskedPaths", &linux.masked_paths),
        ("linux.readonlyPaths", &linux.readonly_paths),
    ] {
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return invalid(field, format_args!("{path:?} is not absolute"));
        }
    }
    match &linux.intel_rdt {
        Some(rdt) => check_rdt(rdt),
        None => Ok(()),
    }
}

fn check_ids(
    field: &str,
    mappings: &[IdMapping],
    has: &dyn Fn(NamespaceKind) -> bool,
    makes: &dyn Fn(NamespaceKind) -> bool,
) -> Checked {
    if mappings.is_empty() {
        return if makes(NamespaceKind::User) {
            invalid(field, "a new user namespace needs it")
        } else {
            Ok(())
        };
    }
    if !has(NamespaceKind::User) {
        return invalid(field, "it needs a user namespace");
    }
    id_map::check(field, mappings)
}

fn check_device(field: &str, device: &Device) -> Checked {
    if !device.path.starts_with('/') || path::clean(&device.path) == "/" {
        return invalid(
            format_args!("{field}.path"),
            format_args!("{:?} is not absolute", device.path),
        );
    }
    if !["b", "c", "u", "p"].contains(&&*device.kind) {
        return invalid(
            format_args!("{field}.type"),
            format_args!("{:?} is none of b, c, u and p", device.kind),
        );
    }
    Ok(())
}

fn check_rdt(rdt: &IntelRdt) -> Checked {
    let id = &rdt.clos_id;
    if [".", "..", "info", "mon_data", "mon_groups"].contains(&id.as_str())
        || id.contains(['/', '\n', '\0'])
    {
        return invalid("linux.intelRdt.closID", format_args!("{id:?} is no name"));
    }
    let lines = [&rdt.l3_cache_schema, &rdt.mem_bw_schema];
    if lines
        .iter()
        .chain(&rdt.schemata.iter().collect::<Vec<_>>())
        .any(|line| line.contains('\n'))
    {
        return invalid("linux.intelRdt", "a schema is more than one line");
    }
    if !rdt.mem_bw_schema.is_empty() && !rdt.mem_bw_schema.starts_with("MB:") {
        return invalid("linux.intelRdt.memBwSchema", "it does not begin with MB:");
    }
    Ok(())
}

/// Kernel parameters of the IPC namespace besides `fs.mqueue.*`.
const IPC_PARAMETERS: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Only parameters that belong to a namespace of the container's own may be set; the others
/// are the host's (CVE-2022-0811: `kernel.core_pattern` behind an allowed one).
fn check_sysctl(
    name: &str,
    has: &dyn Fn(NamespaceKind) -> bool,
    joined: &[(NamespaceKind, OwnedFd)],
) -> Checked {
    let field = format!("linux.sysctl: {name}");
    let file = sysctl_file(name)?;
    let needed = if file.starts_with("net/") {
        NamespaceKind::Network
    } else if file.starts_with("fs/mqueue/") || IPC_PARAMETERS.contains(&&*file) {
        NamespaceKind::Ipc
    } else if file == "kernel/domainname" {
        NamespaceKind::Uts
    } else if file == "kernel/hostname" {
        return invalid(field, "the field hostname sets it");
    } else if file.starts_with("user/") {
        NamespaceKind::User
    } else {
        return invalid(field, "it belongs to no namespace, but to the host");
    };
    if !has(needed) {
        return invalid(
            field,
            format_args!(
                "it needs a {} namespace of the container's own",
                needed.name()
            ),
        );
    }
    match joined.iter().find(|(kind, _)| *kind == needed) {
        Some((_, fd)) if is_own(fd, needed) => invalid(
            field,
            format_args!("the {} namespace is the host's", needed.name()),
        ),
        _ => Ok(()),
    }
}

/// Whether a namespace is the one of the calling process.
fn is_own(fd: &OwnedFd, kind: NamespaceKind) -> bool {
    let name = match kind {
        NamespaceKind::Network => "net",
        other => other.name(),
    };
    match (
        rustix::fs::fstat(fd),
        rustix::fs::stat(format!("/proc/self/ns/{name}")),
    ) {
        (Ok(one), Ok(own)) => (one.st_dev, one.st_ino) == (own.st_dev, own.st_ino),
        _ => true,
    }
}

/// The file below `/proc/sys` of a kernel parameter.
///
/// # Errors
/// [`BirthError::Invalid`] for a name that could lead elsewhere.
pub(crate) fn sysctl_file(name: &str) -> Result<String, BirthError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    // What separates the first part separates all; the parts of a path may hold dots, and
    // those of a dotted name slashes in their place (sysctl.d(5)).
    let file: String = match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'.' => name
            .chars()
            .map(|character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let leads_up = file.split('/').any(|part| part.is_empty() || part == "..");
    if !name.bytes().all(plain) || leads_up {
        return Err(BirthError::Invalid(format!(
            "linux.sysctl: invalid kernel parameter {name:?}"
        )));
    }
    Ok(file)
}
