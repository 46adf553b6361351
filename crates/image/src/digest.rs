//! Content digests, as the OCI image specification 1.1 defines them (descriptor.md,
//! "Digests").
//!
//! A [`Digest`] can only be made from a string that passed the grammar, so it is safe to
//! put into a path or a URL (CVE-2014-9358, CVE-2024-3727). Only `sha256` is accepted;
//! `sha512`, the other registered algorithm, is recognised in order to be refused by name.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use sha2::Sha256;

/// A `sha256` digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a string is not a usable digest. The value in it is shortened to 160 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The string does not follow `algorithm ":" encoded`.
    #[error("invalid digest {value:?}: expected sha256: and 64 lower-case hexadecimal digits")]
    Malformed {
        /// The string as given.
        value: String,
    },
    /// The grammar is fine, the algorithm is not one that is verified here.
    #[error("unsupported digest algorithm {algorithm} in {value:?}: only sha256 is supported")]
    UnsupportedAlgorithm {
        /// The part before the colon.
        algorithm: String,
        /// The string as given.
        value: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 lower-case hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// The first 12 hexadecimal digits, as people see them.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// The digest whose 64 lower-case hexadecimal digits are `hex`.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }
}

/// Upper case is refused: two spellings of one digest would be two file names.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(value: &str) -> Result<Self, DigestError> {
        let shown = || value.chars().take(160).collect::<String>();
        let malformed = || DigestError::Malformed { value: shown() };
        let (algorithm, encoded) = value.split_once(':').ok_or_else(malformed)?;
        if algorithm == "sha256" {
            return Self::from_hex(encoded).ok_or_else(malformed);
        }
        let is_component = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
        };
        let is_encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-');
        let length_fits = algorithm != "sha512" || encoded.len() == 128;
        if algorithm.split(['+', '.', '_', '-']).all(is_component)
            && !encoded.is_empty()
            && encoded.bytes().all(is_encoded)
            && length_fits
        {
            return Err(DigestError::UnsupportedAlgorithm {
                algorithm: algorithm.chars().take(32).collect(),
                value: shown(),
            });
        }
        Err(malformed())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        value.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in the making, and the number of bytes that went into it.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: Sha256,
    length: u64,
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were added.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// A reader that hashes what passes through it.
pub struct Sha256Reader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Sha256Reader<R> {
    /// Hashes what is read from `inner` from here on.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
        }
    }

    /// The reader, the digest of what was read, and the number of bytes.
    pub fn finish(self) -> (R, Digest, u64) {
        let length = self.hasher.length();
        (self.inner, self.hasher.finish(), length)
    }
}

impl<R: Read> Read for Sha256Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A writer that hashes what was accepted by the writer below it.
pub struct Sha256Writer<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Sha256Writer<W> {
    /// Hashes what is written to `inner` from here on.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
        }
    }

    /// The writer, the digest of what was written, and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        let length = self.hasher.length();
        (self.inner, self.hasher.finish(), length)
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn round_trip() {
        let digest = Digest::of(b"");
        assert_eq!(digest.hex(), EMPTY);
        assert_eq!(digest.to_string(), format!("sha256:{EMPTY}"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
    }

    /// CVE-2014-9358, CVE-2024-3727: nothing but 64 lower-case digits becomes a digest.
    #[test]
    fn refuses_what_could_become_another_path() {
        let upper = format!("sha256:{}", EMPTY.to_uppercase());
        let long = format!("sha256:{EMPTY}0");
        let slash = format!("sha256:../{}", &EMPTY[3..]);
        let newline = format!("sha256:{EMPTY}\n");
        let nul = format!("sha256:{}\0", &EMPTY[1..]);
        let multibyte = format!("sha256:{}é", &EMPTY[2..]);
        let sha512_short = format!("sha512:{EMPTY}");
        for value in [
            "",
            ":",
            "sha256",
            "sha256:",
            EMPTY,
            "sha256:abc",
            "sha256:../../etc/passwd",
            "../x:y",
            "SHA256:aa",
            "sha256:sha256:aa",
            "a+:b",
            "md5:",
            "md5:a/b",
            &upper,
            &long,
            &slash,
            &newline,
            &nul,
            &multibyte,
            &sha512_short,
        ] {
            let result = value.parse::<Digest>();
            assert!(
                matches!(result, Err(DigestError::Malformed { .. })),
                "{value:?}: {result:?}"
            );
        }
    }

    #[test]
    fn names_the_unsupported_algorithm() {
        let sha512 = format!("sha512:{EMPTY}{EMPTY}");
        for value in [
            sha512.as_str(),
            "blake3:abc",
            "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
        ] {
            let error = value.parse::<Digest>().expect_err(value);
            assert!(
                matches!(error, DigestError::UnsupportedAlgorithm { .. }),
                "{error:?}"
            );
            assert!(
                error.to_string().contains(value.split(':').next().unwrap()),
                "{error}"
            );
        }
    }

    #[test]
    fn error_text_is_bounded() {
        let error = "x".repeat(1 << 20).parse::<Digest>().unwrap_err();
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn streams_hash_what_passed() {
        let mut reader = Sha256Reader::new(&b"hello world"[..]);
        let mut copy = Vec::new();
        reader.read_to_end(&mut copy).unwrap();
        let (_, digest, length) = reader.finish();
        assert_eq!((digest, length), (Digest::of(b"hello world"), 11));

        let mut writer = Sha256Writer::new(Vec::new());
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"world").unwrap();
        let (bytes, digest, length) = writer.finish();
        assert_eq!(
            (bytes.as_slice(), digest, length),
            (&b"hello world"[..], Digest::of(b"hello world"), 11)
        );
    }
}
