//! When a request is repeated, and how long that waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::http::header::{self, HeaderMap};

/// How requests are repeated after broken connections and the statuses 408, 429 and 5xx.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Requests after the first.
    pub retries: u32,
    /// Wait before the first retry; it triples each time, and each wait is between half and one
    /// and a half of that, so that many clients do not come back at one moment.
    pub delay: Duration,
    /// Longest wait. A server that asks for more gets no further request: the error says when it
    /// wants to be asked again.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 4,
            delay: Duration::from_millis(300),
            longest: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// Waits before the retry after `retries` others, at least as long as the server asked for.
    pub(super) fn pause(&self, retries: u32, asked: Duration) {
        std::thread::sleep(self.wait(retries, asked, random()));
    }

    /// `random` is anything in 0..=255.
    fn wait(&self, retries: u32, asked: Duration, random: u8) -> Duration {
        let backoff = self.delay.saturating_mul(3_u32.saturating_pow(retries));
        let jittered = backoff.saturating_mul(u32::from(random) + 128) / 256;
        asked.max(jittered).min(self.longest.max(asked))
    }
}

fn random() -> u8 {
    let mut byte = [128];
    // Without randomness the wait is the plain one.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    byte[0]
}

/// Whether the same request may get another status a moment later.
pub(super) fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long a server asks to be left alone, by `Retry-After` (RFC 9110, section 10.2.3), or by
/// the rate limit of Docker Hub and the IETF draft: where nothing remains, until the reset, or
/// else the whole window. `None` without any of them.
pub(super) fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(value) = text(header::RETRY_AFTER.as_str()) {
        return match value.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let at = UNIX_EPOCH + Duration::from_secs(parse_date(value)?);
                Some(at.duration_since(now).unwrap_or_default())
            }
        };
    }
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let remaining = text("ratelimit-remaining")?;
    let (left, window) = match remaining.split_once(";w=") {
        Some((left, window)) => (number(left)?, number(window)),
        None => (number(remaining)?, None),
    };
    if left > 0 {
        return None;
    }
    text("ratelimit-reset")
        .and_then(number)
        .or(window)
        .map(Duration::from_secs)
}

/// Seconds since 1970 of an IMF-fixdate such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110,
/// section 5.6.7); the two obsolete forms are not read.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    if words.next() != Some("GMT")
        || !(1970..10_000).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days of the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn waits_grow_and_vary() {
        let policy = RetryPolicy {
            retries: 9,
            delay: Duration::from_millis(100),
            longest: Duration::from_secs(2),
        };
        for (retries, asked, random, expected) in [
            (0, 0, 128, 100),
            (0, 0, 0, 50),
            (1, 0, 128, 300),
            (2, 0, 255, 1346),
            (9, 0, 128, 2000),
            (u32::MAX, 0, 255, 2000),
            (0, 1000, 128, 1000),
        ] {
            assert_eq!(
                policy
                    .wait(retries, Duration::from_millis(asked), random)
                    .as_millis(),
                expected
            );
        }
    }

    #[test]
    fn servers_say_how_long() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (list, expected) in [
            (vec![], None),
            (vec![("retry-after", "7")], Some(7)),
            (vec![("retry-after", " 0 ")], Some(0)),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "soon")], None),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")],
                Some(60),
            ),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT")],
                Some(0),
            ),
            (vec![("retry-after", "Sun, 99 Nov 1994 08:49:00 GMT")], None),
            (vec![("ratelimit-remaining", "0;w=21600")], Some(21_600)),
            (
                vec![
                    ("ratelimit-remaining", "0;w=21600"),
                    ("ratelimit-reset", "12"),
                ],
                Some(12),
            ),
            (vec![("ratelimit-remaining", "3;w=21600")], None),
            (vec![("ratelimit-remaining", "0")], None),
            (
                vec![("ratelimit-remaining", "0;w=21600"), ("retry-after", "2")],
                Some(2),
            ),
        ] {
            let found = asked_wait(&headers(&list), now);
            assert_eq!(found, expected.map(Duration::from_secs), "{list:?}");
        }
    }

    #[test]
    fn dates() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov 99999 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("", None),
        ] {
            assert_eq!(parse_date(text), expected, "{text}");
        }
    }
}
