//! Bearer tokens of a token service: JSON Web Tokens (RFC 7519) with the `access` claim that
//! Docker's registries agreed on.
//!
//! A token names its key, or brings its certificate chain (`x5c`). Either is only looked up in, or
//! traced back to, the bundle that the operator has given; a key that the token itself carries
//! (`jwk`) is never used (CVE-2025-24976).

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::certificate::{Bundle, KeyKind, PublicKey};
use super::{Grant, Grants};

/// How far the clocks of two hosts may be apart, in seconds.
const LEEWAY: u64 = 60;
/// Longest certificate chain in a token.
const CHAIN_LENGTH: usize = 8;

/// A token service, as `WWW-Authenticate` and the tokens name it.
#[derive(Debug, Clone, Default)]
pub struct TokenOptions {
    /// URL of its endpoint.
    pub realm: String,
    /// What it calls this registry; the tokens' audience.
    pub service: String,
    /// What it calls itself.
    pub issuer: String,
    /// File of PEM certificates: its own, or those of the authorities that signed it.
    pub root_certificates: PathBuf,
}

/// Why the bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the certificates in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing in it helps.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A value that would break out of its header.
    #[error("the token service's {what} {value:?} has a quotation mark or a control character")]
    Unprintable {
        /// Which one.
        what: &'static str,
        /// The value.
        value: String,
    },
}

/// Why a token is refused. Told to the client, so it says nothing of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefused {
    #[error("malformed token")]
    Malformed,
    #[error("the token's algorithm is not RS256 or ES256")]
    Algorithm,
    #[error("the token's key is not trusted")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token was issued by another service")]
    Issuer,
    #[error("the token is for another service")]
    Audience,
    #[error("the token has expired or is not valid yet")]
    Time,
}

/// Checks tokens.
pub(crate) struct TokenVerifier {
    options: TokenOptions,
    bundle: Bundle,
    keys: Vec<PublicKey>,
}

impl TokenVerifier {
    pub(crate) fn new(options: &TokenOptions) -> Result<Self, TokenError> {
        for (what, value) in [("realm", &options.realm), ("service", &options.service)] {
            if value
                .chars()
                .any(|c| c == '"' || c == '\\' || c.is_control())
            {
                return Err(TokenError::Unprintable {
                    what,
                    value: value.clone(),
                });
            }
        }
        let path = &options.root_certificates;
        let text = std::fs::read(path).map_err(|source| TokenError::Read {
            path: path.clone(),
            source,
        })?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .filter_map(Result::ok)
            .collect();
        if certificates.is_empty() {
            return Err(TokenError::Empty { path: path.clone() });
        }
        let keys = certificates
            .iter()
            .filter_map(|certificate| PublicKey::of_certificate(certificate))
            .collect();
        Ok(Self {
            options: options.clone(),
            bundle: Bundle::new(certificates),
            keys,
        })
    }

    pub(crate) fn options(&self) -> &TokenOptions {
        &self.options
    }

    /// What the bearer of `token` may do.
    pub(crate) fn verify(&self, token: &str) -> Result<Grants, TokenRefused> {
        self.verify_at(token, SystemTime::now())
    }

    fn verify_at(&self, token: &str, now: SystemTime) -> Result<Grants, TokenRefused> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenRefused::Malformed);
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header = document(header)?;
        let kind = match header["alg"].as_str() {
            Some("RS256") => KeyKind::Rsa,
            Some("ES256") => KeyKind::P256,
            // `none` among them.
            _ => return Err(TokenRefused::Algorithm),
        };
        // An extension that must be understood and is not (RFC 7515, section 4.1.11).
        if !header["crit"].is_null() {
            return Err(TokenRefused::Malformed);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| TokenRefused::Malformed)?;
        let fits =
            |key: &PublicKey| key.kind == kind && key.verifies(signed.as_bytes(), &signature);
        if header["x5c"].is_array() {
            let key = self.chained_key(&header["x5c"])?;
            if !fits(&key) {
                return Err(TokenRefused::Signature);
            }
        } else {
            let named = header["kid"].as_str();
            let mut candidates = self
                .keys
                .iter()
                // Names that are no fingerprints are free-form: every key is tried.
                .filter(|key| named.is_none_or(|id| !id.contains(':') || key.id == id))
                .peekable();
            if candidates.peek().is_none() {
                return Err(TokenRefused::Key);
            }
            if !candidates.any(fits) {
                return Err(TokenRefused::Signature);
            }
        }
        self.claims(&document(claims)?, now)
    }

    /// The key of the first certificate of a chain that the bundle vouches for.
    fn chained_key(&self, chain: &Value) -> Result<PublicKey, TokenRefused> {
        let entries = chain.as_array().ok_or(TokenRefused::Malformed)?;
        if entries.len() > CHAIN_LENGTH {
            return Err(TokenRefused::Key);
        }
        let chain: Option<Vec<CertificateDer<'static>>> = entries
            .iter()
            .map(|entry| Some(CertificateDer::from(STANDARD.decode(entry.as_str()?).ok()?)))
            .collect();
        let chain = chain.ok_or(TokenRefused::Malformed)?;
        if !self.bundle.trusts(&chain) {
            return Err(TokenRefused::Key);
        }
        let first = chain.first().ok_or(TokenRefused::Malformed)?;
        PublicKey::of_certificate(first).ok_or(TokenRefused::Key)
    }

    fn claims(&self, claims: &Value, now: SystemTime) -> Result<Grants, TokenRefused> {
        if claims["iss"].as_str() != Some(&self.options.issuer) {
            return Err(TokenRefused::Issuer);
        }
        let service = self.options.service.as_str();
        let audience = match &claims["aud"] {
            Value::String(audience) => audience == service,
            Value::Array(all) => all
                .iter()
                .any(|audience| audience.as_str() == Some(service)),
            _ => false,
        };
        if !audience {
            return Err(TokenRefused::Audience);
        }
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let time = |name: &str| match &claims[name] {
            Value::Null => Ok(None),
            value => value
                .as_u64()
                .or_else(|| value.as_f64().map(|time| time as u64))
                .map(Some)
                .ok_or(TokenRefused::Malformed),
        };
        let expires = time("exp")?.ok_or(TokenRefused::Time)?;
        let begins = time("nbf")?.unwrap_or(0);
        if now >= expires.saturating_add(LEEWAY) || begins > now + LEEWAY {
            return Err(TokenRefused::Time);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let access = claims["access"].as_array().into_iter().flatten();
        let grants = access.map(|entry| Grant {
            kind: text(&entry["type"]),
            name: text(&entry["name"]),
            actions: entry["actions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect(),
        });
        Ok(Grants::Listed(grants.collect()))
    }
}

fn document(part: &str) -> Result<Value, TokenRefused> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenRefused::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenRefused::Malformed)
}

#[cfg(test)]
mod tests;
