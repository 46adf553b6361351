//! Credentials that the docker client has stored: when they are looked up, and who sees them.

use std::process::Command;

use super::*;
use crate::credentials::DockerFiles;

/// A docker configuration directory with a helper that answers and leaves a line per question.
struct Docker {
    directory: TestDirectory,
}

impl Docker {
    fn new(config: &str) -> Self {
        let docker = Self {
            directory: TestDirectory::new(),
        };
        let path = docker.directory.path();
        std::fs::write(path.join("config.json"), config).unwrap();
        // Written by another process: see ETXTBSY in execve(2).
        let script = "#!/bin/sh\nserver=$(cat)\necho \"$server\" >> \"${0%/*}/asked\"\n\
                      echo '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n";
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
            .arg(path.join("docker-credential-test"))
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        docker
    }

    fn options(&self) -> ClientOptions {
        ClientOptions {
            credentials: CredentialSource::Docker(DockerFiles {
                config: self.directory.path().join("config.json"),
                search: vec![self.directory.path().to_owned()],
                patience: Duration::from_secs(30),
            }),
            ..options()
        }
    }

    /// What the helper was asked for.
    fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.directory.path().join("asked"));
        asked
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// An `auths` entry per host with the user and password of [`BASIC`].
fn auths(hosts: &[&str]) -> String {
    let entries: Vec<String> = hosts
        .iter()
        .map(|host| format!(r#""{host}":{{"auth":"dXNlcjpzZWNyZXQ="}}"#))
        .collect();
    format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
}

const HELPER: &str = r#"{"credsStore":"test"}"#;

#[test]
fn nothing_is_read_before_the_registry_asks() {
    let server = Server::start(|_| Reply::new(200, MANIFEST));
    for config in ["malformed", HELPER, r#"{"credsStore":"absent"}"#] {
        let docker = Docker::new(config);
        manifest(&server.host(), &docker.options()).unwrap();
        assert_eq!(docker.asked(), [""; 0]);
    }
    let missing = Server::start(|_| Reply::new(404, ""));
    let docker = Docker::new("malformed");
    let error = manifest(&missing.host(), &docker.options()).unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
}

#[test]
fn basic_and_bearer_use_what_is_stored() {
    for bearer in [false, true] {
        let server = if bearer {
            token_server(None)
        } else {
            Server::start(basic)
        };
        for config in [auths(&[&server.host()]), HELPER.to_owned()] {
            let docker = Docker::new(&config);
            let client = Client::new(&server.host(), &docker.options()).unwrap();
            client.manifest("a/b", ManifestName::Tag("t")).unwrap();
            client.manifest("c/d", ManifestName::Tag("t")).unwrap();
            let asked = if config == HELPER {
                vec![server.host()]
            } else {
                vec![]
            };
            assert_eq!(docker.asked(), asked, "once for all requests");
        }
        let authorized = server
            .seen()
            .iter()
            .any(|request| request.header("authorization") == Some(BASIC));
        assert!(authorized, "bearer: {bearer}");
    }
}

#[test]
fn an_identity_token_is_exchanged_and_never_a_password() {
    let config =
        |host: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"dTo=","identitytoken":"r&t"}}}}}}"#);
    let server = token_server(None);
    let docker = Docker::new(&config(&server.host()));
    manifest(&server.host(), &docker.options()).unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].method, "POST");
    assert!(seen[1].body.contains("refresh_token=r%26t"));
    assert_eq!(seen[1].header("authorization"), None);
    assert_eq!(seen[2].header("authorization"), Some("Bearer refreshed"));

    let server = Server::start(basic);
    let docker = Docker::new(&config(&server.host()));
    let error = manifest(&server.host(), &docker.options()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("only an identity token"), "{error}");
    let bare = |request: &Request| request.header("authorization").is_none();
    assert!(server.seen().iter().all(bare));
}

#[test]
fn what_is_missing_or_wrong_is_said_with_its_place() {
    let server =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
    let host = server.host();
    for (config, expected) in [
        ("{}".to_owned(), "config.json has none for 127.0.0.1"),
        (auths(&["other.tld"]), "config.json has none for 127.0.0.1"),
        (auths(&[&host]), "user name or password from /"),
        (
            HELPER.to_owned(),
            "user name or password from docker-credential-test",
        ),
        ("{".to_owned(), "config.json: it is not valid JSON"),
        (auths(&[&host]).replace("dXNl", "!"), "is not base64"),
        (
            r#"{"credsStore":"absent"}"#.to_owned(),
            "docker-credential-absent, which /",
        ),
        (
            r#"{"credsStore":"a/b"}"#.to_owned(),
            "not the name of a credential helper",
        ),
    ] {
        let docker = Docker::new(&config);
        let error = chain(&manifest(&host, &docker.options()).unwrap_err());
        assert!(error.contains(expected), "{config}: {error}");
        assert!(error.contains("a/b:t") && error.contains(&host), "{error}");
        assert!(
            !error.contains('\n') && !error.contains("secret"),
            "{error}"
        );
    }
    // The same from a token endpoint, which says no to everybody.
    let server = token_server(None);
    let docker = Docker::new(&auths(&[&server.host()]).replace("dXNlcjpzZWNyZXQ=", "dTp3cm9uZw=="));
    let error = manifest(&server.host(), &docker.options())
        .unwrap_err()
        .to_string();
    assert!(error.contains("config.json is wrong"), "{error}");
}

