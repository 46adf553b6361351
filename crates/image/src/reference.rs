//! Image references: `registry/repository:tag@digest`, with Docker's short forms.
//!
//! The grammar and the normalisation are those of the Docker distribution project's
//! reference format, which every client of a registry shares.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that a name without a registry part belongs to.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant when none is given.
pub const DEFAULT_TAG: &str = "latest";

/// Longest repository, in bytes, without the registry.
const REPOSITORY_LENGTH: usize = 255;
/// Longest tag, in bytes.
const TAG_LENGTH: usize = 128;

/// A normalised reference: the registry is always present, tag and digest as given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not a reference. Values are shortened to 160 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The empty string.
    #[error("empty image reference")]
    Empty,
    /// The grammar does not allow it.
    #[error("invalid reference format: {value:?} ({reason})")]
    Format {
        /// The string as given.
        value: String,
        /// Which part is wrong.
        reason: &'static str,
    },
    /// A repository with upper-case letters.
    #[error(
        "invalid reference format: repository name {repository:?} must be lower case (did you mean {hint:?}?)"
    )]
    UpperCase {
        /// The repository as given.
        repository: String,
        /// The whole reference with the repository in lower case.
        hint: String,
    },
    /// A name that could be taken for an image id.
    #[error(
        "invalid repository name {value:?}: a name cannot be 64 hexadecimal digits, which are an image id"
    )]
    LooksLikeIdentifier {
        /// The string as given.
        value: String,
    },
    /// A repository of more than 255 characters.
    #[error("repository name of {length} characters is longer than 255")]
    NameTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A tag of more than 128 characters.
    #[error("tag of {length} characters is longer than 128")]
    TagTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The part after `@` is not a digest that is supported.
    #[error("invalid digest in reference {value:?}")]
    Digest {
        /// The string as given.
        value: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
}

