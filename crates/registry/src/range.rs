//! `Range` and `Content-Range`: pure functions of header values.

use crate::fault::Fault;

/// A part of a blob: first byte and length, both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: u64,
    pub(crate) length: u64,
}

/// What a `Range` header means for content of a certain length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// All of it: there is no range, or one that is not understood and therefore ignored
    /// (RFC 9110, section 14.2).
    Whole,
    /// One part.
    Part(Part),
    /// A part that lies outside.
    Unsatisfiable,
}

/// Reads `bytes=FIRST-LAST`, `bytes=FIRST-` and `bytes=-LENGTH` for content of `size` bytes.
/// Several ranges are answered with the whole, as the RFC allows.
pub(crate) fn requested(header: Option<&str>, size: u64) -> Requested {
    let Some(set) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Requested::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Requested::Whole;
    };
    if set.contains(',') {
        return Requested::Whole;
    }
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        // The last bytes.
        return match number(last) {
            Some(0) => Requested::Unsatisfiable,
            Some(_) if size == 0 => Requested::Unsatisfiable,
            Some(wanted) => {
                let length = wanted.min(size);
                Requested::Part(Part {
                    first: size - length,
                    length,
                })
            }
            None => Requested::Whole,
        };
    }
    let Some(first) = number(first) else {
        return Requested::Whole;
    };
    let last = match last {
        "" => u64::MAX,
        last => match number(last) {
            Some(last) if last >= first => last,
            _ => return Requested::Whole,
        },
    };
    if first >= size {
        return Requested::Unsatisfiable;
    }
    let last = last.min(size - 1);
    Requested::Part(Part {
        first,
        length: last - first + 1,
    })
}

/// Reads the `Content-Range` of a chunk: `FIRST-LAST` as the specification has it, or RFC 9110's
/// `bytes FIRST-LAST/SIZE`, which some clients send.
pub(crate) fn chunk(header: &str) -> Result<Part, Fault> {
    let malformed = || Fault::range_invalid("malformed Content-Range");
    let range = header.trim();
    let range = range.strip_prefix("bytes ").unwrap_or(range);
    let (range, total) = range.split_once('/').unwrap_or((range, "*"));
    let (first, last) = range.split_once('-').ok_or_else(malformed)?;
    let first = number(first).ok_or_else(malformed)?;
    let last = number(last).ok_or_else(malformed)?;
    if total != "*" && number(total).is_none_or(|total| total <= last) {
        return Err(malformed());
    }
    let length = last
        .checked_sub(first)
        .and_then(|length| length.checked_add(1));
    Ok(Part {
        first,
        length: length.ok_or_else(malformed)?,
    })
}

/// Digits only: `parse` would take a sign as well.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |first, length| Requested::Part(Part { first, length });
        for (header, size, expected) in [
            (None, 10, Requested::Whole),
            (Some("bytes=0-0"), 10, part(0, 1)),
            (Some("bytes=2-5"), 10, part(2, 4)),
            (Some("bytes=2-"), 10, part(2, 8)),
            (Some("bytes=2-99"), 10, part(2, 8)),
            (Some("bytes=-3"), 10, part(7, 3)),
            (Some("bytes=-99"), 10, part(0, 10)),
            (Some("bytes=-0"), 10, Requested::Unsatisfiable),
            (Some("bytes=10-"), 10, Requested::Unsatisfiable),
            (Some("bytes=0-"), 0, Requested::Unsatisfiable),
            (Some("bytes=-1"), 0, Requested::Unsatisfiable),
            (Some("bytes=5-2"), 10, Requested::Whole),
            (Some("bytes=0-1,3-4"), 10, Requested::Whole),
            (Some("items=0-1"), 10, Requested::Whole),
            (Some("bytes=+1-2"), 10, Requested::Whole),
            (Some("bytes=99999999999999999999-"), 10, Requested::Whole),
            (Some("bytes="), 10, Requested::Whole),
        ] {
            assert_eq!(requested(header, size), expected, "{header:?} of {size}");
        }
    }

    #[test]
    fn chunks() {
        for (header, expected) in [
            ("0-0", Some((0, 1))),
            ("5-9", Some((5, 5))),
            ("bytes 5-9/20", Some((5, 5))),
            ("bytes 5-9/*", Some((5, 5))),
            ("bytes 5-9/9", None),
            ("5-9/x", None),
            ("5-9/", None),
            ("0-18446744073709551615", None),
            ("9-5", None),
            ("-5", None),
            ("5-", None),
            ("-1-5", None),
            ("a-b", None),
            ("0x0-0x5", None),
            ("99999999999999999999-99999999999999999999", None),
            ("", None),
        ] {
            let found = chunk(header).ok().map(|part| (part.first, part.length));
            assert_eq!(found, expected, "{header}");
        }
    }
}
