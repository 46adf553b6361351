use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};

use std::sync::OnceLock;
use std::time::Duration;

use super::origin::{Origin, Reach};
use super::transport::{Target, Trust};
use super::*;
use crate::testing::{Reply, Request, Server, TestDirectory};

mod fuzz;
mod hosts;
mod lists;
mod stored;

const MANIFEST: &str = r#"{"schemaVersion":2}"#;

fn options() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            retries: 2,
            delay: Duration::from_millis(5),
            ..RetryPolicy::default()
        },
        certificate_directories: Vec::new(),
        ..ClientOptions::default()
    }
}

fn with_credentials() -> ClientOptions {
    let (username, password) = ("user".to_owned(), "secret".to_owned());
    ClientOptions {
        credentials: CredentialSource::Given(Credentials {
            username,
            password,
            identity_token: None,
        }),
        ..options()
    }
}

fn given(change: impl FnOnce(&mut Credentials)) -> ClientOptions {
    let mut options = with_credentials();
    if let CredentialSource::Given(credentials) = &mut options.credentials {
        change(credentials);
    }
    options
}

/// `Authorization` of user and password above.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn manifest(registry: &str, options: &ClientOptions) -> Result<FetchedManifest, RegistryError> {
    Client::new(registry, options)?.manifest("a/b", ManifestName::Tag("t"))
}

fn read_blob(
    registry: &str,
    options: &ClientOptions,
    content: &[u8],
) -> Result<Vec<u8>, RegistryError> {
    let client = Client::new(registry, options)?;
    let mut reader = client.blob("a/b", &Digest::of(content), content.len() as u64)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1000]);
    loop {
        match reader.read_some(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes.extend(&buffer[..count]),
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// A name for 127.0.0.1 that is not treated as loopback.
fn named(names: &[&str]) -> (TestDirectory, ClientOptions) {
    let directory = TestDirectory::new();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 {}\n", names.join(" "))).unwrap();
    let resolver = ResolverFiles {
        hosts,
        resolv_conf: directory.path().join("none"),
    };
    let options = ClientOptions {
        resolver,
        ..with_credentials()
    };
    (directory, options)
}

#[test]
fn fetches_a_manifest() {
    let server = Server::start(|request| match request.path() {
        "/v2/a/b/manifests/t" => Reply::new(200, MANIFEST)
            .header("Content-Type", media_type::MANIFEST)
            .header(
                "Docker-Content-Digest",
                Digest::of(MANIFEST.as_bytes()).to_string(),
            ),
        _ => Reply::new(404, ""),
    });
    let fetched = manifest(&server.host(), &options()).unwrap();
    assert_eq!(fetched.bytes, MANIFEST.as_bytes());
    assert_eq!(fetched.digest, Digest::of(MANIFEST.as_bytes()));
    assert_eq!(fetched.content_type.as_deref(), Some(media_type::MANIFEST));
    let seen = server.seen();
    assert_eq!(seen.len(), 1, "nothing but the one request");
    assert_eq!(seen[0].header("accept"), Some(media_type::ACCEPT));
    assert_eq!(seen[0].header("authorization"), None);
    assert!(seen[0].header("user-agent").unwrap().starts_with("gantry/"));
    assert_eq!(server.not_http(), 1, "TLS is tried first also on loopback");
}

#[test]
fn verifies_digests_of_manifests() {
    let wrong = Digest::of(b"other");
    let stated = Server::start(move |_| {
        Reply::new(200, MANIFEST).header("Docker-Content-Digest", wrong.to_string())
    });
    let error = manifest(&stated.host(), &options()).unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error:?}"
    );
    // GHSA-qv35-3gw6-8q4j: the digest asked for decides, redirects and headers or not.
    let redirecting = Server::start(|request| match request.path() {
        "/elsewhere" => Reply::new(200, MANIFEST),
        _ => Reply::new(307, "").header("Location", "/elsewhere"),
    });
    let client = Client::new(&redirecting.host(), &options()).unwrap();
    let error = client
        .manifest("a/b", ManifestName::Digest(&wrong))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error:?}"
    );
    let right = Digest::of(MANIFEST.as_bytes());
    assert!(client.manifest("a/b", ManifestName::Digest(&right)).is_ok());
}

