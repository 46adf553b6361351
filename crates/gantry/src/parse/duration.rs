//! Durations in Go's notation.

use super::ParseError;

/// Nanoseconds from a duration such as `10m`, `1h30m`, `1.5s` or `-2h`; a bare `0` is one
/// as well.
///
/// # Errors
/// [`ParseError::Duration`].
pub fn nanoseconds(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Duration(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        total = scaled(number, scale)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(if negative { -total } else { total })
}

/// A decimal number times `scale`, without floating point.
fn scaled(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(scale)?;
    let mut digit_scale = scale;
    for digit in fraction.bytes() {
        digit_scale /= 10;
        total = total.checked_add(i64::from(digit - b'0').checked_mul(digit_scale)?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        const SECOND: i64 = 1_000_000_000;
        for (text, expected) in [
            ("0", 0),
            ("10m", 600 * SECOND),
            ("1h30m", 5400 * SECOND),
            ("1.5h", 5400 * SECOND),
            (".5s", SECOND / 2),
            ("300ms", 300_000_000),
            ("2µs", 2000),
            ("-1h", -3600 * SECOND),
            ("+1ns", 1),
            ("1h0m0s", 3600 * SECOND),
        ] {
            assert_eq!(nanoseconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "-",
            "10",
            "m",
            "1d",
            "1h 2m",
            "1..5s",
            ".s",
            "9999999999h",
            "1h2",
        ] {
            assert_eq!(
                nanoseconds(text),
                Err(ParseError::Duration(text.to_owned())),
                "{text}"
            );
        }
    }
}
