//! Connections: which certificates are trusted for a host, and which addresses it may have.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy};

use super::RegistryError;
use super::dns::{self, ResolverFiles};
use super::origin::{Origin, Reach, reach};

/// Where distributions keep the bundle of trusted certificates.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cacert.pem",
];

/// Largest file of certificates that is read, in bytes.
const BUNDLE_LIMIT: u64 = 16 << 20;

const CONNECT: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(60);

/// What an agent is made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) origin: Origin,
    /// Addresses with less reach are not connected to.
    pub(super) least: Reach,
    /// Whether any certificate will do.
    pub(super) insecure: bool,
}

/// The certificates that the host trusts, or `None` where it has no bundle: then the ones built
/// into this program are used.
pub(super) fn system_certificates() -> Result<Option<Vec<Certificate<'static>>>, RegistryError> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        return read_certificates(Path::new(&path)).map(Some);
    }
    for path in BUNDLES {
        match read_certificates(Path::new(path)) {
            Err(RegistryError::Certificates { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            other => return other.map(Some),
        }
    }
    Ok(None)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let failed = |source| RegistryError::Certificates {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, BUNDLE_LIMIT), &mut bytes).map_err(failed)?;
    // One malformed entry of a bundle does not take the others with it.
    let found: Vec<_> = ureq::tls::parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it");
        return Err(failed(source));
    }
    Ok(found)
}

/// The certificates in `DIRECTORY/HOST[:PORT]/*.crt`, the layout of Docker's certs.d.
fn host_certificates(
    directories: &[PathBuf],
    origin: &Origin,
) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let mut found = Vec::new();
    let with_port = format!("{}:{}", origin.host, origin.port);
    for directory in directories {
        for name in [origin.authority(), with_port.clone()] {
            let directory = directory.join(&name);
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            let mut paths: Vec<_> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
            paths.sort();
            for path in paths {
                found.extend(read_certificates(&path)?);
            }
            if origin.authority() == with_port {
                break;
            }
        }
    }
    Ok(found)
}

/// What agents need to know beyond their target.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) certificate_directories: Vec<PathBuf>,
    pub(super) resolver: ResolverFiles,
    /// Read at most once per client, since a bundle has some 140 certificates.
    pub(super) system: Arc<std::sync::OnceLock<Option<Vec<Certificate<'static>>>>>,
}

impl Trust {
    fn root_certificates(&self, origin: &Origin) -> Result<RootCerts, RegistryError> {
        let system = match self.system.get() {
            Some(system) => system,
            None => {
                let read = system_certificates()?;
                self.system.get_or_init(|| read)
            }
        };
        let own = host_certificates(&self.certificate_directories, origin)?;
        Ok(match system {
            None if own.is_empty() => RootCerts::WebPki,
            system => system.iter().flatten().cloned().chain(own).into(),
        })
    }
}

/// An agent for one target. It follows no redirects and treats no status as an error: both are
/// for the client to judge.
pub(super) fn agent(
    target: &Target,
    trust: &Trust,
    user_agent: &str,
) -> Result<Agent, RegistryError> {
    let mut tls = TlsConfig::builder();
    if target.insecure {
        tls = tls.disable_verification(true);
    } else if target.origin.secure {
        tls = tls.root_certs(trust.root_certificates(&target.origin)?);
    }
    let proxy = if target.origin.is_loopback() {
        None
    } else {
        Proxy::try_from_env()
    };
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .proxy(proxy)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(user_agent)
        // A layer that was compressed once more on the way would not have its size.
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .build();
    let resolver = HostResolver {
        files: trust.resolver.clone(),
        least: target.least,
    };
    Ok(Agent::with_parts(config, DefaultConnector::new(), resolver))
}

/// Resolves with [`dns`] and keeps what has enough reach. Deciding on the address that is then
/// connected to leaves no gap for a name that changes its address in between.
#[derive(Debug)]
struct HostResolver {
    files: ResolverFiles,
    least: Reach,
}

/// A host has only addresses that the registry may not send anybody to.
#[derive(Debug, thiserror::Error)]
#[error("{host:?} has no address that a registry outside of its network may refer to")]
pub(super) struct Unreachable {
    host: String,
}

impl Resolver for HostResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let bad_uri = || ureq::Error::BadUri(uri.to_string());
        let host = uri.host().ok_or_else(bad_uri)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = match (uri.port_u16(), uri.scheme_str()) {
            (Some(port), _) => port,
            (None, Some("https")) => 443,
            (None, _) => 80,
        };
        let found =
            dns::resolve(host, &self.files).map_err(|error| ureq::Error::Other(Box::new(error)))?;
        // The proxy is the user's choice, not the registry's.
        let is_proxy = config
            .proxy()
            .is_some_and(|proxy| proxy.uri().host() == uri.host());
        let mut addresses = self.empty();
        for address in found
            .into_iter()
            .filter(|address| is_proxy || reach(*address) >= self.least)
        {
            addresses.push(SocketAddr::new(address, port));
        }
        if addresses.is_empty() {
            return Err(ureq::Error::Other(Box::new(Unreachable {
                host: host.to_owned(),
            })));
        }
        Ok(addresses)
    }
}
