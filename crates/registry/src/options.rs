//! What a server is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_image::registry::ClientOptions;

use crate::auth::Access;

/// Where messages for the operator go.
#[derive(Clone)]
pub struct Log(pub Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    pub(crate) fn say(&self, line: &str) {
        (self.0)(line);
    }
}

impl Default for Log {
    fn default() -> Self {
        Self(Arc::new(|_| ()))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Log")
    }
}

/// TLS.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// File of the server's certificate chain in PEM.
    pub certificate: PathBuf,
    /// File of its private key in PEM.
    pub key: PathBuf,
    /// File of authorities in PEM: only clients with a certificate of theirs are let in.
    pub client_authorities: Option<PathBuf>,
}

/// A registry whose content this one fetches and keeps.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// `host[:port]`.
    pub registry: String,
    /// How to talk to it, credentials included.
    pub client: ClientOptions,
}

/// Bounds on what clients can make the server hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Bodies of uploads that are received at once; more wait.
    pub receptions: usize,
    /// Unfinished uploads on the disk. Beyond it the oldest one that is still empty makes room,
    /// and if there is none more are refused.
    pub uploads: usize,
    /// The same for the uploads of one repository.
    pub repository_uploads: usize,
    /// Uploads that nobody wrote to for this long are removed.
    pub upload_age: Duration,
    /// Bytes of a blob.
    pub blob: u64,
    /// For the headers of a request, between requests, and for 64 KiB of a body.
    pub idle: Duration,
    /// For requests that are under way when the server is told to stop.
    pub stopping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            receptions: 128,
            uploads: 2000,
            repository_uploads: 500,
            upload_age: Duration::from_secs(24 * 3600),
            blob: 256 << 30,
            idle: Duration::from_secs(60),
            stopping: Duration::from_secs(30),
        }
    }
}

/// Descriptors that a process has besides those of its connections.
const DESCRIPTORS: usize = 64;
/// Descriptors of a request: the connection, a blob or an upload, a lock, and a directory.
const DESCRIPTORS_EACH: usize = 4;

impl Limits {
    /// With as many connections as a process has descriptors for that may have `descriptors`, and
    /// no more than there were.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let most = descriptors.saturating_sub(DESCRIPTORS) / DESCRIPTORS_EACH;
        Self {
            connections: self.connections.min(most.max(1)),
            ..self
        }
    }
}

/// A server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data root of the registry.
    pub root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS, or clear text.
    pub tls: Option<TlsOptions>,
    /// Who is let in.
    pub access: Access,
    /// How the registry is called from outside, as `https://HOST[:PORT]`, where that is not what
    /// clients put into `Host`.
    pub public_url: Option<String>,
    /// Whether manifests, tags and blobs can be deleted.
    pub deletion: bool,
    /// Fetch from there what is not here; nothing can be pushed then.
    pub upstream: Option<UpstreamOptions>,
    /// Bounds.
    pub limits: Limits,
    /// Whether SIGTERM and SIGINT of this process stop the server.
    pub signals: bool,
    /// Messages for the operator.
    pub log: Log,
    /// Whether each request is a message.
    pub access_log: bool,
}

impl Options {
    /// A server of `root` on a free port of the loopback address, open for everything.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            access: Access::Open,
            public_url: None,
            deletion: true,
            upstream: None,
            limits: Limits::default(),
            signals: false,
            log: Log::default(),
            access_log: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        for (descriptors, expected) in [(0, 1), (256, 48), (1024, 240), (u64::MAX, 512)] {
            let limits = Limits::default().within(descriptors);
            assert_eq!(limits.connections, expected, "{descriptors}");
        }
    }
}
