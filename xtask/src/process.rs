//! Running other programs: they succeed, or the error shows the command line.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// The command line as a person would type it, near enough for a message.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with our own streams and demands success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| Error::Io {
        what: format!("cannot run `{}`", describe(command)),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: describe(command),
        status,
        stderr: String::new(),
    })
}

/// Runs a command silently and demands success; its stderr goes into the error.
pub fn quietly(command: &mut Command) -> Result<()> {
    captured(command).map(drop)
}

/// Runs a command, demands success and returns its stdout as text.
pub fn stdout(command: &mut Command) -> Result<String> {
    let output = captured(command)?;
    String::from_utf8(output.stdout)
        .map_err(|_| Error::Malformed(format!("`{}` did not print UTF-8", describe(command))))
}

/// Whether a command can be run and succeeds; its streams are discarded.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The path of a program found through PATH and the system directories, which
/// a user's PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn captured(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Io {
            what: format!("cannot run `{}`", describe(command)),
            source,
        })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Command {
        command: describe(command),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
