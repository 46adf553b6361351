//! Which hosts stand for a registry: containerd's `hosts.toml`, and Docker's directories of
//! certificates.
//!
//! ```text
//! DIRECTORY/HOST[:PORT]/hosts.toml    mirrors and the registry itself
//! DIRECTORY/HOST[:PORT]/*.crt         certificates to trust
//! DIRECTORY/HOST[:PORT]/NAME.cert     client certificate, with NAME.key beside it
//! DIRECTORY/_default/hosts.toml       for registries without a directory of their own
//! ```
//!
//! The first `hosts.toml` that is found for a registry decides; files are read when a client is
//! made, and what they say is checked then.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

/// Name of the file.
const FILE: &str = "hosts.toml";
/// Directory for registries without one of their own.
const DEFAULT: &str = "_default";
/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Why a `hosts.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is longer than any honest one.
    #[error("cannot use {}: it is longer than {LIMIT} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no TOML, or a field has the wrong type.
    #[error("cannot use {}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("cannot use {}: {key} {value:?} {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// What a tag points to: the host is trusted to know.
    pub resolve: bool,
    /// Taking content in.
    pub push: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
    };
}

/// A client certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// The key; the same file if it holds both.
    pub key: PathBuf,
}

/// A host that stands for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// `http://` or `https://`, host and port; `None` for the registry's own.
    pub url: Option<String>,
    /// Path below which the API is; `/v2` unless it was overridden.
    pub path: String,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// Files of certificates to trust besides those of the system.
    pub ca: Vec<PathBuf>,
    /// Client certificates; the first is used.
    pub client: Vec<ClientCertificate>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
    /// Headers for every request to this host.
    pub headers: Vec<(String, String)>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            url: None,
            path: "/v2".to_owned(),
            capabilities: Capabilities::ALL,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: false,
            headers: Vec::new(),
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
    #[serde(flatten)]
    own: Table,
}

/// What may be said about a host.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany<String>,
    client: OneOrMany<OneOrMany<String>>,
    skip_verify: bool,
    header: BTreeMap<String, OneOrMany<String>>,
    override_path: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::Many(values) => values,
            Self::One(value) => vec![value],
        }
    }
}

/// Reads the text of a `hosts.toml` that is at `path`. Mirrors come in the order of the file, the
/// registry itself is last.
///
/// # Errors
/// [`HostsError::Malformed`], [`HostsError::Value`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<HostConfig>, HostsError> {
    let file: File = toml::from_str(text).map_err(|source| HostsError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let mut tables: Vec<_> = file.host.into_iter().collect();
    // The map is sorted by name; the order that counts is the one in the file.
    tables.sort_by_key(|(name, _)| name.span().start);
    let mut hosts = Vec::with_capacity(tables.len() + 1);
    for (name, table) in tables {
        hosts.push(table.resolve(Some(name.into_inner()), path)?);
    }
    hosts.push(file.own.resolve(file.server, path)?);
    Ok(hosts)
}