/// CVE-2023-25153: a manifest without end is not read to its end.
#[test]
fn caps_manifests() {
    let server = Server::start(|_| {
        let mut reply = Reply::new(200, vec![b' '; 5 << 20]);
        reply.chunked = true;
        reply
    });
    let error = manifest(&server.host(), &options()).unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::TooLarge {
                limit: model::DOCUMENT_LIMIT,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn statuses_become_errors() {
    let body = r#"{"errors":[{"code":"X","message":"in words"}]}"#;
    for (status, requests) in [
        (404, 1),
        (403, 1),
        (400, 1),
        (418, 1),
        (500, 3),
        (503, 3),
        (429, 3),
    ] {
        let server = Server::start(move |_| Reply::new(status, body));
        let error = manifest(&server.host(), &options()).unwrap_err();
        assert!(error.to_string().contains("in words"), "{error}");
        let right = match status {
            404 => matches!(error, RegistryError::NotFound { .. }),
            403 => matches!(error, RegistryError::Denied { .. }),
            _ => matches!(error, RegistryError::Status { status: found, .. } if found == status),
        };
        assert!(right, "{status}: {error:?}");
        let seen = server.seen().iter().filter(|r| r.path() != "/v2/").count();
        assert_eq!(seen, requests, "{status}");
    }
}

#[test]
fn retries_and_waits() {
    let count = AtomicU32::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").header("Retry-After", "1"),
        _ => Reply::new(200, MANIFEST),
    });
    let started = std::time::Instant::now();
    assert!(manifest(&server.host(), &options()).is_ok());
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "Retry-After is honoured"
    );
}

/// CVE-2014-5277: where TLS fails nothing is sent in clear text, unless that was allowed.
#[test]
fn never_falls_back_to_clear_text() {
    let server = Server::start(|_| Reply::new(200, MANIFEST));
    let (_directory, options) = named(&["registry.test"]);
    let name = format!("registry.test:{}", server.port());
    let error = manifest(&name, &options).unwrap_err();
    assert!(
        matches!(error, RegistryError::Transport { .. }),
        "{error:?}"
    );
    assert!(
        chain(&error).contains("https://registry.test"),
        "{}",
        chain(&error)
    );
    assert_eq!(server.seen(), []);
    assert!(server.not_http() > 0);
    let listed = ClientOptions {
        insecure_registries: vec![name.clone()],
        ..options.clone()
    };
    assert!(manifest(&name, &listed).is_ok());
    let other_port = ClientOptions {
        insecure_registries: vec!["registry.test:1".to_owned()],
        ..options
    };
    assert!(manifest(&name, &other_port).is_err());
    assert_eq!(server.seen().len(), 1);
}

fn basic(request: &Request) -> Reply {
    match request.header("authorization") {
        Some(BASIC) => Reply::new(200, MANIFEST),
        Some(_) => Reply::new(403, ""),
        None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    }
}

#[test]
fn basic_authentication() {
    let server = Server::start(basic);
    let client = Client::new(&server.host(), &with_credentials()).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    client.check_credentials().unwrap();
    let sent: Vec<_> = server
        .seen()
        .iter()
        .map(|r| r.header("authorization").is_some())
        .collect();
    assert_eq!(
        sent,
        [false, true, true, true],
        "only when asked, then always"
    );
    let error = manifest(&server.host(), &options()).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert!(error.to_string().contains("login"), "{error}");
}

