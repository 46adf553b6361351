//! What goes wrong, as the person who typed the command sees it.

use std::error::Error as _;
use std::io;

use crate::api;
use crate::parse::ParseError;

/// Exit code of an error of the engine or of the command line, as Docker has it.
pub const ENGINE_FAILED: u8 = 125;

/// Why a command ended without doing its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line itself is wrong: said in one line, with the way to the help.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// Command whose help is named, such as `gantry run`.
        command: String,
        /// Exit code.
        code: u8,
    },
    /// A flag's value is refused.
    #[error("invalid value '{value}' for --{flag}")]
    Flag {
        /// Flag without its dashes.
        flag: &'static str,
        /// Value as given.
        value: String,
        /// Reason.
        #[source]
        source: ParseError,
    },
    /// Flags that exclude each other, or a value that nothing offers.
    #[error("{0}")]
    Conflict(String),
    /// A file named on the command line cannot be read or written.
    #[error("{action} {path}")]
    File {
        /// What was attempted, such as `cannot read`.
        action: &'static str,
        /// Path.
        path: String,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// A line of a file named on the command line is refused.
    #[error("invalid line in {path}")]
    FileContent {
        /// Path.
        path: String,
        /// Reason.
        #[source]
        source: ParseError,
    },
    /// Something that the host refused.
    #[error("{action}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// A template that cannot be parsed or applied.
    #[error("cannot apply the template")]
    Template(#[source] gotmpl::TemplateError),
    /// The engine's word.
    #[error(transparent)]
    Engine(#[from] api::Error),
    /// Standard input is no terminal where one is needed.
    #[error("the input device is not a TTY")]
    NotATerminal,
    /// A plain failure of the command with its own words.
    #[error("{0}")]
    Failed(String),
    /// An error with an exit code of its own.
    #[error("{error}")]
    Coded {
        /// The error.
        error: Box<CliError>,
        /// Exit code.
        code: u8,
    },
    /// Everything was said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

impl CliError {
    /// The whole chain in one line.
    pub fn line(&self) -> String {
        if let CliError::Coded { error, .. } = self {
            return error.line();
        }
        let mut line = without_number(self.to_string());
        let mut source = self.source();
        while let Some(error) = source {
            let text = without_number(error.to_string());
            // Some errors of libraries repeat their source in their own text.
            let plain = match text.strip_prefix("Error code ") {
                Some(rest) => rest.split_once(": ").map_or(rest, |(_, plain)| plain),
                None => &text,
            };
            if !line.ends_with(plain) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = error.source();
        }
        line
    }

    /// The same error with an exit code of its own.
    pub fn with_code(self, code: u8) -> CliError {
        CliError::Coded {
            error: Box::new(self),
            code,
        }
    }

    /// A next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            CliError::Engine(error) => error.hint(),
            CliError::Coded { error, .. } => error.hint(),
            _ => None,
        }
    }
}

/// An error's text without the number that the standard library adds: `(os error 2)`.
fn without_number(mut text: String) -> String {
    if text.ends_with(')')
        && let Some(at) = text.rfind(" (os error ")
    {
        text.truncate(at);
    }
    text
}

impl From<rustix::io::Errno> for CliError {
    fn from(error: rustix::io::Errno) -> Self {
        CliError::System {
            action: "a system call failed",
            source: error.into(),
        }
    }
}

/// Result of a command.
pub type Outcome = Result<u8, CliError>;

/// Wraps the refusal of `value` for `flag`.
pub fn flag_error(flag: &'static str, value: &str) -> impl FnOnce(ParseError) -> CliError {
    let value = value.to_owned();
    move |source| CliError::Flag {
        flag,
        value,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_becomes_one_line() {
        let error = flag_error("memory", "x")(ParseError::Integer("x".to_owned()));
        assert_eq!(
            error.line(),
            "invalid value 'x' for --memory: 'x' is not a whole number"
        );
        let error = CliError::File {
            action: "cannot read",
            path: "/x".to_owned(),
            source: io::Error::from_raw_os_error(2),
        };
        assert_eq!(error.line(), "cannot read /x: No such file or directory");
    }
}
