//! Writing tar archives, the same bytes for the same entries.
//!
//! Headers are ustar; what they cannot hold goes into a PAX header: names over 100 bytes, owners
//! over 2,097,151, files of 8 GiB and more, fractions of seconds, times before 1970, and
//! extended attributes. Names are never split into ustar's prefix, so there is one way to write
//! each entry.

use std::io::{self, Write};

use crate::tar::{BLOCK, Entry, EntryKind, Timestamp};

/// Largest number that eleven octal digits hold.
const OCTAL_11: u64 = 0o777_7777_7777;
/// Largest number that seven octal digits hold.
const OCTAL_7: u64 = 0o777_7777;
/// Bytes of a name in a header.
const NAME: usize = 100;

/// A tar archive being written.
pub struct TarWriter<W: Write> {
    output: W,
    left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Writes an archive to `output`.
    pub fn new(output: W) -> Self {
        Self {
            output,
            left: 0,
            padding: 0,
        }
    }

    /// Begins an entry; of a file, [`Entry::size`] bytes have to follow through [`Write`].
    ///
    /// # Errors
    /// The output's. `InvalidInput` if the entry before lacks data.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_of_data()?;
        let records = pax_records(entry);
        if !records.is_empty() {
            let mut header = [0; BLOCK];
            name(&mut header, b"PaxHeaders/entry");
            fill(
                &mut header,
                b'x',
                0o644,
                (0, 0),
                records.len() as u64,
                0,
                (0, 0),
            );
            self.output.write_all(&header)?;
            self.output.write_all(&records)?;
            self.output
                .write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        let mut header = [0; BLOCK];
        name(&mut header, &entry.path);
        let link = &entry.link[..entry.link.len().min(NAME)];
        header[157..157 + link.len()].copy_from_slice(link);
        let size = if entry.kind == EntryKind::File {
            entry.size
        } else {
            0
        };
        let time = u64::try_from(entry.mtime.seconds).unwrap_or(0);
        fill(
            &mut header,
            type_flag(entry.kind),
            entry.mode & 0o7777,
            (entry.uid, entry.gid),
            size,
            time,
            entry.device,
        );
        self.output.write_all(&header)?;
        self.left = size;
        self.padding = padding(size);
        Ok(())
    }

    /// Writes a file that is in memory, owned by root, as of 1970.
    ///
    /// # Errors
    /// As [`TarWriter::entry`].
    pub fn document(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, bytes.len() as u64)?;
        self.write_all(bytes)
    }

    /// Begins a file owned by root, as of 1970; `size` bytes have to follow.
    ///
    /// # Errors
    /// As [`TarWriter::entry`].
    pub fn file(&mut self, path: &str, size: u64) -> io::Result<()> {
        self.entry(&plain(path, EntryKind::File, size))
    }

    /// Writes a directory owned by root, as of 1970. `path` ends with a slash.
    ///
    /// # Errors
    /// As [`TarWriter::entry`].
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(&plain(path, EntryKind::Directory, 0))
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// As [`TarWriter::entry`].
    pub fn finish(mut self) -> io::Result<W> {
        self.end_of_data()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn end_of_data(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file is shorter than its header says",
            ));
        }
        let padding = std::mem::take(&mut self.padding);
        self.output.write_all(&[0; BLOCK][..padding])
    }
}

impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = self.output.write(&bytes[..bytes.len().min(most)])?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// An entry without anything special.
fn plain(path: &str, kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        link: Vec::new(),
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        },
        uid: 0,
        gid: 0,
        size,
        mtime: Timestamp::default(),
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: false,
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharacterDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// A name that is too long is cut: the PAX header has it whole. What is left of it must not end
/// in a slash, by which some readers tell a directory.
fn name(header: &mut [u8; BLOCK], path: &[u8]) {
    let mut cut = &path[..path.len().min(NAME)];
    while cut.len() < path.len() && cut.ends_with(b"/") {
        cut = &cut[..cut.len() - 1];
    }
    header[..cut.len()].copy_from_slice(cut);
}

