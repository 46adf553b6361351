//! Errors of a birth, and how they cross from the new process to its parent.

use std::io;

use crate::user::UserError;

/// Why a process could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    /// A step of the set-up failed.
    #[error("{step}")]
    Step {
        /// What was attempted, and on what.
        step: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The user cannot be resolved.
    #[error(transparent)]
    User(#[from] UserError),
    /// Something asked for is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// The program is not there.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotFound {
        /// Its name.
        program: String,
    },
    /// The program's path leads nowhere.
    #[error("exec: {program:?}: stat {program}: no such file or directory")]
    NotFoundPath {
        /// Its path.
        program: String,
    },
    /// The program cannot be executed.
    #[error("exec: {program:?}")]
    NotExecutable {
        /// Its path.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A failure that the new process reported.
    #[error("{message}")]
    Reported {
        /// Exit code by Docker's convention: 125, 126 or 127.
        code: i32,
        /// The whole chain of causes.
        message: String,
    },
}

impl BirthError {
    /// Exit code by Docker's convention.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            BirthError::NotFound { .. } | BirthError::NotFoundPath { .. } => 127,
            BirthError::NotExecutable { .. } => 126,
            BirthError::Reported { code, .. } => *code,
            _ => 125,
        }
    }

    /// Whether the file is there and may be executed, but is none that the kernel executes.
    pub(crate) fn is_no_program(&self) -> bool {
        matches!(self, BirthError::NotExecutable { source, .. }
            if source.kind() != io::ErrorKind::PermissionDenied)
    }

    /// Reads what a child has reported: an exit code and a text.
    pub(crate) fn reported(message: &[u8]) -> BirthError {
        let (code, text) = message
            .split_first()
            .map_or((125, &[][..]), |(code, text)| (i32::from(*code), text));
        BirthError::Reported {
            code,
            message: String::from_utf8_lossy(text).into_owned(),
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Names the step that an I/O error stopped.
pub(crate) trait Step<T> {
    /// Adds what was attempted.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, BirthError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, BirthError> {
        self.map_err(|error| BirthError::Step {
            step: step(),
            source: error.into(),
        })
    }
}
