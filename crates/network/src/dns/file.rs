//! Small files of lines that are swapped whole: how they are framed, written and watched.
//!
//! The first line is the format's name and version, the last one `end`, so that a file that was cut
//! is never taken for a whole one.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, renameat, statx, unlinkat};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The longest file that is read: some ten thousand names.
const MAX_FILE: u64 = 4 << 20;
/// The last line.
const END: &str = "end";

/// A file of names or of settings that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Contents of another format or version, or cut.
    #[error("{} is not a whole file of the format \"{format}\"", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The first line that it should have.
        format: &'static str,
    },
    /// A word that cannot stand in such a file.
    #[error(
        "{word:?} is not a {what} of 1 to {limit} bytes without spaces, commas and control characters"
    )]
    Word {
        /// What it should be.
        what: &'static str,
        /// The word.
        word: String,
        /// The longest one.
        limit: usize,
    },
}

fn io(operation: &'static str, path: &Path, source: impl Into<std::io::Error>) -> FileError {
    FileError::Io {
        operation,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The longest name: one of 255 bytes in wire form (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// Checks a name before it is written.
pub(super) fn checked_name(name: &str) -> Result<&str, FileError> {
    let fits = |byte: u8| byte > b' ' && byte != 0x7f && byte != b',';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        Ok(name)
    } else {
        Err(FileError::Word {
            what: "name",
            word: name.to_owned(),
            limit: MAX_NAME,
        })
    }
}

/// Checks a path before it is written: it is the last thing in its line and may contain spaces.
pub(super) fn checked_path(path: &Path) -> Result<&str, FileError> {
    const MAX_PATH: usize = 4095;
    path.to_str()
        .filter(|text| (1..=MAX_PATH).contains(&text.len()) && !text.contains(char::is_control))
        .ok_or_else(|| FileError::Word {
            what: "path",
            word: path.to_string_lossy().into_owned(),
            limit: MAX_PATH,
        })
}

/// The lines between the first and the last, each with its first word apart; `None` unless the file
/// is whole.
pub(super) fn lines<'t>(
    text: &'t str,
    format: &str,
) -> Option<impl Iterator<Item = (&'t str, &'t str)>> {
    let body = text
        .strip_prefix(format)?
        .strip_prefix('\n')?
        .strip_suffix('\n')?
        .strip_suffix(END)?;
    if !body.is_empty() && !body.ends_with('\n') {
        return None;
    }
    Some(
        body.lines()
            .map(|line| line.split_once(' ').unwrap_or((line, ""))),
    )
}

/// Swaps the file `name` of `directory` for one of these lines, without their first and last.
///
/// It is not synchronised: it says what runs now, and is worth nothing after a restart.
pub(super) fn swap(
    directory: BorrowedFd<'_>,
    name: &str,
    format: &str,
    body: &str,
) -> Result<(), FileError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let temporary = format!(
        ".{name}.{}.{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let path = Path::new(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // Left over by a process of the same number that was killed.
    let _ = unlinkat(directory, &temporary, AtFlags::empty());
    // For a server that has given up root; who may come here the directory says.
    let fd = openat(directory, &temporary, flags, Mode::from_raw_mode(0o644))
        .map_err(|errno| io("create a successor of", path, errno))?;
    let written = write!(File::from(fd), "{format}\n{body}{END}\n")
        .map_err(|error| io("write", path, error))
        .and_then(|()| {
            renameat(directory, &temporary, directory, name)
                .map_err(|errno| io("replace", path, errno))
        });
    if written.is_err() {
        let _ = unlinkat(directory, &temporary, AtFlags::empty());
    }
    written
}

/// Reads the whole file `name` of `directory`.
pub(super) fn read(directory: BorrowedFd<'_>, name: &Path) -> Result<String, FileError> {
    read_with_identity(directory, name).map(|(text, _, _)| text)
}

/// What changes whenever a file is swapped or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
}

fn identity(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: AtFlags,
) -> Result<Option<Identity>, Errno> {
    let mask = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::MTIME;
    match retry_on_intr(|| statx(directory, path, flags, mask)) {
        Ok(status) => Ok(Some(Identity {
            device: (status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            size: status.stx_size,
            modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        })),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read_with_identity(
    directory: BorrowedFd<'_>,
    path: &Path,
) -> Result<(String, Option<Identity>, OwnedFd), FileError> {
    // NONBLOCK: a pipe in the file's place must not hold up every query.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = retry_on_intr(|| openat(directory, path, flags, Mode::empty()))
        .map_err(|errno| io("open", path, errno))?;
    // Before the reading: what is written meanwhile then shows as another change.
    let identity = identity(fd.as_fd(), Path::new(""), AtFlags::EMPTY_PATH)
        .map_err(|errno| io("inspect", path, errno))?;
    let mut file = File::from(fd);
    let size = identity.map_or(0, |identity| identity.size).min(MAX_FILE);
    let mut text = String::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    (&mut file)
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| io("read", path, error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(io("read", path, Errno::FBIG));
    }
    Ok((text, identity, OwnedFd::from(file)))
}

/// A file that is read again when it has changed, which is looked for with one `statx` whenever it
/// is needed: nothing runs in between.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    identity: Option<Identity>,
    /// Kept open so that no successor is given the same inode number.
    file: Option<OwnedFd>,
    value: Option<T>,
}

impl<T> Watched<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Watched {
            path,
            identity: None,
            file: None,
            value: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Reads the file if it is another one than last time; returns whether there is a new value.
    /// One that is gone has none, one that `parse` does not understand keeps the value before.
    pub(super) fn refresh(&mut self, parse: impl FnOnce(String) -> Option<T>) -> bool {
        match identity(CWD, &self.path, AtFlags::empty()) {
            Ok(Some(now)) if Some(now) == self.identity => false,
            Ok(Some(_)) => match read_with_identity(CWD, &self.path) {
                Ok((text, identity, file)) => {
                    self.identity = identity;
                    self.file = Some(file);
                    let value = parse(text);
                    let changed = value.is_some();
                    if changed {
                        self.value = value;
                    }
                    changed
                }
                Err(_) => false,
            },
            Ok(None) => {
                self.identity = None;
                self.file = None;
                self.value.take().is_some()
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_taken() {
        for (text, expected) in [
            ("x 1\nend\n", Some(0)),
            ("x 1\na\nb c d\nend\n", Some(2)),
            ("x 1\na\nb c d\n", None),
            ("x 1\na\nb c d\nen", None),
            ("x 1\nappend\n", None),
            ("x 2\nend\n", None),
            ("x 10\nend\n", None),
            ("", None),
            ("end\n", None),
        ] {
            assert_eq!(lines(text, "x 1").map(Iterator::count), expected, "{text}");
        }
        let all: Vec<_> = lines("x 1\na\nb c d\nend\n", "x 1").unwrap().collect();
        assert_eq!(all, [("a", ""), ("b", "c d")]);
    }

    #[test]
    fn words_that_would_break_a_line_are_refused() {
        for name in ["", "a b", "a,b", "a\nend", "\u{7f}", &"x".repeat(254)] {
            assert!(checked_name(name).is_err(), "{name:?}");
        }
        assert!(checked_name("web_1.example").is_ok());
        assert!(checked_path(Path::new("/run/a b")).is_ok());
        for path in ["", "/run/a\nb"] {
            assert!(checked_path(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