fn fill(
    header: &mut [u8; BLOCK],
    type_flag: u8,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    time: u64,
    device: (u32, u32),
) {
    let limited = |number: u64, limit: u64| if number > limit { 0 } else { number };
    octal(&mut header[100..108], u64::from(mode));
    octal(&mut header[108..116], limited(u64::from(owner.0), OCTAL_7));
    octal(&mut header[116..124], limited(u64::from(owner.1), OCTAL_7));
    octal(&mut header[124..136], limited(size, OCTAL_11));
    octal(&mut header[136..148], limited(time, OCTAL_11));
    header[148..156].copy_from_slice(b"        ");
    header[156] = type_flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut header[329..337], u64::from(device.0));
    octal(&mut header[337..345], u64::from(device.1));
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut header[148..155], sum);
    header[155] = b' ';
}

/// Writes octal digits and a zero byte that fill `field`.
fn octal(field: &mut [u8], mut number: u64) {
    let last = field.len() - 1;
    field[last] = 0;
    for digit in field[..last].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
}

fn pax_records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    if u64::from(entry.gid) > OCTAL_7 {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    if entry.link.len() > NAME {
        record(&mut records, b"linkpath", &entry.link);
    }
    let Timestamp {
        seconds,
        nanoseconds,
    } = entry.mtime;
    if nanoseconds != 0 || u64::try_from(seconds).is_err() || seconds as u64 > OCTAL_11 {
        record(&mut records, b"mtime", decimal_time(entry.mtime).as_bytes());
    }
    if entry.path.len() > NAME {
        record(&mut records, b"path", &entry.path);
    }
    if entry.kind == EntryKind::File && entry.size > OCTAL_11 {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if u64::from(entry.uid) > OCTAL_7 {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// `seconds.fraction`, rounded towards nothing: 1.5 s before 1970 is `-1.5`.
fn decimal_time(time: Timestamp) -> String {
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (seconds, fraction) = (
        total.unsigned_abs() / 1_000_000_000,
        total.unsigned_abs() % 1_000_000_000,
    );
    if fraction == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Reader;

    fn file(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            ..plain("", EntryKind::File, 0)
        }
    }

    /// What is written is what our own reader, which takes what GNU tar takes, reads.
    #[test]
    fn round_trip() {
        let long = [b"d/".repeat(60), b"x".to_vec()].concat();
        let entries = [
            file(b"a"),
            file(&long),
            Entry {
                uid: 3_000_000,
                gid: 4_000_000_000,
                ..file(b"owner")
            },
            Entry {
                mtime: Timestamp {
                    seconds: 12,
                    nanoseconds: 340_000_000,
                },
                mode: 0o4755,
                ..file(b"time")
            },
            Entry {
                mtime: Timestamp {
                    seconds: -2,
                    nanoseconds: 500_000_000,
                },
                ..file(b"before")
            },
            Entry {
                kind: EntryKind::Symlink,
                link: long.clone(),
                ..file(b"link")
            },
            Entry {
                kind: EntryKind::BlockDevice,
                device: (259, 70_000),
                ..file(b"device")
            },
            Entry {
                xattrs: vec![
                    (b"security.capability".to_vec(), vec![0, 1, b'\n', 255]),
                    (b"user.a".to_vec(), b"=".to_vec()),
                ],
                ..file(b"attributes")
            },
            Entry {
                size: 700,
                ..file(b"data")
            },
            Entry {
                kind: EntryKind::Directory,
                mode: 0o1777,
                ..file(&[b"0123456789".repeat(11), b"/".to_vec()].concat())
            },
        ];
        let mut writer = TarWriter::new(Vec::new());
        for entry in &entries {
            writer.entry(entry).unwrap();
            writer
                .write_all(&vec![7; usize::try_from(entry.size).unwrap()])
                .unwrap();
        }
        let archive = writer.finish().unwrap();
        let mut reader = Reader::new(&archive[..]);
        for entry in &entries {
            let found = reader.next_entry().unwrap().unwrap();
            assert_eq!(found, *entry, "{}", entry.path.escape_ascii());
            let mut length = 0;
            while let Some(chunk) = reader.next_chunk().unwrap() {
                length += chunk.bytes.len() as u64;
            }
            assert_eq!(length, entry.size);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let mut writer = TarWriter::new(Vec::new());
        writer
            .entry(&Entry {
                size: 1,
                ..file(b"a")
            })
            .unwrap();
        assert!(writer.finish().is_err());
    }
}
