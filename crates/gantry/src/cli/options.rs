//! The flags of `run` and `create`, and the container that they describe.

mod declare;
pub mod network;

use std::collections::BTreeMap;
use std::io;

use clap::ArgMatches;

use super::flags::{is_on, optional_switch, owned, parsed, parsed_list, text, texts};
use crate::api::CreateRequest;
use crate::api::config::{ContainerConfig, MountRequest, Resources, SeccompChoice, Security};
use crate::error::CliError;
use crate::parse::{self, env, limits, mount, number, size, volume};

use declare::{ONLY_DEFAULT, UNSUPPORTED};
pub use declare::{arguments, run_only};

/// Size of `/dev/shm` when nothing is said, in bytes.
const SHM_SIZE: i64 = 64 << 20;

/// Largest profile or file of variables read, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Always.
    Always,
    /// When it is not there.
    Missing,
    /// Never.
    Never,
}

/// What the flags of `run` or `create` said.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Name of the container.
    pub name: Option<String>,
    /// Platform of the image.
    pub platform: Option<String>,
    /// The container.
    pub config: ContainerConfig,
    /// Whether `--entrypoint` was given.
    pub entrypoint_set: bool,
    /// Leave the container in the background.
    pub detach: bool,
    /// Streams to attach.
    pub attach: Streams,
    /// Keys that detach.
    pub detach_keys: Vec<u8>,
    /// Hand signals on.
    pub signal_proxy: bool,
    /// When to pull.
    pub pull: PullPolicy,
    /// Say nothing while pulling.
    pub quiet: bool,
    /// File that gets the container's id.
    pub cid_file: Option<String>,
}

/// Streams of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl RunOptions {
    /// The request for the engine.
    pub fn request(&self) -> CreateRequest {
        CreateRequest {
            name: self.name.clone(),
            platform: self.platform.clone(),
            config: self.config.clone(),
            entrypoint_set: self.entrypoint_set,
        }
    }
}

/// What a command line is read against: the world outside of it.
pub struct Surroundings<'a> {
    /// Variables of this process.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file named on the command line.
    pub read: &'a dyn Fn(&str) -> io::Result<Vec<u8>>,
    /// Working directory.
    pub directory: &'a str,
}

/// Reads the flags of `run`, or of `create` when `for_run` is not set.
///
/// # Errors
/// [`CliError::Flag`], [`CliError::Conflict`], [`CliError::File`] and
/// [`CliError::FileContent`].
pub fn read(
    matches: &ArgMatches,
    for_run: bool,
    surroundings: &Surroundings<'_>,
) -> Result<RunOptions, CliError> {
    refuse_unsupported(matches)?;
    let (detach, detach_keys, signal_proxy) = if for_run {
        (
            is_on(matches, "detach")?,
            detach_keys(matches)?,
            optional_switch(matches, "sig-proxy")?.unwrap_or(true),
        )
    } else {
        (true, Vec::new(), false)
    };
    let mut config = ContainerConfig::default();
    let mut words = owned(matches, "command").into_iter();
    config.image = words.next().unwrap_or_default();
    config.cmd = words.collect();
    if config.image.is_empty() {
        return Err(CliError::Conflict("the image's name is empty".to_owned()));
    }
    process(matches, surroundings, &mut config)?;
    network::read(matches, &mut config)?;
    storage(matches, surroundings, &mut config)?;
    config.resources = resources(matches)?;
    config.security = security(matches, surroundings)?;
    limits_and_logs(matches, &mut config)?;
    let attach = streams(matches, for_run && detach, config.open_stdin)?;
    config.stdin_once = config.open_stdin && attach.stdin && !detach;
    network::check_shared(&config)?;
    let pull = match text(matches, "pull").unwrap_or("missing") {
        "always" => PullPolicy::Always,
        "missing" | "" => PullPolicy::Missing,
        "never" => PullPolicy::Never,
        other => {
            return Err(CliError::Conflict(format!(
                "invalid pull option '{other}': use always, missing or never"
            )));
        }
    };
    Ok(RunOptions {
        name: text(matches, "name")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        platform: platform(matches)?,
        entrypoint_set: text(matches, "entrypoint").is_some(),
        config,
        detach,
        attach,
        detach_keys,
        signal_proxy,
        pull,
        quiet: is_on(matches, "quiet")?,
        cid_file: text(matches, "cidfile")
            .filter(|path| !path.is_empty())
            .map(str::to_owned),
    })
}

/// The keys of `--detach-keys`, or the usual ones.
///
/// # Errors
/// [`CliError::Flag`].
pub fn detach_keys(matches: &ArgMatches) -> Result<Vec<u8>, CliError> {
    let keys = parsed(matches, "detach-keys", |keys| match keys {
        "" => Ok(parse::detach_keys::DEFAULT.to_vec()),
        keys => parse::detach_keys::sequence(keys),
    })?;
    Ok(keys.unwrap_or_else(|| parse::detach_keys::DEFAULT.to_vec()))
}

