//! What registries say about where to go and whom to trust.

use super::super::auth::{Challenge, parse_challenges};
use super::super::origin::Url;
use crate::fuzzing::{for_a_while, text, texts::WORDS};

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text as a URL, and as a `Location` of a registry.
fn urls(value: &str) -> Vec<Url> {
    let base = Url::parse("https://base.tld:5000/v2/a/blobs/uploads/").unwrap();
    [Url::parse(value), base.join(value)]
        .into_iter()
        .flatten()
        .collect()
}

/// G05 (CVE-2026-48978, CVE-2026-33540): a challenge is read or not, and what it names is one URL
/// without user and without what would end a header.
#[test]
fn long_challenges() {
    let seeds = [
        r#"Bearer realm="https://auth.tld/token",service="registry.tld",scope="repository:a/b:pull,push""#,
        r#"Basic realm="Registry", Bearer realm="https://a/t""#,
        r#"bearer REALM = https://a:8443/t?x=y , error="invalid_token""#,
        r#"Negotiate, Basic realm="a \"quoted\" one""#,
    ];
    let words = [
        "Bearer ",
        "Basic ",
        "realm=",
        "realm=\"",
        "\"",
        "\\",
        "\\\"",
        ",",
        " ",
        "=",
        "service=",
        "scope=",
        "https://u:p@evil.tld/",
        "http://[::1]/",
        "\t",
        "\r\nX: y",
        "ä",
        "Digest ",
    ];
    let mut bearers = 0_u64;
    let many = for_a_while(|random| {
        let first = utf8(text(&seeds, &words, b"\"\\,= \t", random));
        let second = utf8(text(&seeds, &words, b"\"\\,= \t", random));
        let headers = [first.as_str(), second.as_str()].into_iter();
        if let Some(Challenge::Bearer { realm, .. }) = parse_challenges(headers) {
            bearers += 1;
            check_url(&realm);
        }
    });
    eprintln!("{bearers} named a realm");
    assert!(!many || bearers > 50);
}

/// G03, G04, G06 (CVE-2020-15157, CVE-2026-50151, CVE-2026-33990): an origin is a host and a
/// port, and nothing besides stands in it.
#[test]
fn long_urls() {
    let seeds = [
        "https://registry.tld/v2/a/blobs/uploads/1?_state=x",
        "http://registry.tld:5000/",
        "https://[2001:db8::1]:8443/x",
        "//other.tld/x",
        "/v2/x",
        "?digest=y",
        "https://registry.tld./",
        "HTTPS://REGISTRY.TLD:443/",
    ];
    let mut good = 0_u64;
    let many = for_a_while(|random| {
        let value = utf8(text(&seeds, &WORDS, b"/:@?#[]%\\ \t\n", random));
        good += u64::from(check_url(&value));
    });
    eprintln!("{good} were URLs");
    assert!(!many || good > 50);
}

/// Whether it is a URL, alone or as a `Location`.
fn check_url(value: &str) -> bool {
    let mut found = false;
    for url in urls(value) {
        let (authority, whole) = (url.origin.authority(), url.to_string());
        found = true;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        assert!(authority.bytes().all(plain), "{value:?}: {authority:?}");
        assert!(
            !authority.is_empty() && !authority.starts_with(':'),
            "{value:?}"
        );
        // Nothing that ends a request line or a header.
        let clean = whole.bytes().all(|b| b > b' ' && b != 0x7f);
        assert!(clean, "{value:?}: {whole:?}");
        // Read again it leads to the same place.
        let again = Url::parse(&whole);
        assert_eq!(again.as_ref(), Some(&url), "{value:?}");
    }
    found
}
