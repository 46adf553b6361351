//! Platforms: `os/architecture[/variant]` in Go's words, and the choice of one from an index.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Descriptor;

/// What an image runs on (image-index.md, "platform").
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Platform {
    /// CPU architecture in Go's words (`amd64`, `arm64`).
    #[serde(default)]
    pub architecture: String,
    /// Operating system in Go's words.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture (`v7`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields without a type here.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A string that is not `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid platform {value:?}: expected os/architecture or os/architecture/variant, as in linux/arm64"
)]
pub struct PlatformError {
    /// The string as given, shortened.
    pub value: String,
}

impl Platform {
    /// A platform in normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (os, architecture, variant) = normalise(os, architecture, variant.unwrap_or_default());
        Self {
            os,
            architecture,
            variant: (!variant.is_empty()).then_some(variant),
            extra: BTreeMap::new(),
        }
    }

    /// The platform that this program was built for.
    pub fn host() -> Self {
        // Rust's names differ from Go's for two architectures that `normalise` does not know.
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// How well an image for `other` runs where this platform is wanted: `None` if it does not,
    /// otherwise less is better. An arm or amd64 variant runs images of lower variants.
    pub fn distance(&self, other: &Self) -> Option<u32> {
        let wanted = normalise(
            &self.os,
            &self.architecture,
            self.variant.as_deref().unwrap_or_default(),
        );
        let found = normalise(
            &other.os,
            &other.architecture,
            other.variant.as_deref().unwrap_or_default(),
        );
        if (&wanted.0, &wanted.1) != (&found.0, &found.1) {
            return None;
        }
        if wanted.2 == found.2 {
            return Some(0);
        }
        let levels = |variant: &str| match (wanted.1.as_str(), variant) {
            ("amd64", "") => Some(1),
            ("arm64", "") => Some(8),
            ("arm" | "amd64" | "arm64", level) => level.strip_prefix('v')?.parse::<u32>().ok(),
            _ => None,
        };
        levels(&wanted.2)?.checked_sub(levels(&found.2)?)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(value: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError {
            value: value.chars().take(64).collect(),
        };
        let is_word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        let parts: Vec<&str> = value.split('/').collect();
        if !parts.iter().all(|part| is_word(part)) {
            return Err(error());
        }
        match *parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(formatter, "/{variant}"),
        }
    }
}

/// The names that tools use for one architecture brought to one, as containerd does it.
fn normalise(os: &str, architecture: &str, variant: &str) -> (String, String, String) {
    let os = match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    };
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (os, architecture.to_owned(), variant.to_owned())
}

/// The entry of an index that fits `wanted` best, the first among equals. An index with a single
/// entry that names no platform is taken at its word.
pub fn choose<'index>(
    manifests: &'index [Descriptor],
    wanted: &Platform,
) -> Option<&'index Descriptor> {
    let best = manifests
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter_map(|entry| Some((wanted.distance(entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| entry);
    let mut unnamed = manifests.iter().filter(|entry| !entry.is_attestation());
    best.or_else(|| match (unnamed.next(), unnamed.next()) {
        (Some(only), None) if only.platform.is_none() => Some(only),
        _ => None,
    })
}
