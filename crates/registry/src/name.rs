//! Names in URLs: repositories, tags, and which operation a path asks for.
//!
//! Everything here is a pure function. What it accepts is safe as a path below the data root: no
//! component is empty, begins with a dot or an underscore, or holds a slash (CVE-2024-3727).

use gantry_image::Digest;

use crate::fault::Fault;

/// Longest repository name in bytes, as the clients have it.
const NAME_LENGTH: usize = 255;
/// Longest tag in bytes (specification, "Pulling manifests").
const TAG_LENGTH: usize = 128;

/// The name of a repository that follows the grammar of the specification.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RepositoryName(String);

impl RepositoryName {
    /// Checks `name` against `component ("/" component)*`, where a component is
    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let fits = name.len() <= NAME_LENGTH && name.split('/').all(is_component);
        fits.then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && bytes
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || is_dashes(separator))
}

fn is_dashes(separator: &[u8]) -> bool {
    separator.iter().all(|byte| *byte == b'-')
}

/// Whether `tag` matches `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_LENGTH
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// Which manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestReference {
    Tag(String),
    Digest(Digest),
}

/// Number of an upload: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UploadId(String);

impl UploadId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 32
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// The token endpoint of this registry itself.
    Token,
    /// `/v2/NAME/tags/list`
    Tags(RepositoryName),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(RepositoryName, ManifestReference),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(RepositoryName, Digest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(RepositoryName, UploadId),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(RepositoryName, Digest),
}

impl Route {
    /// The repository that the path is in.
    pub(crate) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Catalog | Self::Token => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    /// Reads the path of a URL. Escapes are decoded once, before anything is compared, so that
    /// what is checked is what is used.
    pub(crate) fn parse(path: &str) -> Result<Self, Fault> {
        let path =
            decode(path).ok_or_else(|| Fault::name_invalid("malformed escape in the path"))?;
        match path.as_str() {
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            crate::auth::TOKEN_PATH => return Ok(Self::Token),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(Fault::no_such_page)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let name = |count: usize| {
            let name = parts[..count].join("/");
            RepositoryName::parse(&name)
                .ok_or_else(|| Fault::name_invalid("invalid repository name"))
        };
        match parts.as_slice() {
            [.., "blobs", "uploads", id] if parts.len() > 3 && !id.is_empty() => {
                let name = name(parts.len() - 3)?;
                let id = UploadId::parse(id).ok_or_else(Fault::upload_unknown)?;
                Ok(Self::Upload(name, id))
            }
            [.., "blobs", "uploads", ""] => Ok(Self::Uploads(name(parts.len() - 3)?)),
            [.., "blobs", "uploads"] => Ok(Self::Uploads(name(parts.len() - 2)?)),
            [.., "blobs", digest] => Ok(Self::Blob(name(parts.len() - 2)?, parse_digest(digest)?)),
            [.., "referrers", digest] => Ok(Self::Referrers(
                name(parts.len() - 2)?,
                parse_digest(digest)?,
            )),
            [.., "tags", "list"] => Ok(Self::Tags(name(parts.len() - 2)?)),
            [.., "manifests", reference] => {
                let name = name(parts.len() - 2)?;
                let reference = if reference.contains(':') {
                    ManifestReference::Digest(parse_digest(reference)?)
                } else if is_tag(reference) {
                    ManifestReference::Tag((*reference).to_owned())
                } else {
                    return Err(Fault::tag_invalid());
                };
                Ok(Self::Manifest(name, reference))
            }
            _ => Err(Fault::no_such_page()),
        }
    }
}

/// A digest of a URL or a query.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, Fault> {
    text.parse()
        .map_err(|error: gantry_image::DigestError| Fault::digest_invalid(error.to_string()))
}

/// Decodes the escapes of a URL's path or of one value of its query; `None` if one is malformed
/// or the result is no UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        decoded.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(decoded).ok()
}