/// A registry with a token endpoint at `realm`, or its own.
fn token_server(realm: Option<String>) -> Server {
    let address = Arc::new(OnceLock::<String>::new());
    let known = address.clone();
    let server = Server::start(move |request| {
        if request.path() == "/token" {
            let expected = "service=the%20service&scope=repository:a/b:pull";
            let asked = if request.method == "POST" {
                request.body.as_str()
            } else {
                request.target.as_str()
            };
            if !asked.contains(expected) {
                return Reply::new(400, "");
            }
            return match request.header("authorization") {
                None if asked.contains("refresh_token=r%26t") => {
                    Reply::new(200, r#"{"access_token":"refreshed"}"#)
                }
                None => Reply::new(200, r#"{"token":"anonymous"}"#),
                Some(BASIC) => Reply::new(200, r#"{"token":"of-user","expires_in":300}"#),
                Some(_) => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
            };
        }
        match request.header("authorization") {
            Some("Bearer anonymous" | "Bearer of-user" | "Bearer refreshed") => {
                Reply::new(200, MANIFEST)
            }
            _ => {
                let own = || format!("http://{}/token", known.get().unwrap());
                let realm = realm.clone().unwrap_or_else(own);
                let challenge = format!(
                    "Bearer realm=\"{realm}\",service=\"the service\",scope=\"repository:a/b:pull\""
                );
                Reply::new(401, "").header("WWW-Authenticate", challenge)
            }
        }
    });
    address.set(server.host()).unwrap();
    server
}

#[test]
fn tokens() {
    let server = token_server(None);
    let client = Client::new(&server.host(), &options()).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    let paths: Vec<_> = server.seen().iter().map(|r| r.path().to_owned()).collect();
    assert_eq!(
        paths,
        [
            "/v2/a/b/manifests/t",
            "/token",
            "/v2/a/b/manifests/t",
            "/v2/a/b/manifests/t"
        ]
    );

    let server = token_server(None);
    manifest(&server.host(), &with_credentials()).unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].header("authorization"), Some(BASIC));
    assert!(seen[1].target.contains("account=user"));
    assert_eq!(seen[2].header("authorization"), Some("Bearer of-user"));

    let wrong = given(|credentials| credentials.password = "wrong".to_owned());
    let error = manifest(&server.host(), &wrong).unwrap_err();
    assert!(
        error.to_string().contains("incorrect username or password"),
        "{error}"
    );

    let server = token_server(None);
    let refresh = given(|credentials| credentials.identity_token = Some("r&t".to_owned()));
    manifest(&server.host(), &refresh).unwrap();
    let seen = server.seen();
    assert_eq!(
        (seen[1].method.as_str(), seen[1].header("authorization")),
        ("POST", None)
    );
    assert!(seen[1].body.contains("grant_type=refresh_token"));
}

#[test]
fn a_registry_that_refuses_its_own_token_is_asked_twice_only() {
    let server = Server::start(|request| {
        if request.path() == "/token" {
            return Reply::new(200, r#"{"token":"useless"}"#);
        }
        let host = request.header("host").unwrap();
        Reply::new(401, "").header(
            "WWW-Authenticate",
            format!("Bearer realm=\"http://{host}/token\""),
        )
    });
    let error = manifest(&server.host(), &options()).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert_eq!(server.seen().len(), 3);
}

/// CVE-2026-48978, CVE-2026-33540, CVE-2026-24845: a registry cannot have the credentials sent
/// wherever it likes, nor make this host ask in clear text or inside its own network.
#[test]
fn foreign_realms_get_nothing() {
    let evil = Server::start(|_| Reply::new(200, r#"{"token":"x"}"#));
    let (_directory, with_names) = named(&["registry.test", "evil.test"]);
    for realm in [
        format!("http://evil.test:{}/token", evil.port()),
        format!("https://evil.test:{}/token", evil.port()),
        format!("https://registry.test.evil.test:{}/token", evil.port()),
        format!("ftp://registry.test:{}/token", evil.port()),
        "//registry.test/token".to_owned(),
    ] {
        let server = token_server(Some(realm.clone()));
        let name = format!("registry.test:{}", server.port());
        let options = ClientOptions {
            insecure_registries: vec![name.clone()],
            ..with_names.clone()
        };
        let error = manifest(&name, &options).unwrap_err();
        assert!(
            matches!(error, RegistryError::RealmRefused { .. }),
            "{realm}: {error:?}"
        );
    }
    assert_eq!((evil.seen(), evil.not_http()), (vec![], 0));
}

/// CVE-2020-15157, CVE-2026-50151, GHSA-vh4v-2xq2-g5cg, CVE-2026-49349: neither password nor token
/// follows a redirect to another origin, and a challenge from there is not met.
#[test]
fn redirects_carry_no_credentials() {
    let content = b"a layer".to_vec();
    let other = Server::start({
        let content = content.clone();
        move |request| match request.path() {
            "/blob" => Reply::new(200, content.clone()),
            _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"give\""),
        }
    });
    for (target, allowed) in [("/blob", true), ("/challenge", false)] {
        let location = other.url(target);
        let server =
            Server::start(
                move |request| match (request.path(), request.header("authorization")) {
                    (_, None) => {
                        Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\"")
                    }
                    ("/same", Some(BASIC)) => {
                        Reply::new(302, "").header("Location", location.clone())
                    }
                    (_, Some(BASIC)) => Reply::new(307, "").header("Location", "/same?a=b"),
                    _ => Reply::new(403, ""),
                },
            );
        let result = read_blob(&server.host(), &with_credentials(), &content);
        assert_eq!(result.is_ok(), allowed, "{target}: {result:?}");
        let same = server
            .seen()
            .into_iter()
            .find(|r| r.path() == "/same")
            .unwrap();
        assert_eq!(
            same.header("authorization"),
            Some(BASIC),
            "the same origin keeps them"
        );
    }
    let seen = other.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|request| request.header("authorization").is_none()),
        "{seen:?}"
    );
}