/// The platform of `--platform`.
///
/// # Errors
/// [`CliError::Conflict`] when it is none.
pub fn platform(matches: &ArgMatches) -> Result<Option<String>, CliError> {
    let Some(platform) = text(matches, "platform").filter(|platform| !platform.is_empty()) else {
        return Ok(None);
    };
    let valid = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    if platform.split('/').count() > 3 || !platform.split('/').all(valid) {
        return Err(CliError::Conflict(format!(
            "invalid platform '{platform}': use os[/arch[/variant]], such as linux/amd64"
        )));
    }
    Ok(Some(platform.to_owned()))
}

/// Environment of `--env-file` and `-e`, in this order.
///
/// # Errors
/// [`CliError::Flag`], [`CliError::File`] and [`CliError::FileContent`].
pub fn environment(
    matches: &ArgMatches,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<String>, CliError> {
    let mut entries = Vec::new();
    for path in texts(matches, "env-file") {
        let bytes = read_file(surroundings, path)?;
        entries.extend(env::file(&bytes, surroundings.variable).map_err(content_error(path))?);
    }
    entries.extend(parsed_list(matches, "env", |entry| {
        env::variable(entry, surroundings.variable)
    })?);
    Ok(env::last_wins(entries))
}

/// Reads a file named on the command line, up to a bound.
///
/// # Errors
/// The kernel's, and one for a file that is too large.
pub fn read_bounded(path: &str) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

fn read_file(surroundings: &Surroundings<'_>, path: &str) -> Result<Vec<u8>, CliError> {
    (surroundings.read)(path).map_err(|source| CliError::File {
        action: "cannot read",
        path: path.to_owned(),
        source,
    })
}

fn content_error(path: &str) -> impl FnOnce(parse::ParseError) -> CliError {
    let path = path.to_owned();
    move |source| CliError::FileContent { path, source }
}

fn refuse_unsupported(matches: &ArgMatches) -> Result<(), CliError> {
    for (name, _) in UNSUPPORTED {
        if text(matches, name).is_some() {
            return Err(CliError::Conflict(format!("--{name} is not supported yet")));
        }
    }
    for (name, allowed) in ONLY_DEFAULT {
        if let Some(given) = text(matches, name)
            && !allowed.contains(&given)
        {
            return Err(CliError::Conflict(format!(
                "--{name} '{given}' is not supported yet: only '{}' is",
                allowed[0]
            )));
        }
    }
    Ok(())
}

fn process(
    matches: &ArgMatches,
    surroundings: &Surroundings<'_>,
    config: &mut ContainerConfig,
) -> Result<(), CliError> {
    let own = |name: &str| text(matches, name).unwrap_or_default().to_owned();
    config.env = environment(matches, surroundings)?;
    for path in texts(matches, "label-file") {
        let bytes = read_file(surroundings, path)?;
        // A key alone is a label without a value.
        let lines = env::file(&bytes, &|_| Some(String::new())).map_err(content_error(path))?;
        for line in lines {
            config
                .labels
                .extend([env::label(&line).map_err(content_error(path))?]);
        }
    }
    config
        .labels
        .extend(parsed_list(matches, "label", env::label)?);
    config.entrypoint = texts(matches, "entrypoint")
        .last()
        .filter(|program| !program.is_empty())
        .map(str::to_owned)
        .into_iter()
        .collect();
    config.working_dir = own("workdir");
    config.user = own("user");
    config.hostname = own("hostname");
    config.stop_signal = own("stop-signal");
    config.stop_timeout = parsed(matches, "stop-timeout", |seconds| {
        number::integer(seconds, -1, i64::from(i32::MAX))
    })?;
    config.tty = is_on(matches, "tty")?;
    config.open_stdin = is_on(matches, "interactive")?;
    config.auto_remove = is_on(matches, "rm")?;
    config.init = is_on(matches, "init")?;
    config.runtime = own("runtime");
    Ok(())
}

fn storage(
    matches: &ArgMatches,
    surroundings: &Surroundings<'_>,
    config: &mut ContainerConfig,
) -> Result<(), CliError> {
    let mut mounts: Vec<MountRequest> = parsed_list(matches, "volume", |text| {
        volume::volume(text, surroundings.directory)
    })?;
    mounts.extend(parsed_list(matches, "mount", |text| {
        mount::mount(text, surroundings.directory)
    })?);
    mounts.extend(parsed_list(matches, "tmpfs", mount::tmpfs)?);
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index]
            .iter()
            .any(|other| other.target == mount.target)
        {
            return Err(CliError::Conflict(format!(
                "duplicate mount point: {}",
                mount.target
            )));
        }
    }
    config.mounts = mounts;
    let shm_size = parsed(matches, "shm-size", size::bytes)?.unwrap_or(SHM_SIZE);
    config.shm_size = u64::try_from(shm_size).unwrap_or_default();
    Ok(())
}

