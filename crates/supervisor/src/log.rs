//! The container's log: json lines, bounded and rotated.
//!
//! The form is that of Docker's json-file driver. A file that reaches its size is renamed
//! to `.1`, the one before it to `.2`, and so on; what would exceed the number is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::order::LogOrder;
use crate::protocol::Stream;

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    order: LogOrder,
    file: File,
    size: u64,
}

impl Log {
    /// Opens the log, or begins it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(order: &LogOrder) -> io::Result<Log> {
        let file = open(&order.path)?;
        let size = file.metadata()?.len();
        Ok(Log {
            order: order.clone(),
            file,
            size,
        })
    }

    /// Length of the present file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends whole lines that were already formed; all of them or, on an error, none.
    ///
    /// # Errors
    /// The kernel's, such as a full disk.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.size += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would make the rest of the file unreadable.
                let _ = self.file.set_len(self.size);
                Err(error)
            }
        }
    }

    /// Cuts the present file back to `size` bytes: what a writer that died had half written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&mut self, size: u64) -> io::Result<()> {
        if size < self.size {
            self.file.set_len(size)?;
            self.size = size;
        }
        Ok(())
    }

    /// Begins a new file if the present one has reached its size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rotate_if_full(&mut self) -> io::Result<()> {
        if self.order.max_size == 0 || self.size < self.order.max_size {
            return Ok(());
        }
        rotate(&self.order.path, self.order.max_files)?;
        self.file = open(&self.order.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // O_APPEND, as set_len after a failed write leaves the position behind the end.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(libc_nofollow())
        .open(path)
}

fn libc_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

/// Path of the `index`th older file.
#[must_use]
pub fn older(path: &Path, index: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

/// Renames from the oldest on, so that a death in between leaves a gap and loses nothing.
fn rotate(path: &Path, max_files: u32) -> io::Result<()> {
    if max_files <= 1 {
        return fs::remove_file(path);
    }
    // After a death in between there is a gap, and only what lies before it moves up.
    let gap = (1..max_files)
        .find(|&index| !older(path, index).exists())
        .unwrap_or(max_files - 1);
    for index in (1..gap).rev() {
        fs::rename(older(path, index), older(path, index + 1))?;
    }
    fs::rename(path, older(path, 1))
}

/// Forms the line of one entry.
pub fn format_entry(out: &mut Vec<u8>, stream: Stream, time: &str, text: &[u8]) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\",\"time\":\"",
    });
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// JSON's escapes; what is not UTF-8 becomes U+FFFD, as in Docker's log.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// RFC 3339 in UTC with nanoseconds, from nanoseconds since 1970.
#[must_use]
pub fn format_time(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let fraction = nanoseconds.rem_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Days to a date, counting years from March so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (nanoseconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_709_164_800_000_000_000, "2024-02-29T00:00:00.000000000Z"),
            (1_735_689_599_999_999_999, "2024-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(format_time(nanoseconds), expected);
        }
    }

    #[test]
    fn entries_are_json_whatever_the_bytes() {
        let mut line = Vec::new();
        format_entry(&mut line, Stream::Stdout, "T", b"a\"\\\x1b\xff\n");
        assert_eq!(
            line,
            "{\"log\":\"a\\\"\\\\\\u001b\u{fffd}\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n"
                .as_bytes()
        );
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["log"], "a\"\\\u{1b}\u{fffd}\n");
    }

    #[test]
    fn a_full_file_makes_room_and_the_number_is_kept() {
        let directory = std::env::temp_dir().join(format!("gantry-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("json.log");
        let mut log = Log::open(&LogOrder {
            path: path.clone(),
            max_size: 10,
            max_files: 3,
        })
        .unwrap();
        for round in 0..5 {
            log.append(format!("line number {round}\n").as_bytes())
                .unwrap();
            log.rotate_if_full().unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(
            fs::read_to_string(older(&path, 1)).unwrap(),
            "line number 4\n"
        );
        assert_eq!(
            fs::read_to_string(older(&path, 2)).unwrap(),
            "line number 3\n"
        );
        assert!(!older(&path, 3).exists());
        fs::remove_dir_all(&directory).unwrap();
    }
}