#[test]
fn bad_redirects_are_refused() {
    for (location, expected) in [
        (Some("file:///etc/passwd"), "malformed"),
        (Some("ftp://127.0.0.1/x"), "malformed"),
        (Some("http://user:password@127.0.0.1/x"), "malformed"),
        (None, "malformed"),
        (Some("http://192.0.2.1/x"), "refused"),
        (Some("/v2/a/b/manifests/t"), "endless"),
    ] {
        let server = Server::start(move |_| {
            let reply = Reply::new(302, "");
            match location {
                Some(location) => reply.header("Location", location),
                None => reply,
            }
        });
        let error = manifest(&server.host(), &options()).unwrap_err();
        let right = match expected {
            "malformed" => matches!(error, RegistryError::RedirectMalformed { .. }),
            "refused" => matches!(error, RegistryError::RedirectRefused { .. }),
            _ => matches!(error, RegistryError::TooManyRedirects { .. }),
        };
        assert!(right, "{location:?}: {error:?}");
        assert!(server.seen().len() <= 6);
    }
}

/// CVE-2026-33990: a name that resolves to this host is no way around the rules for addresses.
#[test]
fn names_are_judged_by_their_addresses() {
    let directory = TestDirectory::new();
    let hosts = directory.path().join("hosts");
    std::fs::write(
        &hosts,
        "127.0.0.1 inside.test\n169.254.169.254 metadata.test\n10.1.1.1 intranet.test\n",
    )
    .unwrap();
    let resolver = ResolverFiles {
        hosts,
        resolv_conf: directory.path().join("none"),
    };
    let trust = Trust {
        certificate_directories: Vec::new(),
        resolver,
        proxies: Proxies::none(),
        ca: Vec::new(),
        system: Arc::default(),
    };
    for (host, least, refused) in [
        ("inside.test", Reach::Private, true),
        ("metadata.test", Reach::Private, true),
        ("intranet.test", Reach::Public, true),
        ("inside.test", Reach::Own, false),
    ] {
        let server = Server::start(|_| Reply::new(200, ""));
        let origin = Origin {
            secure: false,
            host: host.to_owned(),
            port: server.port(),
        };
        let target = Target {
            origin: origin.clone(),
            least,
            insecure: true,
        };
        let result = transport::agent(&target, &trust, &[], "test")
            .unwrap()
            .get(origin.url("/").to_string())
            .call();
        let error = result
            .map_err(|error| RegistryError::transport(&origin, error))
            .err();
        assert_eq!(
            matches!(error, Some(RegistryError::RedirectRefused { .. })),
            refused,
            "{host}: {error:?}"
        );
        assert_eq!(server.seen().len(), usize::from(!refused));
    }
}

