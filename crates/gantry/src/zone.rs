//! The local time zone, from `TZ` or `/etc/localtime`: static binaries on a host without a
//! C library's zone database still have these files.

use std::sync::OnceLock;

use crate::calendar;

/// Largest zone file read, in bytes; real ones have a few thousand.
const LARGEST: u64 = 1 << 20;

/// A zone: its changes in order, and the rule for the time after the last one.
#[derive(Debug, Default)]
struct Zone {
    changes: Vec<(i64, Offset)>,
    first: Option<Offset>,
    rule: Option<Rule>,
}

/// Seconds east of Greenwich and the name that goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offset {
    east: i64,
    name: String,
}

/// A POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    standard: Offset,
    summer: Option<(Offset, Turn, Turn)>,
}

/// When the clocks change: a day, and seconds after its midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    day: Day,
    time: i64,
}

/// A day of a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Day {
    /// Weekday (0 is Sunday) of a week (5 is the last) of a month.
    Week { month: i64, week: i64, weekday: i64 },
    /// 1 to 365; the 29th of February is never counted.
    Julian(i64),
    /// 0 to 365.
    Zero(i64),
}

fn local() -> &'static Zone {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(|| {
        let named = std::env::var("TZ").ok().filter(|name| !name.is_empty());
        let path = match named.as_deref().map(|name| name.trim_start_matches(':')) {
            None => "/etc/localtime".to_owned(),
            Some(name) if name.starts_with('/') => name.to_owned(),
            Some(name) if name.split('/').any(|part| part == "..") => String::new(),
            Some(name) => format!("/usr/share/zoneinfo/{name}"),
        };
        read(&path)
            .and_then(|bytes| Zone::parse(&bytes))
            .or_else(|| {
                let rule = Rule::parse(named.as_deref()?)?;
                Some(Zone {
                    rule: Some(rule),
                    ..Zone::default()
                })
            })
            .unwrap_or_default()
    })
}

fn read(path: &str) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// Seconds east of Greenwich and the zone's name at an instant.
pub fn at(seconds: i64) -> (i64, String) {
    let offset = local().at(seconds);
    (offset.east, offset.name)
}

/// Seconds east of Greenwich for a wall clock's seconds since 1970.
pub fn wall_offset(wall: i64) -> i64 {
    // The zone of the instant that the wall clock would name in UTC, corrected once: right
    // but for the hour around a change of the clocks.
    let (guess, _) = at(wall);
    at(wall.saturating_sub(guess)).0
}

impl Zone {
    fn at(&self, seconds: i64) -> Offset {
        let utc = || Offset {
            east: 0,
            name: "UTC".to_owned(),
        };
        let next = self.changes.partition_point(|(when, _)| *when <= seconds);
        if next == self.changes.len()
            && let Some(rule) = &self.rule
        {
            return rule.at(seconds);
        }
        match next.checked_sub(1) {
            Some(last) => self.changes[last].1.clone(),
            None => self.first.clone().unwrap_or_else(utc),
        }
    }

    /// A zone file (RFC 9636), version 2 or later.
    fn parse(bytes: &[u8]) -> Option<Zone> {
        let version_one = Header::parse(bytes)?;
        let bytes = bytes.get(version_one.length(4)?..)?;
        let header = Header::parse(bytes)?;
        let footer = bytes.get(header.length(8)?..)?;
        let mut data = bytes.get(Header::SIZE..)?;
        let times = take(&mut data, header.times.checked_mul(8)?)?;
        let kinds = take(&mut data, header.times)?;
        let records = take(&mut data, header.kinds.checked_mul(6)?)?;
        let names = take(&mut data, header.names)?;
        let offset = |kind: usize| -> Option<Offset> {
            let record = records.chunks_exact(6).nth(kind)?;
            let east = i32::from_be_bytes(record[..4].try_into().ok()?);
            let name = names.get(usize::from(record[5])..)?;
            let end = name.iter().position(|byte| *byte == 0)?;
            Some(Offset {
                east: i64::from(east),
                name: std::str::from_utf8(&name[..end]).ok()?.to_owned(),
            })
        };
        let changes = times
            .chunks_exact(8)
            .zip(kinds)
            .map(|(time, kind)| {
                let time = i64::from_be_bytes(time.try_into().ok()?);
                Some((time, offset(usize::from(*kind))?))
            })
            .collect::<Option<Vec<_>>>()?;
        let footer = footer.strip_prefix(b"\n")?;
        let end = footer.iter().position(|byte| *byte == b'\n')?;
        Some(Zone {
            changes,
            first: offset(0),
            rule: Rule::parse(std::str::from_utf8(&footer[..end]).ok()?),
        })
    }
}

