//! References, `hosts.toml` and the credentials of the docker client.

use std::path::Path;

use serde_json::{Value, json};

use super::{flip, for_a_while, json as values, text};
use crate::credentials::{ConfigError, DockerConfig, Found, parse_answer};
use crate::hosts;
use crate::reference::Reference;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) const WORDS: [&str; 38] = [
    "",
    "/",
    "..",
    "../../etc/passwd",
    "//",
    ":",
    "@",
    "@sha256:",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha512:",
    "%2e%2e",
    "%2f",
    "%00",
    "\0",
    "\r\n",
    "\u{fffd}\u{10ffff}",
    "ä",
    "A",
    "_",
    "__",
    "___",
    "--",
    "-",
    ".",
    "[::1]",
    "[",
    "]:5000",
    ":443",
    ":65536",
    "localhost",
    "docker.io",
    "index.docker.io",
    "http://",
    "https://",
    "user:pass@",
    "169.254.169.254",
    "?a=b",
    "#",
];

/// U06, G07 (CVE-2014-9358, CVE-2024-3727): what is accepted is safe as a path and in a URL, and
/// means the same when it is read again.
#[test]
fn long_references() {
    let pinned = format!("quay.io/a/b:tag@sha256:{HEX}");
    let seeds = [
        "ubuntu",
        "ubuntu:22.04",
        "library/ubuntu",
        "docker.io/library/ubuntu:latest",
        "localhost:5000/a/b-c/d.e/f_g/h__i:V1.0_x-y",
        "[::1]:5000/x",
        "registry.tld/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        &pinned,
        HEX,
    ];
    let mut good = 0_u64;
    let many = for_a_while(|random| {
        let bytes = text(&seeds, &WORDS, b"/:@.-_A0[]% \x00", random);
        let value = String::from_utf8_lossy(&bytes);
        let Ok(reference) = Reference::parse(&value) else {
            return;
        };
        good += 1;
        let plain = |text: &str, more: &[u8]| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b) || more.contains(&b))
        };
        let repository = reference.repository();
        assert!(
            plain(repository, b"/") && repository.len() <= 255,
            "{value}"
        );
        for part in repository.split('/') {
            let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            assert!(part.starts_with(ends) && part.ends_with(ends), "{value}");
        }
        assert!(plain(reference.registry(), b":[]"), "{value}");
        let tag = reference.tag().unwrap_or("x");
        assert!(plain(tag, b"") && tag.len() <= 128, "{value}");
        assert!(!tag.starts_with(['.', '-']), "{value}");
        // Whatever way it is written, it is the same image.
        for written in [reference.to_string(), reference.familiar()] {
            let again = Reference::parse(&written);
            assert_eq!(again.as_ref(), Ok(&reference), "{value} as {written}");
        }
        let tagged = reference.clone().with_default_tag();
        assert_eq!(Reference::parse(&tagged.to_string()), Ok(tagged), "{value}");
    });
    eprintln!("{good} were references");
    assert!(!many || good > 50);
}

const HOSTS: [&str; 4] = [
    "server = \"https://registry.tld\"\nca = \"ca.crt\"\n",
    "[host.\"https://mirror.tld:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = [\"a.crt\", \"/b.crt\"]\n  client = [[\"a.cert\", \"a.key\"], [\"b.pem\", \"\"]]\n  skip_verify = true\n  override_path = true\n  [host.\"https://mirror.tld:5000\".header]\n    x-one = \"1\"\n    x-two = [\"2\", \"3\"]\n",
    "[host.\"http://[::1]:5000/api/v1/\"]\n  client = \"both.pem\"\n  dial_timeout = \"3s\"\n",
    "[host]\n[host.\"a.tld\"]\n[host.\"b.tld\"]\n",
];

