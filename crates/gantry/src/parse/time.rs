//! Points in time: `--since` and `--until`.

use super::{ParseError, duration};
use crate::calendar::{self, Civil};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since 1970 from RFC 3339 (down to a bare date), seconds since 1970 with an
/// optional fraction, or a duration before `now`.
///
/// A time without a zone is taken in the local one: `offset` gives its seconds east of
/// Greenwich for a wall clock's seconds since 1970.
///
/// # Errors
/// [`ParseError::Time`].
pub fn instant(text: &str, now: i64, offset: &dyn Fn(i64) -> i64) -> Result<i64, ParseError> {
    let invalid = || ParseError::Time(text.to_owned());
    if text != "0"
        && let Ok(before) = duration::nanoseconds(text)
    {
        return now.checked_sub(before).ok_or_else(invalid);
    }
    if text.len() > 64 {
        return Err(invalid());
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return unix(text).ok_or_else(invalid);
    }
    rfc3339(text, offset).ok_or_else(invalid)
}

fn unix(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(SECOND)?
        .checked_add(nanoseconds(fraction)?)
}

/// Nanoseconds of the digits behind a decimal point.
fn nanoseconds(fraction: &str) -> Option<i64> {
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || fraction.len() > 9 {
        return None;
    }
    format!("{fraction:0<9}").parse().ok()
}

fn rfc3339(text: &str, offset: &dyn Fn(i64) -> i64) -> Option<i64> {
    let (date, rest) = match text.find(['T', 't']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        // A bare date may carry a zone: 2026-01-02Z.
        None => (text.strip_suffix('Z').unwrap_or(text), None),
    };
    let zone_at = rest.and_then(|rest| rest.find(['Z', 'z', '+', '-']));
    let (clock, zone) = match (rest, zone_at) {
        (Some(rest), Some(at)) => (&rest[..at], Some(&rest[at..])),
        (Some(rest), None) => (rest, None),
        (None, _) => ("00", text.ends_with('Z').then_some("Z")),
    };
    let mut date_parts = date.split('-');
    let year = digits(date_parts.next()?, 4)?;
    let month = digits(date_parts.next()?, 2)?;
    let day = digits(date_parts.next()?, 2)?;
    let mut clock_parts = clock.split(':');
    let hour = digits(clock_parts.next()?, 2)?;
    let minute = clock_parts.next().map_or(Some(0), |part| digits(part, 2))?;
    let (second, nanosecond) = match clock_parts.next() {
        None => (0, 0),
        Some(part) => match part.split_once('.') {
            Some((second, fraction)) => (digits(second, 2)?, nanoseconds(fraction)?),
            None => (digits(part, 2)?, 0),
        },
    };
    if date_parts.next().is_some() || clock_parts.next().is_some() {
        return None;
    }
    let local = calendar::to_unix(&Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
    })?;
    let east = match zone {
        Some("Z" | "z") => 0,
        Some(zone) => zone_offset(zone)?,
        None => offset(local),
    };
    (local - east).checked_mul(SECOND)?.checked_add(nanosecond)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let valid = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

/// Seconds east of Greenwich from `+01:00`.
fn zone_offset(zone: &str) -> Option<i64> {
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000 * SECOND;

    fn parse(text: &str) -> Result<i64, ParseError> {
        // One hour east of Greenwich.
        instant(text, NOW, &|_| 3600)
    }

    #[test]
    fn instants() {
        const BASE: i64 = 1_767_366_245; // 2026-01-02T15:04:05Z
        for (text, expected) in [
            ("2026-01-02T15:04:05Z", BASE * SECOND),
            ("2026-01-02T15:04:05.5Z", BASE * SECOND + SECOND / 2),
            (
                "2026-01-02T15:04:05.123456789Z",
                BASE * SECOND + 123_456_789,
            ),
            ("2026-01-02T16:04:05+01:00", BASE * SECOND),
            ("2026-01-02T14:34:05-00:30", BASE * SECOND),
            ("2026-01-02T16:04:05", BASE * SECOND),
            ("2026-01-02T16:04", (BASE - 5) * SECOND),
            ("2026-01-02T16", (BASE - 245) * SECOND),
            ("2026-01-02", (BASE - 15 * 3600 - 245 - 3600) * SECOND),
            ("2026-01-02Z", (BASE - 15 * 3600 - 245) * SECOND),
            ("1767366245", BASE * SECOND),
            ("1767366245.25", BASE * SECOND + SECOND / 4),
            ("0", 0),
            ("10m", NOW - 600 * SECOND),
            ("1h30m", NOW - 5400 * SECOND),
            ("-1h", NOW + 3600 * SECOND),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "foo",
            "2026",
            ".",
            "1.",
            "2026-13-01",
            "2026-02-30",
            "2026-01-02T25",
            "2026-01-02T15:60",
            "2026-01-02 15:04:05",
            "2026-01-02T15:04:05.1234567890Z",
            "2026-01-02T15:04:05+25:00",
            "2026-1-2",
            "2026-01-02T",
            "99999999999999999999",
            "2026-01-02T15:04:05:06",
            "20é6-01-02",
        ] {
            // "2026" is a number of seconds, as for Docker.
            if text == "2026" {
                assert_eq!(parse(text), Ok(2026 * SECOND));
            } else {
                assert_eq!(
                    parse(text),
                    Err(ParseError::Time(text.to_owned())),
                    "{text}"
                );
            }
        }
    }
}
