//! `registry`: a registry of one's own, and what it has no use for any more.

use std::error::Error;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Command};
use gantry_registry::{
    Access, CollectOptions, Log, Options, TlsOptions, TokenOptions, UpstreamOptions,
};

use super::Context;
use super::flags::{is_on, list, parsed, switch, text, texts, value, with_help};
use crate::api::image::credentials::{CredentialSource, DockerFiles};
use crate::api::image::registry::{ClientOptions, Credentials};
use crate::error::{CliError, Outcome};
use crate::output;
use crate::parse::duration;

/// Where a registry listens unless it is told otherwise: this host only.
const ADDRESS: &str = "127.0.0.1:5000";
/// Longest password that is read from a file.
const PASSWORD_LENGTH: u64 = 4096;

/// Arguments of `registry serve`.
pub fn serve_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value(
            "root",
            "string",
            "Directory of the registry (default: \"registry\" in the data root)",
        ))
        .arg(value(
            "address",
            "string",
            "Address to listen on; port 0 takes a free one (default \"127.0.0.1:5000\")",
        ))
        .arg(value(
            "public-url",
            "string",
            "URL by which clients reach the registry, if not by its address",
        ))
        .arg(value(
            "tls-cert",
            "string",
            "File of the certificate chain (PEM)",
        ))
        .arg(value("tls-key", "string", "File of the private key (PEM)"))
        .arg(value(
            "tls-client-ca",
            "string",
            "Require client certificates of the authorities in this file (PEM)",
        ))
        .arg(value(
            "htpasswd",
            "string",
            "Let in the users of this file (bcrypt only)",
        ))
        .arg(switch(
            "anonymous-pull",
            "Let everybody pull, with --htpasswd",
        ))
        .arg(value(
            "auth-token-realm",
            "string",
            "URL of the token service whose tokens let in",
        ))
        .arg(value(
            "auth-token-service",
            "string",
            "Name of this registry at the token service",
        ))
        .arg(value(
            "auth-token-issuer",
            "string",
            "Name of the token service in its tokens",
        ))
        .arg(value(
            "auth-token-rootcertbundle",
            "string",
            "File of the token service's certificates (PEM)",
        ))
        .arg(value(
            "proxy",
            "string",
            "Fetch what is missing from this registry, and take no pushes",
        ))
        .arg(value(
            "proxy-username",
            "string",
            "User at the upstream registry (default: as docker login has it)",
        ))
        .arg(value(
            "proxy-password-file",
            "string",
            "File with the password at the upstream registry",
        ))
        .arg(list(
            "proxy-insecure",
            "string",
            "Registry that needs no valid certificate, with --proxy",
        ))
        .arg(switch(
            "no-delete",
            "Refuse to delete manifests, tags and blobs",
        ))
        .arg(switch(
            "access-log",
            "Write a line per request to standard error",
        ))
}

/// `registry serve`: serves until SIGTERM or SIGINT.
///
/// # Errors
/// One that says which flag or file cannot be used.
pub fn serve(context: &Context, matches: &ArgMatches) -> Outcome {
    let mut options = Options::new(root(context, matches));
    options.address = address(text(matches, "address").unwrap_or(ADDRESS))?;
    options.tls = tls(matches)?;
    options.access = access(matches)?;
    options.public_url = text(matches, "public-url").map(str::to_owned);
    options.upstream = upstream(matches)?;
    options.deletion = !is_on(matches, "no-delete")?;
    options.access_log = is_on(matches, "access-log")?;
    options.limits = options.limits.within(descriptors());
    options.signals = true;
    options.log = Log(Arc::new(output::note));
    let open = matches!(options.access, Access::Open) && options.tls.is_none();
    if open && !options.address.ip().is_loopback() {
        output::note("WARNING: everybody who reaches this address can push, in clear text");
    }
    let server = gantry_registry::serve(options).map_err(|error| failed(&error))?;
    output::line(&format!("listening on {}", server.url()))?;
    server.wait();
    Ok(0)
}

/// Arguments of `registry gc`.
pub fn collect_arguments(command: Command) -> Command {
    with_help(command)
        .arg(value(
            "root",
            "string",
            "Directory of the registry (default: \"registry\" in the data root)",
        ))
        .arg(switch("delete-untagged", "Remove manifests that no tag leads to").short('m'))
        .arg(value(
            "grace",
            "duration",
            "Keep what was pushed or used within this time (default 1h)",
        ))
        .arg(value(
            "upload-age",
            "duration",
            "Remove uploads that nobody wrote to for this long (default 24h)",
        ))
        .arg(switch("dry-run", "Say what would be removed, and remove nothing").short('d'))
}

/// `registry gc`: removes what no manifest refers to, beside a running server too.
///
/// # Errors
/// One that says what could not be read or removed.
pub fn collect(context: &Context, matches: &ArgMatches) -> Outcome {
    let root = root(context, matches);
    let time = |name, default| {
        let nanoseconds = parsed(matches, name, duration::nanoseconds)?;
        let given = nanoseconds.map(|time| Duration::from_nanos(u64::try_from(time).unwrap_or(0)));
        Ok::<_, CliError>(given.unwrap_or(default))
    };
    let defaults = CollectOptions::default();
    let options = CollectOptions {
        untagged: is_on(matches, "delete-untagged")?,
        grace: time("grace", defaults.grace)?,
        uploads: time("upload-age", defaults.uploads)?,
        dry_run: is_on(matches, "dry-run")?,
        ..defaults
    };
    let collected = gantry_registry::collect(&root, &options).map_err(|error| failed(&error))?;
    let mut lines = String::new();
    for manifest in &collected.manifests {
        lines.push_str(&format!("manifest {manifest}\n"));
    }
    for blob in &collected.blobs {
        lines.push_str(&format!("blob {blob}\n"));
    }
    let verb = if options.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    lines.push_str(&format!(
        "{verb} {} manifests, {} blobs and {} uploads: {} bytes\n",
        collected.manifests.len(),
        collected.blobs.len(),
        collected.uploads,
        collected.bytes,
    ));
    output::text(&lines)?;
    for damaged in &collected.damaged {
        output::note(&format!(
            "WARNING: {damaged} cannot be read; the blobs of its repository stay"
        ));
    }
    Ok(u8::from(!collected.damaged.is_empty()))
}