/// `hosts.toml` is the operator's, and may be another tool's: it is read or refused.
#[test]
fn long_hosts() {
    let words = [
        "[host.\"",
        "\"]",
        "[[host]]",
        "server = ",
        "\"\"",
        "capabilities = []",
        "= {}",
        "'''",
        "\"\"\"",
        "\\r\\n",
        "\\u0000",
        "ftp://",
        "https://",
        "u:p@",
        "?x",
        "override_path = false",
        "header = {a = \"b\"}",
        "client = [[\"a\",\"b\",\"c\"]]",
        "999999999999999999999",
        "nan",
        "1979-05-27T07:32:00Z",
        "#",
        "\n",
        "[host.\"https://x\".header]\n",
        "skip_verify = 1",
    ];
    let mut good = 0_u64;
    let many = for_a_while(|random| {
        let bytes = text(&HOSTS, &words, b"[]{}\"'=.#\\\n,", random);
        let Ok(value) = String::from_utf8(bytes) else {
            return;
        };
        let Ok(found) = hosts::parse(&value, Path::new("/certs.d/r.tld/hosts.toml")) else {
            return;
        };
        good += 1;
        // The registry itself is always there, and last.
        assert!(!found.is_empty(), "{value}");
        for host in &found {
            assert!(
                host.path.is_empty() || host.path.starts_with('/'),
                "{value}"
            );
            if let Some(url) = &host.url {
                assert!(
                    url.starts_with("http://") || url.starts_with("https://"),
                    "{value}"
                );
                assert!(
                    !url.contains('@') && url.bytes().all(|b| b.is_ascii_graphic()),
                    "{value}"
                );
            }
            for (name, text) in &host.headers {
                assert!(!name.is_empty(), "{value}");
                let clean = |byte: u8| (0x20..0x7f).contains(&byte);
                assert!(name.bytes().chain(text.bytes()).all(clean), "{value}");
            }
        }
    });
    eprintln!("{good} were read");
    assert!(!many || good > 50);
}

/// CVE-2019-13509, G03: whoever's `config.json` it is, a password goes to the host of its key and
/// into no message, and a helper is a program of the search path.
#[test]
fn long_credentials() {
    const SECRET: &str = "hunter2hunter2";
    // user:hunter2hunter2
    let auth = "dXNlcjpodW50ZXIyaHVudGVyMg==";
    let seeds: [Value; 3] = [
        json!({"auths": {"registry.tld": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}}}),
        json!({"auths": {"https://registry.tld:5000/v1/": {"username": "u", "password": SECRET},
            "other.tld": {"identitytoken": SECRET}}, "credsStore": "desktop"}),
        json!({"credHelpers": {"registry.tld": "pass", "other.tld": ""}, "auths": {"other.tld": {}}}),
    ];
    let words = [
        "",
        "registry.tld",
        "https://registry.tld",
        "registry.tld:5000",
        "other.tld",
        "auths",
        "auth",
        "username",
        "password",
        "identitytoken",
        "credsStore",
        "credHelpers",
        "../../bin/sh",
        "a/b",
        "-x",
        "dXNlcg==",
        "Og==",
        "%",
        "\0",
        auth,
    ];
    let (mut stored, mut helpers) = (0_u64, 0_u64);
    let many = for_a_while(|random| {
        let mut value = random.pick(&seeds).clone();
        values::change(&mut value, &words, random);
        let bytes = values::write(&value, random);
        let registry =
            *random.pick(&["registry.tld", "registry.tld:5000", "docker.io", "evil.tld"]);
        match DockerConfig::parse(&bytes) {
            Err(error) => assert!(!shown(&error).contains(SECRET)),
            Ok(config) => {
                assert!(!format!("{config:?}").contains(SECRET));
                match config.find(registry) {
                    Err(ConfigError::HelperName { .. }) => {}
                    Err(error) => assert!(!shown(&error).contains(SECRET)),
                    Ok(Found::Nothing) => {}
                    Ok(Found::Helper { program, .. }) => {
                        helpers += 1;
                        assert!(program.starts_with("docker-credential-"), "{program}");
                        assert!(!program.contains(['/', '\0']), "{program}");
                    }
                    Ok(Found::Stored(credentials)) => {
                        stored += 1;
                        // The user name is shown.
                        let is_name = credentials.username.contains(SECRET);
                        assert!(is_name || !format!("{credentials:?}").contains(SECRET));
                        // No key of the seeds or of the words is this host's.
                        assert_ne!(registry, "evil.tld", "{value}");
                    }
                }
            }
        }
        let mut answer =
            br#"{"ServerURL":"https://x","Username":"u","Secret":"hunter2hunter2"}"#.to_vec();
        flip(&mut answer, b"{}\",:", random);
        if let Err(error) = parse_answer(&answer) {
            assert!(!shown(&error).contains("hunter2"));
        }
    });
    eprintln!("{stored} had credentials, {helpers} a helper");
    assert!(!many || stored > 20 && helpers > 20);
}

/// An error as a user sees it, and as a log may have it.
fn shown(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error}"));
        source = error.source();
    }
    text
}
