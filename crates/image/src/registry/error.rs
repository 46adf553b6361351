//! What can go wrong between this host and a registry.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::dns::ResolveError;
use super::origin::Origin;
use super::transport::Unreachable;
use crate::credentials::CredentialError;
use crate::digest::Digest;
use crate::hosts::HostsError;

/// Why a registry did not give what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry's name is no host.
    #[error("{registry:?} is not the name of a registry")]
    InvalidName {
        /// The name.
        registry: String,
    },
    /// The host has no address.
    #[error("cannot resolve the host of {origin}")]
    Resolve {
        /// Scheme, host and port.
        origin: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// The connection or the protocol failed.
    #[error("cannot talk to {origin}")]
    Transport {
        /// Scheme, host and port.
        origin: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A file of trusted certificates cannot be used.
    #[error("cannot use the certificates in {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What says which hosts stand for the registry cannot be used.
    #[error("cannot tell the hosts of {registry}")]
    Hosts {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<HostsError>,
    },
    /// None of the registry's hosts may be asked for it.
    #[error("no host of {registry} is configured for {object}")]
    NoHost {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
    },
    /// Every host of the registry failed.
    #[error("no host of {registry} has {object}: {}", listed(failures))]
    AllHosts {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// What each of them said, in the order in which they were asked.
        failures: Vec<HostFailure>,
    },
    /// The registry wants to be left alone for longer than is worth waiting for.
    #[error(
        "{registry} answered {status} to the request for {object} and wants to be asked again in {seconds} s{}",
        shown(message)
    )]
    RateLimited {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// HTTP status.
        status: u16,
        /// How long it wants to be left alone, in seconds.
        seconds: u64,
        /// What the registry says about it.
        message: Option<String>,
    },
    /// An upload has another offset than what was sent explains.
    #[error("the upload of blob {digest} to {registry} is at byte {actual} instead of {expected}")]
    UploadOffset {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes sent.
        expected: u64,
        /// Bytes that the registry has.
        actual: u64,
    },
    /// An answer lacks what the protocol asks for.
    #[error("{registry} answered the request for {object} without a usable {header} header")]
    Header {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// The header.
        header: &'static str,
    },
    /// A document of the API is not what the specification says.
    #[error("{registry} sent {object} in a form that cannot be read")]
    Document {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What is being sent cannot be read here.
    #[error("cannot read {object} to send it to {registry}")]
    Source {
        /// The registry.
        registry: String,
        /// What is being sent.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A body broke off.
    #[error("cannot read {object} from {registry}")]
    Body {
        /// The registry.
        registry: String,
        /// What was read.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The registry lets nobody or not this user have it.
    #[error("{registry} denies access to {object}{}: {hint}", shown(message))]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// What the registry says about it.
        message: Option<String>,
        /// What it probably means.
        hint: String,
    },
    /// The registry asks for credentials, and those that are stored cannot be had.
    #[error("{registry} asks for credentials for {object}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// Why.
        #[source]
        source: Arc<CredentialError>,
    },
    /// The registry does not have it.
    #[error("{object} not found in {registry}{}", shown(message))]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// What the registry says about it.
        message: Option<String>,
    },
    /// Another status.
    #[error(
        "{registry} answered {status} to the request for {object}{}",
        shown(message)
    )]
    Status {
        /// The registry or token endpoint.
        registry: String,
        /// What was asked for.
        object: String,
        /// HTTP status.
        status: u16,
        /// What the registry says about it.
        message: Option<String>,
        /// How long it asks to be left alone.
        wait: Duration,
    },
    /// The tag that lists referrers holds something else, which would be overwritten.
    #[error("{object} in {registry} is no list of referrers, and is not overwritten by one")]
    NoReferrers {
        /// The registry.
        registry: String,
        /// The tag.
        object: String,
    },
    /// A document is larger than any honest one.
    #[error("{object} from {registry} is larger than {limit} bytes")]
    TooLarge {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The registry sent something else than was asked for.
    #[error("{object} from {registry} has digest {actual} instead of {expected}")]
    DigestMismatch {
        /// The registry.
        registry: String,
        /// What was asked for.
        object: String,
        /// The digest asked for, or stated by the registry.
        expected: String,
        /// The digest of what came.
        actual: Digest,
    },
    /// A blob does not have the size that its descriptor states.
    #[error("blob {digest} from {registry} has {actual} bytes instead of {expected}")]
    BlobSize {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes stated by the descriptor.
        expected: u64,
        /// Bytes announced or seen.
        actual: u64,
    },
    /// A blob broke off again and again.
    #[error("blob {digest} from {registry} broke off after {received} of {expected} bytes")]
    BlobBrokeOff {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes received.
        received: u64,
        /// Bytes stated by the descriptor.
        expected: u64,
        /// Why, if the connection said so.
        #[source]
        source: Option<io::Error>,
    },
    /// The registry answered a request for the rest of a blob with something else.
    #[error("{registry} did not continue blob {digest} at byte {offset}")]
    RangeIgnored {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Where it should have continued.
        offset: u64,
    },
    /// A redirect to something that is no URL for this.
    #[error("{from} redirects to {location:?}, which is not an http or https URL")]
    RedirectMalformed {
        /// Who redirects.
        from: String,
        /// Where to.
        location: String,
    },
    /// A redirect that is not followed.
    #[error("the redirect from {from} to {to} is refused: {reason}")]
    RedirectRefused {
        /// Who redirects.
        from: String,
        /// Where to.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// A chain of redirects.
    #[error("{url} redirects more than {limit} times")]
    TooManyRedirects {
        /// Where it began.
        url: String,
        /// How many are followed.
        limit: u32,
    },
    /// A token endpoint that is not used.
    #[error("the token endpoint {realm} that {registry} names is refused: {reason}")]
    RealmRefused {
        /// The registry.
        registry: String,
        /// The endpoint.
        realm: String,
        /// Why not.
        reason: &'static str,
    },
    /// A token endpoint answered without a token.
    #[error("the token endpoint {realm} of {registry} answered without a usable token")]
    TokenMalformed {
        /// The registry.
        registry: String,
        /// The endpoint.
        realm: String,
    },
}

/// What one host of a registry said.
#[derive(Debug)]
pub struct HostFailure {
    /// The host.
    pub host: String,
    /// Why it failed.
    pub error: Box<RegistryError>,
}

impl HostFailure {
    pub(super) fn new(host: String, error: RegistryError) -> Self {
        let error = Box::new(error);
        Self { host, error }
    }
}

/// The failures in one line, each with its causes: there is no single source to show below it.
fn listed(failures: &[HostFailure]) -> String {
    let mut text = String::new();
    for failure in failures {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&failure.error.to_string());
        let mut source = std::error::Error::source(&*failure.error);
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
    }
    text
}

