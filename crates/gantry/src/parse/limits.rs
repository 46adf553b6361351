//! Resource limits, kernel parameters and log options.

use super::{ParseError, number, size};
use crate::api::config::Ulimit;

/// Names of `RLIMIT_` resources, lower case.
const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One `--ulimit`: `NAME=SOFT[:HARD]`, -1 meaning unlimited.
///
/// # Errors
/// [`ParseError::Ulimit`], [`ParseError::UlimitName`], [`ParseError::UlimitOrder`] and
/// those of numbers.
pub fn ulimit(text: &str) -> Result<Ulimit, ParseError> {
    let invalid = || ParseError::Ulimit(text.to_owned());
    let (name, limits) = super::split_pair(text, '=').ok_or_else(invalid)?;
    if !NAMES.contains(&name) {
        return Err(ParseError::UlimitName(name.to_owned()));
    }
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => return Err(invalid()),
        Some((soft, hard)) => (limit(soft)?, limit(hard)?),
        None => (limit(limits)?, limit(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(ParseError::UlimitOrder { soft, hard });
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

fn limit(text: &str) -> Result<i64, ParseError> {
    number::integer(text, -1, i64::MAX)
}

/// One `--sysctl`: `KEY=VALUE`.
///
/// # Errors
/// [`ParseError::KeyValue`].
pub fn sysctl(text: &str) -> Result<(String, String), ParseError> {
    let (key, value) =
        super::split_pair(text, '=').ok_or_else(|| ParseError::KeyValue(text.to_owned()))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// One `--log-opt`: `max-size=SIZE` or `max-file=COUNT`.
///
/// # Errors
/// [`ParseError::KeyValue`], [`ParseError::Key`] and those of the values.
pub fn log_option(text: &str) -> Result<(String, String), ParseError> {
    let (key, value) =
        super::split_pair(text, '=').ok_or_else(|| ParseError::KeyValue(text.to_owned()))?;
    match key {
        "max-size" => {
            size::bytes_or_unlimited(value)?;
        }
        "max-file" => {
            number::integer(value, 1, 100_000)?;
        }
        // Rotated files are never compressed yet, which is what these two settings say.
        "compress" | "mode" if matches!(value, "false" | "blocking") => {}
        _ => {
            return Err(ParseError::Key {
                key: key.to_owned(),
                field: text.to_owned(),
            });
        }
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        for (text, name, soft, hard) in [
            ("nofile=1024", "nofile", 1024, 1024),
            ("nofile=10:20", "nofile", 10, 20),
            ("core=-1", "core", -1, -1),
            ("nproc=5:-1", "nproc", 5, -1),
        ] {
            let expected = Ulimit {
                name: name.to_owned(),
                soft,
                hard,
            };
            assert_eq!(ulimit(text), Ok(expected), "{text}");
        }
        for text in ["nofile", "=5", "nofile=5:6:7"] {
            assert!(matches!(ulimit(text), Err(ParseError::Ulimit(_))), "{text}");
        }
        assert!(matches!(ulimit("foo=1"), Err(ParseError::UlimitName(_))));
        for text in ["nofile=5:3", "nofile=-1:5"] {
            assert!(
                matches!(ulimit(text), Err(ParseError::UlimitOrder { .. })),
                "{text}"
            );
        }
        assert!(matches!(ulimit("nofile=x"), Err(ParseError::Integer(_))));
        assert!(matches!(ulimit("nofile=-2"), Err(ParseError::Range { .. })));
    }

    #[test]
    fn log_options() {
        assert!(log_option("max-size=10m").is_ok());
        assert!(log_option("max-file=3").is_ok());
        for text in [
            "max-size",
            "max-size=x",
            "max-file=0",
            "foo=1",
            "compress=true",
        ] {
            assert!(log_option(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sysctls() {
        assert_eq!(
            sysctl("net.core.somaxconn=1 2"),
            Ok(("net.core.somaxconn".into(), "1 2".into()))
        );
        assert!(sysctl("a").is_err());
        assert!(sysctl("=a").is_err());
    }
}
