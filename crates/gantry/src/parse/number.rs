//! Whole numbers, booleans and fractions of processors.

use super::ParseError;

/// A whole number within a range.
///
/// # Errors
/// [`ParseError::Integer`] and [`ParseError::Range`].
pub fn integer(text: &str, low: i64, high: i64) -> Result<i64, ParseError> {
    let number: i64 = text
        .parse()
        .map_err(|_| ParseError::Integer(text.to_owned()))?;
    if (low..=high).contains(&number) {
        Ok(number)
    } else {
        Err(ParseError::Range {
            value: text.to_owned(),
            low,
            high,
        })
    }
}

/// A boolean in the spellings that flags take: `--rm=false`.
///
/// # Errors
/// [`ParseError::Boolean`].
pub fn boolean(text: &str) -> Result<bool, ParseError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ParseError::Boolean(text.to_owned())),
    }
}

/// Billionths of a processor, from a decimal number of processors.
///
/// # Errors
/// [`ParseError::Processors`] and [`ParseError::TooPrecise`].
pub fn nano_cpus(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Processors(text.to_owned());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(invalid());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(ParseError::TooPrecise(text.to_owned()));
    }
    let whole: i64 = match whole {
        "" => 0,
        whole => whole.parse().map_err(|_| invalid())?,
    };
    // Padded on the right to nine digits, so that .5 counts as 500000000.
    let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|nanos| nanos.checked_add(fraction))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        for (text, expected) in [
            ("1", 1_000_000_000),
            ("1.5", 1_500_000_000),
            (".5", 500_000_000),
            ("1.", 1_000_000_000),
            ("0.000000001", 1),
            ("0.10000000000", 100_000_000),
            ("0", 0),
        ] {
            assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            ".",
            "x",
            "-1",
            " 1",
            "1e1",
            "1.x",
            "99999999999999999999",
        ] {
            assert_eq!(
                nano_cpus(text),
                Err(ParseError::Processors(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(
            nano_cpus("0.0000000001"),
            Err(ParseError::TooPrecise("0.0000000001".to_owned()))
        );
    }

    #[test]
    fn booleans() {
        assert_eq!(boolean("true"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
        assert!(boolean("").is_err());
    }

    #[test]
    fn integers() {
        assert_eq!(integer("-1", -1, 10), Ok(-1));
        assert!(matches!(
            integer("11", -1, 10),
            Err(ParseError::Range { .. })
        ));
        assert!(matches!(integer("1.0", 0, 9), Err(ParseError::Integer(_))));
        assert!(matches!(integer("", 0, 9), Err(ParseError::Integer(_))));
    }
}
