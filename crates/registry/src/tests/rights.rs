//! What a token of one repository is good for in another.

use super::Served;
use super::client::{Peer, manifest};
use crate::testing::Directory;
use crate::{Access, TokenOptions};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gantry_image::Digest;
use gantry_image::model::media_type;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// A token service with a key of its own.
struct Issuer {
    directory: Directory,
}

impl Issuer {
    fn new() -> Self {
        let directory = Directory::new();
        let script =
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                      -subj /CN=issuer -keyout key -out pem
                      openssl pkcs8 -topk8 -nocrypt -in key -outform DER -out p8
                      openssl x509 -in pem -outform DER -out der";
        let done = Command::new("sh")
            .arg("-ec")
            .arg(format!("exec 2>/dev/null; {script}"))
            .current_dir(directory.path())
            .status()
            .unwrap();
        assert!(done.success());
        Self { directory }
    }

    fn serve(&self) -> Served {
        Served::with(|options| {
            options.access = Access::Tokens(TokenOptions {
                realm: "http://auth/token".into(),
                service: "registry".into(),
                issuer: "auth".into(),
                root_certificates: self.directory.path().join("pem"),
            });
        })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(name)).unwrap()
    }

    /// `Authorization` with these rights: kind, name and actions of each.
    fn token(&self, rights: &[(&str, &str, &str)]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let access: Vec<Value> = rights
            .iter()
            .map(|(kind, name, actions)| {
                let actions: Vec<&str> = actions.split(',').collect();
                json!({"type": kind, "name": name, "actions": actions})
            })
            .collect();
        let header =
            json!({"alg": "ES256", "typ": "JWT", "x5c": [STANDARD.encode(self.read("der"))]});
        let claims = json!({"iss": "auth", "aud": "registry", "exp": now.as_secs() + 300,
            "nbf": now.as_secs() - 10, "access": access});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &self.read("p8"), &random).unwrap();
        let signature = key.sign(&random, signed.as_bytes()).unwrap();
        format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn send(peer: &Peer, token: &str, method: &str, path: &str, body: &[u8]) -> u16 {
    let headers = [
        ("Authorization", token),
        ("Content-Type", media_type::MANIFEST),
    ];
    peer.send(method, path, &headers, body).status
}

/// G11 (CVE-2026-35172, CVE-2024-39897): a blob is mounted by who may read it where it is, and
/// whoever may not learns nothing of it.
#[test]
fn mounts_need_the_right_to_pull() {
    let issuer = Issuer::new();
    let served = issuer.serve();
    let peer = &served.peer;
    let digest = Digest::of(b"secret");
    let theirs = issuer.token(&[("repository", "theirs", "pull,push")]);
    let path = format!("/v2/theirs/blobs/uploads/?digest={digest}");
    assert_eq!(send(peer, &theirs, "POST", &path, b"secret"), 201);

    let absent = Digest::of(b"absent");
    let mount = |token: &str, from: &str, digest: &Digest| {
        let path = format!("/v2/mine/blobs/uploads/?mount={digest}&from={from}");
        send(peer, token, "POST", &path, b"")
    };
    let mine = ("repository", "mine", "pull,push");
    for rights in [
        vec![mine],
        vec![mine, ("repository", "theirs", "push")],
        vec![mine, ("repository", "theirs", "push,delete")],
        vec![mine, ("repository", "theirs/x", "pull")],
        vec![mine, ("repository", "their", "pull")],
        vec![mine, ("repository", "*", "pull")],
        vec![mine, ("repository", "", "pull")],
        vec![mine, ("repository(plugin)", "theirs", "pull")],
        vec![mine, ("registry", "theirs", "pull")],
        vec![mine, ("repository", "Theirs", "pull")],
    ] {
        let token = issuer.token(&rights);
        // The same answer for what is there and what is not.
        let answers = [digest, absent].map(|digest| mount(&token, "theirs", &digest));
        assert_eq!(answers, [202, 202], "{rights:?}");
        for from in [
            "theirs%2f..%2ftheirs",
            "mine%2f..%2ftheirs",
            "..",
            "THEIRS",
            "%00",
        ] {
            assert_eq!(mount(&token, from, &digest), 400, "{from}");
        }
        let blob = format!("/v2/mine/blobs/{digest}");
        assert_eq!(send(peer, &token, "GET", &blob, b""), 404, "{rights:?}");
        // Nor does a manifest lead to it.
        let document = manifest(&digest, 6, &digest, 6).to_string();
        let status = send(
            peer,
            &token,
            "PUT",
            "/v2/mine/manifests/x",
            document.as_bytes(),
        );
        assert_eq!(status, 404, "{rights:?}");
    }
    let both = issuer.token(&[mine, ("repository", "theirs", "pull")]);
    assert_eq!(mount(&both, "theirs", &digest), 201);
    assert_eq!(mount(&both, "theirs", &absent), 202);
    // The right to the source gives none to the target.
    let other = issuer.token(&[("repository", "theirs", "pull,push,delete")]);
    assert_eq!(mount(&other, "theirs", &digest), 401);
}

