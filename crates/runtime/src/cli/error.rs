//! What a command can fail with, and how the person who typed it is told.

use std::io;
use std::path::PathBuf;

use gantry_runtime::BirthError;
use gantry_runtime::cgroup::CgroupError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line itself is wrong.
    #[error("{0}")]
    Usage(String),
    /// No container of this id. containerd and Podman look for these words.
    #[error("container does not exist: {id}; `gantry-runtime list` shows those that do")]
    NoContainer {
        /// The id.
        id: String,
    },
    /// A container of this id is there already.
    #[error("container with given ID already exists: {id}; choose another one or delete it")]
    Exists {
        /// The id.
        id: String,
    },
    /// A command that needs a process found none. containerd looks for these words.
    #[error("container not running: {id}")]
    NotRunning {
        /// The id.
        id: String,
    },
    /// The state of the container does not allow the command.
    #[error("cannot {action} container {id} in state {status}{hint}")]
    WrongState {
        /// What was to be done.
        action: &'static str,
        /// The id.
        id: String,
        /// Its state.
        status: &'static str,
        /// What to do, with a separator before it; or nothing.
        hint: &'static str,
    },
    /// Another command works on the container and does not end.
    #[error("container {id} is busy: another command has been at work on it for {seconds} s")]
    Busy {
        /// The id.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Something that was given is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// A JSON document does not say what it has to.
    #[error("cannot understand {}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// Something could not be done with a file.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was attempted.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The process could not be made.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// Its control group could not be made or used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Another program did not do its part.
    #[error("{program} failed with {status}{detail}")]
    Program {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Where to read more, with a separator before it; or nothing.
        detail: String,
    },
    /// What a command was doing when an inner error stopped it.
    #[error("{action}")]
    While {
        /// What was being done, to which container.
        action: String,
        /// Cause.
        #[source]
        source: Box<CliError>,
    },
}

impl CliError {
    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        plain(text)
    }

    /// Says what was being done.
    pub fn during(self, action: String) -> CliError {
        match self {
            // These name their object already, and clients look for their words.
            named @ (CliError::Usage(_)
            | CliError::NoContainer { .. }
            | CliError::Exists { .. }
            | CliError::NotRunning { .. }
            | CliError::WrongState { .. }) => named,
            source => CliError::While {
                action,
                source: Box::new(source),
            },
        }
    }
}

/// Puts the kernel's errors as C and Go put them: clients look for `permission denied` to
/// choose an exit code, and Rust says `Permission denied (os error 13)`.
fn plain(text: String) -> String {
    const MARK: &str = " (os error ";
    let mut text = text;
    while let Some(end) = text.find(MARK) {
        let Some(length) = text[end..].find(')') else {
            break;
        };
        text.replace_range(end..=end + length, "");
        let start = text[..end].rfind(": ").map_or(0, |colon| colon + 2);
        if let Some(first) = text.get_mut(start..=start) {
            first.make_ascii_lowercase();
        }
    }
    text
}

/// Names the step or the file that an I/O error stopped.
pub trait Context<T> {
    /// Adds the step.
    ///
    /// # Errors
    /// [`CliError::Step`].
    fn step(self, step: &'static str) -> Result<T, CliError>;
    /// Adds the file.
    ///
    /// # Errors
    /// [`CliError::File`].
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, CliError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, CliError> {
        self.map_err(|error| CliError::Step {
            step,
            source: error.into(),
        })
    }

    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, CliError> {
        self.map_err(|error| CliError::File {
            action,
            path: path.into(),
            source: error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn errors_of_the_kernel_are_put_as_clients_expect() {
        for (text, expected) in [
            (
                "exec: \"x\": Permission denied (os error 13)",
                "exec: \"x\": permission denied",
            ),
            (
                "No such file or directory (os error 2)",
                "no such file or directory",
            ),
            (
                "a: Is a directory (os error 21): B (os error 1)",
                "a: is a directory: b",
            ),
            ("a: B (os error ", "a: B (os error "),
            ("nothing", "nothing"),
        ] {
            assert_eq!(plain(text.to_owned()), expected);
        }
    }
}
