//! Decompression of layers, told by content and not by name: media types are often wrong.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

/// Largest zstd window in powers of two: 128 MiB, what `zstd --ultra --long=27` needs. Frames can
/// ask for 2 GiB and more, which would be allocated for a few bytes of input.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, possibly several members.
    Gzip,
    /// RFC 8878, possibly several frames.
    Zstd,
    /// Recognised, but not supported.
    Unsupported(&'static str),
}

/// Tells the compression from the first bytes of a stream.
pub(crate) fn detect(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        // The second is a skippable frame, which zstd:chunked and seekable files may begin with.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Compression::Unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Unsupported("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Unsupported("lz4"),
        _ => Compression::None,
    }
}

/// A stream with its compression taken off.
pub(crate) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    /// Detects the compression of `reader`, whose first buffer must hold at least six bytes if
    /// the stream has that many.
    pub(crate) fn detect(mut reader: R) -> io::Result<Result<Self, &'static str>> {
        match detect(reader.fill_buf()?) {
            Compression::None => Ok(Ok(Self::Plain(reader))),
            Compression::Gzip => Ok(Ok(Self::Gzip(Box::new(MultiGzDecoder::new(reader))))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(Ok(Self::Zstd(Box::new(decoder))))
            }
            Compression::Unsupported(name) => Ok(Err(name)),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use flate2::write::GzEncoder;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        Decoder::detect(bytes)?
            .expect("supported")
            .read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    #[test]
    fn every_format_and_several_members() {
        let zstd = zstd::encode_all(&b"hello"[..], 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        let table: [(&[u8], &[u8]); 7] = [
            (b"", b""),
            (b"plain", b"plain"),
            (&gzip(b"hello"), b"hello"),
            (&[gzip(b"hel"), gzip(b""), gzip(b"lo")].concat(), b"hello"),
            (&zstd, b"hello"),
            (&[zstd.clone(), zstd.clone()].concat(), b"hellohello"),
            (&skippable, b"hello"),
        ];
        for (compressed, expected) in table {
            assert_eq!(decode(compressed).unwrap(), expected, "{compressed:x?}");
        }
    }

    /// CVE-2021-20291 and kin: damaged streams end in an error, every one of their prefixes too.
    #[test]
    fn damage_is_an_error() {
        let zstd = zstd::encode_all(&b"hello hello hello"[..], 3).unwrap();
        for whole in [gzip(b"hello hello hello"), zstd] {
            for length in 6..whole.len() {
                assert!(decode(&whole[..length]).is_err(), "{length} of {whole:x?}");
            }
            assert!(
                decode(&[&whole[..], b"garbage"].concat()).is_err(),
                "trailing garbage"
            );
        }
    }

    /// A frame that asks for a window of 2 GiB is refused before anything is allocated for it.
    #[test]
    fn zstd_window_is_limited() {
        // Magic, a frame header descriptor without content size, a window of 2^31, an empty block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
        let error = decode(&frame).unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("memory"),
            "{error}"
        );
        let fits = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
        assert_eq!(decode(&fits).unwrap(), b"");
    }

    #[test]
    fn names_what_is_not_supported() {
        for (start, name) in [
            (&b"\xfd7zXZ\0"[..], "xz"),
            (b"BZh9", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ] {
            assert!(matches!(Decoder::detect(start), Ok(Err(found)) if found == name));
        }
    }
}
