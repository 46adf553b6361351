//! Users, tokens and TLS.

use std::fs;
use std::process::Command;

use crate::server::Server;
use crate::support::{Installation, is_installed};

fn shell(directory: &std::path::Path, script: &str) {
    let done = Command::new("sh")
        .args(["-ec", &format!("exec 2>/dev/null\n{script}")])
        .current_dir(directory)
        .status()
        .unwrap();
    assert!(done.success(), "{script}");
}

#[test]
fn users_that_htpasswd_has_made() {
    if !is_installed("htpasswd") {
        return;
    }
    let installation = Installation::new();
    shell(&installation.root, "htpasswd -Bbc users ann secret");
    let users = installation.root.join("users");
    let server = Server::start(&installation, &["--htpasswd", users.to_str().unwrap()]);
    server.get("/v2/").expect(401);
    server.curl(&["--user", "ann:secret"], "/v2/").expect(200);
    server.curl(&["--user", "ann:wrong"], "/v2/").expect(401);
    server.curl(&["--user", "bob:word"], "/v2/").expect(401);
    // The file counts as it is now.
    shell(
        &installation.root,
        "htpasswd -Bb users bob word; htpasswd -D users ann",
    );
    server.curl(&["--user", "bob:word"], "/v2/").expect(200);
    server.curl(&["--user", "ann:secret"], "/v2/").expect(401);
}

#[test]
fn only_bcrypt_is_accepted() {
    let installation = Installation::new();
    let users = installation.root.join("users");
    fs::write(&users, "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n").unwrap();
    let root = installation.root.join("served");
    let said = installation.fails(
        1,
        &[
            "registry",
            "serve",
            "--address",
            "127.0.0.1:0",
            "--root",
            root.to_str().unwrap(),
            "--htpasswd",
            users.to_str().unwrap(),
        ],
    );
    assert!(
        said.contains("line 1 of") && said.contains("htpasswd -B"),
        "{said}"
    );
}

#[test]
fn flags_that_do_not_fit() {
    let installation = Installation::new();
    for (flags, expected) in [
        (&["--tls-cert", "x"][..], "--tls-key is needed as well"),
        (&["--tls-client-ca", "x"], "--tls-client-ca needs"),
        (&["--anonymous-pull"], "--anonymous-pull needs --htpasswd"),
        (
            &["--auth-token-realm", "x"],
            "--auth-token-service is needed as well",
        ),
        (
            &["--address", "nowhere"],
            "invalid value 'nowhere' for --address",
        ),
        (
            &["--proxy-username", "x"],
            "--proxy-password-file is needed as well",
        ),
    ] {
        let arguments = [&["registry", "serve"][..], flags].concat();
        let output = installation.gantry(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(expected),
            "{flags:?}: {said}"
        );
    }
}

/// A server certificate is asked for and checked; a client certificate too where it is required.
#[test]
fn tls_with_and_without_client_certificates() {
    let installation = Installation::new();
    shell(
        &installation.root,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
         for n in server client; do
           openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$n -keyout $n.key -out $n.csr
           printf 'subjectAltName=IP:127.0.0.1\n' > ext
           openssl x509 -req -in $n.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.pem
         done",
    );
    let path = |name: &str| installation.root.join(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let (client, client_key) = (path("client.pem"), path("client.key"));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    let server = Server::start(&installation, &flags);
    assert!(server.url.starts_with("https://"));
    server.curl(&["--cacert", &ca], "/v2/").expect(200);
    assert_eq!(server.get("/v2/").status, 0);
    // Our own client asks for no certificate of this host's own addresses, but speaks TLS.
    let said = installation.fails(1, &["pull", &format!("{}/a", server.host())]);
    assert!(said.contains("not found"), "{said}");
    drop(server);
    let flags = [&flags[..], &["--tls-client-ca", &ca]].concat();
    let server = Server::start(&installation, &flags);
    assert_eq!(server.curl(&["--cacert", &ca], "/v2/").status, 0);
    let own = [
        "--cacert",
        ca.as_str(),
        "--cert",
        &client,
        "--key",
        &client_key,
    ];
    server.curl(&own, "/v2/").expect(200);
}

#[test]
fn a_token_service_is_named() {
    let installation = Installation::new();
    shell(
        &installation.root,
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=auth -keyout key.pem -out bundle.pem",
    );
    let bundle = installation.root.join("bundle.pem");
    let server = Server::start(
        &installation,
        &[
            "--auth-token-realm",
            "https://auth.example/token",
            "--auth-token-service",
            "reg",
            "--auth-token-issuer",
            "auth",
            "--auth-token-rootcertbundle",
            bundle.to_str().unwrap(),
        ],
    );
    let challenge = |method: &str, path: &str| {
        server
            .curl(&["--request", method], path)
            .expect(401)
            .header("www-authenticate")
    };
    let base = "Bearer realm=\"https://auth.example/token\",service=\"reg\"";
    assert_eq!(challenge("GET", "/v2/"), base);
    for (method, path, scope) in [
        ("GET", "/v2/a/b/tags/list", "repository:a/b:pull"),
        ("POST", "/v2/a/b/blobs/uploads/", "repository:a/b:pull,push"),
        ("DELETE", "/v2/a/b/manifests/x", "repository:a/b:delete"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        assert_eq!(challenge(method, path), format!("{base},scope=\"{scope}\""));
    }
    let refused = server
        .curl(&["--header", "Authorization: Bearer a.b.c"], "/v2/")
        .expect(401);
    assert!(
        refused
            .header("www-authenticate")
            .ends_with("error=\"invalid_token\"")
    );
}