fn resources(matches: &ArgMatches) -> Result<Resources, CliError> {
    let own = |name: &str| text(matches, name).unwrap_or_default().to_owned();
    let bytes = |name| parsed(matches, name, size::bytes).map(Option::unwrap_or_default);
    let shares = parsed(matches, "cpu-shares", |shares| {
        number::integer(shares, 0, 262_144)
    })?;
    Ok(Resources {
        memory: bytes("memory")?,
        memory_swap: parsed(matches, "memory-swap", size::bytes_or_unlimited)?.unwrap_or_default(),
        memory_reservation: bytes("memory-reservation")?,
        nano_cpus: parsed(matches, "cpus", number::nano_cpus)?.unwrap_or_default(),
        cpu_shares: shares
            .and_then(|shares| shares.try_into().ok())
            .unwrap_or_default(),
        cpuset_cpus: own("cpuset-cpus"),
        cpuset_mems: own("cpuset-mems"),
        pids_limit: parsed(matches, "pids-limit", |count| {
            number::integer(count, -1, i64::MAX)
        })?
        .unwrap_or_default(),
    })
}

fn security(matches: &ArgMatches, surroundings: &Surroundings<'_>) -> Result<Security, CliError> {
    let mut security = Security {
        privileged: is_on(matches, "privileged")?,
        cap_add: owned(matches, "cap-add"),
        cap_drop: owned(matches, "cap-drop"),
        read_only: is_on(matches, "read-only")?,
        ..Security::default()
    };
    for option in texts(matches, "security-opt") {
        let invalid = || {
            CliError::Conflict(format!(
                "invalid value '{option}' for --security-opt: use seccomp=FILE|unconfined|builtin or no-new-privileges[=true|false]"
            ))
        };
        let (key, value) = match option.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        match (key, value) {
            ("no-new-privileges", None) => security.no_new_privileges = true,
            ("no-new-privileges", Some(value)) => {
                security.no_new_privileges = number::boolean(value).map_err(|_| invalid())?;
            }
            ("seccomp", Some("unconfined")) => security.seccomp = SeccompChoice::Unconfined,
            ("seccomp", Some("builtin")) => security.seccomp = SeccompChoice::Default,
            ("seccomp", Some(path)) if !path.is_empty() => {
                security.seccomp = SeccompChoice::Profile(profile(surroundings, path)?);
            }
            // What these two ask for is what happens anyway.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
            _ => return Err(invalid()),
        }
    }
    Ok(security)
}

/// A system call profile, read now: the file may be gone at the next start.
fn profile(surroundings: &Surroundings<'_>, path: &str) -> Result<String, CliError> {
    let bytes = read_file(surroundings, path)?;
    let invalid = |source: io::Error| CliError::File {
        action: "cannot use the seccomp profile",
        path: path.to_owned(),
        source,
    };
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
        .map_err(|error| invalid(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    String::from_utf8(bytes)
        .map_err(|error| invalid(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn limits_and_logs(matches: &ArgMatches, config: &mut ContainerConfig) -> Result<(), CliError> {
    config.ulimits = parsed_list(matches, "ulimit", limits::ulimit)?;
    config.sysctls = collect(parsed_list(matches, "sysctl", limits::sysctl)?);
    config.log_options = collect(parsed_list(matches, "log-opt", limits::log_option)?);
    match text(matches, "log-driver").unwrap_or("json-file") {
        "" | "json-file" | "local" => Ok(()),
        other => Err(CliError::Conflict(format!(
            "log driver '{other}' is not supported: use json-file or local"
        ))),
    }
}

fn collect(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

/// Streams of `-a`, or the usual ones.
fn streams(matches: &ArgMatches, detach: bool, interactive: bool) -> Result<Streams, CliError> {
    let mut streams = Streams::default();
    let mut given = false;
    for name in texts(matches, "attach") {
        given = true;
        match name.to_ascii_lowercase().as_str() {
            "stdin" => streams.stdin = true,
            "stdout" => streams.stdout = true,
            "stderr" => streams.stderr = true,
            _ => {
                return Err(CliError::Conflict(format!(
                    "invalid value '{name}' for --attach: use stdin, stdout or stderr"
                )));
            }
        }
    }
    match (given, detach) {
        (true, true) => Err(CliError::Conflict(
            "conflicting options: cannot specify both --attach and --detach".to_owned(),
        )),
        (true, false) => Ok(streams),
        (false, true) => Ok(Streams::default()),
        (false, false) => Ok(Streams {
            stdin: interactive,
            stdout: true,
            stderr: true,
        }),
    }
}

#[cfg(test)]
mod tests;