/// G12 (CVE-2026-41888, CVE-2026-31801): every method asks for its own right, in every place.
#[test]
fn every_method_needs_its_right() {
    let issuer = Issuer::new();
    let served = issuer.serve();
    let peer = &served.peer;
    let digest = Digest::of(b"x");
    let id = "0123456789abcdef0123456789abcdef";
    let table = [
        ("GET", "/v2/a/manifests/t".to_owned(), "pull"),
        ("HEAD", "/v2/a/manifests/t".to_owned(), "pull"),
        ("PUT", "/v2/a/manifests/t".to_owned(), "push"),
        ("DELETE", "/v2/a/manifests/t".to_owned(), "delete"),
        ("DELETE", format!("/v2/a/manifests/{digest}"), "delete"),
        ("GET", format!("/v2/a/blobs/{digest}"), "pull"),
        ("HEAD", format!("/v2/a/blobs/{digest}"), "pull"),
        ("DELETE", format!("/v2/a/blobs/{digest}"), "delete"),
        ("GET", "/v2/a/tags/list".to_owned(), "pull"),
        ("GET", format!("/v2/a/referrers/{digest}"), "pull"),
        ("POST", "/v2/a/blobs/uploads/".to_owned(), "push"),
        ("PATCH", format!("/v2/a/blobs/uploads/{id}"), "push"),
        ("PUT", format!("/v2/a/blobs/uploads/{id}"), "push"),
        ("GET", format!("/v2/a/blobs/uploads/{id}"), "push"),
        ("DELETE", format!("/v2/a/blobs/uploads/{id}"), "push"),
        ("GET", "/v2/_catalog".to_owned(), "*"),
    ];
    let rights = [
        ("repository", "a", "pull"),
        ("repository", "a", "push"),
        ("repository", "a", "delete"),
        ("repository", "a/b", "pull,push,delete"),
        ("registry", "catalog", "*"),
        ("repository", "catalog", "*"),
    ];
    for right in rights {
        let token = issuer.token(&[right]);
        for (method, path, wanted) in &table {
            let status = send(peer, &token, method, path, b"{}");
            let allowed = match right {
                ("registry", "catalog", _) => *wanted == "*",
                ("repository", "a", action) => action == *wanted,
                _ => false,
            };
            assert_eq!(
                status != 401,
                allowed,
                "{right:?}: {method} {path}: {status}"
            );
        }
    }
    for (method, path, _) in &table {
        // Two headers are one too many, whichever of them is good.
        let good = issuer.token(&[("repository", "a", "pull,push,delete")]);
        let two = [
            ("Authorization", good.as_str()),
            ("Authorization", "Basic eDp5"),
        ];
        for headers in [two, [two[1], two[0]]] {
            let status = peer.send(method, path, &headers, b"").status;
            assert_eq!(status, 401, "{method} {path}");
        }
    }
}