impl Table {
    fn resolve(self, name: Option<String>, file: &Path) -> Result<HostConfig, HostsError> {
        let refuse = |key, value: &str, reason| HostsError::Value {
            path: file.to_owned(),
            key,
            value: value.chars().take(160).collect(),
            reason,
        };
        let (url, path) = match &name {
            None => (None, String::new()),
            Some(name) => {
                let (url, path) =
                    split_url(name).ok_or_else(|| refuse("host", name, "is not a URL"))?;
                (Some(url), path)
            }
        };
        let path = if self.override_path || path.ends_with("/v2") {
            path
        } else {
            format!("{path}/v2")
        };
        let capabilities = match self.capabilities {
            None => Capabilities::ALL,
            Some(names) => {
                let mut found = Capabilities {
                    pull: false,
                    resolve: false,
                    push: false,
                };
                for name in names {
                    match name.as_str() {
                        "pull" => found.pull = true,
                        "resolve" => found.resolve = true,
                        "push" => found.push = true,
                        // Listing referrers is a pull here.
                        "referrers" => {}
                        other => {
                            return Err(refuse(
                                "capability",
                                other,
                                "is not pull, resolve or push",
                            ));
                        }
                    }
                }
                found
            }
        };
        let directory = file.parent().unwrap_or(Path::new("/"));
        let mut client = Vec::new();
        for pair in self.client.into_vec() {
            let pair = pair.into_vec();
            let (certificate, key) = match pair.as_slice() {
                [both] => (both, both),
                [certificate, key] => (certificate, key),
                _ => return Err(refuse("client", &pair.join(", "), "is no pair of files")),
            };
            client.push(ClientCertificate {
                certificate: directory.join(certificate),
                key: directory.join(if key.is_empty() { certificate } else { key }),
            });
        }
        let mut headers = Vec::new();
        for (name, values) in self.header {
            let is_name = !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            for value in values.into_vec() {
                if !is_name || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                    return Err(refuse("header", &name, "is no header"));
                }
                headers.push((name.clone(), value));
            }
        }
        Ok(HostConfig {
            url,
            path,
            capabilities,
            ca: self
                .ca
                .into_vec()
                .iter()
                .map(|path| directory.join(path))
                .collect(),
            client,
            skip_verify: self.skip_verify,
            headers,
        })
    }
}

/// Splits `[SCHEME://]HOST[:PORT][/PATH]` into the part before the path, with a scheme, and the
/// path without a slash at its end.
fn split_url(text: &str) -> Option<(String, String)> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return None,
        None => ("https", text),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'@' | b'%');
    if authority.is_empty() || !text.bytes().all(plain) {
        return None;
    }
    Some((
        format!("{scheme}://{authority}"),
        path.trim_end_matches('/').to_owned(),
    ))
}

/// Names of the directory for `registry`, best first: containerd also writes a port between
/// underscores, for systems where a colon cannot be in a name.
fn directory_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':')
        && !port.ends_with(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names
}

/// The hosts for `registry` by the first `hosts.toml` in `directories`, which come best first;
/// the registry alone without one.
///
/// # Errors
/// [`HostsError`].
pub fn lookup(directories: &[PathBuf], registry: &str) -> Result<Vec<HostConfig>, HostsError> {
    let mut names = directory_names(registry);
    names.push(DEFAULT.to_owned());
    // One directory after the other: what is made for us wins over what others left.
    for directory in directories {
        for name in &names {
            let path = directory.join(name).join(FILE);
            if let Some(text) = read(&path)? {
                return parse(&text, &path);
            }
        }
    }
    Ok(vec![HostConfig::default()])
}