impl Reference {
    /// Parses and normalises `value`: `ubuntu` becomes `docker.io/library/ubuntu`. No tag is
    /// added; see [`Reference::with_default_tag`].
    pub fn parse(value: &str) -> Result<Self, ReferenceError> {
        let shown = || value.chars().take(160).collect::<String>();
        let format = |reason| ReferenceError::Format {
            value: shown(),
            reason,
        };
        if value.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if value.len() == 64
            && value
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(ReferenceError::LooksLikeIdentifier { value: shown() });
        }
        let (registry, remainder) = split_registry(value);
        // A digest holds a colon too, so it goes first.
        let (named, digest) = match remainder.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder, None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let prefix = if registry == value.split('/').next().unwrap_or_default() {
                format!("{registry}/")
            } else {
                String::new()
            };
            let rest = remainder.strip_prefix(path).unwrap_or_default();
            let hint = format!("{prefix}{}{rest}", path.to_ascii_lowercase());
            return Err(ReferenceError::UpperCase {
                repository: path.chars().take(160).collect(),
                hint: hint.chars().take(160).collect(),
            });
        }
        if !is_registry(registry) {
            return Err(format(
                "the registry must be a host name or address with an optional port",
            ));
        }
        if !path.split('/').all(is_path_component) {
            return Err(format(
                "a repository is made of lower-case letters and digits, separated by '.', '_', '__', dashes or '/'",
            ));
        }
        if let Some(tag) = tag {
            check_tag(tag).map_err(|error| match error {
                TagError::Length => ReferenceError::TagTooLong { length: tag.len() },
                TagError::Grammar => format("a tag is made of letters, digits, '_', '.' and '-'"),
            })?;
        }
        let digest =
            digest
                .map(str::parse)
                .transpose()
                .map_err(|source| ReferenceError::Digest {
                    value: shown(),
                    source,
                })?;
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > REPOSITORY_LENGTH {
            return Err(ReferenceError::NameTooLong {
                length: repository.len(),
            });
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Host and optional port of the registry, `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry, with `library/` where Docker Hub has it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name as people write it: Docker Hub's registry and `library/` left out, unless what is
    /// left would be read as something else: `docker.io/evil.tld/x` is not `evil.tld/x`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = match self.repository.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.repository,
        };
        match Self::parse(short) {
            Ok(read) if read.name() == self.name() => short.to_owned(),
            _ => self.name(),
        }
    }

    /// The short form: `ubuntu:latest` for `docker.io/library/ubuntu:latest`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// The same reference, with the tag `latest` if it has neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository at `digest`, without a tag.
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(value: &str) -> Result<Self, ReferenceError> {
        Self::parse(value)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        formatter.write_str(&text)
    }
}

/// The first component is a registry only if it cannot be a Docker Hub user: it has a dot or
/// a port, is `localhost`, or has upper-case letters.
fn split_registry(value: &str) -> (&str, &str) {
    let (registry, remainder) = match value.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, value),
    };
    // The host of Docker's first index, still found in old files.
    if registry == "index.docker.io" {
        (DEFAULT_REGISTRY, remainder)
    } else {
        (registry, remainder)
    }
}

enum TagError {
    Length,
    Grammar,
}

fn check_tag(tag: &str) -> Result<(), TagError> {
    let mut bytes = tag.bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !bytes.next().is_some_and(word) || !bytes.all(|b| word(b) || matches!(b, b'.' | b'-')) {
        return Err(TagError::Grammar);
    }
    if tag.len() > TAG_LENGTH {
        return Err(TagError::Length);
    }
    Ok(())
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

/// `[a-z0-9]+` words, separated by one dot, one or two underscores, or any number of dashes.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_word(first) || !is_word(last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn normalises_like_docker() {
        let pinned = format!("localhost:5000/a/b:tag@sha256:{HEX}");
        let digest_only = format!("ubuntu@sha256:{HEX}");
        let almost_identifier = &HEX[1..];
        let identifier_with_tag = format!("{HEX}:latest");
        let table: &[(&str, &str, &str)] = &[
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "ubuntu:22.04",
                "docker.io/library/ubuntu:22.04",
                "ubuntu:22.04",
            ),
            ("library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "index.docker.io/ubuntu",
                "docker.io/library/ubuntu",
                "ubuntu",
            ),
            (
                "index.docker.io/library/ubuntu:x",
                "docker.io/library/ubuntu:x",
                "ubuntu:x",
            ),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b",
                "library/a/b",
            ),
            (
                "grafana/grafana",
                "docker.io/grafana/grafana",
                "grafana/grafana",
            ),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
            ("host.tld/x", "host.tld/x", "host.tld/x"),
            (
                "host.tld/x:1.2-3_4",
                "host.tld/x:1.2-3_4",
                "host.tld/x:1.2-3_4",
            ),
            // Shortened it would be another registry's.
            (
                "docker.io/evil.tld/x",
                "docker.io/evil.tld/x",
                "docker.io/evil.tld/x",
            ),
            (
                "docker.io/index.docker.io/x",
                "docker.io/index.docker.io/x",
                "docker.io/index.docker.io/x",
            ),
            (
                "docker.io/localhost/x",
                "docker.io/localhost/x",
                "docker.io/localhost/x",
            ),
            ("HOST/x", "HOST/x", "HOST/x"),
            ("localhost", "docker.io/library/localhost", "localhost"),
            ("a:5000", "docker.io/library/a:5000", "a:5000"),
            ("a.b", "docker.io/library/a.b", "a.b"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x", "127.0.0.1:5000/x"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            ("[fd00:1:2::3]/x", "[fd00:1:2::3]/x", "[fd00:1:2::3]/x"),
            (
                "a__b/c.d/e--f/g---h_i",
                "docker.io/a__b/c.d/e--f/g---h_i",
                "a__b/c.d/e--f/g---h_i",
            ),
            (
                "xn--n3h.com/name:9",
                "xn--n3h.com/name:9",
                "xn--n3h.com/name:9",
            ),
            (&pinned, &pinned, &pinned),
            (&digest_only, "", ""),
            (almost_identifier, "", ""),
            (&identifier_with_tag, "", ""),
        ];
        for (input, canonical, familiar) in table {
            let reference =
                Reference::parse(input).unwrap_or_else(|error| panic!("{input}: {error}"));
            if !canonical.is_empty() {
                assert_eq!(reference.to_string(), *canonical, "{input}");
                assert_eq!(reference.familiar(), *familiar, "{input}");
            }
            assert_eq!(
                Reference::parse(&reference.to_string()).as_ref(),
                Ok(&reference),
                "{input}: canonical"
            );
            assert_eq!(
                Reference::parse(&reference.familiar()).as_ref(),
                Ok(&reference),
                "{input}: familiar"
            );
        }
    }

    #[test]
    fn parts_and_default_tag() {
        let reference = Reference::parse(&format!("localhost:5000/a/b:tag@sha256:{HEX}")).unwrap();
        assert_eq!(reference.registry(), "localhost:5000");
        assert_eq!(reference.repository(), "a/b");
        assert_eq!(reference.tag(), Some("tag"));
        assert_eq!(reference.digest().unwrap().hex(), HEX);
        assert_eq!(reference.clone().with_default_tag(), reference);

        let table = [
            ("ubuntu", "ubuntu:latest"),
            ("ubuntu:1", "ubuntu:1"),
            ("h.io/a", "h.io/a:latest"),
        ];
        for (input, expected) in table {
            assert_eq!(
                Reference::parse(input)
                    .unwrap()
                    .with_default_tag()
                    .familiar(),
                expected
            );
        }
        let pinned = Reference::parse(&format!("ubuntu@sha256:{HEX}"))
            .unwrap()
            .with_default_tag();
        assert_eq!(pinned.tag(), None, "a digest needs no tag");
    }

    #[test]
    fn refuses() {
        use ReferenceError as E;
        let long_name = format!("host.tld/{}", "a".repeat(256));
        let long_tag = format!("a:{}", "t".repeat(129));
        let library = "a".repeat(248);
        let sha512 = format!("a@sha512:{HEX}{HEX}");
        type Expected = fn(&E) -> bool;
        let table: &[(&str, Expected)] = &[
            ("", |e| matches!(e, E::Empty)),
            (HEX, |e| matches!(e, E::LooksLikeIdentifier { .. })),
            (
                "Ubuntu",
                |e| matches!(e, E::UpperCase { hint, .. } if hint == "ubuntu"),
            ),
            (
                "host.tld/Foo/Bar:Tag",
                |e| matches!(e, E::UpperCase { hint, .. } if hint == "host.tld/foo/bar:Tag"),
            ),
            (&long_name, |e| matches!(e, E::NameTooLong { length: 256 })),
            (&library, |e| matches!(e, E::NameTooLong { length: 256 })),
            (&long_tag, |e| matches!(e, E::TagTooLong { length: 129 })),
            (&sha512, |e| {
                matches!(
                    e,
                    E::Digest {
                        source: DigestError::UnsupportedAlgorithm { .. },
                        ..
                    }
                )
            }),
            ("a@sha256:abc", |e| {
                matches!(
                    e,
                    E::Digest {
                        source: DigestError::Malformed { .. },
                        ..
                    }
                )
            }),
        ];
        for (input, expected) in table {
            let error = Reference::parse(input).expect_err(input);
            assert!(expected(&error), "{input}: {error:?}");
        }
        for input in [
            "a//b",
            "/a",
            "a/",
            ":tag",
            "a:",
            "a:-x",
            "a:.x",
            "a:x y",
            "a:x:y",
            "a@",
            "-a",
            "a-",
            "a..b",
            "a._b",
            "a___b",
            "a_-b",
            ".a",
            "a b",
            "ä",
            "a/ü",
            "https://host.tld/x",
            "host.tld/",
            "docker.io/",
            "host.tld:/x",
            "host.tld:99999/x",
            "host.tld:5a/x",
            "-host.tld/x",
            "host-.tld/x",
            "ho_st.tld/x",
            "[::1/x",
            "[::g]/x",
            "[::1]5000/x",
            "a/../b",
            "../a",
            "a/./b",
            "a\0",
            "a\n",
            "a?b",
            "a#b",
            "a%2fb",
            "user@host.tld/x",
            ".",
            "..",
            "./a",
        ] {
            let error = Reference::parse(input).expect_err(input);
            assert!(
                matches!(error, E::Format { .. } | E::Digest { .. }),
                "{input}: {error:?}"
            );
        }
    }
}