fn shown(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or_else(String::new, |message| format!(" ({message})"))
}

impl RegistryError {
    pub(super) fn transport(origin: &Origin, error: ureq::Error) -> Self {
        let origin = origin.to_string();
        match error {
            ureq::Error::Other(inner) if inner.is::<ResolveError>() => {
                match inner.downcast::<ResolveError>() {
                    Ok(source) => Self::Resolve {
                        origin,
                        source: *source,
                    },
                    Err(inner) => Self::Transport {
                        origin,
                        source: Box::new(ureq::Error::Other(inner)),
                    },
                }
            }
            ureq::Error::Other(inner) if inner.is::<Unreachable>() => Self::RedirectRefused {
                from: "the registry".to_owned(),
                to: origin,
                reason: "its address is local to this host or network",
            },
            error => Self::Transport {
                origin,
                source: Box::new(error),
            },
        }
    }

    /// How long to wait at least before the same is tried again.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Status { wait, .. } => *wait,
            _ => Duration::ZERO,
        }
    }

    /// Whether the registry itself says that it does not have it.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::AllHosts { failures, .. } => failures
                .last()
                .is_some_and(|failure| failure.error.is_not_found()),
            _ => false,
        }
    }

    /// Whether the host could not be reached, and will not be for anything else either.
    pub(super) fn is_of_host(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. } | Self::Transport { .. } | Self::Certificates { .. }
        )
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Body { .. } => true,
            Self::Transport { source, .. } => match source.as_ref() {
                // Nobody listens there, or TLS failed: neither changes within seconds.
                ureq::Error::Io(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidData
                ),
                ureq::Error::Timeout(_)
                | ureq::Error::Protocol(_)
                | ureq::Error::ConnectionFailed => true,
                _ => false,
            },
            _ => false,
        }
    }
}

/// The first message of an error document (distribution specification, "Error Codes"), fit to be
/// shown on a terminal.
pub(super) fn message_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: String,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    let text = match document.errors.first() {
        Some(entry) if entry.message.is_empty() => entry.code.to_lowercase().replace('_', " "),
        Some(entry) => entry.message.clone(),
        None => document.details,
    };
    let text: String = text
        .chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
                Some("manifest unknown"),
            ),
            (
                r#"{"errors":[{"code":"TOO_MANY_REQUESTS"}]}"#,
                Some("too many requests"),
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                Some("incorrect username or password"),
            ),
            (
                r#"{"errors":[{"message":"a\u001b[31mb\nc"}]}"#,
                Some("a[31mbc"),
            ),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(message_of(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }
}