/// A configuration that came from another machine names a helper that is not here.
#[test]
fn a_helper_that_fails_does_not_keep_public_images_away() {
    let server = token_server(None);
    let docker = Docker::new(r#"{"credsStore":"absent"}"#);
    let client = Client::new(&server.host(), &docker.options()).unwrap();
    client.manifest("a/b", ManifestName::Tag("t")).unwrap();
    let unused = client.unused_credentials().unwrap().to_string();
    assert!(unused.contains("docker-credential-absent"), "{unused}");
    assert!(
        server
            .seen()
            .iter()
            .any(|request| request.header("authorization") == Some("Bearer anonymous"))
    );

    // What is not public is refused with the same reason, whoever refuses it.
    for refuse_token in [false, true] {
        let server = Server::start(move |request| {
            if request.path() == "/token" && !refuse_token {
                return Reply::new(200, r#"{"token":"anonymous"}"#);
            }
            let realm = format!("http://{}/token", request.header("host").unwrap());
            Reply::new(401, "").header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
        });
        let error = manifest(&server.host(), &docker.options()).unwrap_err();
        assert!(
            matches!(error, RegistryError::Credentials { .. }),
            "{error:?}"
        );
        assert!(
            chain(&error).contains("docker-credential-absent"),
            "{}",
            chain(&error)
        );
    }
    // A damaged file is not passed over.
    let docker = Docker::new("{");
    let error = manifest(&server.host(), &docker.options()).unwrap_err();
    assert!(
        matches!(error, RegistryError::Credentials { .. }),
        "{error:?}"
    );
}

/// CVE-2020-15157, CVE-2026-50151, GHSA-vh4v-2xq2-g5cg, CVE-2026-49349: a redirect carries no
/// stored credentials away, and does not call forth those that are stored for its target either.
#[test]
fn a_redirects_target_gets_neither_these_nor_its_own_credentials() {
    let content = b"a layer".to_vec();
    let other =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"give\""));
    let location = other.url("/blob");
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => Reply::new(307, "").header("Location", location.clone()),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    for config in [auths(&[&server.host(), &other.host()]), HELPER.to_owned()] {
        let docker = Docker::new(&config);
        assert!(read_blob(&server.host(), &docker.options(), &content).is_err());
        assert!(docker.asked().iter().all(|asked| *asked == server.host()));
    }
    let seen = other.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|request| request.header("authorization").is_none()),
        "{seen:?}"
    );
}

/// CVE-2026-48978, CVE-2026-33540, CVE-2026-24845: a token endpoint that the registry names is
/// not a key into the store, and gets neither password nor refresh token on a foreign host.
#[test]
fn a_foreign_realm_gets_no_stored_credentials() {
    let evil = Server::start(|_| Reply::new(200, r#"{"token":"x"}"#));
    let (_names, with_names) = named(&["registry.test", "evil.test"]);
    for scheme in ["http", "https"] {
        let realm = format!("{scheme}://evil.test:{}/token", evil.port());
        let server = token_server(Some(realm));
        let name = format!("registry.test:{}", server.port());
        let evil_name = format!("evil.test:{}", evil.port());
        let token =
            auths(&[&name, &evil_name]).replace("\"auth\"", "\"identitytoken\":\"r\",\"auth\"");
        for config in [auths(&[&name, &evil_name]), token, HELPER.to_owned()] {
            let docker = Docker::new(&config);
            let options = ClientOptions {
                insecure_registries: vec![name.clone()],
                credentials: docker.options().credentials,
                ..with_names.clone()
            };
            let error = manifest(&name, &options).unwrap_err();
            assert!(
                matches!(error, RegistryError::RealmRefused { .. }),
                "{error:?}"
            );
            assert!(docker.asked().iter().all(|asked| *asked == name));
        }
    }
    assert_eq!((evil.seen(), evil.not_http()), (vec![], 0));

    // On loopback the endpoint may listen on a port of its own; what it gets is the registry's.
    let tokens = token_server(None);
    let server = token_server(Some(tokens.url("/token")));
    let docker = Docker::new(&auths(&[&server.host()]));
    manifest(&server.host(), &docker.options()).unwrap();
    assert_eq!(tokens.seen()[0].header("authorization"), Some(BASIC));
    let docker = Docker::new(&auths(&[&tokens.host()]));
    manifest(&server.host(), &docker.options()).unwrap();
    assert_eq!(tokens.seen()[1].header("authorization"), None);
}
