//! Credentials as the docker client keeps them: its `config.json` and its credential helpers.
//!
//! Here are pure functions from bytes to values; `lookup` reads the file and runs the helper.
//! An entry is looked up by the one registry that a client talks to and by nothing that the
//! registry says, so that no answer can call forth the credentials for another host.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;
use crate::registry::Credentials;

mod helper;
mod keep;
mod lookup;

pub use keep::Kept;
pub(crate) use lookup::Login;
pub use lookup::{CredentialError, CredentialSource, DockerFiles};

/// Largest `config.json` that is read, in bytes.
pub const CONFIG_LIMIT: usize = 1 << 20;
/// Longest answer of a helper that is read, in bytes.
pub const ANSWER_LIMIT: usize = 64 << 10;

/// Names of Docker Hub, beginning with the address under which the docker client keeps it.
const HUB_ADDRESSES: [&str; 4] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    "registry-1.docker.io",
];
/// User name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers print when they have nothing, which is no failure.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a `config.json` cannot be used. No value of the file but a helper's name is ever part of the
/// text: any other may be a secret (CVE-2019-13509).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is larger than any honest one.
    #[error("it is larger than {CONFIG_LIMIT} bytes")]
    TooLarge,
    /// It is no JSON.
    #[error("it is not valid JSON (line {line}, column {column})")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// It is JSON of another shape.
    #[error(
        "a field of `auths`, `credHelpers` or `credsStore` has the wrong type (line {line}, column {column})"
    )]
    Shape {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The entry for the registry is damaged.
    #[error("`auth` of {entry:?} {reason}")]
    Auth {
        /// Key of the entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A helper's name that could be a path.
    #[error("{name:?} is not the name of a credential helper")]
    HelperName {
        /// The name.
        name: String,
    },
}

/// What `config.json` says about one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The credentials themselves.
    Stored(Credentials),
    /// Who knows them.
    Helper {
        /// Name of the program: `docker-credential-NAME`.
        program: String,
        /// What to ask it for.
        server: String,
    },
}

/// The parts of a `config.json` that are about credentials.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct DockerConfig {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, Option<String>>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

/// One of `auths`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

/// Secrets stay out of logs (CVE-2019-13509).
impl fmt::Debug for DockerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DockerConfig")
            .finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads a `config.json`; an empty file is an empty configuration, as for the docker client.
    ///
    /// # Errors
    /// [`ConfigError::TooLarge`], [`ConfigError::Json`], [`ConfigError::Shape`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > CONFIG_LIMIT {
            return Err(ConfigError::TooLarge);
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let config = serde_json::from_slice(bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            if error.is_data() {
                ConfigError::Shape { line, column }
            } else {
                ConfigError::Json { line, column }
            }
        })?;
        if !is_object(bytes) {
            return Err(ConfigError::Shape { line: 1, column: 1 });
        }
        Ok(config)
    }

    /// Looks up `registry`, which is `host[:port]` as in a reference, in the docker client's
    /// order: the registry's own helper, the helper for all, `auths` by the whole key, `auths` by
    /// the key's host.
    ///
    /// # Errors
    /// [`ConfigError::Auth`], [`ConfigError::HelperName`].
    pub fn find(&self, registry: &str) -> Result<Found, ConfigError> {
        let addresses = addresses(registry);
        let own = addresses.iter().find_map(|address| {
            let name = self.helpers.as_ref()?.get(*address)?;
            Some((*address, name.as_deref().unwrap_or_default()))
        });
        let (server, name) = own.unwrap_or_else(|| {
            let everywhere = self.store.as_deref().unwrap_or_default();
            (addresses.first().copied().unwrap_or(registry), everywhere)
        });
        // A registry's own helper without a name switches the one for all off.
        if !name.is_empty() {
            return Ok(Found::Helper {
                program: program_of(name)?,
                server: server.to_owned(),
            });
        }
        let entries = || {
            self.auths
                .iter()
                .flatten()
                .filter_map(|(key, entry)| Some((key.as_str(), entry.as_ref()?)))
                .filter(|(_, entry)| !entry.is_empty())
        };
        let same = |left: &str, right: &str| left.eq_ignore_ascii_case(right);
        let entry = addresses
            .iter()
            .find_map(|address| entries().find(|(key, _)| key == address))
            .or_else(|| {
                addresses
                    .iter()
                    .find_map(|address| entries().find(|(key, _)| same(host_of(key), address)))
            });
        match entry {
            None => Ok(Found::Nothing),
            Some((key, entry)) => entry.credentials(key).map(Found::Stored),
        }
    }
}

