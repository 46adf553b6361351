//! Connections: which certificates are trusted for a host, and which addresses it may have.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy};

use super::RegistryError;
use super::dns::{self, ResolverFiles};
use super::origin::{Origin, Reach, reach};
use super::proxy::Proxies;
use crate::hosts::{self, ClientCertificate};

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

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(BUNDLE_LIMIT)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let failed = |source| RegistryError::Certificates {
        path: path.to_owned(),
        source,
    };
    let bytes = read(path).map_err(failed)?;
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

/// The names of an origin's directory of certificates, the layout of Docker's certs.d.
fn directory_names(origin: &Origin) -> Vec<String> {
    let with_port = format!("{}:{}", origin.host, origin.port);
    let mut names = vec![origin.authority()];
    if names[0] != with_port {
        names.push(with_port);
    }
    names
}

/// A client's certificate and key for TLS.
fn client_certificate(files: &ClientCertificate) -> Result<ClientCert, RegistryError> {
    let chain = read_certificates(&files.certificate)?;
    let failed = |source| RegistryError::Certificates {
        path: files.key.clone(),
        source,
    };
    let key = ureq::tls::parse_pem(&read(&files.key).map_err(failed)?)
        .find_map(|item| match item {
            Ok(PemItem::PrivateKey(key)) => Some(key),
            _ => None,
        })
        .ok_or_else(|| {
            let text = "there is no private key in it";
            failed(io::Error::new(io::ErrorKind::InvalidData, text))
        })?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// What agents need to know beyond their target.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) certificate_directories: Vec<PathBuf>,
    pub(super) resolver: ResolverFiles,
    pub(super) proxies: Proxies,
    /// Trusted for everything that the host refers to: its token endpoint often has a certificate
    /// of the same authority.
    pub(super) ca: Vec<PathBuf>,
    /// Read at most once per client, since a bundle has some 140 certificates.
    pub(super) system: Arc<std::sync::OnceLock<Option<Vec<Certificate<'static>>>>>,
}

impl Trust {
    fn root_certificates(&self, trusted: &[PathBuf]) -> Result<RootCerts, RegistryError> {
        let system = match self.system.get() {
            Some(system) => system,
            None => {
                let read = system_certificates()?;
                self.system.get_or_init(|| read)
            }
        };
        let mut own = Vec::new();
        for path in trusted.iter().chain(&self.ca) {
            own.extend(read_certificates(path)?);
        }
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
    client: &[ClientCertificate],
    user_agent: &str,
) -> Result<Agent, RegistryError> {
    let mut tls = TlsConfig::builder();
    if target.origin.secure {
        let names = directory_names(&target.origin);
        let (trusted, own) = hosts::certificate_files(&trust.certificate_directories, &names);
        tls = if target.insecure {
            tls.disable_verification(true)
        } else {
            tls.root_certs(trust.root_certificates(&trusted)?)
        };
        if let Some(files) = client.first().or(own.first()) {
            tls = tls.client_cert(Some(client_certificate(files)?));
        }
    }
    let proxy = trust
        .proxies
        .of(&target.origin)
        .map(Proxy::new)
        .transpose()
        .map_err(|error| RegistryError::transport(&target.origin, error))?;
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