/// Encodes what is not allowed in the value of a query (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The values of a query that the registry reads.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads at most 64 pairs; a pair that cannot be decoded is refused.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Fault> {
        let malformed = || Fault::bad_request("malformed query");
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            if pairs.len() == 64 {
                return Err(malformed());
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A plus is a space in forms only; no value that is read here holds one, but media
            // types hold a plus that clients often leave as it is.
            let decoded = decode(key).zip(decode(value)).ok_or_else(malformed)?;
            pairs.push(decoded);
        }
        Ok(Self(pairs))
    }

    /// The first value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        let (_, value) = pairs.find(|(name, _)| name == key)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn repository_names() {
        let longest = "a".repeat(255);
        for name in ["a", "library/ubuntu", "a-b/c.d/e_f/g__h/i---j/0", &longest] {
            assert!(RepositoryName::parse(name).is_some(), "{name}");
        }
        let long = "a".repeat(256);
        for name in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", ".a", "a.", "_a", "a_",
            "-a", "a-", "a..b", "a___b", "a._b", "A", "a b", "a%2e", "a\\b", "a\0b", "a:b", "é",
            "_catalog", "a/_blobs", &long,
        ] {
            assert!(RepositoryName::parse(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn tags() {
        let longest = "a".repeat(128);
        for tag in ["latest", "_", "1.0", "A-b_C.d", &longest] {
            assert!(is_tag(tag), "{tag}");
        }
        let long = "a".repeat(129);
        for tag in [
            "", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "é", "a\n", &long,
        ] {
            assert!(!is_tag(tag), "{tag:?}");
        }
    }

    #[test]
    fn routes() {
        let name = |text| RepositoryName::parse(text).unwrap();
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        for (path, expected) in [
            ("/v2/", Route::Base),
            ("/v2", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/tags/list", Route::Tags(name("a"))),
            ("/v2/a/b/tags/list", Route::Tags(name("a/b"))),
            ("/v2/tags/list/tags/list", Route::Tags(name("tags/list"))),
            ("/v2/a/blobs/uploads/", Route::Uploads(name("a"))),
            ("/v2/a/blobs/uploads", Route::Uploads(name("a"))),
            (
                "/v2/blobs/uploads/blobs/uploads/",
                Route::Uploads(name("blobs/uploads")),
            ),
            (
                "/v2/a/manifests/list",
                Route::Manifest(name("a"), ManifestReference::Tag("list".to_owned())),
            ),
        ] {
            assert_eq!(Route::parse(path).ok(), Some(expected), "{path}");
        }
        for (path, expected) in [
            (
                format!("/v2/a/blobs/sha256:{HEX}"),
                Route::Blob(name("a"), digest),
            ),
            (
                format!("/v2/a/blobs/sha256%3A{HEX}"),
                Route::Blob(name("a"), digest),
            ),
            (
                format!("/v2/a/manifests/sha256:{HEX}"),
                Route::Manifest(name("a"), ManifestReference::Digest(digest)),
            ),
            (
                format!("/v2/a/referrers/sha256:{HEX}"),
                Route::Referrers(name("a"), digest),
            ),
            (
                format!("/v2/a/blobs/uploads/{id}"),
                Route::Upload(name("a"), UploadId::parse(id).unwrap()),
            ),
        ] {
            assert_eq!(Route::parse(&path).ok(), Some(expected), "{path}");
        }
    }

    /// CVE-2024-3727, CVE-2014-9358: nothing that is no name or digest gets as far as a path.
    #[test]
    fn refuses_hostile_paths() {
        let long = format!("/v2/{}/tags/list", "a/".repeat(200));
        for path in [
            "/",
            "/v1/",
            "/v2//tags/list",
            "/v2/../tags/list",
            "/v2/a/../../b/tags/list",
            "/v2/%2e%2e/tags/list",
            "/v2/a%2f..%2fb/tags/list",
            "/v2/%252e%252e/tags/list",
            "/v2/a%00/tags/list",
            "/v2/a%zz/tags/list",
            "/v2/a%/tags/list",
            "/v2/_blobs/tags/list",
            "/v2/tags/list",
            "/v2/manifests/x",
            "/v2/blobs/uploads/",
            "/v2/a/manifests/",
            "/v2/a/manifests/..",
            "/v2/a/manifests/%2e%2e",
            "/v2/a/manifests/sha256:../../etc",
            "/v2/a/manifests/sha256:ABC",
            "/v2/a/blobs/sha256:..%2f..%2fetc%2fpasswd",
            "/v2/a/blobs/uploads/..",
            "/v2/a/blobs/uploads/%2e%2e%2f",
            "/v2/a/referrers/x",
            &long,
        ] {
            assert!(Route::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse(Some("n=5&last=a%2Fb&x&artifactType=a/b+json")).unwrap();
        assert_eq!(query.get("n"), Some("5"));
        assert_eq!(query.get("last"), Some("a/b"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("artifactType"), Some("a/b+json"));
        assert_eq!(query.get("y"), None);
        assert!(Query::parse(Some("a=%f")).is_err());
        assert!(Query::parse(Some(&"a&".repeat(65))).is_err());
        assert_eq!(decode(&encode("a/ä &=")).as_deref(), Some("a/ä &="));
    }
}
