//! `events`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use gantry_runtime::cgroup::{OomEvent, OomWatch, Statistics};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::list::print_json;
use super::options::Global;
use super::state::{self, Place, Status};

/// A line of output.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Statistics>,
}

/// `events`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut once = false;
    let mut interval = Duration::from_secs(5);
    while let Some(flag) = words.flag() {
        match flag.name() {
            "stats" => once = flag.switch()?,
            "interval" => {
                let text = words.value(flag)?;
                interval = duration(&text)
                    .filter(|value| !value.is_zero())
                    .ok_or_else(|| {
                        CliError::Usage(format!(
                            "duration interval must be greater than 0, such as 500ms, 5s or 1m30s, \
                         not {text:?}"
                        ))
                    })?;
            }
            _ => return Err(flag.unknown()),
        }
    }
    let id = words.id()?;
    words.end()?;
    events(global, &id, once, interval)
        .map_err(|error| error.during(format!("cannot follow container {id}")))
}

/// A duration in Go's form: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |length| end + length);
        let unit = match &rest[end..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += Duration::try_from_secs_f64(number * unit).ok()?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(sum)
}

fn events(global: &Global, id: &str, once: bool, interval: Duration) -> Result<(), CliError> {
    let place = Place::open(&global.root, id)?;
    let record = place.record()?;
    if place.status(&record) == Status::Stopped {
        return Err(CliError::NotRunning { id: id.to_owned() });
    }
    let process =
        state::process(&record).ok_or_else(|| CliError::NotRunning { id: id.to_owned() })?;
    let group = state::group(&record)?.ok_or_else(|| {
        CliError::Invalid(format!(
            "container {id} has no control group that would count for it"
        ))
    })?;
    let print_stats = || -> Result<(), CliError> {
        let event = Event {
            kind: "stats",
            id,
            data: Some(group.statistics()?),
        };
        print_json(&event, false)
    };
    if once {
        return print_stats();
    }
    // Without a memory controller there is nothing to be told.
    let mut watch = group.watch_oom().ok();
    let mut next = Instant::now() + interval;
    loop {
        let ended = wait(watch.as_ref(), &process, next)?;
        match watch.as_mut().map(OomWatch::read) {
            Some(Ok(OomEvent::OutOfMemory)) => {
                let event = Event {
                    kind: "oom",
                    id,
                    data: None,
                };
                print_json(&event, false)?;
            }
            Some(Ok(OomEvent::Ended) | Err(_)) => watch = None,
            Some(Ok(OomEvent::Nothing)) | None => {}
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            next += interval;
            print_stats()?;
        }
    }
}

/// Waits for the next thing to do; returns whether the container has ended.
fn wait(watch: Option<&OomWatch>, process: &OwnedFd, next: Instant) -> Result<bool, CliError> {
    let left = next.saturating_duration_since(Instant::now());
    let mut events = vec![PollFd::new(process, PollFlags::IN)];
    if let Some(watch) = watch {
        events.push(PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN));
    }
    let left = Timespec::try_from(left).ok();
    match poll(&mut events, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).step("cannot wait for events"),
    }
    Ok(!events[0].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("500ms", Some(500)),
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("0.5s", Some(500)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5x", None),
            ("-1s", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }
}
