//! `logs`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgMatches, Command};

use super::Context;
use super::flags::{is_on, names, owned, parsed, switch, text, value, with_help};
use crate::api::{LogOptions, Stream};
use crate::error::{CliError, Outcome};
use crate::output::{self, BROKEN_PIPE};
use crate::parse::{number, time};
use crate::zone;

/// Collected before it is written, in bytes, when nobody waits for single lines.
const BATCH: usize = 64 << 10;

/// Arguments of `logs`.
pub fn arguments(command: Command) -> Command {
    with_help(command)
        .args([
            switch("follow", "Follow log output").short('f'),
            value("since", "string", "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
            value("until", "string", "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"),
            value("tail", "string", "Number of lines to show from the end of the logs (default \"all\")").short('n'),
            switch("timestamps", "Show timestamps").short('t'),
        ])
        .arg(names("names", 1).num_args(1))
}

/// `logs`: prints what a container wrote, each stream to its own.
///
/// # Errors
/// Those of the flags and of the engine.
pub fn execute(context: &Context, matches: &ArgMatches) -> Outcome {
    let name = owned(matches, "names").concat();
    let timestamps = is_on(matches, "timestamps")?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let instant = |name| {
        parsed(matches, name, |text| {
            time::instant(text, now, &zone::wall_offset)
        })
    };
    let options = LogOptions {
        follow: is_on(matches, "follow")?,
        since: instant("since")?,
        until: instant("until")?,
        tail: tail(text(matches, "tail"))?,
        stdout: true,
        stderr: true,
    };
    let mut printer = Printer {
        stream: Stream::Stdout,
        pending: Vec::new(),
        batch: if options.follow { 0 } else { BATCH },
        failed: None,
    };
    let engine = context.engine()?;
    engine.logs(&name, &options, &mut |entry| {
        let time = timestamps.then_some(entry.time.as_str());
        printer.print(entry.stream, time, entry.line)
    })?;
    printer.flush();
    match printer.failed {
        None => Ok(0),
        Some(rustix::io::Errno::PIPE) => Ok(BROKEN_PIPE),
        Some(error) => Err(CliError::System {
            action: "cannot write the logs",
            source: error.into(),
        }),
    }
}

/// The number of lines of `--tail`; `None` for all.
fn tail(given: Option<&str>) -> Result<Option<u64>, CliError> {
    match given {
        None | Some("all" | "") => Ok(None),
        Some(count) => match number::integer(count, i64::MIN, i64::MAX) {
            // A negative number has always meant all of them.
            Ok(count) => Ok(u64::try_from(count).ok()),
            Err(source) => Err(CliError::Flag {
                flag: "tail",
                value: count.to_owned(),
                source,
            }),
        },
    }
}

/// Writes lines in their order, many at a time where that is possible.
struct Printer {
    stream: Stream,
    pending: Vec<u8>,
    batch: usize,
    failed: Option<rustix::io::Errno>,
}

impl Printer {
    fn print(&mut self, stream: Stream, time: Option<&str>, line: &[u8]) -> bool {
        if stream != self.stream {
            self.flush();
            self.stream = stream;
        }
        if let Some(time) = time {
            self.pending.extend_from_slice(time.as_bytes());
            self.pending.push(b' ');
        }
        self.pending.extend_from_slice(line);
        if self.pending.len() >= self.batch {
            self.flush();
        }
        self.failed.is_none()
    }

    fn flush(&mut self) {
        let fd = match self.stream {
            Stream::Stdout => rustix::stdio::stdout(),
            Stream::Stderr => rustix::stdio::stderr(),
        };
        if self.failed.is_none() {
            self.failed = output::write_all(fd, &self.pending).err();
        }
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        for (given, expected) in [
            (None, None),
            (Some("all"), None),
            (Some("-1"), None),
            (Some("0"), Some(0)),
            (Some("10"), Some(10)),
        ] {
            assert_eq!(tail(given).unwrap(), expected);
        }
        assert!(tail(Some("x")).is_err());
    }
}