/// Bytes that are not all the same, so that a wrong offset shows.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn blobs_resume() {
    for chunked in [false, true] {
        for ranges in [true, false] {
            let whole = content(50_000);
            let served = whole.clone();
            let count = AtomicU32::new(0);
            let server = Server::start(move |request| {
                let attempt = count.fetch_add(1, Ordering::Relaxed);
                let start = request.header("range").map_or(0, |range| {
                    range
                        .strip_prefix("bytes=")
                        .unwrap()
                        .strip_suffix('-')
                        .unwrap()
                        .parse::<usize>()
                        .unwrap()
                });
                let mut reply = if ranges && start > 0 {
                    Reply::new(206, &served[start..]).header(
                        "Content-Range",
                        format!("bytes {start}-{}/{}", served.len() - 1, served.len()),
                    )
                } else {
                    Reply::new(200, served.clone())
                };
                reply.chunked = chunked;
                reply.cut = (attempt < 2).then_some(10_000 * (attempt as usize + 1));
                reply
            });
            let read = read_blob(&server.host(), &options(), &whole).unwrap();
            assert!(read == whole, "chunked {chunked}, ranges {ranges}");
            assert_eq!(server.seen().len(), 3);
        }
    }
}

#[test]
fn blobs_that_keep_breaking_or_continue_elsewhere_fail() {
    let whole = content(50_000);
    let served = whole.clone();
    let broken = Server::start(move |_| Reply {
        cut: Some(100),
        ..Reply::new(200, served.clone())
    });
    let error = read_blob(&broken.host(), &options(), &whole).unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::BlobBrokeOff {
                received: 100,
                expected: 50_000,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(broken.seen().len(), 3);

    let served = whole.clone();
    let shifted = Server::start(move |request| match request.header("range") {
        None => Reply {
            cut: Some(100),
            ..Reply::new(200, served.clone())
        },
        Some(_) => Reply::new(206, &served[200..]).header("Content-Range", "bytes 200-49999/50000"),
    });
    let error = read_blob(&shifted.host(), &options(), &whole).unwrap_err();
    assert!(
        matches!(error, RegistryError::RangeIgnored { offset: 100, .. }),
        "{error:?}"
    );
}

#[test]
fn blobs_have_their_size() {
    for (length, chunked) in [(1001, false), (999, false), (1001, true), (0, false)] {
        let server = Server::start(move |_| Reply {
            chunked,
            ..Reply::new(200, content(length))
        });
        let error = read_blob(&server.host(), &options(), &content(1000)).unwrap_err();
        assert!(
            matches!(error, RegistryError::BlobSize { expected: 1000, .. }),
            "{length}: {error:?}"
        );
    }
    let server = Server::start(|_| Reply {
        chunked: true,
        ..Reply::new(200, content(999))
    });
    let error = read_blob(&server.host(), &options(), &content(1000)).unwrap_err();
    assert!(
        matches!(error, RegistryError::BlobBrokeOff { received: 999, .. }),
        "{error:?}"
    );
    let server = Server::start(|_| Reply::new(200, ""));
    assert_eq!(read_blob(&server.host(), &options(), b"").unwrap(), b"");
}

#[test]
fn names_of_registries() {
    for name in ["", "http://x", "a b", "user@host", "host/path", "host:port"] {
        let result = Client::new(name, &options());
        assert!(
            matches!(result, Err(RegistryError::InvalidName { .. })),
            "{name}"
        );
    }
    let hub = Client::new("docker.io", &options()).unwrap();
    assert_eq!(
        hub.hosts[0].origin().unwrap().authority(),
        "registry-1.docker.io"
    );
}
