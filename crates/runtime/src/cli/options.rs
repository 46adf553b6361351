//! Global flags, and those that several commands share.

use std::path::PathBuf;

use super::arguments::{Arguments, Flag};
use super::error::CliError;
use super::log::{Format, Log};

/// Global flags.
#[derive(Debug)]
pub struct Global {
    /// Directory of the state of all containers.
    pub root: PathBuf,
    /// The log.
    pub log: Log,
    /// Whether systemd makes the control groups.
    pub systemd_cgroup: bool,
    /// Whether a missing right over control groups is no error.
    pub rootless: bool,
    /// The criu program.
    pub criu: String,
}

impl Global {
    /// Takes the flags before the command.
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub fn parse(words: &mut Arguments) -> Result<(Global, Request), CliError> {
        let mut global = Global {
            root: default_root(),
            log: Log::default(),
            systemd_cgroup: false,
            rootless: !rustix::process::geteuid().is_root(),
            criu: "criu".into(),
        };
        let mut request = Request::Command;
        while let Some(flag) = words.flag() {
            match flag.name() {
                "root" => global.root = absolute(words.value(flag)?)?,
                "log" => global.log.path = Some(words.value(flag)?.into()),
                "log-format" => {
                    global.log.format = match &*words.value(flag)? {
                        "text" => Format::Text,
                        "json" => Format::Json,
                        other => {
                            return Err(CliError::Usage(format!(
                                "unknown log format {other:?}: text and json are known"
                            )));
                        }
                    }
                }
                "log-level" => global.log.debug = words.value(flag)? == "debug",
                "debug" => global.log.debug = flag.switch()?,
                "systemd-cgroup" => global.systemd_cgroup = flag.switch()?,
                "cgroup-manager" => global.systemd_cgroup = words.value(flag)? == "systemd",
                "rootless" => match &*words.value(flag)? {
                    "auto" => {}
                    "true" | "1" => global.rootless = true,
                    "false" | "0" => global.rootless = false,
                    other => {
                        return Err(CliError::Usage(format!(
                            "flag --rootless takes true, false or auto, not {other:?}"
                        )));
                    }
                },
                "criu" => global.criu = words.value(flag)?,
                "help" | "h" => request = Request::Help,
                "version" | "v" => request = Request::Version,
                _ => return Err(flag.unknown()),
            }
        }
        // runc leaves its own log empty there, and so do clients that pass the default on.
        if global
            .log
            .path
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty() || path.as_os_str() == "/dev/stderr")
        {
            global.log.path = None;
        }
        Ok((global, request))
    }
}

/// What is asked for before a command's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// The command that follows.
    Command,
    /// The help.
    Help,
    /// The versions.
    Version,
}

fn default_root() -> PathBuf {
    if !rustix::process::geteuid().is_root()
        && let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())
    {
        return PathBuf::from(directory).join("gantry-runtime");
    }
    "/run/gantry-runtime".into()
}

/// A path that stays the same when the working directory changes.
///
/// # Errors
/// [`CliError::File`].
pub fn absolute(path: String) -> Result<PathBuf, CliError> {
    use super::error::Context as _;
    std::path::absolute(&path).file("find", path)
}

/// Flags of `create`, `run` and `restore`.
#[derive(Debug, Default)]
pub struct Create {
    /// Directory with the configuration.
    pub bundle: PathBuf,
    /// Socket for the terminal.
    pub console_socket: Option<PathBuf>,
    /// File for the process id.
    pub pid_file: Option<PathBuf>,
    /// Socket for a handle of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Whether the root is entered without pivot_root.
    pub no_pivot: bool,
    /// Whether the session keyring stays the caller's.
    pub no_new_keyring: bool,
    /// Whether orphans of the container are left to others.
    pub no_subreaper: bool,
    /// Descriptors from 3 on that the program gets, besides those of `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// Whether the command ends before the program.
    pub detach: bool,
    /// Whether the container is left for `delete` at its end.
    pub keep: bool,
}

impl Create {
    /// Nothing asked for.
    ///
    /// # Errors
    /// [`CliError::File`] without a working directory.
    pub fn new() -> Create {
        Create {
            bundle: ".".into(),
            ..Create::default()
        }
    }

    /// Takes a flag, or gives it back.
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub fn take(&mut self, flag: Flag, words: &mut Arguments) -> Result<Option<Flag>, CliError> {
        match flag.name() {
            "bundle" | "b" => self.bundle = words.value(flag)?.into(),
            "console-socket" => self.console_socket = path(words.value(flag)?),
            "pid-file" => self.pid_file = path(words.value(flag)?),
            "pidfd-socket" => self.pidfd_socket = path(words.value(flag)?),
            "no-pivot" => self.no_pivot = flag.switch()?,
            "no-new-keyring" => self.no_new_keyring = flag.switch()?,
            "no-subreaper" => self.no_subreaper = flag.switch()?,
            "preserve-fds" => self.preserve_fds = words.number(flag)?,
            _ => return Ok(Some(flag)),
        }
        Ok(None)
    }
}

/// A path, unless the text is empty.
pub fn path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}
