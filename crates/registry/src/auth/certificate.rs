//! The public key of an X.509 certificate (RFC 5280, section 4.1), and the checks of a chain.
//!
//! Only as much DER as it takes to find the key; whether a certificate is to be trusted is decided
//! by rustls.

use std::sync::Arc;

use ring::digest;
use ring::signature::{self, UnparsedPublicKey};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa,
    P256,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) kind: KeyKind,
    /// As *ring* wants it: `RSAPublicKey`, or an uncompressed point.
    bytes: Vec<u8>,
    /// The name of the key as token services write it: the first 240 bits of the SHA-256 of its
    /// SubjectPublicKeyInfo in base32, in groups of four characters.
    pub(crate) id: String,
}

impl PublicKey {
    /// The key of a certificate; `None` if that is malformed or the key is neither RSA nor P-256.
    pub(crate) fn of_certificate(certificate: &[u8]) -> Option<Self> {
        let (body, _) = element(certificate, SEQUENCE)?;
        let (mut fields, _) = element(body, SEQUENCE)?;
        if let Some((_, rest)) = element(fields, VERSION) {
            fields = rest;
        }
        let (_, rest) = element(fields, INTEGER)?;
        // Signature algorithm, issuer, validity and subject.
        let rest = (0..4).try_fold(rest, |rest, _| Some(element(rest, SEQUENCE)?.1))?;
        let (info, after) = element(rest, SEQUENCE)?;
        let whole = &rest[..rest.len() - after.len()];
        let (algorithm, key) = element(info, SEQUENCE)?;
        let (key, _) = element(key, BIT_STRING)?;
        // Keys are whole bytes.
        let (0, key) = (*key.first()?, key.get(1..)?) else {
            return None;
        };
        let (object, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
        let kind = match object {
            RSA_ENCRYPTION => KeyKind::Rsa,
            EC_PUBLIC_KEY if element(parameters, OBJECT_IDENTIFIER)?.0 == PRIME256V1 => {
                KeyKind::P256
            }
            _ => return None,
        };
        Some(Self {
            kind,
            bytes: key.to_owned(),
            id: key_id(whole),
        })
    }

    /// Whether `signature` of `message` was made with this key's other half: PKCS #1 v1.5 with
    /// SHA-256 from 2048 bits on, or ECDSA with SHA-256 in the form that JWTs have it.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.kind {
            KeyKind::Rsa => &signature::RSA_PKCS1_2048_8192_SHA256,
            KeyKind::P256 => &signature::ECDSA_P256_SHA256_FIXED,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes)
            .verify(message, signature)
            .is_ok()
    }
}

fn key_id(info: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = digest::digest(&digest::SHA256, info);
    let (mut buffer, mut bits, mut id) = (0_u32, 0, String::new());
    for byte in &hash.as_ref()[..30] {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            if id.len() % 5 == 4 {
                id.push(':');
            }
            id.push(char::from(ALPHABET[(buffer >> bits & 31) as usize]));
        }
    }
    id
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// Context-specific tag 0, constructed.
const VERSION: u8 = 0xa0;

const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The content of the element with `tag` at the start of `bytes`, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    if *found != tag {
        return None;
    }
    let (first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(*first),
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let digits = rest.get(..count)?;
            rest = &rest[count..];
            digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        // Indefinite, or longer than any certificate.
        _ => return None,
    };
    Some((rest.get(..length)?, &rest[length..]))
}

/// Certificates that may sign tokens, or sign for certificates that do.
pub(crate) struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Bundle {
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            // What is no authority can still sign tokens by itself.
            let _ = roots.add(certificate.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Self {
            certificates,
            verifier: verifier.build().ok(),
        }
    }

    /// Whether the first of `chain` is in the bundle, or is vouched for by the others and one of
    /// the bundle, at the time of the check.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, others)) = chain.split_first() else {
            return false;
        };
        let listed = self
            .certificates
            .iter()
            .any(|certificate| certificate.as_ref() == first.as_ref());
        listed
            || self.verifier.as_ref().is_some_and(|verifier| {
                verifier
                    .verify_client_cert(first, others, UnixTime::now())
                    .is_ok()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_bounded() {
        assert_eq!(element(&[2, 1, 5, 9], 2), Some((&[5][..], &[9][..])));
        assert_eq!(element(&[2, 0x81, 1, 5], 2), Some((&[5][..], &[][..])));
        for bytes in [
            &[][..],
            &[2],
            &[3, 1, 5],
            &[2, 2, 5],
            &[2, 0x80, 5, 0, 0],
            &[2, 0x84, 0, 0, 0, 1, 5],
            &[2, 0x83, 0xff, 0xff, 0xff],
            &[2, 0x82, 1],
        ] {
            assert_eq!(element(bytes, 2), None, "{bytes:?}");
        }
        assert_eq!(
            PublicKey::of_certificate(&[0x30, 0x03, 0x30, 0x01, 0xa0]),
            None
        );
    }
}
