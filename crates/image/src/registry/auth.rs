//! Challenges and tokens (distribution specification; RFC 7235; Docker's token protocol).

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What proves who the user is, for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// A refresh token that replaces the password at the token endpoint.
    pub identity_token: Option<String>,
}

/// Secrets stay out of logs (CVE-2019-13509).
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("{}:{}", self.username, self.password))
        )
    }
}

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Longest `WWW-Authenticate` header that is looked at, in bytes.
const HEADER_LIMIT: usize = 8 << 10;

/// Reads `WWW-Authenticate` headers and returns the strongest challenge that is understood.
pub(super) fn parse_challenges<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.filter(|header| header.len() <= HEADER_LIMIT) {
        for (scheme, parameters) in split_challenges(header) {
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Splits `scheme key=value, key="value", scheme ...`: a word that no `=` follows begins the next
/// challenge.
fn split_challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        let after_blank = after.trim_start_matches([' ', '\t']);
        let Some(value) = after_blank.strip_prefix('=') else {
            challenges.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = take_value(value.trim_start_matches([' ', '\t']));
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// A token or a quoted string with backslash escapes, and what comes after it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// What a token endpoint answers.
#[derive(Deserialize)]
struct TokenResponse {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What a token was asked for with, so that another like it can be had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenOrigin {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scopes: Vec<String>,
}

/// A bearer token and until when it is used.
#[derive(Clone)]
pub(super) struct Token {
    value: String,
    expires: Instant,
    origin: TokenOrigin,
}

impl Token {
    /// Reads the answer of a token endpoint; `None` if there is no usable token in it.
    pub(super) fn parse(bytes: &[u8], origin: TokenOrigin) -> Option<Self> {
        let response: TokenResponse = serde_json::from_slice(bytes).ok()?;
        let value = response.token.or(response.access_token)?;
        // It becomes a header: a line break in it would begin another one.
        if value.is_empty() || !value.bytes().all(|b| (0x21..0x7f).contains(&b)) {
            return None;
        }
        // 60 seconds is what the protocol means by no number; less than that is not believed.
        let seconds = response.expires_in.unwrap_or(60).clamp(60, 24 * 3600);
        Some(Self {
            value,
            expires: Instant::now() + Duration::from_secs(seconds - 10),
            origin,
        })
    }

    /// What it was asked for with.
    pub(super) fn origin(&self) -> &TokenOrigin {
        &self.origin
    }

    /// The value of an `Authorization` header, while the token is fresh.
    pub(super) fn header(&self) -> Option<String> {
        (Instant::now() < self.expires).then(|| format!("Bearer {}", self.value))
    }
}

/// Percent-encodes a query parameter or a form value.
pub(super) fn encode_query(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',')
        {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges() {
        for (headers, expected) in [
            (
                vec![r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#],
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            (
                vec![r#"bearer REALM="https://a/t""#],
                bearer("https://a/t", None, None),
            ),
            (
                vec![r#"Bearer realm = "https://a/t" , error="invalid_token""#],
                bearer("https://a/t", None, None),
            ),
            (
                vec![r#"Basic realm="x", Bearer realm="y""#],
                bearer("y", None, None),
            ),
            (
                vec![r#"Basic realm="x""#, r#"Bearer realm=y"#],
                bearer("y", None, None),
            ),
            (
                vec![r#"Basic realm="a \"quoted\", Bearer realm=z""#],
                Some(Challenge::Basic),
            ),
            (vec!["Basic"], Some(Challenge::Basic)),
            (vec!["Negotiate, Basic realm=x"], Some(Challenge::Basic)),
            (vec!["Bearer"], None),
            (vec!["Digest realm=x"], None),
            (vec![""], None),
            (
                vec![r#"Bearer realm="unfinished"#],
                bearer("unfinished", None, None),
            ),
            (vec!["=,=,\"\"=="], None),
            (vec![], None),
        ] {
            assert_eq!(
                parse_challenges(headers.iter().copied()),
                expected,
                "{headers:?}"
            );
        }
        assert_eq!(
            parse_challenges(std::iter::once(
                format!("Basic {}", "x".repeat(9000)).as_str()
            )),
            None
        );
    }

    #[test]
    fn tokens() {
        let header = |text: &str| {
            Token::parse(text.as_bytes(), TokenOrigin::default()).and_then(|token| token.header())
        };
        assert_eq!(header(r#"{"token":"abc"}"#).as_deref(), Some("Bearer abc"));
        assert_eq!(
            header(r#"{"access_token":"abc","expires_in":1}"#).as_deref(),
            Some("Bearer abc")
        );
        assert_eq!(
            header(r#"{"token":"abc","expires_in":18446744073709551615}"#).as_deref(),
            Some("Bearer abc")
        );
        for text in [
            "",
            "{}",
            r#"{"token":""}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":"a b"}"#,
            "[]",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials {
            username: "u".into(),
            password: "hunter2".into(),
            identity_token: Some("refresh".into()),
        };
        let shown = format!("{credentials:?}");
        assert!(
            shown.contains("\"u\"") && !shown.contains("hunter2") && !shown.contains("refresh"),
            "{shown}"
        );
        assert_eq!(credentials.basic(), "Basic dTpodW50ZXIy");
    }

    #[test]
    fn query_encoding() {
        assert_eq!(
            encode_query("repository:a/b:pull,push"),
            "repository:a/b:pull,push"
        );
        assert_eq!(
            encode_query("a b&c=d#\u{e9}%\r\n"),
            "a%20b%26c%3Dd%23%C3%A9%25%0D%0A"
        );
    }
}
