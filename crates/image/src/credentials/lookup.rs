//! Finding the credentials for a registry, once it has asked for them.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::{
    AnswerError, CONFIG_LIMIT, ConfigError, DockerConfig, Found, helper, parse_answer,
    says_not_found,
};
use crate::registry::Credentials;

/// How long a helper may take: somebody may have to type a passphrase into a window of its.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a client takes credentials from.
#[derive(Debug, Clone, Default)]
pub enum CredentialSource {
    /// There are none.
    #[default]
    Nobody,
    /// These.
    Given(Credentials),
    /// What the docker client has stored. Nothing is read or run before a registry asks.
    Docker(DockerFiles),
}

/// Where the docker client stores credentials.
#[derive(Debug, Clone)]
pub struct DockerFiles {
    /// Its `config.json`, which need not exist.
    pub config: PathBuf,
    /// Directories in which credential helpers are looked for; relative ones do not count.
    pub search: Vec<PathBuf>,
    /// How long a helper may take.
    pub patience: Duration,
}

impl DockerFiles {
    /// `$DOCKER_CONFIG/config.json` or `$HOME/.docker/config.json`, and `$PATH`; `variable`
    /// returns an environment variable. `None` if neither of the first two is set.
    pub fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let directory = match (variable("DOCKER_CONFIG"), variable("HOME")) {
            (Some(directory), _) => PathBuf::from(directory),
            (None, Some(home)) => Path::new(&home).join(".docker"),
            (None, None) => return None,
        };
        Some(Self {
            config: directory.join("config.json"),
            search: variable("PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            patience: PATIENCE,
        })
    }
}

/// Why credentials that the user has stored cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file makes no sense.
    #[error("cannot use {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// The helper is not installed.
    #[error("credential helper {program}, which {} names for {registry}, is not in PATH", path.display())]
    HelperMissing {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
        /// The file that names it.
        path: PathBuf,
    },
    /// The helper cannot be run.
    #[error("cannot run credential helper {program} for {registry}")]
    HelperRun {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The helper says that it failed.
    #[error("credential helper {program} failed for {registry} ({message})")]
    HelperFailed {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
        /// What it says, or how it ended.
        message: String,
    },
    /// The helper does not end.
    #[error("credential helper {program} did not answer for {registry} within {seconds} s")]
    HelperSlow {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// The helper answered something else than credentials.
    #[error("credential helper {program} is of no use for {registry}")]
    HelperAnswer {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: AnswerError,
    },
}

impl CredentialError {
    /// Whether it is worth trying without credentials. A helper that is not there (a
    /// configuration made for another machine) must not keep public images away; a file that is
    /// damaged is for its owner to mend.
    pub(crate) fn is_of_helper(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Config { .. })
    }
}

/// Where credentials came from, or where none were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Nowhere,
    Given,
    File(PathBuf),
    NoFile(PathBuf),
    Helper { program: String, config: PathBuf },
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => formatter.write_str("nowhere"),
            Self::Given => formatter.write_str("the caller"),
            Self::File(path) | Self::NoFile(path) => path.display().fmt(formatter),
            Self::Helper { program, config } => {
                write!(formatter, "{program} (named in {})", config.display())
            }
        }
    }
}

/// The end of a lookup that did not fail.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) place: Place,
}

impl Login {
    /// What to tell a user whose credentials are needed and not there.
    pub(crate) fn missing(&self, registry: &str) -> String {
        match &self.place {
            Place::Nowhere | Place::Given => "a login is needed".to_owned(),
            Place::NoFile(path) => format!(
                "credentials are needed; they are read from {}, which does not exist",
                path.display()
            ),
            place => format!("credentials are needed, and {place} has none for {registry}"),
        }
    }

    /// What to tell a user whose credentials are refused.
    pub(crate) fn wrong(&self) -> String {
        match &self.place {
            Place::Nowhere | Place::Given => "user name or password is wrong".to_owned(),
            place => format!("user name or password from {place} is wrong"),
        }
    }
}

impl CredentialSource {
    /// The credentials for `registry`, which is `host[:port]` as in a reference. This may run a
    /// program and take long.
    pub(crate) fn find(&self, registry: &str) -> Result<Login, CredentialError> {
        match self {
            Self::Nobody => Ok(Login {
                credentials: None,
                place: Place::Nowhere,
            }),
            Self::Given(credentials) => Ok(Login {
                credentials: Some(credentials.clone()),
                place: Place::Given,
            }),
            Self::Docker(files) => files.find(registry),
        }
    }
}

impl DockerFiles {
    fn find(&self, registry: &str) -> Result<Login, CredentialError> {
        let path = || self.config.clone();
        let config_error = |source| CredentialError::Config {
            path: path(),
            source,
        };
        let bytes = read(&self.config).map_err(|source| CredentialError::Read {
            path: path(),
            source,
        })?;
        let Some(bytes) = bytes else {
            return Ok(Login {
                credentials: None,
                place: Place::NoFile(path()),
            });
        };
        let config = DockerConfig::parse(&bytes).map_err(config_error)?;
        let (credentials, place) = match config.find(registry).map_err(config_error)? {
            Found::Nothing => (None, Place::File(path())),
            Found::Stored(credentials) => (Some(credentials), Place::File(path())),
            Found::Helper { program, server } => {
                let credentials = self.ask(&program, &server, registry)?;
                let config = path();
                (credentials, Place::Helper { program, config })
            }
        };
        Ok(Login { credentials, place })
    }

    fn ask(
        &self,
        program: &str,
        server: &str,
        registry: &str,
    ) -> Result<Option<Credentials>, CredentialError> {
        let (program_name, registry_name) = (program.to_owned(), registry.to_owned());
        let Some(path) = helper::locate(program, &self.search) else {
            return Err(CredentialError::HelperMissing {
                program: program_name,
                registry: registry_name,
                path: self.config.clone(),
            });
        };
        let output = match helper::get(&path, server, self.patience) {
            Err(source) => {
                return Err(CredentialError::HelperRun {
                    program: program_name,
                    registry: registry_name,
                    source,
                });
            }
            Ok(None) => {
                return Err(CredentialError::HelperSlow {
                    program: program_name,
                    registry: registry_name,
                    seconds: self.patience.as_secs(),
                });
            }
            Ok(Some(output)) => output,
        };
        if output.status.success() {
            return parse_answer(&output.stdout).map_err(|source| CredentialError::HelperAnswer {
                program: program_name,
                registry: registry_name,
                source,
            });
        }
        if says_not_found(&output.stdout) {
            return Ok(None);
        }
        // Helpers explain failures on standard output; others use what everybody does.
        let message = [&output.stdout, &output.stderr]
            .into_iter()
            .map(|text| shown(text))
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| output.status.to_string());
        Err(CredentialError::HelperFailed {
            program: program_name,
            registry: registry_name,
            message,
        })
    }
}

/// The first line, fit to be shown on a terminal.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default()
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

/// The file's content, at most one byte more than is acceptable; `None` if it does not exist.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Not blocking, so that a FIFO is refused below instead of waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
