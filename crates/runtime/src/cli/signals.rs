//! Names and numbers of signals.

use super::error::CliError;

/// Numbers of x86-64 and most others, where the first 31 agree.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last signal for realtime use, as C libraries number them.
const REALTIME: (i32, i32) = (34, 64);

/// Reads a signal: a number, or a name with or without `SIG`.
///
/// # Errors
/// [`CliError::Usage`].
pub fn parse(text: &str) -> Result<i32, CliError> {
    let unknown = || CliError::Usage(format!("unknown signal {text:?}"));
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(number) if (0..=REALTIME.1).contains(&number) => Ok(number),
            _ => Err(unknown()),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|&known| known == name) {
        return Ok(index as i32 + 1);
    }
    let offset = |rest: &str, sign: char| -> Option<i32> {
        if rest.is_empty() {
            return Some(0);
        }
        rest.strip_prefix(sign)?.parse().ok().filter(|&n| n >= 0)
    };
    let number = match name {
        "CLD" => Some(17),
        "POLL" => Some(29),
        "IOT" => Some(6),
        "UNUSED" => Some(31),
        _ => {
            let from_first = name
                .strip_prefix("RTMIN")
                .and_then(|rest| offset(rest, '+'));
            let to_last = name
                .strip_prefix("RTMAX")
                .and_then(|rest| offset(rest, '-'));
            from_first
                .map(|offset| REALTIME.0 + offset)
                .or(to_last.map(|offset| REALTIME.1 - offset))
                .filter(|number| (REALTIME.0..=REALTIME.1).contains(number))
        }
    };
    number.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, number) in [
            ("9", 9),
            ("0", 0),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("usr1", 10),
            ("SIGSYS", 31),
            ("CHLD", 17),
            ("WINCH", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in [
            "",
            "65",
            "-1",
            "NONE",
            "RTMIN+31",
            "RTMAX+1",
            "99999999999",
            "SIG",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