fn read(path: &Path) -> Result<Option<String>, HostsError> {
    let failed = |source| HostsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        // A file that is not for this user cannot be meant for it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LIMIT {
        return Err(HostsError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(Some(text))
}

/// The files in Docker's directories for `registry`: certificates to trust, and client
/// certificates with a key beside them, sorted by name.
pub(crate) fn certificate_files(
    directories: &[PathBuf],
    names: &[String],
) -> (Vec<PathBuf>, Vec<ClientCertificate>) {
    let (mut trusted, mut client) = (Vec::new(), Vec::new());
    for directory in directories {
        for name in names {
            let Ok(entries) = std::fs::read_dir(directory.join(name)) else {
                continue;
            };
            let mut paths: Vec<_> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => trusted.push(path),
                    Some("cert") => client.push(ClientCertificate {
                        key: path.with_extension("key"),
                        certificate: path,
                    }),
                    _ => {}
                }
            }
        }
    }
    (trusted, client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDirectory;

    fn parsed(text: &str) -> Result<Vec<HostConfig>, HostsError> {
        parse(text, Path::new("/certs.d/r.tld/hosts.toml"))
    }

    #[test]
    fn reads_everything_in_the_order_of_the_file() {
        let hosts = parsed(
            r#"
            server = "https://real.tld"
            ca = "/etc/real.crt"

            [host."https://zz.tld:5000"]
              capabilities = ["pull", "resolve"]
              ca = ["one.crt", "/two.crt"]
              client = [["a.cert", "a.key"], ["b.pem", ""]]
              skip_verify = true
              dial_timeout = "3s"
              [host."https://zz.tld:5000".header]
                x-one = "1"
                x-two = ["2", "3"]

            [host."http://aa.tld/cache/"]
              capabilities = ["pull"]
              client = "both.pem"

            [host."mm.tld/api/v1"]
              override_path = true
            "#,
        )
        .unwrap();
        let urls: Vec<_> = hosts
            .iter()
            .map(|host| (host.url.as_deref().unwrap(), host.path.as_str()))
            .collect();
        assert_eq!(
            urls,
            [
                ("https://zz.tld:5000", "/v2"),
                ("http://aa.tld", "/cache/v2"),
                ("https://mm.tld", "/api/v1"),
                ("https://real.tld", "/v2"),
            ]
        );
        let first = &hosts[0];
        let path = |name: &str| PathBuf::from("/certs.d/r.tld").join(name);
        assert_eq!(first.ca, [path("one.crt"), "/two.crt".into()]);
        let pair = |certificate: &str, key: &str| ClientCertificate {
            certificate: path(certificate),
            key: path(key),
        };
        assert_eq!(
            first.client,
            [pair("a.cert", "a.key"), pair("b.pem", "b.pem")]
        );
        assert!(first.skip_verify);
        let headers: Vec<_> = first
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(headers, ["x-one=1", "x-two=2", "x-two=3"]);
        assert_eq!(
            first.capabilities,
            Capabilities {
                push: false,
                ..Capabilities::ALL
            }
        );
        assert_eq!(hosts[1].client, [pair("both.pem", "both.pem")]);
        assert_eq!(hosts[2].capabilities, Capabilities::ALL);
        assert_eq!(hosts[3].ca, [PathBuf::from("/etc/real.crt")]);
        assert_eq!(parsed("").unwrap(), [HostConfig::default()]);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for text in [
            "[host.\"ftp://x\"]",
            "[host.\"https://\"]",
            "[host.\"https://u:p@x\"]",
            "[host.\"https://x?a=b\"]",
            "[host.\"x y\"]",
            "server = \"unix:///x\"",
            "[host.x]\ncapabilities = [\"fly\"]",
            "[host.x]\nclient = [[\"a\", \"b\", \"c\"]]",
            "[host.x.header]\n\"a b\" = \"1\"",
            "[host.x.header]\na = \"1\\r\\nb: 2\"",
            "[host.x]\nca = 7",
            "server = ",
            "host = 3",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_file_decides() {
        let directory = TestDirectory::new();
        let [ours, theirs] = ["ours", "theirs"].map(|name| directory.path().join(name));
        let directories = [ours.clone(), theirs.clone()];
        let found = |registry: &str| {
            lookup(&directories, registry)
                .unwrap()
                .last()
                .unwrap()
                .url
                .clone()
        };
        let write = |directory: &Path, name: &str, server: &str| {
            let directory = directory.join(name);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(FILE), format!("server = {server:?}\n")).unwrap();
        };
        assert_eq!(found("r.tld:5000"), None);
        write(&theirs, "_default", "d");
        assert_eq!(found("r.tld:5000").as_deref(), Some("https://d"));
        write(&theirs, "r.tld:5000", "colon");
        assert_eq!(found("r.tld:5000").as_deref(), Some("https://colon"));
        write(&theirs, "r.tld_5000_", "underscores");
        assert_eq!(found("r.tld:5000").as_deref(), Some("https://underscores"));
        assert_eq!(found("r.tld").as_deref(), Some("https://d"));
        write(&ours, "r.tld:5000", "ours");
        assert_eq!(found("r.tld:5000").as_deref(), Some("https://ours"));
        std::fs::write(ours.join("r.tld:5000").join(FILE), "server = [").unwrap();
        assert!(lookup(&directories, "r.tld:5000").is_err());
        assert_eq!(directory_names("[::1]"), ["[::1]"]);
        assert_eq!(directory_names("[::1]:5"), ["[::1]_5_", "[::1]:5"]);
    }
}