impl Entry {
    /// A helper's entry stays in `auths` without content.
    fn is_empty(&self) -> bool {
        [
            &self.auth,
            &self.username,
            &self.password,
            &self.identity_token,
        ]
        .into_iter()
        .all(|field| field.as_ref().is_none_or(String::is_empty))
    }

    fn credentials(&self, key: &str) -> Result<Credentials, ConfigError> {
        let refuse = |reason| ConfigError::Auth {
            entry: key.chars().take(160).collect(),
            reason,
        };
        let identity_token = self
            .identity_token
            .clone()
            .filter(|token| !token.is_empty());
        let auth = self.auth.as_deref().unwrap_or_default().trim();
        if auth.is_empty() {
            return Ok(Credentials {
                username: self.username.clone().unwrap_or_default(),
                password: self.password.clone().unwrap_or_default(),
                identity_token,
            });
        }
        let decoded = STANDARD.decode(auth).map_err(|_| refuse("is not base64"))?;
        let decoded = String::from_utf8(decoded).map_err(|_| refuse("is not UTF-8"))?;
        let (username, password) = decoded
            .split_once(':')
            .filter(|(username, _)| !username.is_empty() || identity_token.is_some())
            .ok_or_else(|| refuse("is not user:password"))?;
        Ok(Credentials {
            username: username.to_owned(),
            // Old clients padded it.
            password: password.trim_matches('\0').to_owned(),
            identity_token,
        })
    }
}

/// Whether valid JSON is an object: serde would take an array's items for a structure's fields.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

/// Keys under which the docker client may have put `registry`.
fn addresses(registry: &str) -> Vec<&str> {
    if registry == DEFAULT_REGISTRY {
        HUB_ADDRESSES.to_vec()
    } else {
        vec![registry]
    }
}

/// The `host[:port]` of a key that may be a URL.
fn host_of(key: &str) -> &str {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// A name with a slash would run a program by a path relative to wherever the user is.
fn program_of(name: &str) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.len() > 200 || !name.bytes().all(plain) {
        return Err(ConfigError::HelperName {
            name: name.chars().take(160).collect(),
        });
    }
    Ok(format!("docker-credential-{name}"))
}

/// Why a helper's answer is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is too long.
    #[error("its answer is longer than {ANSWER_LIMIT} bytes")]
    TooLong,
    /// It is not what the protocol asks for.
    #[error("its answer is not an object with Username and Secret")]
    Malformed,
}

/// Reads what a helper printed to standard output after it succeeded; `None` for an answer
/// without content.
///
/// # Errors
/// Its answer is too long or malformed. It is never part of the text.
pub fn parse_answer(bytes: &[u8]) -> Result<Option<Credentials>, AnswerError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Username", alias = "username", default)]
        username: String,
        #[serde(rename = "Secret", alias = "secret", default)]
        secret: String,
    }
    if bytes.len() > ANSWER_LIMIT {
        return Err(AnswerError::TooLong);
    }
    let answer: Answer = serde_json::from_slice(bytes).map_err(|_| AnswerError::Malformed)?;
    if !is_object(bytes) {
        return Err(AnswerError::Malformed);
    }
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials {
            identity_token: Some(answer.secret),
            ..Credentials::default()
        }
    } else {
        Credentials {
            username: answer.username,
            password: answer.secret,
            identity_token: None,
        }
    }))
}

/// Whether a helper that failed only says that it has nothing.
fn says_not_found(output: &[u8]) -> bool {
    output.trim_ascii() == NOT_FOUND.as_bytes()
}

#[cfg(test)]
mod tests;
