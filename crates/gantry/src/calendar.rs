//! The proleptic Gregorian calendar, and times as people read them.

/// Seconds in a day.
const DAY: i64 = 86_400;

/// A date and a time of day, without a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: i64,
    /// Day of the month, from 1.
    pub day: i64,
    /// Hour, 0 to 23.
    pub hour: i64,
    /// Minute.
    pub minute: i64,
    /// Second.
    pub second: i64,
}

/// Seconds since 1970 of a date and time in UTC; `None` when it does not exist.
pub fn to_unix(civil: &Civil) -> Option<i64> {
    let valid = (1..=9999).contains(&civil.year)
        && (1..=12).contains(&civil.month)
        && (1..=month_length(civil.year, civil.month)).contains(&civil.day)
        && (0..24).contains(&civil.hour)
        && (0..60).contains(&civil.minute)
        && (0..60).contains(&civil.second);
    valid.then(|| {
        days_before_year(civil.year)
            .saturating_add(
                (1..civil.month)
                    .map(|month| month_length(civil.year, month))
                    .sum::<i64>(),
            )
            .saturating_add(civil.day - 1)
            .saturating_sub(days_before_year(1970))
            .saturating_mul(DAY)
            .saturating_add(civil.hour * 3600 + civil.minute * 60 + civil.second)
    })
}

/// Date and time in UTC of seconds since 1970.
pub fn from_unix(seconds: i64) -> Civil {
    let time = seconds.rem_euclid(DAY);
    let days = seconds
        .div_euclid(DAY)
        .clamp(-719_162, 2_932_896)
        .saturating_add(days_before_year(1970));
    // 400 years have 146097 days; the guess is never more than one year off.
    let mut year = days.saturating_mul(400) / 146_097 + 1;
    while days_before_year(year) > days {
        year -= 1;
    }
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_before_year(year);
    let mut month = 1;
    while day >= month_length(year, month) {
        day -= month_length(year, month);
        month += 1;
    }
    Civil {
        year,
        month,
        day: day + 1,
        hour: time / 3600,
        minute: time / 60 % 60,
        second: time % 60,
    }
}

/// Days from the first of January of the year 1 to that of `year`.
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2026-01-02 15:04:05 +0000 UTC`, the form that listings have always used.
pub fn listing(seconds: i64, zone: &dyn Fn(i64) -> (i64, String)) -> String {
    let (east, name) = zone(seconds);
    let civil = from_unix(seconds.saturating_add(east));
    let sign = if east < 0 { '-' } else { '+' };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} {sign}{:02}{:02} {name}",
        civil.year,
        civil.month,
        civil.day,
        civil.hour,
        civil.minute,
        civil.second,
        east.abs() / 3600,
        east.abs() / 60 % 60,
    )
}

/// How long something is, in words: `About a minute`, `3 hours`.
pub fn span(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours <= 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (951_782_400, "2000-02-29 00:00:00 +0000 UTC"),
            (1_767_366_245, "2026-01-02 15:04:05 +0000 UTC"),
            (-1, "1969-12-31 23:59:59 +0000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 +0000 UTC"),
        ] {
            assert_eq!(listing(seconds, &|_| (0, "UTC".to_owned())), text);
            assert_eq!(to_unix(&from_unix(seconds)), Some(seconds));
        }
        assert_eq!(
            listing(0, &|_| (-12_600, "X".to_owned())),
            "1969-12-31 20:30:00 -0330 X"
        );
        // No number may make it loop or overflow.
        from_unix(i64::MAX);
        from_unix(i64::MIN);
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in (0..146_097).step_by(1) {
            let seconds = day * DAY;
            assert_eq!(to_unix(&from_unix(seconds)), Some(seconds));
        }
    }

    #[test]
    fn spans() {
        const HOUR: i64 = 3600;
        for (seconds, text) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 1799, "About an hour"),
            (HOUR + 1800, "2 hours"),
            (3 * HOUR, "3 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * 24 * HOUR, "13 days"),
            (14 * 24 * HOUR, "2 weeks"),
            (59 * 24 * HOUR, "8 weeks"),
            (60 * 24 * HOUR, "2 months"),
            (729 * 24 * HOUR, "24 months"),
            (730 * 24 * HOUR, "2 years"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }
}