/// The counts at the front of a zone file's block.
struct Header {
    is_utc: usize,
    is_standard: usize,
    leaps: usize,
    times: usize,
    kinds: usize,
    names: usize,
}

impl Header {
    const SIZE: usize = 44;

    fn parse(bytes: &[u8]) -> Option<Header> {
        let header = bytes.get(..Self::SIZE)?;
        let modern = header.starts_with(b"TZif") && header[4] >= b'2';
        let count = |index: usize| -> Option<usize> {
            let start = 20 + index * 4;
            let count = u32::from_be_bytes(header[start..start + 4].try_into().ok()?);
            usize::try_from(count).ok()
        };
        if !modern {
            return None;
        }
        Some(Header {
            is_utc: count(0)?,
            is_standard: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            kinds: count(4)?,
            names: count(5)?,
        })
    }

    /// Length of the header and its data, with times of `width` bytes.
    fn length(&self, width: usize) -> Option<usize> {
        let times = self.times.checked_mul(width + 1)?;
        let leaps = self.leaps.checked_mul(width + 4)?;
        [
            times,
            self.kinds.checked_mul(6)?,
            self.names,
            leaps,
            self.is_standard,
            self.is_utc,
        ]
        .into_iter()
        .try_fold(Self::SIZE, usize::checked_add)
    }
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(front)
}

impl Rule {
    fn parse(text: &str) -> Option<Rule> {
        let mut rest = text;
        let standard = Offset {
            name: name(&mut rest)?,
            east: -clock(&mut rest)?,
        };
        if rest.is_empty() {
            return Some(Rule {
                standard,
                summer: None,
            });
        }
        let summer_name = name(&mut rest)?;
        let east = if rest.starts_with(',') {
            standard.east + 3600
        } else {
            -clock(&mut rest)?
        };
        let (start, end) = rest.strip_prefix(',')?.split_once(',')?;
        let summer = Offset {
            name: summer_name,
            east,
        };
        Some(Rule {
            standard,
            summer: Some((summer, Turn::parse(start)?, Turn::parse(end)?)),
        })
    }

    fn at(&self, seconds: i64) -> Offset {
        let Some((summer, start, end)) = &self.summer else {
            return self.standard.clone();
        };
        let year = calendar::from_unix(seconds.saturating_add(self.standard.east)).year;
        // Each turn is told by the clock that is still valid when it comes.
        let start = start.in_year(year).saturating_sub(self.standard.east);
        let end = end.in_year(year).saturating_sub(summer.east);
        let is_summer = if start < end {
            (start..end).contains(&seconds)
        } else {
            !(end..start).contains(&seconds)
        };
        if is_summer {
            summer.clone()
        } else {
            self.standard.clone()
        }
    }
}

impl Turn {
    fn parse(text: &str) -> Option<Turn> {
        let (day, time) = text.split_once('/').unwrap_or((text, "2"));
        let mut rest = time;
        let time = clock(&mut rest)?;
        if !rest.is_empty() {
            return None;
        }
        let number = |text: &str, low: i64, high: i64| -> Option<i64> {
            text.parse()
                .ok()
                .filter(|number| (low..=high).contains(number))
        };
        let day = if let Some(day) = day.strip_prefix('M') {
            let mut parts = day.splitn(3, '.');
            Day::Week {
                month: number(parts.next()?, 1, 12)?,
                week: number(parts.next()?, 1, 5)?,
                weekday: number(parts.next()?, 0, 6)?,
            }
        } else if let Some(day) = day.strip_prefix('J') {
            Day::Julian(number(day, 1, 365)?)
        } else {
            Day::Zero(number(day, 0, 365)?)
        };
        Some(Turn { day, time })
    }

    /// The turn of a year, as a wall clock's seconds since 1970.
    fn in_year(self, year: i64) -> i64 {
        const DAY: i64 = 86_400;
        let date = |month, day| {
            let civil = calendar::Civil {
                year,
                month,
                day,
                hour: 0,
                minute: 0,
                second: 0,
            };
            calendar::to_unix(&civil)
        };
        let new_year = date(1, 1).unwrap_or_default();
        let midnight = match self.day {
            Day::Zero(day) => new_year + day * DAY,
            Day::Julian(day) => {
                let leap = i64::from(day >= 60 && date(2, 29).is_some());
                new_year + (day - 1 + leap) * DAY
            }
            Day::Week {
                month,
                week,
                weekday,
            } => {
                let first = date(month, 1).unwrap_or_default();
                // The first of January 1970 was a Thursday.
                let first_weekday = (first.div_euclid(DAY) + 4).rem_euclid(7);
                let mut day = 1 + (weekday - first_weekday).rem_euclid(7) + (week - 1) * 7;
                // The fifth week means the last one.
                while date(month, day).is_none() && day > 7 {
                    day -= 7;
                }
                date(month, day).unwrap_or(first)
            }
        };
        midnight + self.time
    }
}

