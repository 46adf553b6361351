//! Reading logs.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use gantry_supervisor::log::older;
use gantry_supervisor::protocol::Stream;
use serde::Deserialize;

use crate::Engine;
use crate::error::Error;

/// What of a log to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// Go on with what is written until the container has ended.
    pub follow: bool,
    /// Not before this time, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Not after this time, in nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only so many entries from the end.
    pub tail: Option<u64>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct LogEntry<'a> {
    /// Which stream it came on.
    pub stream: Stream,
    /// When, as RFC 3339 in UTC with nanoseconds.
    pub time: String,
    /// The text, with its line end if it had one.
    pub line: &'a [u8],
}

#[derive(Deserialize)]
struct Record {
    log: String,
    stream: String,
    time: String,
}

/// How often a log that is followed is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

impl Engine {
    /// Reads a container's log and gives its entries to `sink` until that says false.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Path`].
    pub fn logs(
        &self,
        name: &str,
        options: &LogOptions,
        sink: &mut dyn FnMut(LogEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let id = self.known(name)?.id;
        let path = self.roots.log(&id);
        let mut files = open_all(&path)?;
        let skip = match options.tail {
            None => 0,
            Some(tail) => count(&mut files, &path)?.saturating_sub(tail),
        };
        let mut seen = 0;
        let mut current = None;
        for mut file in files {
            let mut reader = BufReader::new(&file);
            let mut line = Vec::new();
            while read_line(&mut reader, &mut line, &path)? {
                seen += 1;
                if seen > skip && !pass(&line, options, sink) {
                    return Ok(());
                }
            }
            if let Ok(position) = reader.stream_position() {
                let whole = position.saturating_sub(line.len() as u64);
                let _ = file.seek(SeekFrom::Start(whole));
            }
            current = Some(file);
        }
        if options.follow {
            self.follow_from(&id, &path, current, options, sink)
        } else {
            Ok(())
        }
    }

    fn follow_from(
        &self,
        id: &str,
        path: &Path,
        mut current: Option<File>,
        options: &LogOptions,
        sink: &mut dyn FnMut(LogEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let mut rest = Vec::new();
        let mut rotated = false;
        loop {
            // Asked before reading: what is written until the end is read after it.
            let running = self.is_running(id) || self.has_supervisor(id);
            if current.is_none() {
                current = open(path)?;
            }
            if let Some(file) = &current {
                let mut reader = BufReader::new(file);
                loop {
                    let mut line = std::mem::take(&mut rest);
                    if !read_line(&mut reader, &mut line, path)? {
                        rest = line;
                        break;
                    }
                    if !pass(&line, options, sink) {
                        return Ok(());
                    }
                }
                let named = std::fs::metadata(path).map(|metadata| metadata.ino()).ok();
                if named.is_some() && named != inode(file) {
                    // Only now nothing is written to this file any more: it is read once
                    // more, for what came between the last read and the rotation.
                    if !std::mem::replace(&mut rotated, true) {
                        continue;
                    }
                    if let Some(next) = next_file(path, inode(file))? {
                        current = Some(next);
                        rotated = false;
                        rest.clear();
                        continue;
                    }
                }
            }
            if !running
                || options
                    .until
                    .is_some_and(|until| gantry_supervisor::record::now() > until)
            {
                return Ok(());
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Every file of a log, the oldest first.
///
/// They are opened from the newest on: a rotation moves files towards the older names, so
/// that one may be met twice but none is missed.
fn open_all(path: &Path) -> Result<Vec<File>, Error> {
    let mut files: Vec<File> = open(path)?.into_iter().collect();
    each_older(path, |file| {
        if !files.iter().any(|known| inode(known) == inode(&file)) {
            files.push(file);
        }
        true
    })?;
    files.reverse();
    Ok(files)
}

/// The file that came after the one with this inode, or after the oldest one that is left:
/// several rotations may have happened since it was looked at.
fn next_file(path: &Path, last: Option<u64>) -> Result<Option<File>, Error> {
    let mut newer = open(path)?;
    each_older(path, |file| {
        let found = inode(&file) == last;
        if !found {
            newer = Some(file);
        }
        !found
    })?;
    Ok(newer)
}

/// Opens the older files of a log one after the other, until `visit` says false.
fn each_older(path: &Path, mut visit: impl FnMut(File) -> bool) -> Result<(), Error> {
    let mut missing = 0;
    for index in 1.. {
        match open(&older(path, index))? {
            Some(file) => {
                missing = 0;
                if !visit(file) {
                    break;
                }
            }
            // One is missing in the midst of a rotation, or after a death there.
            None if missing == 1 => break,
            None => missing += 1,
        }
    }
    Ok(())
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().map(|metadata| metadata.ino()).ok()
}

fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Path {
            action: "read log",
            path: path.into(),
            source,
        }),
    }
}

/// Reads up to the next line end into `line`; false where there is none yet.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, path: &Path) -> Result<bool, Error> {
    if line.ends_with(b"\n") {
        line.clear();
    }
    reader
        .read_until(b'\n', line)
        .map_err(|source| Error::Path {
            action: "read log",
            path: path.into(),
            source,
        })?;
    Ok(line.ends_with(b"\n"))
}

fn count(files: &mut [File], path: &Path) -> Result<u64, Error> {
    let mut lines = 0;
    for file in files {
        let mut reader = BufReader::new(&*file);
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line, path)? {
            lines += 1;
        }
        file.seek(SeekFrom::Start(0))
            .map_err(|source| Error::Path {
                action: "read log",
                path: path.into(),
                source,
            })?;
    }
    Ok(lines)
}

/// Gives an entry on, if it is asked for; false where nothing more is wanted.
fn pass(line: &[u8], options: &LogOptions, sink: &mut dyn FnMut(LogEntry<'_>) -> bool) -> bool {
    // A damaged line is left out, and does not hide the rest.
    let Ok(record) = serde_json::from_slice::<Record>(line) else {
        return true;
    };
    let stream = if record.stream == "stderr" {
        Stream::Stderr
    } else {
        Stream::Stdout
    };
    let wanted = match stream {
        Stream::Stdout => options.stdout,
        Stream::Stderr => options.stderr,
    };
    if options.since.is_some() || options.until.is_some() {
        let time = parse_time(&record.time).unwrap_or(0);
        if options.until.is_some_and(|until| time > until) {
            return false;
        }
        if options.since.is_some_and(|since| time < since) {
            return true;
        }
    }
    !wanted
        || sink(LogEntry {
            stream,
            time: record.time,
            line: record.log.as_bytes(),
        })
}

/// Nanoseconds since 1970 of a time as the log has it.
fn parse_time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once('T')?;
    let (clock, fraction) = rest
        .trim_end_matches('Z')
        .split_once('.')
        .unwrap_or((rest.trim_end_matches('Z'), "0"));
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Years counted from March, so that the leap day comes last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_went() {
        for nanoseconds in [
            0,
            951_782_400_000_000_001,
            1_709_164_800_123_456_789,
            1_735_689_599_999_999_999,
        ] {
            let text = gantry_supervisor::log::format_time(nanoseconds);
            assert_eq!(parse_time(&text), Some(nanoseconds), "{text}");
        }
    }
}