fn root(context: &Context, matches: &ArgMatches) -> PathBuf {
    match text(matches, "root") {
        Some(root) => root.into(),
        None => context.data_root.join("registry"),
    }
}

/// How many descriptors this process may have, after asking for as many as it can get: the usual
/// soft limit of 1024 is there for programs that use select(2).
fn descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was refused leaves the limit as it is, and the server with fewer connections.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn address(given: &str) -> Result<SocketAddr, CliError> {
    // `:5000` is every address of this host, as Docker's registry has it.
    let whole = match given.strip_prefix(':') {
        Some(port) if Path::new("/proc/net/if_inet6").exists() => format!("[::]:{port}"),
        Some(port) => format!("0.0.0.0:{port}"),
        None => given.to_owned(),
    };
    let mut addresses = whole.to_socket_addrs().map_err(|source| {
        CliError::Failed(format!("invalid value '{given}' for --address: {source}"))
    })?;
    addresses.next().ok_or_else(|| {
        CliError::Failed(format!(
            "invalid value '{given}' for --address: no such host"
        ))
    })
}

/// All values of flags that belong together, or none.
fn together<const N: usize>(
    matches: &ArgMatches,
    names: [&'static str; N],
) -> Result<Option<[String; N]>, CliError> {
    let given = names.map(|name| text(matches, name));
    if given.iter().all(Option::is_none) {
        return Ok(None);
    }
    for (name, value) in names.iter().zip(&given) {
        if value.is_none() {
            return Err(CliError::Conflict(format!(
                "--{name} is needed as well: {} belong together",
                names.map(|name| format!("--{name}")).join(", ")
            )));
        }
    }
    Ok(Some(
        given.map(|value| value.unwrap_or_default().to_owned()),
    ))
}

fn tls(matches: &ArgMatches) -> Result<Option<TlsOptions>, CliError> {
    let client_authorities = text(matches, "tls-client-ca").map(PathBuf::from);
    match together(matches, ["tls-cert", "tls-key"])? {
        Some([certificate, key]) => Ok(Some(TlsOptions {
            certificate: certificate.into(),
            key: key.into(),
            client_authorities,
        })),
        None if client_authorities.is_some() => Err(CliError::Conflict(
            "--tls-client-ca needs --tls-cert and --tls-key".to_owned(),
        )),
        None => Ok(None),
    }
}

fn access(matches: &ArgMatches) -> Result<Access, CliError> {
    let tokens = together(
        matches,
        [
            "auth-token-realm",
            "auth-token-service",
            "auth-token-issuer",
            "auth-token-rootcertbundle",
        ],
    )?;
    let anonymous_pull = is_on(matches, "anonymous-pull")?;
    match (text(matches, "htpasswd"), tokens) {
        (Some(_), Some(_)) => Err(CliError::Conflict(
            "--htpasswd and --auth-token-realm exclude each other".to_owned(),
        )),
        (Some(file), None) => Ok(Access::Users {
            file: file.into(),
            anonymous_pull,
        }),
        (None, _) if anonymous_pull => Err(CliError::Conflict(
            "--anonymous-pull needs --htpasswd".to_owned(),
        )),
        (None, Some([realm, service, issuer, certificates])) => Ok(Access::Tokens(TokenOptions {
            realm,
            service,
            issuer,
            root_certificates: certificates.into(),
        })),
        (None, None) => Ok(Access::Open),
    }
}

fn upstream(matches: &ArgMatches) -> Result<Option<UpstreamOptions>, CliError> {
    let credentials = match together(matches, ["proxy-username", "proxy-password-file"])? {
        Some([username, file]) => CredentialSource::Given(Credentials {
            username,
            password: password(&file)?,
            identity_token: None,
        }),
        None => DockerFiles::of_environment(|name| std::env::var_os(name))
            .map_or(CredentialSource::Nobody, CredentialSource::Docker),
    };
    let Some(given) = text(matches, "proxy") else {
        return Ok(None);
    };
    let mut insecure_registries: Vec<String> = texts(matches, "proxy-insecure")
        .map(str::to_owned)
        .collect();
    let (registry, clear) = match given.split_once("://") {
        Some(("https", rest)) => (rest, false),
        Some(("http", rest)) => (rest, true),
        _ => (given, false),
    };
    let registry = registry.trim_end_matches('/').to_owned();
    if clear {
        insecure_registries.push(registry.clone());
    }
    Ok(Some(UpstreamOptions {
        registry,
        client: ClientOptions {
            credentials,
            insecure_registries,
            ..ClientOptions::default()
        },
    }))
}

/// A password out of a file, without the end of its line.
fn password(path: &str) -> Result<String, CliError> {
    let mut password = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PASSWORD_LENGTH).read_to_string(&mut password))
        .map_err(|source| CliError::File {
            action: "cannot read",
            path: path.to_owned(),
            source,
        })?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// The whole chain of an error of the registry.
fn failed(error: &dyn Error) -> CliError {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(&format!(": {error}"));
        source = error.source();
    }
    CliError::Failed(line)
}
