//! Sizes in bytes, in powers of 1024.

use super::ParseError;

/// Bytes from a whole number with an optional unit: `b`, `k`, `m`, `g`, `t` or `p`, in
/// either case, alone or as `kb` or `kib`.
///
/// # Errors
/// [`ParseError::Size`] and [`ParseError::FractionalSize`].
pub fn bytes(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Size(text.to_owned());
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if let Some(rest) = unit.strip_prefix('.')
        && rest.starts_with(|character: char| character.is_ascii_digit())
    {
        return Err(ParseError::FractionalSize(text.to_owned()));
    }
    let number: i64 = digits.parse().map_err(|_| invalid())?;
    let shift = match unit
        .strip_prefix(' ')
        .unwrap_or(unit)
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(invalid()),
    };
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

/// As [`bytes`], but -1 for 'unlimited' is allowed as well.
///
/// # Errors
/// As [`bytes`].
pub fn bytes_or_unlimited(text: &str) -> Result<i64, ParseError> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1),
            ("10b", 10),
            ("1k", 1024),
            ("1K", 1024),
            ("1kb", 1024),
            ("1KiB", 1024),
            ("1 g", 1 << 30),
            ("512m", 512 << 20),
            ("2g", 2 << 30),
            ("3t", 3 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "b",
            "-1",
            "1x",
            "1  g",
            "k1",
            "9999p",
            "99999999999999999999",
            "1.b",
            "1e3",
        ] {
            assert_eq!(
                bytes(text),
                Err(ParseError::Size(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(
            bytes("1.5g"),
            Err(ParseError::FractionalSize("1.5g".to_owned()))
        );
    }

    #[test]
    fn unlimited() {
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert_eq!(bytes_or_unlimited("1k"), Ok(1024));
        assert!(bytes_or_unlimited("-2").is_err());
    }
}
