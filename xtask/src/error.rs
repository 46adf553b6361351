//! What can go wrong in a task, told in one line.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitStatus;

/// The result of a task or of a step of one.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a task stopped.
#[derive(Debug)]
pub enum Error {
    /// The command line of the task is wrong; the text says how.
    Usage(String),
    /// An operation of the operating system failed.
    Io {
        /// What was attempted, with the object: `cannot read /x`.
        what: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A program that the task needs ended with a failure.
    Command {
        /// The command line as it was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr, when that was captured.
        stderr: String,
    },
    /// Something that must be there is missing.
    Missing {
        /// The missing object.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A file or an output does not have the form it must have.
    Malformed(String),
    /// The task ran and what it checked does not hold.
    Failed(String),
}

impl Error {
    /// An [`Error::Io`] on a path, for use in `map_err`.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("cannot {action} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Malformed(text) | Self::Failed(text) => f.write_str(text),
            Self::Io { what, .. } => f.write_str(what),
            Self::Command {
                command,
                status,
                stderr,
            } => {
                write!(f, "`{command}` ended with {status}")?;
                match stderr.trim() {
                    "" => Ok(()),
                    text => write!(f, ": {text}"),
                }
            }
            Self::Missing { what, hint } => write!(f, "{what} is missing; {hint}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Renders an error with its chain of causes, for the person at the terminal.
pub fn render(error: &Error) -> String {
    let mut text = format!("xtask: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