/// Takes a zone's name: letters, or anything in angle brackets.
fn name(rest: &mut &str) -> Option<String> {
    if let Some(quoted) = rest.strip_prefix('<') {
        let (name, tail) = quoted.split_once('>')?;
        *rest = tail;
        return Some(name.to_owned());
    }
    let end = rest
        .find(|character: char| !character.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    *rest = tail;
    (name.len() >= 3).then(|| name.to_owned())
}

/// Takes `[+-]hours[:minutes[:seconds]]` as seconds.
fn clock(rest: &mut &str) -> Option<i64> {
    let (sign, text) = match rest.as_bytes().first()? {
        b'-' => (-1, &rest[1..]),
        b'+' => (1, &rest[1..]),
        _ => (1, *rest),
    };
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != ':')
        .unwrap_or(text.len());
    let (digits, tail) = text.split_at(end);
    let mut parts = digits.splitn(3, ':');
    let number = |text: &str| -> Option<i64> { text.parse().ok().filter(|number| *number <= 167) };
    let mut total = number(parts.next()?)? * 3600;
    for (part, scale) in parts.zip([60, 1]) {
        total += number(part)? * scale;
    }
    *rest = tail;
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, seconds: i64, east: i64, name: &str) {
        let offset = Rule::parse(rule).unwrap().at(seconds);
        assert_eq!(
            (offset.east, offset.name.as_str()),
            (east, name),
            "{rule} {seconds}"
        );
    }

    #[test]
    fn rules() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        check(berlin, 1_767_366_245, 3600, "CET");
        // 2026-03-29 01:00 UTC and 2026-10-25 01:00 UTC.
        check(berlin, 1_774_745_999, 3600, "CET");
        check(berlin, 1_774_746_000, 7200, "CEST");
        check(berlin, 1_792_889_999, 7200, "CEST");
        check(berlin, 1_792_890_000, 3600, "CET");
        // The south has its summer over the new year.
        let sydney = "AEST-10AEDT,M10.1.0,M4.1.0/3";
        check(sydney, 1_767_366_245, 39_600, "AEDT");
        check(sydney, 1_780_000_000, 36_000, "AEST");
        check("UTC0", 0, 0, "UTC");
        check("<+0530>-5:30", 0, 19_800, "+0530");
        check("EST5EDT,M3.2.0,M11.1.0", 1_767_366_245, -18_000, "EST");
        check("XXX0YYY,J60,300", 1_774_746_000, 3600, "YYY");
        for rule in [
            "",
            "A",
            "CET",
            "CET-",
            "CET-1CEST",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M10.5.0",
            "<X",
            "CET-1CEST,M3.5.0/x,J1",
        ] {
            assert_eq!(Rule::parse(rule), None, "{rule}");
        }
    }

    /// A zone file with one change and a rule.
    fn file() -> Vec<u8> {
        let header = |counts: [u32; 6]| {
            let mut bytes = b"TZif2".to_vec();
            bytes.resize(20, 0);
            for count in counts {
                bytes.extend(count.to_be_bytes());
            }
            bytes
        };
        let mut bytes = header([0; 6]);
        bytes.extend(header([0, 0, 0, 1, 2, 8]));
        bytes.extend(1_000_i64.to_be_bytes());
        bytes.push(1);
        bytes.extend([0, 0, 0, 0, 0, 0]);
        bytes.extend(3600_i32.to_be_bytes());
        bytes.extend([0, 4]);
        bytes.extend(b"LMT\0CET\0");
        bytes.extend(b"\nCET-1\n");
        bytes
    }

    #[test]
    fn files() {
        let zone = Zone::parse(&file()).unwrap();
        assert_eq!(zone.at(999).name, "LMT");
        assert_eq!(
            (zone.at(1000).east, zone.at(1000).name.as_str()),
            (3600, "CET")
        );
        assert_eq!(Zone::default().at(0).name, "UTC");
        // No cut and no wrong count may do harm.
        let whole = file();
        for length in 0..whole.len() {
            assert!(Zone::parse(&whole[..length]).is_none(), "{length}");
        }
        for index in 44 + 20..44 + 44 {
            let mut broken = whole.clone();
            broken[index] = 0xff;
            let _ = Zone::parse(&broken);
        }
    }
}
