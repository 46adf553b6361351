use super::*;
use crate::testing::Directory;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// A certificate and its key, made by openssl.
struct Made {
    directory: Directory,
}

impl Made {
    fn openssl(&self, script: &str) {
        let done = Command::new("sh")
            .arg("-ec")
            .arg(format!("exec 2>/dev/null; {script}"))
            .current_dir(self.directory.path())
            .status()
            .unwrap();
        assert!(done.success(), "{script}");
    }

    fn new() -> Self {
        let made = Self {
            directory: Directory::new(),
        };
        made.openssl(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=ca -keyout ca.key -out ca.pem
             openssl req -newkey rsa:2048 -nodes -subj /CN=leaf -keyout leaf.key -out leaf.csr
             printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:leaf\n' > ext
             openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem
             openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=evil -keyout evil.key -out evil.pem
             for k in ca leaf evil; do openssl pkcs8 -topk8 -nocrypt -in $k.key -outform DER -out $k.p8; \
             openssl x509 -in $k.pem -outform DER -out $k.der; done",
        );
        made
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(name)).unwrap()
    }

    fn verifier(&self) -> TokenVerifier {
        let options = TokenOptions {
            realm: "http://auth/token".into(),
            service: "registry".into(),
            issuer: "auth".into(),
            root_certificates: self.directory.path().join("ca.pem"),
        };
        TokenVerifier::new(&options).unwrap()
    }

    fn token(&self, header: Value, claims: &Value, key: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let random = SystemRandom::new();
        let key = self.read(key);
        let signature =
            match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random) {
                Ok(pair) => pair
                    .sign(&random, signed.as_bytes())
                    .unwrap()
                    .as_ref()
                    .to_vec(),
                Err(_) => {
                    let pair = RsaKeyPair::from_pkcs8(&key).unwrap();
                    let mut signature = vec![0; pair.public().modulus_len()];
                    pair.sign(
                        &RSA_PKCS1_SHA256,
                        &random,
                        signed.as_bytes(),
                        &mut signature,
                    )
                    .unwrap();
                    signature
                }
            };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "auth", "aud": ["registry"], "exp": now() + 300, "nbf": now() - 10,
        "access": [{ "type": "repository", "name": "a/b", "actions": ["pull"] }],
    })
}

#[test]
fn tokens() {
    let made = Made::new();
    let verifier = made.verifier();
    let x5c = |names: &[&str]| {
        let chain: Vec<String> = names
            .iter()
            .map(|name| STANDARD.encode(made.read(name)))
            .collect();
        json!(chain)
    };
    let id = verifier.keys[0].id.clone();
    assert_eq!(id.len(), 59, "{id}");
    let es = |rest: Value| {
        let mut header = json!({ "typ": "JWT", "alg": "ES256" });
        header
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        header
    };
    let good = [
        made.token(es(json!({ "kid": id })), &claims(), "ca.p8"),
        made.token(es(json!({})), &claims(), "ca.p8"),
        made.token(es(json!({ "kid": "free form" })), &claims(), "ca.p8"),
        made.token(es(json!({ "x5c": x5c(&["ca.der"]) })), &claims(), "ca.p8"),
        made.token(
            json!({ "alg": "RS256", "x5c": x5c(&["leaf.der"]) }),
            &claims(),
            "leaf.p8",
        ),
        made.token(
            json!({ "alg": "RS256", "x5c": x5c(&["leaf.der", "ca.der"]) }),
            &claims(),
            "leaf.p8",
        ),
    ];
    for token in &good {
        let grants = verifier.verify(token).unwrap();
        let name = crate::name::RepositoryName::parse("a/b").unwrap();
        assert!(grants.allow(&name, crate::auth::Action::Pull));
        assert!(!grants.allow(&name, crate::auth::Action::Push));
    }
    let with = |key: &str, value: Value| {
        let mut claims = claims();
        claims[key] = value;
        made.token(es(json!({})), &claims, "ca.p8")
    };
    let unsigned = |algorithm: &str| {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm }).to_string());
        format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims().to_string()))
    };
    let other_claims = {
        let parts: Vec<&str> = good[0].split('.').collect();
        let mut claims = claims();
        claims["access"][0]["actions"] = json!(["push"]);
        format!(
            "{}.{}.{}",
            parts[0],
            URL_SAFE_NO_PAD.encode(claims.to_string()),
            parts[2]
        )
    };
    for (token, reason) in [
        (String::new(), TokenRefused::Malformed),
        ("a.b".into(), TokenRefused::Malformed),
        (format!("{}.x", good[0]), TokenRefused::Malformed),
        (unsigned("none"), TokenRefused::Algorithm),
        (unsigned("HS256"), TokenRefused::Algorithm),
        (unsigned("ES256"), TokenRefused::Signature),
        (other_claims, TokenRefused::Signature),
        (
            made.token(es(json!({ "kid": "AAAA:BBBB" })), &claims(), "ca.p8"),
            TokenRefused::Key,
        ),
        (
            made.token(es(json!({ "crit": ["x"] })), &claims(), "ca.p8"),
            TokenRefused::Malformed,
        ),
        // A chain to nobody, and a good chain with another key's signature.
        (
            made.token(
                json!({ "alg": "RS256", "x5c": x5c(&["evil.der"]) }),
                &claims(),
                "evil.p8",
            ),
            TokenRefused::Key,
        ),
        (
            made.token(
                json!({ "alg": "RS256", "x5c": x5c(&["leaf.der", "ca.der"]) }),
                &claims(),
                "evil.p8",
            ),
            TokenRefused::Signature,
        ),
        (
            made.token(es(json!({ "x5c": [] })), &claims(), "ca.p8"),
            TokenRefused::Key,
        ),
        (
            made.token(es(json!({ "x5c": ["!"] })), &claims(), "ca.p8"),
            TokenRefused::Malformed,
        ),
        // CVE-2025-24976: a key that the token brings itself.
        (
            made.token(
                json!({ "alg": "RS256", "jwk": { "kty": "RSA", "e": "AQAB", "n": "x" } }),
                &claims(),
                "evil.p8",
            ),
            TokenRefused::Signature,
        ),
        (with("iss", json!("other")), TokenRefused::Issuer),
        (with("iss", json!(null)), TokenRefused::Issuer),
        (with("aud", json!("other")), TokenRefused::Audience),
        (with("aud", json!(["x"])), TokenRefused::Audience),
        (with("exp", json!(now() - 61)), TokenRefused::Time),
        (with("exp", json!(null)), TokenRefused::Time),
        (with("nbf", json!(now() + 120)), TokenRefused::Time),
    ] {
        assert_eq!(verifier.verify(&token), Err(reason), "{token}");
    }
    let later = SystemTime::now() + Duration::from_secs(400);
    assert_eq!(verifier.verify_at(&good[0], later), Err(TokenRefused::Time));
}

#[test]
fn bundles() {
    let directory = Directory::new();
    let path = directory.path().join("bundle.pem");
    let options = |realm: &str| TokenOptions {
        realm: realm.into(),
        root_certificates: path.clone(),
        ..TokenOptions::default()
    };
    assert!(matches!(
        TokenVerifier::new(&options("x")),
        Err(TokenError::Read { .. })
    ));
    std::fs::write(&path, "nothing").unwrap();
    assert!(matches!(
        TokenVerifier::new(&options("x")),
        Err(TokenError::Empty { .. })
    ));
    assert!(matches!(
        TokenVerifier::new(&options("x\"y")),
        Err(TokenError::Unprintable { .. })
    ));
}
